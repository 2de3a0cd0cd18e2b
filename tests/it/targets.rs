//! Tests of targets that need no agent at the other end, judged at the sender.

use std::net::TcpListener;

use crate::support::{Agent, Trapd, http, id, test, udp_port, wait_for};

fn target_test(n: u8, target: &str, more: &str) -> String {
    format!(
        r#"{{"id":"{}","description":"web server","protocol":"tcp","from_host":"b","target":"{target}",
            "send_every":"100ms","startup_grace":"1s","hold_down":"200ms"{more}}}"#,
        id(n)
    )
}

#[test]
fn tcp_target_is_up_while_its_port_is_open_and_down_with_the_reason_when_it_closes() {
    let trapd = Trapd::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let path = "tests/b/1.json";
    let agent = Agent::with_dir("b", &[(path, target_test(1, &target.to_string(), ""))], &trapd.sink("standard"));
    agent.wait_condition(1, "sender", "up");
    // At its first start an agent does not know what its receivers hold, so that it sends the state once.
    trapd.wait_trap("ConnectionUp", 0);
    let status = agent.wait_status("a measured delay", |status| {
        let status = test(status, 1, "sender")?;
        (status["statistics"]["total"]["received"].as_u64()? > 5).then(|| status.clone())
    });
    let delay = status["last_delay"].as_f64().unwrap();
    assert!((0.0..1.0).contains(&delay), "{status}");
    let (_, page) = http(agent.web_port(), "GET", "/", "").unwrap();
    assert!(page.contains("web server") && page.contains(&target.to_string()), "{page}");

    drop(listener);
    let trap = trapd.wait_trap("ConnectionDown", 0);
    assert_eq!(trap.value("peerpairToHost.0"), "127.0.0.1");
    assert_eq!(trap.value("peerpairTo.0"), target.to_string());
    let text = trap.value("peerpairText.0");
    assert!(text.starts_with(&format!("connect to {target}: connection refused, nothing listens there")), "{text}");
    let _listener = TcpListener::bind(target).unwrap();
    trapd.wait_trap("ConnectionUp", 1);

    // Another target of the same test takes effect in place; a removed test has no status any more.
    let other = format!("127.0.0.1:{}", udp_port("127.0.0.1"));
    agent.document(path, &target_test(1, &other, ""));
    wait_for("the other target", || {
        let alarms = agent.status()["alarms"].as_array()?.clone();
        alarms.iter().any(|alarm| alarm["text"].as_str().is_some_and(|text| text.contains(&other))).then_some(())
    });
    agent.remove_document(path);
    agent.wait_status("no test", |status| status["tests"].as_array()?.is_empty().then_some(()));
}

#[test]
fn target_that_never_answers_is_down_after_its_grace() {
    let target = format!("127.0.0.1:{}", udp_port("127.0.0.1"));
    let agent = Agent::with_dir("b", &[("tests/b/1.json", target_test(1, &target, ""))], "");
    let status = agent.wait_condition(1, "sender", "down");
    assert_eq!((status["protocol"].as_str(), status["to"].as_str()), (Some("tcp"), Some(target.as_str())));
    let raised = format!("alarm raised: b → {target}: connect to {target}: connection refused");
    wait_for("the alarm", || (agent.logged(&raised) == 1).then_some(()));
    // No probe has ever reached it: all of them count as lost.
    let lost = agent.wait_status("lost probes", |status| {
        Some(test(status, 1, "sender")?["statistics"]["total"].clone()).filter(|total| total["lost"] != 0)
    });
    assert_eq!((lost["received"].as_u64(), lost["loss"].as_f64()), (Some(0), Some(1.0)), "{lost}");
}

/// The host of a target is the host that several tests have in common, and the direction is towards it.
#[test]
fn dead_targets_of_one_host_are_one_alarm_that_names_the_host() {
    let (trapd, alive) = (Trapd::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    let dead: Vec<(String, String)> = (1..=4)
        .map(|n| (format!("tests/b/{n}.json"), target_test(n, &format!("127.0.0.9:{}", udp_port("127.0.0.9")), "")))
        .collect();
    let mut documents: Vec<(&str, String)> = dead.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    documents.push(("tests/b/5.json", target_test(5, &alive.local_addr().unwrap().to_string(), "")));
    let agent = Agent::with_dir("b", &documents, &trapd.sink("standard"));
    let trap = trapd.wait_trap("GroupDown", 0);
    assert_eq!(trap.value("peerpairSubject.0"), "host 127.0.0.9");
    let text = trap.value("peerpairText.0");
    assert!(text.starts_with("all 4 tests to host 127.0.0.9 went down together"), "{text}");
    wait_for("the log", || (agent.logged("alarm raised: b → 127.0.0.9: all 4 tests") == 1).then_some(()));
    let raised = "peerpair_alarm_raised{kind=\"connection\",subject=\"host 127.0.0.9\"";
    let line = wait_for("the metric", || {
        agent.get("/metrics")?.lines().find(|line| line.starts_with(raised)).map(str::to_owned)
    });
    assert!(line.contains("from=\"b\",to=\"127.0.0.9\""), "{line}");
}
