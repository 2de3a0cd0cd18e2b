//! Faults that one actor finds, compared with those reported before so that only differences are reported.
//!
//! [`Faults`] reports each fault once when it occurs, or when its cause changes, and once when it is gone. A fault that
//! may resolve itself is reported only after it has lasted for its `patience`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::key::AlarmKey;
use crate::pure::base::time::{Moment, Now};

/// Faults that were reported, and those that have not yet lasted long enough to be reported.
#[derive(Debug, Default)]
pub struct Faults {
    reported: BTreeMap<AlarmKey, Cause>,
    /// Faults that may resolve themselves, with the moment at which each is reported if it still persists.
    pending: BTreeMap<AlarmKey, Moment>,
}

impl Faults {
    /// Takes the present faults and returns the changes to report. A fault is reported once it has lasted for its
    /// `patience`.
    pub fn on_faults(
        &mut self,
        faults: BTreeMap<AlarmKey, Cause>,
        patience: impl Fn(&AlarmKey) -> Duration,
        now: Now,
    ) -> Vec<ConditionChange> {
        self.pending.retain(|key, _| faults.contains_key(key));
        let mut changes = Vec::new();
        let mut reported = BTreeMap::new();
        for (key, cause) in faults {
            match self.reported.remove(&key) {
                // Report a changed cause too, so that the alarm text shows the current cause.
                Some(before) if before == cause => {}
                Some(_) => changes.push(change_of(&key, Verdict::Violated(cause.clone()), now)),
                None => {
                    let at = *self.pending.entry(key.clone()).or_insert_with(|| now.moment + patience(&key));
                    if at > now.moment {
                        continue;
                    }
                    self.pending.remove(&key);
                    changes.push(change_of(&key, Verdict::Violated(cause.clone()), now));
                }
            }
            reported.insert(key, cause);
        }
        changes.extend(self.reported.keys().map(|key| change_of(key, Verdict::Cleared, now)));
        self.reported = reported;
        changes
    }

    /// Returns the moment at which the next pending fault becomes due for a report; `None` if none is pending.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.pending.values().min().copied()
    }

    /// Sets or removes a single fault without delay, and returns the changes to report.
    pub fn on_fault(&mut self, key: AlarmKey, cause: Option<Cause>, now: Now) -> Vec<ConditionChange> {
        let mut faults = self.reported.clone();
        match cause {
            Some(cause) => faults.insert(key, cause),
            None => faults.remove(&key),
        };
        self.on_faults(faults, |_| Duration::ZERO, now)
    }

    /// Returns all reported faults again, for an alarm actor that has just started and holds no state.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        self.reported.iter().map(|(key, cause)| change_of(key, Verdict::Violated(cause.clone()), now)).collect()
    }

    /// Returns the keys of the alarms that correspond to the reported faults.
    pub fn keys(&self) -> impl Iterator<Item = &AlarmKey> {
        self.reported.keys()
    }
}

/// Builds the change of one fault, with the fault's subject as its own reporter.
fn change_of(key: &AlarmKey, verdict: Verdict, now: Now) -> ConditionChange {
    condition_change(key.clone(), key.subject.clone(), now, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::key::{Kind, Subject};

    fn fault(name: &str) -> (AlarmKey, Cause) {
        (AlarmKey::new(Kind::Config, Subject::Name(name.into())), Cause::Config(name.into()))
    }

    fn reported(changes: &[ConditionChange]) -> Vec<(String, bool)> {
        let raised = |change: &ConditionChange| change.verdict != Verdict::Cleared;
        changes.iter().map(|change| (change.key.subject.to_string(), raised(change))).collect()
    }

    /// A store that is away for a second is not reported; one that stays away for its patience is.
    #[test]
    fn fault_is_reported_after_it_has_lasted_for_its_patience() {
        let at = |seconds: u64| Now { moment: Moment::new(Duration::from_secs(seconds)), ..Now::default() };
        let minute = |_: &AlarmKey| Duration::from_secs(60);
        let away = || BTreeMap::from([fault("store")]);
        let mut faults = Faults::default();
        assert_eq!(faults.on_faults(away(), minute, at(0)), []);
        assert_eq!(faults.next_deadline(), Some(at(60).moment));
        assert_eq!(faults.on_faults(BTreeMap::new(), minute, at(1)), []);
        assert_eq!(faults.next_deadline(), None);
        assert_eq!(faults.on_faults(away(), minute, at(100)), []);
        assert_eq!(faults.on_faults(away(), minute, at(159)), []);
        assert_eq!(reported(&faults.on_faults(away(), minute, at(160))), [("name store".into(), true)]);
        assert_eq!(faults.next_deadline(), None);
        assert_eq!(reported(&faults.on_faults(BTreeMap::new(), minute, at(200))), [("name store".into(), false)]);
    }

    #[test]
    fn only_differences_between_fault_sets_are_reported() {
        let mut faults = Faults::default();
        let both = BTreeMap::from([fault("a"), fault("b")]);
        let changes = faults.on_faults(both.clone(), |_| Duration::ZERO, Now::default());
        assert_eq!(reported(&changes), [("name a".into(), true), ("name b".into(), true)]);
        assert_eq!(faults.on_faults(both, |_| Duration::ZERO, Now::default()), []);
        let changes = faults.on_faults(BTreeMap::from([fault("b"), fault("c")]), |_| Duration::ZERO, Now::default());
        assert_eq!(reported(&changes), [("name c".into(), true), ("name a".into(), false)]);
        assert_eq!(faults.on_fault(fault("b").0, None, Now::default()).len(), 1);
        assert_eq!(reported(&faults.report(Now::default())), [("name c".into(), true)]);
    }
}
