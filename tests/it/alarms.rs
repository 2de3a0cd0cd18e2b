//! Alarms from their cause on the network to the SNMP trap at a real snmptrapd, and their clears. The tests run whole
//! agents with an etcd or a directory as their store.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use peerpair::pure::base::time::WallTime;
use peerpair::pure::clock::error_estimate::{ClockQuality, ErrorEstimate};
use peerpair::pure::stamp::packet::Probe;

use nix::sys::signal::Signal;

use crate::support::{Agent, Etcd, Trapd, address, alone, id, stays, test_document, udp_port, wait_for};

/// Fields of tests that must go down soon: a sender stopped by a document announces its stop, and `max_pause` would
/// delay the alarm.
const QUICK: &str = r#","hold_down":"100ms","max_pause":"0s""#;

/// Returns a probe of test `n` as its sender would send it now, but with a timestamp that is `age` in the past.
pub fn probe(n: u8, sequence: u32, age: Duration) -> [u8; 108] {
    let now = WallTime::from(std::time::SystemTime::now());
    Probe {
        sequence,
        sent: WallTime::from_unix_nanos(now.unix_nanos() - age.as_nanos() as u64),
        error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
        ssid: 1,
        flags: 0,
        flow: 0,
        key_id: 0,
        test_id: id(n).parse().unwrap(),
        epoch: 1,
        send_every: Duration::from_millis(100),
        unsent: 1,
        clock_error: u32::MAX,
        previous_lateness: 0,
    }
    .encode()
}

fn unix_millis(rfc3339: &str) -> i64 {
    let time: WallTime = serde_json::from_value(rfc3339.into()).unwrap();
    (time.unix_nanos() / 1_000_000) as i64
}

