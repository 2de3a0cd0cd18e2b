//! Alarm list: the current state of every alarm of this agent, and its reporters.
//!
//! `AlarmList` raises an alarm while at least one reporter gives a cause for it, and keeps its text current.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inventory::{AlarmInventory, Reporters};
use super::notification::{AlarmState, ClearReason, Notification, Remarks};
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Now, WallTime};
use crate::pure::test::facts::TestFacts;

/// Alarms by key. The list holds states, not events: it grows with the number of tests, not with time.
#[derive(Debug)]
pub struct AlarmList {
    agent: String,
    alarms: BTreeMap<AlarmKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Reporters that raise the alarm, with their causes; the alarm is raised while there is one.
    raised_by: BTreeMap<Subject, Cause>,
    /// Reporter whose cause is shown.
    shown_reporter: Option<Subject>,
    since: Now,
    test: Option<Arc<TestFacts>>,
    count: u64,
    /// Alarm as it was last reported.
    shown: Arc<Notification>,
}

/// Effect of a condition's change on its alarm.
#[derive(Clone, Debug, PartialEq)]
pub enum AlarmEffect {
    /// The alarm did not change.
    Nothing,
    /// The alarm is in the same state as before, with another cause or other figures.
    Text(Arc<Notification>),
    /// The alarm is in another state, or was not known before.
    State(Arc<Notification>),
}

impl AlarmEffect {
    /// Returns the alarm if its state has changed.
    pub fn state(self) -> Option<Arc<Notification>> {
        match self {
            AlarmEffect::State(notification) => Some(notification),
            AlarmEffect::Nothing | AlarmEffect::Text(_) => None,
        }
    }
}

impl AlarmList {
    /// Creates the empty alarm list of an agent, which its notifications name.
    pub fn new(agent: String) -> Self {
        AlarmList { agent, alarms: BTreeMap::new() }
    }

    /// Takes in a change of a condition, and returns its effect on the alarm.
    pub fn on_change(&mut self, change: &ConditionChange) -> AlarmEffect {
        if change.verdict == Verdict::Overdue {
            return AlarmEffect::Nothing;
        }
        let alarm = self.alarms.entry(change.key.clone());
        let known = matches!(alarm, std::collections::btree_map::Entry::Occupied(_));
        let alarm = alarm.or_insert_with(|| Entry {
            raised_by: BTreeMap::new(),
            shown_reporter: None,
            since: change.at,
            test: None,
            count: 0,
            shown: Arc::new(cleared_notification(&self.agent, &change.key, change.at)),
        });
        let was_raised = !alarm.raised_by.is_empty();
        match &change.verdict {
            Verdict::Violated(cause) => {
                alarm.raised_by.insert(change.reporter.clone(), cause.clone());
            }
            Verdict::Cleared | Verdict::Undecidable | Verdict::Overdue => {
                alarm.raised_by.remove(&change.reporter);
            }
        }
        let is_raised = !alarm.raised_by.is_empty();
        if known && was_raised == is_raised {
            return if is_raised { alarm.show_cause() } else { AlarmEffect::Nothing };
        }
        let lasted = change.at.moment.since(alarm.since.moment);
        alarm.since = change.at;
        alarm.test = change.test.clone().or_else(|| alarm.test.take());
        alarm.count += u64::from(is_raised);
        let shown = Arc::make_mut(&mut alarm.shown);
        shown.since = alarm.since.wall;
        shown.test = alarm.test.clone();
        shown.count = alarm.count;
        shown.remarks = Remarks::default();
        let reason = match &change.verdict {
            Verdict::Violated(cause) => {
                shown.state = AlarmState::Raised;
                shown.raised_at = shown.since;
                shown.clear_reason = None;
                shown.first_cause = Some(cause.clone());
                alarm.shown_reporter = None;
                alarm.show_cause();
                return AlarmEffect::State(alarm.shown.clone());
            }
            Verdict::Cleared if was_raised => ClearReason::GoodAgain(lasted),
            Verdict::Undecidable if was_raised => ClearReason::Undecidable(lasted),
            Verdict::Cleared | Verdict::Undecidable | Verdict::Overdue => ClearReason::Good,
        };
        shown.state = AlarmState::Cleared;
        shown.clear_reason = Some(reason);
        AlarmEffect::State(alarm.shown.clone())
    }

