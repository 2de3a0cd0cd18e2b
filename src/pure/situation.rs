//! What is true, and what of it is to be told: the conditions, and what lies over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::alarm::{ANNOUNCED_STOP, AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::groups::{GroupChange, GroupSettings, Groups, Membership, Outcome};
use super::ledger::Damping;
use super::notification::{Notification, Standing, Withheld};
use super::possible::Possible;
use super::shelf::{Shelf, Silence, Window};
use super::test::{TestFacts, TestId};
use super::time::{Moment, Now};
use super::truth::Truth;

/// What the documents say of alarms, receivers aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// For alarms that are not about one test.
    pub damping: Damping,
    /// The tests of this host, and how their alarms are damped.
    pub tests: BTreeMap<TestId, (Arc<TestFacts>, Damping)>,
    /// When a group is told instead of its members.
    pub group: GroupSettings,
    /// The tests that end here, and what they share.
    pub members: BTreeMap<TestId, Membership>,
    /// Windows of maintenance.
    pub windows: Vec<Window>,
    /// Hosts that are drained.
    pub drained: BTreeSet<String>,
}

/// All alarms of an agent, with what keeps them from being told.
#[derive(Debug)]
pub struct Situation {
    truth: Truth,
    groups: Groups,
    shelf: Shelf,
    rules: Arc<Rules>,
}

impl Situation {
    /// Of the agent on this host.
    pub fn new(agent: String, rules: impl Into<Arc<Rules>>) -> Self {
        let rules = Arc::unwrap_or_clone(rules.into());
        Situation {
            truth: Truth::new(agent),
            groups: Groups::new(rules.group),
            shelf: Shelf::default(),
            rules: Arc::new(Rules { members: BTreeMap::new(), windows: Vec::new(), drained: BTreeSet::new(), ..rules }),
        }
    }

    /// A condition changed. Gives what has to be told or kept back otherwise than before.
    pub fn on_change(&mut self, change: &ConditionChange, now: Now) -> Vec<Standing> {
        let Some(notification) = self.truth.on_change(change) else { return Vec::new() };
        let outcome = match connection_of(&notification) {
            Some(id) => self.count(id, &notification, now),
            None => Outcome::default(),
        };
        self.apply(outcome, [notification.key.clone()].into(), now)
    }

    /// Lets a test count for its groups; or not, while it is shelved.
    fn count(&mut self, id: TestId, notification: &Arc<Notification>, now: Now) -> Outcome {
        if !notification.is_raised() {
            return self.groups.on_up(id, now.moment);
        }
        if self.shelf.shelves(notification, now.wall).is_none() {
            return self.groups.on_down(id, now.moment);
        }
        self.groups.set_aside(id);
        Outcome::default()
    }

    /// Something was shelved, or is no longer: gives every alarm that stands as it is now.
    fn on_shelf(&mut self, mut outcome: Outcome, now: Now) -> Vec<Standing> {
        let raised: Vec<Arc<Notification>> = self.truth.raised().cloned().collect();
        for notification in &raised {
            if let Some(id) = connection_of(notification) {
                outcome.join(self.count(id, notification, now));
            }
        }
        self.apply(outcome, raised.iter().map(|notification| notification.key.clone()).collect(), now)
    }

