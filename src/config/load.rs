//! Computes from the documents of a store what is in force on a host. `run` and `check-config` share this path.
//! [`Loader`] keeps the last good version of each document, so that a bad edit does not disable anything; [`Loaded`]
//! is the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::bootstrap::Bootstrap;
use super::expand::Expansion;
use super::sink_plan::NotificationSettings;
use super::test::{CheckContext, ProbeSpec, Test, hold_down};
use crate::config::check::document::{Document, read_document};
use crate::config::document::deserialize::{self};
use crate::config::document::endpoint::Endpoint;
use crate::config::document::findings::{Finding, Findings, Level};
use crate::config::document::fleet::{FleetDocument, KeyDocument, SCHEMA};
use crate::config::document::host::HostDocument;
use crate::config::document::maintenance;
use crate::config::document::raw::{
    Documents, GLOBAL_KEY, HOSTS_PREFIX, RawDocument, SETS_PREFIX, host_key, tests_prefix,
};
use crate::config::document::set::{Hosts, SetDocument};
use crate::config::document::settings::AlarmSettings;
use crate::config::document::sinks::{SinkConfig, SinkKind};
use crate::config::document::test::TestDocument;
use crate::pure::alarm::correlation::GroupSettings;
use crate::pure::alarm::shelving::Window;
use crate::pure::notify::log::HoldDown;
use crate::pure::status::snapshot::RejectedDocument;
use crate::pure::test::id::TestId;

/// Default for `store_patience`. A store that restarts, or elects another leader, is reachable again within this
/// time.
pub const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// Configuration in force on a host, computed from the documents.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Version of the global document, as maintained by its author.
    pub config_version: i64,
    /// Result of the `enabled` switches of the global and the host document. When false, no tests run.
    pub enabled: bool,
    /// Receivers named by the host's and the global document.
    pub sinks: Vec<SinkConfig>,
    /// Hold-down and flap settings for alarms that are not about a single test.
    pub hold_down: HoldDown,
    /// Conditions under which alarms of related tests form a group.
    pub group: GroupSettings,
    /// Notification settings that the receivers share: repetition and storm handling.
    pub notification_settings: NotificationSettings,
    /// Time for which the store may be unreachable before an alarm is raised.
    pub store_patience: Duration,
    /// Hosts that were added to the documents recently, while this agent was running.
    pub recent_hosts: BTreeSet<String>,
    /// Maintenance windows of the fleet, of every host and of the sets.
    pub windows: Vec<Window>,
    /// Names of the drained hosts, about which alarms are suppressed.
    pub drained: BTreeSet<String>,
    /// Keys for signing probes and verifying signatures.
    pub keys: Vec<KeyDocument>,
    /// Id of the key that signs probes by default.
    pub active_key: Option<u8>,
    /// Time server against which the wall clock is compared.
    pub ntp_server: Option<Endpoint>,
    /// Lets listeners answer STAMP packets of senders that are not peerpair agents.
    pub reflect_foreign: bool,
    /// Enabled tests that start or end at the host.
    pub tests: BTreeMap<TestId, Arc<Test>>,
    /// Problems found in the documents, both errors and warnings.
    pub findings: Vec<Finding>,
    /// Documents whose newest version is not in force because it has errors.
    pub rejected: Vec<RejectedDocument>,
}

/// Reads documents incrementally and keeps the last good version of each, so that it can stay in force.
#[derive(Clone, Debug)]
pub struct Loader {
    host: String,
    /// Permission to run programs that documents name, from the bootstrap file.
    allow_exec: bool,
    known: BTreeMap<String, DocumentState>,
    /// Defaults that take the place of missing documents. They are shared, so that comparing pointers detects a
    /// change.
    absent: (Arc<FleetDocument>, Arc<HostDocument>),
}

/// State of a document: its newest version and the last good one.
#[derive(Clone, Debug)]
struct DocumentState {
    /// Newest version as read from the store.
    newest: Arc<RawDocument>,
    /// Parts of the newest version that could be read.
    document: Option<Document>,
    findings: Vec<Finding>,
    /// Last version without errors, which stays in force while newer ones have errors.
    good: Option<(Arc<RawDocument>, Document)>,
    /// Test computed from this document, with the global and the host document that it was computed from. Valid while
    /// both are unchanged.
    filled: Option<(Arc<FleetDocument>, Arc<HostDocument>, Arc<Test>)>,
}

