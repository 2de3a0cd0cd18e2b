//! Reads a single document: parses its text, converts it to its type and collects every finding. [`read_document`] is
//! the entry point and selects the kind of document by its key.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::config::check::sinks::check_sinks;
use crate::config::document::deserialize;
use crate::config::document::endpoint::Endpoint;
use crate::config::document::findings::{Finding, Findings, Level};
use crate::config::document::fleet::{FleetDocument, KeyDocument};
use crate::config::document::host::HostDocument;
use crate::config::document::legacy;
use crate::config::document::maintenance;
use crate::config::document::raw::{GLOBAL_KEY, HOSTS_PREFIX, RawDocument, SETS_PREFIX, TESTS_PREFIX};
use crate::config::document::secret::resolve_path;
use crate::config::document::set::SetDocument;
use crate::config::document::settings::{AlarmSettings, TestSettings};
use crate::config::document::sinks::SinkConfig;
use crate::config::document::test::TestDocument;
use crate::config::expand;
use crate::config::test::{check_intervals, check_settings, intervals};
use crate::pure::judge::condition::MAX_SAMPLES;
use crate::pure::stamp::key::read_key;

/// Parsed document of any kind.
#[derive(Clone, Debug)]
pub enum Document {
    /// The document `config`, which applies to the fleet.
    Global(Arc<FleetDocument>),
    /// A document `hosts/<host>`, which applies to a host.
    Host(Arc<HostDocument>),
    /// A document `sets/<name>`, from which tests are expanded.
    Set(Arc<SetDocument>),
    /// A document `tests/<host>/<name>`, which defines a single test.
    Test(Arc<TestDocument>),
}

/// Reads the document at `key`. Returns the usable parts, even when others have errors, and every finding. The
/// document is `None` when its text is unreadable or its key belongs to no known kind.
pub fn read_document(key: &str, raw: &RawDocument) -> (Option<Document>, Vec<Finding>) {
    let mut findings = Findings::about(&raw.place);
    let value = match &raw.unreadable {
        Some(problem) => {
            findings.error("", problem, "replace it by one readable file");
            None
        }
        None => deserialize::parse(&raw.text, raw.format, &mut findings),
    };
    let value = value.map(|mut value| {
        deserialize::blank_control_characters(&mut value, &mut findings);
        value
    });
    let directory = raw.directory.as_deref();
    let document = value.and_then(|value| match key {
        GLOBAL_KEY => Some(Document::Global(Arc::new(read_global(value, directory, &mut findings)))),
        _ if key.starts_with(HOSTS_PREFIX) => {
            Some(Document::Host(Arc::new(read_host(value, directory, &mut findings))))
        }
        _ if key.starts_with(SETS_PREFIX) => {
            let name = &key[SETS_PREFIX.len()..];
            Some(Document::Set(Arc::new(read_set(name, value, &mut findings))))
        }
        _ if key.starts_with(TESTS_PREFIX) => {
            let name = key.rsplit('/').next().unwrap_or_default();
            Some(Document::Test(Arc::new(read_test(name, value, &mut findings))))
        }
        _ => None,
    });
    (document, findings.into_vec())
}

fn read_global(value: Value, directory: Option<&Path>, findings: &mut Findings) -> FleetDocument {
    let mut global =
        if legacy::is_global(&value) { legacy::global(value, findings) } else { FleetDocument::read(value, findings) };
    check_alarm("alarm.", &global.alarm, findings);
    place_sinks("sinks", &mut global.sinks, directory, findings);
    check_sinks("sinks", &global.sinks, findings);
    maintenance::windows(&global.maintenance, "", None, findings);
    let defaults = &global.defaults;
    let intervals = intervals(defaults.common.send_every, defaults.common.expect_every, &TestSettings::default());
    check_intervals("defaults.", defaults.common.send_every, intervals, findings);
    check_settings("defaults.", defaults, findings);
    check_keys(&mut global.keys, global.active_key, directory, findings);
    if global.egregious_latency.is_zero() {
        findings.error("egregious_latency", "zero", "write a delay that no path can have, such as \"10s\"");
    }
    global
}

