//! From the documents of a store to what is in force: the one load path of `run` and `check-config`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::bootstrap::check_sinks;
use super::central::{AlarmSettings, Global, HostDocument, TestDefaults, TestDocument, Wire};
use super::endpoint::{Endpoint, EndpointError, EndpointHost};
use super::findings::{Finding, Findings, Level};
use super::legacy;
use super::read::{self, Format};
use super::sinks::SinkConfig;
use crate::pure::clock_error::DelayLimits;
use crate::pure::condition::Thresholds;
use crate::pure::ledger::HoldDown;
use crate::pure::status::RejectedDocument;
use crate::pure::test::{TestFacts, TestId};

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

/// One test with everything filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Who and where, as the document says it.
    pub facts: Arc<TestFacts>,
    /// Where it is written.
    pub place: String,
    /// Where probes leave.
    pub from: Endpoint,
    /// Where they go.
    pub to: Endpoint,
    /// Where the receiver binds.
    pub listen: Endpoint,
    /// The sender's interval.
    pub send_every: Duration,
    /// The receiver's expectation.
    pub expect_every: Duration,
    /// Samples that decide.
    pub thresholds: Thresholds,
    /// What is asked of delays.
    pub limits: DelayLimits,
    /// Silence forgiven at the start.
    pub startup_grace: Duration,
    /// How long a telling holds.
    pub hold_down: HoldDown,
    /// Which probe is sent.
    pub wire: Wire,
}

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

/// Probes faster than this are a flood.
const MIN_SEND_EVERY: Duration = Duration::from_millis(1);
const SEND_EVERY: Duration = Duration::from_secs(1);
const RAISE_AFTER: u32 = 3;
const CLEAR_AFTER: u32 = 3;
const HOLD_DOWN: Duration = Duration::from_secs(30);
const HOLD_DOWN_MAX: Duration = Duration::from_secs(600);
/// The least grace; a slow test has three of its intervals.
const STARTUP_GRACE: Duration = Duration::from_secs(30);

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
        let enabled = global.enabled && host.enabled;
        Loaded {
            config_version: global.version,
            enabled,
            sinks,
            hold_down: hold_down(&context.alarm(AlarmSettings::default())),
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
    let (send_every, expect_every) = intervals(defaults.send_every, defaults.expect_every, &TestDefaults::default());
    check_intervals("defaults.", send_every, expect_every, defaults.max_latency, findings);
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
    if let (Some(first), Some(longest)) = (alarm.hold_down, alarm.hold_down_max)
        && first > longest
    {
        let problem = "longer than hold_down_max";
        findings.warning(&format!("{field}hold_down"), problem, "raise hold_down_max or lower hold_down");
    }
}

/// What a test's document is read against.
struct Context<'a> {
    host_name: &'a str,
    global: &'a Global,
    host: &'a HostDocument,
}

impl Context<'_> {
    fn alarm(&self, own: AlarmSettings) -> AlarmSettings {
        own.or(&self.host.alarm).or(&self.global.alarm)
    }

    /// Fills in what the document leaves to others; nothing if it has errors.
    fn fill_in(&self, document: &TestDocument, findings: &mut Findings) -> Option<Test> {
        let defaults = &self.global.defaults;
        let id = parse_id(document, findings);
        let from = parse_endpoint("from", &document.from, "127.0.0.2:0", findings);
        let to = parse_endpoint("to", &document.to, "127.0.0.3:8620", findings);
        let listen = parse_endpoint("listen", &document.listen, "0.0.0.0:8620", findings);
        if let Some(to) = &to {
            check_destination(document, to, findings);
        }
        if !document.listen.is_empty() && listen.as_ref().is_some_and(|listen| listen.port == 0) {
            findings.error("listen", "no port", "write the port that probes arrive at");
        }
        for (field, host) in [("from_host", &document.from_host), ("to_host", &document.to_host)] {
            if host.is_empty() {
                findings.error(field, "missing", "write the name of the host, as in its key hosts/<host>");
            }
        }
        if document.from_host != self.host_name && document.to_host != self.host_name {
            let problem = format!("`{}` is neither its from_host nor its to_host", self.host_name);
            findings.warning("", problem, "move it below its own hosts; it does nothing here");
        }

        let (send_every, expect_every) = intervals(document.send_every, document.expect_every, defaults);
        check_intervals("", send_every, expect_every, document.max_latency, findings);
        if findings.has_errors() {
            return None;
        }

        let alarm = self.alarm(document.alarm());
        let (from, to, listen) = (from?, to?, listen?);
        Some(Test {
            facts: Arc::new(TestFacts {
                id: id?,
                description: document.description.clone(),
                from_host: document.from_host.clone(),
                from: document.from.clone(),
                to_host: document.to_host.clone(),
                to: document.to.clone(),
            }),
            place: String::new(),
            listen: if document.listen.is_empty() { to.clone() } else { listen },
            from,
            to,
            send_every,
            expect_every,
            thresholds: Thresholds {
                raise_after: alarm.raise_after.unwrap_or(RAISE_AFTER),
                clear_after: alarm.clear_after.unwrap_or(CLEAR_AFTER),
            },
            limits: DelayLimits {
                max_latency: document.max_latency.or(defaults.max_latency),
                egregious_latency: self.global.egregious_latency,
            },
            startup_grace: alarm.startup_grace.unwrap_or(STARTUP_GRACE.max(expect_every * 3)),
            hold_down: hold_down(&alarm),
            wire: document.wire.or(defaults.wire).unwrap_or(Wire::Stamp),
        })
    }
}

