//! Causes of violated conditions, as values, and their human-readable texts.
//!
//! A [`Cause`] carries the measured figures and limits; each receiver renders it to text.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::alarm::key::{Kind, Subject};
use crate::pure::base::time::{WallTime, seconds};
use crate::pure::clock::error_estimate::Delay;
use crate::pure::stamp::flows::DeadFlows;
use crate::pure::test::id::TestId;

/// Cause of a violated condition, with the measured value and the limit that it exceeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Timeout: the expected probes, or replies to probes, have not arrived.
    Silence(NoProbe),
    /// Delay that exceeds `max_latency` beyond the uncertainty of the clocks.
    Late {
        /// Measured delay, with the uncertainty of both clocks.
        delay: Delay,
        /// Configured limit that the measured delay exceeded.
        max_latency: Duration,
        /// Direction in which the delay was measured.
        direction: Direction,
    },
    /// Delay that exceeds the test's own baseline by more than `max_latency_above_baseline`.
    AboveBaseline {
        /// Excess of the measured delay over the baseline, in nanoseconds.
        above: i64,
        /// Configured limit (`max_latency_above_baseline`) that the excess is above.
        limit: Duration,
    },
    /// Probe loss above `max_loss`, or not yet low enough after it to clear the alarm.
    Loss {
        /// Share of probes lost within the window, between 0 and 1.
        share: f64,
        /// Configured limit of the share, between 0 and 1.
        max_loss: f64,
        /// Length of the sliding window over which the loss is measured.
        loss_window: Duration,
        /// Datagrams that this host's kernel has dropped since the last probe because the socket buffer was full.
        dropped: u64,
    },
    /// Delay variation above `max_jitter` between consecutive probes, too often within the window.
    Jitter {
        /// Share of delay variations within the window that exceeded `max_jitter`, between 0 and 1.
        share: f64,
        /// Configured limit of the delay difference between two consecutive probes.
        max_jitter: Duration,
        /// Length of the sliding window over which the variation is measured.
        loss_window: Duration,
    },
    /// Dead flows: probes on some of a test's flows stopped arriving while others continue.
    DeadFlows(DeadFlows),
    /// Clock fault at one end: a delay that is impossible on any path, or a jump of the clock offset.
    ClockWrong {
        /// Measured delay, or the change of the offset, that proves the clock fault.
        delay: Delay,
        /// Name of the host at the other end, whose clock may be the wrong one.
        peer: String,
    },
    /// Fault of the local clock, as a human-readable description.
    LocalClock(String),
    /// Send failure: the operating system refused a probe, or the path returned an ICMP error.
    NotSent(String),
    /// A probe of a target failed, for this reason.
    ProbeFailed(String),
    /// Configuration fault, as a human-readable description.
    Config(String),
    /// Group fault: alarms that have something in common were raised together.
    Shared(GroupFault),
    /// Datagrams from a source that belong to no configured test.
    UnknownPacket {
        /// Source address of one of the senders of such datagrams.
        source: String,
        /// Reason for which the last datagram was not accepted as a probe.
        reason: String,
    },
    /// Storm: so many alarms are pending for a receiver that only their number is notified.
    Storm(StormCounts),
}

/// Direction in which a delay was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Delay on the way from the session sender to the receiver.
    Forward,
    /// Delay on the way back, from the reflector to the session sender.
    Backward,
    /// Round-trip delay, from the session sender to the reflector and back.
    RoundTrip,
}

/// Details of a timeout: when the last probe arrived and which interval was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoProbe {
    /// Time between the last probe, or the start of the test, and the missed deadline that counts here.
    pub silent_for: Duration,
    /// Arrival of the last probe by the wall clock; `None` if no probe has arrived yet.
    pub last_probe: Option<WallTime>,
    /// Longest interval within which at least one probe is expected.
    pub expect_every: Duration,
    /// True if the last probe announced that its sender was about to stop on purpose.
    pub announced_stop: bool,
    /// Datagrams that this host's kernel has dropped since the last probe because the socket buffer was full.
    pub dropped: u64,
    /// True if replies at the sender are missing, rather than probes at the receiver.
    pub answers: bool,
}

