//! Addresses that listeners bind, and the alarms raised for addresses that cannot be bound or resolved.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Agent, Trapd, address, stays, test_document, udp_port};

fn bound(status: &Value) -> Vec<(String, u64)> {
    let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
    let bound = listeners.into_iter().filter(|listener| listener["bound"] == true);
    bound
        .map(|listener| (listener["address"].as_str().unwrap().to_owned(), listener["tests"].as_u64().unwrap()))
        .collect()
}

#[test]
fn names_of_one_address_share_a_listener_and_a_wildcard_covers_it() {
    let port = udp_port("0.0.0.0");
    let document = |n, to: String| test_document(n, ("b", ""), ("b", &to), "");
    let agent = Agent::with_dir(
        "b",
        &[
            ("tests/b/1.json", document(1, format!("localhost:{port}"))),
            ("tests/b/2.json", document(2, format!("127.0.0.1:{port}"))),
            ("tests/b/3.json", document(3, format!("[::1]:{port}"))),
        ],
        "",
    );
    for n in 1..=3 {
        agent.wait_condition(n, "receiver", "up");
    }
    let expected = [(format!("127.0.0.1:{port}"), 2), (format!("[::1]:{port}"), 1)];
    assert_eq!(bound(&agent.status()), expected);

    // A wildcard address at the same port replaces the listener of the specific address, without an alarm.
    let wildcard =
        test_document(4, ("b", ""), ("b", &format!("127.0.0.9:{port}")), &format!(r#","listen":"0.0.0.0:{port}""#));
    agent.document("tests/b/4.json", &wildcard);
    let expected = [(format!("0.0.0.0:{port}"), 3), (format!("[::1]:{port}"), 1)];
    agent.wait_status("the wildcard", |status| (bound(status) == expected).then_some(()));
    for n in 1..=4 {
        agent.wait_condition(n, "receiver", "up");
    }
    assert_eq!(agent.logged("kind=\"config\"") + agent.raised("connection"), 0, "{}", agent.log());
}

#[test]
fn unbindable_and_unresolvable_addresses_raise_one_alarm_each() {
    let (trapd, addr) = (Trapd::start(), address());
    let taken = UdpSocket::bind((addr.as_str(), 0)).unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    let good = format!("{addr}:{}", udp_port(&addr));
    let document = |n, to: &str| test_document(n, ("b", "127.0.0.2:0"), ("b", to), r#","hold_down":"100ms""#);
    let agent = Agent::with_dir(
        "b",
        &[
            ("config.json", r#"{"alarm":{"hold_down":"100ms"}}"#.to_owned()),
            ("tests/b/1.json", document(1, &good)),
            ("tests/b/2.json", document(2, &taken_at)),
            ("tests/b/3.json", document(3, "192.0.2.1:8620").replace("\"from_host\":\"b\"", "\"from_host\":\"a\"")),
            ("tests/b/4.json", document(4, "nowhere.invalid:8620")),
        ],
        &trapd.sink("standard"),
    );
    agent.wait_condition(1, "receiver", "up");
    let texts: Vec<String> =
        (0..3).map(|n| trapd.wait_trap("ConfigFault", n).value("peerpairText.0").to_owned()).collect();
    for expected in [
        format!("cannot bind {taken_at}: another program uses it"),
        "cannot bind 192.0.2.1:8620: the address is not on this host".to_owned(),
        "name `nowhere.invalid` cannot be resolved".to_owned(),
    ] {
        assert!(texts.iter().any(|text| text.starts_with(&expected)), "{expected} is not in {texts:?}");
    }
    stays("each is told once", Duration::from_secs(3), || trapd.notifications(&["ConfigFault"]).len() == 3);
    assert_eq!(bound(&agent.status()), [(good, 1)]);

    // Once the port is free, the next attempt binds it and the alarm is cleared.
    drop(taken);
    let cleared = trapd.wait_trap("ConfigCleared", 0);
    assert_eq!(cleared.value("peerpairSubject.0"), format!("listener {taken_at}"));
    agent.wait_condition(2, "receiver", "up");
}
