use super::*;
use crate::pure::alarm::Subject;
use crate::pure::notification::AlarmState;
use crate::pure::test::TestId;
use proptest::prelude::*;

const HOLD: HoldDown = HoldDown { hold_down: Duration::from_secs(30), hold_down_max: Duration::from_secs(600) };
const MANNER: Manner =
    Manner { rate: 10.0, burst: 50, scope: Scope::All, first_up: FirstUp::Silent, repeat: Vec::new() };

fn at(seconds: u64) -> Moment {
    Moment::new(Duration::from_secs(seconds))
}

fn key(kind: Kind, n: u8) -> AlarmKey {
    AlarmKey::new(kind, Subject::Test(TestId::from_bytes([n; 16])))
}

fn alarm(kind: Kind, n: u8, state: AlarmState) -> Notification {
    Notification {
        agent: "b".into(),
        key: key(kind, n),
        state,
        severity: kind.severity(),
        since: WallTime::default(),
        text: format!("{kind} {n}"),
        legacy_text: String::new(),
        test: None,
        delay_seconds: None,
        source: None,
        count: 0,
        suppressed: 0,
    }
}

fn down(n: u8) -> Notification {
    alarm(Kind::Connection, n, AlarmState::Raised)
}

fn up(n: u8) -> Notification {
    alarm(Kind::Connection, n, AlarmState::Cleared)
}

/// Sends everything that is due to a receiver that takes all of it.
fn deliver(ledger: &mut Ledger, now: Moment) -> Vec<(u8, bool, u64)> {
    let due = ledger.take_due(now);
    for message in &due {
        ledger.on_delivered(message, now);
    }
    due.iter()
        .map(|message| match message {
            Due::Alarm { notification, .. } => {
                let Subject::Test(id) = notification.key.subject else { panic!("only tests here") };
                (id.to_bytes()[0], notification.is_raised(), notification.suppressed)
            }
            Due::ColdStart => panic!("no cold start here"),
        })
        .collect()
}

#[test]
fn the_first_down_of_a_calm_alarm_is_not_held_and_its_clear_is() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(up(1), HOLD, at(0));
    assert_eq!(deliver(&mut ledger, at(0)), []);
    ledger.on_change(down(1), HOLD, at(100));
    assert_eq!(deliver(&mut ledger, at(100)), [(1, true, 0)]);
    ledger.on_change(up(1), HOLD, at(105));
    assert_eq!(deliver(&mut ledger, at(129)), []);
    assert_eq!(ledger.next_deadline(at(105)), Some(at(130)));
    assert_eq!(ledger.counts(at(105)), LedgerCounts { told: 1, dirty: 1, held: 1 });
    assert_eq!(deliver(&mut ledger, at(130)), [(1, false, 0)]);
    assert_eq!(ledger.next_deadline(at(130)), None);
}

/// A test that toggles every 3 s for a minute, and stays up.
#[test]
fn a_flapper_is_told_seldom_and_truly() {
    let mut ledger = Ledger::new(MANNER, at(0));
    let mut told = Vec::new();
    for second in 0..1000 {
        if second < 60 && second % 3 == 0 {
            let state = if second % 6 == 0 { down(1) } else { up(1) };
            ledger.on_change(state, HOLD, at(second));
        }
        told.extend(deliver(&mut ledger, at(second)).into_iter().map(|message| (second, message)));
    }
    // Down at once; after 30 s it is up or down as it happens to be; then the hold has doubled.
    assert_eq!(told, [(0, (1, true, 0)), (33, (1, false, 10)), (93, (1, true, 0))][..2]);
}

#[test]
fn the_hold_doubles_while_it_keeps_changing_and_starts_over_after_calm() {
    let mut ledger = Ledger::new(MANNER, at(0));
    let mut told = Vec::new();
    let mut raised = false;
    for second in 0..4000 {
        if second % 20 == 0 {
            raised = !raised;
            ledger.on_change(if raised { down(1) } else { up(1) }, HOLD, at(second));
        }
        told.extend(deliver(&mut ledger, at(second)).iter().map(|_| second));
    }
    let gaps: Vec<u64> = told.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] >= 30 && gaps[1] >= 60 && gaps[2] >= 120 && gaps[3] >= 240, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 640), "{gaps:?}");
    // It rests long enough, and the next change is told at once and held for 30 s again.
    deliver(&mut ledger, at(10_000));
    let state = if raised { up(1) } else { down(1) };
    ledger.on_change(state.clone(), HOLD, at(10_000));
    assert_eq!(deliver(&mut ledger, at(10_000)).len(), 1);
    ledger.on_change(if raised { down(1) } else { up(1) }, HOLD, at(10_001));
    assert_eq!(ledger.next_deadline(at(10_001)), Some(at(10_030)));
}