    /// The documents say something else.
    pub fn on_rules(&mut self, rules: impl Into<Arc<Rules>>, now: Now) -> Vec<Standing> {
        let before = std::mem::replace(&mut self.rules, rules.into());
        let mut keys = BTreeSet::new();
        let mut shelved = false;
        for (id, (facts, _)) in &self.rules.tests {
            if before.tests.get(id).is_none_or(|(before, _)| before != facts) {
                keys.extend(self.truth.on_facts(facts));
            }
        }
        if (&before.windows, &before.drained) != (&self.rules.windows, &self.rules.drained) {
            self.shelf.on_documents(self.rules.windows.clone(), self.rules.drained.clone());
            self.shelf.on_time(now.wall);
            shelved = true;
        }
        let mut outcome = Outcome::default();
        if (&before.group, &before.members) != (&self.rules.group, &self.rules.members) {
            outcome = self.groups.on_tests(self.rules.group, self.rules.members.clone(), now.moment);
            let new = self.rules.members.keys().filter(|id| !before.members.contains_key(id));
            for id in new {
                let known = self.truth.get(&AlarmKey::new(Kind::Connection, Subject::Test(*id))).cloned();
                match known {
                    Some(known) if known.is_raised() && self.shelf.shelves(&known, now.wall).is_some() => {}
                    Some(known) if known.is_raised() => outcome.join(self.groups.on_down(*id, now.moment)),
                    Some(_) => outcome.join(self.groups.on_up(*id, now.moment)),
                    None => {}
                }
            }
        }
        if before.damping != self.rules.damping {
            keys.extend(self.raised_keys());
        }
        let damped = self
            .rules
            .tests
            .iter()
            .filter(|(id, (_, damping))| before.tests.get(id).is_some_and(|(_, before)| before != damping));
        keys.extend(damped.flat_map(|(id, _)| Kind::ALL.map(|kind| AlarmKey::new(kind, Subject::Test(*id)))));
        // What is removed is taken back in a moment, and not told before.
        let mut standing = self.apply(outcome, keys, now);
        if shelved {
            standing.extend(self.on_shelf(Outcome::default(), now));
        }
        standing
            .retain(|standing| standing.notification.key.test().is_none_or(|id| self.rules.tests.contains_key(&id)));
        standing
    }

    /// Only these alarms can still be, and only these tests and listeners can still report.
    pub fn retain(&mut self, possible: &Possible, reporters: &BTreeSet<Subject>, now: Now) -> Vec<Standing> {
        let mut possible = possible.clone();
        possible.extend(self.groups.keys());
        let gone = self.truth.retain(&possible, reporters, now);
        let mut outcome = Outcome::default();
        for notification in &gone {
            if let Some(id) = connection_of(notification) {
                outcome.join(self.groups.on_gone(id, now.moment));
            }
        }
        let mut standing = self.apply(outcome, BTreeSet::new(), now);
        standing.extend(gone.into_iter().map(|notification| Standing { notification, withheld: None }));
        standing
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Now) -> Vec<Standing> {
        let outcome = self.groups.on_time(now.moment);
        match self.shelf.on_time(now.wall) {
            true => self.on_shelf(outcome, now),
            false => self.apply(outcome, BTreeSet::new(), now),
        }
    }

