//! Agents whose config store fails, hangs, is rolled back or holds invalid documents: running tests continue without
//! interruption, and later changes take effect.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{
    Agent, Etcd, Flavour, address, http, id, spawn, stays, tcp_port, test_document, udp_port, wait_for,
};

struct Pair {
    etcd: Etcd,
    sender: Agent,
    receiver: Agent,
    to: String,
}

/// Starts an etcd and two agents with one test between them, and waits until it is up.
fn pair(flavour: Flavour) -> Pair {
    pair_of(Etcd::of(flavour))
}

fn pair_of(etcd: Etcd) -> Pair {
    let addr = address();
    let to = format!("{addr}:{}", udp_port(&addr));
    etcd.put_test(["a", "b"], "one", &test_document(1, ("a", "127.0.0.2:0"), ("b", &to), ""));
    let sender = Agent::with_etcd("a", etcd.port(), "");
    let receiver = Agent::with_etcd("b", etcd.port(), "");
    receiver.wait_condition(1, "receiver", "up");
    Pair { etcd, sender, receiver, to }
}

impl Pair {
    /// Returns the time since when the test is up, and the numbers of received and sent probes; an interruption would
    /// reset them.
    fn progress(&self) -> (String, u64, u64) {
        let test = self.receiver.wait_condition(1, "receiver", "up");
        let sent =
            self.sender.status()["senders"].as_array().unwrap().iter().find(|s| s["id"] == id(1)).unwrap().clone();
        let received = test["counters"]["received"].as_u64().unwrap();
        (test["since"].as_str().unwrap().to_owned(), received, sent["sent"].as_u64().unwrap())
    }

    /// Runs a closure, and checks that the test continued meanwhile without interruption; up to five probes may still
    /// be on their way.
    #[track_caller]
    fn uninterrupted<T>(&mut self, during: impl FnOnce(&mut Pair) -> T) -> T {
        let (since, received, sent) = self.progress();
        let outcome = during(self);
        let (since_now, received_now, sent_now) = wait_for("more probes", || {
            let progress = self.progress();
            (progress.1 > received + 10).then_some(progress)
        });
        assert_eq!(since_now, since);
        assert!(
            sent_now > sent && received_now + 5 >= sent_now - sent + received,
            "{received} {sent} {received_now} {sent_now}"
        );
        outcome
    }

    #[track_caller]
    fn goes_on(&mut self) {
        self.uninterrupted(|_| ());
    }

    fn wait_connected(&self, connected: bool) {
        for agent in [&self.sender, &self.receiver] {
            agent.wait_status("the store's state", |status| (status["store"]["connected"] == connected).then_some(()));
        }
    }

    /// Adds a test to the store, waits until it is up, and removes it again.
    #[track_caller]
    fn change_is_picked_up(&self) {
        self.change_is_picked_up_from(&self.etcd);
    }

    #[track_caller]
    fn change_is_picked_up_from(&self, etcd: &Etcd) {
        etcd.put_test(["a", "b"], "two", &test_document(2, ("a", "127.0.0.2:0"), ("b", &self.to), ""));
        self.receiver.wait_condition(2, "receiver", "up");
        for host in ["a", "b"] {
            etcd.delete(&format!("tests/{host}/two"));
        }
        self.wait_tests(1);
    }

    /// Waits until both agents run exactly this number of tests.
    #[track_caller]
    fn wait_tests(&self, number: usize) {
        for agent in [&self.sender, &self.receiver] {
            agent.wait_status("the tests that there are", |status| {
                (status["tests"].as_array()?.len() == number).then_some(())
            });
        }
    }

    fn no_alarms(&self) {
        for agent in [&self.sender, &self.receiver] {
            agent.wait_status("no alarm", |status| status["alarms"].as_array()?.is_empty().then_some(()));
        }
    }
}

