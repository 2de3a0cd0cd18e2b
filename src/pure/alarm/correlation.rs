//! Correlation of tests that go down together: one group alarm names the subject that they have in common.
//!
//! A test that goes down waits for `group_wait` in case others follow. Then the fewest groups that explain the failed
//! tests are notified, and their members are suppressed. When a group is cleared, its members that are still down wait
//! once more, so that each is confirmed by fresh samples before it is notified. [`Groups`] is the state machine; each
//! event returns an [`GroupOutcome`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::notification::SuppressedBy;
use crate::pure::alarm::cause::{GroupDirection, GroupFault};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::Moment;
use crate::pure::test::id::TestId;

/// Settings that decide when a group is notified in place of its members.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupSettings {
    /// Time to wait for further members after a test went down.
    pub group_wait: Duration,
    /// Minimum number of members of a group, and of waiting tests that it must explain; 0 disables grouping.
    pub group_min: u32,
    /// Minimum share of a group's counted members that must be down, between 0 and 1.
    pub group_ratio: f64,
}

/// Subjects that a test has in common with others, and the time limits of its judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    /// Subjects in common with other tests: the sending host, the listener, the tags.
    pub shares: Vec<Subject>,
    /// Time within which fresh samples are certain to have decided whether the test is up again.
    pub fresh_after: Duration,
    /// Time within which a failure of the test is certain to have been detected.
    pub found_after: Duration,
    /// Direction of the test as seen from this host.
    pub direction: GroupDirection,
    /// Human-readable description of the test, used as an example in the group's text.
    pub description: String,
}

/// Change of a group's state that must be reported as an alarm change.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupChange {
    /// Members of the group went down together; carries the group's key and counts.
    Raised(AlarmKey, GroupFault),
    /// Group is cleared; also reported for a group that at most an earlier run of the agent can have raised.
    Cleared(AlarmKey),
}

/// Result of an event: groups that changed, and tests whose suppression changed.
#[derive(Debug, Default, PartialEq)]
pub struct GroupOutcome {
    /// Changes of groups, in the order in which they must be reported.
    pub changes: Vec<GroupChange>,
    /// Tests that are down and became suppressed, or are no longer suppressed.
    pub affected: BTreeSet<TestId>,
}

impl GroupOutcome {
    /// Appends the result of a later event to this one.
    pub fn join(&mut self, later: GroupOutcome) {
        self.changes.extend(later.changes);
        self.affected.extend(later.affected);
    }
}

/// Groups of one agent for one kind of alarm, with the state of each test in them.
#[derive(Debug)]
pub struct Groups {
    /// Kind of the grouped alarms: `connection` is grouped by sending host, listener and tags, `sender` by destination.
    kind: Kind,
    settings: GroupSettings,
    tests: BTreeMap<TestId, Member>,
    /// Groups by index, since each test is in several groups and subjects are long.
    groups: Vec<Group>,
    down: BTreeMap<TestId, Down>,
    up: BTreeSet<TestId>,
    /// Ends of the waits, in order of time, with the test that waits.
    waits: BTreeSet<(Moment, TestId)>,
    /// Excluded tests, which count neither as up nor as down: in maintenance, silenced, or with a drained host. The
    /// value is true if the test is up, which still matters because it can clear a group that an earlier run notified.
    excluded: BTreeMap<TestId, bool>,
}

/// Test with the indices of the groups that it belongs to.
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
    /// Direction of the members together.
    direction: GroupDirection,
    /// Number of members that are down, and number of members known to be up.
    down: usize,
    up: usize,
    /// Number of excluded members, and number of excluded members known to be up.
    excluded: usize,
    up_aside: usize,
    notified: bool,
    /// True once the group has been reported as cleared and not raised since. A group that this run never raised is
    /// reported once too, to clear a raise that an earlier run notified.
    clear_reported: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Down {
    /// Moment until which the test waits for others to go down; `None` if it does not wait.
    waits_until: Option<Moment>,
}

impl Groups {
    /// Creates an empty set of groups for alarms of this kind.
    pub fn new(kind: Kind, settings: GroupSettings) -> Self {
        Groups {
            kind,
            settings,
            tests: BTreeMap::new(),
            groups: Vec::new(),
            down: BTreeMap::new(),
            up: BTreeSet::new(),
            waits: BTreeSet::new(),
            excluded: BTreeMap::new(),
        }
    }

