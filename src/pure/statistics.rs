//! What a test's probes say in numbers, over the last minute, the last ten, and since it began, in
//! bounded memory. Delay is RFC 7679's, loss RFC 7680's, delay variation RFC 3393's, reordering
//! RFC 4737's, loss episodes are the loss periods of RFC 3357.

use std::time::Duration;

use serde::Serialize;

use super::clock_error::Delay;
use super::spread::{Bucket, Count, Spread};
use super::time::{Moment, saturating_nanos};

/// A period is kept as two halves: it covers from half of its length to all of it.
pub const HALF_MINUTE: Duration = Duration::from_secs(30);
const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// The numbers of one test. What every probe changes stands first, up to `HOT`.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Statistics {
    now_ends: Moment,
    /// Probes that silence speaks for, until sequence numbers tell.
    presumed_lost: i64,
    uncounted: Uncounted,
    /// The half minute that runs.
    now: Period,
    /// Boxed, as it is seldom looked at.
    older: Box<Older>,
    begun: Moment,
    /// The gap in sequence numbers that was opened last, and how much of it was filled since.
    last_gap: Option<Gap>,
}

/// The newest delays. What counts them lies elsewhere in memory, which is fetched once for all of them.
#[derive(Clone, Copy, Debug, Default)]
struct Uncounted {
    buckets: [Bucket; UNCOUNTED],
    len: u8,
}

const UNCOUNTED: usize = 7;

impl Uncounted {
    /// Adds one. Gives all of them once there is no room for another.
    fn add(&mut self, bucket: Bucket) -> Option<[Bucket; UNCOUNTED]> {
        self.buckets[usize::from(self.len)] = bucket;
        self.len += 1;
        (usize::from(self.len) == UNCOUNTED).then(|| std::mem::take(self).buckets)
    }

    fn all(&self) -> &[Bucket] {
        &self.buckets[..usize::from(self.len)]
    }
}

#[derive(Clone, Debug)]
struct Older {
    /// The half minute before the one that runs.
    before: Period,
    ten_minutes: Halves,
    total: Period,
    /// Delays up to each of `BOUNDS`, of what is in `total`. A histogram that is coarser by now than it was
    /// would count otherwise.
    up_to: [u64; BOUNDS.len()],
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u32,
    length: u32,
    filled: u32,
}

#[derive(Clone, Debug)]
struct Halves {
    before: Period,
    now: Period,
    begun: Moment,
}

/// What is counted.
#[derive(Clone, Debug, Default)]
#[repr(C)]
struct Period {
    delays: Spread,
    received: u64,
    delay_sum: i64,
    variation_sum: u64,
    variation_max: u64,
    variations: u32,
    /// The largest uncertainty of any delay, rounded up.
    uncertainty_micros: u32,
    /// May be below zero, where probes that were counted as lost in the period before came after all.
    lost: i64,
    duplicates: u32,
    reordered: u32,
    late: u32,
    stale: u32,
    undecidable: u32,
    path_changes: u32,
    loss_episodes: i32,
    longest_loss_episode: u32,
}

/// One period's numbers. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How much time it covers.
    pub covers: f64,
    /// Probes that were accepted.
    pub received: u64,
    /// Probes that did not come.
    pub lost: u64,
    /// Their share of all.
    pub loss: Option<f64>,
    /// Probes that came twice.
    pub duplicates: u32,
    /// Probes that a later one of the same flow overtook.
    pub reordered: u32,
    /// Probes that came when they were given up already.
    pub late: u32,
    /// Probes that were not accepted: too old, or from an earlier start of the sender.
    pub stale: u32,
    /// Probes whose delay the clocks cannot decide on.
    pub undecidable: u32,
    /// Runs of probes that did not come.
    pub loss_episodes: u32,
    /// The longest of them, in probes.
    pub longest_loss_episode: u32,
    /// One-way delay; of the round trip at the sender of a test in mode `two_way`.
    pub delay: Option<DelaySummary>,
    /// Mean of the difference in delay from one probe to the next, without its sign.
    pub delay_variation: Option<f64>,
    /// The largest.
    pub delay_variation_max: Option<f64>,
    /// How often the time-to-live changed.
    pub path_changes: u32,
}

/// Delays in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "quantiles")]
pub struct DelaySummary {
    pub min: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// Each of them may be off by this.
    pub uncertainty: f64,
}

