//! Why a condition is bad, in words.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Kind, Subject};
use crate::pure::clock_error::Delay;
use crate::pure::flows::DeadFlows;
use crate::pure::test::TestId;
use crate::pure::time::{WallTime, seconds};

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

/// Alarms of one kind that were raised together, and what they have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The kind of their alarms.
    pub kind: Kind,
    /// What they share.
    pub what: Subject,
    /// How many of them are down.
    pub down: u64,
    /// How many there are.
    pub of: u64,
    /// The first of the tests that are down, if the group is one of tests.
    pub first: Option<TestId>,
    /// The same, for people.
    pub example: String,
    /// The sender of each of them announced its stop.
    pub announced_stop: bool,
}

/// What is known of a sender that stopped on purpose.
pub const ANNOUNCED_STOP: &str = "; the sender announced its stop";

impl Cause {
    /// The original's failure text, for receivers that match on it.
    pub fn legacy_text(&self) -> String {
        match self {
            Cause::Silence(silence) => {
                // Never "0 seconds", however fast the test is.
                format!("Timeout, no packet received in {} seconds", silence.silent_for.as_secs_f64().ceil().max(1.0))
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
                write!(f, "{} of the probes lost within {window}, ", percent(*share))?;
                match share > max_loss {
                    true => write!(f, "more than {}", percent(*max_loss))?,
                    false => write!(f, "no longer more than {}, but not yet half of that", percent(*max_loss))?,
                }
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
        if self.what == Subject::Configuration {
            write!(f, "{} faults of the configuration at once", self.down)?;
            return if self.example.is_empty() { Ok(()) } else { write!(f, ", among them {}", self.example) };
        }
        match (self.down == self.of, self.of) {
            (true, of) => write!(f, "all {of} tests ")?,
            (false, of) => write!(f, "{} of {of} tests ", self.down)?,
        }
        let sends = self.kind == Kind::Sender;
        match &self.what {
            Subject::Host(host) if sends => write!(f, "to host {host}")?,
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
            | Subject::Configuration
            | Subject::Web(_) => {
                f.write_str(if sends { "that start on this host" } else { "that end on this host" })?
            }
        }
        f.write_str(if sends { " cannot be sent" } else { " went down together" })?;
        if !self.example.is_empty() {
            write!(f, ", among them \"{}\"", self.example)?;
        }
        if self.announced_stop {
            f.write_str(ANNOUNCED_STOP)?;
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
