//! What an alarm is about, and the facts that make one.

mod cause;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::test::{TestFacts, TestId};
use super::time::Now;

pub use cause::{ANNOUNCED_STOP, Cause, Direction, Shared, Silence};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No probe came.
    Connection,
    /// Probes came too late.
    Latency,
    /// Too many probes did not come.
    Loss,
    /// Delay varies too much.
    Jitter,
    /// Some flows of a test are dead while others carry on.
    Path,
    /// Probes could not be sent, or the path answered with an error.
    Sender,
    /// A clock is wrong.
    Clock,
    /// A document, an address or the store is not as it should be.
    Config,
    /// Datagrams came that belong to no test.
    UnknownPacket,
    /// No test of this agent gets through.
    Isolated,
    /// So many alarms change that a receiver is told of them in sum.
    Storm,
    /// Nothing is wrong: somebody tries whether notifications arrive.
    Test,
}

impl Kind {
    /// Every kind, most urgent first.
    pub const ALL: [Kind; 12] = [
        Kind::Isolated,
        Kind::Connection,
        Kind::Storm,
        Kind::Sender,
        Kind::Path,
        Kind::Loss,
        Kind::Latency,
        Kind::Jitter,
        Kind::Config,
        Kind::Clock,
        Kind::UnknownPacket,
        Kind::Test,
    ];

    /// As in JSON, texts and varbinds.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Connection => "connection",
            Kind::Latency => "latency",
            Kind::Loss => "loss",
            Kind::Jitter => "jitter",
            Kind::Path => "path",
            Kind::Sender => "sender",
            Kind::Clock => "clock",
            Kind::Config => "config",
            Kind::UnknownPacket => "unknown_packet",
            Kind::Isolated => "isolated",
            Kind::Storm => "storm",
            Kind::Test => "test",
        }
    }

    /// How bad a raised alarm of this kind is.
    pub fn severity(self) -> Severity {
        match self {
            Kind::Connection | Kind::Isolated => Severity::Critical,
            Kind::Sender | Kind::Path | Kind::Loss | Kind::Latency | Kind::Config | Kind::Storm => Severity::Major,
            Kind::Clock | Kind::Jitter => Severity::Minor,
            Kind::UnknownPacket | Kind::Test => Severity::Warning,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Perceived severity (ITU-T X.733), worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Service is lost.
    Critical,
    /// Service is hurt.
    Major,
    /// Service may be hurt.
    Minor,
    /// Worth a look.
    Warning,
}

impl Severity {
    /// As in JSON and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Major => "major",
            Severity::Minor => "minor",
            Severity::Warning => "warning",
        }
    }
}

/// Whom an alarm is about, or who reports it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// This agent as a whole.
    Agent,
    /// The config store.
    Store,
    /// One test.
    Test(TestId),
    /// Another host.
    Host(String),
    /// A local address and port that probes are expected at.
    Listener(String),
    /// A local address and port that probes leave from.
    Source(String),
    /// A name that should resolve to an address.
    Name(String),
    /// A document in the store, by its key, or the bootstrap file.
    Document(String),
    /// The status page's address.
    Web(String),
    /// All tests that carry this tag.
    Tag(String),
    /// What comes back of a test, as its sender sees it. Reports; no alarm is about it.
    Answers(TestId),
    /// The configuration as a whole: many of its documents, names or addresses have faults at once.
    Configuration,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Agent => f.write_str("agent"),
            Subject::Store => f.write_str("store"),
            Subject::Test(id) => write!(f, "test {id}"),
            Subject::Host(host) => write!(f, "host {host}"),
            Subject::Listener(addr) => write!(f, "listener {addr}"),
            Subject::Source(addr) => write!(f, "source {addr}"),
            Subject::Name(name) => write!(f, "name {name}"),
            Subject::Document(key) => write!(f, "document {key}"),
            Subject::Web(addr) => write!(f, "web {addr}"),
            Subject::Tag(tag) => write!(f, "tag {tag}"),
            Subject::Answers(id) => write!(f, "answers of test {id}"),
            Subject::Configuration => f.write_str("configuration"),
        }
    }
}

/// Which alarm of this agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlarmKey {
    /// What is wrong.
    pub kind: Kind,
    /// With what.
    pub subject: Subject,
}

impl AlarmKey {
    /// A key.
    pub fn new(kind: Kind, subject: Subject) -> Self {
        AlarmKey { kind, subject }
    }

    /// The first key in their order.
    pub const FIRST: AlarmKey = AlarmKey { kind: Kind::Connection, subject: Subject::Agent };

    /// Returns whether the alarm is about a single test, document, name or address. Many such alarms can be raised at
    /// once; they are counted in storms.
    pub fn is_single(&self) -> bool {
        match (&self.subject, self.kind) {
            (Subject::Test(_), _) => true,
            (
                Subject::Document(_) | Subject::Name(_) | Subject::Listener(_) | Subject::Source(_) | Subject::Web(_),
                kind,
            ) => kind == Kind::Config,
            (
                Subject::Agent
                | Subject::Store
                | Subject::Host(_)
                | Subject::Tag(_)
                | Subject::Answers(_)
                | Subject::Configuration,
                _,
            ) => false,
        }
    }

    /// The test that this is about, if it is about one.
    pub fn test(&self) -> Option<TestId> {
        match self.subject {
            Subject::Test(id) => Some(id),
            Subject::Agent
            | Subject::Store
            | Subject::Host(_)
            | Subject::Listener(_)
            | Subject::Source(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Web(_)
            | Subject::Answers(_)
            | Subject::Configuration
            | Subject::Tag(_) => None,
        }
    }
}

impl fmt::Display for AlarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.subject)
    }
}

/// A condition went down or came up: the fact that travels from its finder to the alarm actor.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionChange {
    /// Which alarm this is about.
    pub key: AlarmKey,
    /// Who says so. An alarm stands while at least one reporter says so.
    pub reporter: Subject,
    /// When it was found.
    pub at: Now,
    /// Down and why, or up.
    pub verdict: Verdict,
    /// The test, if the alarm is about one.
    pub test: Option<Arc<TestFacts>>,
}

/// Which way a condition changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Down. Said again while it is down: the cause is another one now.
    Violated(Cause),
    /// A probe is overdue: the test no longer counts as up, and not yet as down.
    Overdue,
    /// Up.
    Cleared,
    /// Down until now; whether it still is can no longer be decided.
    Undecidable,
}

/// A condition outside any test (a document, an address, a stranger's datagrams).
pub fn condition_change(key: AlarmKey, reporter: Subject, at: Now, verdict: Verdict) -> ConditionChange {
    ConditionChange { key, reporter, at, verdict, test: None }
}