/// All periods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summaries {
    /// The last half to whole minute.
    pub minute: Summary,
    /// The last five to ten minutes.
    pub ten_minutes: Summary,
    /// Since the expectation began.
    pub total: Summary,
}

/// Delays in buckets: of each, its upper bound in seconds and what lies between it and the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// All delays together, in seconds.
    pub sum: f64,
    /// The last is unbounded.
    pub buckets: Vec<(f64, u64)>,
}

/// From a rack to the other side of the world.
const BOUNDS: [f64; 15] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5];

/// What else than a delay is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It came twice.
    Duplicate,
    /// It was overtaken.
    Reordered,
    /// It came when it was given up already.
    Late,
    /// It was not accepted.
    Stale,
    /// The clocks cannot decide on its delay.
    Undecidable,
    /// The time-to-live changed.
    PathChange,
}

impl Statistics {
    /// The first octets, which are all that most probes change.
    pub const HOT: usize = std::mem::offset_of!(Statistics, now) + std::mem::offset_of!(Period, lost);

    /// From now on. The first half minute may be shorter by `offset`: a half minute of each of very many tests
    /// should not end at once.
    pub fn new(now: Moment, offset: Duration) -> Self {
        Statistics {
            now_ends: now + HALF_MINUTE.saturating_sub(offset),
            presumed_lost: 0,
            uncounted: Uncounted::default(),
            now: Period::default(),
            older: Box::new(Older {
                before: Period::default(),
                ten_minutes: Halves { before: Period::default(), now: Period::default(), begun: now },
                total: Period::default(),
                up_to: [0; BOUNDS.len()],
            }),
            begun: now,
            last_gap: None,
        }
    }

    /// What the next delay changes elsewhere in memory.
    pub fn elsewhere(&self) -> Option<&[Count]> {
        (usize::from(self.uncounted.len) + 1 == UNCOUNTED).then(|| self.now.delays.counts())
    }

    /// A probe was accepted; `previous` is the delay of the one before it, if that came.
    pub fn on_delay(&mut self, delay: Delay, previous: Option<i64>, now: Moment) {
        self.roll(now);
        let period = &mut self.now;
        period.received += 1;
        let bucket = period.delays.note(delay.nanos);
        if let Some(buckets) = self.uncounted.add(bucket) {
            period.delays.count_in(&buckets);
        }
        period.delay_sum = period.delay_sum.saturating_add(delay.nanos);
        let uncertainty = saturating_nanos(delay.uncertainty).div_ceil(1_000);
        period.uncertainty_micros = period.uncertainty_micros.max(u32::try_from(uncertainty).unwrap_or(u32::MAX));
        if let Some(previous) = previous {
            let variation = delay.nanos.abs_diff(previous);
            period.variation_sum = period.variation_sum.saturating_add(variation);
            period.variations += 1;
            period.variation_max = period.variation_max.max(variation);
        }
    }

    /// Something happened.
    pub fn on_event(&mut self, event: Event, now: Moment) {
        self.roll(now);
        let period = &mut self.now;
        match event {
            Event::Duplicate => period.duplicates += 1,
            Event::Reordered => period.reordered += 1,
            Event::Late => period.late += 1,
            Event::Stale => period.stale += 1,
            Event::Undecidable => period.undecidable += 1,
            Event::PathChange => period.path_changes += 1,
        }
    }

    /// A probe is newer than all before it, and so many right before it did not come yet.
    pub fn on_newer(&mut self, sequence: u32, missing: u32, now: Moment) {
        let presumed = std::mem::take(&mut self.presumed_lost);
        if missing == 0 && presumed == 0 {
            return;
        }
        self.roll(now);
        let period = &mut self.now;
        period.lost += i64::from(missing) - presumed;
        if missing > 0 {
            period.loss_episodes += 1;
            period.longest_loss_episode = period.longest_loss_episode.max(missing);
            self.last_gap = Some(Gap { first: sequence.wrapping_sub(missing), length: missing, filled: 0 });
        }
    }

    /// One that was counted as lost came after all.
    pub fn on_filled(&mut self, sequence: u32, now: Moment) {
        self.roll(now);
        self.now.lost -= 1;
        let Some(gap) = &mut self.last_gap else { return };
        if sequence.wrapping_sub(gap.first) < gap.length {
            gap.filled += 1;
            // Reordering, not loss.
            if gap.filled == gap.length {
                self.now.loss_episodes -= 1;
                self.last_gap = None;
            }
        }
    }

