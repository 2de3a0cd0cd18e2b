use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::pure::base::time::WallTime;
use crate::pure::clock::error_estimate::DelayLimits;
use crate::pure::measure::loss_window::LossLimits;
use crate::pure::stamp::flows::{CodePoints, Flows};
use crate::pure::stamp::key::KeyChoice;
use crate::pure::stamp::session_reflector::Delays;
use crate::pure::test::facts::TestFacts;
use crate::pure::test::id::TestId;
use crate::pure::test::spec::Mode;
use proptest::prelude::*;

/// Receive session under test, whose methods return the changes of each step.
struct Tested(ReceiveSession);

impl Tested {
    fn new(expected: SessionPlan, now: Now) -> Self {
        Tested(ReceiveSession::new(expected, now))
    }

    fn on_probe(&mut self, incoming: &ProbeSample) -> (Acceptance, Vec<ConditionChange>) {
        let mut changes = Vec::new();
        (self.0.on_probe(incoming, &mut changes), changes)
    }

    fn on_expected(&mut self, expected: SessionPlan, now: Now) -> Vec<ConditionChange> {
        let mut changes = Vec::new();
        self.0.on_expected(expected, now, &mut changes);
        changes
    }
}

impl std::ops::Deref for Tested {
    type Target = ReceiveSession;
    fn deref(&self) -> &ReceiveSession {
        &self.0
    }
}

impl std::ops::DerefMut for Tested {
    fn deref_mut(&mut self) -> &mut ReceiveSession {
        &mut self.0
    }
}

const EVERY: Duration = Duration::from_millis(200);

fn expected() -> SessionPlan {
    with(criteria())
}

fn with(criteria: Criteria) -> SessionPlan {
    SessionPlan {
        test: Arc::new(TestFacts {
            description: "app to db".into(),
            ..TestFacts::example(TestId::from_bytes([7; 16]))
        }),
        from_address: None,
        any_of: None,
        criteria: Arc::new(criteria),
    }
}

fn criteria() -> Criteria {
    Criteria {
        expect_every: EVERY,
        has_timeout: true,
        thresholds: Thresholds::in_a_row(3, 3),
        limits: DelayLimits {
            max_latency: Some(Duration::from_millis(5)),
            clear_latency: Duration::MAX,
            egregious_latency: Duration::from_secs(10),
        },
        startup_grace: Duration::from_secs(2),
        max_pause: Duration::from_secs(60),
        role: Role::Receiver,
        mode: Mode::OneWay,
        max_each_way: None,
        max_above_baseline: None,
        loss: LossLimits { max_loss_ppm: None, max_jitter: None, loss_window: Duration::from_secs(60) },
        flows: Flows::default(),
        keys: None,
    }
}

/// Returns a time at which the wall clock is 1,000 s ahead of the time since the process began.
fn at(millis: u64) -> Now {
    Now {
        moment: Moment::new(Duration::from_millis(millis)),
        wall: WallTime::from_unix_nanos((1_000_000 + millis) * 1_000_000),
    }
}

fn probe(millis: u64, sequence: u32) -> ProbeSample {
    delayed(millis, sequence, 1)
}

fn delayed(millis: u64, sequence: u32, delay: i64) -> ProbeSample {
    ProbeSample {
        test_id: TestId::from_bytes([7; 16]),
        received: at(millis),
        delay: Delay { nanos: delay * 1_000_000, uncertainty: Duration::ZERO },
        directions: None,
        epoch_and_sequence: Some((1, sequence)),
        unsent: 0,
        send_every: EVERY / 2,
        // Send times follow the sequence numbers, so a duplicate has the send time of its first copy.
        sent: WallTime::from_unix_nanos(1_000_000_000_000 + u64::from(sequence)),
        source_port: 40_000,
        is_trusted: true,
        clock_was_set: false,
        stops: false,
        stepped: false,
        ttl: None,
        dscp: None,
        dropped: 0,
    }
}

#[test]
fn probes_that_never_left_are_not_lost_and_those_among_them_that_were_lost_are() {
    let flows = Flows { ports: 4, dscp: CodePoints::of(&[0]), size: None };
    let mut session = Tested::new(with(Criteria { flows, ..criteria() }), at(0));
    let mut unsent = 0;
    for sequence in 0..400 {
        // The second flow is refused at its sender for all turns but the last.
        if sequence % 4 == 1 && sequence < 396 {
            unsent += 1;
            continue;
        }
        // A whole turn is lost on the way.
        if (200..204).contains(&sequence) {
            continue;
        }
        session.on_probe(&ProbeSample { unsent, ..probe(1_000 + u64::from(sequence), sequence) });
    }
    assert_eq!(session.statistics(at(2_000).moment).total.lost, 3);
    let lost: Vec<u64> = session.flows().iter().map(|flow| flow.lost).collect();
    assert_eq!(lost[1], 0, "{lost:?}");
}

/// Shifts a probe as if the receiver's wall clock had been set by this number of nanoseconds.
fn step(incoming: &mut ProbeSample, nanos: i64) {
    let stepped = incoming.received.wall.unix_nanos().saturating_add_signed(nanos);
    incoming.received.wall = WallTime::from_unix_nanos(stepped);
    incoming.delay.nanos += nanos;
}

fn silence(session: &mut Tested, millis: u64) -> Vec<ConditionChange> {
    let mut changes = Vec::new();
    session.on_timeout(at(millis), 0, &mut changes);
    // An overdue probe is no verdict on the connection.
    changes.retain(|change| change.verdict != Verdict::Overdue);
    changes
}

/// Renders changes as kind, whether raised, and text of the cause.
fn shown(changes: &[ConditionChange]) -> Vec<(Kind, bool, String)> {
    changes
        .iter()
        .filter(|change| change.verdict != Verdict::Overdue)
        .map(|change| match &change.verdict {
            Verdict::Violated(cause) => (change.key.kind, true, cause.to_string()),
            Verdict::Cleared => (change.key.kind, false, String::new()),
            Verdict::Undecidable => (change.key.kind, false, "undecidable".to_owned()),
            Verdict::Overdue => panic!("left out"),
        })
        .collect()
}

fn kinds(changes: &[ConditionChange]) -> Vec<(Kind, bool)> {
    shown(changes).into_iter().map(|(kind, raised, _)| (kind, raised)).collect()
}

#[test]
fn missing_probes_raise_at_exactly_raise_after_times_expect_every() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    assert_eq!(silence(&mut session, 1599), []);
    assert_eq!(session.connection().state(), State::Suspect);
    assert_eq!(session.next_deadline(), at(1600).moment);
    let changes = silence(&mut session, 1600);
    let text = "no probe since 1970-01-01T00:16:41.000Z, expected every 200ms";
    assert_eq!(shown(&changes), [(Kind::Connection, true, text.into())]);
    assert_eq!(silence(&mut session, 100_000), []);
}

