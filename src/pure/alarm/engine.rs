//! Alarm engine: derives from conditions which alarms are raised, and which of them are suppressed.
//!
//! `AlarmEngine` combines the alarm list with correlation, explanations and shelving. It is pure: each method takes the
//! time, and returns the alarms whose notification may have to change.

mod remarks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::correlation::{GroupChange, GroupOutcome, GroupSettings, Groups, Membership};
use super::explanations::{Explanations, MEASURED};
use super::fault_group::FaultGroup;
use super::inventory::{AlarmInventory, Reporters};
use super::list::{AlarmEffect, AlarmList, cleared_notification};
use super::notification::{AlarmStatus, Notification, SuppressedBy};
use super::shelving::{Shelving, Silence, Window};
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Moment, Now};
use crate::pure::clock::attribution::ClockAttribution;
use crate::pure::notify::log::HoldDown;
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;

/// Alarm settings of the documents, except for those of receivers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Damping of alarms that are not about one test.
    pub hold_down: HoldDown,
    /// Facts of the tests of this host, with the damping of their alarms.
    pub tests: BTreeMap<TestId, (Arc<TestFacts>, HoldDown)>,
    /// Settings of groups, whose alarm is notified instead of their members.
    pub group: GroupSettings,
    /// Tests that are judged here, with what they share.
    pub members: BTreeMap<TestId, Membership>,
    /// Tests that start here, with what they share.
    pub sent: BTreeMap<TestId, Membership>,
    /// Maintenance windows, in which alarms are suppressed.
    pub windows: Vec<Window>,
    /// Hosts that are drained, and whose alarms are suppressed.
    pub drained: BTreeSet<String>,
}

/// Alarms of an agent, with everything that may suppress them.
#[derive(Debug)]
pub struct AlarmEngine {
    agent: String,
    list: AlarmList,
    /// Alarms that can be raised and subjects that can report under the plan in force; `None` before the first plan.
    expected: Option<(AlarmInventory, Arc<Reporters>)>,
    clock_attribution: ClockAttribution,
    /// Groups of connection alarms that share a host, a listener or a tag.
    connection_groups: Groups,
    /// Groups of alarms about probes that cannot be sent to the same host.
    sender_groups: Groups,
    fault_group: FaultGroup,
    explanations: Explanations,
    shelving: Shelving,
    rules: Arc<Rules>,
    /// Times after which the tests from a host detect that it is gone, and confirm that it is back.
    hosts: BTreeMap<String, ReactionTimes>,
    /// Times after which the tests to each host confirm that their probes arrive.
    receivers: BTreeMap<String, ReactionTimes>,
    /// Hosts of which a test has changed its state, so that the remarks of their other tests are outdated.
    outdated_remarks: BTreeSet<String>,
}

/// Times after which the tests of one host detect a failure and confirm its end.
#[derive(Clone, Copy, Debug)]
struct ReactionTimes {
    found_after: Duration,
    fresh_after: Duration,
}

impl AlarmEngine {
    /// Creates the engine of an agent, without alarms. Groups and shelving are set up by the first `on_rules`.
    pub fn new(agent: String, rules: impl Into<Arc<Rules>>) -> Self {
        let rules = Arc::unwrap_or_clone(rules.into());
        let bare = Rules {
            members: BTreeMap::new(),
            sent: BTreeMap::new(),
            windows: Vec::new(),
            drained: BTreeSet::new(),
            ..rules
        };
        AlarmEngine {
            list: AlarmList::new(agent.clone()),
            agent,
            expected: None,
            clock_attribution: ClockAttribution::default(),
            connection_groups: Groups::new(Kind::Connection, rules.group),
            sender_groups: Groups::new(Kind::Sender, rules.group),
            fault_group: FaultGroup::new(rules.group),
            explanations: Explanations::default(),
            shelving: Shelving::default(),
            rules: Arc::new(bare),
            hosts: BTreeMap::new(),
            receivers: BTreeMap::new(),
            outdated_remarks: BTreeSet::new(),
        }
    }

