//! Agents with real etcd servers and clusters: compaction, lost members, a full database, users, certificates, and
//! the choice between the v2 and v3 API. Most tests run with etcd 3.4 and 3.5.

use std::path::Path;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::support::{Agent, Etcd, Flavour, address, http, stays, tcp_port, test_document, udp_port, wait_for, write};

/// Returns the document of a test that agent `b` receives and that has no sender: enough to see which documents are
/// in force.
fn document(n: u8) -> String {
    test_document(n, ("a", "127.0.0.2:0"), ("b", "127.0.0.3:8620"), r#","startup_grace":"10m""#)
}

fn wait_number_of_tests(agent: &Agent, number: usize) {
    agent.wait_status(&format!("{number} tests"), |status| (status["tests"].as_array()?.len() == number).then_some(()));
}

fn wait_error(agent: &Agent, words: &str) -> String {
    agent.wait_status(words, |status| {
        let error = status["store"]["error"].as_str()?;
        error.contains(words).then(|| error.to_owned())
    })
}

/// Stops an agent with SIGSTOP and compacts the revisions that it has not received. etcd then cancels the watch but
/// leaves its stream open, and the agent must list all documents again.
fn compacted_behind_its_back(flavour: Flavour) {
    let etcd = Etcd::of(flavour);
    etcd.put("tests/b/1", &document(1));
    let agent = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&agent, 1);
    agent.signal(Signal::SIGSTOP);
    let big = format!(r#"{{"groups":["{}"]}}"#, "x".repeat(1 << 20));
    for _ in 0..25 {
        etcd.put("hosts/big", &big);
    }
    etcd.delete("tests/b/1");
    etcd.put("tests/b/2", &document(2));
    etcd.put("tests/b/3", &document(3));
    let revision = etcd.revision();
    etcd.query("kv/compaction", &json!({"revision": revision.to_string()})).expect("compaction");
    agent.signal(Signal::SIGCONT);
    agent.wait_condition(3, "receiver", "unknown");
    wait_number_of_tests(&agent, 2);
    etcd.put("tests/b/4", &document(4));
    wait_number_of_tests(&agent, 3);
}

#[test]
fn documents_are_listed_again_after_compaction_with_etcd_3_4() {
    compacted_behind_its_back(Flavour::V3Of34);
}

#[test]
fn documents_are_listed_again_after_compaction_with_etcd_3_5() {
    compacted_behind_its_back(Flavour::V3Of35);
}

/// Kills two of three members: tests continue without a quorum, one member suffices for an agent's start, and every
/// later change arrives.
fn two_of_three_members_lost_and_back(flavour: Flavour) {
    let mut members = Etcd::three(flavour);
    members[0].put("tests/b/1", &document(1));
    let endpoints: Vec<String> =
        members.iter().map(|member| format!("\"http://127.0.0.1:{}\"", member.port())).collect();
    let store = format!("endpoints = [{}]\nrequest_timeout = \"1s\"\n", endpoints.join(", "));
    let agent = Agent::with_store("b", &store, "");
    wait_number_of_tests(&agent, 1);
    members[1].kill();
    members[2].kill();
    agent.wait_status("the loss", |status| (status["store"]["connected"] == false).then_some(()));
    wait_number_of_tests(&agent, 1);
    // An agent without documents accepts those that a single member serves without a quorum.
    let late = Agent::with_store("b", &store, "");
    wait_number_of_tests(&late, 1);
    members[1].launch();
    members[2].launch();
    agent.wait_status("the store", |status| (status["store"]["connected"] == true).then_some(()));
    members[2].put("tests/b/2", &document(2));
    wait_number_of_tests(&agent, 2);
    wait_number_of_tests(&late, 2);
    // With a quorum left, the failure of any one member must not delay changes.
    for n in 0..3 {
        members[n].kill();
        let other = (n + 1) % 3;
        members[other].put(&format!("tests/b/x{n}"), &document(3 + n as u8));
        wait_number_of_tests(&agent, 3 + n);
        members[n].launch();
        members[n].wait_until_healthy();
    }
}

#[test]
fn tests_continue_while_two_of_three_members_are_down_with_etcd_3_4() {
    two_of_three_members_lost_and_back(Flavour::V3Of34);
}

#[test]
fn tests_continue_while_two_of_three_members_are_down_with_etcd_3_5() {
    two_of_three_members_lost_and_back(Flavour::V3Of35);
}

/// A full database rejects writes, but agents continue to read it, also when they start.
#[test]
fn full_database_rejects_imports_but_agents_continue_to_read() {
    let etcd = Etcd::with(Flavour::V3Of35, &["--quota-backend-bytes", "4000000"]);
    etcd.put("tests/b/1", &document(1));
    let early = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&early, 1);
    let filler = json!({"key": "Zg==", "value": "x".repeat(1 << 20)});
    wait_for("a full database", || etcd.query("kv/put", &filler).is_err().then_some(()));
    let late = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&late, 1);
    // Deletions still reach the agent; an import of new documents fails and reports the reason.
    let directory = tempfile::tempdir().unwrap();
    write(&directory.path().join("docs/tests/b/2.json"), &document(2));
    let output = peerpair(directory.path(), etcd.port(), &["import", "docs", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("tests/b/2: not written") && said.contains("database is full"), "{said}");
    etcd.delete("tests/b/1");
    wait_number_of_tests(&early, 0);
}