#[test]
fn down_is_sent_in_time_after_sender_is_killed_and_up_after_restart() {
    let _alone = alone();
    let (etcd, trapd, addr) = (Etcd::start(), Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    etcd.put("config", r#"{"enabled":true,"version":1}"#);
    let document = test_document(1, ("host-a", "127.0.0.2:0"), ("host-b", &to), QUICK);
    etcd.put_test(["host-a", "host-b"], "one", &document);
    let mut sender = Agent::with_etcd("host-a", etcd.port(), "");
    let receiver = Agent::with_etcd("host-b", etcd.port(), &trapd.sink("standard"));
    receiver.wait_condition(1, "receiver", "up");
    assert_eq!(trapd.wait_trap("coldStart", 0).value("peerpairAgent.0"), "host-b");
    trapd.wait_trap("ConnectionUp", 0);

    sender.kill();
    let down = trapd.wait_trap("PEERPAIR-MIB::peerpairConnectionDown", 0);
    assert_eq!(down.value("peerpairAgent.0"), "host-b");
    assert_eq!(down.value("peerpairSeverity.0"), "critical(3)");
    assert_eq!(down.value("peerpairTestId.0"), id(1));
    assert_eq!(down.value("peerpairDescription.0"), "test 1");
    assert_eq!(down.value("peerpairFromHost.0"), "host-a");
    assert_eq!(down.value("peerpairTo.0"), to);
    assert!(down.value("peerpairText.0").starts_with("no probe since "), "{down:?}");
    // The alarm is due three times 200 ms after the last probe, and may be at most 100 ms late.
    let test = receiver.wait_condition(1, "receiver", "down");
    let silent = unix_millis(test["since"].as_str().unwrap()) - unix_millis(test["last_probe"].as_str().unwrap());
    assert!((600..=700).contains(&silent), "found after {silent} ms");

    sender.restart();
    let up = trapd.wait_trap("peerpairConnectionUp", 1);
    assert_eq!(up.value("peerpairSeverity.0"), "cleared(1)");
    assert!(up.value("peerpairText.0").starts_with("up again after "), "{up:?}");
    receiver.wait_condition(1, "receiver", "up");
    // An agent without a record of earlier notifications sends a clear, once, for each test that is up.
    let notified = trapd.notifications(&["ConnectionDown", "ConnectionUp"]);
    assert_eq!(notified, ["ConnectionUp", "ConnectionDown", "ConnectionUp"]);
}

#[test]
fn documents_and_traps_of_the_original_are_supported() {
    let (etcd, trapd, addr) = (Etcd::start(), Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    etcd.put("config", r#"{"Version":7,"Enabled":true,"FailureLatencyEgregiousMicros":5000000}"#);
    let host = format!(
        r#"{{"Version":1,"Enabled":true,"SNMPServer":"127.0.0.1:{}","SNMPCommunity":"public","NTPServer":"pool.ntp.org",
            "MaxReportsPerSecond":5,"CachePeriodSeconds":60,"SSHPubKey":""}}"#,
        trapd.port()
    );
    etcd.put("hosts/hostA", &host);
    etcd.put("hosts/hostB", &host);
    let test = format!(
        r#"{{"Id":"{}","Version":1,"Description":"a to b","Enabled":true,"FromHostId":"hostA","From":"127.0.0.2:0",
            "ToHostId":"hostB","To":"{to}","Protocol":"udp","FreqSeconds":1,"FreqRetrySeconds":1,
            "FailureConnReportMin":1,"FailureLatencyMicros":100000}}"#,
        id(1)
    );
    etcd.put_test(["hostA", "hostB"], "anything", &test);
    let mut sender = Agent::with_etcd("hostA", etcd.port(), "");
    let receiver = Agent::with_etcd("hostB", etcd.port(), "");
    receiver.wait_condition(1, "receiver", "up");
    // With the default hold-down of 30 s, this test would have to wait for the Up.
    etcd.put("config", r#"{"enabled":true,"version":8,"alarm":{"hold_down":"100ms"}}"#);
    receiver.wait_status("the shorter hold", |status| (status["store"]["revision"].as_u64()? > 7).then_some(()));
    let cold_start = trapd.wait_trap("PEERPAIR-MIB::peerpair.1.0", 0);
    assert!(
        cold_start.varbinds[2].ends_with("peerpair.1.0.0 = STRING: \"hostA\"")
            || cold_start.varbinds[2].ends_with("\"hostB\"")
    );

    sender.kill();
    let down = trapd.wait_trap("PEERPAIR-MIB::peerpair.1.1", 0);
    let values: Vec<&str> =
        down.varbinds[2..].iter().filter_map(|varbind| varbind.split_once(" = ")).map(|pair| pair.1).collect();
    let (local, port) = to.rsplit_once(':').unwrap();
    let text = |value: &str| format!("STRING: \"{value}\"");
    let expected = ["hostB", "127.0.0.2", "0", local, port, "a to b", "Timeout, no packet received in 1 seconds"];
    assert_eq!(values, expected.map(text));
    let names: Vec<bool> = (0..7)
        .map(|k| down.varbinds[2 + k].split(" = ").next().unwrap().ends_with(&format!("peerpair.1.1.{k}")))
        .collect();
    assert_eq!(names, [true; 7]);

    sender.restart();
    let up = trapd.wait_trap("PEERPAIR-MIB::peerpair.1.2", 0);
    assert_eq!(up.varbinds.len(), 2 + 6);
    let sink =
        receiver.status()["sinks"].as_array().unwrap().iter().find(|sink| sink["name"] == "snmp-server").cloned();
    assert_eq!(sink.unwrap()["kind"], "snmp");
}

#[test]
fn profile_both_sends_up_in_the_format_of_the_original_too() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let both = trapd.sink("both");
    let agent =
        Agent::with_dir("b", &[("tests/b/1.json", test_document(1, ("a", "127.0.0.2:0"), ("b", &to), QUICK))], &both);
    let down = trapd.wait_trap("PEERPAIR-MIB::peerpair.1.1", 0);
    assert_eq!(down.value("peerpairTestId.0"), id(1));
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sequence = 0;
    wait_for("the Up", || {
        source.send_to(&probe(1, sequence, Duration::ZERO), &to).unwrap();
        sequence += 1;
        trapd.traps().into_iter().find(|trap| trap.notification.ends_with("PEERPAIR-MIB::peerpair.1.2"))
    });
    drop(agent);
}

