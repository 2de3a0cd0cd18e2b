//! Every kind of sink with a receiver of its kind: unreachable, misconfigured, overloaded and reachable again. In
//! each case the final state of every alarm must arrive.

use std::process::Command;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::support::{
    Agent, HttpReceiver, MailReceiver, Request, Rsyslog, Trapd, address, test_document, udp_port, wait_for,
};

/// Returns path and document of a test to b that has no sender: it goes down when its startup grace of 1 s ends.
fn dead(n: u8) -> (String, String) {
    let to = format!("{}:{}", address(), udp_port("127.0.0.1"));
    (format!("tests/b/{n}.json"), test_document(n, ("a", "127.0.0.2:0"), ("b", &to), r#","hold_down":"200ms""#))
}

/// Makes b itself the sender of the test, so that the test comes up and its alarm is cleared.
fn mend(agent: &Agent, (path, document): &(String, String)) {
    agent.document(path, &document.replacen("\"from_host\":\"a\"", "\"from_host\":\"b\"", 1));
}

fn agent(test: &(String, String), sink: &str, files: &[(&str, &str)]) -> Agent {
    Agent::with_files("b", &[(test.0.as_str(), test.1.clone())], sink, files)
}

fn sink(agent: &Agent, name: &str) -> Option<serde_json::Value> {
    agent.status()["sinks"].as_array()?.iter().find(|sink| sink["name"] == name).cloned()
}

fn wait_error(agent: &Agent, name: &str, text: &str) {
    wait_for(&format!("{name} to fail with: {text}"), || {
        sink(agent, name)?["last_error"].as_str()?.contains(text).then_some(())
    });
}

/// Runs `peerpair`, and returns its exit code and everything that it printed.
fn peerpair(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_peerpair")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap(), text)
}

const V3: &str = "version = \"v3\"\nuser = \"joe\"\nauth_protocol = \"sha256\"\nauth_password_file = \"auth\"\n\
                  privacy_protocol = \"aes128\"\nprivacy_password_file = \"privacy\"\n\
                  engine_id = \"0x8000c44f0462\"\n";
const PASSWORDS: [(&str, &str); 2] = [("auth", "authpass12345\n"), ("privacy", "privpass12345\n")];
/// Engine ID configured for these agents, so that a receiver can be configured with it before they start.
const ENGINE_B: &str = "0x8000c44f0462";

/// Returns `keys` without the lines that begin with `prefix`.
fn without(prefix: &str, keys: &str) -> String {
    keys.split_inclusive('\n').filter(|line| !line.starts_with(prefix)).collect()
}

/// Without a configured engine ID, agents derive it from the machine ID, so that two hosts of the same name have
/// different ones.
#[test]
fn check_config_prints_the_engine_id_that_a_receiver_needs() {
    let mut trapd = Trapd::start();
    let test = dead(1);
    let agent = agent(&test, &format!("{}{}", trapd.sink("standard"), without("engine_id", V3)), &PASSWORDS);
    agent.wait_condition(1, "receiver", "down");
    let (code, text) = peerpair(&["check-config", "--config", agent.path("peerpair.toml").to_str().unwrap()]);
    let engine = text.split("engine id ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    assert!(code == 0 && engine.starts_with("8000c44f05") && engine.len() == 10 + 24, "{code} {text}");
    let user = "joe SHA-256 authpass12345 AES privpass12345";
    trapd.configure(&format!("createUser -e 0x{engine} {user}\nauthUser log joe priv\n"));
    mend(&agent, &test);
    trapd.wait_trap("ConnectionUp", 0);
}

/// The first trap from an engine that snmptrapd has never seen must be accepted. A restart of the agent increases its
/// engine boots, and the next trap must be accepted too.
#[test]
fn v3_traps_are_accepted_from_a_new_engine_and_after_restart() {
    let levels = [
        ("SHA-256", "AES", "priv", V3.to_owned()),
        ("SHA", "AES-256", "priv", V3.replace("sha256", "sha1").replace("aes128", "aes256")),
        ("SHA-512", "AES-256", "priv", V3.replace("sha256", "sha512").replace("aes128", "aes256")),
        ("SHA-512", "AES", "auth", without("privacy", &V3.replace("sha256", "sha512"))),
        ("SHA-256", "AES", "noauth", without("privacy", &without("auth", V3))),
    ];
    for (hash, cipher, level, keys) in levels {
        let user = match level {
            "noauth" => "joe".to_owned(),
            _ => format!("joe {hash} authpass12345 {cipher} privpass12345"),
        };
        let trapd = Trapd::with(&format!("createUser -e {ENGINE_B} {user}\nauthUser log joe {level}\n"));
        let test = dead(1);
        let mut agent = agent(&test, &format!("{}{keys}", trapd.sink("standard")), &PASSWORDS);
        trapd.wait_trap("coldStart", 0);
        trapd.wait_trap("ConnectionDown", 0);
        agent.kill();
        agent.restart();
        trapd.wait_trap("coldStart", 1);
        // Traps are not acknowledged, so the raise is sent again after the restart.
        trapd.wait_trap("ConnectionDown", 1);
        mend(&agent, &test);
        trapd.wait_trap("ConnectionUp", 0);
    }
}

/// An inform that is not acknowledged stays pending, so that no notification is lost while the receiver is
/// unreachable.
#[test]
fn informs_stay_pending_while_the_receiver_is_unreachable() {
    let v2c = ("authCommunity log public\n", String::new());
    let v3 = ("createUser joe SHA-256 authpass12345 AES privpass12345\nauthUser log joe priv\n", V3.to_owned());
    for (configuration, keys) in [v2c, v3] {
        let mut trapd = Trapd::with(configuration);
        let test = dead(1);
        let inform = format!("{}mode = \"inform\"\ntimeout = \"300ms\"\nretries = 1\n{keys}", trapd.sink("standard"));
        let agent = agent(&test, &inform, &PASSWORDS);
        trapd.wait_trap("ConnectionDown", 0);
        wait_for("the acknowledgement", || {
            let sink = sink(&agent, "noc")?;
            (sink["notified"] == 1 && sink["pending"] == 0 && sink["last_error"].is_null()).then_some(())
        });
        trapd.kill();
        mend(&agent, &test);
        wait_for("the sink to notice", || sink(&agent, "noc")?["last_error"].is_string().then_some(()));
        // The restarted snmptrapd has another engine ID, since it did not save the previous one.
        trapd.restart();
        trapd.wait_trap("ConnectionUp", 0);
        wait_for("the acknowledgement", || (sink(&agent, "noc")?["pending"] == 0).then_some(()));
        // An acknowledged inform is never sent again.
        assert_eq!(trapd.notifications(&["ConnectionDown"]).len(), 1);
    }
}

#[test]
fn refused_inform_reports_its_reason_and_is_sent_after_correction() {
    let mut trapd = Trapd::with("createUser joe SHA-256 authpass12345 AES privpass12345\nauthUser log joe priv\n");
    let test = dead(1);
    let inform = format!("{}mode = \"inform\"\ntimeout = \"300ms\"\nretries = 1\n{V3}", trapd.sink("standard"));
    let wrong = [("auth", "another password"), PASSWORDS[1]];
    let agent = agent(&test, &inform, &wrong);
    wait_error(&agent, "noc", "the authentication is wrong: check auth_protocol and the auth password");
    agent.file("auth", "short");
    wait_error(&agent, "noc", "the auth password is shorter than 8 octets");
    std::fs::remove_file(agent.path("auth")).unwrap();
    wait_error(&agent, "noc", "No such file");
    agent.file("auth", PASSWORDS[0].1);
    agent.file("privacy", "another password");
    wait_error(&agent, "noc", "check the privacy password");
    agent.file("privacy", PASSWORDS[1].1);
    trapd.wait_trap("ConnectionDown", 0);
    let log = agent.log();
    for secret in ["authpass12345", "privpass12345", "another password"] {
        assert!(!log.contains(secret) && !agent.status().to_string().contains(secret), "{secret} is shown");
    }
    trapd.kill();
}

#[test]
fn test_notification_reports_whether_it_was_acknowledged() {
    let trapd = Trapd::with(&format!(
        "authCommunity log public\ncreateUser joe SHA-256 authpass12345 AES privpass12345\nauthUser log joe priv\n\
         createUser -e {ENGINE_B} joe SHA-256 authpass12345 AES privpass12345\n"
    ));
    let test = dead(1);
    let (target, away) = (format!("127.0.0.1:{}", trapd.port()), udp_port("127.0.0.1"));
    let sinks = format!(
        "[[sink]]\nname = \"v2c\"\nkind = \"snmp\"\ntarget = \"{target}\"\n\
         [[sink]]\nname = \"v3-trap\"\nkind = \"snmp\"\ntarget = \"{target}\"\n{V3}\
         [[sink]]\nname = \"v3-inform\"\nkind = \"snmp\"\nmode = \"inform\"\ntarget = \"{target}\"\n{V3}\
         [[sink]]\nname = \"away\"\nkind = \"snmp\"\nmode = \"inform\"\ntarget = \"127.0.0.1:{away}\"\n\
         [[sink]]\nname = \"program\"\nkind = \"exec\"\ncommand = [\"/bin/cat\"]\n"
    );
    let agent = agent(&test, &sinks, &PASSWORDS);
    let file = agent.path("peerpair.toml");
    let send = |sink: &str| peerpair(&["send-test-notification", "--sink", sink, "--config", file.to_str().unwrap()]);
    for (n, (sink, code, said)) in [
        ("v2c", 0, "which has no acknowledgement"),
        ("v3-trap", 0, "which has no acknowledgement"),
        ("v3-inform", 0, ", and acknowledged"),
    ]
    .into_iter()
    .enumerate()
    {
        let (exit, text) = send(sink);
        assert!(exit == code && text.contains(said), "{sink}: {exit} {text}");
        let trap = trapd.wait_trap("TestNotification", n);
        assert_eq!(trap.value("peerpairText.0"), "a test notification of peerpair: nothing is wrong");
    }
    let (exit, text) = send("away");
    assert!(exit == 1 && text.contains("not delivered") && text.contains("no receiver listens there"), "{text}");
    let (exit, text) = send("program");
    assert!(exit == 0 && text.contains("and acknowledged"), "{text}");
    let (exit, text) = send("nobody");
    assert!(exit == 1 && text.contains("there is no sink `nobody`; there are: console, v2c,"), "{text}");
    // The agent's own traps must still be accepted: the command must not make its engine time appear outdated.
    for name in ["ConnectionDown", "ConnectionUp"] {
        wait_for("word by all three", || (trapd.notifications(&[name]).len() >= 3).then_some(()));
        mend(&agent, &test);
    }
}

/// Returns the latest alert for the connection of test 1 in these requests.
fn newest(requests: &[Request], of: impl Fn(&Request) -> Vec<serde_json::Value>) -> Option<serde_json::Value> {
    let mut alerts = requests.iter().flat_map(of);
    alerts.rfind(|alert| alert["labels"]["alertname"] == "PeerpairConnection")
}

/// The final state of an alarm arrives, although Alertmanager answered 503, 429 and 500 before.
#[test]
fn alertmanager_gets_the_final_state_after_outages() {
    let receiver = HttpReceiver::start();
    receiver.answer(503, "Retry-After: 1\r\n");
    let test = dead(1);
    let agent =
        agent(&test, &format!("[[sink]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"{}\"\n", receiver.url()), &[]);
    wait_error(&agent, "am", "HTTP status 503");
    receiver.answer(429, "Retry-After: 1\r\n");
    wait_error(&agent, "am", "HTTP status 429");
    receiver.answer(200, "");
    let alerts = |request: &Request| request.json().as_array().cloned().unwrap_or_default();
    let alert = wait_for("the alert", || newest(&receiver.taken(), alerts));
    assert_eq!(receiver.taken()[0].line, "POST /api/v2/alerts HTTP/1.1");
    let labels = serde_json::json!({
        "alertname": "PeerpairConnection", "agent": "b", "kind": "connection", "severity": "critical",
        "test": super::support::id(1), "from": "a", "to": "b",
    });
    assert_eq!(alert["labels"], labels);
    assert_eq!(alert["annotations"]["summary"], "a → b: connection DOWN, test 1");
    let began = alert["startsAt"].clone();
    assert!(alert["endsAt"].is_null() && began.is_string(), "{alert}");

    receiver.answer(500, "");
    mend(&agent, &test);
    wait_error(&agent, "am", "HTTP status 500");
    receiver.answer(200, "");
    let over = wait_for("the end", || {
        newest(&receiver.taken(), alerts).filter(|alert| alert["annotations"]["state"] == "cleared")
    });
    assert_eq!((&over["labels"], &over["startsAt"]), (&labels, &began));
    let ended: std::time::SystemTime = humantime::parse_rfc3339(over["endsAt"].as_str().unwrap()).unwrap();
    assert!(ended <= std::time::SystemTime::now());
}

#[test]
fn webhook_is_signed_and_gets_the_final_state_after_outages() {
    let receiver = HttpReceiver::start();
    receiver.answer(503, "");
    let test = dead(1);
    let config = format!(
        "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{}/hook?key=hidden\"\nsecret_file = \"hook-secret\"\n\
         token_file = \"token\"\n",
        receiver.url()
    );
    let agent = agent(&test, &config, &[("hook-secret", "shared secret\n"), ("token", "bearer-token")]);
    wait_error(&agent, "hook", "HTTP status 503");
    receiver.answer(200, "");
    let alerts = |request: &Request| request.json()["alerts"].as_array().cloned().unwrap_or_default();
    wait_for("the alert", || newest(&receiver.taken(), alerts).filter(|alert| alert["status"] == "firing"));
    mend(&agent, &test);
    wait_for("its end", || newest(&receiver.taken(), alerts).filter(|alert| alert["status"] == "resolved"));
    for request in receiver.requests() {
        assert_eq!(request.line, "POST /hook?key=hidden HTTP/1.1");
        assert_eq!(request.headers["authorization"], "Bearer bearer-token");
        let code = Hmac::<Sha256>::new_from_slice(b"shared secret").unwrap().chain_update(&request.body);
        let code: String = code.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(request.headers["x-peerpair-signature"], format!("sha256={code}"));
        let message = request.json();
        assert_eq!((message["version"].as_str(), message["receiver"].as_str()), (Some("4"), Some("hook")));
        assert_eq!(message["commonLabels"]["agent"], "b");
    }
    let shown = agent.log() + &agent.status().to_string();
    for secret in ["hidden", "shared secret", "bearer-token"] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

/// A receiver that is unreachable must not delay the notifications to other receivers.
#[test]
fn unreachable_receiver_does_not_delay_other_receivers() {
    let (receiver, away) = (HttpReceiver::start(), udp_port("127.0.0.1"));
    let test = dead(1);
    let sinks = format!(
        "[[sink]]\nname = \"away\"\nkind = \"snmp\"\nmode = \"inform\"\ntarget = \"127.0.0.1:{away}\"\n\
         [[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{}\"\n",
        receiver.url()
    );
    let agent = agent(&test, &sinks, &[]);
    wait_error(&agent, "away", "no receiver listens there");
    wait_for("the other's alarm", || receiver.taken().first().cloned());
}

#[test]
fn syslog_is_sent_over_udp_tcp_and_tls() {
    let rsyslog = Rsyslog::start();
    for (n, transport, port) in [(1, "udp", rsyslog.udp), (2, "tcp", rsyslog.tcp), (3, "tls", rsyslog.tls)] {
        let test = dead(n);
        let ca = if transport == "tls" {
            format!("ca_file = \"{}\"\n", rsyslog.certificate().display())
        } else {
            String::new()
        };
        let config = format!(
            "[[sink]]\nname = \"log-host\"\nkind = \"syslog\"\ntarget = \"127.0.0.1:{port}\"\ntransport = \"{transport}\"\n{ca}"
        );
        let agent = agent(&test, &config, &[]);
        let find = |what: &str, text: &str| {
            wait_for(&format!("{what} over {transport}"), || {
                rsyslog.messages().into_iter().find(|line| line.contains(text) && line.contains(&format!("test {n}")))
            })
        };
        let down = find("the alarm", "connection DOWN");
        assert!(down.starts_with("daemon.alert|b|peerpair|connection|[alarm resource=\"test "), "{down}");
        assert!(
            down.contains(
                "probableCause=\"lossOfSignal\" perceivedSeverity=\"critical\" eventType=\"communicationsAlarm\"]"
            ),
            "{down}"
        );
        assert!(down.contains("[peerpair@50255 agent=\"b\" kind=\"connection\" state=\"raised\""), "{down}");
        mend(&agent, &test);
        let up = find("its end", "connection UP");
        assert!(up.starts_with("daemon.notice|b|") && up.contains("perceivedSeverity=\"cleared\""), "{up}");
    }
}

/// Older log collectors require a newline after each message, and a facility of their own.
#[test]
fn syslog_supports_lf_framing_and_a_configured_facility() {
    let rsyslog = Rsyslog::start();
    let config = format!(
        "[[sink]]\nname = \"log-host\"\nkind = \"syslog\"\ntarget = \"127.0.0.1:{}\"\ntransport = \"tcp\"\n\
         framing = \"lf\"\nfacility = \"local3\"\n",
        rsyslog.tcp
    );
    let test = dead(1);
    let agent = agent(&test, &config, &[]);
    let find = |text: &str| {
        wait_for(text, || rsyslog.messages().into_iter().find(|line| line.contains(text) && line.contains("test 1")))
    };
    assert!(find("connection DOWN").starts_with("local3.alert|b|peerpair|connection|"));
    mend(&agent, &test);
    assert!(find("connection UP").starts_with("local3.notice|b|"));
}

#[test]
fn webhook_uses_proxy_password_and_source_address() {
    let proxy = HttpReceiver::start();
    let config = format!(
        "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://receiver.invalid/hook\"\nproxy = \"{}\"\n\
         user = \"joe\"\npassword_file = \"password\"\nsource = \"127.0.0.9\"\n",
        proxy.url()
    );
    let agent = agent(&dead(1), &config, &[("password", "open sesame\n")]);
    let request = wait_for("the alarm", || proxy.taken().first().cloned());
    assert_eq!(request.line, "POST http://receiver.invalid/hook HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Basic am9lOm9wZW4gc2VzYW1l");
    assert_eq!(request.peer, "127.0.0.9");
    assert!(!(agent.log() + &agent.status().to_string()).contains("sesame"));
}

/// An empty `proxy` of a sink means no proxy, also where the environment names one.
#[test]
fn webhook_uses_the_proxy_of_the_environment_unless_its_own_is_empty() {
    let (proxy, direct) = (HttpReceiver::start(), HttpReceiver::start());
    let config = format!(
        "[[sink]]\nname = \"far\"\nkind = \"webhook\"\nurl = \"http://receiver.invalid/hook\"\n\
         [[sink]]\nname = \"near\"\nkind = \"webhook\"\nurl = \"{}/hook\"\nproxy = \"\"\n",
        direct.url()
    );
    let (path, document) = dead(1);
    let _agent = Agent::with_environment("b", &[(&path, document)], &config, ("http_proxy", &proxy.url()));
    let lines = |receiver: &HttpReceiver| receiver.taken().into_iter().map(|request| request.line).next();
    assert_eq!(wait_for("the proxy's request", || lines(&proxy)), "POST http://receiver.invalid/hook HTTP/1.1");
    assert_eq!(wait_for("the direct request", || lines(&direct)), "POST /hook HTTP/1.1");
    assert!(proxy.taken().iter().all(|request| request.line.contains("receiver.invalid")));
}

#[test]
fn traps_are_sent_from_the_configured_source_address() {
    let manager = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    manager.set_read_timeout(Some(super::support::DEADLINE)).unwrap();
    let target = manager.local_addr().unwrap();
    let config = format!("[[sink]]\nname = \"noc\"\nkind = \"snmp\"\ntarget = \"{target}\"\nsource = \"127.0.0.9\"\n");
    let _agent = agent(&dead(1), &config, &[]);
    let (_, from) = manager.recv_from(&mut [0; 2000]).unwrap();
    assert_eq!(from.ip().to_string(), "127.0.0.9");
}

#[test]
fn clear_mail_references_the_thread_of_its_raise() {
    let receiver = MailReceiver::start();
    let test = dead(1);
    let config = format!(
        "[[sink]]\nname = \"mail\"\nkind = \"email\"\ntarget = \"127.0.0.1:{}\"\ntransport = \"tcp\"\n\
         from = \"peerpair@example.org\"\nto = [\"noc@example.org\", \"me@example.org\"]\n",
        receiver.port()
    );
    let agent = agent(&test, &config, &[]);
    let field = |mail: &str, name: &str| {
        let line = mail.lines().find(|line| line.starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {mail}")).to_owned()
    };
    let down = wait_for("a mail", || receiver.mails().first().cloned());
    assert_eq!(field(&down, "Subject"), "Subject: [peerpair b] a =?utf-8?b?4oaS?= b: connection DOWN, test 1");
    assert_eq!(field(&down, "Auto-Submitted"), "Auto-Submitted: auto-generated");
    assert!(down.contains("no probe since the test began here, expected every 200ms"), "{down}");
    mend(&agent, &test);
    let up = wait_for("another", || receiver.mails().get(1).cloned());
    assert_eq!(field(&up, "Subject"), "Subject: [peerpair b] b =?utf-8?b?4oaS?= b: connection UP, test 1");
    assert_eq!(field(&up, "References"), field(&down, "References"));
    assert_ne!(field(&up, "Message-ID"), field(&down, "Message-ID"));
}

/// The program gets JSON on its standard input, is run without a shell, and is killed after the timeout.
#[test]
fn exec_sink_reports_failure_and_timeout_and_then_delivers() {
    use std::os::unix::fs::PermissionsExt as _;
    let test = dead(1);
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("page");
    std::fs::write(&program, "#!/bin/sh\ntest -e \"$1.broken\" && { echo no pager >&2; exit 3; }\ntest -e \"$1.hangs\" && exec sleep 60\ncat >> \"$1\"\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let out = directory.path().join("out; rm -rf $HOME");
    let config = format!(
        "[[sink]]\nname = \"pager\"\nkind = \"exec\"\ncommand = [\"{}\", \"{}\"]\ntimeout = \"1s\"\n",
        program.display(),
        out.display()
    );
    std::fs::write(directory.path().join("out; rm -rf $HOME.broken"), "").unwrap();
    let agent = agent(&test, &config, &[]);
    wait_error(&agent, "pager", "exit status: 3: no pager");
    std::fs::write(directory.path().join("out; rm -rf $HOME.hangs"), "").unwrap();
    std::fs::remove_file(directory.path().join("out; rm -rf $HOME.broken")).unwrap();
    wait_error(&agent, "pager", "did not end within 1s");
    std::fs::remove_file(directory.path().join("out; rm -rf $HOME.hangs")).unwrap();
    let alarms = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // Clears from the agent's first start may precede the alarm.
    let down = wait_for("the alarm", || alarms().into_iter().find(|alarm| alarm["state"] == "raised"));
    assert_eq!(down["kind"], "connection");
    assert_eq!(down["test"]["description"], "test 1");
    mend(&agent, &test);
    let ended = |alarm: &serde_json::Value| alarm["state"] == "cleared" && alarm["kind"] == "connection";
    wait_for("its end", || alarms().pop().filter(ended));
}
