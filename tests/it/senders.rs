//! Probes as senders put them on the wire, and the faults that keep senders from sending. The tests receive the
//! probes with a socket of their own.

use std::net::UdpSocket;
use std::time::Duration;

use peerpair::pure::stamp::json_v1::JsonProbe;
use peerpair::pure::stamp::packet::{Probe, flag};

use nix::sys::signal::Signal;

use crate::support::{Agent, Trapd, address, id, test, test_document, udp_port, wait_for};

const SOON: Duration = Duration::from_secs(10);

/// Opens a socket that receives probes, and returns it with its address.
fn receiver(addr: &str) -> (UdpSocket, String) {
    let socket = UdpSocket::bind((addr, 0)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let at = socket.local_addr().unwrap().to_string();
    (socket, at)
}

fn next_probe(socket: &UdpSocket) -> (Probe, String) {
    let mut octets = [0; 2048];
    let (len, source) = socket.recv_from(&mut octets).expect("a probe in time");
    assert_eq!(len, 108);
    (Probe::decode(&octets[..len]).unwrap(), source.to_string())
}

fn set_out(n: u8, from: &str, to: &str, more: &str) -> String {
    test_document(n, ("b", from), ("elsewhere", to), more)
}

#[test]
fn probes_have_the_specified_fields_and_the_last_announces_the_stop() {
    let (socket, to) = receiver(&address());
    let from = address();
    let mut agent = Agent::with_dir("b", &[("tests/b/1.json", set_out(1, &format!("{from}:0"), &to, ""))], "");
    let (first, source) = next_probe(&socket);
    assert_eq!((first.sequence, first.flags & flag::STOPS), (0, 0));
    assert_eq!(first.test_id.to_string(), id(1));
    assert_eq!(first.send_every, Duration::from_millis(100));
    assert_eq!(first.unsent, 0);
    assert!(first.ssid != 0 && source.starts_with(&from), "{source}");
    let (second, same_source) = next_probe(&socket);
    assert_eq!((second.sequence, second.epoch, same_source), (1, first.epoch, source));
    assert_eq!(second.flags, flag::CORRECTION_VALID);

    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
    let mut last = next_probe(&socket).0;
    while last.flags & flag::STOPS == 0 {
        last = next_probe(&socket).0;
    }
}

/// Changing some documents must leave the epochs and sequence numbers of other tests without a gap, and also those of
/// the test whose interval changed.
#[test]
fn changed_documents_affect_only_their_own_tests() {
    let (socket, to) = receiver(&address());
    let document = |n, more: &str| set_out(n, "127.0.0.2:0", &to, more);
    let listening = address();
    let listen_at = format!("{listening}:{}", udp_port(&listening));
    let agent = Agent::with_dir(
        "b",
        &[
            ("tests/b/1.json", document(1, "")),
            ("tests/b/2.json", document(2, "")),
            ("tests/b/3.json", document(3, "")),
            ("tests/b/4.json", test_document(4, ("b", "127.0.0.2:0"), ("b", &listen_at), "")),
        ],
        "",
    );
    agent.wait_condition(4, "receiver", "up");
    let mut last: [Option<Probe>; 3] = [None, None, None];
    let mut sources = std::collections::BTreeSet::new();
    let mut changed = false;
    let mut seen_after = [0; 3];
    while seen_after[1] < 20 || seen_after[0] < 20 {
        let (probe, source) = next_probe(&socket);
        sources.insert(source);
        let n = usize::from(probe.test_id.to_bytes()[15]) - 1;
        if let Some(before) = &last[n] {
            assert_eq!((probe.epoch, probe.sequence), (before.epoch, before.sequence + 1), "test {}", n + 1);
        }
        if changed {
            seen_after[n] += 1;
        }
        last[n] = Some(probe);
        if !changed && last.iter().all(Option::is_some) {
            agent.document("tests/b/1.json", &document(1, "").replace("\"100ms\"", "\"50ms\""));
            agent.remove_document("tests/b/3.json");
            agent.document(
                "tests/b/4.json",
                &test_document(4, ("b", "127.0.0.2:0"), ("b", &listen_at), r#","max_latency":"1s""#),
            );
            wait_for("the change", || (agent.status()["store"]["revision"].as_u64()? > 1).then_some(()));
            changed = true;
        }
    }
    assert_eq!(last[0].as_ref().unwrap().send_every, Duration::from_millis(50));
    assert_eq!(sources.len(), 1, "one source address is one socket");
    // The counters continue: the receive session got new parameters and was not created again.
    let status = agent.wait_status("the listener's test with its limit", |status| {
        let test = status["tests"]
            .as_array()?
            .iter()
            .find(|test| test["id"] == id(4).as_str() && test["role"] == "receiver")?;
        (test["conditions"]["latency"] == "up").then(|| test.clone())
    });
    let sent = agent.wait_status("its sender", |status| {
        status["senders"].as_array()?.iter().find(|sender| sender["id"] == id(4).as_str())?["sent"].as_u64()
    });
    let received = status["counters"]["received"].as_u64().unwrap();
    assert!(received > 10 && received <= sent + 1 && status["counters"]["duplicates"] == 0, "{received} of {sent}");
}

#[test]
fn icmp_error_raises_sender_fault_with_its_cause_and_clears() {
    let (trapd, addr) = (Trapd::start(), address());
    let port = udp_port(&addr);
    let to = format!("{addr}:{port}");
    let (other, other_at) = receiver(&address());
    let more = r#","hold_down":"100ms""#;
    let agent = Agent::with_dir(
        "b",
        &[
            ("tests/b/1.json", set_out(1, "127.0.0.2:0", &to, more)),
            ("tests/b/2.json", set_out(2, "127.0.0.2:0", &other_at, more)),
            ("tests/b/3.json", set_out(3, "127.0.0.2:0", "192.0.2.1:8620", more)),
        ],
        &trapd.sink("standard"),
    );
    let texts: Vec<String> =
        (0..2).map(|n| trapd.wait_trap("SenderFault", n).value("peerpairText.0").to_owned()).collect();
    assert!(
        texts.iter().any(|text| text.contains(&format!("send to {to}: port unreachable, nothing listens there"))),
        "{texts:?}"
    );
    assert!(texts.iter().any(|text| text.starts_with("send to 192.0.2.1:8620: ")), "{texts:?}");
    // Another test that shares the socket must lose no probe to the errors of the first.
    let mut before = next_probe(&other).0.sequence;
    for _ in 0..20 {
        let sequence = next_probe(&other).0.sequence;
        assert_eq!(sequence, before + 1);
        before = sequence;
    }
    let status = agent.status();
    let innocent =
        status["senders"].as_array().unwrap().iter().find(|sender| sender["id"] == id(2).as_str()).unwrap().clone();
    assert_eq!(innocent["errors"], 0);

    // Open the missing port, so that the fault ends.
    let _heals = UdpSocket::bind(&to).unwrap();
    let good = wait_for("the good news of it", || {
        let traps = trapd.traps();
        traps.into_iter().find(|trap| {
            trap.notification.ends_with("SenderCleared")
                && trap.value("peerpairTestId.0") == id(1)
                && trap.value("peerpairText.0").starts_with("good again after ")
        })
    });
    assert_eq!(good.value("peerpairSeverity.0"), "cleared(1)");
}

/// Two agents run tests from and to the same fixed ports, as documents of the original program do.
#[test]
fn sender_and_listener_share_one_port() {
    let (a, b) = (address(), address());
    let (at_a, at_b) = (format!("{a}:{}", udp_port(&a)), format!("{b}:{}", udp_port(&b)));
    let there = test_document(1, ("a", &at_a), ("b", &at_b), "");
    let back = test_document(2, ("b", &at_b), ("a", &at_a), "");
    let agents = ["a", "b"].map(|host| {
        let (one, two) = (format!("tests/{host}/1.json"), format!("tests/{host}/2.json"));
        Agent::with_dir(host, &[(one.as_str(), there.clone()), (two.as_str(), back.clone())], "")
    });
    agents[1].wait_condition(1, "receiver", "up");
    agents[0].wait_condition(2, "receiver", "up");
    for agent in &agents {
        // Unreachable-port alarms of the senders are correct until both ports are bound, so they are not counted.
        assert_eq!(agent.logged("kind=\"config\"") + agent.raised("connection"), 0, "{}", agent.log());
    }
}

#[test]
fn json_v1_probes_of_the_original_are_sent_and_received() {
    let (socket, to) = receiver(&address());
    let addr = address();
    let own = format!("{addr}:{}", udp_port(&addr));
    let agent = Agent::with_dir(
        "b",
        &[
            ("config.json", r#"{"version":7}"#.to_owned()),
            ("tests/b/1.json", set_out(1, "127.0.0.2:0", &to, r#","wire":"json-v1""#)),
            ("tests/b/2.json", test_document(2, ("b", "127.0.0.2:0"), ("b", &own), r#","wire":"json-v1""#)),
        ],
        "",
    );
    let mut octets = [0; 2048];
    let len = socket.recv(&mut octets).unwrap();
    let probe = JsonProbe::decode(&octets[..len]).unwrap();
    // The original accepts only packets that carry its own host name.
    assert_eq!((probe.host_id.as_str(), probe.config_version, probe.test_id.to_string()), ("elsewhere", 7, id(1)));
    assert_eq!(octets[len - 1], b'\n');
    agent.wait_condition(2, "receiver", "up");
}

/// A packet recorded from the original of 2017, sent by hostA, is accepted, and a packet to an original at hostB has
/// the recorded form; only IDs and timestamps are adapted.
#[test]
fn recorded_exchange_with_the_original_works_both_ways() {
    const SENT: &str = r#"{"Version":1,"ConfigVersion":7,"NtpTimestamp":"2017-07-13T01:02:03.456789Z","HostId":"hostA","TestId":"ID"}"#;
    const TAKEN: &str = r#"{"Version":1,"ConfigVersion":7,"NtpTimestamp":"TIME","HostId":"hostB","TestId":"ID"}"#;
    let addr = address();
    let here = format!("{addr}:{}", udp_port(&addr));
    let (original, there) = receiver(&address());
    let received = test_document(1, ("hostA", "127.0.0.2:0"), ("b", &here), "");
    let sent = test_document(2, ("b", "127.0.0.2:0"), ("hostB", &there), r#","wire":"json-v1""#);
    let documents =
        [("tests/b/1.json", received), ("tests/b/2.json", sent), ("config.json", r#"{"version":7}"#.into())];
    let agent = Agent::with_dir("b", &documents, "");
    let source = UdpSocket::bind("127.0.0.2:0").unwrap();
    let mut sequence = 0i64;
    wait_for("the original's probes to count", || {
        sequence += 1;
        // The recorded timestamps are years old, which must not affect the connection's condition.
        let line = SENT.replace("ID", &id(1)).replace("456789", &format!("{:06}", sequence % 1_000_000)) + "\n";
        source.send_to(line.as_bytes(), &here).unwrap();
        (test(&agent.status(), 1, "receiver")?["condition"] == "up").then_some(())
    });
    let mut octets = [0; 2048];
    let len = original.recv(&mut octets).unwrap();
    let text = String::from_utf8(octets[..len].to_vec()).unwrap();
    let time = text.split("NtpTimestamp\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert_eq!(text, TAKEN.replace("TIME", time).replace("ID", &id(2)) + "\n");
}