    /// Takes in a change of a condition. Returns the alarms whose state, text or suppression may have changed. A report
    /// of a test that was removed meanwhile is dropped, because its alarm would never be cleared.
    pub fn on_change(&mut self, change: &ConditionChange, now: Now) -> Vec<AlarmStatus> {
        if !self.expects(change) {
            return Vec::new();
        }
        if change.key.kind != Kind::Clock {
            return self.on_attributed(change, now);
        }
        let attributed = self.clock_attribution.on_change(change.clone());
        attributed.iter().flat_map(|change| self.on_attributed(change, now)).collect()
    }

    /// Returns whether a report belongs to the plan in force. Faults are reported before the plan that names them, and
    /// parts of the agent other than tests and listeners always exist.
    fn expects(&self, change: &ConditionChange) -> bool {
        let Some((possible, reporters)) = &self.expected else { return true };
        let is_of_plan = matches!(change.reporter, Subject::Test(_) | Subject::Answers(_) | Subject::Listener(_));
        !is_of_plan
            || change.key.kind == Kind::Config
            || reporters.contains_key(&change.reporter) && possible.contains(&change.key)
    }

    /// Takes in a change of a condition, if it is about a clock one that was attributed to this host or another.
    fn on_attributed(&mut self, change: &ConditionChange, now: Now) -> Vec<AlarmStatus> {
        let connection = change.key.test().filter(|_| change.key.kind == Kind::Connection);
        if let Some(id) = connection {
            self.outdated_remarks.extend(self.peer_of(id, change.test.as_deref()));
        }
        let notification = match (self.list.on_change(change), &change.verdict) {
            (AlarmEffect::State(notification), _) => notification,
            (AlarmEffect::Text(notification), _) => return vec![self.alarm_status(&notification, now)],
            (AlarmEffect::Nothing, verdict) => {
                let outcome = match (connection, verdict) {
                    (Some(id), Verdict::Overdue) => {
                        self.connection_groups.on_overdue(id);
                        GroupOutcome::default()
                    }
                    // The probe was overdue and arrived after all: the test is up as before.
                    (Some(id), Verdict::Cleared) => self.connection_groups.on_up(id, now.moment),
                    (_, _) => GroupOutcome::default(),
                };
                return self.apply(outcome, BTreeSet::new(), now);
            }
        };
        let mut keys = BTreeSet::from([notification.key.clone()]);
        keys.extend(self.explain(&notification, now));
        let outcome = self.count(&notification, now);
        keys.extend(outcome.1);
        self.apply(outcome.0, keys, now)
    }

    /// Updates which alarms this one explains. Returns the alarms whose suppression may have changed by that.
    fn explain(&mut self, notification: &Notification, now: Now) -> Vec<AlarmKey> {
        let key = &notification.key;
        if !notification.is_raised() {
            self.explanations.forget(key);
        }
        match (key.kind, key.test()) {
            (Kind::Connection, Some(id)) => {
                let peer = self.peer_of(id, notification.test.as_deref());
                let fresh_after = self.rules.members.get(&id).map_or(Duration::ZERO, |test| test.fresh_after);
                let down = peer.as_deref().filter(|_| notification.is_raised());
                let turned = self.explanations.on_connection(id, down);
                let measured = MEASURED.map(|kind| AlarmKey::new(kind, Subject::Test(id)));
                let mut concerned: Vec<AlarmKey> = measured.into_iter().filter(|key| self.is_raised(key)).collect();
                if let Some(host) = turned {
                    concerned.extend(self.senders_to(&host));
                }
                if !notification.is_raised() {
                    let host = peer
                        .as_ref()
                        .and_then(|peer| self.hosts.get(peer))
                        .map_or(Duration::ZERO, |host| host.fresh_after);
                    let senders = peer.as_ref().and_then(|peer| self.receivers.get(peer));
                    let senders = senders.map_or(Duration::ZERO, |host| host.fresh_after);
                    for key in &concerned {
                        let own = if key.kind == Kind::Sender { senders } else { Duration::ZERO };
                        let until = now.moment + fresh_after.max(host).max(own) + self.rules.group.group_wait;
                        self.explanations.settle(key.clone(), until);
                    }
                }
                concerned
            }
            (Kind::Sender, _) if notification.is_raised() => {
                // A host that refuses probes may stop sending too: the alarm waits until that would be detected.
                let host = to_host(notification).and_then(|host| self.hosts.get(host)).copied();
                if let Some(host) = host {
                    let since = self.list.since(key).unwrap_or(now).moment;
                    let until = since + host.found_after + self.rules.group.group_wait;
                    if until > now.moment {
                        self.explanations.settle(key.clone(), until);
                    }
                }
                Vec::new()
            }
            (_, _) => Vec::new(),
        }
    }