#[test]
fn downs_go_first_then_the_worse_then_the_older() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    deliver(&mut ledger, at(0));
    ledger.on_change(up(1), HOLD, at(100));
    ledger.on_change(alarm(Kind::Latency, 2, AlarmState::Raised), HOLD, at(100));
    ledger.on_change(Notification { since: WallTime::from_unix_nanos(9), ..down(3) }, HOLD, at(100));
    ledger.on_change(Notification { since: WallTime::from_unix_nanos(5), ..down(4) }, HOLD, at(100));
    let order: Vec<u8> = deliver(&mut ledger, at(100)).iter().map(|message| message.0).collect();
    assert_eq!(order, [4, 3, 2, 1]);
}

#[test]
fn a_thousand_alarms_leave_at_burst_and_rate() {
    let mut ledger = Ledger::new(MANNER, at(0));
    for n in 0..=255 {
        ledger.on_change(down(n), HOLD, at(0));
    }
    assert_eq!(deliver(&mut ledger, at(0)).len(), 50);
    assert_eq!(deliver(&mut ledger, at(1)).len(), 10);
    assert_eq!(deliver(&mut ledger, at(6)).len(), 50);
}

#[test]
fn what_fails_stays_dirty() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    let due = ledger.take_due(at(0));
    assert_eq!(ledger.take_due(at(0)), []);
    ledger.on_failed(&due[0]);
    assert_eq!(deliver(&mut ledger, at(5)), [(1, true, 0)]);
}

#[test]
fn what_changes_on_the_way_is_told_after() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    let due = ledger.take_due(at(0));
    ledger.on_change(up(1), HOLD, at(1));
    ledger.on_delivered(&due[0], at(2));
    assert_eq!(deliver(&mut ledger, at(31)), []);
    assert_eq!(deliver(&mut ledger, at(32)), [(1, false, 0)]);
}

#[test]
fn a_restart_between_down_and_up_tells_the_up() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    ledger.take_due(at(0));
    // The agent dies here, not knowing whether the message arrived.
    let mut next = Ledger::new(MANNER, at(0));
    next.load(ledger.records(), HOLD);
    assert_eq!(deliver(&mut next, at(0)), []);
    next.on_change(up(1), HOLD, at(1));
    assert_eq!(deliver(&mut next, at(1)), [(1, false, 0)]);
    assert_eq!(next.records(), []);
}

#[test]
fn a_restart_under_a_standing_alarm_is_silent() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    deliver(&mut ledger, at(0));
    let mut next = Ledger::new(MANNER, at(0));
    next.load(ledger.records(), HOLD);
    next.on_change(down(1), HOLD, at(1));
    assert_eq!(deliver(&mut next, at(1000)), []);
}

#[test]
fn a_test_removed_while_the_agent_was_away_is_cleared() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.load([down(1), down(2)].map(|notification| ToldRecord { notification, in_doubt: false }).into(), HOLD);
    ledger.retain(&BTreeSet::from([key(Kind::Connection, 2)]), Knowledge::Whole, WallTime::default());
    assert_eq!(deliver(&mut ledger, at(0)), [(1, false, 0)]);
    assert_eq!(ledger.entries.len(), 1);
}

#[test]
fn a_removed_test_that_was_never_told_is_forgotten() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(up(1), HOLD, at(0));
    ledger.retain(&BTreeSet::new(), Knowledge::Whole, WallTime::default());
    assert_eq!(ledger.entries.len(), 0);
}

#[test]
fn a_sink_that_loses_its_scope_takes_back_what_it_told() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    deliver(&mut ledger, at(0));
    ledger.on_manner(Manner { scope: Scope::Config, ..MANNER }, Parting::Clear, at(5), WallTime::default());
    assert_eq!(deliver(&mut ledger, at(5)), [(1, false, 0)]);
    ledger.on_change(down(2), HOLD, at(41));
    assert_eq!(deliver(&mut ledger, at(41)), []);
}

fn plain_trap() -> Manner {
    Manner { repeat: vec![Duration::from_secs(60), Duration::from_secs(300)], ..MANNER }
}