#[test]
fn connection_alarm_is_cleared_after_clear_after_probes() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    silence(&mut session, 5000);
    let cleared = |incoming: ProbeSample, session: &mut Tested| {
        kinds(&session.on_probe(&incoming).1).contains(&(Kind::Connection, false))
    };
    assert!(!cleared(probe(5000, 1), &mut session));
    assert!(!cleared(probe(5100, 2), &mut session));
    assert!(cleared(probe(5200, 3), &mut session));
}

#[test]
fn missing_probes_from_the_start_raise_at_the_end_of_the_grace() {
    let mut session = Tested::new(expected(), at(0));
    assert_eq!(silence(&mut session, 1999), []);
    let text = "no probe since the test began here, expected every 200ms";
    assert_eq!(shown(&silence(&mut session, 2000)), [(Kind::Connection, true, text.into())]);
}

#[test]
fn grace_shorter_than_the_samples_does_not_hasten_the_raise() {
    let mut session = Tested::new(with(Criteria { startup_grace: Duration::ZERO, ..criteria() }), at(0));
    assert_eq!(silence(&mut session, 599), []);
    assert_eq!(silence(&mut session, 600).len(), 1);
}

/// The deadlines passed without a call: the probe that is processed now still counts from its arrival.
#[test]
fn late_processing_judges_by_arrival_times() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    let (_, changes) = session.on_probe(&probe(1150, 1));
    assert_eq!(changes, []);
    let (_, changes) = session.on_probe(&probe(1750, 2));
    assert_eq!(kinds(&changes)[0], (Kind::Connection, true));
}

/// Missing probes are judged by the monotonic clock, so a step of the wall clock raises no connection alarm.
#[test]
fn wall_clock_step_raises_no_connection_alarm() {
    let mut session = Tested::new(expected(), at(0));
    let mut all = Vec::new();
    for n in 0..100u32 {
        let mut incoming = probe(1000 + u64::from(n) * 100, n);
        if n >= 50 {
            step(&mut incoming, 3_600_000_000_000);
        }
        all.extend(session.on_probe(&incoming).1);
    }
    let settled = [(Kind::Connection, false), (Kind::Clock, false), (Kind::Latency, false)];
    assert_eq!(kinds(&all)[..3], settled);
    assert_eq!(kinds(&all)[3..], [(Kind::Clock, true)]);
}

#[test]
fn late_probes_raise_latency_alarm_and_no_connection_alarm() {
    let mut session = Tested::new(expected(), at(0));
    let mut all = Vec::new();
    for n in 0..3 {
        all.extend(session.on_probe(&delayed(1000 + u64::from(n) * 100, n, 9)).1);
    }
    for n in 3..6 {
        all.extend(session.on_probe(&delayed(1000 + u64::from(n) * 100, n, 1)).1);
    }
    let expected = [
        (Kind::Connection, false, String::new()),
        (Kind::Clock, false, String::new()),
        (Kind::Latency, true, "delay 9.000 ms exceeds 5ms".into()),
        (Kind::Latency, false, String::new()),
    ];
    assert_eq!(shown(&all), expected);
}

#[test]
fn egregious_delay_raises_clock_alarm_and_no_latency_alarm() {
    let mut session = Tested::new(expected(), at(0));
    let mut all = Vec::new();
    for n in 0..5 {
        all.extend(session.on_probe(&delayed(1000 + u64::from(n) * 100, n, 60_000)).1);
    }
    assert_eq!(kinds(&all), [(Kind::Connection, false), (Kind::Clock, true)]);
    assert_eq!(all[1].key.subject, Subject::Host("a".into()));
}

#[test]
fn undecidable_delay_raises_no_alarm() {
    let mut session = Tested::new(expected(), at(0));
    for n in 0..10 {
        let uncertainty = Duration::from_millis(20);
        let delay = Delay { nanos: 9_000_000, uncertainty };
        let incoming = ProbeSample { delay, ..delayed(1000 + u64::from(n) * 100, n, 9) };
        session.on_probe(&incoming);
    }
    assert_eq!(session.condition(Kind::Latency).state(), State::Unknown);
    assert_eq!(session.last_delay().unwrap().1, DelayVerdict::Undecidable);
}

#[test]
fn duplicates_do_not_keep_a_test_up() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    let mut all = Vec::new();
    for n in 1..10 {
        let (acceptance, changes) = session.on_probe(&probe(1000 + n * 100, 0));
        assert_eq!(acceptance, Acceptance::Duplicate);
        all.extend(changes);
    }
    assert_eq!(kinds(&all), [(Kind::Connection, true)]);
    assert_eq!(session.counters().duplicates, 9);
}

#[test]
fn older_epoch_is_accepted_only_after_the_newer_one_times_out() {
    let mut session = Tested::new(expected(), at(0));
    let of_epoch = |millis, epoch| ProbeSample { epoch_and_sequence: Some((epoch, 0)), ..probe(millis, 0) };
    assert_eq!(session.on_probe(&of_epoch(1000, 5)).0, Acceptance::Accepted(None));
    assert_eq!(session.on_probe(&of_epoch(1100, 4)).0, Acceptance::StaleEpoch);
    assert_eq!(session.on_probe(&of_epoch(1150, 6)).0, Acceptance::Accepted(None));
    assert_eq!(session.on_probe(&of_epoch(1400, 4)).0, Acceptance::Accepted(None));
}

#[test]
fn own_suspension_raises_no_connection_alarm() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    session.on_suspension(at(20_000));
    assert_eq!(silence(&mut session, 20_100), []);
    assert_eq!(silence(&mut session, 20_600).len(), 1);
}

#[test]
fn changed_criteria_keep_state_and_counters() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    silence(&mut session, 1600);
    let changes = session.on_expected(with(Criteria { expect_every: EVERY * 2, ..criteria() }), at(1700));
    assert_eq!(changes, []);
    assert_eq!(session.connection().state(), State::Down);
    assert_eq!(session.counters().received, 1);
}

#[test]
fn removed_limit_clears_its_alarm() {
    let mut session = Tested::new(expected(), at(0));
    for n in 0..3 {
        session.on_probe(&delayed(1000 + u64::from(n) * 100, n, 9));
    }
    let limits = DelayLimits { max_latency: None, ..expected().limits };
    let changes = session.on_expected(with(Criteria { limits, ..criteria() }), at(1300));
    assert_eq!(kinds(&changes), [(Kind::Latency, false)]);
    assert_eq!(session.on_expected(with(Criteria { limits, ..criteria() }), at(1300)), []);
}

