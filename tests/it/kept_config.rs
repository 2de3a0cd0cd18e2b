//! Agents without their store, and with sets of documents that are unusable as a whole: the config kept on disk stays
//! in force, and no alarm is raised for what only changed.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Agent, Etcd, Flavour, address, http, id, stays, test, test_document, udp_port, wait_for};

fn document(n: u8, to: &str) -> String {
    test_document(n, ("b", "127.0.0.2:0"), ("b", to), "")
}

fn place() -> String {
    let addr = address();
    format!("{addr}:{}", udp_port(&addr))
}

/// The config is kept on disk, used while the store is unreachable, and replaced by the store's documents as soon as
/// it returns.
#[test]
fn kept_config_is_used_when_store_is_unreachable_at_start() {
    let (mut etcd, to) = (Etcd::of(Flavour::V3Of34), place());
    etcd.put("tests/b/1", &document(1, &to));
    etcd.put("tests/b/2", &document(2, &to));
    let mut agent = Agent::with_etcd("b", etcd.port(), "");
    agent.wait_condition(2, "receiver", "up");
    // For a document that has become invalid, the last good version is kept instead.
    etcd.put("tests/b/2", "{");
    agent.wait_status("the rejection", |status| status["store"]["rejected"].as_array()?.first().cloned());
    wait_kept(&agent, "tests/b/2");
    agent.signal(Signal::SIGTERM);
    agent.wait_exit();
    etcd.terminate();

    agent.restart();
    agent.wait_condition(1, "receiver", "up");
    agent.wait_condition(2, "receiver", "up");
    let store = agent.status()["store"].clone();
    assert_eq!((&store["state"], &store["connected"]), (&"stale".into(), &false.into()));
    assert!(store["config_age_seconds"].as_f64().unwrap() > 0.0, "{store}");
    let (status, body) = http(agent.web_port(), "GET", "/healthz", "").unwrap();
    assert!(status == 200 && body.contains("\"configured\":true"), "{body}");
    assert_eq!(agent.logged("the saved config is used"), 1, "{}", agent.log());

    etcd.restart();
    agent.wait_status("the store", |status| (status["store"]["state"] == "current").then_some(()));
    let status = agent.status();
    // The document is still invalid, and its last good version from before the restart is in force.
    assert_eq!(status["store"]["rejected"][0]["last_good_in_force"], true);
    assert_eq!(test(&status, 2, "receiver").unwrap()["condition"], "up");
}

/// Waits until the config kept on disk contains this text.
fn wait_kept(agent: &Agent, words: &str) {
    wait_for("the config on disk", || {
        let files = std::fs::read_dir(agent.path("state")).ok()?;
        let names = files.map(|file| file.unwrap().path());
        let kept = names.filter(|path| is_kept_config(path));
        kept.filter_map(|path| std::fs::read_to_string(path).ok()).any(|text| text.contains(words)).then_some(())
    });
}

/// Returns whether a file is the newest kept config, neither a temporary file nor the previous copy.
fn is_kept_config(path: &std::path::Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.starts_with("config-b-") && !name.contains('.')
}

#[test]
fn kept_config_is_used_only_if_intact_and_from_the_same_store() {
    let (mut etcd, to) = (Etcd::of(Flavour::V3Of34), place());
    etcd.put("tests/b/1", &document(1, &to));
    let mut agent = Agent::with_etcd("b", etcd.port(), "");
    agent.wait_condition(1, "receiver", "up");
    wait_kept(&agent, "tests/b/1");
    etcd.put("tests/b/2", &document(2, &to));
    wait_kept(&agent, "tests/b/2");
    agent.kill();
    etcd.kill();
    let kept = || {
        let files = std::fs::read_dir(agent.path("state")).unwrap().map(|file| file.unwrap().path());
        files.into_iter().find(|path| is_kept_config(path)).unwrap()
    };
    // The newest copy is damaged; the previous one is intact and must be used.
    let path = kept();
    let mut octets = std::fs::read(&path).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    std::fs::write(&path, octets).unwrap();
    agent.restart();
    agent.wait_condition(1, "receiver", "up");
    assert!(test(&agent.status(), 2, "receiver").is_none());
    agent.kill();
    // A config kept from another store must not be used.
    let text = std::fs::read_to_string(agent.path("peerpair.toml")).unwrap();
    let other = text.replace("kind = \"etcd\"\n", "kind = \"etcd\"\nprefix = \"/other\"\n");
    agent.file("peerpair.toml", &other);
    agent.restart();
    wait_for("the log line", || (agent.logged("is from another store and is not used") == 1).then_some(()));
    stays("nothing runs", Duration::from_secs(7), || agent.status()["tests"].as_array().unwrap().is_empty());
    assert_eq!(agent.status()["store"]["state"], "waiting");
}

#[test]
fn unwritable_state_directory_is_logged_and_tests_continue() {
    let to = place();
    let agent = Agent::with_files("b", &[("tests/b/1.json", document(1, &to))], "", &[("state/config-x", "")]);
    agent.wait_condition(1, "receiver", "up");
    wait_kept(&agent, "tests/b/1");
    let directory = agent.path("state");
    std::fs::rename(&directory, agent.path("aside")).unwrap();
    std::fs::write(&directory, "a file").unwrap();
    agent.document("tests/b/2.json", &document(2, &to));
    agent.wait_condition(2, "receiver", "up");
    wait_for("the log line", || (agent.logged("the config cannot be saved") == 1).then_some(()));
}