fn peerpair(directory: &Path, port: u16, arguments: &[&str]) -> std::process::Output {
    let text = format!("host = \"b\"\n[store]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:{port}\"]\n");
    write(&directory.join("peerpair.toml"), &text);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command.current_dir(directory).args(arguments).args(["--config", "peerpair.toml"]);
    command.output().unwrap()
}

/// Agents obtain a new token when theirs has expired or the server has been restarted, and never show passwords.
fn users_and_expired_tokens(flavour: Flavour) {
    let mut etcd = Etcd::with(flavour, &["--auth-token", "simple", "--auth-token-ttl", "1", "--bcrypt-cost", "4"]);
    etcd.put("tests/b/1", &document(1));
    etcd.enable_auth("pass-of-agent");
    let store = |user: &str| {
        let endpoint = format!("endpoints = [\"http://127.0.0.1:{}\"]\nrequest_timeout = \"1s\"\n", etcd.port());
        format!("{endpoint}[store.auth]\n{user}")
    };
    let files = [("good", "pass-of-agent\n"), ("bad", "wrong-pass\n")];
    let good = Agent::with_store_and_files("b", &store("user = \"agent\"\npassword_file = \"good\"\n"), &files);
    wait_number_of_tests(&good, 1);
    let bad = Agent::with_store_and_files("b", &store("user = \"agent\"\npassword_file = \"bad\"\n"), &files);
    let error = wait_error(&bad, "authentication failed");
    assert!(error.contains("user `agent`"), "{error}");
    let nobody = Agent::with_store_and_files("b", &store(""), &files);
    wait_error(&nobody, "set [store.auth] user and password_file");
    // The token expired long before the stream ends and all documents are listed again.
    etcd.terminate();
    good.wait_status("the loss", |status| (status["store"]["connected"] == false).then_some(()));
    etcd.restart();
    etcd.login();
    etcd.put("tests/b/2", &document(2));
    wait_number_of_tests(&good, 2);
    for agent in [&good, &bad, &nobody] {
        let shown = agent.log() + &agent.status().to_string();
        assert!(!shown.contains("pass-of-agent") && !shown.contains("wrong-pass"));
    }
}

#[test]
fn expired_token_is_renewed_and_bad_login_reported_with_etcd_3_4() {
    users_and_expired_tokens(Flavour::V3Of34);
}

#[test]
fn expired_token_is_renewed_and_bad_login_reported_with_etcd_3_5() {
    users_and_expired_tokens(Flavour::V3Of35);
}

/// Certificate authority that issues the test's certificates in PEM format.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::OrganizationName, "test authority");
        Authority { params, key: KeyPair::generate().unwrap() }
    }

    fn certificate(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// Issues a certificate with these key usages, and returns it with its private key.
    fn issue(&self, usages: &[ExtendedKeyUsagePurpose], common_name: Option<&str>) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "test");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }
}

const SERVER: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// An etcd that requires client certificates at `port`; the test itself writes through a second port without TLS.
struct SecureEtcd {
    etcd: Etcd,
    port: u16,
    authority: Authority,
    _files: tempfile::TempDir,
}

fn secure(flavour: Flavour, usages: &[ExtendedKeyUsagePurpose]) -> SecureEtcd {
    let (authority, files, port) = (Authority::new(), tempfile::tempdir().unwrap(), tcp_port());
    let file = |name: &str, text: &str| {
        write(&files.path().join(name), text);
        files.path().join(name).display().to_string()
    };
    let (certificate, key) = authority.issue(usages, None);
    let (ca, certificate, key) =
        (file("ca.pem", &authority.certificate()), file("server.pem", &certificate), file("server.key", &key));
    let plain = Etcd::prepared(flavour, &[]).port();
    let (secure, open) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{plain}"));
    let urls = format!("{secure},{open}");
    let arguments = [
        "--listen-client-urls",
        &urls,
        "--advertise-client-urls",
        &secure,
        "--cert-file",
        &certificate,
        "--key-file",
        &key,
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
    ];
    let mut etcd = Etcd::prepared(flavour, &arguments);
    etcd.set_port(plain);
    etcd.restart();
    SecureEtcd { etcd, port, authority, _files: files }
}

