//! From the documents of a store to what is in force: the one load path of `run` and `check-config`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::string::FromUtf8Error;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bootstrap::Bootstrap;
use super::central::{AlarmSettings, Global, HostDocument, KeyDocument, SCHEMA, TestDocument};
use super::document::{self, Document};
use super::endpoint::Endpoint;
use super::expansion::Expansion;
use super::findings::{Finding, Findings, Level};
use super::maintenance;
use super::read::{self, Format};
use super::receivers::Telling;
use super::set::{Hosts, SetDocument};
use super::sinks::{SinkConfig, SinkKind};
use super::test::{Context, Test, damping};
use crate::pure::groups::GroupSettings;
use crate::pure::ledger::Damping;
use crate::pure::shelf::Window;
use crate::pure::status::RejectedDocument;
use crate::pure::test::TestId;

/// A store that restarts, or elects another leader, is back within this.
pub const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// The key of the global document.
pub const GLOBAL_KEY: &str = "config";

/// The key of a host's document.
pub fn host_key(host: &str) -> String {
    format!("{HOSTS_PREFIX}{host}")
}

/// What the keys of all hosts' documents start with.
pub const HOSTS_PREFIX: &str = "hosts/";

/// What the keys of sets start with.
pub const SETS_PREFIX: &str = "sets/";

/// What the keys of all tests start with.
pub const TESTS_PREFIX: &str = "tests/";

/// What the keys of a host's tests start with.
pub fn tests_prefix(host: &str) -> String {
    format!("{TESTS_PREFIX}{host}/")
}

/// A document as its store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What the store counts its changes by; 0 where it does not.
    pub version: u64,
}

impl RawDocument {
    /// One of a store that has no directory.
    pub fn of_store(key: &str, text: Result<String, FromUtf8Error>, version: u64) -> Self {
        let (text, unreadable) = match text {
            Ok(text) => (text, None),
            Err(_) => (String::new(), Some("not UTF-8 text".to_owned())),
        };
        RawDocument { text, format: Format::Json, place: key.to_owned(), unreadable, directory: None, version }
    }
}

/// Documents by their keys below the prefix. One that does not change stays the very same.
pub type Documents = BTreeMap<String, Arc<RawDocument>>;

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
    /// A store that is away for no longer than this is no alarm.
    pub store_patience: Duration,
    /// Hosts that were added lately, while this agent ran.
    pub newcomers: BTreeSet<String>,
    /// Windows of maintenance, of the fleet and of every host.
    pub windows: Vec<Window>,
    /// Hosts that are drained.
    pub drained: BTreeSet<String>,
    /// What probes can be signed with.
    pub keys: Vec<KeyDocument>,
    /// The id of the key that signs.
    pub active_key: Option<u8>,
    /// The time server that this host's clock is held against.
    pub ntp_server: Option<Endpoint>,
    /// Whether strangers' STAMP packets are answered.
    pub reflect_foreign: bool,
    /// The enabled tests.
    pub tests: BTreeMap<TestId, Arc<Test>>,
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
    known: BTreeMap<String, Known>,
    /// What stands for documents that are not there.
    absent: (Arc<Global>, Arc<HostDocument>),
}

/// What is known of one document.
#[derive(Clone, Debug)]
struct Known {
    /// As its store has it.
    newest: Arc<RawDocument>,
    /// What can be read of that.
    document: Option<Document>,
    findings: Vec<Finding>,
    /// The last version without an error.
    good: Option<(Arc<RawDocument>, Document)>,
    /// What a host made of it, under these documents of the fleet and of the host.
    filled: Option<(Arc<Global>, Arc<HostDocument>, Arc<Test>)>,
}

impl Known {
    fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }
}

const GROUPS: GroupSettings = GroupSettings { group_wait: Duration::from_secs(5), group_min: 3, group_ratio: 0.8 };

impl Loader {
    /// For this host.
    pub fn new(host: impl Into<String>) -> Self {
        Loader { host: host.into(), allow_exec: false, known: BTreeMap::new(), absent: Default::default() }
    }

