use super::*;
use crate::pure::test::TestId;
use proptest::prelude::*;

const EVERY: Duration = Duration::from_millis(200);

fn expected() -> Expected {
    Expected {
        test: Arc::new(TestFacts {
            id: TestId::from_bytes([7; 16]),
            description: "app to db".into(),
            from_host: "a".into(),
            from: "127.0.0.2:0".into(),
            to_host: "b".into(),
            to: "127.0.0.3:8620".into(),
            tags: [].into(),
            set: None,
        }),
        expect_every: EVERY,
        thresholds: Thresholds::in_a_row(3, 3),
        limits: DelayLimits {
            max_latency: Some(Duration::from_millis(5)),
            clear_latency: Duration::MAX,
            egregious_latency: Duration::from_secs(10),
        },
        startup_grace: Duration::from_secs(2),
        max_pause: Duration::from_secs(60),
        any_of: None,
    }
}

/// The wall's clock reads 1,000 s later than the process began.
fn at(millis: u64) -> Now {
    Now {
        moment: Moment::new(Duration::from_millis(millis)),
        wall: WallTime::from_unix_nanos((1_000_000 + millis) * 1_000_000),
    }
}

fn probe(millis: u64, sequence: u32) -> Incoming {
    delayed(millis, sequence, 1)
}

fn delayed(millis: u64, sequence: u32, delay: i64) -> Incoming {
    let received = at(millis);
    let sent = received.wall.unix_nanos() as i64 - delay * 1_000_000;
    Incoming {
        test_id: TestId::from_bytes([7; 16]),
        received,
        sent: WallTime::from_unix_nanos(sent as u64),
        uncertainty: Duration::ZERO,
        order: Some((1, sequence)),
        stops: false,
        dropped: 0,
    }
}

fn silence(expectation: &mut Expectation, millis: u64) -> Vec<ConditionChange> {
    let mut changes = Vec::new();
    expectation.on_silence(at(millis), 0, &mut changes);
    changes
}

/// Kind, raised or not, text.
fn shown(changes: &[ConditionChange]) -> Vec<(Kind, bool, String)> {
    changes
        .iter()
        .map(|change| match &change.verdict {
            Verdict::Violated(cause) => (change.key.kind, true, cause.to_string()),
            Verdict::Cleared => (change.key.kind, false, String::new()),
        })
        .collect()
}

fn kinds(changes: &[ConditionChange]) -> Vec<(Kind, bool)> {
    shown(changes).into_iter().map(|(kind, raised, _)| (kind, raised)).collect()
}

#[test]
fn silence_raises_at_exactly_raise_after_times_expect_every() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    assert_eq!(silence(&mut expectation, 1599), []);
    assert_eq!(expectation.connection().state(), State::Suspect);
    assert_eq!(expectation.next_deadline(), at(1600).moment);
    let changes = silence(&mut expectation, 1600);
    let text = "no probe since 1970-01-01T00:16:41.000Z, expected every 200ms";
    assert_eq!(shown(&changes), [(Kind::Connection, true, text.into())]);
    assert_eq!(silence(&mut expectation, 100_000), []);
}

#[test]
fn three_probes_clear() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    silence(&mut expectation, 5000);
    assert_eq!(expectation.on_probe(&probe(5000, 1)).1, []);
    assert_eq!(expectation.on_probe(&probe(5100, 2)).1, []);
    assert_eq!(kinds(&expectation.on_probe(&probe(5200, 3)).1), [(Kind::Connection, false)]);
}

#[test]
fn silence_from_the_start_raises_at_the_end_of_the_grace() {
    let mut expectation = Expectation::new(expected(), at(0));
    assert_eq!(silence(&mut expectation, 1999), []);
    let text = "no probe since the test began here, expected every 200ms";
    assert_eq!(shown(&silence(&mut expectation, 2000)), [(Kind::Connection, true, text.into())]);
}

#[test]
fn a_grace_shorter_than_the_samples_does_not_shorten_them() {
    let mut expectation = Expectation::new(Expected { startup_grace: Duration::ZERO, ..expected() }, at(0));
    assert_eq!(silence(&mut expectation, 599), []);
    assert_eq!(silence(&mut expectation, 600).len(), 1);
}