#[test]
fn unsupported_schema_keeps_the_previous_config_in_force() {
    let to = place();
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document(1, &to))], "");
    agent.wait_condition(1, "receiver", "up");
    agent.document("config.json", r#"{"schema":2,"new":true}"#);
    agent.document("tests/b/2.json", &document(2, &to));
    agent.remove_document("tests/b/1.json");
    agent.wait_status("that", |status| (status["store"]["state"] == "unsupported_schema").then_some(()));
    let rejected = agent.status()["store"]["rejected"][0].clone();
    assert!(rejected["reasons"][0].as_str().unwrap().contains("install a newer agent"), "{rejected}");
    agent.wait_condition(1, "receiver", "up");
    assert_eq!(agent.status()["tests"].as_array().unwrap().len(), 2);
    wait_for("its alarm", || (agent.raised("config") == 1).then_some(()));
    agent.document("config.json", "{}");
    agent.wait_condition(2, "receiver", "up");
    agent.wait_status("the first test's end", |status| (status["tests"].as_array()?.len() == 2).then_some(()));
}

/// After a restart the kept config is in force, and the status still reports the unsupported schema.
#[test]
fn unsupported_schema_keeps_the_previous_config_after_a_restart() {
    let to = place();
    let mut agent = Agent::with_dir("b", &[("tests/b/1.json", document(1, &to))], "");
    agent.wait_condition(1, "receiver", "up");
    wait_kept(&agent, "tests/b/1");
    agent.document("config.json", r#"{"schema":2}"#);
    agent.wait_status("that", |status| (status["store"]["state"] == "unsupported_schema").then_some(()));
    agent.kill();
    agent.restart();
    agent.wait_condition(1, "receiver", "up");
    assert_eq!(agent.status()["store"]["state"], "unsupported_schema");
    assert_eq!(agent.status()["store"]["connected"], true);
}

/// A test moves to another port. First the sender reads the change before the receiver, then the receiver before the
/// sender; neither order may raise an alarm.
#[test]
fn moved_test_raises_no_alarm_when_one_end_reads_the_change_later() {
    let addr = address();
    let ports = [udp_port(&addr), udp_port(&addr)];
    let text = |n: usize| {
        let to = format!("{addr}:{}", ports[n]);
        test_document(1, ("a", "127.0.0.2:0"), ("b", &to), "").replace("\"1s\"", "\"6s\"")
    };
    let sender = Agent::with_dir("a", &[("tests/a/1.json", text(0))], "");
    let receiver = Agent::with_dir("b", &[("tests/b/1.json", text(0))], "");
    receiver.wait_condition(1, "receiver", "up");
    sender.document("tests/a/1.json", &text(1));
    receiver.wait_condition(1, "receiver", "paused");
    stays("no alarm", Duration::from_secs(2), || alarms(&[&sender, &receiver]) == 0);
    receiver.document("tests/b/1.json", &text(1));
    receiver.wait_condition(1, "receiver", "up");
    receiver.document("tests/b/1.json", &text(0));
    receiver.wait_status("its new listener", |status| (status["listeners"][0]["packets"] == 0).then_some(()));
    stays("no alarm", Duration::from_secs(2), || alarms(&[&sender, &receiver]) == 0);
    sender.document("tests/a/1.json", &text(0));
    receiver.wait_condition(1, "receiver", "up");
    assert_eq!(alarms(&[&sender, &receiver]), 0);
}

fn alarms(agents: &[&Agent]) -> usize {
    agents.iter().map(|agent| agent.logged("alarm raised")).sum()
}

/// A single document disables a host. The two ends of its test read the change at different times, and neither may
/// raise an alarm.
#[test]
fn disabled_host_raises_no_alarm_at_the_other_end_of_its_test() {
    let (etcd, to) = (Etcd::of(Flavour::V3Of34), place());
    let text = test_document(1, ("a", "127.0.0.2:0"), ("b", &to), "");
    etcd.put_test(["a", "b"], "1", &text);
    let (sender, receiver) = (Agent::with_etcd("a", etcd.port(), ""), Agent::with_etcd("b", etcd.port(), ""));
    receiver.wait_condition(1, "receiver", "up");
    // The sender has stopped, and its receiver does not know the reason yet: no probe arrives for more than ten
    // intervals.
    etcd.put("hosts/a", r#"{"enabled":false}"#);
    sender.wait_status("its end", |status| status["tests"].as_array()?.is_empty().then_some(()));
    receiver.wait_condition(1, "receiver", "paused");
    stays("no alarm", Duration::from_secs(3), || receiver.logged("alarm raised") == 0);
    etcd.put("hosts/a", "{}");
    receiver.wait_condition(1, "receiver", "up");
    // The receiver has stopped; its port stays open for senders that have not read the change.
    etcd.put("hosts/b", r#"{"enabled":false}"#);
    receiver.wait_status("its end", |status| status["tests"].as_array()?.is_empty().then_some(()));
    stays("no alarm", Duration::from_secs(3), || sender.logged("alarm raised") == 0);
    etcd.put("hosts/b", "{}");
    receiver.wait_condition(1, "receiver", "up");
}

/// A document whose name is an ID belongs to the test of that ID, even if its text contains another ID.
#[test]
fn id_in_document_name_takes_precedence_over_id_in_its_text() {
    let to = place();
    let named = format!("tests/b/{}.json", id(7));
    let bare = document(9, &to).replace(&format!("\"id\":\"{}\",", id(9)), "");
    let other = format!("tests/b/{}.json", id(8));
    let agent = Agent::with_dir("b", &[(&named, document(1, &to)), (&other, bare)], "");
    agent.wait_condition(7, "receiver", "up");
    agent.wait_condition(8, "receiver", "up");
    assert_eq!(agent.logged("is not the id in the document's key"), 1);
}
