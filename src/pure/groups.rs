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
    /// In this time fresh samples are sure to have decided whether it is good again.
    pub fresh_after: Duration,
    /// In this time its failure is sure to have been found.
    pub found_after: Duration,
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
    /// Tests that are down and are kept back now, or no longer.
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
    /// The kind of alarms that are grouped: connections by what they come from and end at, senders by where they send.
    kind: Kind,
    settings: GroupSettings,
    tests: BTreeMap<TestId, Member>,
    /// By number, since each test is in several and names are long.
    groups: Vec<Group>,
    down: BTreeMap<TestId, Down>,
    up: BTreeSet<TestId>,
    /// When waiting ends, by test.
    waits: BTreeSet<(Moment, TestId)>,
    /// Tests that count neither way: they are in maintenance, silenced, or their host is drained. Whether they are up
    /// is known all the same: it takes back what an earlier run told of their groups.
    aside: BTreeMap<TestId, bool>,
}

/// A test, and the numbers of its groups.
#[derive(Debug)]
struct Member {
    groups: Vec<usize>,
    fresh_after: Duration,
    description: String,
}

#[derive(Debug)]
struct Group {
    subject: Subject,
    members: Vec<TestId>,
    /// How many of them are down, and how many are known to be up.
    down: usize,
    up: usize,
    /// How many of them count neither way, and how many of those are known to be up.
    aside: usize,
    up_aside: usize,
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
    /// No tests. Alarms of this kind are grouped.
    pub fn new(kind: Kind, settings: GroupSettings) -> Self {
        Groups {
            kind,
            settings,
            tests: BTreeMap::new(),
            groups: Vec::new(),
            down: BTreeMap::new(),
            up: BTreeSet::new(),
            waits: BTreeSet::new(),
            aside: BTreeMap::new(),
        }
    }

    /// Other settings, other tests. What was told stays told as far as it still can be.
    pub fn on_tests(&mut self, settings: GroupSettings, tests: BTreeMap<TestId, Membership>, now: Moment) -> Outcome {
        self.settings = settings;
        let before = std::mem::take(&mut self.groups);
        let mut numbers: BTreeMap<Subject, usize> = BTreeMap::new();
        self.tests.clear();
        for (id, membership) in tests {
            let mut groups = Vec::new();
            for subject in membership.shares.into_iter().chain([Subject::Agent]) {
                let number = *numbers.entry(subject.clone()).or_insert_with(|| {
                    self.groups.push(Group::new(subject));
                    self.groups.len() - 1
                });
                self.groups[number].members.push(id);
                groups.push(number);
            }
            let Membership { fresh_after, description, .. } = membership;
            self.tests.insert(id, Member { groups, fresh_after, description });
        }
        let known = &self.tests;
        self.down.retain(|id, _| known.contains_key(id));
        self.up.retain(|id| known.contains_key(id));
        self.aside.retain(|id, _| known.contains_key(id));
        self.waits.retain(|(_, id)| known.contains_key(id));
        for group in &mut self.groups {
            group.down = group.members.iter().filter(|id| self.down.contains_key(id)).count();
            group.up = group.members.iter().filter(|id| self.up.contains(id)).count();
            group.aside = group.members.iter().filter(|id| self.aside.contains_key(id)).count();
            group.up_aside = group.members.iter().filter(|id| self.aside.get(id) == Some(&true)).count();
        }
        let mut outcome = Outcome::default();
        for earlier in before {
            match numbers.get(&earlier.subject) {
                Some(number) => {
                    let group = &mut self.groups[*number];
                    (group.told, group.denied) = (earlier.told, earlier.denied);
                }
                None if earlier.told => outcome.changes.push(GroupChange::Cleared(self.key(&earlier.subject))),
                None => {}
            }
            if earlier.told {
                // Whoever is no member any more was never told himself.
                let number = numbers.get(&earlier.subject);
                let left = |id: &TestId| {
                    let groups = self.tests.get(id).map(|test| &test.groups);
                    self.down.contains_key(id)
                        && groups.is_some_and(|groups| number.is_none_or(|n| !groups.contains(n)))
                };
                let leavers: Vec<TestId> = earlier.members.into_iter().filter(left).collect();
                leavers.into_iter().for_each(|id| self.look_again(id, now));
            }
        }
        for number in 0..self.groups.len() {
            if self.groups[number].told && self.is_over(&self.groups[number]) {
                self.end(number, now, &mut outcome);
            }
        }
        outcome.affected.extend(self.down.keys());
        outcome
    }

