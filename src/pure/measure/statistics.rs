//! Statistics of the probes of one test over the last minute, the last ten minutes and the whole receive session, in
//! bounded memory.
//!
//! [`Statistics`] is the main type. Delay is defined by RFC 7679, loss by RFC 7680, delay variation by RFC 3393 and
//! reordering by RFC 4737; loss episodes are the loss periods of RFC 3357.

mod archive;
mod period;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use super::histogram::{BucketCount, BucketIndex};
use crate::pure::base::time::Moment;
use crate::pure::clock::error_estimate::Delay;
use archive::{Archive, BOUNDS, FIVE_MINUTES};
use period::{Period, in_seconds};

pub use period::{DelaySummary, Summary};

/// Length of one period. The summary of the last minute consists of two such periods, of which the current one is
/// incomplete, so that it covers between 30 s and 60 s.
pub const HALF_MINUTE: Duration = Duration::from_secs(30);

/// Statistics of one test. The fields that every probe changes are stored first, up to `HOT`.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Statistics {
    now_ends: Moment,
    /// Number of probes that are presumed lost after a timeout, until sequence numbers prove how many are missing.
    presumed_lost: i64,
    uncounted: DelayBuffer,
    /// Counters of the current half minute.
    now: Period,
    older: Archive,
    begun: Moment,
    /// Most recent gap in the sequence numbers, including the late probes that have filled parts of it.
    last_gap: Option<Gap>,
}

/// Buffer of the most recent delays. Their counters are stored elsewhere in memory, which is then fetched once for
/// all of them.
#[derive(Clone, Copy, Debug, Default)]
struct DelayBuffer {
    buckets: [BucketIndex; UNCOUNTED],
    len: u8,
}

const UNCOUNTED: usize = 7;

impl DelayBuffer {
    /// Adds a delay; returns the whole content and becomes empty once the buffer is full.
    fn add(&mut self, bucket: BucketIndex) -> Option<[BucketIndex; UNCOUNTED]> {
        self.buckets[usize::from(self.len)] = bucket;
        self.len += 1;
        (usize::from(self.len) == UNCOUNTED).then(|| std::mem::take(self).buckets)
    }

    fn all(&self) -> &[BucketIndex] {
        &self.buckets[..usize::from(self.len)]
    }
}

/// Consecutive sequence numbers that were not received (a loss period of RFC 3357); some of them may still arrive
/// late.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u32,
    length: u32,
    /// Bitmap of the late arrivals among the first 64 numbers; `filled_later` counts those among the others.
    filled: u64,
    filled_later: u32,
}

impl Gap {
    fn new(first: u32, length: u32) -> Self {
        Gap { first, length, filled: 0, filled_later: 0 }
    }

    /// Records a late probe. Returns whether it belongs to this gap.
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

    /// Returns the number of runs of missing numbers and the length of the longest run.
    fn runs(&self) -> (i32, u32) {
        let (mut runs, mut longest, mut run) = (0, 0, 0);
        for at in 0..self.length.min(u64::BITS) {
            let missing = self.filled & 1 << at == 0;
            runs += i32::from(missing && run == 0);
            run = if missing { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        // The positions of late probes beyond the first 64 numbers are unknown: they are assumed to be at the end of
        // the gap.
        let rest = self.length.saturating_sub(u64::BITS).saturating_sub(self.filled_later);
        runs += i32::from(rest > 0 && run == 0);
        (runs, longest.max(run + rest).min(self.length))
    }
}

/// Summaries of all three periods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summaries {
    /// Summary of the last 30 s to 60 s.
    pub minute: Summary,
    /// Summary of the last five to ten minutes.
    pub ten_minutes: Summary,
    /// Summary of the time since the receive session started.
    pub total: Summary,
}

/// Delay histogram with fixed buckets. Each bucket has its upper bound in seconds and the number of delays between
/// the previous bound and this one.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Sum of all delays in seconds.
    pub sum: f64,
    /// Buckets in ascending order of their upper bounds; the last bound is infinity.
    pub buckets: Vec<(f64, u64)>,
}

/// Countable event of a probe, other than its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeEvent {
    /// The probe had already been received.
    Duplicate,
    /// A later probe of the same flow arrived before this one.
    Reordered,
    /// The probe arrived after the time at which it was presumed lost.
    Late,
    /// The probe was rejected because its sequence number is too old or its epoch is over.
    Stale,
    /// The clock uncertainty is too large to compare the delay with its limit.
    Undecidable,
    /// The IP time-to-live differs from that of the previous probe.
    PathChange,
}

