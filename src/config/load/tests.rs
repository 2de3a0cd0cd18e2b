use super::*;
use crate::config::document::deserialize::Format;
use crate::pure::judge::condition::Thresholds;
use std::time::Duration;

const ID: &str = "5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d";

fn documents(given: &[(&str, &str)]) -> Documents {
    given
        .iter()
        .map(|(key, text)| {
            let raw = RawDocument {
                text: (*text).to_owned(),
                format: Format::Json,
                place: (*key).to_owned(),
                unreadable: None,
                directory: None,
                version: 0,
            };
            ((*key).to_owned(), Arc::new(raw))
        })
        .collect()
}

fn test_document(more: &str) -> String {
    format!(r#"{{"id":"{ID}","from_host":"a","from":"127.0.0.2:0","to_host":"b","to":"127.0.0.3:8620"{more}}}"#)
}

fn findings(loaded: &Loaded) -> String {
    loaded.findings.iter().map(|finding| format!("{} {finding}", finding.level)).collect::<Vec<_>>().join("\n")
}

fn only(loaded: &Loaded) -> &Test {
    assert_eq!(loaded.tests.len(), 1, "{}", findings(loaded));
    loaded.tests.values().next().unwrap()
}

#[test]
fn test_alone_runs_with_built_in_defaults() {
    let loaded = Loader::new("b").load(&documents(&[("tests/b/x", &test_document(""))]));
    assert_eq!(findings(&loaded), "");
    let test = only(&loaded);
    assert_eq!(test.send_every, Duration::from_secs(1));
    assert_eq!(test.expect_every, Duration::from_secs(2));
    assert_eq!(test.thresholds, Thresholds::in_a_row(3, 3));
    assert_eq!(test.startup_grace, Duration::from_secs(30));
    assert_eq!(test.limits.egregious_latency, Duration::from_secs(10));
}

/// A terminal would execute the sequences in a description that a command prints.
#[test]
fn control_characters_in_texts_are_read_as_blanks_with_a_warning() {
    let text = test_document(r#","description":"a\u001b[31m\nb","\u001b[1m":1"#);
    let loaded = Loader::new("b").load(&documents(&[("tests/b/x", &text)]));
    assert_eq!(only(&loaded).facts.description, "a [31m b");
    let found = findings(&loaded);
    let expected = "tests/b/x: description: has control characters, which are read as blanks; write one line";
    assert!(found.contains(expected) && found.contains("unknown field `") && !found.contains('\u{1b}'), "{found}");
}

#[test]
fn test_takes_precedence_over_host_over_global() {
    let documents = documents(&[
        ("config", r#"{"alarm":{"raise_after":7,"clear_after":7,"hold_down":"7s"},"defaults":{"max_latency":"7ms"}}"#),
        ("hosts/b", r#"{"alarm":{"clear_after":6,"hold_down":"6s"}}"#),
        ("tests/b/x", &test_document(r#","hold_down":"5s","send_every":"20s""#)),
    ]);
    let loaded = Loader::new("b").load(&documents);
    assert_eq!(findings(&loaded), "");
    let test = only(&loaded);
    assert_eq!(test.thresholds, Thresholds::in_a_row(7, 6));
    assert_eq!(test.hold_down.hold_down, Duration::from_secs(5));
    assert_eq!(loaded.hold_down.hold_down, Duration::from_secs(6));
    assert_eq!(test.limits.max_latency, Some(Duration::from_millis(7)));
    assert_eq!((test.expect_every, test.startup_grace), (Duration::from_secs(40), Duration::from_secs(120)));
}

#[test]
fn bad_document_is_rejected_and_its_last_good_version_stays_in_force() {
    let other = test_document("").replace("5b0c6f0e", "00000000");
    let mut loader = Loader::new("b");
    let good = test_document(r#","expect_every":"4s""#);
    loader.load(&documents(&[("tests/b/x", &good), ("tests/b/y", &other)]));

    let bad = test_document(r#","expect_every":"4 parsecs""#);
    let loaded = loader.load(&documents(&[("tests/b/x", &bad), ("tests/b/y", &other)]));
    assert_eq!(loaded.tests.len(), 2);
    assert_eq!(loaded.tests[&ID.parse().unwrap()].expect_every, Duration::from_secs(4));
    assert_eq!(loaded.rejected.len(), 1);
    assert!(loaded.rejected[0].last_good_in_force);

    // An agent that never read a good version cannot run the test, and reports that.
    let loaded = Loader::new("b").load(&documents(&[("tests/b/x", &bad), ("tests/b/y", &other)]));
    assert_eq!(loaded.tests.len(), 1);
    assert!(!loaded.rejected[0].last_good_in_force);

    // Removing a document also discards its last good version.
    assert_eq!(loader.load(&documents(&[("tests/b/y", &other)])).tests.len(), 1);
    assert_eq!(loader.load(&documents(&[("tests/b/x", &bad)])).tests.len(), 0);
}

#[test]
fn bad_global_document_without_a_good_version_disables_tests() {
    let bad = documents(&[("config", "{"), ("tests/b/x", &test_document(""))]);
    assert!(!Loader::new("b").load(&bad).enabled);
    let mut loader = Loader::new("b");
    loader.load(&documents(&[("config", "{}"), ("tests/b/x", &test_document(""))]));
    assert_eq!(loader.load(&bad).tests.len(), 1);
}

#[test]
fn all_findings_of_broken_documents_are_reported() {
    let documents = documents(&[
        (
            "config",
            r#"{"enabled":"yes","egregious_latency":"0s","alarm":{"raise_after":0,"hold_dwn":"3s"},"sinks":[{"name":"noc","kind":"snmp","target":""}]}"#,
        ),
        ("hosts/b", r#"{"alarm":{"hold_down":"20m","hold_down_max":"10m"},"sinks":[{"name":"x"},{"name":"x"}]}"#),
        ("tests/b/1", r#"{"from_host":"a","from":"10.0.0.1","to_host":"b","to":"*:8620"}"#),
        ("tests/b/2", r#"{"id":"five","to":"10.0.0.2:0","send_every":"1s","expect_every":"500ms"}"#),
        ("tests/b/3", &test_document(r#","send_every":"10us","max_latncy":"5ms""#)),
        ("tests/b/4", &test_document("")),
        ("tests/b/5", &test_document("")),
        ("tests/b/6", &test_document("").replace("\"b\"", "\"c\"").replace("5b0c6f0e", "00000000")),
        (
            "tests/b/7",
            r#"{"Id":"5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8e","FromHostId":"a","ToHostId":"b","To":"10.0.0.1:1","FreqSeconds":0,"Protocol":"tcp"}"#,
        ),
    ]);
    insta::assert_snapshot!(findings(&Loader::new("b").load(&documents)));
}

#[test]
fn legacy_documents_are_read_unchanged() {
    let documents = documents(&[
        ("config", r#"{"Version":7,"Enabled":true,"FailureLatencyEgregiousMicros":5000000}"#),
        (
            "hosts/hostB",
            r#"{"Version":1,"Enabled":true,"SNMPServer":"127.0.0.1:1162","SNMPCommunity":"public","NTPServer":"pool","MaxReportsPerSecond":5,"CachePeriodSeconds":60,"SSHPubKey":""}"#,
        ),
        (
            "tests/hostB/1",
            &format!(
                r#"{{"Id":"{ID}","Version":1,"Description":"a to b","Enabled":true,"FromHostId":"hostA","From":"127.0.0.2:5000","ToHostId":"hostB","To":"127.0.0.3:5000","Protocol":"udp","FreqSeconds":1,"FreqRetrySeconds":1,"FailureConnReportMin":2,"FailureLatencyMicros":100000}}"#
            ),
        ),
    ]);
    let loaded = Loader::new("hostB").load(&documents);
    assert_eq!(findings(&loaded), "");
    assert_eq!(loaded.config_version, 7);
    assert_eq!(loaded.sinks[0].place(), "127.0.0.1:1162");
    let test = only(&loaded);
    assert_eq!((test.send_every, test.expect_every), (Duration::from_millis(500), Duration::from_secs(1)));
    assert_eq!(test.thresholds.raise_after, 2);
    assert_eq!(test.limits.max_latency, Some(Duration::from_millis(100)));
    assert_eq!(test.limits.egregious_latency, Duration::from_secs(5));
}

/// Defaults that are invalid for every test reject the global document, not the tests.
#[test]
fn invalid_defaults_reject_the_global_document() {
    let mut loader = Loader::new("b");
    loader.load(&documents(&[("config", "{}"), ("tests/b/x", &test_document(""))]));
    for defaults in
        [r#"{"send_every":"100us"}"#, r#"{"send_every":"5s","expect_every":"1s"}"#, r#"{"max_latency":"0s"}"#]
    {
        let global = format!(r#"{{"defaults":{defaults}}}"#);
        let loaded = loader.load(&documents(&[("config", &global), ("tests/b/x", &test_document(""))]));
        assert_eq!(loaded.rejected.len(), 1, "{defaults}: {}", findings(&loaded));
        assert_eq!(loaded.rejected[0].document, "config");
        assert_eq!(loaded.tests.len(), 1);
    }
}

#[test]
fn durations_that_overflow_are_findings() {
    for every in ["300000000000 years", "18446744073709551615s 1000ms", "99999999999999999999s"] {
        let document = test_document(&format!(r#","expect_every":"{every}""#));
        let loaded = Loader::new("b").load(&documents(&[("tests/b/x", &document)]));
        assert_eq!(loaded.rejected.len(), 1, "{every}");
    }
    let legacy = format!(
        r#"{{"Id":"{ID}","Enabled":true,"FromHostId":"a","ToHostId":"b","To":"127.0.0.1:1","FreqSeconds":9000000000000000000}}"#
    );
    assert_eq!(Loader::new("b").load(&documents(&[("tests/b/x", &legacy)])).rejected.len(), 1);
}

/// Write access to the store does not permit running programs, unless the bootstrap file of the host allows it.
#[test]
fn exec_sink_in_a_document_requires_allow_exec() {
    let documents =
        documents(&[("config", r#"{"sinks":[{"name":"page","kind":"exec","command":["/bin/true"]},{"name":"l"}]}"#)]);
    let names = |loaded: &Loaded| loaded.sinks.iter().map(|sink| sink.name.clone()).collect::<Vec<_>>();
    let loaded = Loader::new("b").load(&documents);
    assert_eq!(names(&loaded), ["l"]);
    assert_eq!(loaded.findings[0].location, "documents: sinks: page");
    let allowing = Bootstrap { host: "b".into(), allow_exec: true, ..Bootstrap::default() };
    assert_eq!(names(&Loader::of(&allowing).load(&documents)), ["page", "l"]);
}

/// Errors in another host's document are reported by that host alone, and its maintenance windows apply regardless.
#[test]
fn maintenance_of_another_host_applies_despite_its_errors() {
    let documents = documents(&[
        (
            "hosts/a",
            r#"{"drained":true,"sinks":[{"name":"x","kind":"webhook","url":"http://x","secret_file":"relative"}],"nonsense":1}"#,
        ),
        (
            "hosts/c",
            r#"{"maintenance":[{"from":"01:00","to":"02:00","time_zone":"Nowhere"},{"from":"01:00","to":"02:00"}]}"#,
        ),
        ("hosts/d", r#"{"drained":"#),
    ]);
    let loaded = Loader::new("b").load(&documents);
    assert_eq!(loaded.findings, []);
    assert_eq!((loaded.drained.len(), loaded.windows.len()), (1, 1));
    assert_eq!(loaded.windows[0].host.as_deref(), Some("c"));
}

/// A matcher with a misspelled name would match everything and suppress alarms of the whole fleet.
#[test]
fn a_misspelt_field_of_a_window_is_an_error() {
    let documents = documents(&[("config", r#"{"maintenance":[{"host":["c"],"from":"00:00","to":"23:59"}]}"#)]);
    let loaded = Loader::new("b").load(&documents);
    assert_eq!(loaded.rejected.len(), 1);
    assert!(loaded.rejected[0].reasons[0].contains("maintenance[0].host: unknown field"), "{:?}", loaded.rejected);
    assert_eq!(loaded.windows, []);
}

/// An address that no host can have removes that host from the set, but not the set from the fleet.
#[test]
fn one_bad_host_takes_only_its_own_pairs_out_of_a_set() {
    let host = |addr: &str| format!(r#"{{"addresses":{{"default":"{addr}"}},"groups":["x"]}}"#);
    let (a, b, c) = (host("10.0.0.1"), host("10.0.0.2"), host("0.0.0.0"));
    let documents = documents(&[
        ("hosts/a", &a),
        ("hosts/b", &b),
        ("hosts/c", &c),
        ("sets/s", r#"{"topology":"mesh","from":{"groups":["x"]}}"#),
    ]);
    for (own, tests) in [("a", 2), ("b", 2), ("c", 0)] {
        let loaded = Loader::new(own).load(&documents);
        assert_eq!(loaded.tests.len(), tests, "{own}: {}", findings(&loaded));
    }
    let of_c = Loader::new("c").load(&documents);
    assert!(findings(&of_c).contains("0.0.0.0 is not the address of one host"), "{}", findings(&of_c));
}

/// Documents are parsed again after a change only; unchanged ones are reused.
#[test]
fn unchanged_documents_are_not_read_again() {
    let (first, second) = (test_document(""), test_document(r#","description":"x""#));
    let before = documents(&[("tests/b/x", &first)]);
    let mut loader = Loader::new("b");
    loader.load(&before);
    let loaded = loader.load(&documents(&[("tests/b/x", &second)]));
    assert_eq!(only(&loaded).facts.description, "x");
    assert_eq!(loader.in_force()["tests/b/x"].text, second);
    let bad = loader.load(&documents(&[("tests/b/x", "{")]));
    assert_eq!(only(&bad).facts.description, "x");
    assert_eq!(loader.in_force()["tests/b/x"].text, second);
}

#[test]
fn store_patience_of_the_documents_takes_precedence_over_the_default() {
    let patience = |text: &str| {
        let loaded = Loader::new("b").load(&documents(&[("config", text)]));
        assert_eq!(findings(&loaded), "");
        loaded.store_patience
    };
    assert_eq!(patience(r#"{"alarm":{"store_patience":"5s"}}"#), Duration::from_secs(5));
    assert_eq!(patience("{}"), STORE_PATIENCE);
}
