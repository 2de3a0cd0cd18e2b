//! Report of `check-config --all-hosts`: the tests and the traffic of every host, and every finding.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use serde::Serialize;

use super::traffic::Load;
use super::wording::{bandwidth, counted};
use crate::config::check::document::Document;
use crate::config::check::fleet::{contradictions, is_on_every_host, oversized_sets, set_sizes};
use crate::config::document::findings::{Finding, Findings, Level};
use crate::config::document::test::WhenAbsent;
use crate::config::load::Loader;
use crate::config::plan::{self, Names, PlanInputs};

/// Probes per second on a host above which a warning is given, because they are probably unintended.
const MAX_PROBE_RATE: f64 = 2_000.0;

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
    /// Number of targets that the host probes.
    pub probes: usize,
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
    let mut findings: BTreeSet<Finding> = contradictions(loader).into_iter().collect();
    let mut lines = Vec::new();
    let mut bound: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let documents = loader.hosts();
    for host in hosts(loader) {
        let loaded = loader.load_for(&host);
        let plan = plan::plan(&loaded, PlanInputs { names, addresses: None }, &host, &[]);
        findings.extend(loaded.findings.iter().cloned());
        findings.extend(plan::remarks(&loaded, names, &host));
        for address in plan.listeners.keys().filter(|addr| !is_on_every_host(addr.ip())) {
            // An address of sets or standby tests that the host does not list as its own is a floating address, which
            // several hosts may plan to bind.
            let own =
                documents.get(&host).is_some_and(|host| host.addresses.values().any(|addr| *addr == address.ip()));
            let tests = plan.listeners[address].tests.keys().filter_map(|id| loaded.tests.get(id));
            let of_sets = tests.clone().all(|test| {
                let is_floating = test.stamp().is_some_and(|stamp| stamp.when_absent == WhenAbsent::Standby);
                test.facts.set.is_some() || is_floating
            });
            if let Some(other) = bound.insert(*address, host.clone()).filter(|_| own || !of_sets) {
                let mut found = Findings::about(format!("hosts/{host}"));
                let problem = format!("would listen at {address}, as would {other}");
                found.warning("", problem, "an address is on one host: correct one of the two");
                findings.extend(found.into_vec());
            }
        }
        let load = Load::of(&loaded, &plan);
        if load.packets_in.max(load.packets_out) > MAX_PROBE_RATE {
            let mut found = Findings::about(format!("hosts/{host}"));
            let problem = format!("{:.0} probes a second in, {:.0} out", load.packets_in, load.packets_out);
            found.warning("", problem, "write a longer send_every, or \"sample\": 10 in its sets");
            findings.extend(found.into_vec());
        }
        let receives = plan.listeners.values().map(|listener| listener.tests.len()).sum();
        let (sends, probes) = (plan.senders.len(), plan.targets.len());
        lines.push(HostLine { host, enabled: loaded.enabled, receives, sends, probes, load });
    }
    let sets = set_sizes(loader);
    findings.extend(oversized_sets(&sets));
    let sets = sets.into_iter().map(|(set, tests)| SetLine { set, tests }).collect();
    FleetReport { store, revision, findings: findings.into_iter().collect(), hosts: lines, sets }
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
        writeln!(
            f,
            "{:widest$}  receives  sends  targets  probes/s in  probes/s out  bandwidth in  bandwidth out",
            "host"
        )?;
        let mut total = Load::default();
        for HostLine { host, enabled, receives, sends, probes, load } in &self.hosts {
            let off = if *enabled { "" } else { "  disabled" };
            let (bits_in, bits_out) = (bandwidth(load.bits_in), bandwidth(load.bits_out));
            writeln!(
                f,
                "{host:widest$}  {receives:8}  {sends:5}  {probes:7}  {:11.1}  {:12.1}  {bits_in:>12}  {bits_out:>13}{off}",
                load.packets_in, load.packets_out
            )?;
            total.packets_out += load.packets_out;
            total.bits_out += load.bits_out;
        }
        let receives: usize = self.hosts.iter().map(|line| line.receives).sum();
        let sends: usize = self.hosts.iter().map(|line| line.sends).sum();
        let probes: usize = self.hosts.iter().map(|line| line.probes).sum();
        for set in &self.sets {
            writeln!(f, "set {}: {}", set.set, counted(set.tests, "test"))?;
        }
        writeln!(
            f,
            "in all {}: {receives} receiving, {sends} sending, {probes} targets, {:.1} probes per second, {}",
            counted(self.hosts.len(), "host"),
            total.packets_out,
            bandwidth(total.bits_out)
        )
    }
}