fn read_host(value: Value, directory: Option<&Path>, findings: &mut Findings) -> HostDocument {
    let mut host: HostDocument = if legacy::is_host(&value) {
        legacy::host(value, findings)
    } else {
        deserialize::typed(value, Level::Warning, findings)
    };
    check_alarm("alarm.", &host.alarm, findings);
    place_sinks("sinks", &mut host.sinks, directory, findings);
    check_sinks("sinks", &host.sinks, findings);
    drop_bad_windows(&mut host, findings);
    if !host.ntp_server.is_empty() && host.ntp_server.parse::<Endpoint>().is_err() {
        let problem = format!("`{}` is not an address of a time server", host.ntp_server);
        findings.error("ntp_server", problem, "write address:port, such as \"ntp1.example:123\"");
    }
    host.addresses.retain(|name, addr| {
        let of_one_host = !addr.is_unspecified() && !addr.is_multicast() && *addr != IpAddr::V4(Ipv4Addr::BROADCAST);
        if !of_one_host {
            let help = "write the address at which others reach this host";
            findings.error(&format!("addresses.{name}"), format!("{addr} is not the address of one host"), help);
        }
        of_one_host
    });
    host
}

/// Removes maintenance windows with errors. Other hosts use the document even when it has errors, and a partly
/// understood window could suppress alarms about everything.
fn drop_bad_windows(host: &mut HostDocument, findings: &mut Findings) {
    maintenance::windows(&host.maintenance, "", None, findings);
    let mut n = 0;
    host.maintenance.retain(|_| {
        let field = format!("maintenance[{n}]");
        n += 1;
        !findings.errors().any(|finding| finding.location.contains(&field))
    });
}

fn read_set(name: &str, value: Value, findings: &mut Findings) -> SetDocument {
    let set = SetDocument::read(value, findings);
    if name.is_empty() || name.contains('/') {
        findings.error("", "not a name for a set", "name it without a slash, as in sets/app-to-db");
    }
    check_alarm("", &set.alarm, findings);
    maintenance::windows(&set.maintenance, "", None, findings);
    // After a parse error the remainder is incomplete, and checking it would report misleading findings.
    if !findings.has_errors() {
        expand::check(&set, findings);
    }
    set
}

/// Reads a test document. A name that is a UUID takes precedence over the field `id`.
fn read_test(name: &str, value: Value, findings: &mut Findings) -> TestDocument {
    let mut document: TestDocument =
        if legacy::is_test(&value) { legacy::test(value, findings) } else { TestDocument::read(value, findings) };
    if let Ok(id) = name.parse::<Uuid>() {
        if !document.id.is_empty() && document.id.parse() != Ok(id) {
            let problem = format!("`{}` is not the id in the document's key, which takes precedence", document.id);
            findings.warning("id", problem, "write the same in both, or give the document another name");
        }
        document.id = id.to_string();
    }
    check_alarm("", &document.alarm, findings);
    document
}

/// Lower bound for `renotify`. More frequent repetition would itself flood the receivers.
const SHORTEST_RENOTIFY: Duration = Duration::from_secs(60);
const SHORTEST_SUMMARY: Duration = Duration::from_secs(1);
const MAX_REPEATS: usize = 10;
/// Lower bound for `storm_hold_max`, so that alarms reported in a storm summary are not also sent singly right
/// afterwards.
const SHORTEST_STORM: Duration = Duration::from_secs(10);
/// Upper bound for `flap_high`, because the time of each change is stored per alarm and receiver.
const MAX_FLAPS: u32 = 1000;

/// Checks the keys for signing probes. The permissions of a `secret_file` are checked later, when the agent reads it.
fn check_keys(keys: &mut [KeyDocument], active: Option<u8>, directory: Option<&Path>, findings: &mut Findings) {
    let ids: Vec<u8> = keys.iter().map(|key| key.id).collect();
    for (n, key) in keys.iter_mut().enumerate() {
        let field = format!("keys[{n}]");
        if key.id == 0 {
            findings.error(&format!("{field}.id"), "missing or zero", "write a number from 1 to 255");
        } else if ids[..n].contains(&key.id) {
            let help = "give each key a different id: probes carry it";
            findings.error(&format!("{field}.id"), format!("{} is the id of another key too", key.id), help);
        }
        match (&mut key.secret_file, &key.secret) {
            (Some(file), None) => resolve_path(file, directory, &format!("{field}.secret_file"), findings),
            (None, Some(secret)) if read_key(secret.reveal()).is_some() => {}
            (None, Some(_)) => {
                let help = "write 64 hex digits, or 32 octets in base64 (peerpair key new makes one)";
                findings.error(&format!("{field}.secret"), "not a key of 32 octets", help);
            }
            (None, None) => findings.error(&field, "no secret", "write secret_file"),
            (Some(_), Some(_)) => findings.error(&field, "two secrets", "write secret_file or secret"),
        }
    }
    if let Some(id) = active.filter(|id| !ids.contains(id)) {
        findings.error("active_key", format!("no key has the id {id}"), "write the id of one of `keys`");
    }
}