/// The deadlines passed while nobody looked: the probe that is found now counts from its arrival.
#[test]
fn a_late_look_judges_by_arrival_times() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    let (_, changes) = expectation.on_probe(&probe(1150, 1));
    assert_eq!(changes, []);
    let (_, changes) = expectation.on_probe(&probe(1750, 2));
    assert_eq!(kinds(&changes), [(Kind::Connection, true)]);
}

/// The monotonic clock judges silence: a step of the wall's clock is no alarm of the connection.
#[test]
fn a_wall_clock_step_raises_no_connection_alarm() {
    let mut expectation = Expectation::new(expected(), at(0));
    let mut all = Vec::new();
    for n in 0..100u32 {
        let mut incoming = probe(1000 + u64::from(n) * 100, n);
        if n >= 50 {
            let stepped = incoming.received.wall.unix_nanos() + 3_600_000_000_000;
            incoming.received.wall = WallTime::from_unix_nanos(stepped);
        }
        all.extend(expectation.on_probe(&incoming).1);
    }
    let settled = [(Kind::Connection, false), (Kind::Clock, false), (Kind::Latency, false)];
    assert_eq!(kinds(&all)[..3], settled);
    assert_eq!(kinds(&all)[3..], [(Kind::Clock, true)]);
}

#[test]
fn late_probes_raise_latency_and_not_connection() {
    let mut expectation = Expectation::new(expected(), at(0));
    let mut all = Vec::new();
    for n in 0..3 {
        all.extend(expectation.on_probe(&delayed(1000 + u64::from(n) * 100, n, 9)).1);
    }
    for n in 3..6 {
        all.extend(expectation.on_probe(&delayed(1000 + u64::from(n) * 100, n, 1)).1);
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
fn an_egregious_delay_is_a_clock_and_not_a_latency() {
    let mut expectation = Expectation::new(expected(), at(0));
    let mut all = Vec::new();
    for n in 0..5 {
        all.extend(expectation.on_probe(&delayed(1000 + u64::from(n) * 100, n, 60_000)).1);
    }
    assert_eq!(kinds(&all), [(Kind::Connection, false), (Kind::Clock, true)]);
    assert_eq!(all[1].key.subject, Subject::Host("a".into()));
}

#[test]
fn what_the_clocks_cannot_decide_is_no_alarm() {
    let mut expectation = Expectation::new(expected(), at(0));
    for n in 0..10 {
        let uncertainty = Duration::from_millis(20);
        let incoming = Incoming { uncertainty, ..delayed(1000 + u64::from(n) * 100, n, 9) };
        expectation.on_probe(&incoming);
    }
    assert_eq!(expectation.latency().state(), State::Unknown);
    assert_eq!(expectation.last_delay().unwrap().1, DelayVerdict::Undecidable);
}

#[test]
fn duplicates_and_replays_keep_no_test_up() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    let mut all = Vec::new();
    for n in 1..10 {
        let (acceptance, changes) = expectation.on_probe(&probe(1000 + n * 100, 0));
        assert_eq!(acceptance, Acceptance::Duplicate);
        all.extend(changes);
    }
    assert_eq!(kinds(&all), [(Kind::Connection, true)]);
    assert_eq!(expectation.counters().duplicates, 9);
}

#[test]
fn an_older_epoch_is_taken_only_when_the_newer_one_is_silent() {
    let mut expectation = Expectation::new(expected(), at(0));
    let of_epoch = |millis, epoch| Incoming { order: Some((epoch, 0)), ..probe(millis, 0) };
    assert_eq!(expectation.on_probe(&of_epoch(1000, 5)).0, Acceptance::Accepted);
    assert_eq!(expectation.on_probe(&of_epoch(1100, 4)).0, Acceptance::StaleEpoch);
    assert_eq!(expectation.on_probe(&of_epoch(1150, 6)).0, Acceptance::Accepted);
    assert_eq!(expectation.on_probe(&of_epoch(1400, 4)).0, Acceptance::Accepted);
}

#[test]
fn an_own_stall_is_not_the_networks_silence() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    expectation.on_own_stall(at(20_000));
    assert_eq!(silence(&mut expectation, 20_100), []);
    assert_eq!(silence(&mut expectation, 20_600).len(), 1);
}

#[test]
fn other_parameters_keep_what_was_judged() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    silence(&mut expectation, 1600);
    let changes = expectation.on_expected(Expected { expect_every: EVERY * 2, ..expected() }, at(1700));
    assert_eq!(changes, []);
    assert_eq!(expectation.connection().state(), State::Down);
    assert_eq!(expectation.counters().received, 1);
}

