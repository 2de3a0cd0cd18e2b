//! Condition of one test's sender: whether its probes can leave this host and reach the receiver's port.
//!
//! [`SenderHealth`] collects send errors and ICMP errors, judges each slot by them, and yields the changes of the
//! test's `sender` alarm.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::condition::{Condition, Sample, State, Thresholds, Transition};
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Moment, Now};
use crate::pure::test::facts::TestFacts;

/// Time after an ICMP error during which the absence of further errors does not count as good. Routers and hosts limit
/// their ICMP errors to about one a second, whatever the probe rate.
pub const ERROR_LIFETIME: Duration = Duration::from_secs(3);

/// Send condition of one test; each slot is judged by the errors since the previous slot.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct SenderHealth {
    /// True while a slot changes nothing, because earlier probes left and no error is recent. Must be the first field:
    /// with very many tests, a healthy slot reads only this one.
    is_calm: bool,
    test: Arc<TestFacts>,
    thresholds: Thresholds,
    condition: Condition,
    /// Cause of the last bad slot, boxed because most senders have none.
    cause: Option<Box<Cause>>,
    /// Error that occurred since the last slot and has not been judged yet.
    pending: Option<String>,
    last_error: Option<(Moment, String)>,
    /// Moment until which path errors are ignored, because the receiver may not yet have learnt of the test or its
    /// move.
    no_timeout_before: Moment,
    /// Last path error that was ignored, and whether it arrived since the last slot.
    ignored_error: Option<(Moment, bool)>,
    sent_once: bool,
}

impl SenderHealth {
    /// Creates the condition of a test that starts; path errors are ignored until `no_timeout_before`.
    pub fn new(test: Arc<TestFacts>, thresholds: Thresholds, no_timeout_before: Moment) -> Self {
        SenderHealth {
            is_calm: false,
            test,
            thresholds,
            condition: Condition::default(),
            cause: None,
            pending: None,
            last_error: None,
            no_timeout_before,
            ignored_error: None,
            sent_once: false,
        }
    }

    /// Replaces the test's facts and thresholds after a change of its document.
    pub fn on_plan(&mut self, test: Arc<TestFacts>, thresholds: Thresholds) {
        self.test = test;
        self.thresholds = thresholds;
        self.is_calm = false;
    }

    /// Handles a change of the destination: path errors are ignored until `no_timeout_before`. An alarm about the
    /// former path stays raised, with a text that names the new destination, until the new path has been tried.
    pub fn on_moved(
        &mut self,
        destination: SocketAddr,
        no_timeout_before: Moment,
        now: Now,
    ) -> Option<ConditionChange> {
        self.no_timeout_before = no_timeout_before;
        self.pending = None;
        self.is_calm = false;
        let Some(Cause::NotSent(before)) = self.cause.as_deref().filter(|_| self.condition.is_down()) else {
            return None;
        };
        let cause = Cause::NotSent(format!("{before}; probes now go to {destination}, with no result yet"));
        self.cause = Some(Box::new(cause.clone()));
        Some(self.change(Verdict::Violated(cause), now))
    }

    /// Ignores path errors until `no_timeout_before`, because the receiver announced that it stops.
    pub fn on_announced_stop(&mut self, no_timeout_before: Moment) {
        self.no_timeout_before = self.no_timeout_before.max(no_timeout_before);
        self.pending = None;
        // The latest errors may already result from the receiver closing its ports.
        self.last_error = None;
        self.is_calm = false;
    }

    /// Records an ICMP error for a probe, unless path errors are ignored at present.
    pub fn on_path_error(&mut self, cause: String, now: Now) {
        match now.moment >= self.no_timeout_before {
            true => self.on_error(cause, now),
            false => (self.ignored_error, self.is_calm) = (Some((now.moment, true)), false),
        }
    }

    /// Records that the operating system refused to send a probe.
    pub fn on_error(&mut self, cause: String, now: Now) {
        self.last_error = Some((now.moment, cause.clone()));
        self.pending = Some(cause);
        self.is_calm = false;
    }