    /// Applies changed facts of a test, as the documents state them. Returns the keys of the alarms that show them.
    pub fn on_facts(&mut self, facts: &Arc<TestFacts>) -> Vec<AlarmKey> {
        let mut changed = Vec::new();
        for kind in Kind::ALL {
            let key = AlarmKey::new(kind, Subject::Test(facts.id));
            let Some(alarm) = self.alarms.get_mut(&key) else { continue };
            if alarm.test.as_ref().is_some_and(|test| test != facts) {
                alarm.test = Some(facts.clone());
                Arc::make_mut(&mut alarm.shown).test = Some(facts.clone());
                changed.push(key);
            }
        }
        changed
    }

    /// Sets the remarks beside an alarm's cause. Returns whether they changed.
    pub fn annotate(&mut self, key: &AlarmKey, remarks: Remarks) -> bool {
        let Some(alarm) = self.alarms.get_mut(key).filter(|alarm| alarm.shown.remarks != remarks) else { return false };
        Arc::make_mut(&mut alarm.shown).remarks = remarks;
        true
    }

    /// Returns the cause that a raised alarm currently shows.
    pub fn cause(&self, key: &AlarmKey) -> Option<&Cause> {
        self.alarms.get(key)?.cause()
    }

    /// Returns since when an alarm is raised, on both clocks; `None` if it is not.
    pub fn since(&self, key: &AlarmKey) -> Option<Now> {
        self.alarms.get(key).filter(|alarm| !alarm.raised_by.is_empty()).map(|alarm| alarm.since)
    }

    /// Returns one alarm in its current state.
    pub fn get(&self, key: &AlarmKey) -> Option<&Arc<Notification>> {
        self.alarms.get(key).map(|alarm| &alarm.shown)
    }

    /// Removes alarms that can no longer exist, and the reports of tests and listeners that are gone: tests were
    /// removed or disabled, or faults went away with their subject. Returns the alarms that are cleared by that.
    pub fn retain(&mut self, valid: &AlarmInventory, reporters: &Reporters, now: Now) -> Vec<Arc<Notification>> {
        let gone: Vec<AlarmKey> = self.alarms.keys().filter(|key| !valid.contains(key)).cloned().collect();
        let mut changed: Vec<Arc<Notification>> = gone
            .into_iter()
            .filter_map(|key| self.alarms.remove(&key))
            // Alarms that were already cleared are removed without another clear.
            .filter(|alarm| alarm.shown.is_raised())
            .map(|alarm| Arc::new(retired(&alarm.shown, ClearReason::NotWatched, now.wall)))
            .collect();
        let taken_back: Vec<ConditionChange> = self
            .alarms
            .iter()
            .flat_map(|(key, alarm)| alarm.raised_by.keys().map(move |reporter| (key, reporter)))
            .filter(|(_, reporter)| matches!(reporter, Subject::Test(_) | Subject::Answers(_) | Subject::Listener(_)))
            .filter(|(_, reporter)| !reporters.contains_key(reporter))
            .map(|(key, reporter)| condition_change(key.clone(), reporter.clone(), now, Verdict::Cleared))
            .collect();
        changed.extend(taken_back.iter().filter_map(|change| self.on_change(change).state()));
        changed
    }

    /// Returns every alarm in its current state, raised or cleared.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.alarms.values().map(|alarm| &alarm.shown)
    }

    /// Returns the raised alarms of one kind.
    pub fn raised_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Notification>> {
        let first = AlarmKey::new(kind, Subject::Agent);
        let of_kind = self.alarms.range(first..).take_while(move |(key, _)| key.kind == kind);
        of_kind.map(|(_, alarm)| &alarm.shown).filter(|notification| notification.is_raised())
    }

    /// Returns the alarms that are raised.
    pub fn raised(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.all().filter(|notification| notification.is_raised())
    }
}

impl Entry {
    fn cause(&self) -> Option<&Cause> {
        self.raised_by.get(self.shown_reporter.as_ref()?)
    }

    /// Shows the latest cause, so that a receiver that is notified later gets the current text.
    fn show_cause(&mut self) -> AlarmEffect {
        if self.cause().is_none() {
            self.shown_reporter = self.raised_by.keys().next().cloned();
        }
        let Some(cause) = self.cause().filter(|cause| self.shown.cause.as_ref() != Some(cause)) else {
            return AlarmEffect::Nothing;
        };
        let cause = Some(cause.clone());
        Arc::make_mut(&mut self.shown).cause = cause;
        AlarmEffect::Text(self.shown.clone())
    }
}

/// Returns the clear of an alarm that ends because its subject or its receiver goes away.
pub fn retired(shown: &Notification, reason: ClearReason, at: WallTime) -> Notification {
    let remarks = Remarks::default();
    Notification { state: AlarmState::Cleared, since: at, clear_reason: Some(reason), remarks, ..shown.clone() }
}

