use super::archive::Packed;
use super::*;

fn at(seconds: u64) -> Moment {
    Moment::new(Duration::from_secs(seconds))
}

fn delay(micros: i64) -> Delay {
    Delay { nanos: micros * 1_000, uncertainty: Duration::from_micros(5) }
}

/// Records one probe per second, of which every fifth is lost.
fn one_in_five(statistics: &mut Statistics, seconds: std::ops::Range<u64>) {
    let mut missing = 0;
    let mut previous = None;
    for second in seconds {
        if second % 5 == 4 {
            missing += 1;
            previous = None;
            continue;
        }
        let now = at(second);
        statistics.on_newer(second as u32, std::mem::take(&mut missing), now);
        let this = delay(200 + (second % 5) as i64 * 10);
        statistics.on_delay(this, previous, now);
        previous = Some(this.nanos);
    }
}

#[test]
fn buffered_delays_are_included_in_summaries_and_histogram() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    for n in 1..100 {
        statistics.on_delay(delay(n), None, at(n as u64));
        let (summary, histogram) = (statistics.summaries(at(n as u64)).total, statistics.histogram());
        let spread = summary.delay.unwrap();
        assert!((spread.p50 * 1e6 - n as f64 / 2.0).abs() < 1.0 + n as f64 * 0.04, "{spread:?} of {n}");
        assert_eq!(histogram.buckets.iter().map(|(_, count)| count).sum::<u64>(), n as u64);
        assert_eq!(histogram.buckets[0].1, n.min(49) as u64, "{n}");
    }
}

#[test]
fn one_lost_probe_in_five_is_twenty_percent_in_each_period() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    one_in_five(&mut statistics, 0..1501);
    let summaries = statistics.summaries(at(1500));
    for summary in [&summaries.minute, &summaries.ten_minutes, &summaries.total] {
        // Half a minute of one probe per second is not a multiple of five, so that the share deviates slightly.
        assert!((summary.loss.unwrap() - 0.2).abs() < 0.02, "{summary:?}");
        assert_eq!(summary.longest_loss_episode, 1);
        let spread = summary.delay.as_ref().unwrap();
        assert_eq!((spread.min, spread.max, spread.uncertainty), (200e-6, 230e-6, 5e-6));
        assert!((summary.delay_variation.unwrap() - 10e-6).abs() < 1e-9);
    }
    assert!((30.0..=60.0).contains(&summaries.minute.covers) && summaries.minute.received <= 49, "{summaries:?}");
    assert!((300.0..=660.0).contains(&summaries.ten_minutes.covers));
    let total = &summaries.total;
    assert_eq!((total.received, total.lost, total.loss_episodes), (1201, 300, 300));
}

#[test]
fn late_probes_are_not_counted_as_lost() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    statistics.on_newer(0, 0, at(0));
    statistics.on_delay(delay(100), None, at(0));
    statistics.on_newer(3, 2, at(1));
    statistics.on_delay(delay(100), None, at(1));
    let summary = statistics.summaries(at(1)).total;
    assert_eq!((summary.lost, summary.loss_episodes, summary.longest_loss_episode), (2, 1, 2));
    statistics.on_filled(1, at(2));
    statistics.on_filled(2, at(2));
    let summary = statistics.summaries(at(2)).total;
    assert_eq!((summary.lost, summary.loss_episodes, summary.longest_loss_episode), (0, 0, 0));
}

/// RFC 3357: numbers 1 to 9 are missing, then 4 and 5 arrive late.
#[test]
fn late_probes_split_and_shorten_loss_episodes() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    statistics.on_newer(0, 0, at(0));
    statistics.on_newer(10, 9, at(1));
    [4, 5].into_iter().for_each(|late| statistics.on_filled(late, at(2)));
    let summary = statistics.summaries(at(2)).total;
    assert_eq!((summary.lost, summary.loss_episodes, summary.longest_loss_episode), (7, 2, 4));
    // Single losses are episodes of length one, even if probes in between were overtaken.
    for n in 0..5u32 {
        statistics.on_newer(13 + 3 * n, 2, at(3));
        statistics.on_filled(12 + 3 * n, at(3));
    }
    let summary = statistics.summaries(at(3)).total;
    assert_eq!((summary.lost, summary.loss_episodes, summary.longest_loss_episode), (12, 7, 4));
}

