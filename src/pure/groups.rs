//! Tests that share something and go down together: one alarm names what they share.
//!
//! A test that goes down waits for `group_wait` whether others follow. Then the fewest groups that
//! explain what went down are told, and their members are not. When a group is over, its members
//! that are still down wait once more, so that each is seen again before it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::alarm::{AlarmKey, Kind, Shared, Subject};
use super::notification::Withheld;
use super::test::TestId;
use super::time::Moment;

/// When a group is told instead of its members.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupSettings {
    /// Members are waited for so long.
    pub group_wait: Duration,
    /// So many of them at least; 0: never.
    pub group_min: u32,
    /// This share of all at least.
    pub group_ratio: f64,
}

/// What a test shares with others.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    /// The sending host, the listener, the tags.
    pub shares: Vec<Subject>,
    /// In this time a fresh sample is sure to have decided.
    pub fresh_after: Duration,
    /// For people.
    pub description: String,
}

/// A group began or ended to be told.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupChange {
    /// Its members went down together.
    Raised(AlarmKey, Shared),
    /// It is over, or was found to be no more than one of an earlier run.
    Cleared(AlarmKey),
}

/// What became of an event: groups that changed, and tests that are kept back now or no longer.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// In order.
    pub changes: Vec<GroupChange>,
    /// Tests that are down and may be told or kept back otherwise than before.
    pub affected: BTreeSet<TestId>,
}

impl Outcome {
    /// What became of another event after this one.
    pub fn join(&mut self, later: Outcome) {
        self.changes.extend(later.changes);
        self.affected.extend(later.affected);
    }
}

/// All groups of an agent.
#[derive(Debug)]
pub struct Groups {
    settings: GroupSettings,
    tests: BTreeMap<TestId, Membership>,
    groups: BTreeMap<Subject, Group>,
    down: BTreeMap<TestId, Down>,
    up: BTreeSet<TestId>,
    /// When waiting ends, by test.
    waits: BTreeSet<(Moment, TestId)>,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeSet<TestId>,
    /// How many of them are down, and how many are known to be up.
    down: usize,
    up: usize,
    told: bool,
    /// It was said that it is not told, so that what an earlier run told can be taken back.
    denied: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Down {
    /// It waits for others until then.
    waits_until: Option<Moment>,
}

impl Groups {
    /// No tests.
    pub fn new(settings: GroupSettings) -> Self {
        Groups {
            settings,
            tests: BTreeMap::new(),
            groups: BTreeMap::new(),
            down: BTreeMap::new(),
            up: BTreeSet::new(),
            waits: BTreeSet::new(),
        }
    }

    /// Other settings, other tests. What was told stays told as far as it still can be.
    pub fn on_tests(&mut self, settings: GroupSettings, tests: BTreeMap<TestId, Membership>, now: Moment) -> Outcome {
        self.settings = settings;
        self.tests = tests;
        let before = std::mem::take(&mut self.groups);
        for (id, membership) in &self.tests {
            for subject in membership.shares.iter().chain([&Subject::Agent]) {
                self.groups.entry(subject.clone()).or_default().members.insert(*id);
            }
        }
        let known = &self.tests;
        self.down.retain(|id, _| known.contains_key(id));
        self.up.retain(|id| known.contains_key(id));
        self.waits.retain(|(_, id)| known.contains_key(id));
        let mut outcome = Outcome::default();
        for (subject, group) in &mut self.groups {
            group.down = group.members.iter().filter(|id| self.down.contains_key(id)).count();
            group.up = group.members.iter().filter(|id| self.up.contains(id)).count();
            let earlier = before.get(subject);
            group.told = earlier.is_some_and(|earlier| earlier.told);
            group.denied = earlier.is_some_and(|earlier| earlier.denied);
        }
        for (subject, group) in before.iter().filter(|(_, group)| group.told) {
            if !self.groups.contains_key(subject) {
                outcome.changes.push(GroupChange::Cleared(key(subject)));
            }
            // Whoever is no member any more was never told himself.
            let left = |id: &&TestId| !self.shares_of(**id).any(|(share, _)| share == subject);
            let leavers: Vec<TestId> =
                group.members.iter().filter(left).filter(|id| self.down.contains_key(id)).copied().collect();
            leavers.into_iter().for_each(|id| self.look_again(id, now));
        }
        let over: Vec<Subject> =
            self.groups.iter().filter(|(_, group)| group.told && self.is_over(group)).map(|(s, _)| s.clone()).collect();
        over.into_iter().for_each(|subject| self.end(&subject, now, &mut outcome));
        outcome.affected.extend(self.down.keys());
        outcome
    }