/// Runs these tests with either API of etcd 3.4, and with etcd 3.5.
macro_rules! with_each_etcd {
    ($($test:ident)*) => {
        mod v2_of_etcd_3_4 {
            $(#[test] fn $test() { super::$test(crate::support::Flavour::V2Of34) })*
        }
        with_each_v3! { $($test)* }
    };
}

macro_rules! with_each_v3 {
    ($($test:ident)*) => { with_each_v3! { @ v3_of_etcd_3_4 V3Of34 $($test)* } with_each_v3! { @ v3_of_etcd_3_5 V3Of35 $($test)* } };
    (@ $module:ident $flavour:ident $($test:ident)*) => {
        mod $module {
            $(#[test] fn $test() { super::$test(crate::support::Flavour::$flavour) })*
        }
    };
}

with_each_etcd! { killed_and_restarted terminated_and_restarted hangs set_back_to_an_older_state }

fn killed_and_restarted(flavour: Flavour) {
    let mut pair = pair(flavour);
    pair.uninterrupted(|pair| {
        pair.etcd.kill();
        pair.wait_connected(false);
        pair.receiver.wait_status("that it is stale", |status| (status["store"]["state"] == "stale").then_some(()));
        pair.etcd.restart();
        pair.wait_connected(true);
        pair.change_is_picked_up();
    });
    assert_eq!(pair.receiver.logged("store lost, tests continue"), 1, "{}", pair.receiver.log());
    pair.no_alarms();
}

fn terminated_and_restarted(flavour: Flavour) {
    let mut pair = pair(flavour);
    pair.uninterrupted(|pair| {
        pair.etcd.terminate();
        pair.wait_connected(false);
        pair.etcd.restart();
        pair.wait_connected(true);
        pair.change_is_picked_up();
    });
    pair.no_alarms();
}

fn hangs(flavour: Flavour) {
    let mut pair = pair(flavour);
    pair.uninterrupted(|pair| {
        pair.etcd.pause();
        // An agent that starts while etcd hangs logs that once, waits, and connects when etcd answers.
        let late = Agent::with_etcd("b2", pair.etcd.port(), "");
        late.wait_status("the hang to be noticed", |status| status["store"]["error"].as_str().map(str::to_owned));
        pair.etcd.resume();
        late.wait_status("the store", |status| (status["store"]["connected"] == true).then_some(()));
        assert_eq!(late.logged("store not reached yet"), 1, "{}", late.log());
        pair.change_is_picked_up();
    });
}

/// A restored snapshot continues at an earlier revision: agents apply its documents and report the rollback.
fn set_back_to_an_older_state(flavour: Flavour) {
    let mut pair = pair(flavour);
    pair.uninterrupted(|pair| {
        let (receiver, sender, to) = (&pair.receiver, &pair.sender, &pair.to);
        pair.etcd.roll_back(|etcd| {
            for n in 2..8 {
                etcd.put_test(["a", "b"], &n.to_string(), &test_document(n, ("a", "127.0.0.2:0"), ("b", to), ""));
            }
            receiver.wait_condition(7, "receiver", "up");
        });
        for agent in [receiver, sender] {
            agent.wait_status("the older state", |status| (status["tests"].as_array()?.len() == 1).then_some(()));
            assert_eq!(agent.status()["store"]["rollbacks"], 1, "{}", agent.log());
            assert_eq!(agent.logged("store_rolled_back"), 1);
        }
        // The next revisions have numbers that lost changes had before; they must be applied nevertheless.
        pair.change_is_picked_up();
    });
    pair.no_alarms();
}

#[test]
fn agent_waits_for_an_etcd_that_is_unreachable_at_start() {
    let (mut etcd, addr) = (Etcd::not_started(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let agent = Agent::with_etcd("b", etcd.port(), "");
    wait_for("the log line", || (agent.logged("store not reached yet") == 1).then_some(()));
    // The alarm for the unreachable store is raised only after `store_patience`.
    stays("it is said once", Duration::from_secs(3), || {
        agent.logged("store not reached yet") == 1 && agent.logged("alarm raised") == 0
    });
    let (status, body) = http(agent.web_port(), "GET", "/healthz", "").unwrap();
    assert_eq!(status, 200, "an agent that waits is not sick");
    assert!(body.contains("\"configured\":false"), "{body}");
    etcd.restart();
    etcd.put_test(["b"], "one", &test_document(1, ("b", "127.0.0.2:0"), ("b", &to), ""));
    agent.wait_condition(1, "receiver", "up");
    wait_for("the alarm's end", || agent.status()["alarms"].as_array()?.is_empty().then_some(()));
}

#[test]
fn change_is_applied_after_more_writes_than_the_v2_event_history() {
    let mut pair = pair(Flavour::V2Of34);
    for n in 0..1010 {
        pair.etcd.put("elsewhere/x", &n.to_string());
    }
    pair.change_is_picked_up();
    pair.goes_on();
}

#[test]
fn invalid_document_is_rejected_and_its_last_good_version_kept() {
    let mut pair = pair(Flavour::V3Of34);
    let bad = test_document(1, ("a", "127.0.0.2:0"), ("b", &pair.to), r#","expect_every":"soon""#)
        .replace(r#""expect_every":"200ms","#, "");
    pair.etcd.put_test(["a", "b"], "one", &bad);
    pair.receiver.wait_status("the rejection", |status| {
        let rejected = status["store"]["rejected"].as_array()?.first()?.clone();
        assert_eq!(rejected["document"], "tests/b/one");
        assert_eq!(rejected["last_good_in_force"], true);
        rejected["reasons"][0].as_str()?.starts_with("tests/b/one: expect_every: ").then_some(())
    });
    pair.goes_on();
    wait_for("its alarm", || (pair.receiver.status()["alarms"].as_array()?.len() == 1).then_some(()));
    pair.etcd.put_test(["a", "b"], "one", &test_document(1, ("a", "127.0.0.2:0"), ("b", &pair.to), ""));
    wait_for("the alarm's end", || pair.receiver.status()["alarms"].as_array()?.is_empty().then_some(()));
    pair.goes_on();
}

#[test]
fn server_without_the_v2_api_is_reported() {
    let (client, peer) = (tcp_port(), tcp_port());
    let directory = tempfile::tempdir().unwrap();
    let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new("etcd");
    command
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--data-dir"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _etcd = spawn(&mut command, "etcd-server");
    wait_for("etcd", || http(client, "GET", "/version", "").ok());
    let agent = Agent::with_store("b", &format!("endpoints = [\"http://127.0.0.1:{client}\"]\napi = \"v2\"\n"), "");
    let problem = agent.wait_status("the problem", |status| status["store"]["error"].as_str().map(str::to_owned));
    assert!(problem.contains("does not answer the v2 API") && problem.contains("--enable-v2=true"), "{problem}");
}

#[test]
fn tests_continue_when_the_directory_is_missing_or_replaced() {
    let addr = address();
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = |n| test_document(n, ("b", "127.0.0.2:0"), ("b", &to), "");
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document(1))], "");
    agent.wait_condition(1, "receiver", "up");
    // A missing directory is not an empty one: the test continues.
    let (documents, excluded) = (agent.path("documents"), agent.path("aside"));
    std::fs::rename(&documents, &excluded).unwrap();
    agent.wait_status("the loss", |status| (status["store"]["connected"] == false).then_some(()));
    agent.wait_condition(1, "receiver", "up");
    // A new directory in its place is read.
    agent.document("tests/b/2.json", &document(2));
    agent.wait_condition(2, "receiver", "up");
    agent.wait_status("the first test's end", |status| (status["tests"].as_array()?.len() == 2).then_some(()));
}

/// A named pipe in the directory is rejected without being opened, since reading it might never end.
#[test]
fn named_pipe_in_the_directory_is_rejected_without_blocking() {
    let addr = address();
    let to = format!("{addr}:{}", udp_port(&addr));
    let mut agent =
        Agent::with_dir("b", &[("tests/b/1.json", test_document(1, ("b", "127.0.0.2:0"), ("b", &to), ""))], "");
    agent.wait_condition(1, "receiver", "up");
    nix::unistd::mkfifo(&agent.path("documents/tests/b/2.json"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    agent.wait_status("the rejection", |status| {
        let rejected = status["store"]["rejected"].as_array()?.first()?;
        rejected["reasons"][0].as_str()?.contains("not a regular file").then_some(())
    });
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
}

/// Documents with extreme values are rejected one by one and do not affect any other document.
#[test]
fn documents_with_extreme_values_are_rejected_one_by_one() {
    let addr = address();
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = |n, more: &str| test_document(n, ("b", "127.0.0.2:0"), ("b", &to), more);
    let long = |n, field: &str, value: &str| document(n, "").replace(field, value);
    let agent = Agent::with_dir(
        "b",
        &[
            ("tests/b/1.json", document(1, "")),
            ("tests/b/2.json", long(2, "\"100ms\"", "\"99999999999 years\"")),
            ("tests/b/3.json", long(3, "\"200ms\"", "\"18446744073709551615s 1000ms\"")),
            ("tests/b/4.json", document(4, r#","hold_down":"900000000 years""#)),
            ("tests/b/5.json", long(5, "\"raise_after\":3", "\"raise_after\":4294967295")),
            ("tests/b/6.json", long(6, "\"200ms\"", "\"366days\"").replace("\"1s\"", "\"366days\"")),
        ],
        "",
    );
    agent.wait_condition(1, "receiver", "up");
    agent.wait_condition(6, "receiver", "up");
    let status = agent.status();
    let rejected: Vec<&str> = status["store"]["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rejected| rejected["document"].as_str().unwrap())
        .collect();
    assert_eq!(rejected, ["tests/b/2", "tests/b/3", "tests/b/4", "tests/b/5"]);
    assert_eq!(status["restarts"]["watcher"], 0);
}
