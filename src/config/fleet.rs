//! Checks the documents of the whole fleet. [`report`] plans every host and lists its load; [`misfits`] finds
//! documents that contradict each other, such as a test with only one end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::central::{TestDocument, WhenAbsent};
use super::check::{bandwidth, counted};
use super::document::Document;
use super::expansion::Expansion;
use super::findings::{Finding, Findings, Level};
use super::load::{Loaded, Loader};
use super::plan::{self, Names, Plan, Surroundings};
use crate::pure::flows::Flows;
use crate::pure::probe;
use crate::pure::test::{Mode, Wire};

/// Octets of the IPv4 and UDP headers; the IPv6 header has 20 more than the IPv4 header.
const HEADERS: usize = 28;
const MORE_IN_IPV6: usize = 20;
/// Approximate size in octets of a probe in the original's JSON format.
const JSON_V1: usize = 200;
/// Number of tests in a set above which a warning is given, because it is probably unintended.
const MANY: usize = 100_000;
/// Probes per second on a host above which a warning is given, because they are probably unintended.
const BUSY: f64 = 2_000.0;

/// Packet rate and bandwidth of the probes of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// Received probes per second.
    pub packets_in: f64,
    /// Sent probes per second, including answers to probes of two-way tests.
    pub packets_out: f64,
    /// Received bits per second, including the IP and UDP headers.
    pub bits_in: f64,
    /// Sent bits per second, including the IP and UDP headers.
    pub bits_out: f64,
}

impl Load {
    /// Computes the load of a host from its documents and its plan.
    pub fn of(loaded: &Loaded, plan: &Plan) -> Self {
        let mut load = Load::default();
        for (address, listener) in &plan.listeners {
            for test in listener.tests.keys().filter_map(|id| loaded.tests.get(id)) {
                // A test with `any_of` needs the probes of a single sender, but every sender transmits.
                let senders = test.any_of.as_ref().map_or(1.0, |any_of| any_of.len() as f64);
                let turns = senders / test.send_every.as_secs_f64();
                let (packets, bits) = turn(test.wire, &test.flows, test.keys.is_some(), *address);
                (load.packets_in, load.bits_in) = (load.packets_in + turns * packets, load.bits_in + turns * bits);
                if test.mode == Mode::TwoWay {
                    load.packets_out += turns * packets;
                    load.bits_out += turns * bits;
                }
            }
        }
        for sender in plan.senders.values() {
            let turns = 1.0 / sender.send_every.as_secs_f64();
            let (packets, bits) = turn(sender.wire, &sender.flows, sender.keys.is_some(), sender.destination);
            (load.packets_out, load.bits_out) = (load.packets_out + turns * packets, load.bits_out + turns * bits);
            if sender.answers.is_some() {
                load.packets_in += turns * packets;
                load.bits_in += turns * bits;
            }
        }
        load
    }
}

/// Returns the packets and bits of one round of a test, in which each flow carries one probe.
fn turn(wire: Wire, flows: &Flows, keyed: bool, address: SocketAddr) -> (f64, f64) {
    let least = match (wire, keyed) {
        (Wire::Stamp, false) => probe::PROBE_LEN,
        (Wire::Stamp, true) => probe::SIGNED_LEN,
        (Wire::JsonV1, _) => JSON_V1,
    };
    let headers = if address.is_ipv6() { HEADERS + MORE_IN_IPV6 } else { HEADERS };
    let payloads = (0..flows.count()).map(|flow| flows.get(flow).size.map_or(least, usize::from));
    let octets: usize = payloads.map(|payload| payload + headers).sum();
    (flows.count() as f64, 8.0 * octets as f64)
}

/// Result of `check-config --all-hosts`, printed as text or as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct FleetReport {
    /// Human-readable location of the store that the documents came from.
    pub store: String,
    /// Revision of the store at which the documents were read.
    pub revision: u64,
    /// Problems in the documents, with errors before warnings.
    pub findings: Vec<Finding>,
    /// Tests and load of each host.
    pub hosts: Vec<HostLine>,
    /// Number of tests of each set.
    pub sets: Vec<SetLine>,
}

/// Tests and load of a host.
#[derive(Clone, Debug, Serialize)]
pub struct HostLine {
    /// Name of the host, as in its key `hosts/<host>`.
    pub host: String,
    /// Result of the `enabled` switches. When false, the host runs no tests.
    pub enabled: bool,
    /// Number of tests whose probes the host receives.
    pub receives: usize,
    /// Number of tests whose probes the host sends.
    pub sends: usize,
    /// Packet rate and bandwidth of these tests.
    #[serde(flatten)]
    pub load: Load,
}

