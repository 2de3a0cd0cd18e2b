//! Unknown packets: datagrams that belong to no test.
//!
//! [`UnknownPackets`] counts them per source address and raises one alarm condition per listener, however many
//! packets arrive.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Moment, Now};

/// Maximum number of source addresses that are counted individually. Packets from further sources are counted in the
/// total only, so that forged addresses cannot exhaust memory.
pub const MAX_SOURCES: usize = 256;
/// Time without unknown packets after which the alarm is cleared. A source that sends rarely then causes one alarm,
/// rather than one per packet.
pub const QUIET: Duration = Duration::from_secs(4 * 3600);
/// Time within which a configuration change reaches every host. Until it has passed, valid probes of a test that is
/// unknown here are normal, and so are probes at the previous send interval.
pub const ROLL_OUT_GRACE: Duration = Duration::from_secs(30);

/// Reason why a datagram was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The datagram is neither a STAMP packet nor a probe of the original agent.
    NotAProbe,
    /// The packet carries the private-use TLV of this project, but its fields contradict each other.
    Corrupt,
    /// The probe has a protocol version that this agent does not support.
    UnknownVersion,
    /// The packet is a STAMP or TWAMP-Test packet without the private-use TLV of this project.
    PlainStamp,
    /// The probe is valid, but its test is not received on this host.
    UnknownTest,
    /// The probe is unsigned although its test requires signatures, or its signature is wrong.
    BadSignature,
    /// The probe of the original agent names a host that is neither the sender nor the receiver of its test.
    WrongHost,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectReason::NotAProbe => "a datagram that is not a probe",
            RejectReason::Corrupt => "a corrupt probe",
            RejectReason::UnknownVersion => "a probe of an unknown version",
            RejectReason::PlainStamp => "a plain STAMP packet",
            RejectReason::UnknownTest => "a probe of a test that this host does not receive",
            RejectReason::BadSignature => "a probe that is not signed as its test requires",
            RejectReason::WrongHost => "a probe that names a host other than its test's",
        })
    }
}

/// Packet counter of one source address.
#[derive(Clone, Debug, Serialize)]
pub struct SourceCount {
    /// Number of datagrams received from this source.
    pub packets: u64,
    /// Reason for the rejection of the most recent datagram.
    pub last_reason: RejectReason,
}

/// Counters and alarm condition for the unknown packets at one listener.
#[derive(Clone, Debug)]
pub struct UnknownPackets {
    listener: Subject,
    sources: HashMap<IpAddr, SourceCount>,
    total: u64,
    unknown_tests_since: Option<Moment>,
    last: Moment,
    raised: Option<Cause>,
    /// True once a state has been reported. The first quiet period is reported too, because a previous run of this
    /// agent may have raised the alarm.
    settled: bool,
}

impl UnknownPackets {
    /// Creates the state for the given listener, without any packets.
    pub fn new(listener: Subject, now: Now) -> Self {
        UnknownPackets {
            listener,
            sources: HashMap::new(),
            total: 0,
            unknown_tests_since: None,
            last: now.moment,
            raised: None,
            settled: false,
        }
    }

