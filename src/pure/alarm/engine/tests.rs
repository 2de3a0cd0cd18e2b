//! Tests of the alarm engine with a notification log, from conditions to the states at a receiver: convergence,
//! groups, and storms.

use super::*;
use crate::pure::alarm::cause::{GroupDirection, NoProbe};
use crate::pure::alarm::shelving::Matcher;
use crate::pure::base::time::WallTime;
use crate::pure::clock::error_estimate::Delay;
use crate::pure::judge::condition::{Condition, Sample, Thresholds, Transition};
use crate::pure::notify::log::{
    Aggregation, Completeness, DeliveryMode, FlapSettings, InitialClear, NotificationLog, NotificationPolicy,
    NotifiedRecord, OnRemoval, Outbound, RecordState, Scope, StormSettings,
};
use crate::pure::test::facts::TestFacts;
use crate::pure::test::spec::Protocol;
use proptest::prelude::*;
use std::ops::Range;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const FLAPS: FlapSettings = FlapSettings { flap_high: 6, flap_low: 2, flap_window: Duration::from_secs(600) };
const DAMPING: HoldDown =
    HoldDown { hold_down: Duration::from_secs(30), hold_down_max: Duration::from_secs(600), flap: FLAPS };
const STORM: StormSettings = StormSettings {
    storm_on: 20,
    storm_calm: 30,
    summary_interval: Duration::from_secs(60),
    storm_hold_max: Duration::from_secs(600),
};
const GROUPS: GroupSettings = GroupSettings { group_wait: Duration::from_secs(5), group_min: 3, group_ratio: 0.8 };

fn policy(delivery_mode: DeliveryMode) -> NotificationPolicy {
    NotificationPolicy {
        rate: 10.0,
        burst: 50,
        batch: 1,
        scope: Scope::All,
        initial_clear: InitialClear::Silent,
        detail: Aggregation::Summed,
        delivery_mode,
        renotify: Some(Duration::from_secs(4 * 3600)),
        storm: STORM,
    }
}

fn id(n: usize) -> TestId {
    TestId::from_bytes((n as u128).to_be_bytes())
}

/// Returns the facts of test `n`, which is sent by host `n / per_host`.
fn facts(n: usize, per_host: usize) -> Arc<TestFacts> {
    Arc::new(TestFacts {
        id: id(n),
        protocol: Protocol::Udp,
        description: format!("test {n}"),
        from_host: format!("h{}", n / per_host),
        from: String::new(),
        to_host: "b".into(),
        to: String::new(),
        tags: BTreeSet::new(),
        set: None,
    })
}

fn rules(tests: usize, per_host: usize, group: GroupSettings) -> Rules {
    let membership = |n: usize| Membership {
        shares: vec![Subject::Host(format!("h{}", n / per_host)), Subject::Listener(([127, 0, 0, 1], 8620).into())],
        fresh_after: Duration::from_secs(8),
        found_after: Duration::from_secs(3),
        direction: GroupDirection::From,
        description: format!("test {n}"),
    };
    let received = (0..tests).map(|n| facts(n, per_host));
    Rules {
        hold_down: DAMPING,
        tests: received.map(|facts| (facts.id, (facts, DAMPING))).collect(),
        group,
        members: (0..tests).map(|n| (id(n), membership(n))).collect(),
        sent: BTreeMap::new(),
        windows: Vec::new(),
        drained: BTreeSet::new(),
    }
}

fn changed(test: &Arc<TestFacts>, raised: bool, at: Now) -> ConditionChange {
    let key = AlarmKey::new(Kind::Connection, Subject::Test(test.id));
    let silence = NoProbe {
        silent_for: SECOND,
        last_probe: None,
        expect_every: SECOND,
        announced_stop: false,
        dropped: 0,
        answers: false,
    };
    let verdict = if raised { Verdict::Violated(Cause::Silence(silence)) } else { Verdict::Cleared };
    ConditionChange { key, reporter: Subject::Test(test.id), at, verdict, test: Some(test.clone()) }
}

/// Fake receiver, with the state that it was last notified of for each alarm.
#[derive(Default)]
struct SimulatedReceiver {
    believes: BTreeMap<AlarmKey, bool>,
    messages: usize,
}

impl SimulatedReceiver {
    fn receive(&mut self, due: &Outbound) {
        self.messages += 1;
        if let Outbound::Alarm { notification, .. } = due {
            self.believes.insert(notification.key.clone(), notification.is_raised());
        }
    }

    fn believes(&self, key: &AlarmKey) -> bool {
        self.believes.get(key).copied().unwrap_or(false)
    }
}

/// Model of an agent with one receiver, on which the steps of the property tests run.
struct World {
    now: Now,
    tests: Vec<Arc<TestFacts>>,
    rules: Rules,
    is_down: BTreeMap<TestId, bool>,
    engine: AlarmEngine,
    log: NotificationLog,
    policy: NotificationPolicy,
    receiver: SimulatedReceiver,
    silences: Vec<Silence>,
    /// Number of silences that were ever made, from which their ids are formed.
    silenced: usize,
    /// Latest change of every alarm that is not the connection of a test.
    others: BTreeMap<AlarmKey, ConditionChange>,
    /// Alarms that the receiver refuses.
    refused: BTreeSet<AlarmKey>,
    /// Copy of the records, as a backup holds it.
    backup: Vec<NotifiedRecord>,
    /// Alarms that the receiver held when records were lost, and was not notified of since. The agent cannot clear
    /// those that can no longer be raised, or that are out of the sink's scope.
    forgotten: BTreeSet<AlarmKey>,
    /// Forgotten alarms that could not be raised any more when the records were lost.
    lost: BTreeSet<AlarmKey>,
}

impl World {
    fn new(tests: usize, per_host: usize, group: GroupSettings, delivery_mode: DeliveryMode) -> Self {
        let rules = rules(tests, per_host, group);
        let now = Now { moment: Moment::ZERO, wall: WallTime::from_unix_nanos(1_700_000_000_000_000_000) };
        let policy = policy(delivery_mode);
        let mut world = World {
            now,
            tests: (0..tests).map(|n| facts(n, per_host)).collect(),
            engine: AlarmEngine::new("b".into(), Rules { members: BTreeMap::new(), ..rules.clone() }),
            rules,
            is_down: BTreeMap::new(),
            log: NotificationLog::new("b", policy.clone(), Moment::ZERO),
            policy,
            receiver: SimulatedReceiver::default(),
            silences: Vec::new(),
            silenced: 0,
            others: BTreeMap::new(),
            refused: BTreeSet::new(),
            backup: Vec::new(),
            forgotten: BTreeSet::new(),
            lost: BTreeSet::new(),
        };
        let alarm_status = world.engine.on_rules(world.rules.clone(), now);
        world.learn(alarm_status);
        world
    }

    fn learn(&mut self, alarm_status: Vec<AlarmStatus>) {
        for alarm_status in alarm_status {
            let hold_down = self.engine.hold_down(&alarm_status.notification.key);
            self.log.on_change(alarm_status, hold_down, self.now.moment);
        }
    }

    fn set(&mut self, n: usize, down: bool) {
        let test = self.tests[n].clone();
        self.is_down.insert(test.id, down);
        let alarm_status = self.engine.on_change(&changed(&test, down, self.now), self.now);
        self.learn(alarm_status);
    }

