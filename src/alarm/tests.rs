use super::*;
use crate::config::document::sinks::SinkConfig;
use crate::config::plan::Plan;
use crate::io::state::engine_boots::{Engine, EngineRole};
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::cause::GroupDirection;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::correlation::Membership;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::notify::log::DeliveryMode;
use crate::pure::test::id::TestId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
struct Fail;

impl Handler<Fail> for Sink {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        panic!("a fault in a sink, made by a test");
    }
}

impl Handler<Fail> for Alarm {
    type Result = ();
    fn handle(&mut self, _: Fail, _: &mut Self::Context) {
        self.sinks.iter().for_each(|sink| sink.do_send(Fail));
    }
}

struct Parent(UnboundedSender<AlarmFact>);

impl Actor for Parent {
    type Context = Context<Self>;
}

impl Handler<AlarmFact> for Parent {
    type Result = ();
    fn handle(&mut self, fact: AlarmFact, _: &mut Self::Context) {
        let _test_is_over = self.0.send(fact);
    }
}

async fn until(
    alarm: &Addr<Alarm>,
    facts: &mut UnboundedReceiver<AlarmFact>,
    expected: impl Fn(&AlarmsStatus) -> bool,
) {
    loop {
        alarm.do_send(Observe::Fully);
        match timeout(DEADLINE, facts.recv()).await.expect("in time").expect("an alarm actor") {
            AlarmFact::Observed(status) if expected(&status) => return,
            AlarmFact::Observed(_) | AlarmFact::Down(_) => {}
        }
    }
}

fn change(verdict: Verdict) -> ConditionReport {
    ConditionReport(condition_change(AlarmKey::new(Kind::Config, Subject::Store), Subject::Store, time::now(), verdict))
}

fn args(directory: &std::path::Path, parent: Recipient<AlarmFact>, notified_of_start: BTreeSet<String>) -> Args {
    Args {
        identity: Identity {
            agent: "a".into(),
            config_server: "dir".into(),
            page: "".into(),
            former: [].into(),
            machine: "".into(),
            engine: Engine::new(directory, "a", EngineRole::Agent),
        },
        plan: Plan::of_bootstrap(&[], "a").alarms,
        state_dir: directory.to_owned(),
        parent,
        generation: 1,
        notified_of_start,
    }
}

/// Returns the configuration of an SNMP sink named `noc` that sends to this socket.
fn noc(receiver: &tokio::net::UdpSocket) -> SinkConfig {
    SinkConfig {
        name: "noc".into(),
        kind: crate::config::document::sinks::SinkKind::Snmp,
        target: receiver.local_addr().unwrap().to_string(),
        ..SinkConfig::default()
    }
}

/// 100,000 alarms are raised and cleared at once, with a receiver that takes ten a second: the actor keeps reporting
/// its status, and its memory is bounded by the number of alarms.
#[actix::test]
async fn status_is_reported_while_a_hundred_thousand_alarms_change() {
    const ALARMS: u128 = 100_000;
    const CHUNK: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let sink = noc(&receiver);
    let (sent, mut facts) = unbounded_channel();
    let parent = Parent(sent).start().recipient();
    let alarm = Alarm::new(args(directory.path(), parent, BTreeSet::from([sink.receiver()]))).start();
    let id = |n: u128| TestId::from_bytes(n.to_be_bytes());
    let mut plan = Plan::of_bootstrap(&[sink], "a").alarms;
    plan.sinks.retain(|sink| sink.config.name == "noc");
    // Two tests from each host, and tests of several listeners, so that no group explains all of them at first.
    Arc::make_mut(&mut plan.rules).members = (0..ALARMS)
        .map(|n| {
            let shares =
                vec![Subject::Host(format!("h{}", n / 2)), Subject::Listener(([127, 0, 0, 1], (n % 7) as u16).into())];
            (
                id(n),
                Membership {
                    shares,
                    fresh_after: Duration::from_secs(8),
                    found_after: Duration::from_secs(3),
                    direction: GroupDirection::From,
                    description: String::new(),
                },
            )
        })
        .collect();
    alarm.do_send(ConfigureSinks(plan));
    let mut slowest = Duration::ZERO;
    for round in 0..4 {
        let changes: Vec<ConditionReport> = (0..ALARMS)
            .map(|n| {
                let verdict = match round % 2 {
                    0 => Verdict::Violated(Cause::Config("down".into())),
                    _ => Verdict::Cleared,
                };
                let subject = Subject::Test(id(n));
                ConditionReport(condition_change(
                    AlarmKey::new(Kind::Connection, subject.clone()),
                    subject,
                    time::now(),
                    verdict,
                ))
            })
            .collect();
        for chunk in changes.chunks(CHUNK) {
            chunk.iter().for_each(|ConditionReport(change)| alarm.do_send(ConditionReport(change.clone())));
            let asked = tokio::time::Instant::now();
            until(&alarm, &mut facts, |_| true).await;
            slowest = slowest.max(asked.elapsed());
        }
    }
    // The page is served from the snapshot meanwhile; this bounds its age in a build without optimisation.
    assert!(slowest < DEADLINE, "answered after {slowest:?}");
    until(&alarm, &mut facts, |status| status.raised == 0 && status.alarms.is_empty()).await;
}

