//! What an agent does without its store, and with documents that are wrong as a whole.

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

/// The whole of it: kept on disk, used when the store is away, left for the store's word when it is back.
#[test]
fn an_agent_that_starts_while_its_store_is_away_runs_what_it_kept() {
    let (mut etcd, to) = (Etcd::of(Flavour::V3Of34), place());
    etcd.put("tests/b/1", &document(1, &to));
    etcd.put("tests/b/2", &document(2, &to));
    let mut agent = Agent::with_etcd("b", etcd.port(), "");
    agent.wait_condition(2, "receiver", "up");
    // The last good version of a document that has gone bad is kept, not the bad one.
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
    assert_eq!(agent.logged("going on with the config that was kept"), 1, "{}", agent.log());

    etcd.restart();
    agent.wait_status("the store", |status| (status["store"]["state"] == "current").then_some(()));
    let status = agent.status();
    // Still bad, and its last good version of before the restart is in force.
    assert_eq!(status["store"]["rejected"][0]["last_good_in_force"], true);
    assert_eq!(test(&status, 2, "receiver").unwrap()["condition"], "up");
}

/// Waits until what is kept on disk holds these words.
fn wait_kept(agent: &Agent, words: &str) {
    wait_for("the config on disk", || {
        let files = std::fs::read_dir(agent.path("state")).ok()?;
        let names = files.map(|file| file.unwrap().path());
        let kept = names.filter(|path| is_kept_config(path));
        kept.filter_map(|path| std::fs::read_to_string(path).ok()).any(|text| text.contains(words)).then_some(())
    });
}

/// The newest copy, not what is still written, or was before.
fn is_kept_config(path: &std::path::Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.starts_with("config-b-") && !name.contains('.')
}

#[test]
fn what_was_kept_is_used_only_if_it_is_whole_and_of_this_store() {
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
    // The newest is damaged: the one before it is whole.
    let path = kept();
    let mut octets = std::fs::read(&path).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    std::fs::write(&path, octets).unwrap();
    agent.restart();
    agent.wait_condition(1, "receiver", "up");
    assert!(test(&agent.status(), 2, "receiver").is_none());
    agent.kill();
    // Of another store, it is not used.
    let text = std::fs::read_to_string(agent.path("peerpair.toml")).unwrap();
    let other = text.replace("kind = \"etcd\"\n", "kind = \"etcd\"\nprefix = \"/other\"\n");
    agent.file("peerpair.toml", &other);
    agent.restart();
    wait_for("word of it", || (agent.logged("is of another store, and is not used") == 1).then_some(()));
    stays("nothing runs", Duration::from_secs(7), || agent.status()["tests"].as_array().unwrap().is_empty());
    assert_eq!(agent.status()["store"]["state"], "waiting");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named_and_stops_nothing() {
    let to = place();
    let agent = Agent::with_files("b", &[("tests/b/1.json", document(1, &to))], "", &[("state/config-x", "")]);
    agent.wait_condition(1, "receiver", "up");
    wait_kept(&agent, "tests/b/1");
    let directory = agent.path("state");
    std::fs::rename(&directory, agent.path("aside")).unwrap();
    std::fs::write(&directory, "a file").unwrap();
    agent.document("tests/b/2.json", &document(2, &to));
    agent.wait_condition(2, "receiver", "up");
    wait_for("word of it", || (agent.logged("the config cannot be kept on disk") == 1).then_some(()));
}

#[test]
fn documents_for_newer_agents_change_nothing() {
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

/// Nor after a restart: what was kept is in force, and the reason why is still shown.
#[test]
fn documents_for_newer_agents_change_nothing_after_a_restart() {
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

/// A test moves to another port. Its sender hears of that first, then its receiver; then the other way
/// round. Nobody is told of a loss that is none.
#[test]
fn a_test_that_moves_raises_nothing_at_the_end_that_hears_of_it_later() {
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

/// Everything is switched off in one document. Both ends hear of it, one later than the other: nobody
/// is told of a loss.
#[test]
fn all_switched_off_raises_nothing_at_those_who_hear_of_it_later() {
    let (etcd, to) = (Etcd::of(Flavour::V3Of34), place());
    let text = test_document(1, ("a", "127.0.0.2:0"), ("b", &to), "");
    etcd.put_test(["a", "b"], "1", &text);
    let (sender, receiver) = (Agent::with_etcd("a", etcd.port(), ""), Agent::with_etcd("b", etcd.port(), ""));
    receiver.wait_condition(1, "receiver", "up");
    // The sender stops, its receiver does not know why yet: ten intervals and more of silence.
    etcd.put("hosts/a", r#"{"enabled":false}"#);
    sender.wait_status("its end", |status| status["tests"].as_array()?.is_empty().then_some(()));
    receiver.wait_condition(1, "receiver", "paused");
    stays("no alarm", Duration::from_secs(3), || receiver.logged("alarm raised") == 0);
    etcd.put("hosts/a", "{}");
    receiver.wait_condition(1, "receiver", "up");
    // The receiver stops; the port stays open to a sender that has not heard of it.
    etcd.put("hosts/b", r#"{"enabled":false}"#);
    receiver.wait_status("its end", |status| status["tests"].as_array()?.is_empty().then_some(()));
    stays("no alarm", Duration::from_secs(3), || sender.logged("alarm raised") == 0);
    etcd.put("hosts/b", "{}");
    receiver.wait_condition(1, "receiver", "up");
}

/// A document that is named by an id is about the test of that id.
#[test]
fn the_id_in_a_documents_name_goes_before_the_one_in_it() {
    let to = place();
    let named = format!("tests/b/{}.json", id(7));
    let bare = document(9, &to).replace(&format!("\"id\":\"{}\",", id(9)), "");
    let other = format!("tests/b/{}.json", id(8));
    let agent = Agent::with_dir("b", &[(&named, document(1, &to)), (&other, bare)], "");
    agent.wait_condition(7, "receiver", "up");
    agent.wait_condition(8, "receiver", "up");
    assert_eq!(agent.logged("is not the id in the document's name"), 1);
}
