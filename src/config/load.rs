//! From the documents of a store to what is in force: the one load path of `run` and `check-config`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::bootstrap::{Bootstrap, check_sinks};
use super::central::{AlarmSettings, Global, HostDocument, TestDefaults, TestDocument};
use super::findings::{Finding, Findings, Level};
use super::legacy;
use super::maintenance;
use super::read::{self, Format};
use super::receivers::Telling;
use super::sinks::{SinkConfig, SinkKind};
use super::test::{Context, Test, check_intervals, damping, intervals};
use crate::pure::condition::MOST_SAMPLES;
use crate::pure::groups::GroupSettings;
use crate::pure::ledger::Damping;
use crate::pure::shelf::Window;
use crate::pure::status::RejectedDocument;
use crate::pure::test::TestId;

/// The key of the global document.
pub const GLOBAL_KEY: &str = "config";

/// The key of a host's document.
pub fn host_key(host: &str) -> String {
    format!("{HOSTS_PREFIX}{host}")
}

/// What the keys of all hosts' documents start with.
pub const HOSTS_PREFIX: &str = "hosts/";

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
    /// The directory that paths in it are relative to, if it is a file.
    pub directory: Option<PathBuf>,
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
    pub damping: Damping,
    /// When tests that share something make one alarm.
    pub group: GroupSettings,
    /// How receivers are told.
    pub telling: Telling,
    /// Windows of maintenance, of the fleet and of every host.
    pub windows: Vec<Window>,
    /// Hosts that are drained.
    pub drained: BTreeSet<String>,
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
    /// Whether this host runs programs that documents name.
    allow_exec: bool,
    last_good: BTreeMap<String, Good>,
}

#[derive(Clone, Debug)]
enum Good {
    Global(Global),
    Host(HostDocument),
    Test(TestDocument),
}

const GROUPS: GroupSettings = GroupSettings { group_wait: Duration::from_secs(5), group_min: 3, group_ratio: 0.8 };

impl Loader {
    /// For this host.
    pub fn new(host: impl Into<String>) -> Self {
        Loader { host: host.into(), allow_exec: false, last_good: BTreeMap::new() }
    }