/// The raise is sent while the sink is healthy; a change during its rebuild is sent afterwards, from the log on disk.
#[actix::test]
async fn rebuilt_sink_sends_clear_of_raise_from_its_notification_log() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let sink = noc(&receiver);
    let (sent, mut facts) = unbounded_channel();
    let parent = Parent(sent).start().recipient();
    let alarm = Alarm::new(args(directory.path(), parent, BTreeSet::from([sink.receiver()]))).start();
    let mut plan = Plan::of_bootstrap(&[sink], "a").alarms;
    plan.sinks.retain(|sink| sink.config.name == "noc");
    plan.sinks[0].policy.delivery_mode = DeliveryMode::Acknowledged;
    Arc::make_mut(&mut plan.rules).hold_down.hold_down = Duration::ZERO;
    alarm.do_send(ConfigureSinks(plan));
    let mut octets = [0; 2048];
    alarm.do_send(change(Verdict::Violated(Cause::Config("away".into()))));
    timeout(DEADLINE, receiver.recv(&mut octets)).await.unwrap().unwrap();
    until(&alarm, &mut facts, |status| {
        status.sinks.iter().any(|sink| sink.counts.notified == 1 && sink.counts.pending == 0)
    })
    .await;

    alarm.do_send(Fail);
    until(&alarm, &mut facts, |status| status.restarts == 1).await;
    alarm.do_send(change(Verdict::Cleared));
    let len = timeout(DEADLINE, receiver.recv(&mut octets)).await.unwrap().unwrap();
    let good = [0x2b, 6, 1, 4, 1, 0x83, 0x88, 0x4f, 2, 0, 10];
    assert!(octets[..len].windows(good.len()).any(|window| window == good), "the first word after it is the clear");
}

/// Returns an engine whose host `a` is drained.
fn engine() -> AlarmEngine {
    let mut plan = Plan::of_bootstrap(&[], "b").alarms;
    let mut engine = AlarmEngine::new("b".into(), plan.rules.clone());
    Arc::make_mut(&mut plan.rules).drained.insert("a".into());
    engine.on_rules(plan.rules, time::now());
    engine
}

fn violated(key: AlarmKey) -> ConditionChange {
    let reporter = key.subject.clone();
    condition_change(key, reporter, time::now(), Verdict::Violated(Cause::Config("bad".into())))
}

#[test]
fn snapshot_holds_a_young_isolated_alarm_among_more_older_ones_than_it_can_hold() {
    let mut engine = engine();
    for n in 0..=MAX_SHOWN as u128 {
        let key = AlarmKey::new(Kind::Path, Subject::Test(TestId::from_bytes(n.to_be_bytes())));
        engine.on_change(&violated(key), time::now());
    }
    engine.on_change(&violated(AlarmKey::new(Kind::Isolated, Subject::Agent)), time::now());
    let shown = worst(&engine);
    assert_eq!(shown.len(), MAX_SHOWN);
    assert!(shown.iter().any(|alarm| alarm.notification.key.kind == Kind::Isolated));
}

#[test]
fn alarm_of_a_drained_host_is_among_the_suppressed_ones() {
    let mut engine = engine();
    let test = Arc::new(TestFacts::example(TestId::from_bytes([1; 16])));
    let key = AlarmKey::new(Kind::Loss, Subject::Test(test.id));
    let change = ConditionChange { test: Some(test.clone()), ..violated(key) };
    engine.on_change(&change, time::now());
    assert_eq!(suppressed(&engine), [(test, Kind::Loss, "shelved")]);
}
