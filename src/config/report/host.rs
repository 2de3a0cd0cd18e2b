//! The dry run behind `check-config`. [`HostReport`] lists the findings of the documents and the listeners, senders and
//! receivers that a host would run. It can be compared with the report of a running agent.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::document_diff::{self, Difference};
use super::traffic::Load;
use super::wording::{bandwidth, counted};
use crate::config::document::findings::{Finding, Findings, Level};
use crate::config::document::sinks::SinkConfig;
use crate::config::load::Loaded;
use crate::config::plan::{self, Names, Plan, Target, TargetPlan};
use crate::pure::judge::session::SessionPlan;
use crate::pure::notify::log::Scope;
use crate::pure::test::facts::TestFacts;
use crate::pure::test::spec::Wire;

/// Result of `check-config` for a single host, printed as text or as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct HostReport {
    /// Name of the host that the report describes.
    pub host: String,
    /// Human-readable location of the store that the documents came from.
    pub store: String,
    /// Revision of the store. `None` when the documents could not be loaded or planned.
    pub revision: Option<u64>,
    /// Problems in the documents, with errors before warnings.
    pub findings: Vec<Finding>,
    /// Result of the `enabled` switches. False also when the host could not be planned.
    pub enabled: bool,
    /// Local addresses that the host would bind to receive probes.
    pub listeners: Vec<ListenerReport>,
    /// Tests that the host would send probes for.
    pub senders: Vec<SenderReport>,
    /// Targets that the host would probe.
    pub targets: Vec<TargetReport>,
    /// Tests whose floating address is currently not on this host.
    pub standby: Vec<TestFacts>,
    /// Alarm receivers that the host would notify.
    pub sinks: Vec<SinkReport>,
    /// Names of drained hosts, about which alarms are suppressed.
    pub drained: Vec<String>,
    /// Human-readable descriptions of the maintenance windows, in which alarms are suppressed.
    pub maintenance: Vec<String>,
    /// Rate of probes that the host would receive, in packets per second.
    pub packets_per_second_in: f64,
    /// Rate of probes that the host would send, in packets per second.
    pub packets_per_second_out: f64,
    /// Incoming bandwidth in bits per second, including the IP and UDP headers.
    pub bits_per_second_in: f64,
    /// Outgoing bandwidth in bits per second, including the IP and UDP headers.
    pub bits_per_second_out: f64,
    /// Differences from another plan, when a comparison was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// Differences between this plan and another one, such as that of a running agent.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// Human-readable source of the other plan.
    pub place: String,
    /// Changes that lead from the other plan to this one.
    pub differences: Vec<Difference>,
}

/// Local address that the host would bind, with the tests that arrive there.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerReport {
    /// Address and port of the listener in text form.
    pub address: String,
    /// Spellings of the address in the documents, as names or wildcards.
    pub names: Vec<String>,
    /// Tests whose probes arrive at this address.
    pub tests: Vec<Received>,
}

/// Test whose probes this host would receive.
#[derive(Clone, Debug, Serialize)]
pub struct Received {
    /// Identity and ends of the test.
    #[serde(flatten)]
    pub test: TestFacts,
    /// Timeout in seconds: at least a probe is expected within each such period.
    pub expect_every: f64,
    /// Delay in seconds above which an alarm is raised.
    pub max_latency: Option<f64>,
    /// Number of bad samples that raises an alarm.
    pub raise_after: u32,
    /// Number of good samples that clears an alarm.
    pub clear_after: u32,
    /// Time in seconds after the start during which missing probes are tolerated.
    pub startup_grace: f64,
}

impl Received {
    fn of(expected: &SessionPlan) -> Self {
        Received {
            test: expected.test.as_ref().clone(),
            expect_every: expected.expect_every.as_secs_f64(),
            max_latency: expected.limits.max_latency.map(|limit| limit.as_secs_f64()),
            raise_after: expected.thresholds.raise_after,
            clear_after: expected.thresholds.clear_after,
            startup_grace: expected.startup_grace.as_secs_f64(),
        }
    }
}

/// Test whose probes this host would send.
#[derive(Clone, Debug, Serialize)]
pub struct SenderReport {
    /// Identity and ends of the test.
    #[serde(flatten)]
    pub test: TestFacts,
    /// Local address and port of the socket that the sender would use, possibly together with other senders.
    pub socket: String,
    /// Address and port to which the probes would be sent.
    pub destination: String,
    /// Interval between two probes, in seconds.
    pub send_every: f64,
    /// Packet format of the probes: STAMP (RFC 8762) or the JSON of the original program.
    pub wire: Wire,
}

/// Target that this host would probe.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    /// Identity of the test.
    #[serde(flatten)]
    pub test: TestFacts,
    /// Address and port that would be probed.
    pub destination: SocketAddr,
    /// Interval between two probes, in seconds.
    pub send_every: f64,
}

impl TargetReport {
    fn of(plan: &TargetPlan) -> Self {
        let Target::Tcp(destination) = plan.target;
        let test = plan.session.test.as_ref().clone();
        TargetReport { test, destination, send_every: plan.send_every.as_secs_f64() }
    }
}