    /// For the host of this bootstrap file.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        Loader { allow_exec: bootstrap.allow_exec, ..Loader::new(bootstrap.host.clone()) }
    }

    /// Loads the documents. One that is bad rejects itself: its last good version stays in force.
    pub fn load(&mut self, documents: &Documents) -> Loaded {
        self.last_good.retain(|key, _| documents.contains_key(key));
        let mut run = Run { findings: Vec::new(), rejected: Vec::new() };

        let directory = |key: &str| documents.get(key).and_then(|raw| raw.directory.clone());
        let at = directory(GLOBAL_KEY);
        let global = |value, findings: &mut Findings| read_global(value, at.as_deref(), findings);
        let global = match self.read(GLOBAL_KEY, documents, &mut run, global) {
            Outcome::Good(Good::Global(global)) => global,
            Outcome::Absent => Global::default(),
            // Nothing good is known: better no tests than tests with settings nobody wrote.
            Outcome::Good(_) | Outcome::Bad => Global { enabled: false, ..Global::default() },
        };
        let host_name = self.host.clone();
        let own_key = host_key(&host_name);
        let at = directory(&own_key);
        let own = |value, findings: &mut Findings| read_host(value, at.as_deref(), findings);
        let host = match self.read(&own_key, documents, &mut run, own) {
            Outcome::Good(Good::Host(host)) => host,
            Outcome::Absent | Outcome::Good(_) | Outcome::Bad => HostDocument::default(),
        };
        let (windows, drained) = self.shelving(&global, &host, documents);

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
        sinks.retain(|sink| {
            let allowed = self.allow_exec || sink.kind != SinkKind::Exec;
            if !allowed {
                let mut findings = Findings::about("documents");
                let problem = "left out: this host runs no programs that documents name";
                let way_out = "set allow_exec = true in its bootstrap file, or name the sink there";
                findings.warning(&format!("sinks: {}", sink.name), problem, way_out);
                run.findings.extend(findings.into_vec());
            }
            allowed
        });
        let alarm = context.alarm(AlarmSettings::default());
        let enabled = global.enabled && host.enabled;
        Loaded {
            config_version: global.version,
            enabled,
            sinks,
            damping: damping(&alarm),
            group: GroupSettings {
                group_wait: alarm.group_wait.unwrap_or(GROUPS.group_wait),
                group_min: alarm.group_min.unwrap_or(GROUPS.group_min),
                group_ratio: alarm.group_ratio.unwrap_or(GROUPS.group_ratio),
            },
            telling: Telling::of(&alarm),
            windows,
            drained,
            tests: if enabled { tests } else { BTreeMap::new() },
            findings: run.findings,
            rejected: run.rejected,
        }
    }

    /// What the fleet's and every host's document say of maintenance. What is wrong with another
    /// host's document, that host says.
    fn shelving(
        &mut self,
        global: &Global,
        own: &HostDocument,
        documents: &Documents,
    ) -> (Vec<Window>, BTreeSet<String>) {
        let mut nowhere = Findings::about("");
        let mut windows = maintenance::windows(&global.maintenance, GLOBAL_KEY, None, &mut nowhere);
        let mut drained = BTreeSet::new();
        let hosts = documents.keys().filter_map(|key| key.strip_prefix(HOSTS_PREFIX));
        let names: BTreeSet<String> = hosts.chain([self.host.as_str()]).map(str::to_owned).collect();
        let mut aside = Run { findings: Vec::new(), rejected: Vec::new() };
        for name in names {
            let key = host_key(&name);
            let other = match name == self.host {
                true => Some(own.clone()),
                false => match self.read(&key, documents, &mut aside, |value, _| read_other_host(value)) {
                    Outcome::Good(Good::Host(other)) => Some(other),
                    Outcome::Absent | Outcome::Good(_) | Outcome::Bad => None,
                },
            };
            let Some(document) = other else { continue };
            windows.extend(maintenance::windows(&document.maintenance, &key, Some(&name), &mut nowhere));
            if document.drained {
                drained.insert(name);
            }
        }
        (windows, drained)
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

fn read_global(value: Value, directory: Option<&Path>, findings: &mut Findings) -> Good {
    let mut global = if legacy::is_global(&value) {
        legacy::global(value, findings)
    } else {
        read::typed(value, Level::Warning, findings)
    };
    check_alarm("alarm.", &global.alarm, findings);
    place_sinks("sinks", &mut global.sinks, directory, findings);
    check_sinks("sinks", &global.sinks, findings);
    maintenance::windows(&global.maintenance, "", None, findings);
    let defaults = &global.defaults;
    let intervals = intervals(defaults.send_every, defaults.expect_every, &TestDefaults::default());
    check_intervals("defaults.", defaults.send_every, intervals, defaults.max_latency, findings);
    if global.egregious_latency.is_zero() {
        findings.error("egregious_latency", "zero", "write a delay that no path can have, such as \"10s\"");
    }
    Good::Global(global)
}

fn read_host(value: Value, directory: Option<&Path>, findings: &mut Findings) -> Good {
    let mut host: HostDocument = if legacy::is_host(&value) {
        legacy::host(value, findings)
    } else {
        read::typed(value, Level::Warning, findings)
    };
    check_alarm("alarm.", &host.alarm, findings);
    place_sinks("sinks", &mut host.sinks, directory, findings);
    check_sinks("sinks", &host.sinks, findings);
    maintenance::windows(&host.maintenance, "", None, findings);
    Good::Host(host)
}

/// Of another host only its maintenance counts. What is wrong with the rest of its document, or with
/// one window, that host says.
fn read_other_host(value: Value) -> Good {
    if legacy::is_host(&value) {
        return Good::Host(HostDocument::default());
    }
    let mut findings = Findings::about("");
    let mut host: HostDocument = read::typed(value, Level::Warning, &mut findings);
    let found = findings.into_vec();
    let mut n = 0;
    host.maintenance.retain(|_| {
        let field = format!("maintenance[{n}]");
        n += 1;
        !found.iter().any(|finding| finding.place.contains(&field))
    });
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

/// More often is a storm of its own.
const SHORTEST_RENOTIFY: Duration = Duration::from_secs(60);
const SHORTEST_SUMMARY: Duration = Duration::from_secs(1);
const MOST_REPEATS: usize = 10;
/// What is told in sum is not told one by one in the same breath.
const SHORTEST_STORM: Duration = Duration::from_secs(10);
/// Each flapping alarm remembers so many changes at each receiver.
const MOST_FLAPS: u32 = 1000;

fn place_sinks(field: &str, sinks: &mut [SinkConfig], directory: Option<&Path>, findings: &mut Findings) {
    for (n, sink) in sinks.iter_mut().enumerate() {
        sink.place_paths(&format!("{field}[{n}]"), directory, findings);
    }
}

fn check_alarm(field: &str, alarm: &AlarmSettings, findings: &mut Findings) {
    for (name, value) in [("raise_after", alarm.raise_after), ("clear_after", alarm.clear_after)] {
        if value == Some(0) {
            findings.error(&format!("{field}{name}"), "zero samples cannot decide", "write 1 or more");
        }
        if value.is_some_and(|value| value > MOST_SAMPLES) {
            let way_out = format!("write {MOST_SAMPLES} or less, or test less often");
            findings.error(&format!("{field}{name}"), "more samples than are remembered", way_out);
        }
    }
    for (name, of, least) in [
        ("raise_out_of", alarm.raise_out_of, alarm.raise_after.unwrap_or(1)),
        ("clear_out_of", alarm.clear_out_of, alarm.clear_after.unwrap_or(1)),
    ] {
        if of.is_some_and(|of| of < least || of > MOST_SAMPLES) {
            let way_out = format!("write {least} to {MOST_SAMPLES}, or leave it out for samples in a row");
            findings.error(&format!("{field}{name}"), "fewer than have to be bad or good, or too many", way_out);
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
        findings.error(&format!("{field}flap_high"), "one change is no flapping", "write 2 or more, or 0 for never");
    }
    if alarm.trap_repeat.as_ref().is_some_and(|repeats| repeats.len() > MOST_REPEATS) {
        findings.error(&format!("{field}trap_repeat"), "more repeats than anybody bears", "write 10 or fewer");
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
            "not a share",
            "write a number above 0 and up to 1, such as 0.8",
        );
    }
    if let (Some(high), Some(low)) = (alarm.flap_high, alarm.flap_low)
        && high > 0
        && low >= high
    {
        let way_out = "write fewer changes than flap_high";
        findings.error(&format!("{field}flap_low"), "not below flap_high: it would never be calm", way_out);
    }
    if alarm.flap_high.is_some_and(|high| high > MOST_FLAPS) {
        let way_out = format!("write {MOST_FLAPS} or less");
        findings.error(&format!("{field}flap_high"), "too many changes to keep in mind", way_out);
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