    /// Changes a condition other than a connection: another measurement of a test, or one without a test.
    fn set_other(&mut self, key: AlarmKey, test: Option<Arc<TestFacts>>, cause: Option<Cause>) {
        let reporter = if test.is_some() { key.subject.clone() } else { Subject::Agent };
        let verdict = cause.map_or(Verdict::Cleared, Verdict::Violated);
        let change = ConditionChange { key: key.clone(), reporter, at: self.now, verdict, test };
        self.others.insert(key, change.clone());
        let alarm_status = self.engine.on_change(&change, self.now);
        self.learn(alarm_status);
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { moment: self.now.moment + time, wall: self.now.wall + time };
        // The engine removes a silence that ended an hour ago, even if the clock is set back later.
        let now = self.now.wall;
        self.silences.retain(|silence| silence.until + SECOND * 3600 > now);
        let alarm_status = self.engine.on_time(self.now);
        self.learn(alarm_status);
    }

    fn possible(&self) -> AlarmInventory {
        let tests = self.is_down.keys().map(|id| AlarmKey::new(Kind::Connection, Subject::Test(*id)));
        tests.chain(self.engine.group_keys()).chain(self.others.keys().cloned()).collect()
    }

    fn reporters(&self) -> Arc<Reporters> {
        let others = self.others.values().map(|change| change.reporter.clone());
        Arc::new(self.is_down.keys().map(|id| Subject::Test(*id)).chain(others).map(|by| (by, None)).collect())
    }

    fn retain(&mut self) {
        self.rules.members.retain(|id, _| self.is_down.contains_key(id));
        let alarm_status = self.engine.on_rules(self.rules.clone(), self.now);
        self.learn(alarm_status);
        let (possible, reporters) = (self.possible(), self.reporters());
        let alarm_status = self.engine.retain(&possible, &reporters, self.now);
        self.learn(alarm_status);
        self.log.retain(&possible, Completeness::Whole, self.now);
    }

    /// Replaces the agent by a new one that starts from these records.
    fn restart(&mut self, records: Vec<NotifiedRecord>, record_state: RecordState) {
        self.engine = AlarmEngine::new("b".into(), Rules { members: BTreeMap::new(), ..self.rules.clone() });
        self.engine.load_silences(self.silences.clone());
        self.log = NotificationLog::new("b", self.policy.clone(), self.now.moment);
        self.log.load(records, record_state, DAMPING, self.now);
        self.retain();
        let known: Vec<(usize, bool)> =
            self.tests.iter().enumerate().filter_map(|(n, test)| Some((n, *self.is_down.get(&test.id)?))).collect();
        known.into_iter().for_each(|(n, down)| self.set(n, down));
        for change in self.others.clone().into_values() {
            let alarm_status = self.engine.on_change(&ConditionChange { at: self.now, ..change }, self.now);
            self.learn(alarm_status);
        }
    }

    /// Marks the alarms that the receiver holds as forgotten, before records are lost.
    fn forget(&mut self) {
        let last_known = self.receiver.believes.iter().filter(|(_, raised)| **raised);
        self.forgotten.extend(last_known.map(|(key, _)| key.clone()));
        let possible = self.possible();
        self.lost.extend(self.forgotten.iter().filter(|key| !possible.contains(key)).cloned());
    }

    /// Delivers a message to the receiver, after which its alarm no longer counts as forgotten.
    fn receive(&mut self, due: &Outbound) {
        self.receiver.receive(due);
        if let Outbound::Alarm { notification, .. } = due {
            self.forgotten.remove(&notification.key);
            self.lost.remove(&notification.key);
        }
    }

    /// Changes the scope of the sink.
    fn narrow(&mut self, scope: Scope) {
        self.policy.scope = scope;
        self.log.set_policy(self.policy.clone(), OnRemoval::Clear, self.now);
        let alarm_status = self.engine.all(self.now).collect();
        self.learn(alarm_status);
    }

    fn deliver(&mut self) {
        loop {
            let all = self.log.take_due(self.now, usize::MAX);
            if all.is_empty() {
                return;
            }
            for due in all {
                if matches!(&due, Outbound::Alarm { notification, .. } if self.refused.contains(&notification.key)) {
                    self.log.on_refused(&due, self.now.moment);
                    continue;
                }
                self.check(&due);
                self.receive(&due);
                self.log.on_delivered(&due, self.now.moment);
            }
        }
    }

    /// Asserts that the receiver holds every alarm in its true state, except for those that the agent cannot know of.
    fn assert_converged(&self) {
        for alarm_status in self.engine.all(self.now) {
            let (alarm, last_known) =
                (&alarm_status.notification, self.receiver.believes(&alarm_status.notification.key));
            match (alarm.is_raised(), &alarm_status.suppressed_by) {
                _ if !self.is_told(&alarm.key) => {
                    assert!(!last_known || self.forgotten.contains(&alarm.key), "{alarm:?} is believed to stand");
                }
                // The alarm may have been notified before it was suppressed.
                (true, Some(_)) => {}
                (false, _) if self.lost.contains(&alarm.key) => {}
                (raised, _) => assert_eq!(last_known, raised, "{alarm:?}"),
            }
        }
        let known: BTreeSet<AlarmKey> = self.engine.all(self.now).map(|alarm| alarm.notification.key.clone()).collect();
        for (key, last_known) in &self.receiver.believes {
            let excused = self.forgotten.contains(key) || self.may_stand(key);
            assert!(known.contains(key) || !last_known || excused, "{key} is gone and believed to stand");
        }
    }

    /// Returns whether the sink's scope includes this alarm.
    fn is_told(&self, key: &AlarmKey) -> bool {
        match self.policy.scope {
            Scope::All => true,
            Scope::Config => key.kind == Kind::Config,
            Scope::Nothing => false,
        }
    }

    /// Returns whether a group that an earlier run notified of may stay raised, while its members are down and
    /// shelved.
    fn may_stand(&self, group: &AlarmKey) -> bool {
        let shares =
            |membership: &Membership| group.subject == Subject::Agent || membership.shares.contains(&group.subject);
        let members: Vec<&TestId> =
            self.rules.members.iter().filter(|(_, test)| shares(test)).map(|(id, _)| id).collect();
        let up = members.iter().filter(|id| self.is_down.get(id) == Some(&false)).count();
        self.engine.group_keys().any(|key| key == *group)
            && (members.len() - up) as f64 >= self.rules.group.group_ratio * members.len() as f64
    }

    /// Returns whether this host's alarms must not be raised, computed independently of the engine.
    fn is_shelved(&self, host: &str) -> bool {
        let silenced = |silence: &Silence| silence.until > self.now.wall && silence.matcher.hosts[0] == host;
        self.rules.drained.contains(host) || self.silences.iter().any(silenced)
    }

