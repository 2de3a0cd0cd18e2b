//! Lifecycle of an agent process: signals, the bootstrap file, the health and status pages, and the CPU time at rest.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Agent, address, alone, http, spawn, tcp_port, test_document, udp_port, wait_for, write};

fn loopback_test(n: u8) -> String {
    let addr = address();
    test_document(n, ("b", "127.0.0.2:0"), ("b", &format!("{addr}:{}", udp_port(&addr))), "")
}

#[test]
fn sigterm_and_sigint_stop_the_agent_with_exit_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = Agent::with_dir("b", &[("tests/b/1.json", loopback_test(1))], "");
        agent.wait_condition(1, "receiver", "up");
        agent.signal(signal);
        assert_eq!(agent.wait_exit().code(), Some(0));
        assert_eq!((agent.logged("stopping"), agent.logged("stopped")), (1, 1), "{}", agent.log());
        assert_eq!(agent.logged("ERROR"), 0, "{}", agent.log());
    }
}

#[test]
fn sighup_reads_the_bootstrap_file_again() {
    let agent = Agent::with_dir("b", &[("tests/b/1.json", loopback_test(1))], "");
    agent.wait_condition(1, "receiver", "up");
    let before = agent.status();
    let received = |status: &serde_json::Value| status["tests"][0]["counters"]["received"].as_u64();
    let file = agent.path("peerpair.toml");
    let good = std::fs::read_to_string(&file).unwrap();

    // An invalid file changes nothing, and the reason is logged.
    write(&file, &good.replace("kind = \"log\"", "kind = \"lgo\""));
    agent.signal(Signal::SIGHUP);
    wait_for("the log line", || (agent.logged("the last good one remains in force") == 1).then_some(()));
    assert_eq!(agent.logged("did you mean `log`?"), 1, "{}", agent.log());

    // The new file moves the status page and adds a sink; the tests stay unchanged.
    let port = tcp_port();
    let moved = good.replace(&format!(":{}\"", agent.web_port()), &format!(":{port}\""));
    write(&file, &format!("{moved}\n[[sink]]\nname = \"second\"\nkind = \"log\"\n"));
    agent.signal(Signal::SIGHUP);
    let after = wait_for("the page at its new place with both sinks", || {
        let (_, body) = http(port, "GET", "/status.json", "").ok()?;
        let status: serde_json::Value = serde_json::from_str(&body).ok()?;
        let more = received(&status)? > received(&before)?;
        (status["sinks"].as_array()?.len() == 2 && more).then_some(status)
    });
    assert_eq!(after["started"], before["started"]);
    assert_eq!(after["tests"][0]["since"], before["tests"][0]["since"], "the test was not touched");
    assert_eq!(agent.logged("alarm raised"), 0, "{}", agent.log());
    wait_for("the old page to be gone", || http(agent.web_port(), "GET", "/healthz", "").is_err().then_some(()));
}

#[test]
fn health_and_status_contain_every_expected_field() {
    let agent = Agent::with_dir("b", &[("tests/b/1.json", loopback_test(1))], "");
    agent.wait_condition(1, "receiver", "up");
    let (code, health) = http(agent.web_port(), "GET", "/healthz", "").unwrap();
    assert_eq!(code, 200);
    assert!(health.contains("\"status\":\"ok\""), "{health}");
    let status = agent.wait_status("everybody's part", |status| {
        let sender_up = status["senders"][0]["condition"] == "up";
        (sender_up && !status["sinks"].as_array()?.is_empty()).then(|| status.clone())
    });
    for path in [
        "/host",
        "/store/kind",
        "/store/connected",
        "/store/revision",
        "/store/config_age_seconds",
        "/store/rejected",
        "/listeners/0/address",
        "/senders/0/sent",
        "/tests/0/id",
        "/tests/0/description",
        "/tests/0/role",
        "/tests/0/condition",
        "/tests/0/since",
        "/alarms",
        "/sinks/0/notified",
        "/sinks/0/pending",
        "/sinks/0/held",
        "/restarts/listener",
        "/restarts/sender",
        "/restarts/watcher",
        "/restarts/alarm",
        "/restarts/sink",
        "/restarts/clock",
    ] {
        assert!(status.pointer(path).is_some_and(|value| !value.is_null()), "{path} is missing in {status:#}");
    }
    let delay = status["tests"][0]["last_delay"].as_f64().unwrap();
    assert!((0.0..1.0).contains(&delay), "{delay} s over loopback");
}

/// The program that this agent replaces used a whole core at rest.
#[test]
fn ten_tests_use_less_than_one_percent_of_a_core() {
    let _alone = alone();
    let documents: Vec<(String, String)> = (0..10)
        .map(|n| {
            (
                format!("tests/b/{n}.json"),
                loopback_test(n).replace("\"100ms\",\"expect_every\":\"200ms\"", "\"1s\",\"expect_every\":\"2s\""),
            )
        })
        .collect();
    let files: Vec<(&str, String)> = documents.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let agent = Agent::with_dir("b", &files, "");
    for n in 0..10 {
        agent.wait_condition(n, "receiver", "up");
    }
    let stat = format!("/proc/{}/stat", agent.pid());
    let ticks = || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        fields[0] + fields[1]
    };
    let (before, begun) = (ticks(), Instant::now());
    // The sleep is no wait for a condition: the CPU time of these ten seconds is the measurement.
    std::thread::sleep(Duration::from_secs(10));
    let share = (ticks() - before) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    assert!(share < 0.01, "{:.2} % of a core", share * 100.0);
}

/// A full disk behind standard error must not end the agent, although no log line can be written.
#[test]
fn agent_continues_when_the_log_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let port = tcp_port();
    let text = format!(
        "host = \"b\"\nstate_dir = \"state\"\n[store]\nkind = \"dir\"\npath = \".\"\n[web]\nlisten = \"127.0.0.1:{port}\"\n"
    );
    write(&directory.path().join("peerpair.toml"), &text);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command.arg("run").arg("--config").arg(directory.path().join("peerpair.toml"));
    command.stderr(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let mut agent = spawn(&mut command, "peerpair");
    wait_for("the documents", || {
        let (_, body) = http(port, "GET", "/healthz", "").ok()?;
        body.contains("\"configured\":true").then_some(())
    });
    assert_eq!(agent.ended(), None);
    agent.signal(Signal::SIGTERM);
    let status = wait_for("its end", || agent.ended());
    assert_eq!(status.code(), Some(0));
}
