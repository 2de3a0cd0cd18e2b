//! From the documents of a store to what is in force: the one load path of `run` and `check-config`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::bootstrap::check_sinks;
use super::central::{AlarmSettings, Global, HostDocument, TestDefaults, TestDocument};
use super::findings::{Finding, Findings, Level};
use super::legacy;
use super::read::{self, Format};
use super::sinks::SinkConfig;
use super::test::{Context, Test, check_intervals, hold_down, intervals};
use crate::pure::ledger::HoldDown;
use crate::pure::status::RejectedDocument;
use crate::pure::test::TestId;

/// The key of the global document.
pub const GLOBAL_KEY: &str = "config";

/// The key of a host's document.
pub fn host_key(host: &str) -> String {
    format!("hosts/{host}")
}

/// What the keys of a host's tests start with.
pub fn tests_prefix(host: &str) -> String {
    format!("tests/{host}/")
}

/// A document as its store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDocument {
    /// Its text.
    pub text: String,
    /// In which language.
    pub format: Format,
    /// What to call it when something is wrong with it.
    pub place: String,
    /// Why its text cannot be had, if it cannot.
    pub unreadable: Option<String>,
}

/// All documents that concern a host, by their keys below the prefix.
pub type Documents = BTreeMap<String, RawDocument>;

/// What is in force on a host.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The global document's own version.
    pub config_version: i64,
    /// Whether anything is tested at all.
    pub enabled: bool,
    /// Receivers that the documents name.
    pub sinks: Vec<SinkConfig>,
    /// For alarms that are not about one test.
    pub hold_down: HoldDown,
    /// When plain traps are sent again.
    pub trap_repeat: Vec<Duration>,
    /// The enabled tests.
    pub tests: BTreeMap<TestId, Test>,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// Documents of which an error keeps the newest version out of force.
    pub rejected: Vec<RejectedDocument>,
}

/// Loads documents, and keeps the last good version of each.
#[derive(Clone, Debug)]
pub struct Loader {
    host: String,
    last_good: BTreeMap<String, Good>,
}

#[derive(Clone, Debug)]
enum Good {
    Global(Global),
    Host(HostDocument),
    Test(TestDocument),
}

/// A lost raise is made good within a minute, a lost repeat within five.
pub const TRAP_REPEAT: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];

impl Loader {
    /// For this host.
    pub fn new(host: impl Into<String>) -> Self {
        Loader { host: host.into(), last_good: BTreeMap::new() }
    }

    /// Loads the documents. One that is bad rejects itself: its last good version stays in force.
    pub fn load(&mut self, documents: &Documents) -> Loaded {
        self.last_good.retain(|key, _| documents.contains_key(key));
        let mut run = Run { findings: Vec::new(), rejected: Vec::new() };

        let global = match self.read(GLOBAL_KEY, documents, &mut run, read_global) {
            Outcome::Good(Good::Global(global)) => global,
            Outcome::Absent => Global::default(),
            // Nothing good is known: better no tests than tests with settings nobody wrote.
            Outcome::Good(_) | Outcome::Bad => Global { enabled: false, ..Global::default() },
        };
        let host_name = self.host.clone();
        let host = match self.read(&host_key(&host_name), documents, &mut run, read_host) {
            Outcome::Good(Good::Host(host)) => host,
            Outcome::Absent | Outcome::Good(_) | Outcome::Bad => HostDocument::default(),
        };

        let context = Context { host_name: &host_name, global: &global, host: &host };
        let prefix = tests_prefix(&host_name);
        let keys: Vec<String> = documents.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        let mut tests: BTreeMap<TestId, Test> = BTreeMap::new();
        for key in keys {
            let outcome = self.read(&key, documents, &mut run, |value, findings| read_test(value, &context, findings));
            let (Outcome::Good(Good::Test(document)), Some(raw)) = (outcome, documents.get(&key)) else { continue };
            if !document.enabled {
                continue;
            }
            // A last good version may not go with today's global document: its findings are its own.
            let mut findings = Findings::about(&raw.place);
            let Some(mut test) = context.fill_in(&document, &mut findings) else { continue };
            test.place.clone_from(&raw.place);
            match tests.get(&test.facts.id) {
                Some(first) => {
                    let mut findings = Findings::about(&raw.place);
                    findings.error(
                        "id",
                        format!("`{}` is also the id of {}", test.facts.id, first.place),
                        "give each test an id of its own, or remove one of the two",
                    );
                    run.reject(&key, findings, false);
                }
                None => {
                    tests.insert(test.facts.id, test);
                }
            }
        }

        let mut sinks = host.sinks.clone();
        for sink in &global.sinks {
            if sinks.iter().all(|own| own.name != sink.name) {
                sinks.push(sink.clone());
            }
        }
        let alarm = context.alarm(AlarmSettings::default());
        let enabled = global.enabled && host.enabled;
        Loaded {
            config_version: global.version,
            enabled,
            sinks,
            hold_down: hold_down(&alarm),
            trap_repeat: alarm.trap_repeat.unwrap_or_else(|| TRAP_REPEAT.to_vec()),
            tests: if enabled { tests } else { BTreeMap::new() },
            findings: run.findings,
            rejected: run.rejected,
        }
    }