    /// Asserts that no new raise is sent while its host is shelved; repeats are allowed.
    fn check(&self, due: &Outbound) {
        let Outbound::Alarm { notification, .. } = due else { return };
        let host = match (&notification.test, &notification.key.subject) {
            (Some(test), _) if test.from_host == "b" => &test.to_host,
            (Some(test), _) => &test.from_host,
            (None, Subject::Host(host)) => host,
            (None, _) => return,
        };
        let news = notification.is_raised() && !self.receiver.believes(&notification.key);
        assert!(!news || !self.is_shelved(host), "{} is told though shelved", notification.key);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Change(usize, bool),
    /// Changes all tests of a host.
    ChangeHost(usize, bool),
    Deliver,
    /// The messages arrive, but count as failed for the sender.
    LostAcknowledgement,
    /// The messages do not arrive, and count as failed for the sender.
    Away,
    /// The first message fails, and the others are not tried.
    Broken,
    /// The receiver refuses the alarms of this test, or of this host's group, until `Accept`.
    Refuse(usize),
    RefuseGroup(usize),
    Accept,
    /// Changes a measurement of a test other than its connection.
    Measure(usize, Kind, bool),
    /// Makes a probe of a test overdue, which arrives then.
    Overdue(usize),
    /// The agent's own probes to a host are refused, or arrive.
    Send(usize, bool),
    /// Makes a document bad, or good again.
    Document(usize, bool),
    /// Changes the scope of the sink.
    Narrow(Scope),
    /// Changes the settings of groups and of damping.
    Settings(u32, f64, u64, u64),
    Restart,
    /// Removes the state, or makes and restores a backup of it.
    LoseState,
    Backup,
    Restore,
    Remove(usize),
    SetClock(i64),
    Silence(usize, u64),
    Expire,
    Drain(usize),
    Resync,
}

const TESTS: usize = 24;
const PER_HOST: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u64..100).prop_map(Step::Wait),
        10 => (0..TESTS, any::<bool>()).prop_map(|(n, down)| Step::Change(n, down)),
        4 => (0..TESTS / PER_HOST, any::<bool>()).prop_map(|(host, down)| Step::ChangeHost(host, down)),
        8 => Just(Step::Deliver),
        2 => Just(Step::LostAcknowledgement),
        2 => Just(Step::Away),
        1 => Just(Step::Broken),
        2 => (0..TESTS).prop_map(Step::Refuse),
        1 => (0..TESTS / PER_HOST).prop_map(Step::RefuseGroup),
        1 => Just(Step::Accept),
        4 => (0..TESTS, prop::sample::select(&MEASURED[..]), any::<bool>())
            .prop_map(|(n, kind, bad)| Step::Measure(n, kind, bad)),
        1 => (0..TESTS).prop_map(Step::Overdue),
        3 => (0..TESTS, any::<bool>()).prop_map(|(n, bad)| Step::Send(n, bad)),
        2 => (0usize..5, any::<bool>()).prop_map(|(n, bad)| Step::Document(n, bad)),
        1 => prop::sample::select(&[Scope::All, Scope::Config, Scope::Nothing][..]).prop_map(Step::Narrow),
        1 => (0u32..5, 0.3f64..1.0, 0u64..20, 1u64..200)
            .prop_map(|(min, ratio, wait, hold)| Step::Settings(min, ratio, wait, hold)),
        1 => Just(Step::Restart),
        1 => prop::sample::select(vec![Step::LoseState, Step::Backup, Step::Restore]),
        1 => (0..TESTS).prop_map(Step::Remove),
        1 => (-4000i64..4000).prop_map(Step::SetClock),
        1 => (0..TESTS / PER_HOST, 1u64..2000).prop_map(|(host, seconds)| Step::Silence(host, seconds)),
        1 => Just(Step::Expire),
        1 => (0..TESTS / PER_HOST).prop_map(Step::Drain),
        1 => Just(Step::Resync),
    ];
    prop::collection::vec(step, 0..100)
}

fn apply(world: &mut World, step: Step) {
    match step {
        Step::Wait(seconds) => (0..seconds).for_each(|_| world.pass(SECOND)),
        Step::Change(n, down) => world.set(n, down),
        Step::ChangeHost(host, down) => {
            (0..PER_HOST).for_each(|n| world.set(host * PER_HOST + n, down));
        }
        Step::Deliver => world.deliver(),
        Step::LostAcknowledgement => {
            for due in world.log.take_due(world.now, usize::MAX) {
                world.receive(&due);
                world.log.on_failed(&due, world.now.moment);
            }
        }
        Step::Away => {
            for due in world.log.take_due(world.now, usize::MAX) {
                world.log.on_failed(&due, world.now.moment);
            }
        }
        Step::Broken => {
            for (n, due) in world.log.take_due(world.now, usize::MAX).iter().enumerate() {
                match n {
                    0 => world.log.on_failed(due, world.now.moment),
                    _ => world.log.on_not_tried(due, world.now.moment),
                }
            }
        }
        Step::Refuse(n) => {
            let kinds = MEASURED.into_iter().chain([Kind::Connection]);
            world.refused.extend(kinds.map(|kind| AlarmKey::new(kind, Subject::Test(id(n)))));
        }
        Step::RefuseGroup(host) => {
            world.refused.insert(AlarmKey::new(Kind::Connection, Subject::Host(format!("h{host}"))));
        }
        Step::Accept => world.refused.clear(),
        Step::Measure(n, kind, bad) => {
            if world.is_down.contains_key(&id(n)) {
                let cause = Cause::Loss { share: 0.3, max_loss: 0.1, loss_window: SECOND * 60, dropped: 0 };
                let key = AlarmKey::new(kind, Subject::Test(id(n)));
                world.set_other(key, Some(world.tests[n].clone()), bad.then_some(cause));
            }
        }
        Step::Overdue(n) => {
            if world.is_down.get(&id(n)) == Some(&false) {
                let overdue =
                    ConditionChange { verdict: Verdict::Overdue, ..changed(&world.tests[n], true, world.now) };
                let alarm_status = world.engine.on_change(&overdue, world.now);
                world.learn(alarm_status);
                // The overdue probe has arrived.
                world.set(n, false);
            }
        }
        Step::Send(n, bad) => {
            let test = sent(n, n / PER_HOST);
            let key = AlarmKey::new(Kind::Sender, Subject::Test(test.id));
            world.set_other(key, Some(test), bad.then(|| Cause::NotSent("port unreachable".into())));
        }
        Step::Document(n, bad) => {
            let key = AlarmKey::new(Kind::Config, Subject::Document(format!("tests/b/{n}")));
            world.set_other(key, None, bad.then(|| Cause::Config("expect_every: is missing".into())));
        }
        Step::Narrow(scope) => world.narrow(scope),
        Step::Settings(group_min, group_ratio, wait, hold) => {
            let every = Duration::from_secs(hold);
            world.rules.group = GroupSettings { group_min, group_ratio, group_wait: Duration::from_secs(wait) };
            world.rules.hold_down.hold_down = every;
            world.rules.tests.values_mut().for_each(|(_, settings)| settings.hold_down = every);
            world.retain();
        }
        Step::Restart => {
            let record_state = RecordState::Complete(world.log.lost_records(world.now.wall));
            world.restart(world.log.records(), record_state);
        }
        Step::LoseState => {
            world.forget();
            world.restart(Vec::new(), RecordState::Incomplete);
        }
        Step::Backup => world.backup = world.log.records(),
        Step::Restore => {
            world.forget();
            world.restart(world.backup.clone(), RecordState::Incomplete);
        }
        Step::Remove(n) => {
            world.is_down.remove(&id(n));
            world.others.retain(|key, _| key.test() != Some(id(n)));
            // The other members are unchanged; a test that is added again is a new one.
            world.rules.members = rules(TESTS, PER_HOST, GROUPS).members;
            world.retain();
        }
        Step::SetClock(seconds) => {
            let nanos = (world.now.wall.unix_nanos() as i64).saturating_add(seconds * 1_000_000_000);
            world.now.wall = WallTime::from_unix_nanos(nanos as u64);
            // Time is evaluated every second in the agent, so also right after this step.
            world.pass(Duration::ZERO);
        }
        Step::Silence(host, seconds) => {
            let silence = Silence {
                id: format!("{}", world.silenced),
                matcher: Matcher { hosts: vec![format!("h{host}")], ..Matcher::default() },
                from: world.now.wall,
                until: world.now.wall + Duration::from_secs(seconds),
                comment: String::new(),
                author: String::new(),
            };
            world.silenced += 1;
            world.silences.push(silence.clone());
            let alarm_status = world.engine.on_silence(silence, world.now);
            world.learn(alarm_status);
        }
        Step::Expire => {
            if let Some(silence) = world.silences.pop()
                && let Some((_, alarm_status)) = world.engine.on_expired(&silence.id, world.now)
            {
                world.learn(alarm_status);
            }
        }
        Step::Drain(host) => {
            let host = format!("h{host}");
            if !world.rules.drained.remove(&host) {
                world.rules.drained.insert(host);
            }
            let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
            world.learn(alarm_status);
        }
        Step::Resync => {
            world.log.resync(world.now.moment);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(3000), ..ProptestConfig::default() })]

    /// Runs with more cases by `PROPTEST_CASES=12000 cargo test --lib engine`.
    ///
    /// After the last change, within the longest hold-down, storm and flapping, the notified state equals the true
    /// one for every alarm that is not suppressed, and the receiver holds no false raise.
    #[test]
    fn notified_state_converges_on_the_true_state(steps in steps(), plain_traps: bool) {
        let delivery_mode = match plain_traps {
            true => DeliveryMode::Repeated(vec![Duration::from_secs(60), Duration::from_secs(300)]),
            false => DeliveryMode::Acknowledged,
        };
        let mut world = both_ways(TESTS / PER_HOST, PER_HOST, delivery_mode);
        steps.into_iter().for_each(|step| apply(&mut world, step));
        // A lasting refusal delays no other alarm; the refused one is sent alone when the refusal ends.
        world.refused.clear();
        // The wait is hold_down_max + storm_hold_max + flap_window, with a minute for a burst's worth of tokens and
        // every wait; the end of a silence is a change, too.
        let silenced = world.silences.iter().map(|silence| silence.until.nanos_since(world.now.wall)).max();
        let silenced = Duration::from_nanos(silenced.unwrap_or(0).max(0) as u64);
        let quiet = world.now.moment + silenced + Duration::from_secs(600 + 600 + 600 + 60);
        while world.now.moment < quiet {
            world.pass(SECOND * 5);
            world.deliver();
        }
        world.assert_converged();
    }

    /// Between two values of `next_deadline` nothing becomes due, except for the microsecond by which a token's time
    /// is rounded.
    #[test]
    fn nothing_is_due_before_its_deadline(steps in steps()) {
        let mut world = both_ways(TESTS / PER_HOST, PER_HOST, DeliveryMode::Acknowledged);
        for step in steps {
            apply(&mut world, step);
            world.deliver();
            let Some(deadline) = world.log.next_deadline(world.now.moment) else { continue };
            prop_assert!(deadline > world.now.moment);
            let before = Now { moment: deadline - Duration::from_micros(1), ..world.now };
            prop_assert_eq!(world.log.take_due(before, usize::MAX), []);
        }
    }
}