impl DocumentState {
    fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }
}

const GROUPS: GroupSettings = GroupSettings { group_wait: Duration::from_secs(5), group_min: 3, group_ratio: 0.8 };

impl Loader {
    /// Creates a loader for the given host that does not run programs named by documents.
    pub fn new(host: impl Into<String>) -> Self {
        Loader { host: host.into(), allow_exec: false, known: BTreeMap::new(), absent: Default::default() }
    }

    /// Creates a loader with the host name and permissions of the bootstrap file.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        Loader { allow_exec: bootstrap.allow_exec, ..Loader::new(bootstrap.host.clone()) }
    }

    /// Loads the documents. A document with errors is rejected alone, and its last good version stays in force.
    pub fn load(&mut self, documents: &Documents) -> Loaded {
        self.read(documents);
        let host = self.host.clone();
        self.load_for(&host)
    }

    /// Parses the documents that changed since the previous call and drops those that were removed.
    pub fn read(&mut self, documents: &Documents) {
        self.known.retain(|key, _| documents.contains_key(key));
        for (key, raw) in documents {
            let before = match self.known.get(key) {
                Some(known) if Arc::ptr_eq(&known.newest, raw) || known.newest == *raw => continue,
                before => before.and_then(|known| known.good.clone()),
            };
            let (document, findings) = read_document(key, raw);
            self.known.insert(
                key.clone(),
                DocumentState { newest: raw.clone(), document, findings, good: before, filled: None },
            );
        }
    }

    /// Returns the last good version of each document, as its store delivered it.
    pub fn in_force(&self) -> Documents {
        let good = self.known.iter().filter_map(|(key, known)| Some((key.clone(), known.good.as_ref()?.0.clone())));
        good.collect()
    }

    /// Computes the configuration in force on a host from the documents read before.
    pub fn load_for(&mut self, host_name: &str) -> Loaded {
        let mut run = LoadRun { findings: Vec::new(), rejected: Vec::new() };
        let global = match self.accept_or_keep_last_good(GLOBAL_KEY, Vec::new(), &mut run) {
            LoadOutcome::Good(Document::Global(global)) => global,
            LoadOutcome::Absent => self.absent.0.clone(),
            // The global document has errors and no good version is known: run no tests rather than tests with
            // unintended settings.
            LoadOutcome::Good(_) | LoadOutcome::Bad => {
                Arc::new(FleetDocument { enabled: false, ..FleetDocument::default() })
            }
        };
        let host = match self.accept_or_keep_last_good(&host_key(host_name), Vec::new(), &mut run) {
            LoadOutcome::Good(Document::Host(host)) => host,
            LoadOutcome::Absent | LoadOutcome::Good(_) | LoadOutcome::Bad => self.absent.1.clone(),
        };
        let context = CheckContext { host_name, global: &global, host: &host };
        let (mut tests, off) = self.tests(&context, &mut run);
        let mut windows = maintenance::windows(&global.maintenance, GLOBAL_KEY, None, &mut Findings::about(""));
        let drained = self.shelving(host_name, &host, &mut windows);
        for test in self.tests_of_sets(&context, &mut windows, &mut run) {
            // A test document takes precedence over a set that expands to the same id.
            if !off.contains(&test.facts.id) {
                tests.entry(test.facts.id).or_insert_with(|| Arc::new(test));
            }
        }

        let sinks = self.sinks(&global, &host, &mut run);
        let alarm = context.alarm(AlarmSettings::default());
        let enabled = global.enabled && host.enabled;
        Loaded {
            config_version: global.version,
            enabled,
            sinks,
            hold_down: hold_down(&alarm),
            group: GroupSettings {
                group_wait: alarm.group_wait.unwrap_or(GROUPS.group_wait),
                group_min: alarm.group_min.unwrap_or(GROUPS.group_min),
                group_ratio: alarm.group_ratio.unwrap_or(GROUPS.group_ratio),
            },
            notification_settings: NotificationSettings::of(&alarm),
            store_patience: alarm.store_patience.unwrap_or(STORE_PATIENCE),
            recent_hosts: BTreeSet::new(),
            windows,
            drained,
            keys: global.keys.clone(),
            active_key: global.active_key,
            ntp_server: host.ntp_server.parse().ok().filter(|_| !host.ntp_server.is_empty()),
            reflect_foreign: host.reflect_foreign,
            tests: if enabled { tests } else { BTreeMap::new() },
            findings: run.findings,
            rejected: run.rejected,
        }
    }

    /// Returns the tests defined by documents of their own, and the ids of disabled ones.
    fn tests(
        &mut self,
        context: &CheckContext<'_>,
        run: &mut LoadRun,
    ) -> (BTreeMap<TestId, Arc<Test>>, BTreeSet<TestId>) {
        let prefix = tests_prefix(context.host_name);
        let keys = self.known.range(prefix.clone()..).map(|(key, _)| key).take_while(|key| key.starts_with(&prefix));
        let keys: Vec<String> = keys.cloned().collect();
        let mut tests: BTreeMap<TestId, Arc<Test>> = BTreeMap::new();
        let mut off = BTreeSet::new();
        for key in keys {
            let Some(raw) = self.known.get(&key).map(|known| known.newest.clone()) else { continue };
            let Some((document, test)) = self.fill_in(&key, context, run) else { continue };
            if !document.enabled {
                off.extend(document.id.parse::<TestId>());
                continue;
            }
            let Some(test) = test else { continue };
            match tests.get(&test.facts.id) {
                Some(first) => {
                    let mut findings = Findings::about(&raw.place);
                    findings.error(
                        "id",
                        format!("`{}` is also the id of {}", test.facts.id, first.place),
                        "give each test an id of its own, or remove one of the two",
                    );
                    run.reject(&key, findings.into_vec(), false);
                }
                None => {
                    tests.insert(test.facts.id, test);
                }
            }
        }
        (tests, off)
    }

    /// Returns the test document at `key`, or its last good version, with the test that results from it on this host.
    fn fill_in(
        &mut self,
        key: &str,
        context: &CheckContext<'_>,
        run: &mut LoadRun,
    ) -> Option<(Arc<TestDocument>, Option<Arc<Test>>)> {
        let known = self.known.get(key)?;
        if let (Some((global, host, test)), Some(Document::Test(document))) = (&known.filled, &known.document)
            && Arc::ptr_eq(global, context.global)
            && Arc::ptr_eq(host, context.host)
        {
            return Some((document.clone(), Some(test.clone())));
        }
        let place = known.newest.place.clone();
        let fill_in = |document: &TestDocument, findings: &mut Findings| {
            context.fill_in(document, findings).map(|test| Arc::new(Test { place: place.clone(), ..test }))
        };
        let mut findings = Findings::about(&place);
        let newest = match &known.document {
            Some(Document::Test(document)) if !known.has_errors() => {
                Some((document.clone(), fill_in(document, &mut findings)))
            }
            Some(Document::Test(document)) => {
                // The result is discarded, but its findings are reported together with the others.
                fill_in(document, &mut findings);
                None
            }
            Some(_) | None => None,
        };
        let findings = findings.into_vec();
        let silent = findings.is_empty() && known.findings.is_empty();
        match (self.accept_or_keep_last_good(key, findings, run), newest) {
            (LoadOutcome::Good(Document::Test(document)), Some((newest, test))) if Arc::ptr_eq(&document, &newest) => {
                if let (Some(test), Some(known)) = (&test, self.known.get_mut(key).filter(|_| silent)) {
                    known.filled = Some((context.global.clone(), context.host.clone(), test.clone()));
                }
                if let Some(rejected) = run.rejected.last_mut().filter(|_| test.is_none()) {
                    rejected.last_good_in_force = false;
                }
                Some((document, test))
            }
            // The last good version may conflict with the current global document. Findings about that old text are
            // not reported.
            (LoadOutcome::Good(Document::Test(document)), _) => {
                let test = fill_in(&document, &mut Findings::about(""));
                if let Some(rejected) = run.rejected.last_mut().filter(|_| test.is_none()) {
                    rejected.last_good_in_force = false;
                }
                Some((document, test))
            }
            (LoadOutcome::Good(_) | LoadOutcome::Absent | LoadOutcome::Bad, _) => None,
        }
    }

    /// Returns the tests of sets that start or end at this host. Appends the maintenance windows of the sets to
    /// `windows`.
    fn tests_of_sets(&mut self, context: &CheckContext<'_>, windows: &mut Vec<Window>, run: &mut LoadRun) -> Vec<Test> {
        let keys = self.known.range(SETS_PREFIX.to_owned()..).map(|(key, _)| key);
        let keys: Vec<String> = keys.take_while(|key| key.starts_with(SETS_PREFIX)).cloned().collect();
        if keys.is_empty() {
            return Vec::new();
        }
        let hosts = self.hosts();
        let mut tests = Vec::new();
        for key in keys {
            let name = key.trim_start_matches(SETS_PREFIX);
            let Some(known) = self.known.get(&key) else { continue };
            let place = known.newest.place.clone();
            let mut findings = Findings::about(&place);
            if let Some(Document::Set(set)) = &known.document {
                expand(name, set, &hosts, context, &mut findings);
            }
            let LoadOutcome::Good(Document::Set(set)) = self.accept_or_keep_last_good(&key, findings.into_vec(), run)
            else {
                continue;
            };
            if !set.enabled {
                continue;
            }
            let of_set = maintenance::windows(&set.maintenance, &key, None, &mut Findings::about(""));
            windows.extend(of_set.into_iter().map(|mut window| {
                window.matcher.sets = vec![name.to_owned()];
                window
            }));
            let expanded = expand(name, &set, &hosts, context, &mut Findings::about(&place));
            tests.extend(expanded.into_iter().map(|mut test| {
                test.place.clone_from(&place);
                test
            }));
        }
        tests
    }

    /// Returns the hosts that sets can select. A document with errors counts by its last good version or, failing
    /// that, by its readable parts. An agent that never saw a good version, in the store or in its cache on disk, may
    /// then select fewer hosts than other agents until the document is corrected. Continued testing is worth that
    /// price.
    pub fn hosts(&self) -> Hosts {
        let hosts = self.known.range(HOSTS_PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(HOSTS_PREFIX));
        let document = |known: &DocumentState| match (&known.good, &known.document) {
            (_, Some(Document::Host(host))) if !known.has_errors() => Some(host.clone()),
            (Some((_, Document::Host(host))), _) | (None, Some(Document::Host(host))) => Some(host.clone()),
            (_, _) => None,
        };
        let named = hosts.filter_map(|(key, known)| Some((key[HOSTS_PREFIX.len()..].to_owned(), document(known)?)));
        named.collect()
    }

    /// Returns the documents that could be parsed, with their keys.
    pub fn documents(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.known.iter().filter_map(|(key, known)| Some((key.as_str(), known.document.as_ref()?)))
    }

    /// Returns the location of a document as shown in findings.
    pub fn place(&self, key: &str) -> String {
        self.known.get(key).map_or_else(|| key.to_owned(), |known| known.newest.place.clone())
    }

    /// Returns the enabled sets that are in force, by name.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &Arc<SetDocument>)> {
        self.known.iter().filter_map(|(key, known)| match &known.good {
            Some((_, Document::Set(set))) if set.enabled => Some((key.strip_prefix(SETS_PREFIX)?, set)),
            Some(_) | None => None,
        })
    }

    /// Returns the drained hosts and appends every host's maintenance windows. Errors in another host's document are
    /// reported by that host.
    fn shelving(&mut self, host_name: &str, own: &HostDocument, windows: &mut Vec<Window>) -> BTreeSet<String> {
        let mut drained = BTreeSet::new();
        let mut apply = |name: &str, host: &HostDocument| {
            let mut nowhere = Findings::about("");
            windows.extend(maintenance::windows(&host.maintenance, &host_key(name), Some(name), &mut nowhere));
            if host.drained {
                drained.insert(name.to_owned());
            }
        };
        apply(host_name, own);
        for (key, known) in self.known.iter_mut().filter(|(key, _)| key.starts_with(HOSTS_PREFIX)) {
            let name = &key[HOSTS_PREFIX.len()..];
            if name == host_name {
                continue;
            }
            if let Some(Document::Host(host)) = &known.document {
                apply(name, host);
                if !known.has_errors() {
                    known.good = Some((known.newest.clone(), Document::Host(host.clone())));
                }
            } else if let Some((_, Document::Host(host))) = &known.good {
                apply(name, host);
            }
        }
        drained
    }

    /// Returns the receivers in force: those of the host, and those of the fleet whose names the host does not reuse.
    fn sinks(&self, global: &FleetDocument, host: &HostDocument, run: &mut LoadRun) -> Vec<SinkConfig> {
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
                let problem = "ignored: this host does not run programs that documents name";
                let help = "set allow_exec = true in its bootstrap file, or name the sink there";
                findings.warning(&format!("sinks: {}", sink.name), problem, help);
                run.findings.extend(findings.into_vec());
            }
            allowed
        });
        sinks
    }

    /// Returns the document, or its last good version when it has errors itself or `more` contains some.
    fn accept_or_keep_last_good(&mut self, key: &str, more: Vec<Finding>, run: &mut LoadRun) -> LoadOutcome {
        let Some(known) = self.known.get_mut(key) else { return LoadOutcome::Absent };
        let findings: Vec<Finding> = known.findings.iter().cloned().chain(more).collect();
        let errors = findings.iter().any(|finding| finding.level == Level::Error);
        match &known.document {
            Some(document) if !errors => {
                run.findings.extend(findings);
                known.good = Some((known.newest.clone(), document.clone()));
                LoadOutcome::Good(document.clone())
            }
            Some(_) | None => {
                run.reject(key, findings, known.good.is_some());
                known.good.as_ref().map_or(LoadOutcome::Bad, |(_, document)| LoadOutcome::Good(document.clone()))
            }
        }
    }
}

