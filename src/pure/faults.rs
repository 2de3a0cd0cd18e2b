//! Faults that one actor finds, said by difference: each once when it comes, and once when it goes.

use std::collections::BTreeMap;

use super::alarm::{AlarmKey, Cause, ConditionChange, Verdict, condition_change};
use super::time::Now;

/// What was said.
#[derive(Debug, Default)]
pub struct Faults {
    said: BTreeMap<AlarmKey, Cause>,
}

impl Faults {
    /// These are the faults now: what has to be said of that.
    pub fn on_faults(&mut self, faults: BTreeMap<AlarmKey, Cause>, now: Now) -> Vec<ConditionChange> {
        let came = faults.iter().filter(|(key, _)| !self.said.contains_key(key));
        let came = came.map(|(key, cause)| (key, Verdict::Violated(cause.clone())));
        let gone = self.said.keys().filter(|key| !faults.contains_key(key)).map(|key| (key, Verdict::Cleared));
        let changes = came.chain(gone).map(|(key, verdict)| say(key, verdict, now)).collect();
        self.said = faults;
        changes
    }

    /// One of them came, or went.
    pub fn on_fault(&mut self, key: AlarmKey, cause: Option<Cause>, now: Now) -> Vec<ConditionChange> {
        let mut faults = self.said.clone();
        match cause {
            Some(cause) => faults.insert(key, cause),
            None => faults.remove(&key),
        };
        self.on_faults(faults, now)
    }

    /// All of them once more, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        self.said.iter().map(|(key, cause)| say(key, Verdict::Violated(cause.clone()), now)).collect()
    }

    /// The alarms that stand for them.
    pub fn keys(&self) -> impl Iterator<Item = &AlarmKey> {
        self.said.keys()
    }
}

/// A fault's subject reports itself.
fn say(key: &AlarmKey, verdict: Verdict, now: Now) -> ConditionChange {
    condition_change(key.clone(), key.subject.clone(), now, verdict)
}

#[cfg(test)]
mod tests {
    use super::super::alarm::{Kind, Subject};
    use super::*;

    fn fault(name: &str) -> (AlarmKey, Cause) {
        (AlarmKey::new(Kind::Config, Subject::Name(name.into())), Cause::Config(name.into()))
    }

    fn said(changes: &[ConditionChange]) -> Vec<(String, bool)> {
        let raised = |change: &ConditionChange| change.verdict != Verdict::Cleared;
        changes.iter().map(|change| (change.key.subject.to_string(), raised(change))).collect()
    }

    #[test]
    fn each_is_said_once() {
        let mut faults = Faults::default();
        let both = BTreeMap::from([fault("a"), fault("b")]);
        let changes = faults.on_faults(both.clone(), Now::default());
        assert_eq!(said(&changes), [("name a".into(), true), ("name b".into(), true)]);
        assert_eq!(faults.on_faults(both, Now::default()), []);
        let changes = faults.on_faults(BTreeMap::from([fault("b"), fault("c")]), Now::default());
        assert_eq!(said(&changes), [("name c".into(), true), ("name a".into(), false)]);
        assert_eq!(faults.on_fault(fault("b").0, None, Now::default()).len(), 1);
        assert_eq!(said(&faults.report(Now::default())), [("name c".into(), true)]);
    }
}