/// Simulates 500 tests that flap for three minutes, with one sample a second, after which 30 % of them stay down. The
/// share `loss` of the messages is lost in transit, and all of them in the seconds of `silent`; plain traps are lost
/// without notice to the sender. Returns the number of messages, the states that are wrong after `later` seconds of
/// calm, and the second of calm after which none was wrong any more. Run it with `cargo test simulation --
/// --nocapture`.
fn simulate(delivery_mode: DeliveryMode, loss: f64, silent: Range<u64>, later: u64, seed: u64) -> (usize, usize, u64) {
    const ALL: usize = 500;
    const STORM_SECONDS: u64 = 180;
    let acknowledged = delivery_mode == DeliveryMode::Acknowledged;
    let no_groups = GroupSettings { group_min: 0, ..GROUPS };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(ALL, 1, no_groups, delivery_mode);
    let mut conditions: Vec<(Condition, bool, u64)> = vec![(Condition::default(), true, 0); ALL];
    let stay_down: Vec<bool> = (0..ALL).map(|n| n % 10 < 3).collect();
    let mut converged_at = 0;
    for second in 0..STORM_SECONDS + later {
        for n in 0..ALL {
            let (condition, good, until) = &mut conditions[n];
            if second >= STORM_SECONDS {
                *good = !stay_down[n];
            } else if second >= *until {
                *good = !*good;
                *until = second + random.u64(3..=20);
            }
            let sample = if *good { Sample::Good } else { Sample::Bad };
            let change = condition.on_sample(sample, Thresholds::in_a_row(3, 3), world.now);
            if let Some(change) = change {
                world.set(n, change == Transition::Raised);
            }
        }
        for _ in 0..10 {
            world.pass(Duration::from_millis(100));
            for due in world.log.take_due(world.now, usize::MAX) {
                let lost = random.f64() < loss || silent.contains(&second);
                if lost {
                    world.receiver.messages += 1;
                } else {
                    world.receiver.receive(&due);
                }
                match lost && acknowledged {
                    true => world.log.on_failed(&due, world.now.moment),
                    false => world.log.on_delivered(&due, world.now.moment),
                }
            }
        }
        if second >= STORM_SECONDS && wrong(&world, &stay_down) > 0 {
            converged_at = second - STORM_SECONDS + 1;
        }
    }
    (world.receiver.messages, wrong(&world, &stay_down), converged_at)
}