impl SecureEtcd {
    fn agent(&self, client: (String, String), ca: &str, more: &str) -> Agent {
        let store = format!(
            "endpoints = [\"https://127.0.0.1:{}\"]\nrequest_timeout = \"2s\"\n{more}[store.tls]\nca_file = \"ca.pem\"\n\
             cert_file = \"client.pem\"\nkey_file = \"client.key\"\n",
            self.port
        );
        let files = [("ca.pem", ca), ("client.pem", &client.0), ("client.key", &client.1), ("password", "p")];
        Agent::with_store_and_files("b", &store, &files)
    }
}

fn certificates_good_and_bad(flavour: Flavour) {
    let secure = secure(flavour, SERVER);
    let client = || secure.authority.issue(&[ExtendedKeyUsagePurpose::ClientAuth], None);
    secure.etcd.put_v3("tests/b/1", &document(1));
    let good = secure.agent(client(), &secure.authority.certificate(), "");
    wait_number_of_tests(&good, 1);
    secure.etcd.put_v3("tests/b/2", &document(2));
    wait_number_of_tests(&good, 2);

    let stranger = Authority::new();
    let distrusting = secure.agent(client(), &stranger.certificate(), "");
    wait_error(&distrusting, "another authority than [store.tls] ca_file");
    let distrusted =
        secure.agent(stranger.issue(&[ExtendedKeyUsagePurpose::ClientAuth], None), &secure.authority.certificate(), "");
    wait_error(&distrusted, "error");
    // Corrected certificate files are read again without a restart of the agent.
    let (certificate, key) = client();
    distrusted.file("client.pem", &certificate);
    distrusted.file("client.key", &key);
    wait_number_of_tests(&distrusted, 2);

    let port = secure.port;
    let plain = Agent::with_store("b", &format!("endpoints = [\"http://127.0.0.1:{port}\"]\n"), "");
    wait_error(&plain, "write https://");
    let bare = Agent::with_store_and_files(
        "b",
        &format!("endpoints = [\"https://127.0.0.1:{port}\"]\n[store.tls]\nca_file = \"ca.pem\"\n"),
        &[("ca.pem", &secure.authority.certificate())],
    );
    wait_error(&bare, "set [store.tls] cert_file and key_file");
    let open = secure.etcd.port();
    let too_careful = Agent::with_store_and_files(
        "b",
        &format!("endpoints = [\"https://127.0.0.1:{open}\"]\n[store.tls]\nca_file = \"ca.pem\"\n"),
        &[("ca.pem", &secure.authority.certificate())],
    );
    wait_error(&too_careful, "write http://");
}

#[test]
fn valid_certificates_connect_and_invalid_are_reported_with_etcd_3_4() {
    certificates_good_and_bad(Flavour::V3Of34);
}

#[test]
fn valid_certificates_connect_and_invalid_are_reported_with_etcd_3_5() {
    certificates_good_and_bad(Flavour::V3Of35);
}

/// The gateway of etcd connects to etcd itself with the server certificate, which therefore needs the usage
/// clientAuth too.
#[test]
fn server_certificate_without_client_auth_usage_is_reported() {
    for flavour in [Flavour::V3Of34, Flavour::V3Of35] {
        let secure = secure(flavour, &[ExtendedKeyUsagePurpose::ServerAuth]);
        let client = secure.authority.issue(&[ExtendedKeyUsagePurpose::ClientAuth], None);
        let agent = secure.agent(client, &secure.authority.certificate(), "api = \"v3\"\n");
        wait_error(&agent, "lacks the extended key usage clientAuth");
    }
}

#[test]
fn common_name_that_the_gateway_refuses_is_reported() {
    let mut secure = secure(Flavour::V3Of34, SERVER);
    secure.etcd.enable_auth("p");
    let client = secure.authority.issue(&[ExtendedKeyUsagePurpose::ClientAuth], Some("agent"));
    let agent = secure.agent(client, &secure.authority.certificate(), "api = \"v3\"\n");
    wait_error(&agent, "use one without a CN");
}

