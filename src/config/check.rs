//! The dry run: what is wrong, and what this host would do.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

use super::compare::{self, Difference};
use super::findings::{Finding, Findings, Level};
use super::fleet::Load;
use super::load::Loaded;
use super::plan::{self, Names, Plan};
use super::sinks::SinkConfig;
use crate::pure::expectation::Expected;
use crate::pure::ledger::Scope;
use crate::pure::test::TestFacts;
use crate::pure::test::Wire;

/// What `check-config` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The host it is about.
    pub host: String,
    /// Where the documents came from.
    pub store: String,
    /// At which revision.
    pub revision: Option<u64>,
    /// Everything that is wrong, errors first.
    pub findings: Vec<Finding>,
    /// False: the documents switch this host off, or it could not be planned.
    pub enabled: bool,
    /// Addresses it would listen at.
    pub listeners: Vec<Listener>,
    /// Tests it would send.
    pub senders: Vec<Sender>,
    /// Tests that wait for their floating address to come to this host.
    pub standby: Vec<TestFacts>,
    /// Receivers it would tell.
    pub sinks: Vec<Sink>,
    /// Hosts about which nothing is raised.
    pub drained: Vec<String>,
    /// Windows in which nothing is raised, in words.
    pub maintenance: Vec<String>,
    /// Probes per second that it would take in.
    pub packets_per_second_in: f64,
    /// Probes per second that it would send.
    pub packets_per_second_out: f64,
    /// The same in bits, with the headers of IP and UDP.
    pub bits_per_second_in: f64,
    /// Likewise.
    pub bits_per_second_out: f64,
    /// What would change against something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// What would change against something else.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// What that is.
    pub place: String,
    /// The differences.
    pub differences: Vec<Difference>,
}

/// An address that would be bound.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// Address and port.
    pub address: String,
    /// What the documents call it.
    pub names: Vec<String>,
    /// The tests that end there.
    pub tests: Vec<Received>,
}

/// A test that would end here.
#[derive(Clone, Debug, Serialize)]
pub struct Received {
    /// The test.
    #[serde(flatten)]
    pub test: TestFacts,
    /// At least one probe in each such time, in seconds.
    pub expect_every: f64,
    /// A delay beyond this is an alarm, in seconds.
    pub max_latency: Option<f64>,
    /// So many bad samples raise.
    pub raise_after: u32,
    /// So many good ones clear.
    pub clear_after: u32,
    /// Silence forgiven at the start, in seconds.
    pub startup_grace: f64,
}

