//! Two-way tests, whose probes are reflected, and keyed tests, whose probes are signed: round trips, forged and
//! replayed packets, and key rotation. Most tests need two network namespaces.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use peerpair::pure::stamp::key::Key;
use peerpair::pure::stamp::packet::Probe;
use serde_json::Value;

use super::support::network::{A, B, Deed, Network, Relay};
use super::support::{Agent, Etcd, Flavour, address, id, stays, test, test_document, udp_port, wait_for};

const CLOCK: &str = "[clock]\nerror = \"100us\"\n";
const KEY_1: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const KEY_2: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

fn config(directory: &str, ids: &[u8], active: u8) -> String {
    let keys: Vec<String> =
        ids.iter().map(|id| format!(r#"{{"id":{id},"secret_file":"{directory}key-{id}"}}"#)).collect();
    format!(r#"{{"keys":[{}],"active_key":{active}}}"#, keys.join(","))
}

/// Starts agents a and b with test 1 between them, and with the fleet's keys 1 and 2.
fn agents(network: &Network, more: &str) -> (Agent, Agent) {
    let document = test_document(1, ("a", &format!("{A}:0")), ("b", &format!("{B}:8620")), more);
    let start = |namespace, host: &str| {
        let path = format!("tests/{host}/1.json");
        let documents = [(path.as_str(), document.clone()), ("config.json", config("../", &[1, 2], 1))];
        Agent::within(namespace, host, &documents, CLOCK, &[("key-1", KEY_1), ("key-2", KEY_2)])
    };
    (start(&network.a, "a"), start(&network.b, "b"))
}

fn at(agent: &Agent, role: &str) -> Value {
    test(&agent.status(), 1, role).expect("the test")
}

#[test]
fn two_way_test_is_judged_at_both_ends() {
    let Some(network) = Network::pair() else { return };
    let more = r#","mode":"two_way","max_latency":"50ms","flows":2,"size":600"#;
    let (a, mut b) = agents(&network, more);
    let up = |agent: &Agent, role: &str| {
        agent.wait_status("all is up", |status| {
            let test = test(status, 1, role)?;
            let kinds = ["connection", "latency", "path"];
            kinds.iter().all(|kind| test["conditions"][kind] == "up").then_some(test)
        })
    };
    up(&b, "receiver");
    let sender = up(&a, "sender");
    assert_eq!(sender["conditions"]["sender"], "up");
    let delay = &sender["statistics"]["total"]["delay"];
    assert!(delay["max"].as_f64().unwrap() < 0.05 && delay["min"].as_f64().unwrap() > 0.0, "{delay}");
    assert_eq!(delay["uncertainty"], 0.0);
    // Drop every reply: the sender's end goes down, while the receiver's end stays up.
    network.a.on_input("udp sport 8620 counter drop");
    a.wait_status("no answers", |status| {
        (test(status, 1, "sender")?["conditions"]["connection"] == "down").then_some(())
    });
    assert!(a.log().contains("no answer since"));
    assert_eq!(at(&b, "receiver")["condition"], "up");
    network.a.heal();
    up(&a, "sender");
    // Stop the session reflector: the sender's end goes down again.
    b.kill();
    a.wait_status("no answers", |status| {
        (test(status, 1, "sender")?["conditions"]["connection"] == "down").then_some(())
    });
    b.restart();
    up(&a, "sender");
    up(&b, "receiver");
}

#[test]
fn keyed_test_rejects_forged_and_replayed_probes() {
    let Some(network) = Network::pair() else { return };
    let (mut a, mut b) = agents(&network, r#","keyed":true,"mode":"two_way""#);
    b.wait_condition(1, "receiver", "up");
    a.wait_status("signed answers", |status| {
        (test(status, 1, "sender")?["conditions"]["connection"] == "up").then_some(())
    });
    // Record packets on the wire, and send them again after the sender was killed.
    let recorded = recorded(&network, &b);
    assert!(recorded.len() > 20);
    a.kill();
    b.wait_condition(1, "receiver", "down");
    let replay = |packets: &[Vec<u8>]| {
        network.a.run(|| {
            let socket = UdpSocket::bind((A, 0)).unwrap();
            for packet in packets {
                socket.send_to(packet, (B, 8620)).unwrap();
            }
        });
    };
    let received = || at(&b, "receiver")["counters"]["received"].as_u64().unwrap();
    let (before, seen) = (received(), b.status()["listeners"][0]["packets"].as_u64().unwrap());
    replay(&recorded);
    // Forge three packets: one unsigned, one signed with another key, and one changed after signing.
    let mut probe = Probe::decode(&recorded[0]).unwrap();
    (probe.sequence, probe.epoch) = (1, probe.epoch + 1);
    let mut octets = vec![0; 128];
    let unsigned = probe.encode().to_vec();
    probe.write(&mut octets, Some(&Key::new(1, [9; 32])));
    let mut flipped = recorded[1].clone();
    flipped[3] ^= 0x40;
    let forged = [unsigned, octets, flipped];
    replay(&forged);
    let all = seen + recorded.len() as u64 + 3;
    wait_for("all of them", || (b.status()["listeners"][0]["packets"].as_u64()? >= all).then_some(()));
    assert_eq!(received(), before);
    assert_eq!(b.status()["listeners"][0]["unknown_packets"], 3);
    assert!(b.log().contains("not signed as its test requires"));
    // Replayed packets must be rejected after a restart of the receiver too.
    wait_for("what was taken is kept", || {
        let kept = std::fs::read_dir(b.path("state")).ok()?.flatten();
        kept.filter(|file| file.file_name().to_string_lossy().starts_with("replays-"))
            .find(|file| std::fs::read_to_string(file.path()).is_ok_and(|text| text.contains(&id(1))))
    });
    stays("what is kept is the newest", Duration::from_secs(3), || true);
    b.kill();
    b.restart();
    wait_for("the test", || test(&b.status(), 1, "receiver").filter(|test| test["counters"]["received"] == 0));
    replay(&recorded);
    wait_for("all of them", || {
        (b.status()["listeners"][0]["packets"].as_u64()? >= recorded.len() as u64).then_some(())
    });
    assert_eq!(at(&b, "receiver")["counters"]["received"], 0);
    // After its restart, the sender uses a later epoch, which is accepted at once.
    a.restart();
    b.wait_condition(1, "receiver", "up");
}

/// Returns 25 probes that the sender sends to b, captured by a packet socket in b's namespace.
fn recorded(network: &Network, b: &Agent) -> Vec<Vec<u8>> {
    // A relay would need an address of its own; the packet socket copies the packets as they arrive.
    network.b.run(|| {
        let socket = socket2::Socket::new(
            socket2::Domain::PACKET,
            socket2::Type::DGRAM,
            // The constant is ETH_P_IP in network byte order, as the kernel requires it.
            Some(socket2::Protocol::from(i32::from(0x0800u16.to_be()))),
        )
        .unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut recorded = Vec::new();
        let mut octets = [0; 2048];
        while recorded.len() < 25 {
            let len = std::io::Read::read(&mut &socket, &mut octets).unwrap();
            // The payload follows 20 octets of IPv4 header and 8 of UDP header; keep only probes to the listener's
            // port.
            let payload = octets.get(28..len).unwrap_or_default();
            if octets[22..24] == 8620u16.to_be_bytes() && Probe::decode(payload).is_ok() {
                recorded.push(payload.to_vec());
            }
        }
        assert!(b.status()["tests"].is_array());
        recorded
    })
}

/// Agents accept a new key before it signs, and the previous key after it was replaced, so that a rotation rejects no
/// probe.
#[test]
fn key_rotation_interrupts_no_test_and_rejects_no_probe() {
    let etcd = Etcd::of(Flavour::V3Of35);
    let (from, to) = (address(), address());
    let document =
        test_document(1, ("a", &format!("{from}:0")), ("b", &format!("{to}:{}", udp_port(&to))), r#","keyed":true"#);
    for host in ["a", "b"] {
        etcd.put(&format!("tests/{host}/1"), &document);
    }
    let directory = tempfile::tempdir().unwrap();
    let key = |n: u8| directory.path().join(format!("key-{n}"));
    let new = Command::new(env!("CARGO_BIN_EXE_peerpair")).args(["key", "new"]).arg(key(1)).output().unwrap();
    assert!(
        new.status.success()
            && !String::from_utf8_lossy(&new.stdout).contains(std::fs::read_to_string(key(1)).unwrap().trim())
    );
    etcd.put("config", &config(&format!("{}/", directory.path().display()), &[1], 1));
    let (a, b) = (Agent::with_etcd("a", etcd.port(), ""), Agent::with_etcd("b", etcd.port(), ""));
    b.wait_condition(1, "receiver", "up");
    let since = at(&b, "receiver")["since"].clone();
    let rotate = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
        command.args(["key", "rotate", "--config"]).arg(a.path("peerpair.toml")).args(more);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let step = |name: &str| {
        wait_for(name, || {
            let (code, text) = rotate(&["--yes"]);
            assert!(text.contains(name), "{text}");
            // The step succeeds once all agents have published that they are ready for it.
            (code == Some(0)).then_some(())
        });
    };
    let (code, text) = rotate(&[]);
    assert!(
        code == Some(0)
            && text.contains("step 1 of 3: every agent accepts key 2 from")
            && text.contains("nothing was written"),
        "{text}"
    );
    step("step 1 of 3");
    assert!(key(2).exists());
    step("step 2 of 3");
    step("step 3 of 3");
    let (_, text) = rotate(&[]);
    assert!(text.contains("step 1 of 3: every agent accepts key 3"), "{text}");
    let before = at(&b, "receiver")["counters"]["received"].as_u64().unwrap();
    wait_for("more probes", || (at(&b, "receiver")["counters"]["received"].as_u64()? > before + 10).then_some(()));
    assert_eq!((&at(&b, "receiver")["condition"], &at(&b, "receiver")["since"]), (&Value::from("up"), &since));
    for agent in [&a, &b] {
        assert!(!agent.log().contains("not signed") && !agent.log().contains("no key"), "{}", agent.log());
    }
}

/// A delay on the way to the receiver alone violates the latency limit there, since the clocks are accurate enough to
/// judge one-way delay.
#[test]
fn one_way_delay_above_the_limit_raises_latency_at_the_receiver() {
    let Some(network) = Network::pair() else { return };
    let through = test_document(
        1,
        ("a", &format!("{A}:0")),
        ("b", &format!("{B}:9000")),
        &format!(r#","listen":"{B}:8620","max_latency":"10ms""#),
    );
    let _relay = network.b.run(|| {
        Relay::start(&format!("{B}:9000"), format!("{B}:8620").parse().unwrap(), |_| {
            Deed::After(Duration::from_millis(30))
        })
    });
    let b = Agent::within(&network.b, "b", &[("tests/b/1.json", through.clone())], CLOCK, &[]);
    let a = Agent::within(&network.a, "a", &[("tests/a/1.json", through)], CLOCK, &[]);
    b.wait_status("the latency", |status| {
        (test(status, 1, "receiver")?["conditions"]["latency"] == "down").then_some(())
    });
    assert!(b.log().contains("exceeds 10ms"));
    drop(a);
}
