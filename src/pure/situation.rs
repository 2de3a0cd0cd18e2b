//! What is true, and what of it is to be told: the conditions, and what lies over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::groups::{GroupChange, GroupSettings, Groups, Membership, Outcome};
use super::ledger::Damping;
use super::notification::{Notification, Standing, Withheld};
use super::shelf::{Shelf, Silence, Window};
use super::test::TestId;
use super::time::{Moment, Now};
use super::truth::Truth;

/// What the documents say of alarms, receivers aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// For alarms that are not about one test.
    pub damping: Damping,
    /// For the alarms of tests.
    pub dampings: BTreeMap<TestId, Damping>,
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
    rules: Rules,
}

impl Situation {
    /// Of the agent on this host.
    pub fn new(agent: String, rules: Rules) -> Self {
        Situation {
            truth: Truth::new(agent),
            groups: Groups::new(rules.group),
            shelf: Shelf::default(),
            rules: Rules { members: BTreeMap::new(), ..rules },
        }
    }

    /// A condition changed. Gives what has to be told or kept back otherwise than before.
    pub fn on_change(&mut self, change: &ConditionChange, now: Now) -> Vec<Standing> {
        let Some(notification) = self.truth.on_change(change) else { return Vec::new() };
        let outcome = match (notification.key.kind, &notification.key.subject) {
            (Kind::Connection, Subject::Test(id)) if notification.is_raised() => self.groups.on_down(*id, now.moment),
            (Kind::Connection, Subject::Test(id)) => self.groups.on_up(*id, now.moment),
            (
                Kind::Connection
                | Kind::Latency
                | Kind::Sender
                | Kind::Clock
                | Kind::Config
                | Kind::UnknownPacket
                | Kind::Isolated
                | Kind::Storm
                | Kind::Test,
                _,
            ) => Outcome::default(),
        };
        self.apply(outcome, [notification.key.clone()].into(), now)
    }

    /// The documents say something else.
    pub fn on_rules(&mut self, rules: Rules, now: Now) -> Vec<Standing> {
        let before = std::mem::replace(&mut self.rules, rules);
        let mut keys = BTreeSet::new();
        if (&before.windows, &before.drained) != (&self.rules.windows, &self.rules.drained) {
            self.shelf.on_documents(self.rules.windows.clone(), self.rules.drained.clone());
            self.shelf.on_time(now.wall);
            keys.extend(self.raised_keys());
        }
        let mut outcome = Outcome::default();
        if (&before.group, &before.members) != (&self.rules.group, &self.rules.members) {
            outcome = self.groups.on_tests(self.rules.group, self.rules.members.clone(), now.moment);
            let new = self.rules.members.keys().filter(|id| !before.members.contains_key(id));
            for id in new {
                match self.truth.get(&AlarmKey::new(Kind::Connection, Subject::Test(*id))) {
                    Some(known) if known.is_raised() => outcome.join(self.groups.on_down(*id, now.moment)),
                    Some(_) => outcome.join(self.groups.on_up(*id, now.moment)),
                    None => {}
                }
            }
        }
        if before.dampings != self.rules.dampings || before.damping != self.rules.damping {
            keys.extend(self.raised_keys());
        }
        self.apply(outcome, keys, now)
    }

    /// Only these alarms can still be, and only these tests and listeners can still report.
    pub fn retain(&mut self, possible: &BTreeSet<AlarmKey>, reporters: &BTreeSet<Subject>, now: Now) -> Vec<Standing> {
        let possible: BTreeSet<AlarmKey> = possible.iter().cloned().chain(self.groups.keys()).collect();
        let gone = self.truth.retain(&possible, reporters, now);
        let mut outcome = Outcome::default();
        for notification in &gone {
            if let (Kind::Connection, Subject::Test(id)) = (notification.key.kind, &notification.key.subject) {
                outcome.join(self.groups.on_gone(*id, now.moment));
            }
        }
        let mut standing = self.apply(outcome, BTreeSet::new(), now);
        standing.extend(gone.into_iter().map(|notification| Standing { notification, withheld: None }));
        standing
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Now) -> Vec<Standing> {
        let outcome = self.groups.on_time(now.moment);
        let keys = if self.shelf.on_time(now.wall) { self.raised_keys() } else { BTreeSet::new() };
        self.apply(outcome, keys, now)
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
        self.apply(Outcome::default(), self.raised_keys(), now)
    }

    /// A silence was ended; nothing if there is none of this id.
    pub fn on_expired(&mut self, id: &str, now: Now) -> Option<(Silence, Vec<Standing>)> {
        let silence = self.shelf.expire(id)?;
        self.shelf.on_time(now.wall);
        Some((silence, self.apply(Outcome::default(), self.raised_keys(), now)))
    }

    /// The silences that have not ended.
    pub fn silences(&self) -> impl Iterator<Item = &Silence> {
        self.shelf.silences()
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
        let own = match &key.subject {
            Subject::Test(id) => self.rules.dampings.get(id),
            Subject::Agent
            | Subject::Store
            | Subject::Host(_)
            | Subject::Listener(_)
            | Subject::Source(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Tag(_)
            | Subject::Web(_) => None,
        };
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
            if self.truth.on_change(&condition_change(key.clone(), Subject::Agent, now, verdict)).is_some() {
                keys.insert(key);
            }
        }
        keys.extend(outcome.affected.into_iter().map(|id| AlarmKey::new(Kind::Connection, Subject::Test(id))));
        for key in keys {
            self.annotate(&key);
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
                None => self.withheld_by_group(&notification.key),
            },
        };
        Standing { notification: notification.clone(), withheld }
    }

    fn withheld_by_group(&self, key: &AlarmKey) -> Option<Withheld> {
        match (key.kind, &key.subject) {
            (Kind::Connection, Subject::Test(id)) => self.groups.withheld(*id),
            _ => None,
        }
    }

    /// Says with a silence what else is known that points to its cause.
    fn annotate(&mut self, key: &AlarmKey) {
        let Some(notification) = self.truth.get(key).filter(|alarm| alarm.is_raised()) else { return };
        let (Kind::Connection, Some(from_host)) = (key.kind, from_host(notification)) else { return };
        let mut remark = String::new();
        if let Subject::Test(id) = key.subject {
            remark = match self.groups.others_from_host(id) {
                None | Some((_, 0)) => String::new(),
                Some((0, _)) => format!("; no other test from {from_host} gets through"),
                Some((up, others)) => format!("; {up} of {others} other tests from {from_host} get through"),
            };
        }
        let own = |alarm: &&Arc<Notification>| {
            let to_host = alarm.test.as_ref().map(|test| test.to_host.as_str());
            alarm.key.kind == Kind::Sender && to_host == Some(from_host.as_str())
        };
        if let Some(refused) = self.truth.raised_of(Kind::Sender).find(own) {
            remark += &format!("; from here to {from_host}: {}", refused.text);
        }
        if !remark.is_empty() {
            self.truth.annotate(key, &remark);
        }
    }
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