#[test]
fn clear_is_sent_after_restart_when_raise_was_notified() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = test_document(1, ("b", "127.0.0.2:0"), ("b", &to), QUICK);
    let silent = document.replacen("\"from_host\":\"b\"", "\"from_host\":\"a\"", 1);
    let mut agent = Agent::with_dir("b", &[("tests/b/1.json", silent)], &trapd.sink("standard"));
    trapd.wait_trap("ConnectionDown", 0);
    agent.kill();
    // The sender returns while this agent is stopped.
    agent.document("tests/b/1.json", &document);
    agent.restart();
    trapd.wait_trap("ConnectionUp", 0);
    agent.wait_condition(1, "receiver", "up");
    // The sender stops once more, and the test is removed while this agent is stopped.
    agent.document("tests/b/1.json", &document.replacen("\"from_host\":\"b\"", "\"from_host\":\"a\"", 1));
    trapd.wait_trap("ConnectionDown", 1);
    agent.kill();
    agent.remove_document("tests/b/1.json");
    agent.restart();
    trapd.wait_trap("ConnectionUp", 1);
}

#[test]
fn alarms_are_cleared_when_tests_are_removed_or_disabled() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = |n, more: &str| test_document(n, ("a", "127.0.0.2:0"), ("b", &to), &format!("{QUICK}{more}"));
    let files = [("tests/b/1.json", document(1, "")), ("tests/b/2.json", document(2, ""))];
    let agent = Agent::with_dir("b", &files, &trapd.sink("standard"));
    trapd.wait_trap("ConnectionDown", 1);
    agent.remove_document("tests/b/1.json");
    agent.document("tests/b/2.json", &document(2, r#","enabled":false"#));
    let mut cleared: Vec<String> =
        (0..2).map(|n| trapd.wait_trap("ConnectionUp", n).value("peerpairTestId.0").to_owned()).collect();
    cleared.sort();
    assert_eq!(cleared, [id(1), id(2)]);
    agent.wait_status("no alarms", |status| status["alarms"].as_array()?.is_empty().then_some(()));
}

/// Changes the condition of a test 20 times within a few seconds, with a hold-down of 3 s.
#[test]
fn flapping_is_limited_by_hold_down_and_the_last_trap_is_correct() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let more = r#","send_every":"20ms","expect_every":"40ms","raise_after":2,"clear_after":2,"hold_down":"3s""#;
    let document = test_document(1, ("a", "127.0.0.2:0"), ("b", &to), "")
        .replace(r#""send_every":"100ms","expect_every":"200ms","raise_after":3,"clear_after":3"#, &more[1..]);
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document)], &trapd.sink("standard"));
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sequence = 0;
    let mut probe_until = |condition: &str| {
        wait_for(condition, || {
            if condition == "up" {
                source.send_to(&probe(1, sequence, Duration::ZERO), &to).unwrap();
                sequence += 1;
            }
            let status = agent.status();
            let test = status["tests"].as_array()?.first()?.clone();
            (test["condition"] == condition).then_some(())
        });
    };
    probe_until("down");
    let begun = std::time::Instant::now();
    for _ in 0..10 {
        probe_until("up");
        probe_until("down");
    }
    // The first trap is sent at once, and at most one per hold-down follows: they are at least three seconds apart.
    let sent = trapd.notifications(&["ConnectionDown", "ConnectionUp"]).len() as u64;
    assert!(sent <= 2 + begun.elapsed().as_secs() / 3, "{sent} traps in {:?}", begun.elapsed());
    // The last trap at the receiver must match the final condition of the test.
    wait_for("the last word", || {
        let status = agent.status();
        let noc = status["sinks"].as_array()?.iter().find(|sink| sink["name"] == "noc")?.clone();
        let last = trapd.notifications(&["ConnectionDown", "ConnectionUp"]).pop()?;
        (last == "ConnectionDown" && noc["notified"] == 1 && noc["pending"] == 0).then_some(())
    });
}

