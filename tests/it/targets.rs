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
    assert_eq!(trap.value("peerpairToHost.0"), target.to_string());
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
    agent.wait_condition(1, "sender", "down");
    assert_eq!(agent.logged("alarm raised: b → 127.0.0.1"), 1, "{}", agent.log());
}