    /// Returns the raised alarms about probes to this host.
    fn senders_to(&self, host: &str) -> Vec<AlarmKey> {
        let raised = self.list.raised_of(Kind::Sender);
        raised.filter(|alarm| to_host(alarm) == Some(host)).map(|alarm| alarm.key.clone()).collect()
    }

    fn is_raised(&self, key: &AlarmKey) -> bool {
        self.list.get(key).is_some_and(|alarm| alarm.is_raised())
    }

    /// Counts an alarm for its groups, or excludes it while it is shelved. Returns also the configuration faults
    /// whose suppression may have changed.
    fn count(&mut self, notification: &Arc<Notification>, now: Now) -> (GroupOutcome, Vec<AlarmKey>) {
        let (key, raised) = (&notification.key, notification.is_raised());
        let shelved = self.shelving.shelves(notification, now.wall).is_some();
        if key.kind == Kind::Config && key.is_single() {
            if raised && !shelved {
                self.fault_group.on_raised(key, now.moment);
                return (GroupOutcome::default(), Vec::new());
            }
            let concerned = self.fault_group.on_gone(key, now.moment);
            return (GroupOutcome::default(), concerned);
        }
        let groups = match (key.kind, key.test()) {
            (Kind::Connection, Some(id)) => Some((id, &mut self.connection_groups)),
            (Kind::Sender, Some(id)) => Some((id, &mut self.sender_groups)),
            (_, _) => None,
        };
        let Some((id, groups)) = groups else { return Default::default() };
        groups.set_excluded(id, shelved);
        let outcome = match raised {
            true => groups.on_down(id, now.moment),
            false => groups.on_up(id, now.moment),
        };
        (outcome, Vec::new())
    }

    /// Evaluates every alarm again after shelving has changed, and returns the raised ones with their current
    /// suppression.
    fn on_shelf(&mut self, mut outcome: GroupOutcome, now: Now) -> Vec<AlarmStatus> {
        // Tests that are up, or not known yet, are excluded from the counts while they are shelved.
        let tests: BTreeSet<TestId> = self.rules.members.keys().chain(self.rules.sent.keys()).copied().collect();
        for id in tests {
            let Some((facts, _)) = self.rules.tests.get(&id) else { continue };
            for (kind, groups) in
                [(Kind::Connection, &mut self.connection_groups), (Kind::Sender, &mut self.sender_groups)]
            {
                let key = AlarmKey::new(kind, Subject::Test(id));
                let shown = Notification { test: Some(facts.clone()), ..cleared_notification(&self.agent, &key, now) };
                groups.set_excluded(id, self.shelving.shelves(&shown, now.wall).is_some());
            }
        }
        // Raised alarms come first: a group that is whole again must not seem to end in between.
        let (down, up): (Vec<_>, Vec<_>) = self.list.all().cloned().partition(|alarm| alarm.is_raised());
        let all = [down, up].concat();
        let mut keys: BTreeSet<AlarmKey> = self.raised_keys();
        for notification in &all {
            let (counted, concerned) = self.count(notification, now);
            outcome.join(counted);
            keys.extend(concerned);
        }
        self.apply(outcome, keys, now)
    }