#[test]
fn late_probes_raise_latency_and_implausible_delays_raise_clock_fault() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document =
        |n| test_document(n, ("a", "127.0.0.2:0"), ("b", &to), r#","max_latency":"5ms","hold_down":"100ms""#);
    let files = [("tests/b/1.json", document(1)), ("tests/b/2.json", document(2))];
    let agent = Agent::with_dir("b", &files, &trapd.sink("standard"));
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sequence = 0;
    let mut send_until = |late: Duration, notification: &str| {
        wait_for(notification, || {
            source.send_to(&probe(1, sequence, late), &to).unwrap();
            source.send_to(&probe(2, sequence, Duration::from_secs(3600)), &to).unwrap();
            sequence += 1;
            trapd.traps().into_iter().find(|trap| trap.notification.ends_with(notification))
        })
    };
    let high = send_until(Duration::from_millis(500), "peerpairLatencyHigh");
    assert_eq!(high.value("peerpairTestId.0"), id(1));
    let delay: i64 = high.value("peerpairDelay.0").trim_end_matches(" microseconds").parse().unwrap();
    assert!((500_000..600_000).contains(&delay), "{delay} us");
    let clock = send_until(Duration::from_millis(500), "peerpairClockFault");
    assert_eq!(clock.value("peerpairSubject.0"), "host a");
    send_until(Duration::ZERO, "peerpairLatencyNormal");
    let notified = trapd.notifications(&["LatencyHigh", "ClockFault", "ConnectionDown"]);
    assert_eq!(notified.iter().collect::<std::collections::BTreeSet<_>>().len(), 2, "{notified:?}");
    drop(agent);
}

#[test]
fn unknown_packets_raise_one_alarm_and_write_few_log_lines() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = test_document(1, ("b", "127.0.0.2:0"), ("b", &to), QUICK);
    let mut agent = Agent::with_dir("b", &[("tests/b/1.json", document)], &trapd.sink("standard"));
    agent.wait_condition(1, "receiver", "up");
    let lines_before = agent.log().lines().count();

    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..10_000u32 {
        let mut octets = match n % 4 {
            0 => (0..random.usize(0..1500)).map(|_| random.u8(..)).collect(),
            1 => probe(random.u8(..), n, Duration::ZERO).to_vec(),
            2 => probe(1, n, Duration::ZERO)[..random.usize(0..108)].to_vec(),
            _ => {
                b"{\"Version\":1,\"NtpTimestamp\":\"2017-07-13T01:02:03Z\",\"HostId\":\"x\",\"TestId\":\"no\"}".to_vec()
            }
        };
        if n % 4 != 2 && !octets.is_empty() {
            let at = random.usize(..octets.len());
            octets[at] ^= random.u8(1..);
        }
        source.send_to(&octets, &to).unwrap();
    }
    let packet = trapd.wait_trap("peerpairUnknownPacket", 0);
    assert_eq!(packet.value("peerpairSource.0"), source.local_addr().unwrap().to_string());
    agent.wait_status("every stranger to be counted", |status| {
        let listener = &status["listeners"][0];
        let (packets, dropped) = (listener["packets"].as_u64()?, listener["dropped_packets"].as_u64()?);
        (packets + dropped >= 10_000).then_some(())
    });
    stays("the test is up and no further word is told", Duration::from_secs(1), || {
        let status = agent.status();
        let condition = status["tests"][0]["condition"].as_str();
        let notified = trapd.notifications(&["UnknownPacket", "ConnectionDown"]).len();
        notified == 1 && matches!(condition, Some("up" | "suspect"))
    });
    let lines = agent.log().lines().count() - lines_before;
    assert!(lines < 5, "{lines} lines of log\n{}", agent.log());
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
}

