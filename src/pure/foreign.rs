//! Datagrams that belong to no test: counted per source, told once.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::time::{Moment, Now};

/// Sources beyond this many are counted together, so that forged ones cost no memory.
pub const MAX_SOURCES: usize = 256;
/// The alarm clears after so long without any. A patient stranger makes one alarm, not one each time.
pub const QUIET: Duration = Duration::from_secs(4 * 3600);
/// A change of the documents travels through the fleet within this. Until then, sound probes of a
/// test that is not known here are normal, and so are probes at the pace of before.
pub const ROLL_OUT_GRACE: Duration = Duration::from_secs(30);

/// What was wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Neither a probe of ours nor of the original.
    NotAProbe,
    /// A probe of ours whose fields contradict each other.
    Corrupt,
    /// A probe in a version that this agent does not know.
    UnknownVersion,
    /// A STAMP or TWAMP-Test packet without our extension.
    PlainStamp,
    /// A sound probe of a test that is not received here.
    UnknownTest,
    /// An unsigned probe of a test whose probes are signed, or one whose signature is wrong.
    BadSignature,
    /// The original's probe, naming another host than the test's `from_host`.
    WrongHost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotAProbe => "a datagram that is no probe",
            Reason::Corrupt => "a corrupt probe",
            Reason::UnknownVersion => "a probe of an unknown version",
            Reason::PlainStamp => "a plain STAMP packet",
            Reason::UnknownTest => "a probe of a test that is not received here",
            Reason::BadSignature => "a probe that is not signed as its test wants it",
            Reason::WrongHost => "a probe that names another host than its test",
        })
    }
}

/// What came from one source address.
#[derive(Clone, Debug, Serialize)]
pub struct SourceCount {
    /// Datagrams.
    pub packets: u64,
    /// What was wrong with the last one.
    pub last_reason: Reason,
}

/// The strangers at one listener.
#[derive(Clone, Debug)]
pub struct ForeignTraffic {
    listener: Subject,
    sources: HashMap<IpAddr, SourceCount>,
    total: u64,
    unknown_tests_since: Option<Moment>,
    last: Moment,
    raised: Option<Cause>,
    /// Whether anything was said yet. The first quiet time is said too: an earlier run of this agent
    /// may have raised the alarm.
    settled: bool,
}

impl ForeignTraffic {
    /// For the listener at this address.
    pub fn new(listener: Subject, now: Now) -> Self {
        ForeignTraffic {
            listener,
            sources: HashMap::new(),
            total: 0,
            unknown_tests_since: None,
            last: now.moment,
            raised: None,
            settled: false,
        }
    }

    /// A stranger's datagram.
    pub fn on_foreign(&mut self, source: SocketAddr, reason: Reason, now: Now) -> Option<ConditionChange> {
        self.total += 1;
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&source.ip()) {
            let count = self.sources.entry(source.ip()).or_insert(SourceCount { packets: 0, last_reason: reason });
            count.packets += 1;
            count.last_reason = reason;
        }
        if reason == Reason::UnknownTest {
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

    /// Time has passed.
    pub fn on_quiet(&mut self, now: Now) -> Option<ConditionChange> {
        if self.next_deadline()? > now.moment {
            return None;
        }
        self.settled = true;
        self.raised = None;
        self.unknown_tests_since = None;
        Some(self.change(Verdict::Cleared, now))
    }

    /// When `on_quiet` wants to be called, if at all.
    pub fn next_deadline(&self) -> Option<Moment> {
        (self.raised.is_some() || !self.settled).then(|| self.last + QUIET)
    }

    /// Says it once more, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> Option<ConditionChange> {
        match &self.raised {
            Some(cause) => Some(self.change(Verdict::Violated(cause.clone()), now)),
            None if self.settled => Some(self.change(Verdict::Cleared, now)),
            None => None,
        }
    }

    /// Datagrams in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// By source address, the busiest first, `most` at most.
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
    fn ten_thousand_strangers_make_one_alarm_in_bounded_memory() {
        let mut traffic = ForeignTraffic::new(Subject::Listener("a".into()), at(0));
        let changes = (0..10_000).filter_map(|n| traffic.on_foreign(source(n), Reason::NotAProbe, at(1))).count();
        assert_eq!(changes, 1);
        assert_eq!(traffic.total(), 10_000);
        assert_eq!(traffic.sources.len(), MAX_SOURCES);
    }

    #[test]
    fn clears_once_after_quiet() {
        let mut traffic = ForeignTraffic::new(Subject::Listener("a".into()), at(0));
        traffic.on_foreign(source(1), Reason::NotAProbe, at(1));
        traffic.on_foreign(source(1), Reason::NotAProbe, at(100));
        assert_eq!(traffic.on_quiet(at(14_499)), None);
        assert_eq!(traffic.next_deadline(), Some(at(14_500).moment));
        assert!(matches!(traffic.on_quiet(at(14_500)), Some(ConditionChange { verdict: Verdict::Cleared, .. })));
        assert_eq!(traffic.on_quiet(at(80_000)), None);
        assert_eq!(traffic.next_deadline(), None);
    }

    #[test]
    fn a_quiet_start_is_said_once() {
        let mut traffic = ForeignTraffic::new(Subject::Listener("a".into()), at(10));
        assert_eq!(traffic.next_deadline(), Some(at(14_410).moment));
        assert!(traffic.on_quiet(at(14_410)).is_some());
        assert_eq!(traffic.on_quiet(at(90_000)), None);
    }

    #[test]
    fn an_unknown_test_is_strange_only_when_it_lasts() {
        let mut traffic = ForeignTraffic::new(Subject::Listener("a".into()), at(0));
        for second in 100..130 {
            assert_eq!(traffic.on_foreign(source(1), Reason::UnknownTest, at(second)), None);
        }
        assert!(traffic.on_foreign(source(1), Reason::UnknownTest, at(130)).is_some());
        // Much later, another roll-out has its own grace.
        assert!(traffic.on_quiet(at(20_000)).is_some());
        assert_eq!(traffic.on_foreign(source(1), Reason::UnknownTest, at(20_001)), None);
    }

    /// A stranger sends a packet each 301 s for a day.
    #[test]
    fn patient_stranger_makes_one_alarm_a_day() {
        let mut traffic = ForeignTraffic::new(Subject::Listener("a".into()), at(0));
        let mut changes = 0;
        for second in 0..86_400 {
            if second % 301 == 0 {
                changes += usize::from(traffic.on_foreign(source(1), Reason::NotAProbe, at(second)).is_some());
            }
            changes += usize::from(traffic.on_quiet(at(second)).is_some());
        }
        assert_eq!(changes, 1);
    }
}
