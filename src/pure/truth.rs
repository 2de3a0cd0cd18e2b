//! What is true now: every alarm of this agent, and who says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::notification::{AlarmState, Notification, Tally};
use super::possible::Possible;
use super::test::TestFacts;
use super::time::{Now, WallTime};

/// The alarms by key. States, not events: it grows with the number of tests, not with time.
#[derive(Debug)]
pub struct Truth {
    agent: String,
    alarms: BTreeMap<AlarmKey, Alarm>,
}

#[derive(Debug)]
struct Alarm {
    /// It stands while this is not empty.
    raised_by: BTreeMap<Subject, Cause>,
    since: WallTime,
    test: Option<Arc<TestFacts>>,
    count: u64,
    /// Why, as its finder said it.
    cause: String,
    /// What was last said, so that a clear can repeat it.
    shown: Arc<Notification>,
}

impl Truth {
    /// Of the agent on this host.
    pub fn new(agent: String) -> Self {
        Truth { agent, alarms: BTreeMap::new() }
    }

    /// A condition changed. Gives the alarm's new state if that changed with it.
    pub fn on_change(&mut self, change: &ConditionChange) -> Option<Arc<Notification>> {
        let alarm = self.alarms.entry(change.key.clone());
        let known = matches!(alarm, std::collections::btree_map::Entry::Occupied(_));
        let alarm = alarm.or_insert_with(|| Alarm {
            raised_by: BTreeMap::new(),
            since: change.at.wall,
            test: None,
            count: 0,
            cause: String::new(),
            shown: Arc::new(blank(&self.agent, &change.key, change.at)),
        });
        let was_raised = !alarm.raised_by.is_empty();
        match &change.verdict {
            Verdict::Violated(cause) => {
                alarm.raised_by.insert(change.reporter.clone(), cause.clone());
            }
            Verdict::Cleared => {
                alarm.raised_by.remove(&change.reporter);
            }
        }
        let is_raised = !alarm.raised_by.is_empty();
        if known && was_raised == is_raised {
            // Whoever asks, and whoever is told later, hears of it as it is now.
            if let Verdict::Violated(cause) = &change.verdict
                && alarm.raised_by.len() == 1
            {
                alarm.cause = cause.to_string();
                if alarm.shown.text != alarm.cause {
                    Arc::make_mut(&mut alarm.shown).text.clone_from(&alarm.cause);
                }
            }
            return None;
        }
        alarm.since = change.at.wall;
        alarm.test = change.test.clone().or_else(|| alarm.test.take());
        alarm.count += u64::from(is_raised);
        let shown = Arc::make_mut(&mut alarm.shown);
        shown.since = alarm.since;
        shown.test = alarm.test.clone();
        shown.count = alarm.count;
        match &change.verdict {
            Verdict::Violated(cause) => {
                shown.state = AlarmState::Raised;
                shown.raised_at = alarm.since;
                shown.text = cause.to_string();
                alarm.cause.clone_from(&shown.text);
                shown.legacy_text = cause.legacy_text();
                shown.delay_seconds = cause.delay().map(|delay| delay.seconds());
                shown.source =
                    if let Cause::UnknownPacket { source, .. } = cause { Some(source.clone()) } else { None };
                shown.tally = if let Cause::Shared(shared) = cause {
                    Some(Tally { down: shared.down, of: shared.of })
                } else {
                    None
                };
            }
            Verdict::Cleared => {
                shown.text = if shown.is_raised() { format!("over: {}", shown.text) } else { "good".to_owned() };
                shown.state = AlarmState::Cleared;
            }
        }
        Some(alarm.shown.clone())
    }

    /// The documents say something else of a test. Gives its alarms that are shown otherwise now.
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

    /// What else is known of why an alarm stands, beside its cause.
    pub fn annotate(&mut self, key: &AlarmKey, remark: &str) {
        if let Some(alarm) = self.alarms.get_mut(key).filter(|alarm| alarm.shown.is_raised()) {
            let text = format!("{}{remark}", alarm.cause);
            if alarm.shown.text != text {
                Arc::make_mut(&mut alarm.shown).text = text;
            }
        }
    }

    /// One alarm in its current state.
    pub fn get(&self, key: &AlarmKey) -> Option<&Arc<Notification>> {
        self.alarms.get(key).map(|alarm| &alarm.shown)
    }

