//! Identity of an alarm (kind and subject) and the condition changes that raise and clear it.
//!
//! An [`AlarmKey`] identifies one alarm of this agent. Actors that find a fault send a
//! [`ConditionChange`](super::change::ConditionChange) to the alarm actor, which combines the reports of all reporters
//! of the same key into one alarm.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::pure::test::id::TestId;

/// Kind of fault that an alarm reports; together with the subject it identifies the alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Expected probes have not arrived for `raise_after` periods of `expect_every`.
    Connection,
    /// Probes arrive, but their delay exceeds the configured latency limit.
    Latency,
    /// Share of lost probes within the loss window exceeds `max_loss`.
    Loss,
    /// Delay varies between consecutive probes by more than `max_jitter` too often.
    Jitter,
    /// Dead flows: some of a test's flows carry no probes while its others still do.
    Path,
    /// Probes could not be sent, or the path answered them with an ICMP error.
    Sender,
    /// Measured delays prove that the clock of this host or of its peer is wrong.
    Clock,
    /// Configuration fault: a document, an address, a name or the store is not usable as configured.
    Config,
    /// Datagrams arrive that belong to no configured test of this host.
    UnknownPacket,
    /// Isolation: every test that ends on this agent is down at the same time.
    Isolated,
    /// Alarm storm: alarms change so fast that a receiver gets a summary instead of single notifications.
    Storm,
    /// Test notification that an operator sends to verify that notifications arrive; reports no fault.
    Test,
}

impl Kind {
    /// Kinds of alarms without exception, the most urgent first.
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

    /// Returns the name that JSON, notification texts and SNMP varbinds use for this kind.
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

    /// Returns the perceived severity of a raised alarm of this kind; cleared alarms have none.
    pub fn severity(self) -> Severity {
        match self {
            Kind::Connection | Kind::Isolated => Severity::Critical,
            Kind::Sender | Kind::Path | Kind::Loss | Kind::Latency | Kind::Config | Kind::Storm => Severity::Major,
            Kind::Clock | Kind::Jitter => Severity::Minor,
            Kind::UnknownPacket | Kind::Test => Severity::Warning,
        }
    }
}

impl Kind {
    /// Returns the words for a condition of this kind that is good again.
    pub fn good_again(self) -> &'static str {
        match self {
            Kind::Connection => "up again",
            Kind::Isolated => "no longer isolated",
            Kind::Latency
            | Kind::Loss
            | Kind::Jitter
            | Kind::Path
            | Kind::Sender
            | Kind::Clock
            | Kind::Config
            | Kind::UnknownPacket
            | Kind::Storm
            | Kind::Test => "good again",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Perceived severity of a raised alarm (ITU-T X.733), ordered with the most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Service is lost: a test, or the whole agent, is out of contact.
    Critical,
    /// Service is degraded, or a fault prevents the agent from measuring it.
    Major,
    /// Service may be degraded, or measurements may be less accurate than they appear.
    Minor,
    /// Condition that does not affect service but should be examined by an operator.
    Warning,
}

impl Severity {
    /// Returns the name that JSON and metric labels use for this severity.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Major => "major",
            Severity::Minor => "minor",
            Severity::Warning => "warning",
        }
    }
}

/// Entity that an alarm concerns. The same type identifies the reporter of a condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Agent as a whole, independent of any single test or document.
    Agent,
    /// Config store from which this agent reads its documents.
    Store,
    /// Test, identified by its id, at the host that judges or sends it.
    Test(TestId),
    /// Another host, by name, for example one whose clock is wrong.
    Host(String),
    /// Local address and port on which probes are expected to arrive.
    Listener(SocketAddr),
    /// Local address and port from which this host sends probes.
    Source(SocketAddr),
    /// Configured host name that should resolve to an address but may fail to.
    Name(String),
    /// Document in the store, identified by its key, or the bootstrap file.
    Document(String),
    /// Listening address of the status page's web server.
    Web(String),
    /// Group of the tests that carry this tag.
    Tag(String),
    /// Replies to a test's probes, judged at its sender. Identifies a reporter only: no alarm has this subject.
    Answers(TestId),
    /// Configuration as a whole, used when many documents, names or addresses have faults at once.
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

/// Identity of an alarm within this agent; at most one alarm exists per key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlarmKey {
    /// Kind of fault that the alarm reports.
    pub kind: Kind,
    /// Entity that the alarm concerns, such as a test or a host.
    pub subject: Subject,
}

impl AlarmKey {
    /// Creates the key of the alarm of this kind about this subject.
    pub fn new(kind: Kind, subject: Subject) -> Self {
        AlarmKey { kind, subject }
    }

    /// Lower bound of all keys in their sort order, used to start a range scan.
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

    /// Returns the id of the test that the alarm concerns; `None` if its subject is not a test.
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