    /// When `on_time` has something to do. Windows and silences go by the wall's clock: they are
    /// looked at whenever `on_time` is called, which should be every second or so.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.groups.next_deadline()
    }

    /// The silences of an earlier run.
    pub fn load_silences(&mut self, silences: Vec<Silence>) {
        self.shelf.load(silences);
    }

    /// A silence was made.
    pub fn on_silence(&mut self, silence: Silence, now: Now) -> Vec<Standing> {
        self.shelf.add(silence);
        self.shelf.on_time(now.wall);
        self.on_shelf(Outcome::default(), now)
    }

    /// A silence was ended; nothing if there is none of this id.
    pub fn on_expired(&mut self, id: &str, now: Now) -> Option<(Silence, Vec<Standing>)> {
        let silence = self.shelf.expire(id)?;
        self.shelf.on_time(now.wall);
        Some((silence, self.on_shelf(Outcome::default(), now)))
    }

    /// The silences that have not ended.
    pub fn silences(&self, now: Now) -> impl Iterator<Item = &Silence> {
        self.shelf.silences(now.wall)
    }

    /// Every alarm as it is.
    pub fn all(&self, now: Now) -> impl Iterator<Item = Standing> {
        self.truth.all().map(move |notification| self.standing(notification, now))
    }

    /// The alarms that stand.
    pub fn raised(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.truth.raised()
    }

    /// The alarms that groups can be, beside those that the plan knows.
    pub fn group_keys(&self) -> impl Iterator<Item = AlarmKey> {
        self.groups.keys()
    }

    /// How an alarm that keeps changing is damped.
    pub fn damping(&self, key: &AlarmKey) -> Damping {
        let own = key.test().and_then(|id| self.rules.tests.get(&id)).map(|(_, damping)| damping);
        own.copied().unwrap_or(self.rules.damping)
    }

    fn raised_keys(&self) -> BTreeSet<AlarmKey> {
        self.truth.raised().map(|notification| notification.key.clone()).collect()
    }

    /// Notes what groups did, and gives every alarm that is to be seen otherwise than before.
    fn apply(&mut self, outcome: Outcome, mut keys: BTreeSet<AlarmKey>, now: Now) -> Vec<Standing> {
        let mut standing = Vec::new();
        for change in outcome.changes {
            let (key, verdict) = match change {
                GroupChange::Raised(key, shared) => (key, Verdict::Violated(Cause::Shared(shared))),
                GroupChange::Cleared(key) => (key, Verdict::Cleared),
            };
            let first = match &verdict {
                Verdict::Violated(Cause::Shared(shared)) => Some(shared.first),
                Verdict::Violated(_) | Verdict::Cleared => None,
            };
            if self.truth.on_change(&condition_change(key.clone(), Subject::Agent, now, verdict)).is_some() {
                if let Some(first) = first {
                    self.pass_on(first, &key);
                }
                keys.insert(key);
            }
        }
        keys.extend(outcome.affected.into_iter().map(|id| AlarmKey::new(Kind::Connection, Subject::Test(id))));
        if keys.is_empty() {
            return standing;
        }
        let refused = self.refused_hosts();
        for key in keys {
            self.annotate(&key, &refused);
            standing.extend(self.truth.get(&key).map(|notification| self.standing(notification, now)));
        }
        standing
    }

    /// An alarm as it is, and why it is kept back if it is.
    pub fn standing(&self, notification: &Arc<Notification>, now: Now) -> Standing {
        let withheld = match notification.is_raised() {
            false => None,
            true => match self.shelf.shelves(notification, now.wall) {
                Some(by) => Some(Withheld::Shelved { by }),
                None => connection_of(notification).and_then(|id| self.groups.withheld(id)),
            },
        };
        Standing { notification: notification.clone(), withheld }
    }

    /// What one of the tests says of its sender, its group says too.
    fn pass_on(&mut self, first: TestId, group: &AlarmKey) {
        let member = self.truth.get(&AlarmKey::new(Kind::Connection, Subject::Test(first)));
        if member.is_some_and(|member| member.text.contains(ANNOUNCED_STOP)) {
            self.truth.annotate(group, ANNOUNCED_STOP);
        }
    }

    /// The hosts that this host cannot send to, and why.
    fn refused_hosts(&self) -> BTreeMap<String, String> {
        let refused = self.truth.raised_of(Kind::Sender);
        refused.filter_map(|alarm| Some((alarm.test.as_ref()?.to_host.clone(), alarm.text.clone()))).collect()
    }

    /// Says with a silence what else is known that points to its cause.
    fn annotate(&mut self, key: &AlarmKey, refused: &BTreeMap<String, String>) {
        let Some(notification) = self.truth.get(key).filter(|alarm| alarm.is_raised()) else { return };
        let (Kind::Connection, Some(from_host)) = (key.kind, from_host(notification)) else { return };
        let mut remark = String::new();
        if let Some(id) = key.test() {
            remark = match self.groups.others_from_host(id) {
                None | Some((_, 0)) => String::new(),
                Some((0, _)) => format!("; no other test from {from_host} gets through"),
                Some((up, others)) => format!("; {up} of {others} other tests from {from_host} get through"),
            };
        }
        if let Some(problem) = refused.get(&from_host) {
            remark += &format!("; from here to {from_host}: {problem}");
        }
        if !remark.is_empty() {
            self.truth.annotate(key, &remark);
        }
    }
}

/// The test whose connection this is about.
fn connection_of(notification: &Notification) -> Option<TestId> {
    notification.key.test().filter(|_| notification.key.kind == Kind::Connection)
}

/// The host that should be heard.
fn from_host(alarm: &Notification) -> Option<String> {
    match (&alarm.test, &alarm.key.subject) {
        (Some(test), _) => Some(test.from_host.clone()),
        (None, Subject::Host(host)) => Some(host.clone()),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests;