    /// Only these alarms can still be, and only these tests and listeners can still report: tests
    /// were removed or disabled, faults went away with what they were about. Gives what changed.
    pub fn retain(&mut self, valid: &Possible, reporters: &BTreeSet<Subject>, now: Now) -> Vec<Arc<Notification>> {
        let gone: Vec<AlarmKey> = self.alarms.keys().filter(|key| !valid.contains(key)).cloned().collect();
        let mut changed: Vec<Arc<Notification>> = gone
            .into_iter()
            .filter_map(|key| self.alarms.remove(&key))
            // What is over was said to be.
            .filter(|alarm| alarm.shown.is_raised())
            .map(|alarm| Arc::new(retired(&alarm.shown, NO_LONGER_WATCHED, now.wall)))
            .collect();
        let taken_back: Vec<ConditionChange> = self
            .alarms
            .iter()
            .flat_map(|(key, alarm)| alarm.raised_by.keys().map(move |reporter| (key, reporter)))
            .filter(|(_, reporter)| matches!(reporter, Subject::Test(_) | Subject::Answers(_) | Subject::Listener(_)))
            .filter(|(_, reporter)| !reporters.contains(reporter))
            .map(|(key, reporter)| condition_change(key.clone(), reporter.clone(), now, Verdict::Cleared))
            .collect();
        changed.extend(taken_back.iter().filter_map(|change| self.on_change(change)));
        changed
    }

    /// Every alarm in its current state.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.alarms.values().map(|alarm| &alarm.shown)
    }

    /// The alarms of a kind that stand.
    pub fn raised_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Notification>> {
        let first = AlarmKey::new(kind, Subject::Agent);
        let of_kind = self.alarms.range(first..).take_while(move |(key, _)| key.kind == kind);
        of_kind.map(|(_, alarm)| &alarm.shown).filter(|notification| notification.is_raised())
    }

    /// The alarms that stand.
    pub fn raised(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.all().filter(|notification| notification.is_raised())
    }
}

/// Why an alarm is over whose subject is gone.
pub const NO_LONGER_WATCHED: &str = "removed, disabled or no longer watched";

/// The clear of an alarm that did not end by itself.
pub fn retired(shown: &Notification, text: &str, at: WallTime) -> Notification {
    Notification { state: AlarmState::Cleared, since: at, text: text.to_owned(), ..shown.clone() }
}

/// An alarm of which nothing was said yet.
pub fn blank(agent: &str, key: &AlarmKey, at: Now) -> Notification {
    Notification {
        agent: agent.to_owned(),
        key: key.clone(),
        state: AlarmState::Cleared,
        severity: key.kind.severity(),
        since: at.wall,
        raised_at: at.wall,
        tally: None,
        text: String::new(),
        legacy_text: String::new(),
        test: None,
        delay_seconds: None,
        source: None,
        count: 0,
        suppressed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(reporter: &str, verdict: Verdict) -> ConditionChange {
        let key = AlarmKey::new(Kind::Clock, Subject::Host("b".into()));
        condition_change(key, Subject::Listener(reporter.into()), Now::default(), verdict)
    }

    fn bad() -> Verdict {
        Verdict::Violated(Cause::Config("wrong".into()))
    }

    #[test]
    fn stands_while_anybody_says_so() {
        let mut truth = Truth::new("a".into());
        assert!(truth.on_change(&fault("one", bad())).unwrap().is_raised());
        assert_eq!(truth.on_change(&fault("two", bad())), None);
        assert_eq!(truth.on_change(&fault("one", Verdict::Cleared)), None);
        let clear = truth.on_change(&fault("two", Verdict::Cleared)).unwrap();
        assert_eq!((clear.state, clear.text.as_str()), (AlarmState::Cleared, "over: wrong"));
        assert_eq!(truth.raised().count(), 0);
    }

    #[test]
    fn first_good_news_is_news_once() {
        let mut truth = Truth::new("a".into());
        assert!(!truth.on_change(&fault("one", Verdict::Cleared)).unwrap().is_raised());
        assert_eq!(truth.on_change(&fault("one", Verdict::Cleared)), None);
    }

    #[test]
    fn what_is_no_longer_watched_is_cleared() {
        let mut truth = Truth::new("a".into());
        truth.on_change(&fault("one", bad()));
        let clears = truth.retain(&Possible::default(), &BTreeSet::new(), Now::default());
        assert_eq!(clears.len(), 1);
        assert!(!clears[0].is_raised());
        assert_eq!(truth.all().count(), 0);
    }

    #[test]
    fn a_reporter_that_goes_takes_back_what_it_said() {
        let mut truth = Truth::new("a".into());
        truth.on_change(&fault("one", bad()));
        truth.on_change(&fault("two", bad()));
        let valid = truth.alarms.keys().cloned().collect();
        let two = BTreeSet::from([Subject::Listener("two".into())]);
        assert_eq!(truth.retain(&valid, &two, Now::default()), []);
        assert_eq!(truth.retain(&valid, &BTreeSet::new(), Now::default()).len(), 1);
        assert_eq!(truth.raised().count(), 0);
    }
}