/// Returns the cleared notification of an alarm of which nothing was reported yet.
pub fn cleared_notification(agent: &str, key: &AlarmKey, at: Now) -> Notification {
    Notification {
        agent: agent.to_owned(),
        key: key.clone(),
        state: AlarmState::Cleared,
        severity: key.kind.severity(),
        since: at.wall,
        raised_at: at.wall,
        cause: None,
        first_cause: None,
        clear_reason: Some(ClearReason::Good),
        remarks: Remarks::default(),
        test: None,
        count: 0,
        suppressed: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pure::alarm::notification::OtherTests;

    fn reporter(name: &str) -> Subject {
        Subject::Listener(([127, 0, 0, 1], name.len() as u16).into())
    }

    fn fault(name: &str, verdict: Verdict) -> ConditionChange {
        let key = AlarmKey::new(Kind::Clock, Subject::Host("b".into()));
        condition_change(key, reporter(name), Now::default(), verdict)
    }

    fn at(seconds: u64) -> Now {
        Now { moment: crate::pure::base::time::Moment::new(Duration::from_secs(seconds)), ..Now::default() }
    }

    fn bad() -> Verdict {
        Verdict::Violated(Cause::Config("wrong".into()))
    }

    fn raised(learned: AlarmEffect) -> Option<bool> {
        learned.state().map(|notification| notification.is_raised())
    }

    #[test]
    fn alarm_is_raised_while_any_reporter_raises_it() {
        let mut list = AlarmList::new("a".into());
        assert_eq!(raised(list.on_change(&fault("one", bad()))), Some(true));
        assert_eq!(list.on_change(&fault("another", bad())), AlarmEffect::Nothing);
        assert_eq!(list.on_change(&fault("one", Verdict::Cleared)), AlarmEffect::Nothing);
        let later = ConditionChange { at: at(24), ..fault("another", Verdict::Cleared) };
        let clear = list.on_change(&later).state().unwrap();
        assert_eq!((clear.state, clear.text().as_str()), (AlarmState::Cleared, "good again after 24s"));
        assert_eq!(list.raised().count(), 0);
    }

    #[test]
    fn text_follows_the_cause_and_first_cause_is_kept() {
        let mut list = AlarmList::new("a".into());
        list.on_change(&fault("one", bad()));
        let key = fault("one", bad()).key;
        let others = Some(OtherTests { peer: "b".into(), up: 1, total: 2 });
        assert!(list.annotate(&key, Remarks { others, ..Remarks::default() }));
        let worse = fault("one", Verdict::Violated(Cause::Config("worse".into())));
        let AlarmEffect::Text(shown) = list.on_change(&worse) else { panic!("the text is another") };
        assert_eq!(shown.text(), "worse; 1 of 2 other tests with b get through");
        assert_eq!(shown.first_cause, Some(Cause::Config("wrong".into())));
        assert!(list.annotate(&key, Remarks::default()));
        assert_eq!(list.get(&key).unwrap().text(), "worse");
        assert_eq!(list.on_change(&worse), AlarmEffect::Nothing);
    }

    #[test]
    fn undecidable_alarm_is_cleared_with_that_reason() {
        let mut list = AlarmList::new("a".into());
        list.on_change(&fault("one", bad()));
        let ended = list.on_change(&fault("one", Verdict::Undecidable)).state().unwrap();
        assert!(!ended.is_raised() && ended.text().starts_with("no longer decidable"), "{ended:?}");
    }

    #[test]
    fn first_clear_changes_the_state_once() {
        let mut list = AlarmList::new("a".into());
        assert_eq!(raised(list.on_change(&fault("one", Verdict::Cleared))), Some(false));
        assert_eq!(list.on_change(&fault("one", Verdict::Cleared)), AlarmEffect::Nothing);
    }

    #[test]
    fn alarm_that_can_no_longer_exist_is_cleared_and_removed() {
        let mut list = AlarmList::new("a".into());
        list.on_change(&fault("one", bad()));
        let clears = list.retain(&AlarmInventory::default(), &Reporters::new(), Now::default());
        assert_eq!(clears.len(), 1);
        assert!(!clears[0].is_raised());
        assert_eq!(list.all().count(), 0);
    }

    #[test]
    fn report_of_a_removed_reporter_is_cleared() {
        let mut list = AlarmList::new("a".into());
        list.on_change(&fault("one", bad()));
        list.on_change(&fault("another", bad()));
        let valid = list.alarms.keys().cloned().collect();
        let two = Reporters::from([(reporter("another"), None)]);
        assert_eq!(list.retain(&valid, &two, Now::default()), []);
        assert_eq!(list.retain(&valid, &Reporters::new(), Now::default()).len(), 1);
        assert_eq!(list.raised().count(), 0);
    }
}