/// Expands a set into the tests of a host. A pair with errors is left out alone, and the agent at its other end finds
/// the same errors. When all pairs are bad, the set itself has errors.
fn expand(
    name: &str,
    set: &SetDocument,
    hosts: &Hosts,
    context: &CheckContext<'_>,
    findings: &mut Findings,
) -> Vec<Test> {
    let expansion = Expansion::new(name, set, hosts);
    expansion.check(findings);
    let (mut tests, mut wrong) = (Vec::new(), BTreeSet::new());
    for expanded in expansion.tests_of(context.host_name) {
        let mut of_pair = Findings::about("");
        match context.fill_in(&expanded.document, &mut of_pair) {
            Some(mut test) => {
                if let ProbeSpec::Stamp(stamp) = &mut test.probe {
                    stamp.any_of = expanded.any_of.map(Arc::new);
                }
                tests.push(test);
            }
            None => wrong.extend(of_pair.into_vec()),
        }
    }
    for finding in wrong {
        let level = if tests.is_empty() { finding.level } else { Level::Warning };
        let field = finding.location.trim_start_matches(": ").to_owned();
        findings.add(level, &field, finding.problem, finding.help);
    }
    tests
}

/// Returns the schema version of the documents when it is newer than this agent supports.
pub fn newer_schema(documents: &Documents) -> Option<u64> {
    let raw = documents.get(GLOBAL_KEY)?;
    let value = deserialize::parse(&raw.text, raw.format, &mut Findings::about(""))?;
    value.get("schema")?.as_u64().filter(|schema| *schema > SCHEMA)
}

enum LoadOutcome {
    Good(Document),
    Absent,
    Bad,
}

struct LoadRun {
    findings: Vec<Finding>,
    rejected: Vec<RejectedDocument>,
}

impl LoadRun {
    fn reject(&mut self, key: &str, findings: Vec<Finding>, last_good_in_force: bool) {
        let errors = findings.iter().filter(|finding| finding.level == Level::Error);
        let reasons = errors.map(ToString::to_string).collect();
        self.rejected.push(RejectedDocument { document: key.to_owned(), reasons, last_good_in_force });
        self.findings.extend(findings);
    }
}

#[cfg(test)]
mod tests;