    /// Judges the previous probe at the start of a slot and returns the change to report, if any.
    pub fn on_slot(&mut self, now: Now) -> Option<ConditionChange> {
        if self.is_calm {
            return None;
        }
        let first = !std::mem::replace(&mut self.sent_once, true);
        // An ignored error is neither a bad sample nor a good one.
        if let Some((at, since)) = &mut self.ignored_error
            && (std::mem::take(since) || now.moment.since(*at) < ERROR_LIFETIME)
            && self.pending.is_none()
        {
            return None;
        }
        let mut other = None;
        let sample = match (self.pending.take(), &self.last_error) {
            (Some(cause), _) => {
                let cause = Some(Box::new(Cause::NotSent(cause)));
                if cause != self.cause && self.condition.is_down() {
                    other = cause.as_deref().cloned();
                }
                self.cause = cause;
                Sample::Bad
            }
            (None, Some((at, _))) if now.moment.since(*at) < ERROR_LIFETIME => return None,
            (None, _) if first => return None,
            (None, _) => Sample::Good,
        };
        let change = self.condition.on_sample(sample, self.thresholds, now);
        // Errors that could contradict a good sample have expired here.
        self.is_calm = sample == Sample::Good && self.condition.is_steady();
        let Some(change) = change else {
            return other.map(|cause| self.change(Verdict::Violated(cause), now));
        };
        match change {
            Transition::Raised => Some(self.change(Verdict::Violated(*self.cause.clone()?), now)),
            Transition::Cleared => {
                self.cause = None;
                Some(self.change(Verdict::Cleared, now))
            }
            Transition::Suspected | Transition::SuspicionEnded => None,
        }
    }

    /// Returns the current verdict again, for an alarm actor that has just started; `None` while undecided.
    pub fn report(&self, now: Now) -> Option<ConditionChange> {
        let verdict = match (self.condition.state(), &self.cause) {
            (State::Unknown | State::Standby, _) => return None,
            (State::Down | State::Recovering, Some(cause)) => Verdict::Violated(cause.as_ref().clone()),
            (_, _) if !self.condition.is_confirmed() => return None,
            (State::Up | State::Suspect | State::Paused | State::Down | State::Recovering, _) => Verdict::Cleared,
        };
        Some(self.change(verdict, now))
    }