    /// For the host of this bootstrap file.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        Loader { allow_exec: bootstrap.allow_exec, ..Loader::new(bootstrap.host.clone()) }
    }

    /// Loads the documents. One that is bad rejects itself: its last good version stays in force.
    pub fn load(&mut self, documents: &Documents) -> Loaded {
        self.read(documents);
        let host = self.host.clone();
        self.load_for(&host)
    }

    /// Reads the documents: only those that changed.
    pub fn read(&mut self, documents: &Documents) {
        self.known.retain(|key, _| documents.contains_key(key));
        for (key, raw) in documents {
            let before = match self.known.get(key) {
                Some(known) if Arc::ptr_eq(&known.newest, raw) || known.newest == *raw => continue,
                before => before.and_then(|known| known.good.clone()),
            };
            let (document, findings) = document::read(key, raw);
            self.known
                .insert(key.clone(), Known { newest: raw.clone(), document, findings, good: before, filled: None });
        }
    }

    /// The documents of which something is in force, as their store had them when that was written.
    pub fn in_force(&self) -> Documents {
        let good = self.known.iter().filter_map(|(key, known)| Some((key.clone(), known.good.as_ref()?.0.clone())));
        good.collect()
    }

    /// What is in force on a host, of the documents that were read.
    pub fn load_for(&mut self, host_name: &str) -> Loaded {
        let mut run = Run { findings: Vec::new(), rejected: Vec::new() };
        let global = match self.settle(GLOBAL_KEY, Vec::new(), &mut run) {
            Outcome::Good(Document::Global(global)) => global,
            Outcome::Absent => self.absent.0.clone(),
            // Nothing good is known: better no tests than tests with settings nobody wrote.
            Outcome::Good(_) | Outcome::Bad => Arc::new(Global { enabled: false, ..Global::default() }),
        };
        let host = match self.settle(&host_key(host_name), Vec::new(), &mut run) {
            Outcome::Good(Document::Host(host)) => host,
            Outcome::Absent | Outcome::Good(_) | Outcome::Bad => self.absent.1.clone(),
        };
        let context = Context { host_name, global: &global, host: &host };
        let (mut tests, off) = self.tests(&context, &mut run);
        let mut windows = maintenance::windows(&global.maintenance, GLOBAL_KEY, None, &mut Findings::about(""));
        let drained = self.shelving(host_name, &host, &mut windows);
        for test in self.tests_of_sets(&context, &mut windows, &mut run) {
            // A document of its own goes before a set.
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
            damping: damping(&alarm),
            group: GroupSettings {
                group_wait: alarm.group_wait.unwrap_or(GROUPS.group_wait),
                group_min: alarm.group_min.unwrap_or(GROUPS.group_min),
                group_ratio: alarm.group_ratio.unwrap_or(GROUPS.group_ratio),
            },
            telling: Telling::of(&alarm),
            store_patience: alarm.store_patience.unwrap_or(STORE_PATIENCE),
            newcomers: BTreeSet::new(),
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

    /// The tests with a document of their own, and the ids of those that are off.
    fn tests(&mut self, context: &Context<'_>, run: &mut Run) -> (BTreeMap<TestId, Arc<Test>>, BTreeSet<TestId>) {
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

    /// A test's document, or its last good version, and what the host makes of it.
    fn fill_in(
        &mut self,
        key: &str,
        context: &Context<'_>,
        run: &mut Run,
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
                // Everything that is wrong is said at once.
                fill_in(document, &mut findings);
                None
            }
            Some(_) | None => None,
        };
        let findings = findings.into_vec();
        let silent = findings.is_empty() && known.findings.is_empty();
        match (self.settle(key, findings, run), newest) {
            (Outcome::Good(Document::Test(document)), Some((newest, test))) if Arc::ptr_eq(&document, &newest) => {
                if let (Some(test), Some(known)) = (&test, self.known.get_mut(key).filter(|_| silent)) {
                    known.filled = Some((context.global.clone(), context.host.clone(), test.clone()));
                }
                if let Some(rejected) = run.rejected.last_mut().filter(|_| test.is_none()) {
                    rejected.last_good_in_force = false;
                }
                Some((document, test))
            }
            // A last good version may not go with today's global document: its findings are its own.
            (Outcome::Good(Document::Test(document)), _) => {
                let test = fill_in(&document, &mut Findings::about(""));
                if let Some(rejected) = run.rejected.last_mut().filter(|_| test.is_none()) {
                    rejected.last_good_in_force = false;
                }
                Some((document, test))
            }
            (Outcome::Good(_) | Outcome::Absent | Outcome::Bad, _) => None,
        }
    }

    /// The tests of sets that start or end here. The sets' windows of maintenance go to `windows`.
    fn tests_of_sets(&mut self, context: &Context<'_>, windows: &mut Vec<Window>, run: &mut Run) -> Vec<Test> {
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
            let Outcome::Good(Document::Set(set)) = self.settle(&key, findings.into_vec(), run) else { continue };
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

    /// The hosts that sets can select: by the last good version of their documents, or what can be
    /// read of a bad one. An agent that never saw a good version, here or on its disk, may see fewer
    /// than the others until the document is mended: that is the price of testing on.
    pub fn hosts(&self) -> Hosts {
        let hosts = self.known.range(HOSTS_PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(HOSTS_PREFIX));
        let document = |known: &Known| match (&known.good, &known.document) {
            (_, Some(Document::Host(host))) if !known.has_errors() => Some(host.clone()),
            (Some((_, Document::Host(host))), _) | (None, Some(Document::Host(host))) => Some(host.clone()),
            (_, _) => None,
        };
        let named = hosts.filter_map(|(key, known)| Some((key[HOSTS_PREFIX.len()..].to_owned(), document(known)?)));
        named.collect()
    }

    /// All documents that can be read, with their keys.
    pub fn documents(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.known.iter().filter_map(|(key, known)| Some((key.as_str(), known.document.as_ref()?)))
    }

    /// What to call a document when something is wrong with it.
    pub fn place(&self, key: &str) -> String {
        self.known.get(key).map_or_else(|| key.to_owned(), |known| known.newest.place.clone())
    }

    /// All sets that are in force, by name.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &Arc<SetDocument>)> {
        self.known.iter().filter_map(|(key, known)| match &known.good {
            Some((_, Document::Set(set))) if set.enabled => Some((key.strip_prefix(SETS_PREFIX)?, set)),
            Some(_) | None => None,
        })
    }

    /// What every host's document says of maintenance: the drained hosts, and more windows. What is
    /// wrong with another host's document, that host says.
    fn shelving(&mut self, host_name: &str, own: &HostDocument, windows: &mut Vec<Window>) -> BTreeSet<String> {
        let mut drained = BTreeSet::new();
        let mut take_in = |name: &str, host: &HostDocument| {
            let mut nowhere = Findings::about("");
            windows.extend(maintenance::windows(&host.maintenance, &host_key(name), Some(name), &mut nowhere));
            if host.drained {
                drained.insert(name.to_owned());
            }
        };
        take_in(host_name, own);
        for (key, known) in self.known.iter_mut().filter(|(key, _)| key.starts_with(HOSTS_PREFIX)) {
            let name = &key[HOSTS_PREFIX.len()..];
            if name == host_name {
                continue;
            }
            if let Some(Document::Host(host)) = &known.document {
                take_in(name, host);
                if !known.has_errors() {
                    known.good = Some((known.newest.clone(), Document::Host(host.clone())));
                }
            } else if let Some((_, Document::Host(host))) = &known.good {
                take_in(name, host);
            }
        }
        drained
    }

    /// The host's own receivers, and the fleet's that it does not name itself.
    fn sinks(&self, global: &Global, host: &HostDocument, run: &mut Run) -> Vec<SinkConfig> {
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
        sinks
    }

    /// The document, or its last good version if it has errors, of its own or `more`.
    fn settle(&mut self, key: &str, more: Vec<Finding>, run: &mut Run) -> Outcome {
        let Some(known) = self.known.get_mut(key) else { return Outcome::Absent };
        let findings: Vec<Finding> = known.findings.iter().cloned().chain(more).collect();
        let errors = findings.iter().any(|finding| finding.level == Level::Error);
        match &known.document {
            Some(document) if !errors => {
                run.findings.extend(findings);
                known.good = Some((known.newest.clone(), document.clone()));
                Outcome::Good(document.clone())
            }
            Some(_) | None => {
                run.reject(key, findings, known.good.is_some());
                known.good.as_ref().map_or(Outcome::Bad, |(_, document)| Outcome::Good(document.clone()))
            }
        }
    }
}

