//! What an alarm is about, and the facts that make one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock_error::Delay;
use super::flows::DeadFlows;
use super::test::{TestFacts, TestId};
use super::time::{Now, WallTime, seconds};

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
            | Subject::Tag(_) => None,
        }
    }
}

impl fmt::Display for AlarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.subject)
    }
}

/// Why a condition is bad.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// No probe within the time.
    Silence(Silence),
    /// Delay beyond `max_latency`.
    Late {
        /// As measured.
        delay: Delay,
        /// The limit.
        max_latency: Duration,
        /// Which way.
        direction: Direction,
    },
    /// Delay further above the test's own baseline than `max_latency_above_baseline`.
    AboveBaseline {
        /// By how much, in nanoseconds.
        above: i64,
        /// The limit.
        limit: Duration,
    },
    /// More lost than `max_loss`.
    Loss {
        /// The share that was lost.
        share: f64,
        /// The limit.
        max_loss: f64,
        /// Over this time.
        loss_window: Duration,
        /// Datagrams that this host's kernel dropped meanwhile, because the socket was full.
        dropped: u64,
    },
    /// Delay varies by more than `max_jitter`.
    Jitter {
        /// The share of probes that differed by more from the one before.
        share: f64,
        /// The limit.
        max_jitter: Duration,
        /// Over this time.
        loss_window: Duration,
    },
    /// Some flows are dead.
    DeadFlows(DeadFlows),
    /// A delay that no path can have, or a clock that moved.
    ClockWrong {
        /// As measured.
        delay: Delay,
        /// The host at the other end.
        peer: String,
    },
    /// Something is wrong with the local clock.
    LocalClock(String),
    /// The operating system or the path refused probes.
    NotSent(String),
    /// Something with the configuration.
    Config(String),
    /// Tests that share something went down together.
    Shared(Shared),
    /// Datagrams of nobody known.
    UnknownPacket {
        /// One sender.
        source: String,
        /// What was wrong with its datagram.
        reason: String,
    },
}

/// Which way a delay was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the sender to the receiver.
    Forward,
    /// Back.
    Backward,
    /// There and back.
    RoundTrip,
}

/// How it fell silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// How long when this was found.
    pub silent_for: Duration,
    /// When the last probe came, if one ever did.
    pub last_probe: Option<WallTime>,
    /// How often one should come.
    pub expect_every: Duration,
    /// The last probe said that its sender stops on purpose.
    pub announced_stop: bool,
    /// Datagrams that this host's kernel dropped meanwhile, because the socket was full.
    pub dropped: u64,
    /// It is answers that do not come.
    pub answers: bool,
}

/// Tests that went down together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// What they share.
    pub what: Subject,
    /// How many of them are down.
    pub down: u64,
    /// How many there are.
    pub of: u64,
    /// One of them.
    pub first: TestId,
    /// The same, for people.
    pub example: String,
}

/// What is known of a sender that stopped on purpose.
pub const ANNOUNCED_STOP: &str = "; the sender announced its stop";

impl Cause {
    /// The original's failure text, for receivers that match on it.
    pub fn legacy_text(&self) -> String {
        match self {
            Cause::Silence(silence) => {
                format!("Timeout, no packet received in {} seconds", silence.silent_for.as_secs())
            }
            Cause::Late { delay, .. } => format!("High Latency {:.6} Seconds", delay.seconds()),
            Cause::UnknownPacket { .. } => "No matching test for packet".to_owned(),
            Cause::AboveBaseline { .. }
            | Cause::Loss { .. }
            | Cause::Jitter { .. }
            | Cause::DeadFlows(_)
            | Cause::ClockWrong { .. }
            | Cause::LocalClock(_)
            | Cause::NotSent(_)
            | Cause::Config(_)
            | Cause::Shared(_) => self.to_string(),
        }
    }

