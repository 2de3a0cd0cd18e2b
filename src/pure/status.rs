//! The snapshot that the status page, `/status.json` and `/healthz` show.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::alarm::Kind;
use super::clock_error::DelayVerdict;
use super::condition::State;
use super::expectation::{Counters, Expectation};
use super::flows::FlowStatus;
use super::ledger::{LedgerCounts, Scope};
use super::notification::Standing;
use super::shelf::Silence;
use super::statistics::{Histogram, Summaries};
use super::test::TestFacts;
use super::time::{Moment, WallTime};

/// All that this agent shows of itself. Times are RFC 3339 in UTC, durations are in seconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// The name under which this host's documents stand.
    pub host: String,
    /// The agent's version.
    pub version: &'static str,
    /// When the agent began.
    pub started: WallTime,
    /// When this snapshot was taken.
    pub taken: WallTime,
    /// Where the documents come from.
    pub store: StoreStatus,
    /// The local clock.
    pub clock: ClockStatus,
    /// Addresses at which probes are expected.
    pub listeners: Vec<ListenerStatus>,
    /// Tests that start here.
    pub senders: Arc<Vec<SenderStatus>>,
    /// Every test of this host, once for each role it has here.
    pub tests: Arc<Vec<TestStatus>>,
    /// When the tests and senders were looked at; nothing: nobody wanted to know lately.
    #[serde(skip)]
    pub tests_taken: Option<WallTime>,
    /// Alarms that stand, the worst first, up to a thousand of them.
    pub alarms: Vec<Standing>,
    /// How many stand.
    pub raised: usize,
    /// Alarms of tests that stand and are not told themselves, and why.
    #[serde(skip)]
    pub suppressed: Arc<Vec<(Arc<TestFacts>, Kind, &'static str)>>,
    /// Silences that have not ended.
    pub silences: Vec<Silence>,
    /// Receivers of alarms.
    pub sinks: Vec<SinkStatus>,
    /// How often each kind of child was restarted after a fault of its own.
    pub restarts: BTreeMap<&'static str, u64>,
}

/// The config store.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreStatus {
    /// `etcd` or `dir`.
    pub kind: &'static str,
    /// Where: endpoints or path.
    pub place: String,
    /// Which cluster answered there, and by which API.
    pub origin: Option<String>,
    /// How what is in force relates to it.
    pub state: StoreState,
    /// Whether the last attempt to reach it worked.
    pub connected: bool,
    /// The revision in force, once one is.
    pub revision: Option<u64>,
    /// When the store last said that this is still so.
    pub confirmed: Option<WallTime>,
    /// Seconds since then.
    pub config_age_seconds: Option<f64>,
    /// How often it was found at an earlier revision than before.
    pub rollbacks: u64,
    /// Why it cannot be reached.
    pub error: Option<String>,
    /// What people should know of it.
    pub remark: Option<String>,
    /// Documents that were rejected, and why.
    pub rejected: Vec<RejectedDocument>,
}

/// How what is in force relates to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// Nothing is in force yet.
    #[default]
    Waiting,
    /// It is what the store says.
    Current,
    /// The store is away; it is what the store said last.
    Stale,
    /// The store says something that only newer agents understand; it is what it said before.
    UnsupportedSchema,
}

/// A document that is not in force as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedDocument {
    /// Its key below the prefix.
    pub document: String,
    /// Everything that is wrong with it.
    pub reasons: Vec<String>,
    /// Whether its last good version is in force instead.
    pub last_good_in_force: bool,
}

/// The local clock.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClockStatus {
    /// Whether something disciplines it.
    pub synchronised: bool,
    /// It is off by this at most.
    pub error_seconds: f64,
    /// Steps seen since the agent began.
    pub steps: u64,
    /// The time server that it is held against.
    pub ntp_server: Option<String>,
    /// How far it is behind, as that says.
    pub ntp_offset_seconds: Option<f64>,
    /// Why that says nothing.
    pub ntp_error: Option<String>,
}

/// One bound address.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Address and port.
    pub address: String,
    /// What documents call it.
    pub names: Vec<String>,
    /// Whether its socket is open.
    pub bound: bool,
    /// Why not.
    pub error: Option<String>,
    /// Tests expected here.
    pub tests: usize,
    /// Datagrams taken in.
    pub packets: u64,
    /// Datagrams that belong to no test.
    pub foreign: u64,
    /// Where most of them come from.
    pub foreign_sources: Vec<ForeignSource>,
    /// Datagrams that this host's kernel dropped because the socket was full.
    pub kernel_drops: u64,
    /// Probes that were answered.
    pub reflected: u64,
}

impl ListenerStatus {
    /// Of an address at which nothing was taken in yet.
    pub fn silent(address: String, names: Vec<String>, tests: usize) -> Self {
        ListenerStatus {
            address,
            names,
            bound: true,
            error: None,
            tests,
            packets: 0,
            foreign: 0,
            foreign_sources: Vec::new(),
            kernel_drops: 0,
            reflected: 0,
        }
    }

    /// Of an address that cannot be bound.
    #[must_use]
    pub fn unbound(self, problem: &str) -> Self {
        ListenerStatus { bound: false, error: Some(problem.to_owned()), ..self }
    }
}

/// A stranger.
#[derive(Clone, Debug, Serialize)]
pub struct ForeignSource {
    /// Its address.
    pub source: String,
    /// Datagrams from it.
    pub packets: u64,
    /// What was wrong with the last one.
    pub last_reason: String,
}