fn place_sinks(field: &str, sinks: &mut [SinkConfig], directory: Option<&Path>, findings: &mut Findings) {
    for (n, sink) in sinks.iter_mut().enumerate() {
        sink.resolve_paths(&format!("{field}[{n}]"), directory, findings);
    }
}

fn check_alarm(field: &str, alarm: &AlarmSettings, findings: &mut Findings) {
    for (name, value) in [("raise_after", alarm.raise_after), ("clear_after", alarm.clear_after)] {
        if value == Some(0) {
            findings.error(&format!("{field}{name}"), "zero", "write 1 or more");
        }
        if value.is_some_and(|value| value > MAX_SAMPLES) {
            let help = format!("write {MAX_SAMPLES} or less, or test less often");
            findings.error(&format!("{field}{name}"), "too many", help);
        }
    }
    for (name, of, least) in [
        ("raise_out_of", alarm.raise_out_of, alarm.raise_after.unwrap_or(1)),
        ("clear_out_of", alarm.clear_out_of, alarm.clear_after.unwrap_or(1)),
    ] {
        if of.is_some_and(|of| of < least || of > MAX_SAMPLES) {
            let help = format!("write {least} to {MAX_SAMPLES}, or leave it out for samples in a row");
            findings.error(&format!("{field}{name}"), "fewer than raise_after or clear_after, or too many", help);
        }
    }
    if alarm.renotify.is_some_and(|every| !every.is_zero() && every < SHORTEST_RENOTIFY) {
        findings.error(&format!("{field}renotify"), "shorter than 1m", "write \"1m\" or more, or \"0s\" for never");
    }
    if alarm.summary_interval.is_some_and(|every| every < SHORTEST_SUMMARY) {
        findings.error(&format!("{field}summary_interval"), "shorter than 1s", "write \"1s\" or more");
    }
    if alarm.flap_window.is_some_and(|window| window.is_zero()) {
        findings.error(
            &format!("{field}flap_window"),
            "zero",
            "write a time such as \"10m\"; flap_high = 0 switches it off",
        );
    }
    if alarm.flap_high == Some(1) {
        findings.error(&format!("{field}flap_high"), "less than 2", "write 2 or more, or 0 for never");
    }
    if alarm.trap_repeat.as_ref().is_some_and(|repeats| repeats.len() > MAX_REPEATS) {
        findings.error(&format!("{field}trap_repeat"), "too many repeats", "write 10 or fewer");
    }
    if alarm.storm_hold_max.is_some_and(|most| most < SHORTEST_STORM) {
        findings.error(
            &format!("{field}storm_hold_max"),
            "shorter than 10s",
            "write \"10s\" or more; storm_on = 0 switches storms off",
        );
    }
    if alarm.group_ratio.is_some_and(|ratio| !(ratio > 0.0 && ratio <= 1.0)) {
        findings.error(
            &format!("{field}group_ratio"),
            "not a ratio",
            "write a number above 0 and up to 1, such as 0.8",
        );
    }
    if let (Some(high), Some(low)) = (alarm.flap_high, alarm.flap_low)
        && high > 0
        && low >= high
    {
        let help = "write fewer changes than flap_high";
        findings.error(&format!("{field}flap_low"), "not below flap_high: the alarm would never stop flapping", help);
    }
    if alarm.flap_high.is_some_and(|high| high > MAX_FLAPS) {
        let help = format!("write {MAX_FLAPS} or less");
        findings.error(&format!("{field}flap_high"), "too many", help);
    }
    let repeats = alarm.trap_repeat.as_deref().unwrap_or_default();
    if repeats.windows(2).any(|pair| pair[0] >= pair[1]) || repeats.first().is_some_and(|first| first.is_zero()) {
        let help = "write growing times, such as [\"60s\", \"300s\"], each counted from the first notification";
        findings.error(&format!("{field}trap_repeat"), "not growing from above zero", help);
    }
    if let (Some(first), Some(longest)) = (alarm.hold_down, alarm.hold_down_max)
        && first > longest
    {
        let problem = "longer than hold_down_max";
        findings.warning(&format!("{field}hold_down"), problem, "raise hold_down_max or lower hold_down");
    }
}