    /// Applies the rules of changed documents. Returns the alarms whose facts, damping or suppression may have
    /// changed.
    pub fn on_rules(&mut self, rules: impl Into<Arc<Rules>>, now: Now) -> Vec<AlarmStatus> {
        let before = std::mem::replace(&mut self.rules, rules.into());
        let mut keys = BTreeSet::new();
        let mut shelved = false;
        for (id, (facts, _)) in &self.rules.tests {
            if before.tests.get(id).is_none_or(|(before, _)| before != facts) {
                keys.extend(self.list.on_facts(facts));
            }
        }
        if (&before.windows, &before.drained) != (&self.rules.windows, &self.rules.drained) {
            self.shelving.on_documents(self.rules.windows.clone(), self.rules.drained.clone());
            self.shelving.on_time(now.wall);
            shelved = true;
        }
        let mut outcome = GroupOutcome::default();
        self.fault_group.on_settings(self.rules.group);
        let families = [
            (Kind::Connection, &before.members, &self.rules.members, &mut self.connection_groups),
            (Kind::Sender, &before.sent, &self.rules.sent, &mut self.sender_groups),
        ];
        let mut joined = Vec::new();
        for (kind, before_tests, tests, groups) in families {
            if (before.group, before_tests) != (self.rules.group, tests) {
                outcome.join(groups.on_tests(self.rules.group, tests.clone(), now.moment));
                let new = tests.keys().filter(|id| !before_tests.contains_key(id));
                joined.extend(new.map(|id| AlarmKey::new(kind, Subject::Test(*id))));
                shelved |= !before_tests.keys().eq(tests.keys());
            }
        }
        if before.members != self.rules.members {
            self.hosts = reactions(&self.rules.members);
            self.recount_peers();
        }
        if before.sent != self.rules.sent {
            self.receivers = reactions(&self.rules.sent);
        }
        for key in joined {
            if let Some(known) = self.list.get(&key).cloned() {
                outcome.join(self.count(&known, now).0);
            }
        }
        if before.hold_down != self.rules.hold_down {
            keys.extend(self.raised_keys());
        }
        let damped = self
            .rules
            .tests
            .iter()
            .filter(|(id, (_, hold_down))| before.tests.get(id).is_some_and(|(_, before)| before != hold_down));
        keys.extend(damped.flat_map(|(id, _)| Kind::ALL.map(|kind| AlarmKey::new(kind, Subject::Test(*id)))));
        // Removed tests are cleared by the `retain` that follows, and must not be notified before.
        let mut alarm_status = self.apply(outcome, keys, now);
        if shelved {
            alarm_status.extend(self.on_shelf(GroupOutcome::default(), now));
        }
        alarm_status.retain(|alarm_status| {
            alarm_status.notification.key.test().is_none_or(|id| self.rules.tests.contains_key(&id))
        });
        alarm_status
    }

    /// Determines again the peer hosts of tests that are down, since changed documents may name others.
    fn recount_peers(&mut self) {
        let down: Vec<(TestId, Option<String>)> = self
            .list
            .raised_of(Kind::Connection)
            .filter_map(|alarm| Some((alarm.key.test()?, alarm.test.clone())))
            .map(|(id, facts)| (id, self.peer_of(id, facts.as_deref())))
            .collect();
        for (id, peer) in down {
            self.explanations.on_connection(id, peer.as_deref());
        }
    }

