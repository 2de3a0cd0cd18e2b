//! Snapshot of the agent's state that the status page, `/status.json` and `/healthz` render.
//!
//! [`Status`] is plain data: actors fill it in, and the web server only reads and sorts it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::pure::test::role::Role;

use crate::pure::alarm::key::Kind;
use crate::pure::alarm::notification::AlarmStatus;
use crate::pure::alarm::shelving::Silence;
use crate::pure::base::time::{Moment, WallTime};
use crate::pure::clock::error_estimate::DelayVerdict;
use crate::pure::judge::condition::State;
use crate::pure::judge::session::{Counters, ReceiveSession};
use crate::pure::measure::statistics::{Histogram, Summaries};
use crate::pure::notify::log::{LogCounts, Scope};
use crate::pure::stamp::flows::FlowStatus;
use crate::pure::test::facts::TestFacts;

/// State that this agent publishes about itself. Times are RFC 3339 in UTC, durations are in seconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Name of this host, under which its documents are kept in the store.
    pub host: String,
    /// Version of the agent, as compiled into the program.
    pub version: &'static str,
    /// Wall-clock time at which the agent started.
    pub started: WallTime,
    /// Wall-clock time at which this snapshot was taken.
    pub taken: WallTime,
    /// State of the config store that the documents are read from.
    pub store: StoreStatus,
    /// State of the local clock and of its synchronization.
    pub clock: ClockStatus,
    /// Addresses at which this host expects probes.
    pub listeners: Vec<ListenerStatus>,
    /// Tests whose probes this host sends.
    pub senders: Arc<Vec<SenderStatus>>,
    /// Tests of this host, listed once for each role that the host has in them.
    pub tests: Arc<Vec<TestStatus>>,
    /// Time at which tests and senders were last polled; `None` if no client has requested them recently.
    #[serde(skip)]
    pub tests_taken: Option<WallTime>,
    /// Raised alarms, the most severe first, limited to a thousand.
    pub alarms: Vec<AlarmStatus>,
    /// Total number of raised alarms, including those beyond the limit of `alarms`.
    pub raised: usize,
    /// Raised alarms of tests that are suppressed, each with the reason for its suppression.
    #[serde(skip)]
    pub suppressed: Arc<Vec<(Arc<TestFacts>, Kind, &'static str)>>,
    /// Silences of operators that are in force, because they have not ended yet.
    pub silences: Vec<Silence>,
    /// Receivers of alarms, with the state of their delivery.
    pub sinks: Vec<SinkStatus>,
    /// Number of restarts after a fault of the child's own, by kind of child.
    pub restarts: BTreeMap<&'static str, u64>,
}

/// Config store: its connection, the revision in force and the rejected documents.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreStatus {
    /// Kind of the store: `etcd` or `dir`.
    pub kind: &'static str,
    /// Endpoints of the etcd cluster, or path of the directory.
    pub location: String,
    /// Identity of the store that answered: the etcd cluster with its API version, or the directory.
    pub origin: Option<String>,
    /// Relation of the configuration in force to the contents of the store.
    pub state: StoreState,
    /// True if the last attempt to reach the store succeeded.
    pub connected: bool,
    /// Store revision of the configuration in force; `None` until one is in force.
    pub revision: Option<u64>,
    /// Time at which the store last confirmed that the revision in force is its current one.
    pub confirmed: Option<WallTime>,
    /// Seconds since `confirmed`, at the time of the snapshot.
    pub config_age_seconds: Option<f64>,
    /// Number of times that the store was found at an earlier revision than before.
    pub rollbacks: u64,
    /// Reason for which the store cannot be reached; `None` while it can be.
    pub error: Option<String>,
    /// Human-readable remark about the store, for example that a locally kept copy is in force.
    pub remark: Option<String>,
    /// Documents that were rejected, each with the reasons.
    pub rejected: Vec<RejectedDocument>,
}

/// Relation of the configuration in force to the contents of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// Waiting for the first configuration: no configuration is in force yet.
    #[default]
    Waiting,
    /// Configuration in force is the store's current one.
    Current,
    /// Store cannot be reached; the configuration read last remains in force.
    Stale,
    /// Store holds a schema that only newer agents support; the previous configuration remains in force.
    UnsupportedSchema,
}

