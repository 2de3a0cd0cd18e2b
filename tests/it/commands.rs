//! Commands that operators run beside the agent: export, import, doctor, and the check of a whole fleet's documents.
//! The tests run the binary and compare its output and exit code.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Agent, Etcd, Flavour, tcp_port, test_document, write};

fn peerpair(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerpair"));
    command.current_dir(directory).args(arguments).args(["--config", "peerpair.toml"]).stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn bootstrap(directory: &Path, etcd: &Etcd, api: &str) {
    let text = format!(
        "host = \"b\"\nstate_dir = \"state\"\n[store]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:{}\"]\napi = \"{api}\"\n",
        etcd.port()
    );
    write(&directory.join("peerpair.toml"), &text);
}

/// Imports a directory into etcd, changes documents there, and exports them again: unchanged documents stay identical
/// byte for byte.
fn there_and_back(flavour: Flavour, api: &str) {
    let (etcd, directory) = (Etcd::of(flavour), tempfile::tempdir().unwrap());
    let root = directory.path();
    bootstrap(root, &etcd, api);
    let test = test_document(1, ("a", ""), ("b", "127.0.0.3:8620"), "");
    write(&root.join("docs/config.toml"), "enabled = true\nversion = 3\n");
    write(&root.join("docs/hosts/b.json"), r#"{ "groups": ["db"] }"#);
    write(&root.join("docs/tests/a/1.json"), &test);
    write(&root.join("docs/tests/b/1.json"), &test);

    // Without `--yes`, nothing is written.
    let output = peerpair(root, &["import", "docs"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nothing was written; add --yes"), "{}", said(&output));
    let output = peerpair(root, &["import", "docs", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("4 documents written, 0 not written"), "{text}");
    // The receiver's copy of a test is written before the sender's, so that no probe arrives unexpected.
    assert!(text.find("create  tests/b/1") < text.find("create  tests/a/1"), "{text}");
    let output = peerpair(root, &["import", "docs", "--yes"]);
    assert!(said(&output).contains("4 unchanged"), "{}", said(&output));

    etcd.put("hosts/b", r#"{"groups":["db","all"],"drained":true}"#);
    etcd.put("sets/new", r#"{"from":{"hosts":["*"]},"to":{"groups":["db"]}}"#);
    let output = peerpair(root, &["export", "docs", "--dry-run"]);
    let text = said(&output);
    assert!(text.contains("change  hosts/b") && text.contains("drained: nothing → true"), "{text}");
    assert!(text.contains("create  sets/new") && text.contains("3 unchanged"), "{text}");
    assert!(!root.join("docs/sets").exists());
    assert_eq!(peerpair(root, &["export", "docs", "--yes"]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(root.join("docs/tests/b/1.json")).unwrap(), test);
    assert_eq!(std::fs::read_to_string(root.join("docs/config.toml")).unwrap(), "enabled = true\nversion = 3\n");

    // Documents that exist only in the store are kept, unless `--prune` is given.
    std::fs::remove_file(root.join("docs/sets/new.json")).unwrap();
    let text = said(&peerpair(root, &["import", "docs", "--dry-run"]));
    assert!(text.contains("1 only in the destination, which are kept (--prune removes them)"), "{text}");
    let text = said(&peerpair(root, &["import", "docs", "--prune", "--yes"]));
    assert!(text.contains("remove  sets/new") && text.contains("1 document written"), "{text}");

    // A single invalid document prevents the whole import.
    write(&root.join("docs/tests/b/2.json"), "{\"id\":7}");
    let output = peerpair(root, &["import", "docs", "--yes"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(said(&output).contains("tests/b/2.json: id: ") && said(&output).contains("nothing was written"));

    // An export into a new directory needs no confirmation and serves as a backup.
    assert_eq!(peerpair(root, &["export", "backup"]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(root.join("backup/tests/a/1.json")).unwrap(), test);
}

#[test]
fn import_and_export_with_v2_keep_documents_unchanged() {
    there_and_back(Flavour::V2Of34, "v2");
}

#[test]
fn import_and_export_with_v3_keep_documents_unchanged() {
    there_and_back(Flavour::V3Of35, "v3");
}

/// A user who can write to the store must not be able to write files outside the export directory.
#[test]
fn export_writes_no_file_outside_its_directory() {
    let (etcd, directory) = (Etcd::of(Flavour::V3Of34), tempfile::tempdir().unwrap());
    let root = directory.path();
    bootstrap(root, &etcd, "v3");
    etcd.put("hosts/b", "{}");
    etcd.put("sets/../../escaped", "{}");
    let output = peerpair(root, &["export", "a/b/docs"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("sets/../../escaped: not written: "), "{}", said(&output));
    assert!(root.join("a/b/docs/hosts/b.json").exists());
    assert!(!root.join("a/b/escaped.json").exists() && !root.join("a/escaped.json").exists());
}

/// An import with `--prune` from a directory without documents must not delete the documents in the store.
#[test]
fn import_without_documents_is_refused() {
    let (etcd, directory) = (Etcd::of(Flavour::V3Of34), tempfile::tempdir().unwrap());
    let root = directory.path();
    bootstrap(root, &etcd, "v3");
    etcd.put("hosts/b", "{}");
    write(&root.join("docs/sub/hosts/b.json"), "{}");
    let output = peerpair(root, &["import", "docs", "--prune", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("has no documents"), "{}", said(&output));
    assert!(etcd.get("hosts/b").is_some());
    write(&root.join("docs/hosts/c.json"), "{}");
    assert!(said(&peerpair(root, &["import", "docs", "--yes"])).contains("no valid key for a document: sub/"));
}

/// Checks a fleet whose documents contain every fault that can be detected on a single host.
#[test]
fn check_config_of_all_hosts_reports_every_finding() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write(
        &root.join("peerpair.toml"),
        "host = \"a\"\n[store]\nkind = \"dir\"\npath = \"docs\"\n[web]\ntoken_file = \"token\"\n[[sink]]\nname = \"hook\"\n\
         kind = \"webhook\"\nurl = \"http://127.0.0.1:9\"\nsecret_file = \"secret\"\n",
    );
    for name in ["secret", "token"] {
        write(&root.join(name), "hidden");
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let test = |n, to: &str, more: &str| test_document(n, ("a", "10.0.0.1:0"), ("b", to), more);
    let documents = [
        ("config.json", r#"{"enabled":true,"colour":"blue"}"#.to_owned()),
        ("hosts/a.json", r#"{"addresses":{"default":"10.0.0.1"},"groups":["app"]}"#.to_owned()),
        ("hosts/b.json", r#"{"addresses":{"default":"10.0.0.2"},"groups":["db"]}"#.to_owned()),
        ("hosts/c.json", r#"{"addresses":{"default":"10.0.0.2"},"groups":["db"]}"#.to_owned()),
        (
            "hosts/d.json",
            r#"{"groups":["db"],"alarm":{"flap_high":1},"maintenance":[{"from":"soon","to":"later"}]}"#.to_owned(),
        ),
        ("hosts/e.json", r#"{"addresses":{"default":"ten"}}"#.to_owned()),
        ("tests/a/1.json", test(1, "10.0.0.2:8620", "")),
        ("tests/a/2.json", test(2, "10.0.0.2:8620", "")),
        ("tests/b/2.json", test(2, "10.0.0.2:8621", "")),
        ("tests/a/3.json", test(3, "10.0.0.2:8620", "").replace("\"200ms\"", "\"50ms\"")),
        ("tests/a/4.json", "{\"id\":}".to_owned()),
        ("tests/a/5.json", test(1, "10.0.0.2:8620", "")),
        ("tests/a/6.json", test(6, "nowhere.invalid:8620", "")),
        ("tests/b/6.json", test(6, "nowhere.invalid:8620", "")),
        (
            "sets/mesh.json",
            r#"{"topology":"mesh","from":{"groups":["db"]},"to":{"hosts":["a"]},"sample":0}"#.to_owned(),
        ),
        ("sets/none.json", r#"{"from":{"groups":["nobody"]},"to":{"hosts":["z","b"],"port":0}}"#.to_owned()),
        ("sets/list.json", r#"{"topology":"list","direction":"sideways"}"#.to_owned()),
        ("sets/app-to-db.json", r#"{"from":{"groups":["app"],"prt":1},"to":{"groups":["db"]}}"#.to_owned()),
        (
            "sets/both.json",
            r#"{"from":{"groups":["app"]},"to":{"groups":["db"],"at":"10.0.0.9"},"direction":"both"}"#.to_owned(),
        ),
    ];
    for (path, text) in &documents {
        write(&root.join("docs").join(path), text);
    }
    let output = peerpair(root, &["check-config", "--all-hosts"]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    // The text of resolver errors differs between systems, so only the part before it is compared.
    let text = said(&output).replace(&root.display().to_string(), "DIRECTORY");
    let lines: Vec<&str> = text.lines().map(|line| line.split(": failed to lookup").next().unwrap()).collect();
    insta::assert_snapshot!(lines.join("\n"));
    let json: Value =
        serde_json::from_slice(&peerpair(root, &["check-config", "--all-hosts", "--format", "json"]).stdout).unwrap();
    assert_eq!(json["hosts"].as_array().unwrap().len(), 5);
}

/// Prints the effect of a change before it is made, compared with a running agent and with a directory.
#[test]
fn check_config_prints_difference_to_running_agent_and_directory() {
    let test = |n, more: &str| test_document(n, ("b", "127.0.0.2:0"), ("b", "127.0.0.3:8620"), more);
    let agent = Agent::with_dir("b", &[("tests/b/1.json", test(1, "")), ("tests/b/2.json", test(2, ""))], "");
    agent.wait_status("both tests", |status| (status["tests"].as_array()?.len() == 4).then_some(()));
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write(
        &root.join("peerpair.toml"),
        "host = \"b\"\n[store]\nkind = \"dir\"\npath = \"docs\"\n[[sink]]\nname = \"console\"\nkind = \"log\"\n",
    );
    write(&root.join("docs/tests/b/1.json"), &test(1, "").replace("\"100ms\"", "\"50ms\""));
    write(&root.join("docs/tests/b/3.json"), &test(3, ""));
    let url = format!("http://127.0.0.1:{}", agent.web_port());
    let documents = agent.path("documents").display().to_string();
    for against in [["--running", &url], ["--against", &documents]] {
        let output = peerpair(root, &["check-config", against[0], against[1]]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let text = said(&output);
        assert!(text.contains(&format!("{} is now, these documents would\n", against[1])), "{text}");
        assert!(
            text.contains("change  sender of 00000000-0000-4000-8000-000000000001")
                && text.contains("send_every: 0.1 → 0.05"),
            "{text}"
        );
        assert!(text.contains("remove  expectation of 00000000-0000-4000-8000-000000000002"), "{text}");
        assert!(text.contains("create  expectation of 00000000-0000-4000-8000-000000000003"), "{text}");
        assert_eq!(
            text.matches("  create  ").count()
                + text.matches("  change  ").count()
                + text.matches("  remove  ").count(),
            5,
            "{text}"
        );
    }
    let output = peerpair(root, &["check-config", "--host", "c", "--running", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("is the agent of `b`, not of `c`"), "{}", said(&output));
}

#[test]
fn doctor_reports_unreachable_store_member_and_receiver() {
    let (etcd, directory) = (Etcd::of(Flavour::V3Of34), tempfile::tempdir().unwrap());
    let root = directory.path();
    etcd.put("tests/b/1", &test_document(1, ("a", ""), ("b", "127.0.0.3:8620"), ""));
    let (away, closed) = (tcp_port(), tcp_port());
    write(
        &root.join("peerpair.toml"),
        &format!(
            "host = \"b\"\nstate_dir = \"state\"\n[store]\nkind = \"etcd\"\n\
             endpoints = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{away}\"]\nrequest_timeout = \"1s\"\n\
             [[sink]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:{closed}\"\n",
            etcd.port()
        ),
    );
    std::fs::create_dir(root.join("state")).unwrap();
    let output = peerpair(root, &["doctor"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("1 documents, revision ") && text.contains("etcd v3, cluster "), "{text}");
    assert!(text.contains(&format!("error    store: http://127.0.0.1:{away}/")), "{text}");
    assert!(text.contains(&format!("127.0.0.1:{closed}: Connection refused")), "{text}");
    assert!(text.contains("UDP: the kernel timestamps received datagrams") && text.contains("clock: "), "{text}");
    assert!(text.contains("is writable"), "{text}");
    assert!(text.contains("2 errors, "), "{text}");
}