#[test]
fn a_limit_that_is_taken_away_clears_its_alarm() {
    let mut expectation = Expectation::new(expected(), at(0));
    for n in 0..3 {
        expectation.on_probe(&delayed(1000 + u64::from(n) * 100, n, 9));
    }
    let limits = DelayLimits { max_latency: None, ..expected().limits };
    let changes = expectation.on_expected(Expected { limits, ..expected() }, at(1300));
    assert_eq!(kinds(&changes), [(Kind::Latency, false)]);
    assert_eq!(expectation.on_expected(Expected { limits, ..expected() }, at(1300)), []);
}

#[test]
fn everything_decided_is_reported_anew() {
    let mut expectation = Expectation::new(expected(), at(0));
    assert_eq!(expectation.report(at(1)), []);
    for n in 0..3 {
        expectation.on_probe(&delayed(1000 + u64::from(n) * 100, n, 9));
    }
    let report = kinds(&expectation.report(at(1300)));
    assert_eq!(report, [(Kind::Connection, false), (Kind::Latency, true), (Kind::Clock, false)]);
}

#[test]
fn a_planned_stop_is_named() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&Incoming { stops: true, ..probe(1000, 0) });
    assert_eq!(expectation.connection().state(), State::Paused);
    assert_eq!(silence(&mut expectation, 60_999), []);
    let text = &shown(&silence(&mut expectation, 61_000))[0].2;
    assert!(text.ends_with("; the sender announced its stop"), "{text}");
}

/// A virtual machine that is set back goes on with old sequence numbers in the same epoch.
#[test]
fn a_sender_that_is_set_back_is_heard_again() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 100_000));
    assert_eq!(expectation.on_probe(&probe(1100, 5)).0, Acceptance::TooOld);
    assert_eq!(expectation.on_probe(&probe(1300, 6)).0, Acceptance::Accepted);
    assert_eq!(expectation.on_probe(&probe(1400, 7)).0, Acceptance::Accepted);
}

/// Edits of other fields are no samples.
#[test]
fn edits_during_a_silence_do_not_hasten_the_alarm() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    for millis in [1250, 1260, 1270, 1280] {
        let limits = DelayLimits { max_latency: Some(Duration::from_millis(millis)), ..expected().limits };
        expectation.on_expected(Expected { limits, ..expected() }, at(millis));
        assert_eq!(silence(&mut expectation, millis), []);
    }
    assert_eq!(silence(&mut expectation, 1599), []);
    assert_eq!(silence(&mut expectation, 1600).len(), 1);
}

proptest! {
    /// A probe in each `expect_every` never raises, whatever the clocks and the order do.
    #[test]
    fn regular_probes_never_raise_a_connection_alarm(
        gaps in prop::collection::vec(1u64..200, 1..200),
        steps in prop::collection::vec(-100_000_000_000i64..100_000_000_000, 200),
    ) {
        let mut expectation = Expectation::new(expected(), at(0));
        let mut millis = 0;
        for (n, gap) in gaps.iter().enumerate() {
            millis += gap;
            let mut incoming = probe(millis, n as u32);
            incoming.received.wall = WallTime::from_unix_nanos(
                incoming.received.wall.unix_nanos().saturating_add_signed(steps[n]));
            let (_, changes) = expectation.on_probe(&incoming);
            prop_assert!(!kinds(&changes).contains(&(Kind::Connection, true)));
        }
    }

    /// Looking often or seldom makes no difference to what is found.
    #[test]
    fn how_often_it_is_looked_at_changes_nothing(
        arrivals in prop::collection::btree_set(1u64..10_000, 1..40),
        looks in prop::collection::btree_set(1u64..12_000, 0..100),
    ) {
        let run = |looks: &std::collections::BTreeSet<u64>| {
            let mut expectation = Expectation::new(expected(), at(0));
            let mut found = Vec::new();
            let mut sequence = 0;
            for millis in 1..=12_000u64 {
                if arrivals.contains(&millis) {
                    found.extend(kinds(&expectation.on_probe(&probe(millis, sequence)).1));
                    sequence += 1;
                }
                if looks.contains(&millis) || millis == 12_000 {
                    found.extend(kinds(&silence(&mut expectation, millis)));
                }
            }
            (found, expectation.connection().state())
        };
        prop_assert_eq!(run(&looks), run(&std::collections::BTreeSet::new()));
    }
}