    /// Nothing came for so long that so many more are missing.
    pub fn on_silence(&mut self, missing: u32, now: Moment) {
        self.roll(now);
        self.presumed_lost += i64::from(missing);
        self.now.lost += i64::from(missing);
    }

    /// Another epoch: its sender was away, and what did not come was never sent.
    pub fn on_epoch(&mut self, now: Moment) {
        self.roll(now);
        self.now.lost -= std::mem::take(&mut self.presumed_lost);
        self.last_gap = None;
    }

    /// Probes that silence speaks for so far.
    pub fn presumed_lost(&self) -> i64 {
        self.presumed_lost
    }

    /// All of it.
    pub fn summaries(&self, now: Moment) -> Summaries {
        let mut current = self.clone();
        current.count();
        current.roll(now);
        let minute = joined(&current.older.before, &current.now);
        let halves = &current.older.ten_minutes;
        let mut ten_minutes = joined(&halves.before, &halves.now);
        let ten_minutes_begun = halves.begun;
        ten_minutes.merge(&minute);
        let mut total = current.older.total;
        total.merge(&minute);
        // What the minute holds was not yet counted in the others.
        let covers = |begun: Moment, half: Duration| now.since(begun).min(now.since(self.begun)) + half;
        let whole = now.since(self.begun);
        Summaries {
            minute: minute.summary(covers(current.now_ends - HALF_MINUTE, HALF_MINUTE).min(whole)),
            ten_minutes: ten_minutes.summary(covers(ten_minutes_begun, FIVE_MINUTES).min(whole)),
            total: total.summary(whole),
        }
    }

    /// All delays, in buckets that others can add up.
    pub fn histogram(&self) -> Histogram {
        let mut now = self.now.clone();
        now.delays.count_in(self.uncounted.all());
        let recent = [&self.older.before, &now];
        let mut before = 0;
        let buckets = BOUNDS.into_iter().zip(self.older.up_to).map(|(bound, older)| {
            let within = older + recent.iter().map(|period| up_to(period, bound)).sum::<u64>();
            (bound, within - std::mem::replace(&mut before, within))
        });
        let mut buckets: Vec<(f64, u64)> = buckets.collect();
        let all = self.older.total.received + recent.iter().map(|period| period.received).sum::<u64>();
        let sum = self.older.total.delay_sum + recent.iter().map(|period| period.delay_sum).sum::<i64>();
        buckets.push((f64::INFINITY, all - before));
        Histogram { sum: in_seconds(sum), buckets }
    }

    /// Counts what was put off.
    fn count(&mut self) {
        self.now.delays.count_in(self.uncounted.all());
        self.uncounted = Uncounted::default();
    }

    fn roll(&mut self, now: Moment) {
        let mut rolled = false;
        while self.now_ends <= now {
            rolled = true;
            self.now_ends = self.now_ends + HALF_MINUTE;
            self.count();
            std::mem::swap(&mut self.older.before, &mut self.now);
            self.older.take_in(&self.now);
            self.now.clear();
            if now.since(self.now_ends) > FIVE_MINUTES {
                // A long silence: what is left of the old halves is over.
                let rest = std::mem::take(&mut self.older.before);
                self.older.take_in(&rest);
                self.now_ends = now + HALF_MINUTE;
            }
        }
        if !rolled {
            return;
        }
        self.older.ten_minutes.roll(now);
    }
}

impl Older {
    fn take_in(&mut self, period: &Period) {
        self.ten_minutes.now.merge(period);
        self.total.merge(period);
        for (bound, count) in BOUNDS.into_iter().zip(&mut self.up_to) {
            *count += up_to(period, bound);
        }
    }
}

impl Halves {
    /// Forgets its older half as often as its newer one is over.
    fn roll(&mut self, now: Moment) {
        while now.since(self.begun) >= FIVE_MINUTES {
            self.begun = self.begun + FIVE_MINUTES;
            self.before = std::mem::take(&mut self.now);
            if now.since(self.begun) > 4 * FIVE_MINUTES {
                self.begun = now;
                self.before = Period::default();
            }
        }
    }
}

fn joined(before: &Period, now: &Period) -> Period {
    let mut joined = before.clone();
    joined.merge(now);
    joined
}

impl Period {
    /// Begins anew, in the same memory.
    fn clear(&mut self) {
        let mut delays = std::mem::take(&mut self.delays);
        delays.clear();
        *self = Period { delays, ..Period::default() };
    }