/// Size of a set in the whole fleet.
#[derive(Clone, Debug, Serialize)]
pub struct SetLine {
    /// Name of the set, as in its key `sets/<name>`.
    pub set: String,
    /// Number of tests that the set expands to across all hosts.
    pub tests: usize,
}

/// Returns the names of hosts with a document of their own or with a test.
pub fn hosts(loader: &Loader) -> BTreeSet<String> {
    let mut hosts: BTreeSet<String> = loader.hosts().into_keys().collect();
    for (key, document) in loader.documents() {
        if let Document::Test(test) = document {
            hosts.extend([&test.from_host, &test.to_host].into_iter().filter(|host| !host.is_empty()).cloned());
            hosts.extend(key.split('/').nth(1).map(str::to_owned));
        }
    }
    hosts
}

/// Plans every host and reports its tests, its load and the problems found. `names` must contain the resolved names
/// of all hosts' tests.
pub fn report(loader: &mut Loader, store: String, revision: u64, names: &Names) -> FleetReport {
    let mut findings: BTreeSet<Finding> = misfits(loader).into_iter().collect();
    let mut lines = Vec::new();
    let mut bound: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let documents = loader.hosts();
    for host in hosts(loader) {
        let loaded = loader.load_for(&host);
        let plan = plan::plan(&loaded, Surroundings { names, addresses: None }, &host, &[]);
        findings.extend(loaded.findings.iter().cloned());
        findings.extend(plan::remarks(&loaded, names, &host));
        for address in plan.listeners.keys().filter(|addr| !anywhere(addr.ip())) {
            // An address of sets or standby tests that the host does not list as its own is a floating address, which
            // several hosts may plan to bind.
            let own =
                documents.get(&host).is_some_and(|host| host.addresses.values().any(|addr| *addr == address.ip()));
            let tests = plan.listeners[address].tests.keys().filter_map(|id| loaded.tests.get(id));
            let of_sets = tests.clone().all(|test| test.facts.set.is_some() || test.when_absent == WhenAbsent::Standby);
            if let Some(other) = bound.insert(*address, host.clone()).filter(|_| own || !of_sets) {
                let mut found = Findings::about(format!("hosts/{host}"));
                let problem = format!("would listen at {address}, and so would {other}");
                found.warning("", problem, "an address is on one host: correct one of the two");
                findings.extend(found.into_vec());
            }
        }
        let load = Load::of(&loaded, &plan);
        if load.packets_in.max(load.packets_out) > BUSY {
            let mut found = Findings::about(format!("hosts/{host}"));
            let problem = format!("{:.0} probes a second in, {:.0} out", load.packets_in, load.packets_out);
            found.warning("", problem, "write a longer send_every, or \"sample\": 10 in its sets");
            findings.extend(found.into_vec());
        }
        let receives = plan.listeners.values().map(|listener| listener.tests.len()).sum();
        lines.push(HostLine { host, enabled: loaded.enabled, receives, sends: plan.senders.len(), load });
    }
    let sets = set_lines(loader);
    findings.extend(many(&sets));
    FleetReport { store, revision, findings: findings.into_iter().collect(), hosts: lines, sets }
}

fn set_lines(loader: &Loader) -> Vec<SetLine> {
    let hosts = loader.hosts();
    let line = |(name, set): (&str, &std::sync::Arc<super::set::SetDocument>)| SetLine {
        set: name.to_owned(),
        tests: Expansion::new(name, set, &hosts).count(),
    };
    loader.sets().map(line).collect()
}

/// Returns a warning for each set with more tests than `MANY`.
fn many(sets: &[SetLine]) -> Vec<Finding> {
    let many = sets.iter().filter(|set| set.tests > MANY);
    many.flat_map(|set| {
        let mut found = Findings::about(format!("sets/{}", set.set));
        let problem = format!("{} tests: it grows with the square of its hosts", set.tests);
        found.warning("", problem, "write \"sample\": 10, and each host tests ten others");
        found.into_vec()
    })
    .collect()
}