    /// Limits the engine to the alarms that can still exist, and to the tests and listeners that can still report.
    /// Returns the alarms that are cleared by that, and those whose suppression may have changed.
    pub fn retain(&mut self, possible: &AlarmInventory, reporters: &Arc<Reporters>, now: Now) -> Vec<AlarmStatus> {
        let is_first = self.expected.replace((possible.clone(), reporters.clone())).is_none();
        let mut attributed = self.clock_attribution.retain(reporters, possible, now);
        if is_first {
            attributed.push(self.clock_attribution.report(now));
        }
        let mut alarm_status: Vec<AlarmStatus> =
            attributed.iter().flat_map(|change| self.on_attributed(change, now)).collect();
        let mut possible = possible.clone();
        possible.extend(self.group_keys());
        let gone = self.list.retain(&possible, reporters, now);
        let (mut outcome, mut keys) = (GroupOutcome::default(), BTreeSet::new());
        for notification in &gone {
            keys.extend(self.explain(notification, now));
            match (notification.key.kind, notification.key.test()) {
                (Kind::Connection, Some(id)) => outcome.join(self.connection_groups.on_gone(id, now.moment)),
                (Kind::Sender, Some(id)) => outcome.join(self.sender_groups.on_gone(id, now.moment)),
                (_, _) => keys.extend(self.count(notification, now).1),
            }
        }
        alarm_status.extend(self.apply(outcome, keys, now));
        alarm_status.extend(gone.into_iter().map(|notification| AlarmStatus { notification, suppressed_by: None }));
        alarm_status
    }

    /// Advances to `now`: waits of groups and explanations end, and windows and silences begin or end.
    pub fn on_time(&mut self, now: Now) -> Vec<AlarmStatus> {
        let mut outcome = self.connection_groups.on_time(now.moment);
        outcome.join(self.sender_groups.on_time(now.moment));
        let mut keys: BTreeSet<AlarmKey> = self.explanations.on_time(now.moment).into_iter().collect();
        keys.extend(self.fault_group.on_time(now.moment));
        let mut alarm_status = match self.shelving.on_time(now.wall) {
            true => {
                let mut alarm_status = self.apply(GroupOutcome::default(), keys, now);
                alarm_status.extend(self.on_shelf(outcome, now));
                alarm_status
            }
            false => self.apply(outcome, keys, now),
        };
        alarm_status.extend(self.refresh_remarks(now));
        alarm_status
    }