/// Alarm receiver that the host would notify.
#[derive(Clone, Debug, Serialize)]
pub struct SinkReport {
    /// Name of the sink in the documents.
    pub name: String,
    /// Kind and target of the sink in human-readable form.
    pub target: String,
    /// SNMPv3 engine id of the sender, which the receiver must be configured with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_id: Option<String>,
    /// Alarms that the sink would receive.
    pub scope: Scope,
    /// Sustained rate of messages per second.
    pub rate: f64,
    /// Number of messages that may be sent in a burst.
    pub burst: u32,
}

impl HostReport {
    /// Creates a report that contains findings only, for a host that could not be planned.
    pub fn of_findings(host: &str, store: String, findings: Vec<Finding>) -> Self {
        let mut report = HostReport {
            host: host.to_owned(),
            store,
            revision: None,
            findings,
            enabled: false,
            listeners: Vec::new(),
            senders: Vec::new(),
            targets: Vec::new(),
            standby: Vec::new(),
            sinks: Vec::new(),
            drained: Vec::new(),
            maintenance: Vec::new(),
            packets_per_second_in: 0.0,
            packets_per_second_out: 0.0,
            bits_per_second_in: 0.0,
            bits_per_second_out: 0.0,
            against: None,
        };
        report.findings.sort();
        report
    }

    /// Adds the documents' findings and the listeners, senders and receivers of the plan.
    #[must_use]
    pub fn with_plan(mut self, revision: u64, loaded: &Loaded, names: &Names, plan: &Plan) -> Self {
        self.revision = Some(revision);
        self.enabled = loaded.enabled;
        self.findings.extend(loaded.findings.iter().cloned());
        self.findings.extend(plan::remarks(loaded, names, &self.host));
        let is_idle = plan.listeners.is_empty() && plan.senders.is_empty() && plan.targets.is_empty();
        if self.enabled && is_idle && loaded.rejected.is_empty() {
            let mut findings = Findings::about(format!("tests/{}/", self.host));
            let help = "check the host's name, or write its tests there";
            findings.warning("", "no test starts or ends at this host", help);
            self.findings.extend(findings.into_vec());
        }
        self.findings.sort();
        self.findings.dedup();
        self.listeners = plan
            .listeners
            .iter()
            .map(|(addr, listener)| ListenerReport {
                address: addr.to_string(),
                names: listener.names.iter().cloned().collect(),
                tests: listener.tests.values().map(Received::of).collect(),
            })
            .collect();
        self.senders = plan
            .senders
            .values()
            .map(|sender| SenderReport {
                test: sender.test.as_ref().clone(),
                socket: sender.source.address.to_string(),
                destination: sender.destination.to_string(),
                send_every: sender.send_every.as_secs_f64(),
                wire: sender.wire,
            })
            .collect();
        self.targets = plan.targets.values().map(|target| TargetReport::of(target)).collect();
        self.sinks = plan
            .alarms
            .sinks
            .iter()
            .map(|sink| SinkReport {
                name: sink.config.name.clone(),
                target: sink.config.describe(&self.host, None),
                engine_id: None,
                scope: sink.policy.scope,
                rate: sink.policy.rate,
                burst: sink.policy.burst,
            })
            .collect();
        self.drained = loaded.drained.iter().cloned().collect();
        self.maintenance = loaded.windows.iter().map(ToString::to_string).collect();
        self.standby = plan.standby.values().map(|test| test.as_ref().clone()).collect();
        let load = Load::of(loaded, plan);
        (self.packets_per_second_in, self.bits_per_second_in) = (load.packets_in, load.bits_in);
        (self.packets_per_second_out, self.bits_per_second_out) = (load.packets_out, load.bits_out);
        self
    }

    /// Adds the differences from `before`, which holds the parts of the plan at `place` as returned by
    /// [`HostReport::parts`].
    #[must_use]
    pub fn against(mut self, place: String, before: &BTreeMap<String, Value>) -> Self {
        let differences = document_diff::differences(before, &self.parts());
        self.against = Some(Against { place, differences });
        self
    }

    /// Returns the plan as named parts, so that two plans can be compared part by part.
    pub fn parts(&self) -> BTreeMap<String, Value> {
        parts(&serde_json::to_value(self).unwrap_or_default())
    }

    /// Adds the SNMPv3 engine ids, which depend on `machine`, the id of the machine that the host runs on.
    #[must_use]
    pub fn on_machine(mut self, sinks: &[SinkConfig], machine: &str) -> Self {
        for sink in &mut self.sinks {
            let config = sinks.iter().find(|config| config.name == sink.name);
            sink.engine_id = config.and_then(|config| config.shown_engine_id(&self.host, machine));
        }
        self
    }

    /// Adds findings from other checks and sorts the list again.
    #[must_use]
    pub fn with_findings(mut self, found: Vec<Finding>) -> Self {
        self.findings.extend(found);
        self.findings.sort();
        self
    }

