//! Suppression of notifications and the alarm API: groups, storms, silences, maintenance and planned stops. In each
//! case the receivers must finally have the true state of every alarm.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use super::support::{Agent, Trap, Trapd, address, alone, http, http_as, id, stays, test_document, udp_port, wait_for};

fn dead(n: u8, to: &str) -> (String, String) {
    (format!("tests/b/{n}.json"), test_document(n, ("a", "127.0.0.2:0"), ("b", to), r#","hold_down":"200ms""#))
}

fn destination() -> String {
    let addr = address();
    format!("{addr}:{}", udp_port(&addr))
}

fn files(documents: &[(String, String)]) -> Vec<(&str, String)> {
    documents.iter().map(|(path, text)| (path.as_str(), text.clone())).collect()
}

/// Starts an agent without tests, and waits until no notification is pending and no alarm is unconfirmed.
fn settled(settings: &str, sink: &str) -> Agent {
    let agent = Agent::with_dir("b", &[("config.json", settings.to_owned())], sink);
    agent.wait_status("nothing to tell", |status| {
        let read = status["store"]["connected"] == true;
        (read && status["sinks"].as_array()?.iter().all(|sink| sink["pending"] == 0)).then_some(())
    });
    agent
}

/// Four tests from one host go down together: one notification names the host, and another reports the clear.
#[test]
fn host_with_all_tests_down_causes_one_group_trap() {
    let trapd = Trapd::start();
    let to = destination();
    let documents: Vec<_> = (1..=4).map(|n| dead(n, &to)).collect();
    let settings = r#"{"alarm":{"group_wait":"1s","hold_down":"200ms"}}"#;
    let agent = settled(settings, &trapd.sink("standard"));
    documents.iter().for_each(|(path, document)| agent.document(path, document));
    let trap = trapd.wait_trap("GroupDown", 0);
    assert_eq!(trap.value("peerpairSubject.0"), "host a");
    assert_eq!((trap.value("peerpairMembersDown.0"), trap.value("peerpairMembersTotal.0")), ("4", "4"));
    assert!(trap.value("peerpairText.0").starts_with("all 4 tests from host a went down together"), "{trap:?}");
    for (path, document) in &documents {
        agent.document(path, &document.replacen("\"from_host\":\"a\"", "\"from_host\":\"b\"", 1));
    }
    trapd.wait_trap("GroupUp", 0);
    wait_for("all up", || agent.status()["alarms"].as_array()?.is_empty().then_some(()));
    assert_eq!(trapd.notifications(&["ConnectionDown", "ConnectionUp"]), [""; 0]);
    assert_eq!(agent.logged("alarm raised"), 1);
}

fn silence(agent: &Agent, arguments: &[&str]) -> (i32, String) {
    let file = agent.path("peerpair.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_peerpair"))
        .arg("silence")
        .args(arguments)
        .args(["--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap(), text)
}

/// A silence suppresses raises, also across a restart, but never a clear; when it expires, alarms that are still
/// raised are notified.
#[test]
fn silence_suppresses_raises_but_not_clears() {
    let trapd = Trapd::start();
    let documents = [dead(1, &destination()), dead(2, &destination())];
    let later = documents[1].1.replace("\"startup_grace\":\"1s\"", "\"startup_grace\":\"3s\"");
    let files = [(documents[0].0.as_str(), documents[0].1.clone()), (documents[1].0.as_str(), later)];
    let mut agent = Agent::with_files("b", &files, &trapd.sink("standard"), &[("token", "the token")]);
    trapd.wait_trap("ConnectionDown", 0);

    let (code, said) =
        silence(&agent, &["add", "--host", "a", "--for", "1h", "--comment", "moving racks", "--author", "me"]);
    assert!(code == 0 && said.starts_with("silence "), "{said}");
    let name = said.split(' ').nth(1).unwrap().to_owned();
    let (_, listed) = silence(&agent, &["list"]);
    assert!(listed.contains(&name) && listed.contains("host a; me moving racks"), "{listed}");
    agent.wait_condition(2, "receiver", "down");
    agent.kill();
    agent.restart();
    agent.wait_condition(2, "receiver", "down");
    // Count test 2 alone: traps are not acknowledged, so the raise of test 1 was due again after the restart, and as
    // a raise it is suppressed too.
    let down = |trapd: &Trapd, n: u8| {
        trapd
            .traps()
            .iter()
            .filter(|trap| trap.notification.ends_with("ConnectionDown") && trap.value("TestId.0") == id(n))
            .count()
    };
    stays("the second is silenced", Duration::from_secs(1), || down(&trapd, 2) == 0);
    // The clear of an alarm notified before the silence is sent.
    agent.document(&documents[0].0, &documents[0].1.replacen("\"from_host\":\"a\"", "\"from_host\":\"b\"", 1));
    let up = trapd.wait_trap("ConnectionUp", 0);
    assert_eq!(up.value("peerpairTestId.0"), id(1));

    let (code, said) = silence(&agent, &["expire", &name]);
    assert!(code == 0 && said.contains("expired"), "{said}");
    wait_for("what still stands", || (down(&trapd, 2) == 1).then_some(()));
    let (code, said) = silence(&agent, &["expire", &name]);
    assert!(code == 1 && said.contains("there is no silence"), "{said}");
    let (code, said) = silence(&agent, &["add", "--host", "a", "--until", "2020-01-01 00:00:00"]);
    assert!(code == 1 && said.contains("must be in the future"), "{said}");
}

/// Maintenance windows and drained hosts suppress raises, including those defined in the document of the sending
/// host.
#[test]
fn maintenance_and_drained_hosts_suppress_raises() {
    let trapd = Trapd::start();
    let test = dead(1, &destination());
    let window = r#"{"maintenance":[{"from":"2020-01-01T00:00","to":"2099-01-01T00:00","time_zone":"Europe/Berlin","comment":"new racks"}]}"#;
    let documents = [test.clone(), ("hosts/a.json".into(), window.into())];
    let agent = Agent::with_dir("b", &files(&documents), &trapd.sink("standard"));
    agent.wait_condition(1, "receiver", "down");
    let suppressed_by = || agent.status()["alarms"][0]["suppressed_by"].clone();
    assert_eq!(suppressed_by(), serde_json::json!({"reason": "shelved", "by": "maintenance new racks"}));
    agent.document("hosts/a.json", r#"{"drained":true}"#);
    wait_for("the host to be drained", || (suppressed_by()["by"] == "host a is drained").then_some(()));
    stays("nothing is told", Duration::from_secs(1), || trapd.notifications(&["ConnectionDown"]).is_empty());
    agent.document("hosts/a.json", r#"{"drained":false}"#);
    trapd.wait_trap("ConnectionDown", 0);
}

#[test]
fn api_reports_state_per_receiver_and_requires_a_token_for_changes() {
    let trapd = Trapd::start();
    let test = dead(1, &destination());
    let agent = Agent::with_files("b", &files(&[test]), &trapd.sink("standard"), &[("token", "the token")]);
    trapd.wait_trap("ConnectionDown", 0);
    let alarm = wait_for("the alarm as it was told", || {
        let (_, body) = http(agent.web_port(), "GET", "/api/alarms", "").ok()?;
        let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
        let alarm = answer["alarms"].as_array()?.first()?.clone();
        // `condition` comes from the latest status snapshot, which may be older than the alarm.
        (alarm["sinks"]["noc"]["notified"] == "raised" && alarm["condition"] == "down").then_some(alarm)
    });
    for (pointer, value) in [
        ("/kind", "connection"),
        ("/state", "raised"),
        ("/condition", "down"),
        ("/test/id", id(1).as_str()),
        ("/sinks/console/notified", "raised"),
    ] {
        assert_eq!(alarm.pointer(pointer).and_then(|value| value.as_str()), Some(value), "{pointer}: {alarm}");
    }
    assert_eq!(alarm["suppressed_by"], serde_json::Value::Null);

    let query = |method: &str, path: &str, body: &str, more: &str| {
        let (code, body) = http_as(agent.web_port(), method, path, body, more).unwrap();
        (code, body)
    };
    let good = "Authorization: Bearer the token\r\n";
    for (method, path) in [("POST", "/api/resync?sink=noc"), ("POST", "/api/silences"), ("DELETE", "/api/silences/x")] {
        assert_eq!(query(method, path, "{}", "").0, 401, "{path}");
        assert_eq!(query(method, path, "{}", "Authorization: Bearer another\r\n").0, 401, "{path}");
    }
    assert_eq!(query("POST", "/api/resync?sink=noc", "", good), (200, r#"{"resent":1}"#.to_owned()));
    trapd.wait_trap("ConnectionDown", 1);
    let (code, body) = query("POST", "/api/resync?sink=nobody", "", good);
    assert!(code == 404 && body.contains("there is no sink nobody"), "{body}");
    assert_eq!(query("POST", "/api/resync", "", good).0, 400);
    for bad in ["", "{}", r#"{"hosts":["*"],"until":"2020-01-01T00:00:00Z"}"#, r#"{"host":"a"}"#, "[[[["] {
        assert_eq!(query("POST", "/api/silences", bad, good).0, 400, "{bad}");
    }

    // Without a configured token, the agent rejects every change.
    let closed = Agent::with_dir("c", &[], "");
    let (code, body) = http_as(closed.web_port(), "POST", "/api/resync?sink=console", "", good).unwrap();
    assert!(code == 403 && body.contains("token_file is not set"), "{code} {body}");
}

/// A sender that announced its stop is paused; its test goes down only after `max_pause`.
#[test]
fn planned_stop_pauses_the_test_until_max_pause() {
    let to = destination();
    let document = test_document(1, ("a", "127.0.0.2:0"), ("b", &to), r#","max_pause":"4s""#);
    let receiver = Agent::with_dir("b", &[("tests/b/1.json", document.clone())], "");
    let mut sender = Agent::with_dir("a", &[("tests/a/1.json", document)], "");
    receiver.wait_condition(1, "receiver", "up");
    sender.signal(nix::sys::signal::Signal::SIGTERM);
    sender.wait_exit();
    receiver.wait_condition(1, "receiver", "paused");
    stays("no alarm", Duration::from_secs(2), || receiver.logged("alarm raised") == 0);
    receiver.wait_condition(1, "receiver", "down");
    assert_eq!(receiver.logged("the sender announced its stop"), 1);
}

/// 1,000 tests go down at once and 700 come up again, while the receiver runs a handler for each trap. Replaying the
/// traps that the handler has written must give exactly the true state.
#[test]
fn receiver_has_the_true_state_after_a_storm() {
    const TESTS: u32 = 1000;
    const BACK: u32 = 700;
    let _alone = alone();
    let trapd = Trapd::with("authCommunity log,execute public\ntraphandle default /bin/sh DIR/handle DIR/handled\n");
    std::fs::write(trapd.path("handle"), "tr '\\n' '|' >> \"$1\"; echo >> \"$1\"\n").unwrap();
    let to = destination();
    let settings = r#"{"alarm":{"storm_hold_max":"12s","summary_interval":"3s","hold_down":"1s"}}"#;
    let documents: Vec<(String, String)> = (0..TESTS)
        .map(|n| {
            // Two tests per host are too few to form a group.
            let document = test_document(0, (&format!("h{}", n / 2), "127.0.0.2:0"), ("b", &to), "")
                .replace(&id(0), &format!("00000000-0000-4000-8000-{n:012x}"))
                .replace("\"100ms\",\"expect_every\":\"200ms\"", "\"500ms\",\"expect_every\":\"1200ms\"")
                .replace("\"startup_grace\":\"1s\"", "\"startup_grace\":\"20s\"");
            (format!("tests/b/{n}.json"), document)
        })
        .collect();
    let agent = settled(settings, &format!("{}rate = 50\n", trapd.sink("standard")));
    documents.iter().for_each(|(path, document)| agent.document(path, document));
    agent.wait_status("all tests", |status| (status["tests"].as_array()?.len() == TESTS as usize).then_some(()));

    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |sequence: u32, tests: std::ops::Range<u32>| {
        for n in tests {
            let mut octets = super::alarms::probe(0, 0, Duration::ZERO);
            octets[..4].copy_from_slice(&sequence.to_be_bytes());
            octets[68..72].copy_from_slice(&n.to_be_bytes());
            source.send_to(&octets, &to).unwrap();
        }
    };
    let count = |condition: &str| {
        let status = agent.status();
        status["tests"].as_array().unwrap().iter().filter(|test| test["condition"] == condition).count()
    };
    send(0, 0..TESTS);
    wait_for("all up", || (count("up") == TESTS as usize).then_some(()));
    wait_for("all down", || (count("down") == TESTS as usize).then_some(()));
    let isolated = trapd.wait_trap("Isolated", 0);
    assert_eq!(isolated.value("peerpairMembersDown.0"), "1000");
    let mut sequence = 0;
    let mut probes = || {
        sequence += 1;
        send(sequence, 0..BACK);
    };
    wait_for("most of them up again", || {
        probes();
        std::thread::sleep(Duration::from_millis(300));
        (count("up") == BACK as usize).then_some(())
    });
    let notified = |trapd: &Trapd| -> BTreeMap<String, bool> {
        let handled = std::fs::read_to_string(trapd.path("handled")).unwrap_or_default();
        let mut notified = BTreeMap::new();
        for line in handled.lines() {
            let raised = line.contains("peerpairConnectionDown");
            let test = line.split('|').find_map(|varbind| varbind.split_once("peerpairTestId.0 "));
            if let Some((_, test)) = test {
                notified.insert(test.trim_matches('"').to_owned(), raised);
            }
        }
        notified
    };
    let list: BTreeMap<String, bool> =
        (BACK..TESTS).map(|n| (format!("00000000-0000-4000-8000-{n:012x}"), true)).collect();
    let down = |notified: BTreeMap<String, bool>| {
        notified.into_iter().filter(|(_, raised)| *raised).collect::<BTreeMap<_, _>>()
    };
    wait_for("the receiver to know the truth", || {
        probes();
        std::thread::sleep(Duration::from_millis(300));
        let settled =
            agent.status()["sinks"].as_array()?.iter().any(|sink| sink["name"] == "noc" && sink["pending"] == 0);
        (settled && down(notified(&trapd)) == list).then_some(())
    });
    let wide = trapd.notifications(&["Isolated", "IsolatedCleared", "StormStarted", "StormEnded"]);
    assert_eq!(
        wide.iter().filter(|name| *name == "Isolated").count(),
        wide.iter().filter(|name| *name == "IsolatedCleared").count()
    );
    assert_eq!(
        wide.iter().filter(|name| *name == "StormStarted").count(),
        wide.iter().filter(|name| *name == "StormEnded").count()
    );
    let news = |trap: &Trap| !trap.varbinds.iter().any(|varbind| varbind.contains("good; sent once"));
    let traps = trapd.traps().iter().filter(|trap| news(trap)).count();
    assert!(traps < 320 + 20, "{traps} traps");
}