#[test]
fn report_returns_all_decided_conditions() {
    let mut session = Tested::new(expected(), at(0));
    assert_eq!(session.report(at(1)), []);
    for n in 0..3 {
        session.on_probe(&delayed(1000 + u64::from(n) * 100, n, 9));
    }
    let report = kinds(&session.report(at(1300)));
    assert_eq!(report, [(Kind::Connection, false), (Kind::Latency, true), (Kind::Clock, false)]);
}

#[test]
fn announced_stop_pauses_the_test_and_is_named_in_the_alarm() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&ProbeSample { stops: true, ..probe(1000, 0) });
    assert_eq!(session.connection().state(), State::Paused);
    assert_eq!(silence(&mut session, 60_999), []);
    let text = &shown(&silence(&mut session, 61_000))[0].2;
    assert!(text.ends_with("; the sender announced its stop"), "{text}");
}

/// A virtual machine that is restored to an earlier state continues with old sequence numbers in the same epoch.
#[test]
fn sender_that_is_set_back_is_accepted_after_a_gap() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 100_000));
    assert_eq!(session.on_probe(&probe(1100, 5)).0, Acceptance::TooOld);
    assert_eq!(session.on_probe(&probe(1300, 6)).0, Acceptance::Accepted(None));
    assert_eq!(session.on_probe(&probe(1400, 7)).0, Acceptance::Accepted(None));
}

/// Changes of other fields must not count as samples of the connection.
#[test]
fn reconfiguration_while_probes_are_missing_does_not_hasten_the_alarm() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    for millis in [1250, 1260, 1270, 1280] {
        let limits = DelayLimits { max_latency: Some(Duration::from_millis(millis)), ..expected().limits };
        session.on_expected(with(Criteria { limits, ..criteria() }), at(millis));
        assert_eq!(silence(&mut session, millis), []);
    }
    assert_eq!(silence(&mut session, 1599), []);
    assert_eq!(silence(&mut session, 1600).len(), 1);
}

proptest! {
    /// A probe in each `expect_every` never raises the connection alarm, however the wall clock steps.
    #[test]
    fn regular_probes_never_raise_a_connection_alarm(
        gaps in prop::collection::vec(1u64..200, 1..200),
        steps in prop::collection::vec(-100_000_000_000i64..100_000_000_000, 200),
    ) {
        let mut session = Tested::new(expected(), at(0));
        let mut millis = 0;
        for (n, gap) in gaps.iter().enumerate() {
            millis += gap;
            let mut incoming = probe(millis, n as u32);
            step(&mut incoming, steps[n]);
            let (_, changes) = session.on_probe(&incoming);
            prop_assert!(!kinds(&changes).contains(&(Kind::Connection, true)));
        }
    }

    /// Frequent and rare calls find the same changes in the same state.
    #[test]
    fn frequency_of_calls_does_not_change_the_result(
        arrivals in prop::collection::btree_set(1u64..10_000, 1..40),
        looks in prop::collection::btree_set(1u64..12_000, 0..100),
    ) {
        let run = |looks: &std::collections::BTreeSet<u64>| {
            let mut session = Tested::new(expected(), at(0));
            let mut found = Vec::new();
            let mut sequence = 0;
            for millis in 1..=12_000u64 {
                if arrivals.contains(&millis) {
                    found.extend(kinds(&session.on_probe(&probe(millis, sequence)).1));
                    sequence += 1;
                }
                if looks.contains(&millis) || millis == 12_000 {
                    found.extend(kinds(&silence(&mut session, millis)));
                }
            }
            (found, session.connection().state())
        };
        prop_assert_eq!(run(&looks), run(&std::collections::BTreeSet::new()));
    }
}

/// After a suspension the socket holds old probes, followed by a gap: neither the gap nor the time since is judged.
#[test]
fn old_probes_received_after_own_suspension_raise_nothing() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    session.on_suspension(at(20_000));
    assert_eq!(session.on_probe(&probe(1100, 1)).1, []);
    assert_eq!(silence(&mut session, 20_100), []);
    assert!(kinds(&session.on_probe(&probe(19_990, 2)).1).iter().all(|(_, raised)| !raised));
    assert_eq!(silence(&mut session, 20_199), []);
    assert_eq!(silence(&mut session, 20_600).len(), 1);
}

/// The receiver's document may change long before the sender's.
#[test]
fn shorter_interval_applies_after_the_roll_out_grace() {
    let slow = Duration::from_secs(10);
    let mut session = Tested::new(with(Criteria { expect_every: slow, ..criteria() }), at(0));
    session.on_probe(&probe(1000, 0));
    session.on_expected(expected(), at(2000));
    assert_eq!(silence(&mut session, 9000), []);
    assert_eq!(session.on_probe(&probe(9000, 1)).1, []);
    assert_eq!(silence(&mut session, 18_000), []);
    assert_eq!(session.connection().state(), State::Up);
    // Once the roll-out grace is over, the new interval applies.
    for n in 0..3 {
        session.on_probe(&probe(60_000 + n * 100, n as u32 + 2));
    }
    assert_eq!(silence(&mut session, 60_799), []);
    assert_eq!(silence(&mut session, 60_800).len(), 1);
}

#[test]
fn changed_sending_host_clears_the_clock_alarm_of_the_former_host() {
    let mut session = Tested::new(expected(), at(0));
    for n in 0..3 {
        session.on_probe(&delayed(1000 + u64::from(n) * 100, n, 60_000));
    }
    let test = TestFacts { from_host: "c".into(), ..expected().test.as_ref().clone() };
    let changes = session.on_expected(SessionPlan { test: Arc::new(test), ..expected() }, at(1300));
    assert_eq!(kinds(&changes), [(Kind::Clock, false)]);
    assert_eq!(changes[0].key.subject, Subject::Host("a".into()));
}

/// Between the two limits a delay neither raises the alarm nor clears it.
#[test]
fn latency_raises_above_the_high_limit_and_clears_below_the_low_one() {
    let limits = DelayLimits { clear_latency: Duration::from_millis(2), ..expected().limits };
    let mut session = Tested::new(with(Criteria { limits, ..criteria() }), at(0));
    let mut reported = Vec::new();
    for (n, delay) in [3, 3, 3, 9, 9, 9, 3, 3, 3, 3, 1, 1, 3, 1, 1, 1].into_iter().enumerate() {
        let changes = session.on_probe(&delayed(1000 + n as u64 * 100, n as u32, delay)).1;
        reported.extend(
            kinds(&changes).into_iter().filter(|(kind, _)| *kind == Kind::Latency).map(|(_, raised)| (n, raised)),
        );
    }
    assert_eq!(reported, [(2, false), (5, true), (15, false)]);
}