impl Received {
    fn of(expected: &Expected) -> Self {
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

/// A test that would start here.
#[derive(Clone, Debug, Serialize)]
pub struct Sender {
    /// The test.
    #[serde(flatten)]
    pub test: TestFacts,
    /// The local address and port of the socket it would share.
    pub socket: String,
    /// Where its probes would go.
    pub destination: String,
    /// How often, in seconds.
    pub send_every: f64,
    /// Which probe.
    pub wire: Wire,
}

/// A receiver that would be told.
#[derive(Clone, Debug, Serialize)]
pub struct Sink {
    /// Its name.
    pub name: String,
    /// What and where it is.
    pub target: String,
    /// The SNMPv3 engine id that its receiver has to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_id: Option<String>,
    /// Which alarms it would be told.
    pub scope: Scope,
    /// Messages per second.
    pub rate: f64,
    /// Messages at once.
    pub burst: u32,
}

impl Report {
    /// A report of findings only: nothing could be planned.
    pub fn of_findings(host: &str, store: String, findings: Vec<Finding>) -> Self {
        let mut report = Report {
            host: host.to_owned(),
            store,
            revision: None,
            findings,
            enabled: false,
            listeners: Vec::new(),
            senders: Vec::new(),
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

    /// Adds what a loaded and planned host would do.
    #[must_use]
    pub fn with_plan(mut self, revision: u64, loaded: &Loaded, names: &Names, plan: &Plan) -> Self {
        self.revision = Some(revision);
        self.enabled = loaded.enabled;
        self.findings.extend(loaded.findings.iter().cloned());
        self.findings.extend(plan::remarks(loaded, names, &self.host));
        if self.enabled && plan.listeners.is_empty() && plan.senders.is_empty() && loaded.rejected.is_empty() {
            let mut findings = Findings::about(format!("tests/{}/", self.host));
            let way_out = "check the host's name, or write its tests there";
            findings.warning("", "no test starts or ends at this host", way_out);
            self.findings.extend(findings.into_vec());
        }
        self.findings.sort();
        self.findings.dedup();
        self.listeners = plan
            .listeners
            .iter()
            .map(|(addr, listener)| Listener {
                address: addr.to_string(),
                names: listener.names.iter().cloned().collect(),
                tests: listener.tests.values().map(Received::of).collect(),
            })
            .collect();
        self.senders = plan
            .senders
            .values()
            .map(|sender| Sender {
                test: sender.test.as_ref().clone(),
                socket: sender.source.address.to_string(),
                destination: sender.destination.to_string(),
                send_every: sender.send_every.as_secs_f64(),
                wire: sender.wire,
            })
            .collect();
        self.sinks = plan
            .alarms
            .sinks
            .iter()
            .map(|sink| Sink {
                name: sink.config.name.clone(),
                target: sink.config.describe(&self.host, None),
                engine_id: None,
                scope: sink.manner.scope,
                rate: sink.manner.rate,
                burst: sink.manner.burst,
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

    /// What would change against `before`, which is the plan of `place` as [`Report::parts`] tells it.
    #[must_use]
    pub fn against(mut self, place: String, before: &BTreeMap<String, Value>) -> Self {
        let differences = compare::differences(before, &self.parts());
        self.against = Some(Against { place, differences });
        self
    }

    /// The plan by its parts, for comparing one with another.
    pub fn parts(&self) -> BTreeMap<String, Value> {
        parts(&serde_json::to_value(self).unwrap_or_default())
    }

    /// Adds what receivers have to know of the machine that this host is on.
    #[must_use]
    pub fn on_machine(mut self, sinks: &[SinkConfig], machine: &str) -> Self {
        for sink in &mut self.sinks {
            let config = sinks.iter().find(|config| config.name == sink.name);
            sink.engine_id = config.and_then(|config| config.shown_engine_id(&self.host, machine));
        }
        self
    }

    /// Adds what else was found.
    #[must_use]
    pub fn with_findings(mut self, found: Vec<Finding>) -> Self {
        self.findings.extend(found);
        self.findings.sort();
        self
    }

    /// How many findings of this level there are.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// For a tired engineer: first what is wrong, then what would be done.
impl fmt::Display for Report {
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
        writeln!(f, "  tell {}", counted(self.sinks.len(), "sink"))?;
        for sink in &self.sinks {
            let scope = if sink.scope == Scope::Config { ", only faults of the configuration" } else { "" };
            let (rate, burst) = (sink.rate, sink.burst);
            let engine = sink.engine_id.as_ref().map_or(String::new(), |id| format!(", engine id {id}"));
            writeln!(f, "    {}: {}{engine}, {rate}/s, burst {burst}{scope}", sink.name, sink.target)?;
        }
        if !self.drained.is_empty() {
            writeln!(f, "  raise nothing about drained hosts: {}", self.drained.join(", "))?;
        }
        for window in &self.maintenance {
            writeln!(f, "  raise nothing in maintenance: {window}")?;
        }
        if !self.standby.is_empty() {
            writeln!(f, "  stand by for {} with an address that is elsewhere", counted(self.standby.len(), "test"))?;
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
        compare::write_differences(f, &against.differences)
    }
}

/// The parts of a report that is told as JSON, as a running agent does.
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
    for test in list(&report["standby"]) {
        parts.insert(format!("standby for {}", named(&test)), test);
    }
    for mut sink in list(&report["sinks"]) {
        // Engine ids depend on the machine and not on documents.
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

/// Bits per second, for people.
pub fn bandwidth(bits: f64) -> String {
    match bits {
        _ if bits >= 1e9 => format!("{:.1} Gbit/s", bits / 1e9),
        _ if bits >= 1e6 => format!("{:.1} Mbit/s", bits / 1e6),
        _ => format!("{:.1} kbit/s", bits / 1e3),
    }
}

/// A number of things.
pub fn counted(count: usize, noun: &str) -> String {
    let plural = match noun {
        _ if count == 1 => "",
        "address" => "es",
        _ => "s",
    };
    format!("{count} {noun}{plural}")
}

fn quoted(description: &str) -> String {
    if description.is_empty() { "(no description)".to_owned() } else { format!("\"{description}\"") }
}