    fn read(
        &mut self,
        key: &str,
        documents: &Documents,
        run: &mut Run,
        parse: impl FnOnce(Value, &mut Findings) -> Good,
    ) -> Outcome {
        let Some(raw) = documents.get(key) else { return Outcome::Absent };
        let mut findings = Findings::about(&raw.place);
        let good = match &raw.unreadable {
            Some(problem) => {
                findings.error("", problem, "make it one readable file");
                None
            }
            None => read::parse(&raw.text, raw.format, &mut findings).map(|value| parse(value, &mut findings)),
        };
        match good {
            Some(good) if !findings.has_errors() => {
                run.findings.extend(findings.into_vec());
                self.last_good.insert(key.to_owned(), good.clone());
                Outcome::Good(good)
            }
            _ => {
                let last_good = self.last_good.get(key).cloned();
                run.reject(key, findings, last_good.is_some());
                last_good.map_or(Outcome::Bad, Outcome::Good)
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "lives for one call")]
enum Outcome {
    Good(Good),
    Absent,
    Bad,
}

struct Run {
    findings: Vec<Finding>,
    rejected: Vec<RejectedDocument>,
}

impl Run {
    fn reject(&mut self, key: &str, findings: Findings, last_good_in_force: bool) {
        let reasons = findings.errors().map(ToString::to_string).collect();
        self.rejected.push(RejectedDocument { document: key.to_owned(), reasons, last_good_in_force });
        self.findings.extend(findings.into_vec());
    }
}

fn read_global(value: Value, findings: &mut Findings) -> Good {
    let global = if legacy::is_global(&value) {
        legacy::global(value, findings)
    } else {
        read::typed(value, Level::Warning, findings)
    };
    check_alarm("alarm.", &global.alarm, findings);
    check_sinks("sinks", &global.sinks, findings);
    let defaults = &global.defaults;
    let intervals = intervals(defaults.send_every, defaults.expect_every, &TestDefaults::default());
    check_intervals("defaults.", defaults.send_every, intervals, defaults.max_latency, findings);
    if global.egregious_latency.is_zero() {
        findings.error("egregious_latency", "zero", "write a delay that no path can have, such as \"10s\"");
    }
    Good::Global(global)
}

fn read_host(value: Value, findings: &mut Findings) -> Good {
    let host: HostDocument = if legacy::is_host(&value) {
        legacy::host(value, findings)
    } else {
        read::typed(value, Level::Warning, findings)
    };
    check_alarm("alarm.", &host.alarm, findings);
    check_sinks("sinks", &host.sinks, findings);
    Good::Host(host)
}

fn read_test(value: Value, context: &Context<'_>, findings: &mut Findings) -> Good {
    let document: TestDocument = if legacy::is_test(&value) {
        legacy::test(value, findings)
    } else {
        read::typed(value, Level::Warning, findings)
    };
    check_alarm("", &document.alarm(), findings);
    context.fill_in(&document, findings);
    Good::Test(document)
}

fn check_alarm(field: &str, alarm: &AlarmSettings, findings: &mut Findings) {
    for (name, value) in [("raise_after", alarm.raise_after), ("clear_after", alarm.clear_after)] {
        if value == Some(0) {
            findings.error(&format!("{field}{name}"), "zero samples cannot decide", "write 1 or more");
        }
    }
    let repeats = alarm.trap_repeat.as_deref().unwrap_or_default();
    if repeats.windows(2).any(|pair| pair[0] >= pair[1]) || repeats.first().is_some_and(|first| first.is_zero()) {
        let way_out = "write growing times, such as [\"60s\", \"300s\"], each counted from the first telling";
        findings.error(&format!("{field}trap_repeat"), "not growing from above zero", way_out);
    }
    if let (Some(first), Some(longest)) = (alarm.hold_down, alarm.hold_down_max)
        && first > longest
    {
        let problem = "longer than hold_down_max";
        findings.warning(&format!("{field}hold_down"), problem, "raise hold_down_max or lower hold_down");
    }
}

#[cfg(test)]
mod tests;