#[test]
fn pause_ends_with_the_first_probe_of_the_next_epoch() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&ProbeSample { stops: true, ..probe(1000, 0) });
    session.on_probe(&ProbeSample { epoch_and_sequence: Some((2, 0)), ..probe(30_000, 0) });
    assert_eq!(session.connection().state(), State::Up);
    assert_eq!(silence(&mut session, 30_600).len(), 1);
}

#[test]
fn datagrams_dropped_by_this_host_are_named_in_the_alarm() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&ProbeSample { dropped: 5, ..probe(1000, 0) });
    let mut changes = Vec::new();
    session.on_timeout(at(1600), 12, &mut changes);
    let text = &shown(&changes)[0].2;
    assert!(text.ends_with("; this host's socket dropped 7 datagrams meanwhile"), "{text}");
}

#[test]
fn probe_overtaken_by_the_stop_does_not_end_the_pause() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1000, 0));
    session.on_probe(&ProbeSample { stops: true, ..probe(1100, 2) });
    session.on_probe(&probe(1101, 1));
    assert_eq!(session.connection().state(), State::Paused);
    assert_eq!(session.counters().received, 3);
    assert_eq!(silence(&mut session, 10_000), []);
}

/// Feeds a probe every 100 ms for this range of seconds, as `make` builds it from its number; `None` means lost.
fn feed(
    session: &mut Tested,
    seconds: std::ops::Range<u64>,
    make: impl Fn(u32, u64) -> Option<ProbeSample>,
) -> Vec<(u64, Kind, bool, String)> {
    let mut found = Vec::new();
    for n in seconds.start * 10..seconds.end * 10 {
        let millis = n * 100;
        let changes = match make(n as u32, millis) {
            Some(incoming) => session.on_probe(&incoming).1,
            None => silence(session, millis),
        };
        found.extend(shown(&changes).into_iter().map(|(kind, raised, text)| (millis / 1_000, kind, raised, text)));
    }
    found
}

fn of_kind(found: &[(u64, Kind, bool, String)], kind: Kind) -> Vec<(u64, bool, &str)> {
    let of_kind = found.iter().filter(|(_, found, ..)| *found == kind);
    of_kind.map(|(second, _, raised, text)| (*second, *raised, text.as_str())).collect()
}

#[test]
fn loss_above_the_limit_raises_and_is_cleared_after_it_ends() {
    let loss = LossLimits { max_loss_ppm: Some(50_000), max_jitter: None, loss_window: Duration::from_secs(12) };
    let mut session = Tested::new(with(Criteria { loss, ..criteria() }), at(0));
    let lossy = |n: u32, millis| (!(400..1_000).contains(&n) || !n.is_multiple_of(5)).then(|| probe(millis, n));
    let found = feed(&mut session, 1..200, lossy);
    let loss = of_kind(&found, Kind::Loss);
    // The text reports the current loss: first 6.7 %, then 20 %.
    let raised: Vec<bool> = loss.iter().map(|(_, raised, _)| *raised).collect();
    assert_eq!(raised, [false, true, true, true, false], "{loss:?}");
    assert!((41..48).contains(&loss[1].0) && (112..130).contains(&loss[4].0), "{loss:?}");
    assert!(loss[2].2.starts_with("20 % of the probes"), "{loss:?}");
    assert!(loss[1].2.contains("of the probes lost within 12s, more than 5 %"), "{loss:?}");
    assert!(of_kind(&found, Kind::Connection).iter().all(|(_, raised, _)| !raised));
    let total = session.statistics(at(200_000).moment).total;
    assert_eq!((total.lost, total.loss_episodes, total.longest_loss_episode), (120, 120, 1));
}

#[test]
fn varying_delay_raises_jitter_and_constant_high_delay_does_not() {
    let loss = LossLimits {
        max_loss_ppm: None,
        max_jitter: Some(Duration::from_millis(2)),
        loss_window: Duration::from_secs(12),
    };
    let limits = DelayLimits { max_latency: None, ..expected().limits };
    let mut session = Tested::new(with(Criteria { loss, limits, ..criteria() }), at(0));
    let shaking = |n: u32, millis| Some(delayed(millis, n, if n > 600 { i64::from(n % 4) * 3 } else { 90 }));
    let found = feed(&mut session, 1..100, shaking);
    let jitter = of_kind(&found, Kind::Jitter);
    // The text is updated with the current figures every half minute.
    assert_eq!(jitter.iter().map(|(_, raised, _)| *raised).collect::<Vec<_>>(), [false, true, true], "{jitter:?}");
    assert!(jitter[2].0 >= jitter[1].0 + 30 && jitter[2].2 != jitter[1].2, "{jitter:?}");
    assert!((60..64).contains(&jitter[1].0), "{jitter:?}");
    assert!(jitter[1].2.starts_with("delay varies by more than 2ms from one probe to the next in"), "{jitter:?}");
}

#[test]
fn dead_flow_raises_path_alarm_while_other_flows_continue() {
    let flows = Flows { ports: 4, dscp: CodePoints::of(&[0]), size: None };
    let mut session = Tested::new(with(Criteria { flows, ..criteria() }), at(0));
    let three_of_four = |n: u32, millis| (!(300..=600).contains(&n) || n % 4 != 2).then(|| probe(millis, n));
    let found = feed(&mut session, 1..100, three_of_four);
    let path = of_kind(&found, Kind::Path);
    assert_eq!(path.iter().map(|(_, raised, _)| *raised).collect::<Vec<_>>(), [false, true, false], "{path:?}");
    assert!((30..33).contains(&path[1].0) && (60..63).contains(&path[2].0), "{path:?}");
    assert!(path[1].2.starts_with("1 of 4 flows dead"), "{path:?}");
    assert!(of_kind(&found, Kind::Connection).iter().all(|(_, raised, _)| !raised));
    assert_eq!(session.counters().reordered, 0);
}