    /// Returns the current send condition, with the time at which it last changed.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Returns the text of the last error, for the status page.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_ref().map(|(_, text)| text.as_str())
    }

    fn change(&self, verdict: Verdict, at: Now) -> ConditionChange {
        let reporter = Subject::Test(self.test.id);
        let key = AlarmKey::new(Kind::Sender, reporter.clone());
        ConditionChange { key, reporter, at, verdict, test: Some(self.test.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::test::id::TestId;

    fn at(millis: u64) -> Now {
        Now { moment: Moment::new(Duration::from_millis(millis)), ..Now::default() }
    }

    fn health() -> SenderHealth {
        let test = TestFacts::example(TestId::from_bytes([1; 16]));
        SenderHealth::new(Arc::new(test), Thresholds::in_a_row(3, 3), Moment::ZERO)
    }

    /// ICMP errors arrive once a second and probes are sent ten times a second: one raise, and one clear after
    /// recovery.
    #[test]
    fn rate_limited_errors_raise_once_and_clear_once() {
        let mut health = health();
        let mut changes = Vec::new();
        for slot in 0..200u64 {
            let now = at(slot * 100);
            if slot % 10 == 3 && slot < 100 {
                health.on_error("port unreachable".into(), now);
            }
            changes.extend(health.on_slot(now).map(|change| (slot, change.verdict)));
        }
        let down = Verdict::Violated(Cause::NotSent("port unreachable".into()));
        // The first error comes at slot 3, the last at slot 93; it lingers for 30 slots.
        assert_eq!(changes, [(23, down), (125, Verdict::Cleared)]);
    }

    /// The receiver may not have received the test's configuration yet, so its port errors are neither bad samples nor
    /// good ones.
    #[test]
    fn path_errors_are_ignored_until_the_grace_ends_and_raise_after_it() {
        let mut health = health();
        let destination = ([127, 0, 0, 3], 8620).into();
        assert_eq!(health.on_moved(destination, at(10_000).moment, at(0)), None);
        let mut changes = Vec::new();
        for slot in 0..200u64 {
            let now = at(slot * 100);
            if slot % 10 == 0 {
                health.on_path_error("port unreachable".into(), now);
            }
            changes.extend(health.on_slot(now).map(|change| (slot, change.verdict)));
        }
        let down = Verdict::Violated(Cause::NotSent("port unreachable".into()));
        assert_eq!(changes, [(120, down)]);
    }

    /// The receiver's host stops on purpose and returns, so its closed port raises no alarm during the announced pause.
    #[test]
    fn path_errors_raise_only_after_the_announced_pause_ends() {
        let mut health = health();
        let mut changes = Vec::new();
        for slot in 0..600u64 {
            let now = at(slot * 100);
            if slot == 50 {
                health.on_announced_stop(at(35_000).moment);
            }
            if slot >= 50 && slot % 10 == 3 {
                health.on_path_error("port unreachable".into(), now);
            }
            changes.extend(health.on_slot(now).map(|change| (slot, change.verdict)));
        }
        let down = Verdict::Violated(Cause::NotSent("port unreachable".into()));
        assert_eq!(changes, [(3, Verdict::Cleared), (373, down)]);
    }

    #[test]
    fn healthy_sender_reports_cleared_once() {
        let mut health = health();
        let changes: Vec<_> = (0..50).filter_map(|slot| health.on_slot(at(slot * 100))).collect();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].verdict, Verdict::Cleared);
    }

    fn not_sent(problem: &str) -> Verdict {
        Verdict::Violated(Cause::NotSent(problem.to_owned()))
    }

    /// Returns a sender whose alarm is raised because a port is unreachable, at 200 ms.
    fn raised() -> SenderHealth {
        let mut health = health();
        for slot in 0..3u64 {
            health.on_error("port unreachable".into(), at(slot * 100));
            let change = health.on_slot(at(slot * 100));
            assert_eq!(change.map(|change| change.verdict), (slot == 2).then(|| not_sent("port unreachable")));
        }
        health
    }

    #[test]
    fn report_is_empty_until_the_condition_is_confirmed() {
        let mut health = health();
        for slot in 0..4 {
            assert_eq!(health.report(at(slot * 100)), None);
            health.on_slot(at(slot * 100));
        }
        assert_eq!(health.report(at(400)).map(|change| change.verdict), Some(Verdict::Cleared));
    }

    #[test]
    fn errors_just_before_the_announced_stop_do_not_count() {
        let mut health = health();
        health.on_error("port unreachable".into(), at(0));
        health.on_slot(at(0));
        health.on_announced_stop(at(60_000).moment);
        let changes = (1..50u64).filter_map(|slot| Some((slot, health.on_slot(at(slot * 100))?.verdict)));
        assert_eq!(changes.collect::<Vec<_>>(), [(3, Verdict::Cleared)]);
    }

    #[test]
    fn text_of_raised_alarm_names_the_new_destination_after_a_move() {
        let destination = ([127, 0, 0, 3], 8620).into();
        let change = raised().on_moved(destination, at(10_000).moment, at(300)).unwrap();
        let text = "port unreachable; probes now go to 127.0.0.3:8620, with no result yet";
        assert_eq!(change.verdict, not_sent(text));
    }

    #[test]
    fn text_of_raised_alarm_follows_another_cause() {
        let mut health = raised();
        health.on_error("no route to host".into(), at(300));
        let change = health.on_slot(at(300)).unwrap();
        assert_eq!(change.verdict, not_sent("no route to host"));
    }
}