/// The agent reads the API that holds documents; if both hold some, it reads v3 and reports that as a remark.
#[test]
fn api_that_holds_the_documents_is_detected() {
    let etcd = Etcd::of(Flavour::V3Of34);
    let agent = Agent::with_etcd("b", etcd.port(), "");
    agent.wait_status("the store", |status| (status["store"]["connected"] == true).then_some(()));
    // Neither API holds documents yet: the agent must follow the one that is written first.
    etcd.put_v2("tests/b/1", &document(1));
    wait_number_of_tests(&agent, 1);
    let origin = |agent: &Agent| agent.status()["store"]["origin"].as_str().unwrap().to_owned();
    assert!(origin(&agent).starts_with("etcd v2, cluster "), "{}", origin(&agent));
    etcd.put_v3("tests/b/2", &document(2));
    etcd.put_v3("tests/b/3", &document(3));
    let late = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&late, 2);
    assert!(origin(&late).starts_with("etcd v3, cluster "), "{}", origin(&late));
    let remark = late.status()["store"]["remark"].as_str().unwrap().to_owned();
    assert!(remark.contains("both"), "{remark}");
    assert_eq!(late.logged("documents exist in both"), 1);
}

/// A server that returns without the API that held the documents gives no evidence that they were removed.
#[test]
fn tests_continue_when_the_api_of_their_documents_is_disabled() {
    let mut etcd = Etcd::of(Flavour::V2Of34);
    etcd.put("tests/b/1", &document(1));
    let mut agent = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&agent, 1);
    etcd.terminate();
    etcd.set_argument("--enable-v2=false");
    etcd.restart();
    wait_error(&agent, "does not answer the v2 API");
    stays("its test", std::time::Duration::from_secs(3), || agent.status()["tests"].as_array().unwrap().len() == 1);
    // A restart of the agent changes nothing: the config kept on disk stays in force.
    agent.kill();
    agent.restart();
    wait_error(&agent, "does not answer the v2 API");
    wait_number_of_tests(&agent, 1);
    etcd.terminate();
    etcd.set_argument("--enable-v2=true");
    etcd.restart();
    agent.wait_status("the store", |status| (status["store"]["state"] == "current").then_some(()));
    wait_number_of_tests(&agent, 1);
}

/// Documents left behind in v2 must not come into force when v3 denies access or becomes empty.
#[test]
fn documents_left_in_v2_stay_unused_when_v3_is_denied_or_empty() {
    let mut etcd = Etcd::of(Flavour::V3Of34);
    etcd.put_v3("tests/b/1", &document(1));
    let mut agent = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&agent, 1);
    for n in 2..5 {
        etcd.put_v2(&format!("tests/b/{n}"), &document(n));
    }
    etcd.enable_auth("p");
    agent.signal(Signal::SIGTERM);
    agent.wait_exit();
    agent.restart();
    wait_error(&agent, "set [store.auth] user");
    wait_number_of_tests(&agent, 1);
    etcd.query("auth/disable", &json!({})).expect("no authentication");
    etcd.logout();
    agent.wait_status("the store", |status| (status["store"]["connected"] == true).then_some(()));
    etcd.delete("tests/b/1");
    wait_number_of_tests(&agent, 0);
    stays("nothing comes back", std::time::Duration::from_secs(3), || {
        agent.status()["tests"].as_array().unwrap().is_empty()
    });
}

/// An operator moves the documents of a fleet from v2 to v3, and running agents follow without a restart.
#[test]
fn agent_follows_documents_moved_from_v2_to_v3() {
    let etcd = Etcd::of(Flavour::V2Of34);
    etcd.put_v2("tests/b/1", &document(1));
    let agent = Agent::with_etcd("b", etcd.port(), "");
    wait_number_of_tests(&agent, 1);
    etcd.put_v3("tests/b/1", &document(1));
    etcd.put_v3("tests/b/2", &document(2));
    etcd.delete("tests/b/1");
    wait_number_of_tests(&agent, 2);
    assert!(agent.status()["store"]["origin"].as_str().unwrap().starts_with("etcd v3"));
}

/// After the bootstrap file names another store, its documents are accepted without a warning, since the operator
/// intended it.
#[test]
fn store_changed_in_bootstrap_file_is_accepted_without_warning() {
    let (first, second) = (Etcd::of(Flavour::V3Of34), Etcd::of(Flavour::V2Of34));
    first.put("tests/b/1", &document(1));
    for n in 2..4 {
        second.put(&format!("tests/b/{n}"), &document(n));
    }
    let agent = Agent::with_etcd("b", first.port(), "");
    wait_number_of_tests(&agent, 1);
    let text = std::fs::read_to_string(agent.path("peerpair.toml")).unwrap();
    agent.file("peerpair.toml", &text.replace(&first.port().to_string(), &second.port().to_string()));
    agent.signal(Signal::SIGHUP);
    wait_number_of_tests(&agent, 2);
    assert_eq!(agent.status()["store"]["remark"], Value::Null);
    assert_eq!(agent.logged("another store answers"), 0, "{}", agent.log());
}