/// Returns contradictions between documents: tests with a single end or with two different ends, and addresses
/// claimed by two hosts. Oversized sets are reported too.
pub fn misfits(loader: &Loader) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tests: BTreeMap<(&str, &str), (&str, &TestDocument)> = BTreeMap::new();
    for (key, document) in loader.documents() {
        if let (Document::Test(test), Some(host)) = (document, key.split('/').nth(1))
            && test.enabled
        {
            tests.insert((host, &test.id), (key, test));
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
                let problem = format!("only {host} knows this test and {does} it; {other} never {does_not} it");
                findings.warning("", problem, format!("write the same document below tests/{other}/"));
            }
            Some((_, twin)) if host < &other.as_str() => {
                for field in differing(test, twin) {
                    let problem = format!("not as below tests/{other}/");
                    findings.warning(field, problem, "write the same document below both hosts");
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
            let other = addresses.insert(*addr, host).filter(|other| *other != host && !anywhere(*addr));
            if let Some(other) = other {
                let mut findings = Findings::about(loader.place(&format!("hosts/{host}")));
                let problem = format!("{addr} is an address of {other} too");
                findings.warning(&format!("addresses.{name}"), problem, "correct one of the two");
                found.extend(findings.into_vec());
            }
        }
    }
    found.extend(many(&set_lines(loader)));
    found
}

/// Returns true if an address exists on every host: a wildcard or a localhost address.
fn anywhere(addr: IpAddr) -> bool {
    addr.is_unspecified() || addr == IpAddr::V4(Ipv4Addr::LOCALHOST) || addr == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// Returns the fields that must be equal at both ends of a test but differ.
fn differing(one: &TestDocument, other: &TestDocument) -> Vec<&'static str> {
    let fields = [
        ("from_host", one.from_host != other.from_host),
        ("from", one.from != other.from),
        ("to_host", one.to_host != other.to_host),
        ("to", one.to != other.to),
        ("send_every", one.send_every != other.send_every),
        ("expect_every", one.expect_every != other.expect_every),
        ("mode", one.mode != other.mode),
        ("flows", one.flows != other.flows),
        ("dscp", one.dscp != other.dscp),
        ("size", one.size != other.size),
        ("keyed", one.keyed != other.keyed),
        ("key", one.key != other.key),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// Returns a warning for each `max_latency` below the error of this host's clock, because such a limit cannot be
/// judged.
pub fn undecidable(loaded: &Loaded, host: &str, clock_error: Duration) -> Vec<Finding> {
    let mut found = Vec::new();
    for test in loaded.tests.values().filter(|test| test.facts.to_host == host && test.facts.from_host != host) {
        let Some(limit) = test.limits.max_latency.filter(|limit| *limit < clock_error) else { continue };
        let mut findings = Findings::about(&test.place);
        let (limit, error) = (humantime::format_duration(limit), humantime::format_duration(rounded(clock_error)));
        let problem = format!("{limit}, and this host's clock may be off by {error}: no delay near that can be judged");
        findings.warning("max_latency", problem, "synchronise the clocks better, or raise the limit");
        found.extend(findings.into_vec());
    }
    found
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

impl FleetReport {
    /// Returns the number of findings of the given level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// Prints the findings first, followed by a table of the hosts, the sets and the totals.
impl fmt::Display for FleetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "all hosts, documents from {}, revision {}\n", self.store, self.revision)?;
        for finding in &self.findings {
            finding.write_long(f)?;
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        if errors + warnings > 0 {
            f.write_char('\n')?;
        }
        writeln!(f, "{}, {}\n", counted(errors, "error"), counted(warnings, "warning"))?;
        let widest = self.hosts.iter().map(|line| line.host.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:widest$}  receives  sends  probes/s in  probes/s out  bandwidth in  bandwidth out", "host")?;
        let mut total = Load::default();
        for HostLine { host, enabled, receives, sends, load } in &self.hosts {
            let off = if *enabled { "" } else { "  disabled" };
            let (bits_in, bits_out) = (bandwidth(load.bits_in), bandwidth(load.bits_out));
            writeln!(
                f,
                "{host:widest$}  {receives:8}  {sends:5}  {:11.1}  {:12.1}  {bits_in:>12}  {bits_out:>13}{off}",
                load.packets_in, load.packets_out
            )?;
            total.packets_out += load.packets_out;
            total.bits_out += load.bits_out;
        }
        let receives: usize = self.hosts.iter().map(|line| line.receives).sum();
        let sends: usize = self.hosts.iter().map(|line| line.sends).sum();
        for set in &self.sets {
            writeln!(f, "set {}: {}", set.set, counted(set.tests, "test"))?;
        }
        writeln!(
            f,
            "in all {}: {receives} expectations, {sends} senders, {:.1} probes per second, {}",
            counted(self.hosts.len(), "host"),
            total.packets_out,
            bandwidth(total.bits_out)
        )
    }
}