/// Sends the probes of 1,000 tests at the same instant, once a second.
#[test]
fn burst_of_1000_probes_is_received_without_loss_or_alarm() {
    let _alone = alone();
    let addr = address();
    let port = udp_port(&addr);
    let to = format!("{addr}:{port}");
    let documents: Vec<(String, String)> = (0..1000u32)
        .map(|n| {
            let document = test_document(0, ("a", "127.0.0.2:0"), ("b", &to), "")
                .replace(&id(0), &format!("00000000-0000-4000-8000-{n:012x}"))
                .replace("\"100ms\",\"expect_every\":\"200ms\"", "\"500ms\",\"expect_every\":\"1200ms\"")
                .replace("\"startup_grace\":\"1s\"", "\"startup_grace\":\"20s\"");
            (format!("tests/b/{n}.json"), document)
        })
        .collect();
    let files: Vec<(&str, String)> = documents.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let agent = Agent::with_dir("b", &files, "");
    agent.wait_status("all tests", |status| (status["tests"].as_array()?.len() == 1000).then_some(()));

    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let template = probe(0, 0, Duration::ZERO);
    let mut begun = std::time::Instant::now();
    for burst in 0..6u32 {
        for n in 0..1000u32 {
            let mut octets = template;
            octets[..4].copy_from_slice(&burst.to_be_bytes());
            octets[68..72].copy_from_slice(&n.to_be_bytes());
            source.send_to(&octets, &to).unwrap();
        }
        // The next burst is due one second after this one; the sleep is part of the tested timing and waits for no
        // condition.
        begun += Duration::from_secs(1);
        std::thread::sleep(begun.saturating_duration_since(std::time::Instant::now()));
    }
    let status = agent.wait_status("all probes", |status| {
        (status["listeners"][0]["packets"].as_u64()? >= 6000).then(|| status.clone())
    });
    assert_eq!(status["listeners"][0]["dropped_packets"], 0);
    let received: BTreeMap<u64, usize> =
        status["tests"].as_array().unwrap().iter().fold(BTreeMap::new(), |mut counts, test| {
            *counts.entry(test["counters"]["received"].as_u64().unwrap()).or_default() += 1;
            counts
        });
    assert_eq!(received, BTreeMap::from([(6, 1000)]));
    assert_eq!(agent.logged("alarm raised"), 0);
}

/// An unreachable trap receiver on the same host is detected by ICMP errors, so that no trap is lost in the meantime.
#[test]
fn pending_notifications_are_sent_when_receiver_is_reachable_again() {
    let (mut trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = test_document(1, ("b", "127.0.0.2:0"), ("b", &to), QUICK);
    let silent = document.replacen("\"from_host\":\"b\"", "\"from_host\":\"a\"", 1);
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document.clone())], &trapd.sink("standard"));
    agent.wait_condition(1, "receiver", "up");
    trapd.wait_trap("ConnectionUp", 0);
    trapd.kill();
    agent.document("tests/b/1.json", &silent);
    agent.wait_condition(1, "receiver", "down");
    agent.wait_status("the sink's trouble", |status| {
        let noc = status["sinks"].as_array()?.iter().find(|sink| sink["name"] == "noc")?.clone();
        noc["last_error"].as_str()?.contains("no receiver listens there").then_some(())
    });
    trapd.restart();
    trapd.wait_trap("ConnectionDown", 0);
    agent.document("tests/b/1.json", &document);
    trapd.wait_trap("ConnectionUp", 1);
    assert_eq!(agent.logged("a message did not reach the receiver"), 1, "{}", agent.log());
}

/// A container may have a new host name after each start: alarms raised under the previous name must be cleared under
/// it.
#[test]
fn renamed_host_clears_alarms_notified_under_its_previous_name() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = test_document(1, ("a", "127.0.0.2:0"), ("b", &to), "");
    let mut agent = Agent::with_dir("b", &[("tests/b/1.json", document)], &trapd.sink("standard"));
    trapd.wait_trap("ConnectionDown", 0);
    agent.kill();
    let bootstrap = std::fs::read_to_string(agent.path("peerpair.toml")).unwrap();
    agent.file("peerpair.toml", &bootstrap.replace("host = \"b\"", "host = \"c\""));
    agent.restart();
    let up = wait_for("its end", || {
        let mut ups = trapd.traps().into_iter().filter(|trap| trap.notification.ends_with("ConnectionUp"));
        ups.find(|trap| trap.value("peerpairTestId.0") == id(1))
    });
    assert_eq!(up.value("peerpairAgent.0"), "b");
}