fn wrong(world: &World, stay_down: &[bool]) -> usize {
    let last_known = |n: usize| world.receiver.believes(&AlarmKey::new(Kind::Connection, Subject::Test(id(n))));
    stay_down.iter().enumerate().filter(|(n, down)| last_known(*n) != **down).count()
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are what it is run for")]
fn simulation_of_a_storm() {
    let traps = || DeliveryMode::Repeated(vec![Duration::from_secs(60), Duration::from_secs(300)]);
    println!("500 tests flap for 3 minutes, then 150 stay down");
    println!("{:32} {:>5} {:>9} {:>6} {:>10}", "receiver", "seed", "messages", "wrong", "true after");
    for seed in 0..5 {
        for (name, delivery_mode, loss, most) in [
            ("acknowledged", DeliveryMode::Acknowledged, 0.0, 200),
            ("acknowledged, 2 % loss", DeliveryMode::Acknowledged, 0.02, 210),
            ("plain traps with repeats", traps(), 0.0, 800),
            ("plain traps, 2 % loss", traps(), 0.02, 800),
        ] {
            let plain = matches!(delivery_mode, DeliveryMode::Repeated(_));
            let (messages, wrong, converged) = simulate(delivery_mode, loss, 0..0, 36 * 60, seed);
            println!("{name:32} {seed:>5} {messages:>9} {wrong:>6} {converged:>8} s");
            assert_eq!(wrong, 0, "{name}");
            assert!(messages <= most, "{name}: {messages} messages");
            // A lost trap is made good by its repeats, 60 and 300 s later.
            let within = if plain && loss > 0.0 { 120 + 390 } else { 120 };
            assert!(converged <= within, "{name}: true after {converged} s");
        }
    }
}

/// Plain traps are sent to a receiver that is away for ten minutes without notice, from the middle of the storm on.
/// Run it with `cargo test --lib plain_traps -- --nocapture`.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are what it is run for")]
fn plain_traps_reach_a_receiver_that_was_silently_away() {
    const HOUR: u64 = 3600;
    let traps = || DeliveryMode::Repeated(vec![Duration::from_secs(60), Duration::from_secs(300)]);
    println!("500 tests flap for 3 minutes, then 150 stay down; the receiver is away from second 90 to 690");
    println!("{:>4} {:>9} {:>22} {:>22}", "seed", "messages", "wrong after 45 minutes", "true after");
    for seed in 0..5 {
        let (_, wrong, _) = simulate(traps(), 0.02, 90..690, 45 * 60, seed);
        let (messages, at_last, converged) = simulate(traps(), 0.02, 90..690, 6 * HOUR, seed);
        println!("{seed:>4} {messages:>9} {wrong:>22} {converged:>20} s");
        assert_eq!(at_last, 0);
        assert!(wrong <= 5, "{wrong} wrong after 45 minutes");
    }
}

/// A restored copy of the records names a raise that the receiver was since notified to be cleared.
#[test]
fn alarm_that_stands_is_sent_again_after_older_records_were_restored() {
    let mut world = World::new(4, 4, GroupSettings { group_min: 0, ..GROUPS }, DeliveryMode::Acknowledged);
    world.set(0, true);
    world.deliver();
    world.backup = world.log.records();
    world.narrow(Scope::Config);
    world.deliver();
    apply(&mut world, Step::Restore);
    world.narrow(Scope::All);
    world.deliver();
    world.assert_converged();
}

fn notified(world: &mut World) -> Vec<String> {
    let due = world.log.take_due(world.now, usize::MAX);
    due.iter()
        .map(|due| {
            world.receiver.receive(due);
            world.log.on_delivered(due, world.now.moment);
            match due {
                Outbound::Alarm { notification, .. } => format!("{}: {}", notification.headline(), notification.text()),
                Outbound::ColdStart => "cold start".to_owned(),
            }
        })
        .collect()
}

/// A failed host, one of many, leads to one message, and to another when it is back.
#[test]
fn failed_host_is_one_raise_and_one_clear() {
    let mut world = World::new(40, 8, GROUPS, DeliveryMode::Acknowledged);
    (0..40).for_each(|n| world.set(n, false));
    world.pass(SECOND * 100);
    (8..16).for_each(|n| world.set(n, true));
    assert_eq!(notified(&mut world), [""; 0]);
    world.pass(SECOND * 5);
    let expected = ["h1 → b: connection DOWN: all 8 tests from host h1 went down together, among them \"test 8\""];
    assert_eq!(notified(&mut world), expected);
    world.pass(SECOND * 60);
    (8..16).for_each(|n| world.set(n, false));
    assert_eq!(notified(&mut world).len(), 1);
    world.pass(SECOND * 600);
    assert_eq!(notified(&mut world), [""; 0]);
    world.assert_converged();
}

/// Remarks point to the cause: other tests from the same host, and the result of this host's own probes to it.
#[test]
fn connection_alarm_of_one_test_shows_remarks_about_its_host() {
    let mut world = World::new(8, 2, GROUPS, DeliveryMode::Acknowledged);
    (0..8).for_each(|n| world.set(n, false));
    world.set(2, true);
    world.pass(SECOND * 6);
    let text = notified(&mut world).remove(0);
    assert!(text.ends_with("; 1 of 1 other tests with h1 get through"), "{text}");
    let back =
        Arc::new(TestFacts { from_host: "b".into(), to_host: "h1".into(), id: id(99), ..facts(2, 2).as_ref().clone() });
    let sender = ConditionChange {
        key: AlarmKey::new(Kind::Sender, Subject::Test(back.id)),
        reporter: Subject::Test(back.id),
        at: world.now,
        verdict: Verdict::Violated(Cause::NotSent("no route to host (EHOSTUNREACH)".into())),
        test: Some(back),
    };
    let alarm_status = world.engine.on_change(&sender, world.now);
    world.learn(alarm_status);
    world.set(3, true);
    world.pass(SECOND * 6);
    let text =
        notified(&mut world).into_iter().find(|text| text.starts_with("h1 → b: connection DOWN, test 3")).unwrap();
    let expected = "; no other test with h1 gets through; from here to h1: no route to host (EHOSTUNREACH)";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn alarm_of_drained_host_is_sent_after_draining_ends() {
    let mut world = World::new(8, 2, GROUPS, DeliveryMode::Acknowledged);
    (0..8).for_each(|n| world.set(n, false));
    world.rules.drained.insert("h1".into());
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    world.learn(alarm_status);
    world.set(2, true);
    world.set(4, true);
    world.pass(SECOND * 6);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].starts_with("h2 → b: connection DOWN, test 4"), "{all:?}");
    world.rules.drained.clear();
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    world.learn(alarm_status);
    // The engine waits as usual whether other tests of the group follow.
    world.pass(SECOND * 5);
    assert!(notified(&mut world)[0].starts_with("h1 → b: connection DOWN, test 2"));
}

/// A group that is raised is not ended by a silence, and a group that is shelved from the beginning is not notified.
#[test]
fn silence_neither_clears_a_group_nor_lets_one_be_raised() {
    let mut world = World::new(24, 4, GROUPS, DeliveryMode::Acknowledged);
    (0..24).for_each(|n| world.set(n, false));
    (0..4).for_each(|n| world.set(n, true));
    world.pass(SECOND * 5);
    assert_eq!(notified(&mut world).len(), 1);
    for host in [0, 1] {
        apply(&mut world, Step::Silence(host, 1000));
    }
    (4..8).for_each(|n| world.set(n, true));
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world), [""; 0]);
    (0..4).for_each(|n| world.set(n, false));
    assert_eq!(notified(&mut world).len(), 1);
    // After the end of the silence, the other host is notified as one group.
    world.pass(SECOND * 1000);
    world.pass(SECOND * 6);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].starts_with("h1 → b: connection DOWN"), "{all:?}");
}

#[test]
fn windows_apply_after_alarm_engine_is_rebuilt() {
    let window = Window {
        name: "always".into(),
        host: None,
        matcher: Matcher::default(),
        hours: crate::pure::alarm::shelving::WindowTimes::Once {
            from: WallTime::default(),
            to: WallTime::from_unix_nanos(u64::MAX),
        },
    };
    let rules = Rules { windows: vec![window], ..rules(2, 1, GROUPS) };
    let now = Now::default();
    let mut engine = AlarmEngine::new("b".into(), rules.clone());
    engine.on_rules(rules, now);
    let alarm_status = engine.on_change(&changed(&facts(0, 1), true, now), now);
    assert!(alarm_status[0].suppressed_by.is_some());
}

/// A test that is removed together with the others of a failed host is not notified on its removal.
#[test]
fn removed_test_of_notified_group_is_not_sent() {
    let mut world = World::new(24, 4, GROUPS, DeliveryMode::Acknowledged);
    (0..24).for_each(|n| world.set(n, n < 4));
    world.pass(SECOND * 5);
    assert_eq!(notified(&mut world).len(), 1);
    let mut rules = world.rules.clone();
    (0..4).for_each(|n| {
        rules.members.remove(&id(n));
        rules.tests.remove(&id(n));
    });
    let alarm_status = world.engine.on_rules(rules, world.now);
    world.learn(alarm_status);
    assert_eq!(notified(&mut world), [""; 0]);
    world.pass(SECOND * 30);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].starts_with("h0 → b: connection UP"), "{all:?}");
}

