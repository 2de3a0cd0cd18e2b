//! Checks the documents of the whole fleet. [`contradictions`] finds
//! documents that contradict each other, such as a test with only one end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::Serialize;

use serde_json::{Map, Value};

use crate::config::check::document::Document;
use crate::config::document::findings::{Finding, Findings};
use crate::config::document::test::TestDocument;
use crate::config::expand::Expansion;
use crate::config::load::{Loaded, Loader};
use crate::pure::test::spec::Protocol;

/// Number of tests in a set above which a warning is given, because it is probably unintended.
const MAX_SET_TESTS: usize = 100_000;

/// Returns the number of tests that each set expands to across all hosts.
pub fn set_sizes(loader: &Loader) -> BTreeMap<String, usize> {
    let hosts = loader.hosts();
    loader.sets().map(|(name, set)| (name.to_owned(), Expansion::new(name, set, &hosts).count())).collect()
}

/// Returns a warning for each set with more tests than `MAX_SET_TESTS`.
pub fn oversized_sets(sets: &BTreeMap<String, usize>) -> Vec<Finding> {
    let many = sets.iter().filter(|(_, tests)| **tests > MAX_SET_TESTS);
    many.flat_map(|(set, tests)| {
        let mut found = Findings::about(format!("sets/{set}"));
        let problem = format!("{tests} tests: it grows with the square of its hosts");
        found.warning("", problem, "write \"sample\": 10, so that each host tests ten others");
        found.into_vec()
    })
    .collect()
}

/// Returns contradictions between documents: tests with a single end or with two different ends, and addresses
/// claimed by two hosts. Oversized sets are reported too.
pub fn contradictions(loader: &Loader) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tests: BTreeMap<(&str, &str), (&str, &TestDocument)> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, Vec<(&str, &str, Protocol)>> = BTreeMap::new();
    for (key, document) in loader.documents() {
        if let (Document::Test(test), Some(host)) = (document, key.split('/').nth(1))
            && test.enabled
        {
            by_id.entry(&test.id).or_default().push((key, host, test.protocol));
            if test.protocol == Protocol::Udp {
                tests.insert((host, &test.id), (key, test));
            }
        }
    }
    for of_id in by_id.values() {
        for (key, host, _) in of_id.iter().filter(|(_, _, protocol)| *protocol == Protocol::Tcp) {
            let Some((other, _, _)) = of_id.iter().find(|(_, elsewhere, _)| elsewhere != host) else { continue };
            let mut findings = Findings::about(loader.place(key));
            let problem = format!("also the id of {other}, which is another test: a target is probed by one host");
            findings.warning("id", problem, "give each test an id of its own");
            found.extend(findings.into_vec());
        }
    }
    for ((host, id), (key, test)) in &tests {
        let place = loader.place(key);
        let mut findings = Findings::about(place);
        let other = if test.from_host == *host { &test.to_host } else { &test.from_host };
        if other == host || other.is_empty() {
            continue;
        }
        match tests.get(&(other.as_str(), *id)) {
            None => {
                let (does, does_not) = match test.from_host == *host {
                    true => ("sends", "expects"),
                    false => ("expects", "sends"),
                };
                let problem =
                    format!("{host} {does} this test, but {other} has no document for it and never {does_not} it");
                findings.warning("", problem, format!("write the same document below tests/{other}/"));
            }
            Some((_, twin)) if host < &other.as_str() => {
                for field in differing(test, twin) {
                    let problem = format!("differs from the document of the same test below tests/{other}/");
                    findings.warning(&field, problem, "write the same document below both hosts");
                }
            }
            Some(_) => {}
        }
        found.extend(findings.into_vec());
    }
    let mut addresses: BTreeMap<_, &str> = BTreeMap::new();
    let hosts = loader.hosts();
    for (host, document) in &hosts {
        for (name, addr) in &document.addresses {
            let other = addresses.insert(*addr, host).filter(|other| *other != host && !is_on_every_host(*addr));
            if let Some(other) = other {
                let mut findings = Findings::about(loader.place(&format!("hosts/{host}")));
                let problem = format!("{addr} is an address of {other} too");
                findings.warning(&format!("addresses.{name}"), problem, "correct one of the two");
                found.extend(findings.into_vec());
            }
        }
    }
    found.extend(oversized_sets(&set_sizes(loader)));
    found
}

/// Returns true if an address exists on every host: a wildcard or a localhost address.
pub fn is_on_every_host(addr: IpAddr) -> bool {
    addr.is_unspecified() || addr == IpAddr::V4(Ipv4Addr::LOCALHOST) || addr == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// Returns the fields that must be equal at both ends of a test but differ.
fn differing(one: &TestDocument, other: &TestDocument) -> Vec<String> {
    let ends = [
        ("from_host", one.from_host != other.from_host),
        ("from", one.from != other.from),
        ("to_host", one.to_host != other.to_host),
        ("to", one.to != other.to),
    ];
    let differs = ends.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field.to_owned());
    differs.chain(different_fields(&one.settings, &other.settings)).collect()
}

/// Returns the names of the fields in which two values of one type differ. All fields are compared that the type has.
fn different_fields<T: Serialize>(one: &T, other: &T) -> Vec<String> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    };
    let (one, other) = (fields(one), fields(other));
    one.into_iter().filter(|(name, value)| other.get(name) != Some(value)).map(|(name, _)| name).collect()
}

/// Returns a warning for each `max_latency` below the error of this host's clock, because such a limit cannot be
/// judged.
pub fn undecidable(loaded: &Loaded, host: &str, clock_error: Duration) -> Vec<Finding> {
    let mut found = Vec::new();
    for test in loaded.tests.values().filter(|test| test.facts.receiver() == Some(host) && test.facts.from_host != host)
    {
        let Some(limit) = test.limits.max_latency.filter(|limit| *limit < clock_error) else { continue };
        let mut findings = Findings::about(&test.place);
        let (limit, error) = (humantime::format_duration(limit), humantime::format_duration(rounded(clock_error)));
        let problem = format!(
            "{limit}, but the clock error of this host is up to {error}: delays near the limit \
                cannot be judged"
        );
        findings.warning("max_latency", problem, "improve the clock synchronization, or raise the limit");
        found.extend(findings.into_vec());
    }
    found
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