/// The startup grace applies only until the first probe; a timeout after it is judged with the normal interval.
#[test]
fn outage_after_first_probe_is_detected_despite_startup_grace() {
    let _alone = alone();
    let addr = address();
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = test_document(1, ("b", "127.0.0.2:0"), ("b", &to), QUICK).replace(r#","startup_grace":"1s""#, "");
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document.clone())], "");
    agent.wait_condition(1, "receiver", "up");
    agent.document("tests/b/1.json", &document.replacen("\"from_host\":\"b\"", "\"from_host\":\"a\"", 1));
    let test = agent.wait_condition(1, "receiver", "down");
    let silent = unix_millis(test["since"].as_str().unwrap()) - unix_millis(test["last_probe"].as_str().unwrap());
    assert!((600..=700).contains(&silent), "found after {silent} ms");
}

/// A sink in the documents replaces the sink of the bootstrap file for the same receiver. The handover must not send
/// a clear for an alarm that is still raised.
#[test]
fn handover_between_sinks_sends_no_false_clear() {
    let (trapd, other, addr) = (Trapd::start(), Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let document = test_document(1, ("a", "127.0.0.2:0"), ("b", &to), r#","hold_down":"1s""#);
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document.clone())], &trapd.sink("standard"));
    trapd.wait_trap("ConnectionDown", 0);
    let sinks = |port| format!(r#"{{"sinks":[{{"name":"central","kind":"snmp","target":"127.0.0.1:{port}"}}]}}"#);
    agent.document("config.json", &sinks(trapd.port()));
    trapd.wait_trap("ConnectionDown", 1);
    stays("no clear is told", Duration::from_secs(2), || trapd.notifications(&["ConnectionUp"]).is_empty());

    // With another target, the previous receiver gets a clear that names the reason, and the new one gets the raised
    // alarm.
    agent.document("config.json", &sinks(other.port()));
    other.wait_trap("ConnectionDown", 0);
    let clear = trapd.wait_trap("ConnectionUp", 0);
    assert_eq!(clear.value("peerpairText.0"), "this receiver is no longer notified of this alarm");
    let live = document.replacen("\"from_host\":\"a\"", "\"from_host\":\"b\"", 1);
    agent.document("tests/b/1.json", &live);
    other.wait_trap("ConnectionUp", 0);
    assert_eq!(trapd.notifications(&["ConnectionUp"]).len(), 1);
    // A coldStart trap is sent only when the agent starts, never because sinks have changed.
    assert_eq!((trapd.notifications(&["coldStart"]).len(), other.notifications(&["coldStart"]).len()), (1, 0));
}

/// A sink that is removed and added again, while many of its notifications are pending, continues where it stopped.
#[test]
fn sink_removed_and_added_again_leaves_no_false_clear() {
    let (trapd, addr) = (Trapd::start(), address());
    let to = format!("{addr}:{}", udp_port(&addr));
    let documents: Vec<(String, String)> = (1..=8)
        .map(|n| {
            (format!("tests/b/{n}.json"), test_document(n, ("a", "127.0.0.2:0"), ("b", &to), r#","hold_down":"1s""#))
        })
        .collect();
    let mut files: Vec<(&str, String)> = documents.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let slow = format!(
        r#"{{"alarm":{{"group_min":0}},"sinks":[{{"name":"slow","kind":"snmp","target":"127.0.0.1:{}","rate":1,"burst":9}}]}}"#,
        trapd.port()
    );
    files.push(("config.json", slow.clone()));
    let agent = Agent::with_dir("b", &files, "");
    trapd.wait_trap("ConnectionDown", 7);
    agent.document("config.json", r#"{"alarm":{"group_min":0}}"#);
    trapd.wait_trap("ConnectionUp", 0);
    agent.document("config.json", &slow);
    // Alarms that were cleared for the receiver are raised again; others cause no notification.
    wait_for("the receiver to know all eight again", || {
        let notified: BTreeMap<String, String> = trapd
            .traps()
            .into_iter()
            .filter(|trap| trap.notification.contains("peerpairConnection"))
            .map(|trap| (trap.value("peerpairTestId.0").to_owned(), trap.notification))
            .collect();
        let settled =
            agent.status()["sinks"].as_array()?.iter().any(|sink| sink["name"] == "slow" && sink["pending"] == 0);
        let all_down = notified.len() == 8 && notified.values().all(|last| last.ends_with("ConnectionDown"));
        (settled && all_down).then_some(())
    });
}