    fn merge(&mut self, other: &Period) {
        self.delays.merge(&other.delays);
        self.delay_sum = self.delay_sum.saturating_add(other.delay_sum);
        self.uncertainty_micros = self.uncertainty_micros.max(other.uncertainty_micros);
        self.received += other.received;
        self.lost += other.lost;
        self.duplicates = self.duplicates.saturating_add(other.duplicates);
        self.reordered = self.reordered.saturating_add(other.reordered);
        self.late = self.late.saturating_add(other.late);
        self.stale = self.stale.saturating_add(other.stale);
        self.undecidable = self.undecidable.saturating_add(other.undecidable);
        self.loss_episodes = self.loss_episodes.saturating_add(other.loss_episodes);
        self.longest_loss_episode = self.longest_loss_episode.max(other.longest_loss_episode);
        self.variation_sum = self.variation_sum.saturating_add(other.variation_sum);
        self.variations = self.variations.saturating_add(other.variations);
        self.variation_max = self.variation_max.max(other.variation_max);
        self.path_changes = self.path_changes.saturating_add(other.path_changes);
    }

    fn summary(&self, covers: Duration) -> Summary {
        let lost = u64::try_from(self.lost).unwrap_or(0);
        let all = self.received + lost;
        let quantile = |share| self.delays.quantile(share).map_or(0.0, in_seconds);
        let variations = |value: f64| (self.variations > 0).then_some(value / 1e9);
        Summary {
            covers: covers.as_secs_f64(),
            received: self.received,
            lost,
            loss: (all > 0).then(|| lost as f64 / all as f64),
            duplicates: self.duplicates,
            reordered: self.reordered,
            late: self.late,
            stale: self.stale,
            undecidable: self.undecidable,
            loss_episodes: u32::try_from(self.loss_episodes).unwrap_or(0),
            longest_loss_episode: if self.loss_episodes > 0 { self.longest_loss_episode } else { 0 },
            delay: self.delays.range().map(|(min, max)| DelaySummary {
                min: in_seconds(min),
                p50: quantile(0.5),
                p95: quantile(0.95),
                p99: quantile(0.99),
                max: in_seconds(max),
                uncertainty: f64::from(self.uncertainty_micros) / 1e6,
            }),
            delay_variation: variations(self.variation_sum as f64 / f64::from(self.variations.max(1))),
            delay_variation_max: variations(self.variation_max as f64),
            path_changes: self.path_changes,
        }
    }
}

fn up_to(period: &Period, bound: f64) -> u64 {
    period.delays.count_up_to((bound * 1e9) as i64)
}

fn in_seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    fn delay(micros: i64) -> Delay {
        Delay { nanos: micros * 1_000, uncertainty: Duration::from_micros(5) }
    }

    /// One probe a second; every fifth is lost.
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
    fn delays_that_are_counted_together_are_told_at_once() {
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
    fn one_in_five_is_twenty_percent_in_each_period() {
        let mut statistics = Statistics::new(at(0), Duration::ZERO);
        one_in_five(&mut statistics, 0..1501);
        let summaries = statistics.summaries(at(1500));
        for summary in [&summaries.minute, &summaries.ten_minutes, &summaries.total] {
            // Half a minute of one probe a second ends somewhere within a turn of five.
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
    fn what_comes_after_all_is_not_lost() {
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

    #[test]
    fn silence_is_loss_until_sequence_numbers_tell() {
        let mut statistics = Statistics::new(at(0), Duration::ZERO);
        statistics.on_newer(0, 0, at(0));
        statistics.on_delay(delay(100), None, at(0));
        statistics.on_silence(3, at(3));
        assert_eq!(statistics.summaries(at(3)).total.lost, 3);
        statistics.on_newer(3, 2, at(4));
        assert_eq!(statistics.summaries(at(4)).total.lost, 2);
        // A sender that was away sent nothing.
        statistics.on_silence(9, at(12));
        statistics.on_epoch(at(13));
        assert_eq!(statistics.summaries(at(13)).total.lost, 2);
    }

    #[test]
    fn old_numbers_leave_the_short_periods_only() {
        let mut statistics = Statistics::new(at(0), Duration::ZERO);
        one_in_five(&mut statistics, 0..100);
        let summaries = statistics.summaries(at(3_000));
        assert_eq!(summaries.minute.received, 0);
        assert_eq!(summaries.ten_minutes.received, 0);
        assert_eq!(summaries.total.received, 80);
        assert_eq!(statistics.summaries(at(400)).ten_minutes.received, 80);
    }
}