/// Document whose current version in the store is not in force because it is faulty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedDocument {
    /// Key of the document, relative to the store's prefix.
    pub document: String,
    /// Complete list of faults that were found in the document.
    pub reasons: Vec<String>,
    /// True if the last good version of the document is in force in its place.
    pub last_good_in_force: bool,
}

/// State of the local clock, according to the kernel and to a time server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClockStatus {
    /// True if the clock is disciplined by a synchronization daemon, according to the kernel.
    pub synchronized: bool,
    /// Maximum error of the clock in seconds, as estimated by the kernel.
    pub error_seconds: f64,
    /// Number of clock steps detected since the agent started.
    pub steps: u64,
    /// Time server that the local clock is compared with; `None` without such a comparison.
    pub ntp_server: Option<String>,
    /// Time in seconds by which the local clock is behind that time server.
    pub ntp_offset_seconds: Option<f64>,
    /// Reason for which the comparison with the time server has no result.
    pub ntp_error: Option<String>,
}

/// Local address at which probes are received, with its socket's counters.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Address and port that the socket is, or should be, bound to.
    pub address: SocketAddr,
    /// Names by which the documents refer to this address.
    pub names: Vec<String>,
    /// True if the socket is open and bound to the address.
    pub bound: bool,
    /// Reason for which the socket could not be bound; `None` if it is bound.
    pub error: Option<String>,
    /// Number of tests whose probes are expected at this address.
    pub tests: usize,
    /// Number of datagrams received at this address, including unknown packets.
    pub packets: u64,
    /// Number of received datagrams that belong to no test (unknown packets).
    pub unknown_packets: u64,
    /// Sources that most of the unknown packets come from.
    pub unknown_sources: Vec<UnknownSource>,
    /// Number of datagrams that this host's kernel dropped because the socket buffer was full.
    pub dropped_packets: u64,
    /// Number of probes that were reflected to their sender.
    pub reflected: u64,
}

impl ListenerStatus {
    /// Creates the status of a bound address at which nothing has been received yet.
    pub fn silent(address: SocketAddr, names: Vec<String>, tests: usize) -> Self {
        ListenerStatus {
            address,
            names,
            bound: true,
            error: None,
            tests,
            packets: 0,
            unknown_packets: 0,
            unknown_sources: Vec::new(),
            dropped_packets: 0,
            reflected: 0,
        }
    }

    /// Returns this status as that of an address that cannot be bound for this reason.
    #[must_use]
    pub fn unbound(self, problem: &str) -> Self {
        ListenerStatus { bound: false, error: Some(problem.to_owned()), ..self }
    }
}

/// Source of unknown packets, with the number of datagrams received from it.
#[derive(Clone, Debug, Serialize)]
pub struct UnknownSource {
    /// Address from which the unknown packets were sent.
    pub source: String,
    /// Number of unknown packets received from this source.
    pub packets: u64,
    /// Reason for which the last of them did not belong to any test.
    pub last_reason: String,
}

/// Sending side of one test on this host, with its counters and errors.
#[derive(Clone, Debug, Serialize)]
pub struct SenderStatus {
    /// Facts about the test, merged into this object in JSON.
    #[serde(flatten)]
    pub test: Arc<TestFacts>,
    /// Condition of the sender, that is, whether its probes can leave.
    pub condition: State,
    /// Number of probes that were sent.
    pub sent: u64,
    /// Number of probes that could not be sent, or were answered with an ICMP error.
    pub errors: u64,
    /// Number of send slots that were missed and skipped.
    pub skipped: u64,
    /// Sum of the delays, in seconds, with which send slots began.
    pub lateness_seconds: f64,
    /// Text of the last send error; `None` if none has occurred.
    pub last_error: Option<String>,
}