/// One test that starts here.
#[derive(Clone, Debug, Serialize)]
pub struct SenderStatus {
    /// The test.
    #[serde(flatten)]
    pub test: Arc<TestFacts>,
    /// Whether its probes can leave.
    pub condition: State,
    /// Probes that left.
    pub sent: u64,
    /// Probes that could not leave, or that an ICMP error came back for.
    pub errors: u64,
    /// Slots that were missed.
    pub skipped: u64,
    /// How late slots began, all together.
    pub lateness_seconds: f64,
    /// The last error.
    pub last_error: Option<String>,
}

/// One test in one role.
#[derive(Clone, Debug, Serialize)]
pub struct TestStatus {
    /// The test.
    #[serde(flatten)]
    pub test: Arc<TestFacts>,
    /// Whether this host sends or receives it.
    pub role: Role,
    /// The worst of its conditions.
    pub condition: State,
    /// Since when.
    pub since: Option<WallTime>,
    /// Each of its conditions by kind.
    pub conditions: BTreeMap<Kind, State>,
    /// When the last probe came.
    pub last_probe: Option<WallTime>,
    /// Its one-way delay in seconds.
    pub last_delay: Option<f64>,
    /// How far that may be off, in seconds.
    pub last_delay_uncertainty: Option<f64>,
    /// What it was worth.
    pub last_delay_verdict: Option<DelayVerdict>,
    /// Counters since the expectation began.
    pub counters: Option<Counters>,
    /// Numbers of three periods.
    pub statistics: Option<Summaries>,
    /// The delays since the expectation began.
    #[serde(skip)]
    pub histogram: Option<Histogram>,
    /// The time-to-live that the last probe came with.
    pub ttl: Option<u8>,
    /// The differentiated services code point that it came with.
    pub dscp: Option<u8>,
    /// What came of each flow, if there is more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowStatus>,
}

impl SenderStatus {
    /// Of a test that was not sent yet.
    pub fn unknown(test: Arc<TestFacts>) -> Self {
        SenderStatus {
            test,
            condition: State::Unknown,
            sent: 0,
            errors: 0,
            skipped: 0,
            lateness_seconds: 0.0,
            last_error: None,
        }
    }
}

impl TestStatus {
    /// Of a test that is judged here.
    pub fn of(expectation: &Expectation, now: Moment) -> Self {
        let expected = expectation.expected();
        let worst = expectation.worst();
        let (ttl, dscp) = expectation.path();
        let last_delay = expectation.last_delay();
        TestStatus {
            test: expected.test.clone(),
            role: expected.role,
            condition: worst.state(),
            since: (worst.state() != State::Unknown).then(|| worst.since().wall),
            conditions: expected.kinds().map(|kind| (kind, expectation.condition(kind).state())).collect(),
            last_probe: expectation.last_probe().map(|now| now.wall),
            last_delay: last_delay.map(|(delay, _)| delay.seconds()),
            last_delay_uncertainty: last_delay.map(|(delay, _)| delay.uncertainty.as_secs_f64()),
            last_delay_verdict: last_delay.map(|(_, verdict)| verdict),
            counters: Some(expectation.counters()),
            statistics: Some(expectation.statistics(now)),
            histogram: Some(expectation.histogram()),
            ttl,
            dscp,
            flows: expectation.flows(),
        }
    }

    /// Of a test of which nothing is known.
    pub fn unknown(test: Arc<TestFacts>, role: Role) -> Self {
        TestStatus {
            test,
            role,
            condition: State::Unknown,
            since: None,
            conditions: BTreeMap::new(),
            last_probe: None,
            last_delay: None,
            last_delay_uncertainty: None,
            last_delay_verdict: None,
            counters: None,
            statistics: None,
            histogram: None,
            ttl: None,
            dscp: None,
            flows: Vec::new(),
        }
    }
}

/// A host's part in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It judges.
    Receiver,
    /// It sends.
    Sender,
}

/// One receiver of alarms.
#[derive(Clone, Debug, Serialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Where it is.
    pub target: String,
    /// Which alarms it is told.
    pub scope: Scope,
    /// What it knows and does not know yet.
    #[serde(flatten)]
    pub counts: LedgerCounts,
    /// Messages that left.
    pub sent: u64,
    /// Messages that could not be delivered.
    pub failed: u64,
    /// Why the last one could not.
    pub last_error: Option<String>,
}

impl Status {
    /// Orders what people read from the top: the worst first.
    pub fn sort(&mut self) {
        self.alarms.sort_by_cached_key(|alarm| (alarm.rank(), alarm.notification.key.clone()));
        self.listeners.sort_by(|a, b| a.address.cmp(&b.address));
    }

    /// Orders tests: the worst first.
    pub fn sort_tests(tests: &mut [TestStatus]) {
        tests.sort_by(|a, b| {
            let rank = |test: &TestStatus| match test.condition {
                State::Down => 0,
                State::Recovering => 1,
                State::Suspect => 2,
                State::Unknown => 3,
                State::Paused => 4,
                State::Standby => 5,
                State::Up => 6,
            };
            (rank(a), a.role, &a.test.description, a.test.id).cmp(&(rank(b), b.role, &b.test.description, b.test.id))
        });
    }

    /// How many tests stand in each condition.
    pub fn totals(&self) -> BTreeMap<String, usize> {
        let mut totals = BTreeMap::new();
        for test in self.tests.iter() {
            *totals.entry(test.condition.to_string()).or_default() += 1;
        }
        totals
    }
}