/// The clocks are unsynchronized, 2 s apart, and drift by 50 ppm; neither affects a baseline.
#[test]
fn delay_above_baseline_raises_without_synchronized_clocks() {
    let expected = with(Criteria { max_above_baseline: Some(Duration::from_millis(3)), ..criteria() });
    let mut session = Tested::new(expected, at(0));
    let uncertainty = Duration::from_secs(32);
    let slower = |n: u32, millis: u64| {
        let later = if (4_000..4_500).contains(&n) { 5_000_000 } else { 0 };
        let nanos = 2_000_000_000 + millis as i64 * 50 + later;
        Some(ProbeSample { delay: Delay { nanos, uncertainty }, ..probe(millis, n) })
    };
    let found = feed(&mut session, 1..600, slower);
    let latency = of_kind(&found, Kind::Latency);
    assert_eq!(latency.iter().map(|(_, raised, _)| *raised).collect::<Vec<_>>(), [false, true, false], "{latency:?}");
    assert_eq!((latency[1].0, latency[2].0), (400, 450));
    assert!(latency[1].2.starts_with("delay is 5."), "{latency:?}");
    assert_eq!(of_kind(&found, Kind::Clock), [(1, false, "")]);
}

fn answer(millis: u64, sequence: u32, (forward, backward): (i64, i64), error: Duration) -> ProbeSample {
    let uncertain = |nanos| Delay { nanos, uncertainty: error };
    let round_trip = Delay { nanos: forward + backward, uncertainty: Duration::ZERO };
    let (forward, backward) = (uncertain(forward), uncertain(backward));
    let directions = Delays { round_trip, forward, backward, are_comparable: true };
    ProbeSample { delay: round_trip, directions: Some(directions), ..probe(millis, sequence) }
}

/// With offsets of 10 ms in either direction, clocks that admit an error of 20 ms decide nothing; if they claim 1 ms,
/// the clock is blamed, not the path.
#[test]
fn clock_offset_in_either_direction_raises_no_latency_alarm() {
    for offset in [10_000_000, -10_000_000] {
        for (claimed, wrong) in [(20, false), (1, true)] {
            let error = Duration::from_millis(claimed);
            let mut one_way = Tested::new(expected(), at(0));
            let probes = |n: u32, millis| {
                let delay = Delay { nanos: 200_000 + offset, uncertainty: error };
                Some(ProbeSample { delay, ..probe(millis, n) })
            };
            let found = feed(&mut one_way, 1..20, probes);
            // A delay that the offset makes too long can be attributed to the clock by the replies alone.
            if offset < 0 || !wrong {
                assert_eq!(of_kind(&found, Kind::Latency), [], "{offset} {claimed}");
                assert_eq!(of_kind(&found, Kind::Clock).iter().any(|(_, raised, _)| *raised), wrong);
            }
            let role = Role::Sender;
            let mut two_way = Tested::new(with(Criteria { role, max_each_way: Some(EVERY / 40), ..criteria() }), at(0));
            let answers = |n: u32, millis| Some(answer(millis, n, (200_000 + offset, 200_000 - offset), error));
            let found = feed(&mut two_way, 1..20, answers);
            assert!(of_kind(&found, Kind::Latency).iter().all(|(_, raised, _)| !raised), "{offset} {claimed}");
            assert_eq!(of_kind(&found, Kind::Clock).iter().any(|(_, raised, _)| *raised), wrong);
        }
    }
}

#[test]
fn round_trip_and_both_directions_are_judged() {
    let limits = DelayLimits { max_latency: Some(Duration::from_millis(10)), ..expected().limits };
    let each_way = Some(Duration::from_millis(5));
    let expected = with(Criteria { role: Role::Sender, limits, max_each_way: each_way, ..criteria() });
    let late = |forward: i64, backward: i64, error: Duration| {
        let mut session = Tested::new(expected.clone(), at(0));
        let found = feed(&mut session, 1..5, |n, millis| Some(answer(millis, n, (forward, backward), error)));
        let raised = found.into_iter().find(|(_, kind, raised, _)| *kind == Kind::Latency && *raised);
        raised.map(|(_, _, _, text)| text)
    };
    let good_clocks = Duration::from_micros(100);
    assert_eq!(late(1_000_000, 2_000_000, good_clocks), None);
    let back = late(1_000_000, 7_000_000, good_clocks).unwrap();
    assert!(back.starts_with("return delay 7.000 ms"), "{back}");
    // Without synchronized clocks only the round trip is certain.
    assert_eq!(late(1_000_000, 7_000_000, Duration::from_secs(32)), None);
    let around = late(5_000_000, 7_000_000, Duration::from_secs(32)).unwrap();
    assert!(around.starts_with("round trip 12.000 ms exceeds 10ms"), "{around}");
}

/// A signed probe is accepted once, also after a restart, and however long no probe has arrived.
#[test]
fn signed_probe_cannot_be_replayed_even_after_a_restart() {
    let keyed = || with(Criteria { keys: Some(KeyChoice::Fleet), ..criteria() });
    let mut session = Tested::new(keyed(), at(0));
    for n in 0..50 {
        session.on_probe(&probe(1_000 + n * 100, n as u32));
    }
    let newest: BTreeMap<TestId, (u64, u32)> = session.newest().collect();
    assert_eq!(newest, [(session.expected().test.id, (1, 49))].into());
    for n in 0..50 {
        assert_eq!(session.on_probe(&probe(600_000 + n, n as u32)).0, Acceptance::Duplicate);
    }
    let older = ProbeSample { epoch_and_sequence: Some((0, 1)), ..probe(700_000, 0) };
    assert_eq!(session.on_probe(&older).0, Acceptance::StaleEpoch);
    let mut restarted = Tested::new(keyed(), at(800_000));
    restarted.restore_newest(|id| newest.get(&id).copied(), at(800_000));
    for n in 0..50 {
        assert_ne!(restarted.on_probe(&probe(900_000 + n, n as u32)).0, Acceptance::Accepted(None));
    }
    assert_eq!(restarted.on_probe(&older).0, Acceptance::StaleEpoch);
    // Probes sent while no process was running here do not count as lost.
    assert_eq!(restarted.on_probe(&probe(900_100, 60)).0, Acceptance::Accepted(None));
    assert_eq!(restarted.statistics(at(900_200).moment).total.lost, 0);
    assert_eq!(restarted.on_probe(&probe(900_300, 62)).0, Acceptance::Accepted(None));
    assert_eq!(restarted.statistics(at(900_400).moment).total.lost, 1);
}