/// A store that was wiped and filled again may reach the same revision with other documents; the agent must apply
/// them.
#[test]
fn different_document_at_the_same_revision_is_applied() {
    let mut etcd = Etcd::of(Flavour::V3Of34);
    etcd.roll_back_to_nothing(
        |etcd| {
            etcd.put("tests/b/1", &document(1));
            let agent = Agent::with_etcd("b", etcd.port(), "");
            wait_number_of_tests(&agent, 1);
            agent
        },
        |etcd, agent| {
            etcd.put("tests/b/1", &document(1).replace("8620", "8629"));
            agent.wait_status("the new port", |status| {
                let to = status["tests"][0]["to"].as_str()?;
                to.ends_with(":8629").then_some(())
            });
        },
    );
}

#[test]
fn server_without_json_api_is_reported() {
    let arguments = ["--enable-grpc-gateway=false", "--enable-v2=false"];
    let etcd = Etcd::with(Flavour::V3Of34, &arguments);
    let agent = Agent::with_etcd("b", etcd.port(), "");
    let error = wait_error(&agent, "answers neither its v3 nor its v2 API");
    assert!(error.contains("etcd 3.4."), "{error}");
    let other = tcp_port();
    let _web = Agent::with_dir("x", &[], "");
    assert!(http(other, "GET", "/", "").is_err());
    let port = _web.web_port();
    let lost = Agent::with_store("b", &format!("endpoints = [\"http://127.0.0.1:{port}\"]\n"), "");
    wait_error(&lost, "not an etcd");
}

/// Another cluster at the same address is accepted as the new store, and reported in the log and the status.
#[test]
fn replaced_cluster_is_accepted_and_reported() {
    let mut first = Etcd::of(Flavour::V3Of34);
    first.put("tests/b/1", &document(1));
    let agent = Agent::with_etcd("b", first.port(), "");
    wait_number_of_tests(&agent, 1);
    first.kill();
    let mut second = Etcd::prepared(Flavour::V3Of35, &[]);
    second.set_port(first.port());
    second.restart();
    second.put("tests/b/2", &document(2));
    agent.wait_condition(2, "receiver", "unknown");
    wait_number_of_tests(&agent, 1);
    assert_eq!(agent.logged("another store answers in place of the previous one"), 1, "{}", agent.log());
    // The remark stays in the status, because the documents of the first cluster are no longer in force.
    assert!(agent.status()["store"]["remark"].as_str().unwrap().contains("another store answers"));
}

/// Agents publish, under a lease, which documents they run; `rollout` prints the state of every host from that.
#[test]
fn rollout_reports_which_documents_each_agent_runs() {
    let etcd = Etcd::of(Flavour::V3Of35);
    let addr = address();
    let to = format!("{addr}:{}", udp_port(&addr));
    let test = |n, more: &str| test_document(n, ("a", "127.0.0.2:0"), ("b", &to), more);
    etcd.put_test(["a", "b"], "1", &test(1, ""));
    let a = Agent::with_etcd("a", etcd.port(), "");
    let said = |host: &str| -> Option<Value> { serde_json::from_str(&etcd.get(&format!("agents/{host}"))?).ok() };
    let first = wait_for("what a says", || said("a"));
    assert_eq!(first["rejected"], json!([]));
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    let directory = tempfile::tempdir().unwrap();
    let rollout = || {
        let output = peerpair(directory.path(), etcd.port(), &["rollout"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = rollout();
    assert_eq!(code, Some(1));
    assert!(text.contains("a     current"), "{text}");
    assert!(text.contains("b     silent"), "{text}");
    // The agent rejects a document, and publishes that no sooner than 30 s after its previous write.
    etcd.put("tests/a/1", &test(1, r#","max_latency":"soon""#));
    a.wait_status("the rejection", |status| status["store"]["rejected"].as_array()?.first().cloned());
    stays("it is not said at once", std::time::Duration::from_secs(2), || said("a") == Some(first.clone()));
    assert!(rollout().1.contains("a     behind"));
    // A newly started agent publishes the rejection at once, with its reason.
    drop(a);
    let _a = Agent::with_etcd("a", etcd.port(), "");
    wait_for("the rejection", || {
        let rejected = said("a")?["rejected"].as_array()?.first()?.clone();
        assert!(rejected["reason"].as_str()?.contains("max_latency"));
        Some(())
    });
    let (_, text) = rollout();
    assert!(text.contains("a     rejected") && text.contains("tests/a/1: max_latency"), "{text}");
}