    /// A test went down.
    pub fn on_down(&mut self, id: TestId, now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        self.up_no_longer(id);
        let counts = self.tests.contains_key(&id) && !self.aside.contains_key(&id);
        self.note_aside(id, false);
        // A test that is known to be down keeps the end of its waiting.
        if !counts || self.down.contains_key(&id) {
            return outcome;
        }
        self.down.insert(id, Down::default());
        self.each_group(id, |group| group.down += 1);
        outcome.affected.insert(id);
        if self.groups_of(id).any(|group| self.is_candidate(group)) && self.told_for(id).is_none() {
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
        if self.note_aside(id, true) {
            for number in self.numbers_of(id) {
                if !self.groups[number].told && !self.can_be(&self.groups[number]) {
                    self.deny(number, &mut outcome);
                }
            }
            return outcome;
        }
        if let Some(down) = self.down.remove(&id) {
            self.stop_waiting(id, down);
            self.each_group(id, |group| group.down -= 1);
        }
        if self.up.insert(id) {
            self.each_group(id, |group| group.up += 1);
        }
        for number in self.numbers_of(id) {
            let group = &self.groups[number];
            if group.told && self.is_over(group) {
                self.end(number, now, &mut outcome);
            } else if !self.can_be(group) {
                self.deny(number, &mut outcome);
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

    /// A probe of a test is overdue: it no longer counts as one that gets through, and not yet as down.
    pub fn on_overdue(&mut self, id: TestId) {
        self.up_no_longer(id);
        self.note_aside(id, false);
    }

    /// Notes how a test stands that counts neither way. False if it counts.
    fn note_aside(&mut self, id: TestId, is_up: bool) -> bool {
        let Some(was_up) = self.aside.get_mut(&id) else { return false };
        match (std::mem::replace(was_up, is_up), is_up) {
            (false, true) => self.each_group(id, |group| group.up_aside += 1),
            (true, false) => self.each_group(id, |group| group.up_aside -= 1),
            (true, true) | (false, false) => {}
        }
        true
    }

    /// A test is shelved, or no longer: meanwhile it counts neither way. One that is part of a group that is told
    /// stays, since the end of that group would be a false one. Whoever takes a test back says how it stands.
    pub fn set_aside(&mut self, id: TestId, aside: bool) {
        if !self.tests.contains_key(&id) || self.aside.contains_key(&id) == aside {
            return;
        }
        if !aside {
            self.note_aside(id, false);
            self.aside.remove(&id);
            self.each_group(id, |group| group.aside -= 1);
            return;
        }
        if self.told_for(id).is_some() {
            return;
        }
        let was_up = self.up.contains(&id);
        self.up_no_longer(id);
        if let Some(down) = self.down.remove(&id) {
            self.stop_waiting(id, down);
            self.each_group(id, |group| group.down -= 1);
        }
        self.aside.insert(id, false);
        self.each_group(id, |group| group.aside += 1);
        self.note_aside(id, was_up);
    }

    /// Returns the current counts of the group of this key while it is notified.
    pub fn shared(&self, of: &AlarmKey) -> Option<Shared> {
        let group = self.groups.iter().find(|group| group.told && self.key(&group.subject) == *of)?;
        Some(self.shared_by(group))
    }

    /// The groups that are told and that a test is part of.
    pub fn told_with(&self, id: TestId) -> impl Iterator<Item = AlarmKey> {
        self.groups_of(id).filter(|group| group.told).map(|group| self.key(&group.subject))
    }

    /// The tests of a group that are down.
    pub fn down_of(&self, of: &AlarmKey) -> impl Iterator<Item = TestId> {
        let group = self.groups.iter().find(|group| self.key(&group.subject) == *of);
        group.into_iter().flat_map(|group| &group.members).filter(|id| self.down.contains_key(id)).copied()
    }

    fn shared_by(&self, group: &Group) -> Shared {
        let first = group.members.iter().find(|id| self.down.contains_key(id)).copied();
        let example = first.and_then(|id| self.tests.get(&id));
        Shared {
            kind: self.kind,
            what: group.subject.clone(),
            down: group.down as u64,
            of: group.counted() as u64,
            first,
            example: example.map_or(String::new(), |test| test.description.clone()),
            announced_stop: false,
        }
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
            Some(group) => Some(Withheld::Group { group: self.key(&group.subject).to_string() }),
            None => down.waits_until.map(|_| Withheld::Waiting),
        }
    }

    /// Of the other tests that come from the same host: how many get through, and how many there are.
    pub fn others_from_host(&self, id: TestId) -> Option<(usize, usize)> {
        let group = self.groups_of(id).find(|group| matches!(group.subject, Subject::Host(_)))?;
        let own = usize::from(self.up.contains(&id));
        let counts = usize::from(!self.aside.contains_key(&id));
        Some((group.up - own, group.counted() - counts))
    }

    /// The alarms that groups can be.
    pub fn keys(&self) -> impl Iterator<Item = AlarmKey> {
        self.groups.iter().filter(|group| self.is_candidate(group)).map(|group| self.key(&group.subject))
    }

    /// Tells the fewest groups that explain what went down, and lets the others be told themselves.
    fn decide(&mut self, now: Moment, outcome: &mut Outcome) {
        // Those that wait were not told; so were those that began to wait a moment later.
        let considered: BTreeSet<TestId> = self.waits.iter().map(|(_, id)| *id).collect();
        for number in self.explanation(&considered) {
            let group = &mut self.groups[number];
            group.told = true;
            group.denied = false;
            let members: Vec<TestId> = group.members.iter().filter(|id| self.down.contains_key(id)).copied().collect();
            let shared = self.shared_by(&self.groups[number]);
            outcome.changes.push(GroupChange::Raised(self.key(&shared.what), shared));
            for id in members {
                // One that waited is kept back as before.
                if self.down.get(&id).is_some_and(|down| down.waits_until.is_none()) {
                    outcome.affected.insert(id);
                }
                self.let_go(id);
            }
        }
        // A group that an earlier run told may be explained by a wider one now.
        for id in considered {
            self.numbers_of(id).into_iter().for_each(|number| self.deny(number, outcome));
        }
        let over: Vec<TestId> = self.waits.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect();
        for id in over {
            outcome.affected.insert(id);
            self.let_go(id);
        }
    }

    /// Everything down, from more than one host, is this agent, whatever was told before. Else the
    /// group that explains the most of what waits, and again of what is left; of two that explain
    /// the same, the narrower in meaning: a host, a listener, a tag.
    fn explanation(&self, waiting: &BTreeSet<TestId>) -> Vec<usize> {
        let hosts = self.groups.iter().filter(|group| matches!(group.subject, Subject::Host(_))).take(2).count();
        let agent = self.groups.iter().position(|group| group.subject == Subject::Agent);
        if let Some(agent) = agent.filter(|_| hosts > 1 && self.all_are_down() && !waiting.is_empty()) {
            return vec![agent];
        }
        let meaning = |group: &Group| match group.subject {
            Subject::Host(_) => 2,
            Subject::Listener(_) => 1,
            Subject::Agent
            | Subject::Tag(_)
            | Subject::Store
            | Subject::Test(_)
            | Subject::Answers(_)
            | Subject::Source(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Configuration
            | Subject::Web(_) => 0,
        };
        let mut left = waiting.clone();
        // How many of those that are left each group would explain.
        let mut explains: BTreeMap<usize, usize> = BTreeMap::new();
        for id in waiting {
            for number in self.numbers_of(*id) {
                if self.may_be_told(&self.groups[number]) {
                    *explains.entry(number).or_default() += 1;
                }
            }
        }
        let least = self.settings.group_min.max(1) as usize;
        let mut chosen = Vec::new();
        let most = |explains: &BTreeMap<usize, usize>| {
            let enough = explains.iter().filter(|(_, explained)| **explained >= least);
            enough.max_by_key(|(number, explained)| (**explained, meaning(&self.groups[**number]))).map(|(n, _)| *n)
        };
        while let Some(number) = most(&explains) {
            chosen.push(number);
            explains.remove(&number);
            for id in self.groups[number].members.iter().filter(|id| left.remove(id)).copied().collect::<Vec<_>>() {
                for share in self.numbers_of(id) {
                    if let Some(explained) = explains.get_mut(&share) {
                        *explained -= 1;
                    }
                }
            }
        }
        chosen
    }

    fn may_be_told(&self, group: &Group) -> bool {
        let enough = group.down as f64 >= self.settings.group_ratio * group.counted() as f64;
        group.subject != Subject::Agent && self.is_candidate(group) && !group.told && enough
    }

    /// A told group is over. Its members that are down are to be seen again before they are told.
    fn end(&mut self, number: usize, now: Moment, outcome: &mut Outcome) {
        let group = &mut self.groups[number];
        group.told = false;
        group.denied = true;
        let group = &self.groups[number];
        outcome.changes.push(GroupChange::Cleared(self.key(&group.subject)));
        let members: Vec<TestId> = group.members.iter().filter(|id| self.down.contains_key(id)).copied().collect();
        for id in members {
            self.look_again(id, now);
            // One that waits from now on is kept back as before.
            if self.withheld(id).is_none() {
                outcome.affected.insert(id);
            }
        }
    }

    /// A test that was down as one of a group is to be seen again before it is told itself.
    fn look_again(&mut self, id: TestId, now: Moment) {
        if self.told_for(id).is_none() {
            let fresh_after = self.tests.get(&id).map_or(Duration::ZERO, |test| test.fresh_after);
            self.wait(id, now + fresh_after.max(self.settings.group_wait));
        }
    }

    /// Says of a group that it is not told, if that was not said yet. Nobody was told of one that is
    /// too small to be one.
    fn deny(&mut self, number: usize, outcome: &mut Outcome) {
        let group = &self.groups[number];
        if !group.told && !group.denied && self.is_candidate(group) {
            outcome.changes.push(GroupChange::Cleared(self.key(&group.subject)));
            self.groups[number].denied = true;
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
        if let Some(test) = self.tests.get(&id) {
            test.groups.iter().for_each(|number| change(&mut self.groups[*number]));
        }
    }

    fn numbers_of(&self, id: TestId) -> Vec<usize> {
        self.tests.get(&id).map_or(Vec::new(), |test| test.groups.clone())
    }

    fn groups_of(&self, id: TestId) -> impl Iterator<Item = &Group> {
        self.tests.get(&id).into_iter().flat_map(|test| &test.groups).map(|number| &self.groups[*number])
    }

    fn told_for(&self, id: TestId) -> Option<&Group> {
        self.groups_of(id).find(|group| group.told)
    }

    fn all_are_down(&self) -> bool {
        let counted = self.tests.len() - self.aside.len();
        self.down.len() == counted && self.settings.group_min as usize <= counted
    }

    fn is_candidate(&self, group: &Group) -> bool {
        self.settings.group_min > 0 && group.members.len() >= self.settings.group_min as usize
    }

    /// Whether it could be told at all, if everything that is not known were down.
    fn can_be(&self, group: &Group) -> bool {
        let not_up = group.members.len() - group.up - group.up_aside;
        self.is_candidate(group) && not_up as f64 >= self.settings.group_ratio * group.members.len() as f64
    }

    /// A group is over when it is no longer nearly whole: the share that raised it is not down any more. Nobody is
    /// isolated who hears anybody; a test of which nothing is known yet says nothing of that.
    fn is_over(&self, group: &Group) -> bool {
        if group.subject == Subject::Agent {
            return group.up > 0 || group.down == 0 || !self.is_candidate(group);
        }
        let few = (group.down as f64) < self.settings.group_ratio * group.counted() as f64;
        group.down == 0 || few || !self.is_candidate(group)
    }

    /// Under which key a group is told.
    fn key(&self, subject: &Subject) -> AlarmKey {
        let isolated = self.kind == Kind::Connection && *subject == Subject::Agent;
        AlarmKey::new(if isolated { Kind::Isolated } else { self.kind }, subject.clone())
    }
}

impl Group {
    fn new(subject: Subject) -> Self {
        Group { subject, members: Vec::new(), down: 0, up: 0, aside: 0, up_aside: 0, told: false, denied: false }
    }

    /// How many of its tests count.
    fn counted(&self) -> usize {
        self.members.len() - self.aside
    }
}

#[cfg(test)]
mod tests;