/// A signed probe from one of several senders, any of which suffices, cannot be replayed either.
#[test]
fn signed_probe_of_one_of_several_senders_cannot_be_replayed() {
    let sender = TestId::of_set("s", "a", "b");
    let keyed = || SessionPlan {
        any_of: Some(Arc::new([sender].into())),
        ..with(Criteria { keys: Some(KeyChoice::Fleet), ..criteria() })
    };
    let of_sender = |millis, sequence| ProbeSample { test_id: sender, ..probe(millis, sequence) };
    let mut session = Tested::new(keyed(), at(0));
    assert_eq!(session.on_probe(&of_sender(1_000, 7)).0, Acceptance::Accepted(None));
    let newest: BTreeMap<TestId, (u64, u32)> = session.newest().collect();
    let mut restarted = Tested::new(keyed(), at(800_000));
    restarted.restore_newest(|id| newest.get(&id).copied(), at(800_000));
    assert_eq!(restarted.on_probe(&of_sender(900_000, 7)).0, Acceptance::Duplicate);
    assert_eq!(restarted.on_probe(&of_sender(900_100, 8)).0, Acceptance::Accepted(None));
}

/// Probes sent while this machine was frozen do not count as lost.
#[test]
fn probes_missed_during_own_suspension_are_not_lost() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1_000, 0));
    session.on_suspension(at(61_000));
    session.on_probe(&probe(61_100, 600));
    assert_eq!(session.statistics(at(61_200).moment).total.lost, 0);
}

/// Sequence numbers from unsigned probes, which anybody can forge, must not restrict signed probes.
#[test]
fn sequence_numbers_of_unsigned_probes_are_discarded_when_keys_are_set() {
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&ProbeSample { epoch_and_sequence: Some((u64::MAX, 0)), ..probe(1_000, 0) });
    session.on_expected(with(Criteria { keys: Some(KeyChoice::Fleet), ..criteria() }), at(1_100));
    assert_eq!(session.on_probe(&probe(1_200, 0)).0, Acceptance::Accepted(None));
}

#[test]
fn receive_session_is_at_most_900_octets() {
    let size = std::mem::size_of::<ReceiveSession>();
    assert!(size <= 900, "{size} octets before what its histograms hold");
}

fn latencies(found: &[(u64, Kind, bool, String)]) -> Vec<(u64, bool, &str)> {
    of_kind(found, Kind::Latency)
}

fn uncertain(millis: u64, sequence: u32, delay: i64, uncertainty: u64) -> ProbeSample {
    let delay = Delay { nanos: delay * 1_000_000, uncertainty: Duration::from_millis(uncertainty) };
    ProbeSample { delay, ..probe(millis, sequence) }
}

/// With clocks that are off by as much as the limit, no delay is provably within it: the alarm ends after five minutes.
#[test]
fn latency_alarm_ends_as_undecidable_when_clocks_become_too_inaccurate() {
    let mut session = Tested::new(expected(), at(0));
    let slow = |n: u32, millis| Some(if n < 300 { uncertain(millis, n, 50, 6) } else { uncertain(millis, n, 1, 6) });
    let found = feed(&mut session, 1..400, slow);
    let all = latencies(&found);
    assert_eq!(all.first().map(|reported| reported.1), Some(true), "{all:?}");
    let ended = all.last().unwrap();
    assert_eq!((ended.1, ended.2), (false, "undecidable"));
    assert!((329..=331).contains(&ended.0), "{all:?}");
    // A delay that provably exceeds the limit raises the alarm again.
    assert!(latencies(&feed(&mut session, 400..402, |n, millis| Some(uncertain(millis, n, 50, 6))))[0].1);
}

#[test]
fn one_way_latency_alarm_is_not_cleared_by_a_good_round_trip() {
    let limits = DelayLimits { max_latency: Some(Duration::from_millis(10)), ..expected().limits };
    let each_way = Some(Duration::from_millis(5));
    let expected = with(Criteria { role: Role::Sender, limits, max_each_way: each_way, ..criteria() });
    let mut session = Tested::new(expected, at(0));
    let good_clocks = Duration::from_micros(100);
    let bad_clocks = Duration::from_secs(1);
    // The way back is slow; then the clocks become bad, while the round trip stays within its limit.
    let answers = |n: u32, millis| {
        Some(match n < 100 {
            true => answer(millis, n, (1_000_000, 7_000_000), good_clocks),
            false => answer(millis, n, (1_000_000, 1_000_000), bad_clocks),
        })
    };
    let found = feed(&mut session, 1..300, answers);
    assert!(latencies(&found).iter().all(|reported| reported.1), "{:?}", latencies(&found));
    let found = feed(&mut session, 300..320, answers);
    assert!(latencies(&found).iter().any(|reported| reported.2 == "undecidable"), "{found:?}");
}

#[test]
fn latency_alarm_is_cleared_when_its_measurement_is_no_longer_configured() {
    let above = Some(Duration::from_millis(3));
    let limits = DelayLimits { max_latency: Some(Duration::from_secs(9)), ..expected().limits };
    let with_baseline = with(Criteria { max_above_baseline: above, limits, ..criteria() });
    let mut session = Tested::new(with_baseline, at(0));
    let slower = |n: u32, millis| Some(delayed(millis, n, if n >= 4_000 { 20 } else { 1 }));
    let found = feed(&mut session, 1..410, slower);
    assert!(latencies(&found).last().is_some_and(|reported| reported.1), "{:?}", latencies(&found));
    let without = with(Criteria { limits, ..criteria() });
    assert_eq!(kinds(&session.on_expected(without, at(410_000))), [(Kind::Latency, false)]);
}

/// The loss window holds too few variations to decide that the delay no longer varies.
#[test]
fn jitter_alarm_ends_as_undecidable_when_variations_are_too_few() {
    let loss = LossLimits {
        max_loss_ppm: None,
        max_jitter: Some(Duration::from_millis(2)),
        loss_window: Duration::from_secs(12),
    };
    let limits = DelayLimits { max_latency: None, ..expected().limits };
    let mut session = Tested::new(with(Criteria { loss, limits, ..criteria() }), at(0));
    // Every second probe is lost from then on, so none has a preceding probe to vary from.
    let shaking = |n: u32, millis| (n < 600 || n.is_multiple_of(2)).then(|| delayed(millis, n, i64::from(n % 4) * 3));
    let found = feed(&mut session, 1..400, shaking);
    let jitter = of_kind(&found, Kind::Jitter);
    assert_eq!(jitter.last().map(|reported| (reported.1, reported.2)), Some((false, "undecidable")), "{jitter:?}");
    assert!((360..=380).contains(&jitter.last().unwrap().0), "{jitter:?}");
}

/// A cut link or a dead host raises the connection alarm alone, and is not counted as loss after the recovery either.
#[test]
fn missing_probes_while_down_raise_no_loss_alarm() {
    let loss = LossLimits { max_loss_ppm: Some(20_000), max_jitter: None, loss_window: Duration::from_secs(60) };
    let mut session = Tested::new(with(Criteria { loss, ..criteria() }), at(0));
    let cut = |n: u32, millis| (!(1_000..2_000).contains(&n)).then(|| probe(millis, n));
    let found = feed(&mut session, 1..600, cut);
    assert!(of_kind(&found, Kind::Loss).iter().all(|reported| !reported.1), "{found:?}");
    let connection: Vec<bool> = of_kind(&found, Kind::Connection).iter().map(|reported| reported.1).collect();
    assert_eq!(connection, [false, true, false]);
}