/// The tests of a set on a host. A pair that cannot be is left out, and only that: its other end
/// finds the same. If all are wrong it is the set.
fn expand(name: &str, set: &SetDocument, hosts: &Hosts, context: &Context<'_>, findings: &mut Findings) -> Vec<Test> {
    let expansion = Expansion::new(name, set, hosts);
    expansion.check(findings);
    let (mut tests, mut wrong) = (Vec::new(), BTreeSet::new());
    for expanded in expansion.tests_of(context.host_name) {
        let mut of_pair = Findings::about("");
        match context.fill_in(&expanded.document, &mut of_pair) {
            Some(mut test) => {
                test.any_of = expanded.any_of.map(Arc::new);
                tests.push(test);
            }
            None => wrong.extend(of_pair.into_vec()),
        }
    }
    for finding in wrong {
        let level = if tests.is_empty() { finding.level } else { Level::Warning };
        let field = finding.place.trim_start_matches(": ").to_owned();
        findings.add(level, &field, finding.problem, finding.way_out);
    }
    tests
}

/// The form that the documents have, if it is newer than what this agent knows.
pub fn newer_schema(documents: &Documents) -> Option<u64> {
    let raw = documents.get(GLOBAL_KEY)?;
    let value = read::parse(&raw.text, raw.format, &mut Findings::about(""))?;
    value.get("schema")?.as_u64().filter(|schema| *schema > SCHEMA)
}

/// What tells one set of documents from another.
pub fn digest(documents: &Documents) -> String {
    let each = documents.iter().fold(Sha256::new(), |hash, (key, document)| {
        hash.chain_update(key).chain_update([0]).chain_update(&document.text).chain_update([0])
    });
    each.finalize().iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}

enum Outcome {
    Good(Document),
    Absent,
    Bad,
}

struct Run {
    findings: Vec<Finding>,
    rejected: Vec<RejectedDocument>,
}

impl Run {
    fn reject(&mut self, key: &str, findings: Vec<Finding>, last_good_in_force: bool) {
        let errors = findings.iter().filter(|finding| finding.level == Level::Error);
        let reasons = errors.map(ToString::to_string).collect();
        self.rejected.push(RejectedDocument { document: key.to_owned(), reasons, last_good_in_force });
        self.findings.extend(findings);
    }
}

#[cfg(test)]
mod tests;