/// After a stall the socket holds old probes, then a gap: neither the gap nor the time since is judged.
#[test]
fn old_probes_found_after_an_own_stall_raise_nothing() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    expectation.on_own_stall(at(20_000));
    assert_eq!(expectation.on_probe(&probe(1100, 1)).1, []);
    assert_eq!(silence(&mut expectation, 20_100), []);
    assert_eq!(expectation.on_probe(&probe(19_990, 2)).1, []);
    assert_eq!(silence(&mut expectation, 20_199), []);
    assert_eq!(silence(&mut expectation, 20_600).len(), 1);
}

/// The receiver's document may change long before the sender's.
#[test]
fn a_tightened_interval_waits_for_the_roll_out() {
    let slow = Duration::from_secs(10);
    let mut expectation = Expectation::new(Expected { expect_every: slow, ..expected() }, at(0));
    expectation.on_probe(&probe(1000, 0));
    expectation.on_expected(expected(), at(2000));
    assert_eq!(silence(&mut expectation, 9000), []);
    assert_eq!(expectation.on_probe(&probe(9000, 1)).1, []);
    assert_eq!(silence(&mut expectation, 18_000), []);
    assert_eq!(expectation.connection().state(), State::Up);
    // Long after, the new interval counts.
    for n in 0..3 {
        expectation.on_probe(&probe(60_000 + n * 100, n as u32 + 2));
    }
    assert_eq!(silence(&mut expectation, 60_799), []);
    assert_eq!(silence(&mut expectation, 60_800).len(), 1);
}

#[test]
fn another_sending_host_takes_back_what_was_said_of_the_first_ones_clock() {
    let mut expectation = Expectation::new(expected(), at(0));
    for n in 0..3 {
        expectation.on_probe(&delayed(1000 + u64::from(n) * 100, n, 60_000));
    }
    let test = TestFacts { from_host: "c".into(), ..expected().test.as_ref().clone() };
    let changes = expectation.on_expected(Expected { test: Arc::new(test), ..expected() }, at(1300));
    assert_eq!(kinds(&changes), [(Kind::Clock, false)]);
    assert_eq!(changes[0].key.subject, Subject::Host("a".into()));
}

/// Between the limits it is neither too late nor good again.
#[test]
fn latency_has_a_high_and_a_low_limit() {
    let limits = DelayLimits { clear_latency: Duration::from_millis(2), ..expected().limits };
    let mut expectation = Expectation::new(Expected { limits, ..expected() }, at(0));
    let mut said = Vec::new();
    for (n, delay) in [3, 3, 3, 9, 9, 9, 3, 3, 3, 3, 1, 1, 3, 1, 1, 1].into_iter().enumerate() {
        let changes = expectation.on_probe(&delayed(1000 + n as u64 * 100, n as u32, delay)).1;
        said.extend(
            kinds(&changes).into_iter().filter(|(kind, _)| *kind == Kind::Latency).map(|(_, raised)| (n, raised)),
        );
    }
    assert_eq!(said, [(0, false), (5, true), (15, false)]);
}

#[test]
fn a_pause_ends_with_the_next_probe() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&Incoming { stops: true, ..probe(1000, 0) });
    expectation.on_probe(&Incoming { order: Some((2, 0)), ..probe(30_000, 0) });
    assert_eq!(expectation.connection().state(), State::Up);
    assert_eq!(silence(&mut expectation, 30_600).len(), 1);
}

#[test]
fn what_this_host_dropped_is_named() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&Incoming { dropped: 5, ..probe(1000, 0) });
    let mut changes = Vec::new();
    expectation.on_silence(at(1600), 12, &mut changes);
    let text = &shown(&changes)[0].2;
    assert!(text.ends_with("; this host's socket dropped 7 datagrams meanwhile"), "{text}");
}

#[test]
fn a_probe_that_the_goodbye_overtook_does_not_take_it_back() {
    let mut expectation = Expectation::new(expected(), at(0));
    expectation.on_probe(&probe(1000, 0));
    expectation.on_probe(&Incoming { stops: true, ..probe(1100, 2) });
    expectation.on_probe(&probe(1101, 1));
    assert_eq!(expectation.connection().state(), State::Paused);
    assert_eq!(expectation.counters().received, 3);
    assert_eq!(silence(&mut expectation, 10_000), []);
}