    /// Replaces the settings and the tests. A notified group stays notified as long as its members still justify that.
    pub fn on_tests(
        &mut self,
        settings: GroupSettings,
        tests: BTreeMap<TestId, Membership>,
        now: Moment,
    ) -> GroupOutcome {
        self.settings = settings;
        let before = std::mem::take(&mut self.groups);
        let mut numbers: BTreeMap<Subject, usize> = BTreeMap::new();
        self.tests.clear();
        for (id, membership) in tests {
            let mut groups = Vec::new();
            for subject in membership.shares.into_iter().chain([Subject::Agent]) {
                let number = *numbers.entry(subject.clone()).or_insert_with(|| {
                    self.groups.push(Group::new(subject, membership.direction));
                    self.groups.len() - 1
                });
                self.groups[number].add(id, membership.direction);
                groups.push(number);
            }
            let Membership { fresh_after, description, .. } = membership;
            self.tests.insert(id, Member { groups, fresh_after, description });
        }
        let known = &self.tests;
        self.down.retain(|id, _| known.contains_key(id));
        self.up.retain(|id| known.contains_key(id));
        self.excluded.retain(|id, _| known.contains_key(id));
        self.waits.retain(|(_, id)| known.contains_key(id));
        for group in &mut self.groups {
            group.down = group.members.iter().filter(|id| self.down.contains_key(id)).count();
            group.up = group.members.iter().filter(|id| self.up.contains(id)).count();
            group.excluded = group.members.iter().filter(|id| self.excluded.contains_key(id)).count();
            group.up_aside = group.members.iter().filter(|id| self.excluded.get(id) == Some(&true)).count();
        }
        let mut outcome = GroupOutcome::default();
        for earlier in before {
            match numbers.get(&earlier.subject) {
                Some(number) => {
                    let group = &mut self.groups[*number];
                    (group.notified, group.clear_reported) = (earlier.notified, earlier.clear_reported);
                }
                None if earlier.notified => outcome.changes.push(GroupChange::Cleared(self.key(&earlier.subject))),
                None => {}
            }
            if earlier.notified {
                // A test that has left the group was never notified by itself, so it must be confirmed first.
                let number = numbers.get(&earlier.subject);
                let left = |id: &TestId| {
                    let groups = self.tests.get(id).map(|test| &test.groups);
                    self.down.contains_key(id)
                        && groups.is_some_and(|groups| number.is_none_or(|n| !groups.contains(n)))
                };
                let leavers: Vec<TestId> = earlier.members.into_iter().filter(left).collect();
                leavers.into_iter().for_each(|id| self.await_fresh_samples(id, now));
            }
        }
        for number in 0..self.groups.len() {
            if self.groups[number].notified && self.must_clear(&self.groups[number]) {
                self.end(number, now, &mut outcome);
            }
        }
        outcome.affected.extend(self.down.keys());
        outcome
    }

    /// Records that a test went down. The test waits for others if one of its groups could be notified. If every test
    /// is down now, or `group_wait` is zero, the groups are decided at once.
    pub fn on_down(&mut self, id: TestId, now: Moment) -> GroupOutcome {
        let mut outcome = GroupOutcome::default();
        self.no_longer_up(id);
        let counts = self.tests.contains_key(&id) && !self.excluded.contains_key(&id);
        self.note_excluded(id, false);
        // A test that is already down keeps the end of its wait.
        if !counts || self.down.contains_key(&id) {
            return outcome;
        }
        self.down.insert(id, Down::default());
        self.each_group(id, |group| group.down += 1);
        outcome.affected.insert(id);
        if self.groups_of(id).any(|group| self.is_candidate(group)) && self.notified_for(id).is_none() {
            self.hold(id, now + self.settings.group_wait);
        }
        if self.settings.group_wait.is_zero() || self.all_are_down() {
            self.decide(now, &mut outcome);
        }
        outcome
    }