    /// Counts an unknown packet and returns a violation if this packet raises the alarm.
    pub fn on_foreign(&mut self, source: SocketAddr, reason: RejectReason, now: Now) -> Option<ConditionChange> {
        self.total += 1;
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&source.ip()) {
            let count = self.sources.entry(source.ip()).or_insert(SourceCount { packets: 0, last_reason: reason });
            count.packets += 1;
            count.last_reason = reason;
        }
        if reason == RejectReason::UnknownTest {
            if now.moment.since(self.last) > ROLL_OUT_GRACE {
                self.unknown_tests_since = None;
            }
            let since = *self.unknown_tests_since.get_or_insert(now.moment);
            if now.moment.since(since) < ROLL_OUT_GRACE {
                if self.raised.is_none() {
                    self.last = now.moment;
                }
                return None;
            }
        }
        self.last = now.moment;
        if self.raised.is_some() {
            return None;
        }
        let cause = Cause::UnknownPacket { source: source.to_string(), reason: reason.to_string() };
        self.raised = Some(cause.clone());
        Some(self.change(Verdict::Violated(cause), now))
    }

    /// Clears the alarm if no unknown packet has arrived for [`QUIET`]. Call at `next_deadline`.
    pub fn on_quiet(&mut self, now: Now) -> Option<ConditionChange> {
        if self.next_deadline()? > now.moment {
            return None;
        }
        self.settled = true;
        self.raised = None;
        self.unknown_tests_since = None;
        Some(self.change(Verdict::Cleared, now))
    }

    /// Returns the time at which `on_quiet` has to be called, or `None` if the alarm is cleared and that has been
    /// reported.
    pub fn next_deadline(&self) -> Option<Moment> {
        (self.raised.is_some() || !self.settled).then(|| self.last + QUIET)
    }

    /// Returns the current state of the condition, for an alarm actor that has just started.
    pub fn report(&self, now: Now) -> Option<ConditionChange> {
        match &self.raised {
            Some(cause) => Some(self.change(Verdict::Violated(cause.clone()), now)),
            None if self.settled => Some(self.change(Verdict::Cleared, now)),
            None => None,
        }
    }

    /// Returns the total number of unknown packets from all sources.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns at most `most` source addresses, in descending order of packets.
    pub fn busiest(&self, most: usize) -> Vec<(IpAddr, SourceCount)> {
        let mut sources: Vec<_> = self.sources.iter().map(|(source, count)| (*source, count.clone())).collect();
        sources.sort_by_key(|(source, count)| (std::cmp::Reverse(count.packets), *source));
        sources.truncate(most);
        sources
    }

    fn change(&self, verdict: Verdict, now: Now) -> ConditionChange {
        condition_change(AlarmKey::new(Kind::UnknownPacket, Subject::Agent), self.listener.clone(), now, verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { moment: Moment::new(Duration::from_secs(seconds)), ..Now::default() }
    }

    fn source(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4000 + n))
    }

    #[test]
    fn ten_thousand_sources_cause_one_alarm_in_bounded_memory() {
        let mut traffic = UnknownPackets::new(Subject::Listener(([127, 0, 0, 1], 8620).into()), at(0));
        let changes = (0..10_000).filter_map(|n| traffic.on_foreign(source(n), RejectReason::NotAProbe, at(1))).count();
        assert_eq!(changes, 1);
        assert_eq!(traffic.total(), 10_000);
        assert_eq!(traffic.sources.len(), MAX_SOURCES);
    }

    #[test]
    fn alarm_is_cleared_once_after_the_quiet_period() {
        let mut traffic = UnknownPackets::new(Subject::Listener(([127, 0, 0, 1], 8620).into()), at(0));
        traffic.on_foreign(source(1), RejectReason::NotAProbe, at(1));
        traffic.on_foreign(source(1), RejectReason::NotAProbe, at(100));
        assert_eq!(traffic.on_quiet(at(14_499)), None);
        assert_eq!(traffic.next_deadline(), Some(at(14_500).moment));
        assert!(matches!(traffic.on_quiet(at(14_500)), Some(ConditionChange { verdict: Verdict::Cleared, .. })));
        assert_eq!(traffic.on_quiet(at(80_000)), None);
        assert_eq!(traffic.next_deadline(), None);
    }

    #[test]
    fn quiet_start_is_reported_once() {
        let mut traffic = UnknownPackets::new(Subject::Listener(([127, 0, 0, 1], 8620).into()), at(10));
        assert_eq!(traffic.next_deadline(), Some(at(14_410).moment));
        assert!(traffic.on_quiet(at(14_410)).is_some());
        assert_eq!(traffic.on_quiet(at(90_000)), None);
    }

    #[test]
    fn unknown_test_is_reported_only_after_the_roll_out_grace() {
        let mut traffic = UnknownPackets::new(Subject::Listener(([127, 0, 0, 1], 8620).into()), at(0));
        for second in 100..130 {
            assert_eq!(traffic.on_foreign(source(1), RejectReason::UnknownTest, at(second)), None);
        }
        assert!(traffic.on_foreign(source(1), RejectReason::UnknownTest, at(130)).is_some());
        // A later configuration change has a grace period of its own.
        assert!(traffic.on_quiet(at(20_000)).is_some());
        assert_eq!(traffic.on_foreign(source(1), RejectReason::UnknownTest, at(20_001)), None);
    }

    /// A single source sends a packet every 301 s for a day.
    #[test]
    fn source_that_sends_every_301_s_causes_one_alarm_a_day() {
        let mut traffic = UnknownPackets::new(Subject::Listener(([127, 0, 0, 1], 8620).into()), at(0));
        let mut changes = 0;
        for second in 0..86_400 {
            if second % 301 == 0 {
                changes += usize::from(traffic.on_foreign(source(1), RejectReason::NotAProbe, at(second)).is_some());
            }
            changes += usize::from(traffic.on_quiet(at(second)).is_some());
        }
        assert_eq!(changes, 1);
    }
}