/// Tests with different intervals detect the loss one after the other; the agent is isolated all the same.
#[test]
fn isolated_alarm_is_raised_when_all_hosts_fail_one_by_one() {
    let mut world = World::new(24, 4, GROUPS, DeliveryMode::Acknowledged);
    (0..24).for_each(|n| world.set(n, false));
    let mut all = Vec::new();
    for host in 0..6 {
        (0..4).for_each(|n| world.set(host * 4 + n, true));
        world.pass(SECOND * 10);
        all.extend(notified(&mut world));
    }
    assert!(all.last().unwrap().starts_with("b: isolated RAISED"), "{all:?}");
    // The first probe that arrives ends the isolation; the failed hosts stay raised.
    world.set(0, false);
    world.pass(SECOND * 30);
    let over = notified(&mut world);
    assert!(over.iter().any(|text| text.starts_with("b: isolated CLEARED")), "{over:?}");
}

#[test]
fn changed_tags_of_a_test_match_silences_at_once() {
    let mut world = World::new(2, 1, GROUPS, DeliveryMode::Acknowledged);
    world.set(0, true);
    let silence = Silence {
        id: "s".into(),
        matcher: Matcher { tags: vec!["maint".into()], ..Matcher::default() },
        from: world.now.wall,
        until: world.now.wall + SECOND * 1000,
        comment: String::new(),
        author: String::new(),
    };
    world.engine.on_silence(silence, world.now);
    let tagged = TestFacts { tags: ["maint".to_owned()].into(), ..facts(0, 1).as_ref().clone() };
    world.rules.tests.insert(id(0), (Arc::new(tagged), DAMPING));
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    assert!(matches!(alarm_status[0].suppressed_by, Some(SuppressedBy::Shelved { .. })), "{alarm_status:?}");
}

/// Returns test `n` of this host's own, which sends to host `h{host}`.
fn sent(n: usize, host: usize) -> Arc<TestFacts> {
    let facts = facts(1_000 + n, 1);
    Arc::new(TestFacts { from_host: "b".into(), to_host: format!("h{host}"), ..facts.as_ref().clone() })
}

/// Returns a world in which as many tests go to each host as come from it.
fn both_ways(hosts: usize, per_host: usize, delivery_mode: DeliveryMode) -> World {
    let mut world = World::new(hosts * per_host, per_host, GROUPS, delivery_mode);
    for n in 0..hosts * per_host {
        let facts = sent(n, n / per_host);
        let membership = Membership {
            shares: vec![Subject::Host(facts.to_host.clone())],
            fresh_after: Duration::from_secs(7),
            found_after: Duration::from_secs(3),
            direction: GroupDirection::To,
            description: facts.description.clone(),
        };
        world.rules.tests.insert(facts.id, (facts.clone(), DAMPING));
        world.rules.sent.insert(facts.id, membership);
    }
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    world.learn(alarm_status);
    (0..hosts * per_host).for_each(|n| world.set(n, false));
    world.pass(SECOND * 100);
    world
}

impl World {
    /// Changes a condition of another kind than the connection.
    fn set_kind(&mut self, kind: Kind, test: &Arc<TestFacts>, cause: Option<Cause>) {
        let change = ConditionChange {
            key: AlarmKey::new(kind, Subject::Test(test.id)),
            reporter: Subject::Test(test.id),
            at: self.now,
            verdict: cause.map_or(Verdict::Cleared, Verdict::Violated),
            test: Some(test.clone()),
        };
        let alarm_status = self.engine.on_change(&change, self.now);
        self.learn(alarm_status);
    }
}

fn refused() -> Option<Cause> {
    Some(Cause::NotSent("port unreachable".into()))
}

fn lossy() -> Option<Cause> {
    Some(Cause::Loss { share: 0.3, max_loss: 0.02, loss_window: SECOND * 60, dropped: 0 })
}

/// Fifteen tests run each way: refused probes are detected first, then the missing ones; they recover in another
/// order.
#[test]
fn failed_host_with_tests_both_ways_is_one_raise_and_one_clear() {
    let mut world = both_ways(4, 15, DeliveryMode::Acknowledged);
    let mut all = Vec::new();
    (15..30).for_each(|n| world.set_kind(Kind::Loss, &facts(n, 15), lossy()));
    for second in 0..60 {
        match second {
            3 => (15..30).for_each(|n| world.set_kind(Kind::Sender, &sent(n, 1), refused())),
            6 => (15..30).for_each(|n| world.set(n, true)),
            40 => (15..30).for_each(|n| world.set(n, false)),
            44 => (15..30).for_each(|n| world.set_kind(Kind::Sender, &sent(n, 1), None)),
            46 => (15..30).for_each(|n| world.set_kind(Kind::Loss, &facts(n, 15), None)),
            _ => {}
        }
        world.pass(SECOND);
        if second >= 1 {
            all.extend(notified(&mut world));
        }
    }
    // Loss was notified before anything else was known about the host.
    let loss = all.iter().filter(|text| text.contains(": loss ")).count();
    assert!(loss == 0 || loss == 30, "{all:?}");
    all.retain(|text| !text.contains(": loss ") && !text.contains("storm"));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[0].starts_with("h1 → b: connection DOWN: all 15 tests from host h1"), "{all:?}");
    assert!(all[1].starts_with("h1 → b: connection UP: up again after"), "{all:?}");
    world.assert_converged();
}

#[test]
fn refused_probes_to_a_host_that_is_up_are_one_alarm() {
    let mut world = both_ways(4, 5, DeliveryMode::Acknowledged);
    (5..10).for_each(|n| world.set_kind(Kind::Sender, &sent(n, 1), refused()));
    world.pass(SECOND * 20);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].starts_with("b → h1: sender RAISED: all 5 tests to host h1"), "{all:?}");
    (5..10).for_each(|n| world.set_kind(Kind::Sender, &sent(n, 1), None));
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world).len(), 1);
    world.assert_converged();
}

/// Alarms about measurements before an outage are not sent after it, unless they are measured again.
#[test]
fn outdated_loss_alarm_is_not_sent_after_connection_is_cleared() {
    let mut world = both_ways(2, 1, DeliveryMode::Acknowledged);
    world.set(0, true);
    world.pass(SECOND * 10);
    assert_eq!(notified(&mut world).len(), 1);
    world.set_kind(Kind::Loss, &facts(0, 1), lossy());
    world.pass(SECOND * 60);
    world.set(0, false);
    world.pass(SECOND * 2);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].contains("UP"), "{all:?}");
    world.set_kind(Kind::Loss, &facts(0, 1), None);
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world), [""; 0]);
    // An alarm that is measured again is sent.
    world.set_kind(Kind::Loss, &facts(0, 1), lossy());
    world.pass(SECOND * 2);
    assert_eq!(notified(&mut world).len(), 1);
}