    /// A test went down.
    pub fn on_down(&mut self, id: TestId, now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        self.up_no_longer(id);
        if !self.tests.contains_key(&id) || self.down.insert(id, Down::default()).is_some() {
            return outcome;
        }
        self.each_group(id, |group| group.down += 1);
        outcome.affected.insert(id);
        if self.shares_of(id).any(|(_, group)| self.is_candidate(group)) && self.told_for(id).is_none() {
            self.wait(id, now + self.settings.group_wait);
        }
        if self.settings.group_wait.is_zero() || self.all_are_down() {
            self.decide(now, &mut outcome);
        }
        outcome
    }

    /// A test came up.
    pub fn on_up(&mut self, id: TestId, now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.tests.contains_key(&id) {
            return outcome;
        }
        if let Some(down) = self.down.remove(&id) {
            self.stop_waiting(id, down);
            self.each_group(id, |group| group.down -= 1);
        }
        if self.up.insert(id) {
            self.each_group(id, |group| group.up += 1);
        }
        let shares: Vec<Subject> = self.shares_of(id).map(|(subject, _)| subject.clone()).collect();
        for subject in shares {
            let Some(group) = self.groups.get(&subject) else { continue };
            if group.told && self.is_over(group) {
                self.end(&subject, now, &mut outcome);
            } else if !group.told && !group.denied && !self.can_be(group) {
                outcome.changes.push(GroupChange::Cleared(key(&subject)));
                self.groups.entry(subject).or_default().denied = true;
            }
        }
        outcome
    }

    /// Nothing is known of a test any more.
    pub fn on_gone(&mut self, id: TestId, now: Moment) -> Outcome {
        let outcome = self.on_up(id, now);
        self.up_no_longer(id);
        outcome
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        if self.waits.first().is_some_and(|(until, _)| *until <= now) {
            self.decide(now, &mut outcome);
        }
        outcome
    }

    /// When `on_time` has something to do.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.waits.first().map(|(until, _)| *until)
    }

    /// Why a test that is down is not told.
    pub fn withheld(&self, id: TestId) -> Option<Withheld> {
        let down = self.down.get(&id)?;
        match self.told_for(id) {
            Some(subject) => Some(Withheld::Group { group: key(subject).to_string() }),
            None => down.waits_until.map(|_| Withheld::Waiting),
        }
    }

    /// Of the other tests that come from the same host: how many get through, and how many there are.
    pub fn others_from_host(&self, id: TestId) -> Option<(usize, usize)> {
        let host = self.tests.get(&id)?.shares.iter().find(|subject| matches!(subject, Subject::Host(_)))?;
        let group = self.groups.get(host)?;
        let own = usize::from(self.up.contains(&id));
        Some((group.up - own, group.members.len() - 1))
    }

    /// The alarms that groups can be.
    pub fn keys(&self) -> impl Iterator<Item = AlarmKey> {
        self.groups.iter().filter(|(_, group)| self.is_candidate(group)).map(|(subject, _)| key(subject))
    }

    /// Tells the fewest groups that explain what went down, and lets the others be told themselves.
    fn decide(&mut self, now: Moment, outcome: &mut Outcome) {
        // Those that wait were not told; so were those that began to wait a moment later.
        let mut unexplained: BTreeSet<TestId> = self.waits.iter().map(|(_, id)| *id).collect();
        let considered = unexplained.clone();
        while let Some(subject) = self.best(&unexplained) {
            let Some(group) = self.groups.get_mut(&subject) else { break };
            group.told = true;
            group.denied = false;
            let members: Vec<TestId> = group.members.iter().filter(|id| self.down.contains_key(id)).copied().collect();
            let shared = Shared {
                what: subject.clone(),
                down: members.len() as u64,
                of: group.members.len() as u64,
                example: members
                    .first()
                    .and_then(|id| self.tests.get(id))
                    .map_or(String::new(), |test| test.description.clone()),
            };
            outcome.changes.push(GroupChange::Raised(key(&subject), shared));
            for id in members {
                unexplained.remove(&id);
                outcome.affected.insert(id);
                self.let_go(id);
            }
        }
        // A group that an earlier run told may be explained by a wider one now.
        for id in considered {
            self.deny(id, outcome);
        }
        let over: Vec<TestId> = self.waits.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect();
        for id in over {
            outcome.affected.insert(id);
            self.let_go(id);
        }
    }