/// Test in one of its roles on this host, with its conditions and measurements.
#[derive(Clone, Debug, Serialize)]
pub struct TestStatus {
    /// Facts about the test, merged into this object in JSON.
    #[serde(flatten)]
    pub test: Arc<TestFacts>,
    /// Role of this host in the test: judging receiver, or sender.
    pub role: Role,
    /// State of the first condition that is down, else of the connection.
    pub condition: State,
    /// Time at which the worst condition entered its state; `None` while it is unknown.
    pub since: Option<WallTime>,
    /// State of each condition of the test, by alarm kind.
    pub conditions: BTreeMap<Kind, State>,
    /// Time at which the last accepted probe arrived.
    pub last_probe: Option<WallTime>,
    /// Delay of the last accepted probe in seconds; one-way at the receiver, round-trip at the sender.
    pub last_delay: Option<f64>,
    /// Uncertainty of `last_delay` in seconds, from the error bounds of both clocks.
    pub last_delay_uncertainty: Option<f64>,
    /// Verdict on `last_delay` after comparison with the limits.
    pub last_delay_verdict: Option<DelayVerdict>,
    /// Counters of probes since the receive session began; `None` while nothing is known.
    pub counters: Option<Counters>,
    /// Statistics of loss and delay for three periods; `None` while nothing is known.
    pub statistics: Option<Summaries>,
    /// Histogram of all delays since the receive session began.
    #[serde(skip)]
    pub histogram: Option<Histogram>,
    /// Time-to-live of the last probe's IP packet, if known.
    pub ttl: Option<u8>,
    /// Differentiated services code point of the last probe's IP packet, if known.
    pub dscp: Option<u8>,
    /// State of each flow, if the test has more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowStatus>,
}

impl SenderStatus {
    /// Creates the status of a test whose sender has not started yet.
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
    /// Creates the status of a test that is judged on this host, at the moment `now`.
    pub fn of(session: &ReceiveSession, now: Moment) -> Self {
        let expected = session.expected();
        let worst = session.worst();
        let (ttl, dscp) = session.path();
        let last_delay = session.last_delay();
        TestStatus {
            test: expected.test.clone(),
            role: expected.role,
            condition: worst.state(),
            since: (worst.state() != State::Unknown).then(|| worst.since().wall),
            conditions: expected.kinds().map(|kind| (kind, session.condition(kind).state())).collect(),
            last_probe: session.last_probe().map(|now| now.wall),
            last_delay: last_delay.map(|(delay, _)| delay.seconds()),
            last_delay_uncertainty: last_delay.map(|(delay, _)| delay.uncertainty.as_secs_f64()),
            last_delay_verdict: last_delay.map(|(_, verdict)| verdict),
            counters: Some(session.counters()),
            statistics: Some(session.statistics(now)),
            histogram: Some(session.histogram()),
            ttl,
            dscp,
            flows: session.flows(),
        }
    }

    /// Creates the status of a test whose state is not known, in the given role.
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

/// Receiver of alarms, with the state of its notification log and its deliveries.
#[derive(Clone, Debug, Serialize)]
pub struct SinkStatus {
    /// Name of the receiver, as configured.
    pub name: String,
    /// Kind of the receiver, such as `snmp` or `webhook`.
    pub kind: &'static str,
    /// Address or command to which notifications are delivered.
    pub target: String,
    /// Scope of the receiver: the alarms that it is notified of.
    pub scope: Scope,
    /// Counts from the notification log: notified, pending and unconfirmed alarms.
    #[serde(flatten)]
    pub counts: LogCounts,
    /// Number of messages that were delivered successfully.
    pub sent: u64,
    /// Number of messages that could not be delivered.
    pub failed: u64,
    /// Reason for which the last delivery failed; `None` if it succeeded.
    pub last_error: Option<String>,
}

impl Status {
    /// Sorts the lists that are read from the top: alarms by rank, the worst first, and listeners by address.
    pub fn sort(&mut self) {
        self.alarms.sort_by_cached_key(|alarm| (alarm.rank(), alarm.notification.key.clone()));
        self.listeners.sort_by_key(|listener| listener.address);
    }

    /// Sorts tests by state, the worst first, then by role and description.
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

    /// Returns the number of tests in each state, by the state's name.
    pub fn totals(&self) -> BTreeMap<String, usize> {
        let mut totals = BTreeMap::new();
        for test in self.tests.iter() {
            *totals.entry(test.condition.to_string()).or_default() += 1;
        }
        totals
    }
}