#[test]
fn group_below_ratio_is_cleared_and_tests_still_down_are_sent() {
    let mut world = World::new(40, 10, GROUPS, DeliveryMode::Acknowledged);
    (0..40).for_each(|n| world.set(n, false));
    world.pass(SECOND * 100);
    (0..10).for_each(|n| world.set(n, true));
    world.pass(SECOND * 10);
    assert_eq!(notified(&mut world).len(), 1);
    world.pass(SECOND * 60);
    // A member is up again: the group's text counts it.
    world.set(0, false);
    let text = &world.engine.raised().find(|alarm| alarm.key.test().is_none()).unwrap().text();
    assert!(text.starts_with("9 of 10 tests from host h0"), "{text}");
    (1..6).for_each(|n| world.set(n, false));
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].contains("tests are not good again yet"), "{all:?}");
    world.pass(SECOND * 10);
    let all = notified(&mut world);
    assert_eq!(all.len(), 4, "{all:?}");
    world.assert_converged();
}

#[test]
fn drained_host_is_excluded_from_isolation() {
    for drained_is_up in [true, false] {
        let mut world = World::new(24, 4, GROUPS, DeliveryMode::Acknowledged);
        world.rules.drained.insert("h0".into());
        let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
        world.learn(alarm_status);
        (0..24).for_each(|n| world.set(n, n < 4 && !drained_is_up));
        world.pass(SECOND * 100);
        (4..24).for_each(|n| world.set(n, true));
        world.pass(SECOND * 10);
        let all = notified(&mut world);
        assert!(all.len() == 1 && all[0].starts_with("b: isolated RAISED: all 20 tests"), "{all:?}");
    }
}

#[test]
fn test_added_while_isolated_sends_nothing() {
    let mut world = World::new(24, 4, GROUPS, DeliveryMode::Acknowledged);
    let last = world.rules.members.remove(&id(23)).unwrap();
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    world.learn(alarm_status);
    (0..23).for_each(|n| world.set(n, true));
    world.pass(SECOND * 10);
    assert_eq!(notified(&mut world).len(), 1);
    world.rules.members.insert(id(23), last);
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    world.learn(alarm_status);
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world), [""; 0]);
}

#[test]
fn overdue_test_is_not_counted_as_up_in_remarks() {
    let mut world = World::new(8, 2, GROUPS, DeliveryMode::Acknowledged);
    (0..8).for_each(|n| world.set(n, false));
    let overdue = ConditionChange { verdict: Verdict::Overdue, ..changed(&facts(3, 2), false, world.now) };
    world.engine.on_change(&overdue, world.now);
    world.set(2, true);
    world.pass(SECOND * 6);
    let text = notified(&mut world).remove(0);
    assert!(text.ends_with("; no other test with h1 gets through"), "{text}");
    // The probe was only late, and the text counts its test from then on.
    world.set(3, false);
    world.pass(SECOND);
    let text = &world.engine.raised().next().unwrap().text();
    assert!(text.ends_with("; 1 of 1 other tests with h1 get through"), "{text}");
}

#[test]
fn group_raised_after_silence_keeps_time_of_failure() {
    let mut world = World::new(24, 4, GROUPS, DeliveryMode::Acknowledged);
    (0..24).for_each(|n| world.set(n, false));
    apply(&mut world, Step::Silence(0, 1000));
    let began = world.now.wall;
    (0..4).for_each(|n| world.set(n, true));
    world.pass(SECOND * 600);
    world.pass(SECOND * 401);
    world.pass(SECOND * 6);
    assert_eq!(notified(&mut world).len(), 1);
    let group = world.engine.raised().find(|alarm| alarm.key.test().is_none()).unwrap();
    assert_eq!(group.since, began);
}

#[test]
fn faults_of_many_documents_are_one_group_alarm() {
    let mut world = World::new(2, 1, GROUPS, DeliveryMode::Acknowledged);
    let fault = |world: &mut World, n: usize, cause: Option<Cause>| {
        let subject = Subject::Document(format!("tests/b/{n:02}"));
        let verdict = cause.map_or(Verdict::Cleared, Verdict::Violated);
        let key = AlarmKey::new(Kind::Config, subject.clone());
        let alarm_status = world.engine.on_change(&condition_change(key, subject, world.now, verdict), world.now);
        world.learn(alarm_status);
    };
    (0..40).for_each(|n| fault(&mut world, n, Some(Cause::Config("one mistake".into()))));
    world.pass(SECOND * 5);
    let all = notified(&mut world);
    let expected = "b configuration: config RAISED: 40 configuration faults at once, among them document tests/b/00";
    assert_eq!(all, [expected]);
    (0..40).for_each(|n| fault(&mut world, n, None));
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world).len(), 1);
    world.assert_converged();
}

#[test]
fn tests_that_leave_a_notified_group_wait_before_they_are_sent() {
    let mut engine = AlarmEngine::new("b".into(), Rules { members: BTreeMap::new(), ..rules(4, 4, GROUPS) });
    let now = |seconds: u64| Now {
        moment: Moment::new(Duration::from_secs(seconds)),
        wall: WallTime::from_unix_nanos(1_700_000_000_000_000_000 + seconds * 1_000_000_000),
    };
    engine.on_rules(rules(4, 4, GROUPS), now(0));
    for n in 0..4 {
        engine.on_change(&changed(&facts(n, 4), true, now(1)), now(1));
    }
    assert!(engine.raised().any(|alarm| alarm.key.subject == Subject::Host("h0".into())));
    // The tests now come from the agent's own host, of which there is no group.
    let mut moved = rules(4, 4, GROUPS);
    for member in moved.members.values_mut() {
        member.shares.retain(|share| matches!(share, Subject::Listener(_)));
    }
    let alarm_status = engine.on_rules(moved, now(2));
    let notified: Vec<String> = alarm_status
        .iter()
        .filter(|alarm_status| alarm_status.suppressed_by.is_none() && alarm_status.notification.is_raised())
        .map(|alarm_status| alarm_status.notification.key.to_string())
        .collect();
    assert_eq!(notified, [""; 0]);
    // Another report that they are down changes nothing.
    for n in 0..4 {
        let again = ConditionChange { at: now(1), ..changed(&facts(n, 1), true, now(2)) };
        let alarm_status = engine.on_change(&again, now(2));
        assert!(alarm_status.iter().all(|alarm_status| alarm_status.suppressed_by.is_some()), "{alarm_status:?}");
    }
    let silence = Silence {
        id: "s".into(),
        matcher: Matcher { hosts: vec!["elsewhere".into()], ..Matcher::default() },
        from: now(2).wall,
        until: now(100).wall,
        author: String::new(),
        comment: String::new(),
    };
    let alarm_status = engine.on_silence(silence, now(2));
    assert!(alarm_status.iter().all(|alarm_status| alarm_status.suppressed_by.is_some()), "{alarm_status:?}");
    for seconds in 3..7 {
        let alarm_status = engine.on_time(now(seconds));
        assert!(
            alarm_status.iter().all(|alarm_status| alarm_status.suppressed_by.is_some()),
            "{seconds} {alarm_status:?}"
        );
    }
}

/// Returns the raised alarms of these kinds about a test, each with what suppresses it.
fn suppression(world: &World, n: usize, kinds: &[Kind]) -> Vec<Option<SuppressedBy>> {
    let is_wanted =
        |alarm: &Notification| alarm.is_raised() && alarm.key.test() == Some(id(n)) && kinds.contains(&alarm.key.kind);
    let all = world.engine.all(world.now).filter(|status| is_wanted(&status.notification));
    all.map(|status| status.suppressed_by).collect()
}