    /// The group that explains the most of what waits; of two that explain the same, the narrower
    /// in meaning: a host, this agent, a listener, a tag.
    fn best(&self, unexplained: &BTreeSet<TestId>) -> Option<Subject> {
        let hosts = self.groups.keys().filter(|subject| matches!(subject, Subject::Host(_))).count();
        let meaning = |subject: &Subject| match subject {
            Subject::Host(_) => 3,
            Subject::Agent => 2,
            Subject::Listener(_) => 1,
            Subject::Tag(_)
            | Subject::Store
            | Subject::Test(_)
            | Subject::Source(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Web(_) => 0,
        };
        let mut counts: BTreeMap<&Subject, usize> = BTreeMap::new();
        for id in unexplained {
            for (subject, _) in self.shares_of(*id) {
                *counts.entry(subject).or_default() += 1;
            }
        }
        counts
            .into_iter()
            .filter(|(_, explained)| *explained >= self.settings.group_min.max(1) as usize)
            .filter_map(|(subject, explained)| Some((subject, explained, self.groups.get(subject)?)))
            .filter(|(_, _, group)| self.is_candidate(group) && !group.told)
            .filter(|(subject, _, group)| {
                let share = group.down as f64 / group.members.len() as f64;
                // With tests from one host only, it may as well be that host.
                let isolated = hosts > 1 && group.down == group.members.len();
                if **subject == Subject::Agent { isolated } else { share >= self.settings.group_ratio }
            })
            .max_by_key(|(subject, explained, _)| (*explained, meaning(subject)))
            .map(|(subject, _, _)| subject.clone())
    }

    /// A told group is over. Its members that are down are to be seen again before they are told.
    fn end(&mut self, subject: &Subject, now: Moment, outcome: &mut Outcome) {
        let Some(group) = self.groups.get_mut(subject) else { return };
        group.told = false;
        group.denied = true;
        outcome.changes.push(GroupChange::Cleared(key(subject)));
        let members: Vec<TestId> = group.members.iter().filter(|id| self.down.contains_key(id)).copied().collect();
        for id in members {
            outcome.affected.insert(id);
            self.look_again(id, now);
        }
    }

    /// A test that was down as one of a group is to be seen again before it is told itself.
    fn look_again(&mut self, id: TestId, now: Moment) {
        if self.told_for(id).is_none() {
            let fresh_after = self.tests.get(&id).map_or(Duration::ZERO, |test| test.fresh_after);
            self.wait(id, now + fresh_after.max(self.settings.group_wait));
        }
    }

    /// Says of this test's groups that they are not told, if that was not said yet.
    fn deny(&mut self, id: TestId, outcome: &mut Outcome) {
        let shares: Vec<Subject> = self.shares_of(id).map(|(subject, _)| subject.clone()).collect();
        for subject in shares {
            if let Some(group) = self.groups.get_mut(&subject).filter(|group| !group.told && !group.denied) {
                group.denied = true;
                outcome.changes.push(GroupChange::Cleared(key(&subject)));
            }
        }
    }

    fn wait(&mut self, id: TestId, until: Moment) {
        self.let_go(id);
        if let Some(down) = self.down.get_mut(&id) {
            down.waits_until = Some(until);
            self.waits.insert((until, id));
        }
    }

    fn let_go(&mut self, id: TestId) {
        let Some(down) = self.down.get_mut(&id) else { return };
        let before = std::mem::take(down);
        self.stop_waiting(id, before);
    }

    fn stop_waiting(&mut self, id: TestId, down: Down) {
        if let Some(until) = down.waits_until {
            self.waits.remove(&(until, id));
        }
    }

    fn up_no_longer(&mut self, id: TestId) {
        if self.up.remove(&id) {
            self.each_group(id, |group| group.up -= 1);
        }
    }

    fn each_group(&mut self, id: TestId, change: impl Fn(&mut Group)) {
        let Some(test) = self.tests.get(&id) else { return };
        for subject in test.shares.iter().chain([&Subject::Agent]) {
            if let Some(group) = self.groups.get_mut(subject) {
                change(group);
            }
        }
    }

    fn shares_of(&self, id: TestId) -> impl Iterator<Item = (&Subject, &Group)> {
        let shares = self.tests.get(&id).into_iter().flat_map(|test| test.shares.iter().chain([&Subject::Agent]));
        shares.filter_map(|subject| Some((subject, self.groups.get(subject)?)))
    }

    fn told_for(&self, id: TestId) -> Option<&Subject> {
        self.shares_of(id).find(|(_, group)| group.told).map(|(subject, _)| subject)
    }

    fn all_are_down(&self) -> bool {
        self.groups.get(&Subject::Agent).is_some_and(|all| all.down == all.members.len() && self.is_candidate(all))
    }

    fn is_candidate(&self, group: &Group) -> bool {
        self.settings.group_min > 0 && group.members.len() >= self.settings.group_min as usize
    }

    /// Whether it could be told at all, if everything that is not known were down.
    fn can_be(&self, group: &Group) -> bool {
        let not_up = group.members.len() - group.up;
        self.is_candidate(group) && not_up as f64 >= self.settings.group_ratio * group.members.len() as f64
    }

    /// Half of what raised it is left.
    fn is_over(&self, group: &Group) -> bool {
        let few = (group.down as f64) < self.settings.group_ratio * group.members.len() as f64 / 2.0;
        group.down == 0 || few || !self.is_candidate(group)
    }
}

/// Under which key a group is told.
fn key(subject: &Subject) -> AlarmKey {
    let kind = if *subject == Subject::Agent { Kind::Isolated } else { Kind::Connection };
    AlarmKey::new(kind, subject.clone())
}

#[cfg(test)]
mod tests;