#[test]
fn outage_is_a_loss_episode_while_it_lasts() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    statistics.on_newer(0, 0, at(0));
    statistics.on_timeout(3, at(3));
    statistics.on_timeout(3, at(6));
    let summary = statistics.summaries(at(6)).minute;
    assert_eq!((summary.lost, summary.loss_episodes, summary.longest_loss_episode), (6, 1, 6));
    statistics.on_newer(8, 7, at(8));
    let summary = statistics.summaries(at(8)).minute;
    assert_eq!((summary.lost, summary.loss_episodes, summary.longest_loss_episode), (7, 1, 7));
}

#[test]
fn timeout_counts_as_loss_until_sequence_numbers_prove_it() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    statistics.on_newer(0, 0, at(0));
    statistics.on_delay(delay(100), None, at(0));
    statistics.on_timeout(3, at(3));
    assert_eq!(statistics.summaries(at(3)).total.lost, 3);
    statistics.on_newer(3, 2, at(4));
    assert_eq!(statistics.summaries(at(4)).total.lost, 2);
    // A restarted sender did not send the probes that were presumed lost.
    statistics.on_timeout(9, at(12));
    statistics.on_epoch(at(13));
    assert_eq!(statistics.summaries(at(13)).total.lost, 2);
}

#[test]
fn old_counts_leave_the_short_periods_but_not_the_total() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    one_in_five(&mut statistics, 0..100);
    let summaries = statistics.summaries(at(3_000));
    assert_eq!(summaries.minute.received, 0);
    assert_eq!(summaries.ten_minutes.received, 0);
    assert_eq!(summaries.total.received, 80);
    assert_eq!(statistics.summaries(at(400)).ten_minutes.received, 80);
}

/// Memory for 100 000 tests must suffice even in the worst case: one probe per second for a day, with delays from a
/// microsecond to a second, half of them negative.
#[test]
fn archive_size_is_bounded_for_widely_scattered_delays() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    let mut random = 1u64;
    let mut most = 0;
    for second in 0..86_400 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let micros = 2f64.powf((random >> 40) as f64 / (1u64 << 24) as f64 * 20.0) as i64;
        let this = delay(if random & 1 << 39 == 0 { micros } else { -micros });
        statistics.on_delay(this, Some(0), at(second));
        most = most.max(statistics.older.octets());
    }
    let total = statistics.summaries(at(86_399)).total;
    assert_eq!(total.received, 86_400);
    assert!(total.delay.unwrap().p99 > 0.2);
    assert!(most <= 640, "{most}");
}

#[test]
fn archived_value_is_restored_unchanged() {
    let mut period = Period::default();
    for n in -50..50 {
        let bucket = period.note(delay(n * n * n), Some(n));
        period.delays.count_in(&[bucket]);
    }
    period.on_event(ProbeEvent::Late);
    period.on_loss_episodes(1, 3);
    period.lost = -2;
    assert_eq!(Packed::new(&period).open::<Period>(), period);
    assert_eq!(Packed::new(&(&period, 1)).open::<Period>(), period);
    // A value that exceeds the stack buffer is stored through the heap.
    let many = vec![u64::MAX; 300];
    assert_eq!(Packed::new(&many).open::<Vec<u64>>(), many);
}

/// Prometheus treats a decreasing counter as a restart of the process.
#[test]
fn cumulative_histogram_counts_never_decrease() {
    let mut statistics = Statistics::new(at(0), Duration::ZERO);
    let mut before = vec![0; BOUNDS.len()];
    let mut random = 1u64;
    for second in 0..1_500 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let micros = 2f64.powf((random >> 40) as f64 / (1u64 << 24) as f64 * 20.0) as i64;
        statistics.on_delay(delay(micros), None, at(second));
        let mut within = 0;
        for ((bound, count), before) in statistics.histogram().buckets.into_iter().zip(&mut before) {
            within += count;
            assert!(within >= *before, "{within} up to {bound}, {before} before, after {second} s");
            *before = within;
        }
    }
}