#[test]
fn measurements_of_a_test_that_is_down_are_suppressed_by_its_connection() {
    let mut world = World::new(2, 1, GROUPS, DeliveryMode::Acknowledged);
    world.set(0, true);
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world).len(), 1);
    MEASURED.into_iter().for_each(|kind| world.set_kind(kind, &facts(0, 1), lossy()));
    world.pass(SECOND * 60);
    assert_eq!(notified(&mut world), [""; 0]);
    let by = AlarmKey::new(Kind::Connection, Subject::Test(id(0))).to_string();
    assert_eq!(suppression(&world, 0, &MEASURED), [(); 4].map(|()| Some(SuppressedBy::Explained { by: by.clone() })));
}

#[test]
fn measurements_of_a_group_member_are_suppressed_by_the_group() {
    let mut world = World::new(40, 8, GROUPS, DeliveryMode::Acknowledged);
    (0..40).for_each(|n| world.set(n, false));
    (8..16).for_each(|n| world.set(n, true));
    world.pass(SECOND * 10);
    assert_eq!(notified(&mut world).len(), 1);
    world.set_kind(Kind::Loss, &facts(9, 8), lossy());
    let by = AlarmKey::new(Kind::Connection, Subject::Host("h1".into())).to_string();
    assert_eq!(suppression(&world, 9, &MEASURED), [Some(SuppressedBy::Explained { by })]);
}

/// Probes to a host are refused before the missing ones from it can be detected.
#[test]
fn sender_alarm_waits_until_missing_probes_would_be_detected() {
    let mut world = both_ways(2, 1, DeliveryMode::Acknowledged);
    world.rules.members.values_mut().for_each(|test| test.found_after = SECOND * 10);
    let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
    world.learn(alarm_status);
    world.set_kind(Kind::Sender, &sent(1, 1), refused());
    for _ in 0..12 {
        world.pass(SECOND);
        assert_eq!(notified(&mut world), [""; 0]);
    }
    world.set(1, true);
    world.pass(SECOND * 60);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].starts_with("h1 → b: connection DOWN"), "{all:?}");
}

/// Another test of the host is slow to confirm that it is back, or the sender itself.
#[test]
fn sender_alarm_waits_for_the_slowest_test_after_its_connection_is_cleared() {
    for slow in [id(1), sent(0, 0).id] {
        let mut world = both_ways(2, 2, DeliveryMode::Acknowledged);
        let (members, sends) = (&mut world.rules.members, &mut world.rules.sent);
        members.get_mut(&slow).or(sends.get_mut(&slow)).unwrap().fresh_after = SECOND * 40;
        let alarm_status = world.engine.on_rules(world.rules.clone(), world.now);
        world.learn(alarm_status);
        world.set(0, true);
        world.set_kind(Kind::Sender, &sent(0, 0), refused());
        world.pass(SECOND * 60);
        assert_eq!(notified(&mut world).len(), 1);
        world.pass(SECOND * 60);
        world.set(0, false);
        assert_eq!(notified(&mut world).len(), 1);
        world.pass(SECOND * 35);
        assert_eq!(notified(&mut world), [""; 0]);
        world.set_kind(Kind::Sender, &sent(0, 0), None);
        world.pass(SECOND * 60);
        assert_eq!(notified(&mut world), [""; 0]);
    }
}

#[test]
fn group_text_says_that_the_sender_announced_its_stop() {
    let mut world = World::new(40, 8, GROUPS, DeliveryMode::Acknowledged);
    (0..40).for_each(|n| world.set(n, false));
    for n in 8..16 {
        let mut change = changed(&facts(n, 8), true, world.now);
        if let Verdict::Violated(Cause::Silence(silence)) = &mut change.verdict {
            silence.announced_stop = true;
        }
        world.engine.on_change(&change, world.now);
    }
    world.pass(SECOND * 6);
    let all = notified(&mut world);
    assert!(all.len() == 1 && all[0].ends_with("; the sender announced its stop"), "{all:?}");
}

#[test]
fn remark_of_a_test_judged_at_its_sender_names_the_receiver() {
    let mut world = World::new(8, 2, GROUPS, DeliveryMode::Acknowledged);
    for n in 0..8 {
        let (from_host, to_host) = ("b".into(), format!("h{}", n / 2));
        world.tests[n] = Arc::new(TestFacts { from_host, to_host, ..facts(n, 2).as_ref().clone() });
        world.set(n, n == 2);
    }
    world.pass(SECOND * 6);
    let text = notified(&mut world).remove(0);
    assert!(text.ends_with("; 1 of 1 other tests with h1 get through"), "{text}");
}

/// The sender of a test may report once more after its document was removed.
#[test]
fn report_of_a_test_that_is_not_in_the_plan_is_dropped() {
    let mut engine = AlarmEngine::new("b".into(), rules(2, 1, GROUPS));
    let now = Now::default();
    let key = |n| AlarmKey::new(Kind::Connection, Subject::Test(id(n)));
    let possible: AlarmInventory = [key(0)].into_iter().collect();
    let reporters = Arc::new(Reporters::from([(Subject::Test(id(0)), Some("h0".to_owned()))]));
    engine.retain(&possible, &reporters, now);
    engine.on_change(&changed(&facts(1, 1), true, now), now);
    assert_eq!(engine.raised().count(), 0);
    engine.on_change(&changed(&facts(0, 1), true, now), now);
    assert_eq!(engine.raised().map(|alarm| alarm.key.clone()).collect::<Vec<_>>(), [key(0)]);
    // A fault is reported before the plan that makes its alarm possible.
    let subject = Subject::Listener(([127, 0, 0, 1], 8620).into());
    let fault = AlarmKey::new(Kind::Config, subject.clone());
    let verdict = Verdict::Violated(Cause::Config("cannot bind".into()));
    engine.on_change(&condition_change(fault, subject, now, verdict), now);
    assert_eq!(engine.raised().count(), 2);
}

/// The reports of two tests are consistent with a wrong clock here, and with two wrong clocks elsewhere.
#[test]
fn clock_of_this_host_is_blamed_when_those_of_most_hosts_appear_wrong() {
    let mut engine = AlarmEngine::new("b".into(), rules(2, 1, GROUPS));
    let now = Now::default();
    let clock = |n: usize| AlarmKey::new(Kind::Clock, Subject::Host(format!("h{n}")));
    let mut possible: AlarmInventory = [clock(0), clock(1)].into_iter().collect();
    possible.extend([AlarmKey::new(Kind::Clock, Subject::Agent)]);
    let reporters = |hosts: usize| {
        Arc::new((0..hosts).map(|n| (Subject::Test(id(n)), Some(format!("h{n}")))).collect::<Reporters>())
    };
    engine.retain(&possible, &reporters(2), now);
    let blamed = |engine: &AlarmEngine| engine.raised().map(|alarm| alarm.key.subject.to_string()).collect::<Vec<_>>();
    for (n, expected) in [(0, "host h0"), (1, "agent")] {
        let delay = Delay { nanos: -10_000_000, uncertainty: Duration::ZERO };
        let verdict = Verdict::Violated(Cause::ClockWrong { delay, peer: format!("h{n}") });
        engine.on_change(&condition_change(clock(n), Subject::Test(id(n)), now, verdict), now);
        assert_eq!(blamed(&engine), [expected]);
    }
    // The test with one of the hosts is removed: the other host is blamed again.
    engine.retain(&possible, &reporters(1), now);
    assert_eq!(blamed(&engine), ["host h0"]);
}
