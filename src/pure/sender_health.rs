//! Whether the probes of one test can leave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict};
use super::condition::{Change, Condition, Sample, State, Thresholds};
use super::test::TestFacts;
use super::time::{Moment, Now};

/// Routers and hosts limit their ICMP errors to about one a second, whatever the probe rate, so
/// the absence of an error right after one says nothing yet.
pub const ERROR_LINGERS: Duration = Duration::from_secs(3);

/// Judges each slot by what the previous probe met.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct SenderHealth {
    /// A slot changes nothing: the probes before it left, and no error is near. Stands first, since of very
    /// many tests nothing else is looked at.
    is_calm: bool,
    test: Arc<TestFacts>,
    thresholds: Thresholds,
    condition: Condition,
    /// Boxed: most senders are well.
    cause: Option<Box<Cause>>,
    /// An error since the last slot.
    pending: Option<String>,
    last_error: Option<(Moment, String)>,
    /// Until then the other end may not yet know of the test, or of its new place.
    forgiven_until: Moment,
    /// The last error that was forgiven, and whether it came since the last slot.
    forgiven: Option<(Moment, bool)>,
    sent_once: bool,
}

impl SenderHealth {
    /// For a test that begins; what its path says is forgiven until then.
    pub fn new(test: Arc<TestFacts>, thresholds: Thresholds, forgiven_until: Moment) -> Self {
        SenderHealth {
            is_calm: false,
            test,
            thresholds,
            condition: Condition::default(),
            cause: None,
            pending: None,
            last_error: None,
            forgiven_until,
            forgiven: None,
            sent_once: false,
        }
    }

    /// The test's document changed.
    pub fn on_plan(&mut self, test: Arc<TestFacts>, thresholds: Thresholds) {
        self.test = test;
        self.thresholds = thresholds;
        self.is_calm = false;
    }

    /// Handles a change of the destination: path errors are ignored until `forgiven_until`. An alarm about the former
    /// path stands, with a text that says so, until the new path has been tried.
    pub fn on_moved(&mut self, destination: SocketAddr, forgiven_until: Moment, now: Now) -> Option<ConditionChange> {
        self.forgiven_until = forgiven_until;
        self.pending = None;
        self.is_calm = false;
        let Some(Cause::NotSent(before)) = self.cause.as_deref().filter(|_| self.condition.is_down()) else {
            return None;
        };
        let cause =
            Cause::NotSent(format!("{before}; probes go to {destination} now, and nothing is known of that yet"));
        self.cause = Some(Box::new(cause.clone()));
        Some(self.change(Verdict::Violated(cause), now))
    }

    /// The receiver announced that it stops: what its path says is forgiven until then.
    pub fn on_announced_stop(&mut self, forgiven_until: Moment) {
        self.forgiven_until = self.forgiven_until.max(forgiven_until);
        self.pending = None;
        // Errors of the last moment may be its closing ports.
        self.last_error = None;
        self.is_calm = false;
    }

    /// An ICMP error came back for a probe.
    pub fn on_path_error(&mut self, cause: String, now: Now) {
        match now.moment >= self.forgiven_until {
            true => self.on_error(cause, now),
            false => (self.forgiven, self.is_calm) = (Some((now.moment, true)), false),
        }
    }

    /// The operating system refused a probe.
    pub fn on_error(&mut self, cause: String, now: Now) {
        self.last_error = Some((now.moment, cause.clone()));
        self.pending = Some(cause);
        self.is_calm = false;
    }

    /// A slot begins: the probe before this one is judged.
    pub fn on_slot(&mut self, now: Now) -> Option<ConditionChange> {
        if self.is_calm {
            return None;
        }
        let first = !std::mem::replace(&mut self.sent_once, true);
        // What was forgiven is no bad sample, and no good one.
        if let Some((at, since)) = &mut self.forgiven
            && (std::mem::take(since) || now.moment.since(*at) < ERROR_LINGERS)
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
            (None, Some((at, _))) if now.moment.since(*at) < ERROR_LINGERS => return None,
            (None, _) if first => return None,
            (None, _) => Sample::Good,
        };
        let change = self.condition.on_sample(sample, self.thresholds, now);
        // Whatever lay in the way of that has passed.
        self.is_calm = sample == Sample::Good && self.condition.is_calm();
        let Some(change) = change else {
            return other.map(|cause| self.change(Verdict::Violated(cause), now));
        };
        match change {
            Change::Raised => Some(self.change(Verdict::Violated(*self.cause.clone()?), now)),
            Change::Cleared => {
                self.cause = None;
                Some(self.change(Verdict::Cleared, now))
            }
            Change::Suspected | Change::Relieved => None,
        }
    }

    /// Says it once more, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> Option<ConditionChange> {
        let verdict = match (self.condition.state(), &self.cause) {
            (State::Unknown | State::Standby, _) => return None,
            (State::Down | State::Recovering, Some(cause)) => Verdict::Violated(cause.as_ref().clone()),
            (_, _) if !self.condition.is_settled() => return None,
            (State::Up | State::Suspect | State::Paused | State::Down | State::Recovering, _) => Verdict::Cleared,
        };
        Some(self.change(verdict, now))
    }

    /// Where it stands.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// The last error, for the status page.
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
    use crate::pure::test::TestId;

    fn at(millis: u64) -> Now {
        Now { moment: Moment::new(Duration::from_millis(millis)), ..Now::default() }
    }

    fn health() -> SenderHealth {
        let test = TestFacts::example(TestId::from_bytes([1; 16]));
        SenderHealth::new(Arc::new(test), Thresholds::in_a_row(3, 3), Moment::ZERO)
    }

    /// ICMP errors come once a second, probes ten times: still one raise and, after it heals, one clear.
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

    /// The other end may not know of the test yet: that is neither bad news nor good.
    #[test]
    fn forgiven_errors_say_nothing() {
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

    /// The receiver's host is stopped on purpose, and comes back: its closed port is no alarm.
    #[test]
    fn announced_stop_of_the_receiver_is_forgiven_for_its_pause_and_no_longer() {
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
    fn a_healthy_sender_says_so_once() {
        let mut health = health();
        let changes: Vec<_> = (0..50).filter_map(|slot| health.on_slot(at(slot * 100))).collect();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].verdict, Verdict::Cleared);
    }
}