    /// The delay that was measured, if this is about one.
    pub fn delay(&self) -> Option<Delay> {
        match self {
            Cause::Late { delay, .. } | Cause::ClockWrong { delay, .. } => Some(*delay),
            Cause::AboveBaseline { above, .. } => Some(Delay { nanos: *above, uncertainty: Duration::ZERO }),
            Cause::Silence(_)
            | Cause::Loss { .. }
            | Cause::Jitter { .. }
            | Cause::DeadFlows(_)
            | Cause::LocalClock(_)
            | Cause::NotSent(_)
            | Cause::Config(_)
            | Cause::Shared(_)
            | Cause::UnknownPacket { .. } => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Silence(silence) => {
                let what = if silence.answers { "answer" } else { "probe" };
                match silence.last_probe {
                    Some(last_probe) => write!(f, "no {what} since {last_probe}")?,
                    None => write!(f, "no {what} since the test began here")?,
                }
                write!(f, ", expected every {}", humantime::format_duration(silence.expect_every))?;
                if silence.announced_stop {
                    f.write_str(ANNOUNCED_STOP)?;
                }
                if silence.dropped > 0 {
                    write!(f, "; this host's socket dropped {} datagrams meanwhile", silence.dropped)?;
                }
                Ok(())
            }
            Cause::Late { delay, max_latency, direction } => {
                let limit = humantime::format_duration(*max_latency);
                let what = match direction {
                    Direction::Forward => "delay",
                    Direction::Backward => "delay on the way back",
                    Direction::RoundTrip => "round trip",
                };
                write!(f, "{what} {} exceeds {limit}", readable(*delay))
            }
            Cause::AboveBaseline { above, limit } => {
                let limit = humantime::format_duration(*limit);
                write!(f, "delay is {:.3} ms above its baseline, more than {limit}", seconds(*above) * 1e3)
            }
            Cause::Loss { share, max_loss, loss_window, dropped } => {
                let window = humantime::format_duration(*loss_window);
                write!(f, "{} of the probes lost within {window}, more than {}", percent(*share), percent(*max_loss))?;
                if *dropped > 0 {
                    write!(f, "; this host's socket dropped {dropped} datagrams since the last probe")?;
                }
                Ok(())
            }
            Cause::Jitter { share, max_jitter, loss_window } => {
                let (limit, window) =
                    (humantime::format_duration(*max_jitter), humantime::format_duration(*loss_window));
                write!(
                    f,
                    "delay varies by more than {limit} from one probe to the next in {} of all within {window}",
                    percent(*share)
                )
            }
            Cause::DeadFlows(flows) => flows.fmt(f),
            Cause::ClockWrong { delay, peer } => {
                write!(
                    f,
                    "measured delay {} is impossible: the clock of {peer} or of this host is wrong",
                    readable(*delay)
                )
            }
            Cause::NotSent(text) | Cause::Config(text) | Cause::LocalClock(text) => f.write_str(text),
            Cause::UnknownPacket { source, reason } => write!(f, "{reason} from {source}"),
            Cause::Shared(shared) => shared.fmt(f),
        }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.down == self.of {
            true => write!(f, "all {} tests ", self.of)?,
            false => write!(f, "{} of {} tests ", self.down, self.of)?,
        }
        match &self.what {
            Subject::Host(host) => write!(f, "from host {host}")?,
            Subject::Listener(addr) => write!(f, "at the listener {addr}")?,
            Subject::Tag(tag) => write!(f, "tagged {tag}")?,
            Subject::Agent
            | Subject::Store
            | Subject::Test(_)
            | Subject::Source(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Answers(_)
            | Subject::Web(_) => f.write_str("that end on this host")?,
        }
        f.write_str(" went down together")?;
        if !self.example.is_empty() {
            write!(f, ", among them \"{}\"", self.example)?;
        }
        Ok(())
    }
}

fn percent(share: f64) -> String {
    let percent = format!("{:.1}", share * 100.0);
    format!("{} %", percent.trim_end_matches(".0"))
}

fn readable(delay: Delay) -> String {
    let milliseconds = delay.seconds() * 1e3;
    if delay.uncertainty.is_zero() {
        return format!("{milliseconds:.3} ms");
    }
    format!("{milliseconds:.3} ms (± {:.3} ms)", delay.uncertainty.as_secs_f64() * 1e3)
}

/// In JSON and logs: seconds.
impl Serialize for Delay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(seconds(self.nanos))
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
    /// Down.
    Violated(Cause),
    /// Up.
    Cleared,
}

/// A condition outside any test (a document, an address, a stranger's datagrams).
pub fn condition_change(key: AlarmKey, reporter: Subject, at: Now, verdict: Verdict) -> ConditionChange {
    ConditionChange { key, reporter, at, verdict, test: None }
}