    /// Returns the number of findings of the given level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// Prints the findings first, followed by the actions that the host would take.
impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, documents from {}", self.host, self.store)?;
        match self.revision {
            Some(revision) => writeln!(f, ", revision {revision}\n")?,
            None => f.write_str("\n\n")?,
        }
        for finding in &self.findings {
            finding.write_long(f)?;
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        if errors + warnings > 0 {
            f.write_char('\n')?;
        }
        writeln!(f, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))?;
        if self.revision.is_none() {
            return Ok(());
        }
        if !self.enabled {
            return writeln!(f, "\n{} would test nothing: config or hosts/{0} is disabled or bad", self.host);
        }
        writeln!(f, "\n{} would", self.host)?;
        let tests: usize = self.listeners.iter().map(|listener| listener.tests.len()).sum();
        writeln!(f, "  listen at {} for {}", counted(self.listeners.len(), "address"), counted(tests, "test"))?;
        for listener in &self.listeners {
            writeln!(f, "    {}  (named {})", listener.address, listener.names.join(", "))?;
            for Received { test, .. } in &listener.tests {
                writeln!(f, "      {}  {}  from {} {}", test.id, quoted(&test.description), test.from_host, test.from)?;
            }
        }
        writeln!(f, "  send {}", counted(self.senders.len(), "test"))?;
        for sender in &self.senders {
            let every = humantime::format_duration(std::time::Duration::from_secs_f64(sender.send_every));
            let test = &sender.test;
            let (from, to) = (&sender.socket, &sender.destination);
            let host = &test.to_host;
            writeln!(f, "    {}  {}  {from} → {host} {to} every {every}", test.id, quoted(&test.description))?;
        }
        if !self.targets.is_empty() {
            writeln!(f, "  probe {}", counted(self.targets.len(), "target"))?;
        }
        for TargetReport { test, destination, send_every } in &self.targets {
            let every = humantime::format_duration(Duration::from_secs_f64(*send_every));
            let description = quoted(&test.description);
            writeln!(f, "    {}  {description}  tcp {} ({destination}) every {every}", test.id, test.to)?;
        }
        writeln!(f, "  notify {}", counted(self.sinks.len(), "sink"))?;
        for sink in &self.sinks {
            let scope = if sink.scope == Scope::Config { ", only configuration faults" } else { "" };
            let (rate, burst) = (sink.rate, sink.burst);
            let engine = sink.engine_id.as_ref().map_or(String::new(), |id| format!(", engine id {id}"));
            writeln!(f, "    {}: {}{engine}, {rate}/s, burst {burst}{scope}", sink.name, sink.target)?;
        }
        if !self.drained.is_empty() {
            writeln!(f, "  suppress alarms about drained hosts: {}", self.drained.join(", "))?;
        }
        for window in &self.maintenance {
            writeln!(f, "  suppress alarms in maintenance: {window}")?;
        }
        if !self.standby.is_empty() {
            writeln!(f, "  stand by for {} whose address is not on this host", counted(self.standby.len(), "test"))?;
        }
        let (incoming, outgoing) = (self.packets_per_second_in, self.packets_per_second_out);
        writeln!(f, "  probes per second: {incoming:.1} in, {outgoing:.1} out")?;
        let (incoming, outgoing) = (bandwidth(self.bits_per_second_in), bandwidth(self.bits_per_second_out));
        writeln!(f, "  bandwidth: {incoming} in, {outgoing} out")?;
        let Some(against) = &self.against else { return Ok(()) };
        if against.differences.is_empty() {
            return writeln!(f, "\nnothing differs from {}", against.place);
        }
        writeln!(f, "\nwhere {} is now, these documents would", against.place)?;
        document_diff::write_differences(f, &against.differences)
    }
}

/// Splits a report in JSON, such as that of a running agent, into named parts.
pub fn parts(report: &Value) -> BTreeMap<String, Value> {
    let mut parts = BTreeMap::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = |test: &Value| {
        let (id, from, to) = (text(&test["id"]), text(&test["from_host"]), text(&test["to_host"]));
        format!("{id} {} {from} → {to}", quoted(&text(&test["description"])))
    };
    for listener in list(&report["listeners"]) {
        for mut test in list(&listener["tests"]) {
            test["address"] = listener["address"].clone();
            parts.insert(format!("expectation of {}", named(&test)), test);
        }
    }
    for sender in list(&report["senders"]) {
        parts.insert(format!("sender of {}", named(&sender)), sender);
    }
    for target in list(&report["targets"]) {
        let name = format!("probes of {}", named(&target));
        parts.insert(name, target);
    }
    for test in list(&report["standby"]) {
        parts.insert(format!("standby for {}", named(&test)), test);
    }
    for mut sink in list(&report["sinks"]) {
        // Engine ids depend on the machine and not on the documents.
        if let Some(sink) = sink.as_object_mut() {
            sink.remove("engine_id");
        }
        parts.insert(format!("sink {}", text(&sink["name"])), sink);
    }
    for name in list(&report["drained"]) {
        parts.insert(format!("drained host {}", text(&name)), Value::Null);
    }
    for window in list(&report["maintenance"]) {
        parts.insert(format!("maintenance {}", text(&window)), Value::Null);
    }
    parts
}

fn quoted(description: &str) -> String {
    if description.is_empty() { "(no description)".to_owned() } else { format!("\"{description}\"") }
}