#[test]
fn clock_set_while_probes_are_under_way_raises_no_alarm() {
    let mut session = Tested::new(expected(), at(0));
    let set = |n: u32, millis| {
        let clock_was_set = (50..55).contains(&n);
        let delay = if clock_was_set { 3_600_000 } else { 1 };
        Some(ProbeSample { clock_was_set, ..delayed(millis, n, delay) })
    };
    let found = feed(&mut session, 1..20, set);
    assert!(found.iter().all(|(_, _, raised, _)| !raised), "{found:?}");
}

/// A snapshot of the sender's machine is restored: the same epoch, numbers that were used before, sent later.
#[test]
fn restored_sender_is_distinguished_from_a_replay_by_send_times() {
    for keys in [None, Some(KeyChoice::Fleet)] {
        let mut session = Tested::new(with(Criteria { keys, ..criteria() }), at(0));
        for n in 0..50 {
            session.on_probe(&probe(1_000 + n * 100, n as u32));
        }
        let replay = probe(6_000, 20);
        assert_eq!(session.on_probe(&replay).0, Acceptance::Duplicate);
        let later = |millis, sequence| ProbeSample {
            sent: WallTime::from_unix_nanos(2_000_000_000_000 + millis),
            ..probe(millis, sequence)
        };
        for n in 0..20 {
            assert_eq!(session.on_probe(&later(6_100 + n * 100, 20 + n as u32)).0, Acceptance::Accepted(None));
        }
        assert_eq!(session.connection().state(), State::Up);
        assert_eq!(session.on_probe(&replay).0, Acceptance::Duplicate);
    }
}

/// A forged stop in each `max_pause` must not keep a dead test paused.
#[test]
fn repeated_stop_does_not_extend_the_pause() {
    let mut session = Tested::new(expected(), at(0));
    for n in 0..5 {
        session.on_probe(&probe(1_000 + n * 100, n as u32));
    }
    session.on_probe(&ProbeSample { stops: true, ..probe(1_500, 5) });
    for n in 0..5u64 {
        session.on_probe(&ProbeSample { stops: true, ..probe(10_000 + n * 10_000, 6 + n as u32) });
    }
    assert_eq!(silence(&mut session, 61_400), []);
    assert_eq!(kinds(&silence(&mut session, 62_000)), [(Kind::Connection, true)]);
}

/// The sender may learn of a longer interval before its receiver does.
#[test]
fn longer_interval_of_the_sender_is_tolerated_for_one_roll_out_grace() {
    let mut session = Tested::new(expected(), at(0));
    let slow = |millis, sequence| ProbeSample { send_every: Duration::from_secs(5), ..probe(millis, sequence) };
    for n in 0..5 {
        session.on_probe(&probe(1_000 + n * 100, n as u32));
    }
    let mut raised = Vec::new();
    for n in 0..20u64 {
        let millis = 1_500 + n * 5_000;
        raised.extend(silence(&mut session, millis - 1).iter().map(|_| millis));
        let (_, changes) = session.on_probe(&slow(millis, 5 + n as u32));
        raised.extend(kinds(&changes).iter().filter(|(_, raised)| *raised).map(|_| millis));
    }
    // After the grace the test is judged by the interval in its document.
    assert!(raised.first().is_some_and(|first| (32_000..=40_000).contains(first)), "{raised:?}");
    // An untrusted probe cannot extend the interval.
    let mut session = Tested::new(expected(), at(0));
    session.on_probe(&probe(1_000, 0));
    session.on_probe(&ProbeSample { is_trusted: false, ..slow(1_100, 1) });
    assert_eq!(silence(&mut session, 1_700).len(), 1);
}

/// Two edits shorten the interval in succession, before the sender has received either of them.
#[test]
fn second_shortening_within_the_grace_keeps_the_longest_interval() {
    let every = |seconds| with(Criteria { expect_every: Duration::from_secs(seconds), ..criteria() });
    let mut session = Tested::new(every(20), at(0));
    session.on_probe(&probe(1_000, 0));
    session.on_expected(every(5), at(2_000));
    session.on_expected(every(1), at(6_000));
    assert_eq!(silence(&mut session, 20_900), []);
    assert_eq!(session.connection().state(), State::Up);
}

/// RFC 3393 compares packets in the order in which they were sent; a relay delays every tenth packet here.
#[test]
fn delay_variation_includes_probes_that_were_overtaken() {
    let limits = DelayLimits { max_latency: None, ..expected().limits };
    let mut session = Tested::new(with(Criteria { limits, ..criteria() }), at(0));
    let delay = |n: u32| if n % 10 == 5 { 45 } else { 1 + i64::from(n % 3) };
    // Probes are sent every 20 ms; one that is held back by 45 ms comes after the two behind it.
    let mut arrivals: Vec<(u64, u32)> =
        (0..1_000u32).map(|n| (1_000 + u64::from(n) * 20 + delay(n) as u64, n)).collect();
    arrivals.sort();
    for (millis, n) in arrivals {
        session.on_probe(&ProbeSample { send_every: Duration::from_millis(20), ..delayed(millis, n, delay(n)) });
    }
    let true_mean = (1..1_000u32).map(|n| (delay(n) - delay(n - 1)).abs() as f64).sum::<f64>() / 999.0 / 1e3;
    let shown = session.statistics(at(22_000).moment).total.delay_variation.unwrap();
    assert!((shown - true_mean).abs() < true_mean * 0.02, "{shown} shown, {true_mean} true");
}

#[test]
fn failed_probes_of_a_target_raise_with_their_reason_and_measured_ones_clear() {
    let mut session =
        ReceiveSession::new(with(Criteria { role: Role::Sender, has_timeout: false, ..criteria() }), at(0));
    let mut found = Vec::new();
    for n in 0..40u32 {
        let result = match (10..20).contains(&n) {
            true => ProbeResult::Failed("connect to 10.0.0.9:443: refused".to_owned()),
            false => ProbeResult::Measured(Duration::from_millis(3)),
        };
        let mut changes = Vec::new();
        session.on_result(result, (1, n), EVERY / 2, at(u64::from(n) * 100), &mut changes);
        found.extend(
            changes.into_iter().filter(|change| change.key.kind == Kind::Connection).map(|change| (n, change.verdict)),
        );
    }
    let refused = Verdict::Violated(Cause::ProbeFailed("connect to 10.0.0.9:443: refused".to_owned()));
    let decided: Vec<_> = found.into_iter().filter(|(_, verdict)| *verdict != Verdict::Overdue).collect();
    assert_eq!(decided.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2, 12, 22], "{decided:?}");
    assert_eq!(decided[1].1, refused);
    assert_eq!(session.last_delay().unwrap().0.nanos, 3_000_000);
}

