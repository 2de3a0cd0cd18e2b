//! What a test's probes say in numbers, over the last minute, the last ten, and since it began, in
//! bounded memory. Delay is RFC 7679's, loss RFC 7680's, delay variation RFC 3393's, reordering
//! RFC 4737's, loss episodes are the loss periods of RFC 3357.

mod older;
mod period;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use super::clock_error::Delay;
use super::spread::{Bucket, Count};
use super::time::Moment;
use older::{BOUNDS, FIVE_MINUTES, Older};
use period::{Period, in_seconds};

pub use period::{DelaySummary, Summary};

/// The last minute is kept as two halves: it covers from half of its length to all of it.
pub const HALF_MINUTE: Duration = Duration::from_secs(30);

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
    older: Older,
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

/// Sequence numbers in a row that did not come, of which some may come late (a loss period of RFC 3357).
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u32,
    length: u32,
    /// Which of the first numbers came, one bit each; and how many of the others.
    filled: u64,
    filled_later: u32,
}

impl Gap {
    fn new(first: u32, length: u32) -> Self {
        Gap { first, length, filled: 0, filled_later: 0 }
    }

    /// A number came late. True if it is of this gap.
    fn fill(&mut self, sequence: u32) -> bool {
        let at = sequence.wrapping_sub(self.first);
        if at >= self.length {
            return false;
        }
        match at < u64::BITS {
            true => self.filled |= 1 << at,
            false => self.filled_later += 1,
        }
        true
    }

    /// The runs of numbers that did not come: how many there are, and how long the longest is.
    fn runs(&self) -> (i32, u32) {
        let (mut runs, mut longest, mut run) = (0, 0, 0);
        for at in 0..self.length.min(u64::BITS) {
            let missing = self.filled & 1 << at == 0;
            runs += i32::from(missing && run == 0);
            run = if missing { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        // The positions of late probes in a long gap are unknown: they count as its end.
        let rest = self.length.saturating_sub(u64::BITS).saturating_sub(self.filled_later);
        runs += i32::from(rest > 0 && run == 0);
        (runs, longest.max(run + rest).min(self.length))
    }
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
    pub const HOT: usize = std::mem::offset_of!(Statistics, now) + Period::HOT;

    /// From now on. The first half minute may be shorter by `offset`: a half minute of each of very many tests
    /// should not end at once.
    pub fn new(now: Moment, offset: Duration) -> Self {
        Statistics {
            now_ends: now + HALF_MINUTE.saturating_sub(offset),
            presumed_lost: 0,
            uncounted: Uncounted::default(),
            now: Period::default(),
            older: Older::new(now),
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
        let bucket = self.now.note(delay, previous);
        if let Some(buckets) = self.uncounted.add(bucket) {
            self.now.delays.count_in(&buckets);
        }
    }

    /// Something happened.
    pub fn on_event(&mut self, event: Event, now: Moment) {
        self.roll(now);
        self.now.on_event(event);
    }

    /// A probe is newer than all before it, and so many right before it did not come yet.
    pub fn on_newer(&mut self, sequence: u32, missing: u32, now: Moment) {
        let presumed = std::mem::take(&mut self.presumed_lost);
        if missing == 0 && presumed == 0 {
            return;
        }
        self.roll(now);
        self.now.lost += i64::from(missing) - presumed;
        if missing > 0 {
            self.close_gap();
            self.last_gap = Some(Gap::new(sequence.wrapping_sub(missing), missing));
        }
    }

    /// Counts what is left of the gap that was opened last.
    fn close_gap(&mut self) {
        if let Some((runs, longest)) = self.last_gap.take().map(|gap| gap.runs()) {
            self.now.on_loss_episodes(runs, longest);
        }
    }

    /// The delay of a probe that was overtaken, against one of its neighbours in the order of sending.
    pub fn on_variation(&mut self, nanos: u64, now: Moment) {
        self.roll(now);
        self.now.on_variation(nanos);
    }

    /// One that was counted as lost came after all.
    pub fn on_filled(&mut self, sequence: u32, now: Moment) {
        self.roll(now);
        self.now.lost -= 1;
        if let Some(gap) = &mut self.last_gap {
            gap.fill(sequence);
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
        self.close_gap();
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
        current.close_gap();
        // An outage is an episode as long as it lasts.
        if let Some(lost) = u32::try_from(current.presumed_lost).ok().filter(|lost| *lost > 0) {
            current.now.on_loss_episodes(1, lost);
        }
        let older = current.older.open();
        // The half minute that runs is in none of them yet.
        let with_now = |mut period: Period| {
            period.merge(&current.now);
            period
        };
        let whole = now.since(self.begun);
        let covers = |begun: Moment| now.since(begun).min(whole);
        Summaries {
            minute: with_now(older.half_minute).summary(covers(current.now_ends - 2 * HALF_MINUTE)),
            ten_minutes: with_now(older.ten_minutes).summary(covers(older.ten_minutes_begun)),
            total: with_now(older.total).summary(whole),
        }
    }

    /// All delays, in buckets that others can add up.
    pub fn histogram(&self) -> Histogram {
        let mut now = self.now.clone();
        now.delays.count_in(self.uncounted.all());
        let older = self.older.open();
        let mut before = 0;
        let buckets = BOUNDS.into_iter().zip(older.up_to).map(|(bound, older)| {
            let within = older + now.up_to(bound);
            (bound, within - std::mem::replace(&mut before, within))
        });
        let mut buckets: Vec<(f64, u64)> = buckets.collect();
        let all = older.total.received + now.received;
        let sum = older.total.delay_sum.saturating_add(now.delay_sum);
        buckets.push((f64::INFINITY, all - before));
        Histogram { sum: in_seconds(sum), buckets }
    }

    /// Counts what was put off.
    fn count(&mut self) {
        self.now.delays.count_in(self.uncounted.all());
        self.uncounted = Uncounted::default();
    }

    fn roll(&mut self, now: Moment) {
        if now < self.now_ends {
            return;
        }
        self.count();
        self.close_gap();
        while self.now_ends <= now {
            self.now_ends = self.now_ends + HALF_MINUTE;
            self.older.take_in(&self.now, now);
            self.now.clear();
            if now.since(self.now_ends) > FIVE_MINUTES {
                // A long silence.
                self.older.forget_half_minute();
                self.now_ends = now + HALF_MINUTE;
            }
        }
    }
}
