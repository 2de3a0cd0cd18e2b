//! Measurements and alarms of agents on a network that the test controls: loss, delay, paths, duplicates, clocks and
//! load. Most tests run in two network namespaces of their own, so they need root.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, SystemTime};

use peerpair::pure::base::time::WallTime;
use peerpair::pure::clock::error_estimate::{ClockQuality, ErrorEstimate};
use peerpair::pure::stamp::packet::Probe;
use peerpair::pure::test::id::TestId;
use serde_json::Value;

use super::support::network::{A, A6, B, B6, Deed, Network, Relay};
use super::support::{Agent, Process, alone, id, spawn, stays, test, test_document, wait_for};

const CLOCK: &str = "[clock]\nerror = \"100us\"\n";

/// Returns the document of a test from host a to host b, at their usual addresses.
fn a_to_b(n: u8, more: &str) -> String {
    test_document(n, ("a", &format!("{A}:0")), ("b", &format!("{B}:8620")), more)
}

fn b_to_a(n: u8, more: &str) -> String {
    test_document(n, ("b", &format!("{B}:0")), ("a", &format!("{A}:8620")), more)
}

/// Starts an agent on either host, with the documents of the tests that concern it.
fn agents(network: &Network, documents: &[(u8, String)]) -> (Agent, Agent) {
    let of = |host: &str| {
        documents.iter().map(|(n, text)| (format!("tests/{host}/{n}.json"), text.clone())).collect::<Vec<_>>()
    };
    let start = |namespace, host| {
        let named = of(host);
        let documents: Vec<(&str, String)> = named.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        Agent::within(namespace, host, &documents, CLOCK, &[])
    };
    (start(&network.a, "a"), start(&network.b, "b"))
}

fn at_receiver(agent: &Agent, n: u8) -> Value {
    test(&agent.status(), n, "receiver").expect("the test")
}

/// Waits until N probes of the test were received or lost, and returns its statistics since the start.
fn after(agent: &Agent, n: u8, probes: u64) -> Value {
    wait_for(&format!("{probes} probes"), || {
        // The agent may not have read its documents yet, so the test may be missing at first.
        let total = test(&agent.status(), n, "receiver")?["statistics"]["total"].clone();
        (total["received"].as_u64()? + total["lost"].as_u64()? >= probes).then_some(total)
    })
}