/// Nobody knows whether a plain trap arrived: raises and clears are told again, and then left alone.
#[test]
fn what_is_not_acknowledged_is_told_again() {
    let mut ledger = Ledger::new(plain_trap(), at(0));
    let mut told = Vec::new();
    for second in 0..2000 {
        if second == 10 {
            ledger.on_change(down(1), HOLD, at(second));
        }
        if second == 1000 {
            ledger.on_change(up(1), HOLD, at(second));
        }
        told.extend(deliver(&mut ledger, at(second)).into_iter().map(|message| (second, message.1)));
    }
    let expected = [(10, true), (70, true), (310, true), (1000, false), (1060, false), (1300, false)];
    assert_eq!(told, expected);
    assert_eq!(ledger.next_deadline(at(2000)), None);
}

/// What changed meanwhile is told when its hold is over, and the old state not again.
#[test]
fn a_repeat_never_tells_what_is_no_longer_true() {
    let mut ledger = Ledger::new(plain_trap(), at(0));
    let long = HoldDown { hold_down: Duration::from_secs(100), ..HOLD };
    ledger.on_change(down(1), long, at(0));
    assert_eq!(deliver(&mut ledger, at(0)).len(), 1);
    ledger.on_change(up(1), long, at(50));
    assert_eq!(deliver(&mut ledger, at(60)), []);
    assert_eq!(deliver(&mut ledger, at(100)), [(1, false, 0)]);
}

/// The clear of a removed test is repeated too, then forgotten; a restart in between tells it once more.
#[test]
fn the_clear_of_a_removed_test_is_told_again() {
    let mut ledger = Ledger::new(plain_trap(), at(0));
    ledger.on_change(down(1), HOLD, at(0));
    deliver(&mut ledger, at(0));
    ledger.retain(&BTreeSet::new(), Knowledge::Whole, WallTime::default());
    assert_eq!(deliver(&mut ledger, at(30)), [(1, false, 0)]);
    let mut next = Ledger::new(plain_trap(), at(0));
    next.load(ledger.records(), HOLD);
    next.retain(&BTreeSet::new(), Knowledge::Whole, WallTime::default());
    assert_eq!(deliver(&mut next, at(0)).len(), 1);
    assert_eq!(deliver(&mut ledger, at(90)).len(), 1);
    assert_eq!(deliver(&mut ledger, at(330)).len(), 1);
    assert_eq!(ledger.entries.len(), 0);
}

/// A half-edited document is no reason to tell that its test is well.
#[test]
fn what_an_earlier_run_told_stands_while_a_document_is_bad() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.load(vec![ToldRecord { notification: down(1), in_doubt: false }], HOLD);
    ledger.retain(&BTreeSet::new(), Knowledge::Partial, WallTime::default());
    assert_eq!(deliver(&mut ledger, at(0)), []);
    ledger.retain(&BTreeSet::new(), Knowledge::Whole, WallTime::default());
    assert_eq!(deliver(&mut ledger, at(0)), [(1, false, 0)]);
}

/// What leaves while it is handed over is the successor's to clear.
#[test]
fn a_hand_over_during_a_delivery_tells_no_false_clear() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    let due = ledger.take_due(at(0));
    ledger.on_manner(Manner { scope: Scope::Nothing, ..MANNER }, Parting::HandOver, at(0), WallTime::default());
    ledger.on_delivered(&due[0], at(1));
    assert_eq!(ledger.next_deadline(at(1)), None);
}

/// What an earlier run told, and nothing is known of yet, the successor cannot know.
#[test]
fn a_hand_over_of_what_is_not_known_yet_clears_it() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.load(vec![ToldRecord { notification: down(1), in_doubt: false }], HOLD);
    ledger.on_manner(Manner { scope: Scope::Nothing, ..MANNER }, Parting::HandOver, at(0), WallTime::default());
    assert_eq!(deliver(&mut ledger, at(0)), [(1, false, 0)]);
}

/// The successor tells what stands; what is over, and was not yet told to be, only this one can.
#[test]
fn a_hand_over_to_the_same_receiver_clears_only_what_is_over() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    ledger.on_change(down(2), HOLD, at(0));
    deliver(&mut ledger, at(0));
    ledger.on_change(up(2), HOLD, at(5));
    ledger.on_manner(Manner { scope: Scope::Nothing, ..MANNER }, Parting::HandOver, at(6), WallTime::default());
    assert_eq!(deliver(&mut ledger, at(6)), [(2, false, 0)]);
    assert_eq!(ledger.next_deadline(at(6)), None);
}

#[test]
fn a_console_is_told_the_first_good_news() {
    let mut ledger = Ledger::new(Manner { first_up: FirstUp::Told, ..MANNER }, at(0));
    ledger.on_change(up(1), HOLD, at(0));
    ledger.on_change(alarm(Kind::Clock, 1, AlarmState::Cleared), HOLD, at(0));
    assert_eq!(deliver(&mut ledger, at(0)), [(1, false, 0)]);
}