#[test]
fn failures_within_the_grace_of_a_target_that_never_answered_raise_nothing() {
    let startup_grace = Duration::from_secs(5);
    let mut session = ReceiveSession::new(
        with(Criteria { role: Role::Sender, has_timeout: false, startup_grace, ..criteria() }),
        at(0),
    );
    let raised_at = (0..100u32).find(|n| {
        let mut changes = Vec::new();
        let result = ProbeResult::Failed("refused".to_owned());
        session.on_result(result, (1, *n), EVERY / 2, at(u64::from(*n) * 100), &mut changes);
        changes.iter().any(|change| matches!(change.verdict, Verdict::Violated(_)))
    });
    assert_eq!(raised_at, Some(52));
}

#[test]
fn reason_of_a_raised_alarm_is_replaced_at_once_when_the_target_changes() {
    let mut session =
        ReceiveSession::new(with(Criteria { role: Role::Sender, has_timeout: false, ..criteria() }), at(0));
    let mut fail = |sequence, millis, target: &str| {
        let mut changes = Vec::new();
        session.on_result(ProbeResult::Failed(target.into()), (1, sequence), EVERY / 2, at(millis), &mut changes);
        changes.into_iter().map(|change| change.verdict).rfind(|verdict| *verdict != Verdict::Overdue)
    };
    let raised = |target: &str| Some(Verdict::Violated(Cause::ProbeFailed(target.into())));
    assert!((0..200).map(|n| fail(n, u64::from(n) * 100, "one")).any(|verdict| verdict == raised("one")));
    assert_eq!(fail(0, 20_100, "other"), raised("other"));
    assert_eq!(fail(1, 20_200, "one again"), None, "alternating reasons are not reported one by one");
}

/// The clocks are too inaccurate to decide on either way, while the round trip is certain.
#[test]
fn round_trip_alarm_is_cleared_while_one_way_delays_are_undecidable() {
    let limits = DelayLimits { max_latency: Some(Duration::from_millis(10)), ..expected().limits };
    let each_way = Some(Duration::from_millis(5));
    let expected = with(Criteria { role: Role::Sender, limits, max_each_way: each_way, ..criteria() });
    let mut session = Tested::new(expected, at(0));
    let answers = |n: u32, millis| {
        let nanos = if n < 100 { 6_000_000 } else { 1_000_000 };
        Some(answer(millis, n, (nanos, nanos), Duration::from_secs(32)))
    };
    let found = feed(&mut session, 1..20, answers);
    let reported: Vec<(u64, bool)> = latencies(&found).iter().map(|(second, raised, _)| (*second, *raised)).collect();
    assert_eq!(reported, [(1, true), (10, false)]);
}

#[test]
fn own_clock_step_raises_no_alarm_above_baseline() {
    let expected = with(Criteria { max_above_baseline: Some(Duration::from_millis(3)), ..criteria() });
    let mut session = Tested::new(expected, at(0));
    let shifted = |n: u32, millis: u64| {
        let nanos = if n < 4_000 { 1_000_000 } else { 1_001_000_000 };
        Some(ProbeSample { delay: Delay { nanos, uncertainty: Duration::from_secs(32) }, ..probe(millis, n) })
    };
    feed(&mut session, 1..400, shifted);
    session.on_clock_step(at(400_000));
    let found = feed(&mut session, 400..800, shifted);
    assert!(found.iter().all(|(_, _, raised, _)| !raised), "{found:?}");
}

/// The local clock was 50 ms wrong, and is set right by a step.
#[test]
fn clock_alarm_of_replies_is_cleared_at_once_after_the_own_clock_was_set_right() {
    let role = Role::Sender;
    let mut session = Tested::new(with(Criteria { role, max_each_way: Some(EVERY), ..criteria() }), at(0));
    let answers = |n: u32, millis| {
        let offset = if n < 100 { 50_000_000 } else { 0 };
        Some(answer(millis, n, (200_000 + offset, 200_000 - offset), Duration::from_millis(1)))
    };
    assert_eq!(of_kind(&feed(&mut session, 1..10, answers), Kind::Clock).len(), 1);
    session.on_clock_step(at(10_000));
    assert_eq!(of_kind(&feed(&mut session, 10..11, answers), Kind::Clock), [(10, false, "")]);
}

#[test]
fn report_is_empty_until_conditions_are_confirmed() {
    let mut session = Tested::new(expected(), at(0));
    for n in 0..2 {
        session.on_probe(&probe(1000 + u64::from(n) * 100, n));
        assert_eq!(session.report(at(1300)), []);
    }
    session.on_probe(&probe(1200, 2));
    let report = kinds(&session.report(at(1300)));
    assert_eq!(report, [(Kind::Connection, false), (Kind::Latency, false), (Kind::Clock, false)]);
}

#[test]
fn text_of_path_alarm_follows_the_flows_that_are_dead() {
    let flows = Flows { ports: 2, dscp: CodePoints::of(&[0, 46]), size: None };
    let mut session = Tested::new(with(Criteria { flows, expect_every: EVERY * 5, ..criteria() }), at(0));
    let dying = |n: u32, millis| {
        let is_dead = (n % 4 == 3 && n >= 100) || (n % 4 == 1 && n >= 200);
        (!is_dead).then(|| probe(millis, n))
    };
    let found = feed(&mut session, 1..40, dying);
    let texts: Vec<&str> =
        of_kind(&found, Kind::Path).iter().filter(|reported| reported.1).map(|reported| reported.2).collect();
    let shown: Vec<&str> = texts.iter().filter_map(|text| text.split(':').next()).collect();
    assert_eq!(shown, ["1 of 4 flows dead", "2 of 4 flows dead"], "{texts:?}");
}

#[test]
fn text_of_latency_alarm_follows_the_delay_at_intervals() {
    let mut session = Tested::new(expected(), at(0));
    let found = feed(&mut session, 1..60, |n, millis| Some(delayed(millis, n, if n < 100 { 9 } else { 20 })));
    let expected = [(1, true, "delay 9.000 ms exceeds 5ms"), (31, true, "delay 20.000 ms exceeds 5ms")];
    assert_eq!(latencies(&found), expected);
}