#[test]
fn loss_is_reported_within_one_percentage_point_of_dropped_probes() {
    let Some(network) = Network::pair() else { return };
    let _alone = alone();
    let quick = |n| a_to_b(n, r#","max_loss":"5%","loss_window":"2s""#).replace("\"100ms\"", "\"4ms\"");
    let (_a, b) = agents(&network, &[(1, quick(1))]);
    b.wait_condition(1, "receiver", "up");
    for rule in ["numgen inc mod 5 0", "numgen random mod 100 < 20"] {
        let before = at_receiver(&b, 1)["statistics"]["total"].clone();
        network.b.on_input(&format!("udp dport 8620 {rule} counter drop"));
        let sent = |total: &Value| total["received"].as_u64().unwrap() + total["lost"].as_u64().unwrap();
        let now = after(&b, 1, sent(&before) + 1500);
        let dropped = network.b.counted() as f64;
        let (lost, probes) = (
            (now["lost"].as_u64().unwrap() - before["lost"].as_u64().unwrap()) as f64,
            (sent(&now) - sent(&before)) as f64,
        );
        // The nftables counter was read a little later than the agent's statistics.
        assert!(
            (lost / probes - 0.2).abs() < 0.05 && (lost - dropped).abs() / probes < 0.01,
            "{rule}: {lost} of {probes}, {dropped} dropped"
        );
        let alarm = b.wait_status("the alarm", |status| {
            status["alarms"].as_array()?.iter().find(|alarm| alarm["kind"] == "loss").cloned()
        });
        assert!(alarm["text"].as_str().unwrap().contains("of the probes lost within 2s, more than 5 %"), "{alarm}");
        network.b.heal();
        wait_for("its end", || (b.status()["alarms"].as_array()?.is_empty()).then_some(()));
    }
    assert!(b.get("/metrics").unwrap().contains("peerpair_test_loss_ratio{"));
}

#[test]
fn added_delay_of_20_ms_is_reported_within_300_microseconds() {
    let Some(network) = Network::pair() else { return };
    let _alone = alone();
    let through =
        test_document(1, ("a", &format!("{A}:0")), ("b", &format!("{B}:9000")), &format!(r#","listen":"{B}:8620""#));
    let _relay = network.b.run(|| {
        Relay::start(&format!("{B}:9000"), format!("{B}:8620").parse().unwrap(), |_| {
            Deed::After(Duration::from_millis(20))
        })
    });
    let (_a, b) = agents(&network, &[(1, through), (2, a_to_b(2, ""))]);
    after(&b, 1, 50);
    let status = b.status();
    let median = |n| test(&status, n, "receiver").unwrap()["statistics"]["total"]["delay"]["p50"].as_f64().unwrap();
    assert!((median(1) - median(2) - 0.020).abs() < 0.0003, "{} and {}", median(1), median(2));
}

#[test]
fn partition_of_one_direction_takes_down_only_that_direction() {
    let Some(network) = Network::pair() else { return };
    let (a, b) = agents(&network, &[(1, a_to_b(1, "")), (2, b_to_a(2, ""))]);
    b.wait_condition(1, "receiver", "up");
    a.wait_condition(2, "receiver", "up");
    network.b.on_input(&format!("ip saddr {A} counter drop"));
    b.wait_condition(1, "receiver", "down");
    stays("the other direction", Duration::from_secs(2), || at_receiver(&a, 2)["condition"] == "up");
    network.b.heal();
    b.wait_condition(1, "receiver", "up");
}

/// A probe that the operating system of the sender rejects was never sent: that is a sender fault, and no loss.
#[test]
fn probes_rejected_by_the_senders_system_are_not_counted_as_lost() {
    let Some(network) = Network::pair() else { return };
    let (a, b) = agents(&network, &[(1, a_to_b(1, ""))]);
    b.wait_condition(1, "receiver", "up");
    network.a.on_output("udp dport 8620 counter drop");
    wait_for("refused probes", || (network.a.counted() >= 5).then_some(()));
    network.a.heal();
    let before = after(&b, 1, 0)["received"].as_u64().unwrap();
    after(&b, 1, before + 10);
    b.wait_condition(1, "receiver", "up");
    assert_eq!(at_receiver(&b, 1)["statistics"]["total"]["lost"], 0);
    a.wait_status("their number", |status| (status["senders"][0]["errors"].as_u64()? > 0).then_some(()));
}

fn path_alarm(agent: &Agent) -> String {
    agent.wait_status("the alarm of the path", |status| {
        let alarm = status["alarms"].as_array()?.iter().find(|alarm| alarm["kind"] == "path")?;
        alarm["text"].as_str().map(str::to_owned)
    })
}

fn up_and_whole(agent: &Agent, n: u8) {
    agent.wait_status("all flows", |status| {
        let test = test(status, n, "receiver")?;
        (test["conditions"]["path"] == "up" && test["conditions"]["connection"] == "up").then_some(())
    });
}

#[test]
fn path_alarm_names_the_size_of_lost_packets() {
    let Some(network) = Network::pair() else { return };
    let (_a, b) = agents(&network, &[(1, a_to_b(1, r#","size":1400"#))]);
    up_and_whole(&b, 1);
    network.b.on_input("udp length > 1200 counter drop");
    let text = path_alarm(&b);
    assert_eq!(
        text,
        "1 of 2 flows dead: packets of 1400 octets of payload (1428 with IPv4 and UDP headers) are lost, short ones arrive"
    );
    assert_eq!(at_receiver(&b, 1)["conditions"]["connection"], "up");
    network.b.heal();
    up_and_whole(&b, 1);
}

/// Simulates four equal-cost paths of which one is broken: it carries four of the sixteen source ports.
#[test]
fn path_alarm_names_the_source_ports_of_a_broken_path() {
    let Some(network) = Network::pair() else { return };
    let (_a, b) = agents(&network, &[(1, a_to_b(1, r#","flows":16"#)), (2, a_to_b(2, ""))]);
    up_and_whole(&b, 1);
    let mut ports = network.a.udp_ports(A);
    ports.sort_unstable();
    assert_eq!(ports.len(), 16);
    let broken: Vec<String> = ports.iter().skip(3).step_by(4).map(ToString::to_string).collect();
    network.b.on_input(&format!("udp sport {{ {} }} counter drop", broken.join(", ")));
    let text = path_alarm(&b);
    let named = format!("4 of 16 flows dead: those from source port {} are lost", broken.join(", "));
    assert!(text.starts_with(&named), "{text}");
    let flows = at_receiver(&b, 1)["flows"].as_array().unwrap().clone();
    let mut shown: Vec<u64> = flows.iter().filter_map(|flow| flow["source_port"].as_u64()).collect();
    shown.sort_unstable();
    assert_eq!(shown, ports.iter().map(|port| u64::from(*port)).collect::<Vec<_>>());
    // The remaining flows keep the connection of test 1 up; a test with a single source port would lose either no
    // probe or every probe.
    assert_eq!(at_receiver(&b, 1)["conditions"]["connection"], "up");
}

#[test]
fn path_alarm_names_the_lost_dscp_and_ttl_change_is_logged() {
    let Some(network) = Network::pair() else { return };
    let (_a, b) = agents(&network, &[(1, a_to_b(1, r#","dscp":[0,46]"#))]);
    up_and_whole(&b, 1);
    network.b.on_input("ip dscp 46 counter drop");
    assert_eq!(path_alarm(&b), "1 of 2 flows dead: packets with DSCP 46 are lost, others arrive");
    network.b.on_prerouting("udp dport 8620 ip ttl set 61");
    up_and_whole(&b, 1);
    b.wait_status("the other time-to-live", |status| (test(status, 1, "receiver")?["ttl"] == 61).then_some(()));
    wait_for("the log line", || (b.logged("the path changed") > 0).then_some(()));
    assert!(at_receiver(&b, 1)["statistics"]["total"]["path_changes"].as_u64().unwrap() >= 1);
}

/// Delay variation (RFC 3393) and loss episodes (RFC 3357) must equal those in the relay's own log, with probes that
/// are delayed, overtaken and lost.
#[test]
fn delay_variation_and_loss_episodes_match_the_relays_log() {
    let Some(network) = Network::pair() else { return };
    let _alone = alone();
    let through =
        test_document(1, ("a", &format!("{A}:0")), ("b", &format!("{B}:9000")), &format!(r#","listen":"{B}:8620""#));
    let deed = |n: u64| match n % 20 {
        4 | 5 | 9 => Deed::Lost,
        13 => Deed::Behind,
        k => Deed::After(Duration::from_millis(if k % 2 == 0 { 5 } else { 0 })),
    };
    let relay = network.b.run(|| Relay::start(&format!("{B}:9000"), format!("{B}:8620").parse().unwrap(), deed));
    let (mut a, b) = agents(&network, &[(1, through.replace("\"100ms\"", "\"20ms\""))]);
    after(&b, 1, 400);
    a.signal(nix::sys::signal::Signal::SIGTERM);
    a.wait_exit();
    b.wait_condition(1, "receiver", "paused");
    let log = relay.passed();
    let numbers: Vec<u32> = log.keys().copied().collect();
    let gaps: Vec<u32> = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0).collect();
    let pairs = numbers.windows(2).filter(|pair| pair[1] == pair[0] + 1);
    let variations: Vec<u64> = pairs.map(|pair| log[&pair[1]].abs_diff(log[&pair[0]])).collect();
    let mean = variations.iter().sum::<u64>() as f64 / variations.len() as f64 / 1e9;
    let total = at_receiver(&b, 1)["statistics"]["total"].clone();
    let shown = total["delay_variation"].as_f64().unwrap();
    assert!((shown - mean).abs() < 0.0003, "{shown} instead of {mean}");
    let (lost, longest) = (gaps.iter().sum::<u32>(), gaps.iter().copied().max().unwrap());
    let expected = [u64::from(lost), gaps.len() as u64, u64::from(longest)];
    let counted = ["lost", "loss_episodes", "longest_loss_episode"].map(|name| total[name].as_u64().unwrap());
    assert_eq!(counted, expected);
}

#[test]
fn duplicates_and_reordering_are_counted() {
    let Some(network) = Network::pair() else { return };
    let through =
        test_document(1, ("a", &format!("{A}:0")), ("b", &format!("{B}:9000")), &format!(r#","listen":"{B}:8620""#));
    let deed = |n: u64| match n % 10 {
        3 => Deed::Twice,
        7 => Deed::Behind,
        _ => Deed::After(Duration::ZERO),
    };
    let _relay = network.b.run(|| Relay::start(&format!("{B}:9000"), format!("{B}:8620").parse().unwrap(), deed));
    let (_a, b) = agents(&network, &[(1, through.replace("\"100ms\"", "\"20ms\""))]);
    after(&b, 1, 200);
    // The probe that the relay holds back counts as lost for a moment.
    wait_for("a tenth of each and nothing lost", || {
        let total = at_receiver(&b, 1)["statistics"]["total"].clone();
        let count = |name: &str| total[name].as_u64().unwrap();
        let tenth = count("received") / 10;
        let counted = count("duplicates").abs_diff(tenth) <= 1 && count("reordered").abs_diff(tenth) <= 1;
        (counted && (count("lost"), count("loss_episodes")) == (0, 0)).then_some(())
    });
    assert_eq!(at_receiver(&b, 1)["condition"], "up");
}

#[test]
fn ipv6_test_supports_flows_dscp_sizes_and_a_bound_interface() {
    let Some(network) = Network::pair() else { return };
    let more = r#","flows":4,"dscp":[0,46],"size":1300,"from_interface":"eth0""#;
    let document = test_document(1, ("a", &format!("[{A6}]:0")), ("b", &format!("[{B6}]:8620")), more);
    let (a, b) = agents(&network, &[(1, document)]);
    up_and_whole(&b, 1);
    let found = at_receiver(&b, 1);
    assert_eq!((found["flows"].as_array().unwrap().len(), &found["ttl"]), (16, &Value::from(64)));
    network.b.on_input("ip6 dscp 46 counter drop");
    assert_eq!(path_alarm(&b), "8 of 16 flows dead: packets with DSCP 46 are lost, others arrive");
    let sender = test(&a.status(), 1, "sender").unwrap();
    assert_eq!(sender["condition"], "up");
}

/// Sender operated by the test: its clock has any offset, and its probes claim any clock error.
struct ManualSender {
    socket: UdpSocket,
    test_id: TestId,
    sequence: u32,
}

impl ManualSender {
    fn new(n: u8, to: &str) -> ManualSender {
        let socket = UdpSocket::bind((A, 0)).unwrap();
        socket.connect(to).unwrap();
        ManualSender { socket, test_id: id(n).parse().unwrap(), sequence: 0 }
    }

    fn send(&mut self, offset_millis: i64, claimed: Duration) {
        let quality = ClockQuality { synchronized: true, error: claimed };
        let now = WallTime::from(SystemTime::now()).unix_nanos() as i64 + offset_millis * 1_000_000;
        let probe = Probe {
            sequence: self.sequence,
            sent: WallTime::from_unix_nanos(now as u64),
            error_estimate: ErrorEstimate::encode(quality),
            ssid: Probe::ssid_of(self.test_id),
            flags: 0,
            flow: 0,
            key_id: 0,
            test_id: self.test_id,
            epoch: 1,
            send_every: Duration::from_millis(100),
            unsent: 0,
            clock_error: u32::try_from(claimed.as_nanos()).unwrap(),
            previous_lateness: 0,
        };
        self.sequence += 1;
        self.socket.send(&probe.encode()).unwrap();
    }
}

/// Three simulated hosts send to b; either the clock of one of them or b's own clock is wrong.
#[test]
fn wrong_clock_is_attributed_to_its_host_and_raises_no_latency() {
    let Some(network) = Network::pair() else { return };
    let limits = r#","max_latency":"5ms""#;
    let document = |n: u8, host: &str| {
        let text = test_document(n, (host, &format!("{A}:0")), ("b", &format!("{B}:8620")), limits);
        (n, text.replace("\"expect_every\":\"200ms\"", "\"expect_every\":\"2s\""))
    };
    let documents = [document(1, "a"), document(2, "c"), document(3, "d")];
    let named: Vec<(String, String)> =
        documents.iter().map(|(n, text)| (format!("tests/b/{n}.json"), text.clone())).collect();
    let named: Vec<(&str, String)> = named.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let b = Agent::within(&network.b, "b", &named, "[clock]\nerror = \"100us\"\n", &[]);
    b.wait_status("its listener", |status| (status["listeners"][0]["bound"] == true).then_some(()));
    let mut senders: Vec<ManualSender> =
        network.a.run(|| (1..=3).map(|n| ManualSender::new(n, &format!("{B}:8620"))).collect());
    let mut send = |offsets: [i64; 3], claimed: u64| {
        for (sender, offset) in senders.iter_mut().zip(offsets) {
            sender.send(offset, Duration::from_millis(claimed));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let blamed = || {
        let status = b.status();
        let alarms = status["alarms"].as_array().unwrap().iter().map(|alarm| {
            let subject = &alarm["subject"];
            let named = subject.get("host").unwrap_or(subject).as_str().unwrap_or("?");
            format!("{} {named}", alarm["kind"].as_str().unwrap())
        });
        alarms.collect::<Vec<String>>()
    };
    // An offset within the error that a clock claims is neither a clock fault nor latency.
    for (offset, claimed) in [(0, 1), (10, 20), (-10, 20)] {
        (0..20).for_each(|_| send([offset, 0, 0], claimed));
    }
    assert_eq!((b.logged("alarm raised"), blamed()), (0, vec![]));
    let mut until = |offsets, expected: &[&str]| {
        wait_for(&format!("{expected:?} to be blamed"), || {
            send(offsets, 1);
            (blamed() == expected).then_some(())
        });
    };
    until([10, 0, 0], &["clock a"]);
    until([0, 10, 0], &["clock c"]);
    until([10, 10, 10], &["clock agent"]);
    until([0, 0, 0], &[]);
    assert_eq!(b.logged("kind=\"latency\""), 0);
}

/// Eight busy processes compete for the processor: delays from kernel timestamps must stay accurate, while those from
/// user space do not.
#[test]
fn delays_stay_accurate_on_a_busy_host() {
    let Some(network) = Network::pair() else { return };
    let _alone = alone();
    let (_a, b) = agents(&network, &[(1, a_to_b(1, "").replace("\"100ms\"", "\"5ms\""))]);
    b.wait_condition(1, "receiver", "up");
    let busy: Vec<Process> = (0..8)
        .map(|_| spawn(Command::new("nice").args(["-n", "-10", "sh", "-c", "while :; do :; done"]), "coreutils"))
        .collect();
    let user = user_space_delays(400);
    let delay = at_receiver(&b, 1)["statistics"]["minute"]["delay"].clone();
    drop(busy);
    let kernel = delay["p99"].as_f64().unwrap();
    eprintln!("99 of 100 delays below {kernel} s by the kernel's stamps, below {user} s by user space's");
    assert!(kernel < 0.001, "{delay}");
    assert!(user > 0.001, "the load was none: {user}");
}

/// Returns the 99th percentile, in seconds, of the delays that a program measures when it takes timestamps as it
/// reads packets.
fn user_space_delays(count: usize) -> f64 {
    let receiver = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let to = receiver.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let mut delays = Vec::new();
        let mut octets = [0; 8];
        while delays.len() < count {
            receiver.recv(&mut octets).unwrap();
            let now = WallTime::from(SystemTime::now()).unix_nanos();
            delays.push(now.saturating_sub(u64::from_be_bytes(octets)));
        }
        delays.sort_unstable();
        delays[count * 99 / 100] as f64 / 1e9
    });
    let sender = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(5));
        let now = WallTime::from(SystemTime::now()).unix_nanos();
        sender.send_to(&now.to_be_bytes(), to).unwrap();
    }
    reader.join().unwrap()
}

/// The time server is off by 40 s from the local clock, whose configured error is only 1 ms.
#[test]
fn clock_error_grows_and_alarm_is_raised_when_time_server_disagrees() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut question, now) = ([0; 48], || WallTime::from(SystemTime::now()) + Duration::from_secs(40));
        while let Ok((_, from)) = server.recv_from(&mut question) {
            // Version 4, mode server, stratum 2 (RFC 4330 section 4).
            let mut answer = [0; 48];
            answer[..4].copy_from_slice(&[0x24, 2, 6, 0xec]);
            answer[12..16].copy_from_slice(b"TEST");
            answer[24..32].copy_from_slice(&question[40..48]);
            for stamp in [16, 32, 40] {
                answer[stamp..stamp + 8].copy_from_slice(&now().to_ntp().to_be_bytes());
            }
            server.send_to(&answer, from).unwrap();
        }
    });
    let host = format!(r#"{{"ntp_server":"127.0.0.1:{port}"}}"#);
    let agent = Agent::with_dir("a", &[("hosts/a.json", host)], "[clock]\nerror = \"1ms\"\n");
    let offset = agent.wait_status("a second opinion", |status| status["clock"]["ntp_offset_seconds"].as_f64());
    assert!((offset - 40.0).abs() < 1.0, "{offset}");
    agent.wait_status("a larger error", |status| (status["clock"]["error_seconds"].as_f64()? > 39.0).then_some(()));
    wait_for("the alarm", || agent.log().contains("reports that this host's clock is off by").then_some(()));
}