#[test]
fn a_clear_names_the_other_alarm_of_its_test_that_stands() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_change(down(1), HOLD, at(0));
    ledger.on_change(alarm(Kind::Latency, 1, AlarmState::Raised), HOLD, at(0));
    deliver(&mut ledger, at(0));
    ledger.on_change(up(1), HOLD, at(60));
    let due = ledger.take_due(at(60));
    let Due::Alarm { still_raised, .. } = &due[0] else { panic!("an alarm") };
    assert_eq!(still_raised.as_ref().unwrap().key.kind, Kind::Latency);
}

#[test]
fn the_cold_start_goes_first_and_is_repeated_until_it_leaves() {
    let mut ledger = Ledger::new(MANNER, at(0));
    ledger.on_cold_start();
    ledger.on_change(down(1), HOLD, at(0));
    let due = ledger.take_due(at(0));
    assert_eq!(due[0], Due::ColdStart);
    ledger.on_failed(&due[0]);
    assert_eq!(ledger.take_due(at(1)), [Due::ColdStart]);
}

#[test]
fn the_first_good_news_holds_no_bad_news_back() {
    let mut ledger = Ledger::new(Manner { first_up: FirstUp::Told, ..MANNER }, at(0));
    ledger.on_change(up(1), HOLD, at(0));
    deliver(&mut ledger, at(0));
    ledger.on_change(down(1), HOLD, at(5));
    assert_eq!(deliver(&mut ledger, at(5)), [(1, true, 0)]);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Change(u8, bool),
    Deliver,
    Fail,
    Restart,
    Remove(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u64..100).prop_map(Step::Wait),
        8 => (0u8..6, any::<bool>()).prop_map(|(n, raised)| Step::Change(n, raised)),
        6 => Just(Step::Deliver),
        2 => Just(Step::Fail),
        1 => Just(Step::Restart),
        1 => (0u8..6).prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// After the last change, within the longest hold, what was told equals what is true.
    #[test]
    fn the_receiver_converges_on_the_truth(steps in steps()) {
        let mut now = Moment::ZERO;
        let mut ledger = Ledger::new(MANNER, now);
        let mut truth: BTreeMap<u8, bool> = BTreeMap::new();
        let mut receiver: BTreeMap<u8, bool> = BTreeMap::new();
        let state = |n: u8, raised: bool| if raised { down(n) } else { up(n) };
        for step in steps {
            match step {
                Step::Wait(seconds) => now = now + Duration::from_secs(seconds),
                Step::Change(n, raised) => {
                    truth.insert(n, raised);
                    ledger.on_change(state(n, raised), HOLD, now);
                }
                Step::Deliver => receiver.extend(deliver(&mut ledger, now).iter().map(|told| (told.0, told.1))),
                // The message arrives, and its sender does not know.
                Step::Fail => {
                    for due in ledger.take_due(now) {
                        if let Due::Alarm { notification, .. } = &due {
                            let Subject::Test(id) = notification.key.subject else { continue };
                            receiver.insert(id.to_bytes()[0], notification.is_raised());
                        }
                        ledger.on_failed(&due);
                    }
                }
                Step::Restart => {
                    let records = ledger.records();
                    ledger = Ledger::new(MANNER, now);
                    ledger.load(records, HOLD);
                    let valid = truth.keys().map(|n| key(Kind::Connection, *n)).collect();
                    ledger.retain(&valid, Knowledge::Whole, WallTime::default());
                    for (n, raised) in &truth {
                        ledger.on_change(state(*n, *raised), HOLD, now);
                    }
                }
                Step::Remove(n) => {
                    truth.remove(&n);
                    let valid = truth.keys().map(|n| key(Kind::Connection, *n)).collect();
                    ledger.retain(&valid, Knowledge::Whole, WallTime::default());
                }
            }
        }
        let quiet = now + HOLD.hold_down_max;
        while now <= quiet {
            receiver.extend(deliver(&mut ledger, now).iter().map(|told| (told.0, told.1)));
            let Some(next) = ledger.next_deadline(now) else { break };
            prop_assert!(next > now);
            now = next;
        }
        for n in 0..6 {
            let is_raised = truth.get(&n).copied().unwrap_or(false);
            prop_assert_eq!(receiver.get(&n).copied().unwrap_or(false), is_raised, "test {}", n);
        }
    }
}