impl Statistics {
    /// Number of leading octets, which are the only ones that most probes change.
    pub const HOT: usize = std::mem::offset_of!(Statistics, now) + Period::HOT;

    /// Creates empty statistics. `offset` shortens the first half minute, so that the half minutes of a large number
    /// of tests do not end at the same time.
    pub fn new(now: Moment, offset: Duration) -> Self {
        Statistics {
            now_ends: now + HALF_MINUTE.saturating_sub(offset),
            presumed_lost: 0,
            uncounted: DelayBuffer::default(),
            now: Period::default(),
            older: Archive::new(now),
            begun: now,
            last_gap: None,
        }
    }

    /// Returns the memory outside of this struct that the next delay changes, if any, so that the caller can prefetch
    /// it.
    pub fn prefetch_hint(&self) -> Option<&[BucketCount]> {
        (usize::from(self.uncounted.len) + 1 == UNCOUNTED).then(|| self.now.delays.counts())
    }

    /// Records the delay of an accepted probe. `previous` is the delay in nanoseconds of the probe before it, if that
    /// one was received.
    pub fn on_delay(&mut self, delay: Delay, previous: Option<i64>, now: Moment) {
        self.roll(now);
        let bucket = self.now.note(delay, previous);
        if let Some(buckets) = self.uncounted.add(bucket) {
            self.now.delays.count_in(&buckets);
        }
    }

    /// Counts an event.
    pub fn on_event(&mut self, event: ProbeEvent, now: Moment) {
        self.roll(now);
        self.now.on_event(event);
    }

    /// Records a probe that is newer than all previous ones, while the `missing` numbers right before it have not
    /// been received yet.
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

    /// Counts the loss episodes that remain of the last gap.
    fn close_gap(&mut self) {
        if let Some((runs, longest)) = self.last_gap.take().map(|gap| gap.runs()) {
            self.now.on_loss_episodes(runs, longest);
        }
    }

    /// Records the delay variation, in nanoseconds, of a probe that was overtaken, against a neighbour in the order
    /// of sending.
    pub fn on_variation(&mut self, nanos: u64, now: Moment) {
        self.roll(now);
        self.now.on_variation(nanos);
    }

    /// Records the arrival of a probe that had been counted as lost.
    pub fn on_filled(&mut self, sequence: u32, now: Moment) {
        self.roll(now);
        self.now.lost -= 1;
        if let Some(gap) = &mut self.last_gap {
            gap.fill(sequence);
        }
    }

    /// Records a timeout, after which `missing` more probes are presumed lost.
    pub fn on_timeout(&mut self, missing: u32, now: Moment) {
        self.roll(now);
        self.presumed_lost += i64::from(missing);
        self.now.lost += i64::from(missing);
    }

    /// Records that `lost` probes are certainly lost.
    pub fn on_lost(&mut self, lost: u32, now: Moment) {
        self.roll(now);
        self.now.lost += i64::from(lost);
    }

    /// Records a new epoch. The sender had been away, so the probes that were presumed lost were never sent.
    pub fn on_epoch(&mut self, now: Moment) {
        self.roll(now);
        self.now.lost -= std::mem::take(&mut self.presumed_lost);
        self.close_gap();
    }

    /// Returns the number of probes that are currently presumed lost.
    pub fn presumed_lost(&self) -> i64 {
        self.presumed_lost
    }

    /// Returns the summaries of all periods up to `now`.
    pub fn summaries(&self, now: Moment) -> Summaries {
        let mut current = self.clone();
        current.count();
        current.roll(now);
        current.close_gap();
        // An outage that still lasts counts as one loss episode.
        if let Some(lost) = u32::try_from(current.presumed_lost).ok().filter(|lost| *lost > 0) {
            current.now.on_loss_episodes(1, lost);
        }
        let older = current.older.open();
        // The archive does not contain the current half minute yet.
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

    /// Returns all delays in fixed buckets, so that histograms of several tests can be added.
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

    /// Counts the delays that are still in the buffer.
    fn count(&mut self) {
        self.now.delays.count_in(self.uncounted.all());
        self.uncounted = DelayBuffer::default();
    }

    fn roll(&mut self, now: Moment) {
        if now < self.now_ends {
            return;
        }
        self.count();
        self.close_gap();
        while self.now_ends <= now {
            self.now_ends = self.now_ends + HALF_MINUTE;
            self.older.add(&self.now, now);
            self.now.clear();
            if now.since(self.now_ends) > FIVE_MINUTES {
                // After more than five minutes without a probe, skip the empty half minutes.
                self.older.forget_half_minute();
                self.now_ends = now + HALF_MINUTE;
            }
        }
    }
}