    /// Returns when `on_time` has something to do. Windows and silences follow the wall clock and are not included;
    /// they are evaluated by each call of `on_time`, which should come every second or so.
    pub fn next_deadline(&self) -> Option<Moment> {
        let deadlines = [
            self.connection_groups.next_deadline(),
            self.sender_groups.next_deadline(),
            self.fault_group.next_deadline(),
            self.explanations.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Loads the silences of an earlier run from disk.
    pub fn load_silences(&mut self, silences: Vec<Silence>) {
        self.shelving.load(silences);
    }

    /// Adds a silence, and returns the raised alarms with their suppression.
    pub fn on_silence(&mut self, silence: Silence, now: Now) -> Vec<AlarmStatus> {
        self.shelving.add(silence);
        self.shelving.on_time(now.wall);
        self.on_shelf(GroupOutcome::default(), now)
    }

    /// Ends a silence, and returns it with the raised alarms; `None` if there is none of this id.
    pub fn on_expired(&mut self, id: &str, now: Now) -> Option<(Silence, Vec<AlarmStatus>)> {
        let silence = self.shelving.expire(id)?;
        self.shelving.on_time(now.wall);
        Some((silence, self.on_shelf(GroupOutcome::default(), now)))
    }

    /// Returns the silences that have not ended.
    pub fn silences(&self, now: Now) -> impl Iterator<Item = &Silence> {
        self.shelving.silences(now.wall)
    }

    /// Returns every known alarm, raised or cleared, with its suppression.
    pub fn all(&self, now: Now) -> impl Iterator<Item = AlarmStatus> {
        self.list.all().map(move |notification| self.alarm_status(notification, now))
    }

    /// Returns the alarms that are raised, including suppressed ones.
    pub fn raised(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.list.raised()
    }

    /// Returns the keys of all alarms that groups can raise, in addition to those that the plan knows.
    pub fn group_keys(&self) -> impl Iterator<Item = AlarmKey> {
        self.connection_groups.keys().chain(self.sender_groups.keys()).chain([FaultGroup::key()])
    }

    /// Returns the damping of an alarm: that of its test, or else that of the agent.
    pub fn hold_down(&self, key: &AlarmKey) -> HoldDown {
        let own = key.test().and_then(|id| self.rules.tests.get(&id)).map(|(_, hold_down)| hold_down);
        own.copied().unwrap_or(self.rules.hold_down)
    }

    fn raised_keys(&self) -> BTreeSet<AlarmKey> {
        self.list.raised().map(|notification| notification.key.clone()).collect()
    }

    /// Applies the changes of groups, and returns the alarms of `keys` and of these changes with their suppression.
    fn apply(&mut self, outcome: GroupOutcome, mut keys: BTreeSet<AlarmKey>, now: Now) -> Vec<AlarmStatus> {
        for change in outcome.changes {
            let (key, verdict, since) = match change {
                GroupChange::Raised(key, mut shared) => {
                    let members: Vec<TestId> = self.groups_of(key.kind).down_of(&key).collect();
                    let kind = shared.kind;
                    let of_member = |id: &TestId| AlarmKey::new(kind, Subject::Test(*id));
                    // A group went down when the first of its members did, however late it is notified.
                    let since =
                        members.iter().filter_map(|id| self.list.since(&of_member(id))).min_by_key(|at| at.moment);
                    shared.announced_stop = members.iter().all(|id| self.has_announced_its_stop(*id));
                    (key, Verdict::Violated(Cause::Shared(shared)), since.unwrap_or(now))
                }
                GroupChange::Cleared(key) => (key, Verdict::Cleared, now),
            };
            let change = condition_change(key.clone(), Subject::Agent, since, verdict);
            if let Some(notification) = self.list.on_change(&change).state() {
                keys.extend(self.explain(&notification, now));
                if !notification.is_raised() {
                    self.annotate_members_down(&key);
                }
                keys.insert(key);
            }
        }
        keys.extend(self.report_faults(now));
        for id in outcome.affected {
            for (kind, members) in [(Kind::Connection, &self.rules.members), (Kind::Sender, &self.rules.sent)] {
                if members.contains_key(&id) {
                    keys.insert(AlarmKey::new(kind, Subject::Test(id)));
                }
            }
        }
        // The counts in a group's text are kept current.
        for id in keys.iter().filter_map(AlarmKey::test).collect::<BTreeSet<TestId>>() {
            let notified = self
                .connection_groups
                .notified_with(id)
                .chain(self.sender_groups.notified_with(id))
                .collect::<Vec<_>>();
            for key in notified {
                if self.recount(&key, now) {
                    keys.insert(key);
                }
            }
        }
        if keys.is_empty() {
            return Vec::new();
        }
        let refused = self.refused_hosts();
        let mut alarm_status = Vec::new();
        for key in keys {
            self.annotate(&key, &refused);
            alarm_status.extend(self.list.get(&key).map(|notification| self.alarm_status(notification, now)));
        }
        alarm_status
    }

    /// Raises or clears the alarm that combines many configuration faults. Returns its key if it has changed.
    fn report_faults(&mut self, now: Now) -> Option<AlarmKey> {
        let key = FaultGroup::key();
        let verdict = match self.fault_group.shared() {
            Some(shared) => Verdict::Violated(Cause::Shared(shared)),
            None if self.is_raised(&key) => Verdict::Cleared,
            None => return None,
        };
        let learned = self.list.on_change(&condition_change(key.clone(), Subject::Agent, now, verdict));
        (learned != AlarmEffect::Nothing).then_some(key)
    }

    /// Counts the members of a notified group again. Returns whether its text or counts have changed.
    fn recount(&mut self, key: &AlarmKey, now: Now) -> bool {
        let Some(mut shared) = self.groups_of(key.kind).shared(key) else { return false };
        if let Some(Cause::Shared(before)) = self.list.cause(key) {
            shared.announced_stop = before.announced_stop;
        }
        let change = condition_change(key.clone(), Subject::Agent, now, Verdict::Violated(Cause::Shared(shared)));
        self.list.on_change(&change) != AlarmEffect::Nothing
    }

    fn groups_of(&self, kind: Kind) -> &Groups {
        if kind == Kind::Sender { &self.sender_groups } else { &self.connection_groups }
    }

    /// Returns the alarm in its current state, with the reason why its raise is suppressed, if it is.
    pub fn alarm_status(&self, notification: &Arc<Notification>, now: Now) -> AlarmStatus {
        let suppressed_by = if notification.is_raised() { self.suppressed_by(notification, now) } else { None };
        AlarmStatus { notification: notification.clone(), suppressed_by }
    }

    fn suppressed_by(&self, notification: &Notification, now: Now) -> Option<SuppressedBy> {
        if let Some(by) = self.shelving.shelves(notification, now.wall) {
            return Some(SuppressedBy::Shelved { by });
        }
        let key = &notification.key;
        if let Some(by) = self.explanations.explained_by(key, to_host(notification)) {
            // The receiver was notified of the group, if the explaining test is part of one.
            let whole = by.test().and_then(|id| self.connection_groups.notified_with(id).next());
            return Some(SuppressedBy::Explained { by: whole.unwrap_or(by).to_string() });
        }
        if self.explanations.is_settling(key) {
            return Some(SuppressedBy::Waiting);
        }
        match (key.kind, key.test()) {
            (Kind::Connection, Some(id)) => self.connection_groups.suppressed_by(id),
            (Kind::Sender, Some(id)) => self.sender_groups.suppressed_by(id),
            (Kind::Config, None) => self.fault_group.suppressed_by(key),
            (_, _) => None,
        }
    }

    /// Returns the host at the other end of a test that is judged here.
    fn peer_of(&self, id: TestId, facts: Option<&TestFacts>) -> Option<String> {
        let known = self.rules.tests.get(&id).map(|(facts, _)| facts.as_ref());
        facts.or(known).map(|facts| facts.peer_of(&self.agent).to_owned())
    }
}

/// Returns the receiving host that an alarm of kind `Sender` is about.
fn to_host(notification: &Notification) -> Option<&str> {
    match (notification.key.kind, &notification.key.subject, &notification.test) {
        (Kind::Sender, Subject::Host(host), _) => Some(host),
        (Kind::Sender, _, Some(test)) => Some(&test.to_host),
        (_, _, _) => None,
    }
}

/// Returns for each host how soon its tests detect that it is gone, by the quickest test, and confirm that it is
/// back, by the slowest test.
fn reactions(members: &BTreeMap<TestId, Membership>) -> BTreeMap<String, ReactionTimes> {
    let mut hosts: BTreeMap<String, ReactionTimes> = BTreeMap::new();
    for test in members.values() {
        for share in &test.shares {
            let Subject::Host(host) = share else { continue };
            let first = ReactionTimes { found_after: test.found_after, fresh_after: Duration::ZERO };
            let known = hosts.entry(host.clone()).or_insert(first);
            known.found_after = known.found_after.min(test.found_after);
            known.fresh_after = known.fresh_after.max(test.fresh_after.min(LONGEST_SETTLING));
        }
    }
    hosts
}

/// Upper bound of `fresh_after`, so that alarms of senders do not wait longer for slow tests of the same host.
const LONGEST_SETTLING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