    /// Records that a test came up, and clears the groups that too few members are down for, including those that only
    /// an earlier run can have raised.
    pub fn on_up(&mut self, id: TestId, now: Moment) -> GroupOutcome {
        let mut outcome = GroupOutcome::default();
        if !self.tests.contains_key(&id) {
            return outcome;
        }
        if self.note_excluded(id, true) {
            for number in self.group_indices(id) {
                if !self.groups[number].notified && !self.could_be_raised(&self.groups[number]) {
                    self.report_cleared(number, &mut outcome);
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
        for number in self.group_indices(id) {
            let group = &self.groups[number];
            if group.notified && self.must_clear(group) {
                self.end(number, now, &mut outcome);
            } else if !self.could_be_raised(group) {
                self.report_cleared(number, &mut outcome);
            }
        }
        outcome
    }

    /// Removes what is known about a test's state, as if it had come up and then become unknown.
    pub fn on_gone(&mut self, id: TestId, now: Moment) -> GroupOutcome {
        let outcome = self.on_up(id, now);
        self.no_longer_up(id);
        outcome
    }

    /// Records that a probe of a test is overdue: the test no longer counts as up but is not down yet.
    pub fn on_overdue(&mut self, id: TestId) {
        self.no_longer_up(id);
        self.note_excluded(id, false);
    }

    /// Records whether an excluded test is up. Returns false if the test is not excluded.
    fn note_excluded(&mut self, id: TestId, is_up: bool) -> bool {
        let Some(was_up) = self.excluded.get_mut(&id) else { return false };
        match (std::mem::replace(was_up, is_up), is_up) {
            (false, true) => self.each_group(id, |group| group.up_aside += 1),
            (true, false) => self.each_group(id, |group| group.up_aside -= 1),
            (true, true) | (false, false) => {}
        }
        true
    }

    /// Excludes a shelved test from the counts, or includes it again. A test that is part of a notified group is not
    /// excluded, since that would clear the group falsely. After including a test, the caller must report its state.
    pub fn set_excluded(&mut self, id: TestId, excluded: bool) {
        if !self.tests.contains_key(&id) || self.excluded.contains_key(&id) == excluded {
            return;
        }
        if !excluded {
            self.note_excluded(id, false);
            self.excluded.remove(&id);
            self.each_group(id, |group| group.excluded -= 1);
            return;
        }
        if self.notified_for(id).is_some() {
            return;
        }
        let was_up = self.up.contains(&id);
        self.no_longer_up(id);
        if let Some(down) = self.down.remove(&id) {
            self.stop_waiting(id, down);
            self.each_group(id, |group| group.down -= 1);
        }
        self.excluded.insert(id, false);
        self.each_group(id, |group| group.excluded += 1);
        self.note_excluded(id, was_up);
    }

    /// Returns the current counts of the group of this key while it is notified.
    pub fn shared(&self, of: &AlarmKey) -> Option<GroupFault> {
        let group = self.groups.iter().find(|group| group.notified && self.key(&group.subject) == *of)?;
        Some(self.shared_by(group))
    }

    /// Returns the keys of the notified groups that a test is part of.
    pub fn notified_with(&self, id: TestId) -> impl Iterator<Item = AlarmKey> {
        self.groups_of(id).filter(|group| group.notified).map(|group| self.key(&group.subject))
    }

    /// Returns the members that are down of the group with this key.
    pub fn down_of(&self, of: &AlarmKey) -> impl Iterator<Item = TestId> {
        let group = self.groups.iter().find(|group| self.key(&group.subject) == *of);
        group.into_iter().flat_map(|group| &group.members).filter(|id| self.down.contains_key(id)).copied()
    }

    fn shared_by(&self, group: &Group) -> GroupFault {
        let first = group.members.iter().find(|id| self.down.contains_key(id)).copied();
        let example = first.and_then(|id| self.tests.get(&id));
        GroupFault {
            kind: self.kind,
            subject: group.subject.clone(),
            down: group.down as u64,
            total: group.counted() as u64,
            direction: group.direction,
            first,
            example: example.map_or(String::new(), |test| test.description.clone()),
            announced_stop: false,
        }
    }

    /// Processes the waits that are due at `now`, which may raise groups and release tests.
    pub fn on_time(&mut self, now: Moment) -> GroupOutcome {
        let mut outcome = GroupOutcome::default();
        if self.waits.first().is_some_and(|(until, _)| *until <= now) {
            self.decide(now, &mut outcome);
        }
        outcome
    }

    /// Returns the moment at which `on_time` must be called next; `None` if no test waits.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.waits.first().map(|(until, _)| *until)
    }

    /// Returns the reason for which a test that is down is suppressed; `None` if it is not down or not suppressed.
    pub fn suppressed_by(&self, id: TestId) -> Option<SuppressedBy> {
        let down = self.down.get(&id)?;
        match self.notified_for(id) {
            Some(group) => Some(SuppressedBy::Group { group: self.key(&group.subject).to_string() }),
            None => down.waits_until.map(|_| SuppressedBy::Waiting),
        }
    }

    /// Returns, among the other tests from the same host, the number that are up and the number that count.
    pub fn others_from_host(&self, id: TestId) -> Option<(usize, usize)> {
        let group = self.groups_of(id).find(|group| matches!(group.subject, Subject::Host(_)))?;
        let own = usize::from(self.up.contains(&id));
        let counts = usize::from(!self.excluded.contains_key(&id));
        Some((group.up - own, group.counted() - counts))
    }

    /// Returns the keys of all group alarms that could be raised with the current tests and settings.
    pub fn keys(&self) -> impl Iterator<Item = AlarmKey> {
        self.groups.iter().filter(|group| self.is_candidate(group)).map(|group| self.key(&group.subject))
    }

    /// Raises the fewest groups that explain the waiting tests, and releases the remaining tests whose wait is due.
    fn decide(&mut self, now: Moment, outcome: &mut GroupOutcome) {
        // Waiting tests are not notified yet, including those whose wait began later than the due one.
        let considered: BTreeSet<TestId> = self.waits.iter().map(|(_, id)| *id).collect();
        for number in self.explanation(&considered) {
            let group = &mut self.groups[number];
            group.notified = true;
            group.clear_reported = false;
            let members: Vec<TestId> = group.members.iter().filter(|id| self.down.contains_key(id)).copied().collect();
            let shared = self.shared_by(&self.groups[number]);
            outcome.changes.push(GroupChange::Raised(self.key(&shared.subject), shared));
            for id in members {
                // A member that was waiting stays suppressed, so its suppression does not change.
                if self.down.get(&id).is_some_and(|down| down.waits_until.is_none()) {
                    outcome.affected.insert(id);
                }
                self.release(id);
            }
        }
        // A narrower group from an earlier run may now be explained by a wider one, so clear it.
        for id in considered {
            self.group_indices(id).into_iter().for_each(|number| self.report_cleared(number, outcome));
        }
        let over: Vec<TestId> = self.waits.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect();
        for id in over {
            outcome.affected.insert(id);
            self.release(id);
        }
    }

    /// Returns the indices of the groups that explain the waiting tests. If all tests are down and they come from more
    /// than one host, that is the agent group alone, regardless of the groups notified before. Otherwise the group that
    /// explains most of the waiting tests is chosen first, then the one that explains most of the rest; among equals, a
    /// host takes precedence over a listener, and a listener over a tag.
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
        // Number of the remaining tests that each group would explain.
        let mut explains: BTreeMap<usize, usize> = BTreeMap::new();
        for id in waiting {
            for number in self.group_indices(*id) {
                if self.may_be_notified(&self.groups[number]) {
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
                for share in self.group_indices(id) {
                    if let Some(explained) = explains.get_mut(&share) {
                        *explained -= 1;
                    }
                }
            }
        }
        chosen
    }

    fn may_be_notified(&self, group: &Group) -> bool {
        let enough = group.down as f64 >= self.settings.group_ratio * group.counted() as f64;
        group.subject != Subject::Agent && self.is_candidate(group) && !group.notified && enough
    }

    /// Clears a notified group. Its members that are down must be confirmed before they are notified.
    fn end(&mut self, number: usize, now: Moment, outcome: &mut GroupOutcome) {
        let group = &mut self.groups[number];
        group.notified = false;
        group.clear_reported = true;
        let group = &self.groups[number];
        outcome.changes.push(GroupChange::Cleared(self.key(&group.subject)));
        let members: Vec<TestId> = group.members.iter().filter(|id| self.down.contains_key(id)).copied().collect();
        for id in members {
            self.await_fresh_samples(id, now);
            // A member that begins to wait now remains suppressed, so its suppression does not change.
            if self.suppressed_by(id).is_none() {
                outcome.affected.insert(id);
            }
        }
    }

    /// Makes a former group member that is down wait for fresh samples before it is notified by itself.
    fn await_fresh_samples(&mut self, id: TestId, now: Moment) {
        if self.notified_for(id).is_none() {
            let fresh_after = self.tests.get(&id).map_or(Duration::ZERO, |test| test.fresh_after);
            self.hold(id, now + fresh_after.max(self.settings.group_wait));
        }
    }

    /// Reports a group as cleared unless it is notified or was reported so before. Groups below the minimum size are
    /// skipped, because they can never have been notified.
    fn report_cleared(&mut self, number: usize, outcome: &mut GroupOutcome) {
        let group = &self.groups[number];
        if !group.notified && !group.clear_reported && self.is_candidate(group) {
            outcome.changes.push(GroupChange::Cleared(self.key(&group.subject)));
            self.groups[number].clear_reported = true;
        }
    }

    fn hold(&mut self, id: TestId, until: Moment) {
        self.release(id);
        if let Some(down) = self.down.get_mut(&id) {
            down.waits_until = Some(until);
            self.waits.insert((until, id));
        }
    }

    fn release(&mut self, id: TestId) {
        let Some(down) = self.down.get_mut(&id) else { return };
        let before = std::mem::take(down);
        self.stop_waiting(id, before);
    }

    fn stop_waiting(&mut self, id: TestId, down: Down) {
        if let Some(until) = down.waits_until {
            self.waits.remove(&(until, id));
        }
    }

    fn no_longer_up(&mut self, id: TestId) {
        if self.up.remove(&id) {
            self.each_group(id, |group| group.up -= 1);
        }
    }

    fn each_group(&mut self, id: TestId, change: impl Fn(&mut Group)) {
        if let Some(test) = self.tests.get(&id) {
            test.groups.iter().for_each(|number| change(&mut self.groups[*number]));
        }
    }

    fn group_indices(&self, id: TestId) -> Vec<usize> {
        self.tests.get(&id).map_or(Vec::new(), |test| test.groups.clone())
    }

    fn groups_of(&self, id: TestId) -> impl Iterator<Item = &Group> {
        self.tests.get(&id).into_iter().flat_map(|test| &test.groups).map(|number| &self.groups[*number])
    }

    fn notified_for(&self, id: TestId) -> Option<&Group> {
        self.groups_of(id).find(|group| group.notified)
    }

    fn all_are_down(&self) -> bool {
        let counted = self.tests.len() - self.excluded.len();
        self.down.len() == counted && self.settings.group_min as usize <= counted
    }

    fn is_candidate(&self, group: &Group) -> bool {
        self.settings.group_min > 0 && group.members.len() >= self.settings.group_min as usize
    }

    /// Returns whether the group could be notified if every test of unknown state were down.
    fn could_be_raised(&self, group: &Group) -> bool {
        let not_up = group.members.len() - group.up - group.up_aside;
        self.is_candidate(group) && not_up as f64 >= self.settings.group_ratio * group.members.len() as f64
    }

    /// Returns whether a notified group must be cleared because the share of members down is now below the limit. The
    /// agent group, which means isolation, ends as soon as one test is up; tests of unknown state do not end it.
    fn must_clear(&self, group: &Group) -> bool {
        if group.subject == Subject::Agent {
            return group.up > 0 || group.down == 0 || !self.is_candidate(group);
        }
        let few = (group.down as f64) < self.settings.group_ratio * group.counted() as f64;
        group.down == 0 || few || !self.is_candidate(group)
    }

    /// Returns the alarm key under which a group is notified.
    fn key(&self, subject: &Subject) -> AlarmKey {
        let isolated = self.kind == Kind::Connection && *subject == Subject::Agent;
        AlarmKey::new(if isolated { Kind::Isolated } else { self.kind }, subject.clone())
    }
}

impl Group {
    fn new(subject: Subject, direction: GroupDirection) -> Self {
        Group {
            subject,
            members: Vec::new(),
            direction,
            down: 0,
            up: 0,
            excluded: 0,
            up_aside: 0,
            notified: false,
            clear_reported: false,
        }
    }

    fn add(&mut self, id: TestId, direction: GroupDirection) {
        self.members.push(id);
        self.direction = self.direction.join(direction);
    }

    /// Returns the number of members that count, which leaves out the excluded ones.
    fn counted(&self) -> usize {
        self.members.len() - self.excluded
    }
}

#[cfg(test)]
mod tests;
