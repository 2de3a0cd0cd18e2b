//! Tests of `check-config`, which reads a host's documents and prints its plan and all findings, without starting an
//! agent.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Etcd, id, tcp_port, test_document, write};

fn check(directory: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command.current_dir(directory).args(["check-config", "--config", "peerpair.toml"]).args(more);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const DIR: &str = "host = \"host-b\"\n[store]\nkind = \"dir\"\npath = \"documents\"\n[[sink]]\nname = \"noc\"\nkind = \"snmp\"\ntarget = \"127.0.0.1\"\n";

fn tree(documents: &[(&str, String)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(&directory.path().join("peerpair.toml"), DIR);
    std::fs::create_dir_all(directory.path().join("documents")).unwrap();
    for (path, text) in documents {
        write(&directory.path().join("documents").join(path), text);
    }
    directory
}

/// Returns a directory with valid documents in which every destination has port `port`.
fn good(port: u16) -> tempfile::TempDir {
    let document = |n, from, host, to| test_document(n, from, (host, &format!("{to}:{port}")), "");
    let directory = tree(&[("config.json", r#"{"enabled":true,"version":3}"#.to_owned())]);
    for (name, text) in [
        ("1", document(1, ("host-a", "127.0.0.2:0"), "host-b", "127.0.0.3")),
        ("2", document(2, ("host-a", "127.0.0.2:0"), "host-b", "localhost")),
        ("3", document(3, ("host-a", "127.0.0.2:0"), "host-b", "127.0.0.1")),
        ("4", document(4, ("host-b", "127.0.0.3:0"), "host-a", "127.0.0.2")),
    ] {
        for host in ["host-a", "host-b"] {
            write(&directory.path().join(format!("documents/tests/{host}/{name}.json")), &text);
        }
    }
    directory
}

/// The test has eight flows, four of them with packets of 1400 octets, and every probe is reflected.
#[test]
fn estimated_load_includes_flows_sizes_and_reflected_packets() {
    let more = r#","mode":"two_way","flows":2,"dscp":[0,46],"size":1400"#;
    let text = test_document(4, ("host-b", "127.0.0.3:8621"), ("host-a", "127.0.0.2:8620"), more);
    let directory = tree(&[
        ("config.json", r#"{"enabled":true}"#.to_owned()),
        ("tests/host-a/4.json", text.clone()),
        ("tests/host-b/4.json", text),
    ]);
    let output = check(directory.path(), &["--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (field, expected) in [("packets_per_second_in", 80.0), ("packets_per_second_out", 80.0)] {
        assert_eq!(json[field], expected, "{field}: {json}");
    }
    let bits = 10.0 * 8.0 * 4.0 * f64::from(108 + 28 + 1400 + 28);
    assert_eq!((&json["bits_per_second_in"], &json["bits_per_second_out"]), (&bits.into(), &bits.into()));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("only the first of the test's `flows`"),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn valid_documents_print_the_plan_of_the_host() {
    // The command binds no socket: an address that another program uses is no finding.
    let taken = UdpSocket::bind("127.0.0.3:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = good(port);
    let output = check(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    insta::assert_snapshot!(text(&output).replace(&port.to_string(), "PORT"));
    let json: serde_json::Value =
        serde_json::from_slice(&check(directory.path(), &["--format", "json"]).stdout).unwrap();
    let names = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    assert_eq!(json["listeners"][0]["names"], serde_json::json!(names));
    assert_eq!(json["packets_per_second_in"], 30.0);
    assert_eq!(json["packets_per_second_out"], 10.0);
    assert_eq!(json["senders"][0]["id"], id(4).as_str());
}

#[test]
fn every_finding_is_printed_with_location_and_help() {
    let directory = good(8620);
    let documents = directory.path().join("documents");
    write(&documents.join("tests/host-b/5.json"), "{\"id\": \"x\",}");
    write(
        &documents.join("tests/host-b/6.toml"),
        "id = \"no\"\nfrom_host = \"host-b\"\nto = \"host-b\"\nexpct_every = \"2s\"\n",
    );
    write(
        &documents.join("tests/host-b/7.json"),
        &test_document(7, ("host-a", ""), ("host-b", "nowhere.invalid:1"), ""),
    );
    let output = check(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(78));
    // The text of resolver errors differs between systems, so only the part before it is compared.
    let shown = text(&output);
    let lines: Vec<&str> = shown.lines().map(|line| line.split(": failed to lookup").next().unwrap()).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn warnings_fail_only_with_deny_warnings() {
    let directory = good(8620);
    write(&directory.path().join("documents/hosts/host-b.json"), r#"{"enabled":true,"colour":"blue"}"#);
    assert_eq!(check(directory.path(), &[]).status.code(), Some(0));
    assert_eq!(check(directory.path(), &["--deny-warnings"]).status.code(), Some(78));
}

#[test]
fn option_host_checks_the_plan_of_another_host() {
    let directory = good(8620);
    let output = check(directory.path(), &["--host", "host-c"]);
    assert!(text(&output).starts_with("host-c, "), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn invalid_bootstrap_file_exits_78_and_unreachable_store_exits_1() {
    let directory = good(8620);
    write(&directory.path().join("peerpair.toml"), "[stor]\nkind = \"dir\"\n");
    let output = check(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("did you mean `store`?"), "{}", text(&output));

    let away = format!("[store]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:{}\"]\n", tcp_port());
    write(&directory.path().join("peerpair.toml"), &away);
    let output = check(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cannot be read"), "{}", text(&output));
}

#[test]
fn documents_are_read_from_etcd_given_by_config_server() {
    let etcd = Etcd::start();
    etcd.put_test(["host-b"], "one", &test_document(1, ("host-a", ""), ("host-b", "127.0.0.3:8620"), ""));
    let directory = good(8620);
    let output = check(directory.path(), &["--config-server", &format!("127.0.0.1:{}", etcd.port())]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("listen at 1 address for 1 test"), "{}", text(&output));
}