/// What is said, or half or twice the other if only that is said, or the default.
fn intervals(send: Option<Duration>, expect: Option<Duration>, defaults: &TestDefaults) -> (Duration, Duration) {
    match (send, expect) {
        (Some(send), Some(expect)) => (send, expect),
        (Some(send), None) => (send, send * 2),
        (None, Some(expect)) => (expect / 2, expect),
        (None, None) => match (defaults.send_every, defaults.expect_every) {
            (None, None) => (SEND_EVERY, SEND_EVERY * 2),
            (send, expect) => intervals(send, expect, &TestDefaults::default()),
        },
    }
}

fn check_intervals(
    field: &str,
    send_every: Duration,
    expect_every: Duration,
    max_latency: Option<Duration>,
    findings: &mut Findings,
) {
    if send_every < MIN_SEND_EVERY {
        findings.error(&format!("{field}send_every"), "shorter than 1ms", "write \"1ms\" or more");
    }
    if expect_every < send_every {
        let problem = format!(
            "{} is shorter than send_every, {}: healthy silence would be an alarm",
            humantime::format_duration(expect_every),
            humantime::format_duration(send_every)
        );
        let way_out = "write at least send_every, better twice that";
        findings.error(&format!("{field}expect_every"), problem, way_out);
    }
    if max_latency.is_some_and(|limit| limit.is_zero()) {
        findings.error(&format!("{field}max_latency"), "zero", "write a limit above zero, or leave it out");
    }
}

fn hold_down(alarm: &AlarmSettings) -> HoldDown {
    let hold_down = alarm.hold_down.unwrap_or(HOLD_DOWN);
    HoldDown { hold_down, hold_down_max: alarm.hold_down_max.unwrap_or(HOLD_DOWN_MAX).max(hold_down) }
}

fn parse_id(document: &TestDocument, findings: &mut Findings) -> Option<TestId> {
    match document.id.parse() {
        Ok(id) => Some(id),
        Err(_) => {
            let problem =
                if document.id.is_empty() { "missing".to_owned() } else { format!("`{}` is no UUID", document.id) };
            let place = format!("{}/{}/{}/{}", document.from_host, document.from, document.to_host, document.to);
            let proposed = TestId::proposed_for(&place);
            findings.error("id", problem, format!("write a UUID, such as \"{proposed}\""));
            None
        }
    }
}

fn parse_endpoint(field: &str, text: &str, example: &str, findings: &mut Findings) -> Option<Endpoint> {
    match text.parse() {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            let error: EndpointError = error;
            findings.error(field, error.to_string(), format!("write address:port, such as \"{example}\""));
            None
        }
    }
}

fn check_destination(document: &TestDocument, to: &Endpoint, findings: &mut Findings) {
    if to.is_wildcard() {
        let problem = if document.to.is_empty() { "missing" } else { "probes cannot be sent to a wildcard" };
        let way_out = "write the receiver's address, such as \"127.0.0.3:8620\"; to bind a wildcard, use listen";
        findings.error("to", problem, way_out);
    } else if is_for_many(to) {
        let way_out = "write the address of one receiver";
        findings.error("to", "a multicast or broadcast address", way_out);
    } else if to.port == 0 {
        findings.error("to", "port 0", "write the port that the receiver listens at");
    }
}

fn is_for_many(to: &Endpoint) -> bool {
    match to.host {
        EndpointHost::Ip(IpAddr::V4(addr)) => addr.is_multicast() || addr.is_broadcast(),
        EndpointHost::Ip(addr @ IpAddr::V6(_)) => addr.is_multicast(),
        EndpointHost::Any | EndpointHost::Name(_) => false,
    }
}

#[cfg(test)]
mod tests;