/// Group of alarms of one kind that were raised together, and the subject that they have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupFault {
    /// Kind of the grouped alarms, such as `connection` or `sender`.
    pub kind: Kind,
    /// Subject that the members share, such as a host, a listener or a tag.
    pub subject: Subject,
    /// Number of members that are down at present.
    pub down: u64,
    /// Number of members that count, without those in maintenance or silenced.
    pub total: u64,
    /// Direction of the members as seen from this host.
    pub direction: GroupDirection,
    /// First test that is down; `None` for a group that does not consist of tests.
    pub first: Option<TestId>,
    /// Human-readable description of one member that is down, named in the text as an example.
    pub example: String,
    /// True if the sender of every member announced its stop, so that the fault is planned work.
    pub announced_stop: bool,
}

/// Direction of the tests of a group, as seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupDirection {
    /// All tests end on this host, which judges the probes that arrive.
    From,
    /// All tests start on this host, which judges the replies, the results, or whether its probes can be sent.
    To,
    /// Some tests start on this host, and some end on it.
    Both,
}

impl GroupDirection {
    /// Returns the direction of two sets of tests together.
    pub fn join(self, other: GroupDirection) -> GroupDirection {
        if self == other { self } else { GroupDirection::Both }
    }
}

/// Alarms that a receiver is not notified of one by one during a storm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StormCounts {
    /// Number of alarms that are pending for the receiver.
    pub pending: u64,
    /// Number of alarms of tests that are raised, whether the receiver was notified of them or not.
    pub raised: u64,
    /// Time since the storm began, in whole seconds; zero in the first summary.
    pub lasted: Duration,
}

/// Suffix of alarm texts when the sender announced its stop on purpose.
pub const ANNOUNCED_STOP: &str = "; the sender announced its stop";

impl Cause {
    /// Returns the measured delay; `None` for causes that do not concern a delay.
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
            | Cause::ProbeFailed(_)
            | Cause::Config(_)
            | Cause::Shared(_)
            | Cause::Storm(_)
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
                    Direction::Backward => "return delay",
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
            Cause::NotSent(text) | Cause::ProbeFailed(text) | Cause::Config(text) | Cause::LocalClock(text) => {
                f.write_str(text)
            }
            Cause::UnknownPacket { source, reason } => write!(f, "{reason} from {source}"),
            Cause::Shared(shared) => shared.fmt(f),
            Cause::Storm(StormCounts { pending, raised, lasted }) if lasted.is_zero() => write!(
                f,
                "{pending} alarms are pending, {raised} raised; they are notified one by one when the storm ends"
            ),
            Cause::Storm(StormCounts { pending, raised, lasted }) => {
                let lasted = humantime::format_duration(*lasted);
                write!(f, "for {lasted} now: {pending} alarms are pending, {raised} raised")
            }
        }
    }
}

impl fmt::Display for GroupFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject == Subject::Configuration {
            write!(f, "{} configuration faults at once", self.down)?;
            return if self.example.is_empty() { Ok(()) } else { write!(f, ", among them {}", self.example) };
        }
        match (self.down == self.total, self.total) {
            (true, of) => write!(f, "all {of} tests ")?,
            (false, of) => write!(f, "{} of {of} tests ", self.down)?,
        }
        match (&self.subject, self.direction) {
            (Subject::Host(host), GroupDirection::From) => write!(f, "from host {host}")?,
            (Subject::Host(host), GroupDirection::To) => write!(f, "to host {host}")?,
            (Subject::Host(host), GroupDirection::Both) => write!(f, "from and to host {host}")?,
            (Subject::Listener(addr), _) => write!(f, "at the listener {addr}")?,
            (Subject::Tag(tag), _) => write!(f, "tagged {tag}")?,
            (
                Subject::Agent
                | Subject::Store
                | Subject::Test(_)
                | Subject::Source(_)
                | Subject::Name(_)
                | Subject::Document(_)
                | Subject::Answers(_)
                | Subject::Configuration
                | Subject::Web(_),
                direction,
            ) => f.write_str(match direction {
                GroupDirection::From => "that end on this host",
                GroupDirection::To => "that start on this host",
                GroupDirection::Both => "that start or end on this host",
            })?,
        }
        f.write_str(if self.kind == Kind::Sender { " cannot be sent" } else { " went down together" })?;
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
