//! Interoperability with independent implementations: tshark and scapy decode the agent's probes, stamp-suite
//! reflects and sends STAMP packets, and promtool and the OpenMetrics reference parser read the metrics.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use peerpair::pure::base::time::WallTime;
use peerpair::pure::clock::error_estimate::{ClockQuality, ErrorEstimate};
use peerpair::pure::stamp::key::Key;
use peerpair::pure::stamp::packet::Probe;
use peerpair::pure::test::id::TestId;
use serde_json::Value;

use super::support::{Agent, Process, address, spawn, test, test_document, udp_port, wait_for};

fn probe() -> Probe {
    Probe {
        sequence: 0x0102_0304,
        sent: WallTime::from_unix_nanos(1_700_000_000_250_000_000),
        error_estimate: ErrorEstimate::encode(ClockQuality { synchronized: true, error: Duration::from_millis(1) }),
        ssid: 0x0506,
        flags: 1,
        flow: 0,
        key_id: 0,
        test_id: TestId::from_bytes([0xab; 16]),
        epoch: 1_700_000_000_000_000,
        send_every: Duration::from_millis(100),
        unsent: 7,
        clock_error: 1_000_000,
        previous_lateness: 900,
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn with_input(command: &mut Command, input: &str, way: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}; install it with: {way}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn tshark_reads_our_probes_as_twamp_test() {
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("probe.pcap");
    let dump = format!(
        "000000 {}\n",
        hex(&probe().encode())
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    );
    let mut text2pcap = Command::new("text2pcap");
    with_input(text2pcap.args(["-q", "-u", "4000,862", "-"]).arg(&capture), &dump, "apt-get install tshark");
    let fields = [
        "seq_number",
        "timestamp",
        "error_estimate.s",
        "error_estimate.z",
        "error_estimate.scale",
        "error_estimate.multiplier",
    ];
    let mut tshark = Command::new("tshark");
    tshark.env("TZ", "UTC").arg("-r").arg(&capture).args([
        "-d",
        "udp.port==862,twamp.test",
        "-T",
        "fields",
        "-E",
        "occurrence=f",
    ]);
    for field in fields {
        tshark.args(["-e", &format!("twamp.test.{field}")]);
    }
    let read = with_input(&mut tshark, "", "apt-get install tshark");
    let read = String::from_utf8_lossy(&read.stdout).trim().to_owned();
    let found: Vec<&str> = read.split('\t').collect();
    let estimate = probe().error_estimate.0;
    assert_eq!(found[0], "16909060");
    assert!(found[1].starts_with("Nov 14, 2023 22:13:20.25"), "{read}");
    let bits =
        [estimate >> 15, (estimate >> 14) & 1, (estimate >> 8) & 0x3f, estimate & 0xff].map(|bits| bits.to_string());
    let meant = |found: &str| found.replace("True", "1").replace("False", "0");
    assert_eq!(found[2..6].iter().map(|found| meant(found)).collect::<Vec<_>>(), bits, "{read}");
}

/// Compares every field of a signed and padded probe with the values that scapy's STAMP layer decodes.
#[test]
fn scapy_decodes_every_field_of_a_signed_probe() {
    const SCRIPT: &str = r#"
import json, sys
from scapy.contrib.stamp import STAMPSessionSenderTestUnauthenticated as Probe
octets = bytes.fromhex(sys.stdin.read().strip())
probe = Probe(octets)
assert bytes(probe) == octets
error = probe.err_estimate
tlvs = [[int(tlv.flags), int(tlv.type), int(tlv.len), bytes(tlv.value).hex()] for tlv in probe.tlv_objects]
ts = probe.getfieldval("ts")
print(json.dumps([probe.seq, int(ts), [int(error.S), int(error.Z), int(error.scale), int(error.multiplier)], probe.ssid, tlvs]))
"#;
    let mut octets = vec![0; 160];
    let len = probe().write(&mut octets, Some(&Key::new(3, [7; 32])));
    assert_eq!(len, 160);
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/target/python")).args(["-c", SCRIPT]);
    let read = with_input(&mut python, &hex(&octets), "tests/run, which fetches scapy");
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    let estimate = probe().error_estimate.0;
    assert_eq!(read[0], 0x0102_0304);
    assert_eq!(read[1].as_u64().unwrap(), probe().sent.to_ntp());
    assert_eq!(read[2], serde_json::json!([estimate >> 15, 0, (estimate >> 8) & 0x3f, estimate & 0xff]));
    assert_eq!(read[3], 0x0506);
    let tlv = |from: usize, to: usize| hex(&octets[from..to]);
    let tlvs =
        serde_json::json!([[0x80, 252, 60, tlv(48, 108)], [0x80, 8, 16, tlv(112, 128)], [0x80, 1, 28, tlv(132, 160)],]);
    assert_eq!(read[4], tlvs);
}

/// Starts stamp-suite, an independent session reflector, at an address; with a key it verifies the HMAC TLV.
fn stamp_suite(at: &str, port: u16, key: Option<&std::path::Path>) -> Process {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/stamp-suite/bin/stamp-suite"));
    command.args(["-i", "-S", at, "-o", &port.to_string()]).env("NO_COLOR", "1");
    if let Some(key) = key {
        command.arg("--hmac-key-file").arg(key).arg("--verify-tlv-hmac");
    }
    let log = std::fs::File::create(std::env::temp_dir().join(format!("stamp-suite-{port}.log"))).unwrap();
    let process = spawn(command.stdout(Stdio::null()).stderr(log), "(tests/run builds stamp-suite)");
    wait_for("the reflector", || std::net::UdpSocket::bind((at, port)).is_err().then_some(()));
    process
}

fn key_file(directory: &std::path::Path, text: &str) -> std::path::PathBuf {
    let path = directory.join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

fn ping(arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
    let output = command.arg("ping").args(["--interval", "20ms", "--format", "json"]).args(arguments).output().unwrap();
    let lines =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code(), lines)
}

#[test]
fn ping_is_answered_by_an_independent_reflector() {
    let (at, directory) = (address(), tempfile::tempdir().unwrap());
    let port = udp_port(&at);
    let plain = stamp_suite(&at, port, None);
    let target = format!("{at}:{port}");
    let (code, lines) = ping(&[&target, "--count", "5", "--flows", "3", "--size", "400"]);
    let summary = lines.last().unwrap();
    assert_eq!(
        (code, &summary["sent"], &summary["received"], lines.len()),
        (Some(0), &Value::from(15), &Value::from(15), 16),
        "{lines:?}"
    );
    assert!(summary["round_trip"]["p50"].as_f64().unwrap() < 0.1 && lines[0]["round_trip"].as_f64().unwrap() > 0.0);
    drop(plain);
    // The reflector verifies the signature of the probes, and `ping` verifies the signature of the replies.
    let key = key_file(directory.path(), &"5a".repeat(32));
    let port = udp_port(&at);
    let keyed = stamp_suite(&at, port, Some(&key));
    let target = format!("{at}:{port}");
    let (code, lines) = ping(&[&target, "--count", "3", "--key", key.to_str().unwrap(), "--size", "300"]);
    assert_eq!((code, &lines.last().unwrap()["received"]), (Some(0), &Value::from(3)), "{lines:?}");
    let other = tempfile::tempdir().unwrap();
    let wrong = key_file(other.path(), &"a5".repeat(32));
    let (code, lines) = ping(&[&target, "--count", "2", "--timeout", "300ms", "--key", wrong.to_str().unwrap()]);
    assert_eq!((code, &lines.last().unwrap()["received"]), (Some(1), &Value::from(0)), "{lines:?}");
    drop(keyed);
    // After the reflector has stopped, its port is unreachable.
    let (code, lines) = ping(&[&target, "--count", "2", "--timeout", "300ms"]);
    assert_eq!((code, &lines.last().unwrap()["lost"]), (Some(1), &Value::from(2)));
    assert!(
        lines.iter().any(|line| line["problem"].as_str().is_some_and(|text| text.contains("nothing listens there"))),
        "{lines:?}"
    );
}

#[test]
fn two_way_test_works_with_an_independent_reflector() {
    let (from, to) = (address(), address());
    let port = udp_port(&to);
    let document = test_document(
        1,
        ("a", &format!("{from}:0")),
        ("other", &format!("{to}:{port}")),
        r#","mode":"two_way","max_latency":"100ms""#,
    );
    let agent = Agent::with_dir("a", &[("tests/a/1.json", document)], "");
    let condition = |wanted: &str| {
        agent.wait_status(wanted, |status| {
            let test = test(status, 1, "sender")?;
            (test["conditions"]["connection"] == wanted).then_some(test)
        })
    };
    let mut reflector = stamp_suite(&to, port, None);
    let up = condition("up");
    assert!(up["statistics"]["total"]["delay"]["p50"].as_f64().unwrap() > 0.0, "{up}");
    reflector.kill();
    condition("down");
}

#[test]
fn independent_sender_is_answered_only_with_reflect_foreign() {
    let at = address();
    let port = udp_port(&at);
    let document = test_document(1, ("a", "127.0.0.1:0"), ("b", &format!("{at}:{port}")), "");
    let agent = Agent::with_dir("b", &[("tests/b/1.json", document), ("hosts/b.json", "{}".into())], "");
    let query = || {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/stamp-suite/bin/stamp-suite"));
        command.args(["-r", &at, "-p", &port.to_string(), "-c", "5", "-d", "20", "-L", "1", "--output-format", "json"]);
        let output = command.output().expect("stamp-suite; tests/run builds it");
        let text = String::from_utf8_lossy(&output.stdout);
        let answer: Value = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}"));
        answer["packets_received"].as_u64().unwrap()
    };
    agent.wait_status("the listener", |status| (status["listeners"][0]["bound"] == true).then_some(()));
    assert_eq!(query(), 0);
    wait_for("their number", || (agent.status()["listeners"][0]["unknown_packets"] == 5).then_some(()));
    agent.document("hosts/b.json", r#"{"reflect_foreign":true}"#);
    wait_for("answers", || (query() == 5).then_some(()));
    wait_for("their number", || (agent.status()["listeners"][0]["reflected"].as_u64()? >= 5).then_some(()));
    // A `ping` has no test in the documents either, so it is answered only because `reflect_foreign` is set.
    let (code, lines) = ping(&[&format!("{at}:{port}"), "--count", "3"]);
    assert_eq!((code, &lines.last().unwrap()["received"]), (Some(0), &Value::from(3)), "{lines:?}");
}

/// Checks the metrics strictly with the OpenMetrics reference parser, and in the older text format with promtool.
#[test]
fn metrics_pass_promtool_and_the_openmetrics_parser() {
    const STRICT: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
names = [family.name for family in parse(sys.stdin.read())]
assert len(names) == len(set(names)), names
print(len(names))
";
    let at = address();
    let port = udp_port(&at);
    let document =
        test_document(1, ("a", &format!("{at}:0")), ("a", &format!("{at}:{port}")), r#","max_latency":"1s","flows":2"#);
    let agent = Agent::with_dir("a", &[("tests/a/1.json", document)], "");
    agent.wait_condition(1, "receiver", "up");
    let text = wait_for("delays", || {
        let complete = |text: &String| text.contains("percentile=\"50\"") && text.contains("peerpair_sink_pending{");
        agent.get("/metrics").filter(complete)
    });
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/target/python")).args(["-c", STRICT]);
    let families = with_input(&mut python, &text, "tests/run, which fetches prometheus-client");
    assert!(String::from_utf8_lossy(&families.stdout).trim().parse::<u32>().unwrap() > 30);
    let id = super::support::id(1);
    let labels = format!("test=\"{id}\",set=\"\",from=\"a\",to=\"a\",role=\"receiver\"");
    assert!(text.contains(&format!("peerpair_test_violated{{{labels},kind=\"connection\"}} 0")), "{text}");
    assert!(
        text.contains(&format!("peerpair_test_delay_seconds_bucket{{le=\"+Inf\",{labels}}}"))
            || text.contains("peerpair_test_delay_seconds_bucket{")
    );
    assert!(
        !text.contains("description=")
            && agent.get("/metrics?description=1").unwrap().contains("description=\"test 1\"")
    );

    let promtool = concat!(env!("CARGO_MANIFEST_DIR"), "/target/promtool");
    with_input(Command::new(promtool).args(["check", "metrics"]), &older(&text), "tests/run, which fetches promtool");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/config-examples/prometheus-rules.yml");
    with_input(Command::new(promtool).args(["check", "rules", rules]), "", "tests/run, which fetches promtool");
    let said = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prometheus-rules-test.yml");
    with_input(Command::new(promtool).args(["test", "rules", said]), "", "tests/run, which fetches promtool");
    // Alerting rules and dashboard must refer only to metrics that the agent exports.
    let dashboard =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config-examples/grafana-dashboard.json"))
            .unwrap();
    let _is_json: Value = serde_json::from_str(&dashboard).unwrap();
    let rules = std::fs::read_to_string(rules).unwrap();
    let name = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap().to_owned();
    for used in dashboard.split("peerpair_").skip(1).chain(rules.split("peerpair_").skip(1)).map(name) {
        let named = format!("peerpair_{used}");
        assert!(
            text.contains(&format!("\n{named}{{"))
                || text.contains(&format!("\n{named} "))
                || text.starts_with(&named)
                || is_empty_now(&named),
            "{named}\n{text}"
        );
    }
}

/// Returns whether a metric family has no series while an agent has neither alarms nor a time server.
fn is_empty_now(name: &str) -> bool {
    ["peerpair_clock_ntp_offset_seconds", "peerpair_alarm_raised", "peerpair_test_suppressed"].contains(&name)
}

/// Converts OpenMetrics to the older text format, in which a counter is declared by its full name, `_total` included.
fn older(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let renamed = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let (hash, what, name, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
        (hash == "#" && counters.contains(&name)).then(|| format!("{hash} {what} {name}_total {rest}"))
    };
    let lines = text.lines().filter(|line| !line.starts_with("# EOF"));
    lines.map(|line| renamed(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}
