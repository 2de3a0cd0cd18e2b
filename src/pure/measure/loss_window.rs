//! Loss and delay variation over a sliding window, compared with their configured limits.
//!
//! A [`LossWindow`] counts probes in 12 slices of the window and yields a good or bad sample at the end of each slice,
//! with hysteresis so that a rate near its limit does not alternate.

use std::time::Duration;

use crate::pure::base::time::Moment;
use crate::pure::judge::condition::Sample;

/// Number of slices of the window; it advances by one slice at a time.
const SLICES: usize = 12;
/// Minimum number of lost probes for a bad sample: a single loss is no rate, however short the window is.
const MIN_LOST: u64 = 2;
/// Share of variations that may exceed the limit, since a single outlier is no jitter.
const TOLERATED: f64 = 0.05;
/// Fraction of the limit at which an exceeded limit is met again.
const CLEAR_FRACTION: f64 = 0.5;
/// Minimum number of variations within the window that a decision is based on.
const MIN_VARIATIONS: u64 = 10;

/// Limits of a test's loss and delay variation, and the window in which they apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossLimits {
    /// Maximum share of lost probes, in parts per million; `None` if loss is not judged.
    pub max_loss_ppm: Option<u32>,
    /// Maximum delay difference between consecutive probes; `None` if variation is not judged.
    pub max_jitter: Option<Duration>,
    /// Length of the sliding window over which both are measured.
    pub loss_window: Duration,
}

impl LossLimits {
    /// Returns whether loss or delay variation is limited at all.
    pub fn any(&self) -> bool {
        self.max_loss_ppm.is_some() || self.max_jitter.is_some()
    }
}

/// Counts of received, lost and varying probes within a sliding window of time.
#[derive(Clone, Debug)]
pub struct LossWindow {
    slices: [Slice; SLICES],
    at: usize,
    /// Moment at which the current slice ends.
    ends: Moment,
    /// Number of slices finished since the last reset, at most `SLICES`.
    filled: usize,
    /// While the limit is exceeded, the number of consecutive slices at half of it or less; otherwise `None`.
    loss_bad: Option<usize>,
    jitter_bad: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    received: u32,
    lost: i32,
    variations: u32,
    exceeding: u32,
}

/// Result of comparing the window with one of its limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Good if the limit is met, with hysteresis; bad if it is exceeded.
    pub sample: Sample,
    /// Share of lost probes, or of variations beyond the limit, between 0 and 1.
    pub share: f64,
}

impl LossWindow {
    /// Creates an empty window whose first slice begins now.
    pub fn new(now: Moment, limits: &LossLimits) -> Self {
        LossWindow {
            slices: Default::default(),
            at: 0,
            ends: now + slice(limits),
            filled: 0,
            loss_bad: None,
            jitter_bad: None,
        }
    }

    /// Discards the counts and begins again, but keeps the hysteresis of an exceeded limit.
    pub fn reset(&mut self, now: Moment, limits: &LossLimits) {
        let hysteresis = (self.loss_bad, self.jitter_bad);
        *self = LossWindow::new(now, limits);
        (self.loss_bad, self.jitter_bad) = hysteresis;
    }

    /// Adds received and lost probes to the current slice. `lost` is negative if a probe counted as lost has arrived.
    pub fn on_probes(&mut self, received: u32, lost: i32) {
        // The loss that is taken back may have left the window already.
        let held = self.slices.iter().map(|slice| slice.lost).fold(0i32, i32::saturating_add);
        let slice = &mut self.slices[self.at];
        slice.received = slice.received.saturating_add(received);
        slice.lost = slice.lost.saturating_add(lost.max(-held.max(0)));
    }

    /// Adds the delay difference, in nanoseconds, between a probe and the one before it.
    pub fn on_variation(&mut self, nanos: u64, limits: &LossLimits) {
        let slice = &mut self.slices[self.at];
        slice.variations = slice.variations.saturating_add(1);
        let exceeds = limits.max_jitter.is_some_and(|limit| u128::from(nanos) > limit.as_nanos());
        slice.exceeding = slice.exceeding.saturating_add(u32::from(exceeds));
    }

    /// Returns the rates of loss and of variation at the end of a slice; `None` within a slice. A single rate is `None`
    /// while its window is not full enough or contains too few probes to decide.
    pub fn on_time(&mut self, now: Moment, limits: &LossLimits) -> Option<(Option<Rate>, Option<Rate>)> {
        if now < self.ends {
            return None;
        }
        self.filled = (self.filled + 1).min(SLICES);
        let rates = (self.loss(limits), self.variation(limits));
        let mut passed = 0;
        while now >= self.ends && passed < SLICES {
            self.at = (self.at + 1) % SLICES;
            self.slices[self.at] = Slice::default();
            self.ends = self.ends + slice(limits);
            passed += 1;
        }
        self.ends = self.ends.max(now);
        Some(rates)
    }

    fn loss(&mut self, limits: &LossLimits) -> Option<Rate> {
        let limit = f64::from(limits.max_loss_ppm?) / 1e6;
        let received: u64 = self.slices.iter().map(|slice| u64::from(slice.received)).sum();
        let lost = self.slices.iter().map(|slice| i64::from(slice.lost)).sum::<i64>().max(0) as u64;
        // Without any received probe, the connection alarm applies and loss is not judged.
        if received == 0 {
            return None;
        }
        let share = lost as f64 / (received + lost) as f64;
        let bad = share > limit && lost >= MIN_LOST;
        let (filled, good) = (self.filled, share <= limit * CLEAR_FRACTION);
        decide(&mut self.loss_bad, filled, bad, good, share)
    }

    fn variation(&mut self, limits: &LossLimits) -> Option<Rate> {
        limits.max_jitter?;
        let variations: u64 = self.slices.iter().map(|slice| u64::from(slice.variations)).sum();
        let exceeding: u64 = self.slices.iter().map(|slice| u64::from(slice.exceeding)).sum();
        if variations < MIN_VARIATIONS {
            return None;
        }
        let share = exceeding as f64 / variations as f64;
        let (filled, good) = (self.filled, share <= TOLERATED * CLEAR_FRACTION);
        decide(&mut self.jitter_bad, filled, share > TOLERATED, good, share)
    }
}

/// Decides a rate. A partial window is enough for `bad` if the rest of it cannot change that; `good` needs a full one.
/// An exceeded limit is met again only after a whole window at half of it or less, because a rate near its limit would
/// otherwise change with every window.
fn decide(was_bad: &mut Option<usize>, filled: usize, bad: bool, good: bool, share: f64) -> Option<Rate> {
    if bad && filled * 2 >= SLICES {
        *was_bad = Some(0);
        return Some(Rate { sample: Sample::Bad, share });
    }
    let is_full = filled == SLICES;
    let Some(calm) = was_bad else { return (!bad && is_full).then_some(Rate { sample: Sample::Good, share }) };
    *calm = if good && is_full { *calm + 1 } else { 0 };
    if *calm < SLICES {
        return is_full.then_some(Rate { sample: Sample::Bad, share });
    }
    *was_bad = None;
    Some(Rate { sample: Sample::Good, share })
}

fn slice(limits: &LossLimits) -> Duration {
    (limits.loss_window / SLICES as u32).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LossLimits = LossLimits {
        max_loss_ppm: Some(20_000),
        max_jitter: Some(Duration::from_millis(2)),
        loss_window: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    /// Feeds ten probes a second, of which `lost` are lost, and returns the samples with their times in seconds.
    fn run(window: &mut LossWindow, seconds: std::ops::Range<u64>, lost: u32) -> Vec<(u64, Sample)> {
        let mut said = Vec::new();
        for second in seconds {
            window.on_probes(10 - lost, lost as i32);
            let rates = window.on_time(at(second), &LIMITS);
            said.extend(rates.and_then(|rates| rates.0).map(|rate| (second, rate.sample)));
        }
        said
    }

    #[test]
    fn loss_is_bad_within_half_a_window_and_good_after_clean_windows() {
        let mut window = LossWindow::new(at(0), &LIMITS);
        let good = run(&mut window, 0..120, 0);
        assert!(good.iter().all(|(_, sample)| *sample == Sample::Good) && good[0].0 == 60, "{good:?}");
        let bad = run(&mut window, 120..180, 1);
        assert_eq!(bad.iter().find(|(_, sample)| *sample == Sample::Bad).unwrap().0, 135);
        let over = run(&mut window, 180..400, 0);
        let first = over.iter().find(|(_, sample)| *sample == Sample::Good).unwrap().0;
        // A window without loss must pass, and a second one as hysteresis.
        assert!((285..=300).contains(&first), "{first}");
    }

    /// Random loss of 2 % at a limit of 2 %, with one probe a second for four hours.
    #[test]
    fn loss_near_its_limit_changes_rarely() {
        let mut all = 0;
        for seed in 0..10 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut window = LossWindow::new(at(0), &LIMITS);
            let (mut state, mut changes) = (Sample::Good, 0);
            for second in 0..4 * 3600 {
                let lost = random.f64() < 0.02;
                window.on_probes(u32::from(!lost), i32::from(lost));
                let rate = window.on_time(at(second), &LIMITS).and_then(|rates| rates.0);
                if let Some(rate) = rate.filter(|rate| rate.sample != state) {
                    (state, changes) = (rate.sample, changes + 1);
                }
            }
            all += changes;
        }
        // Without hysteresis the same ten runs had 355 changes.
        assert!(all <= 10 * 60, "{all} changes in ten runs");
    }

    #[test]
    fn single_lost_probe_does_not_exceed_the_limit() {
        let mut window = LossWindow::new(at(0), &LIMITS);
        let mut rates = Vec::new();
        for second in 0..120 {
            window.on_probes(u32::from(second != 70), i32::from(second == 70));
            rates.extend(window.on_time(at(second), &LIMITS).and_then(|rates| rates.0));
        }
        assert!(rates.iter().all(|rate| rate.sample == Sample::Good));
    }

    #[test]
    fn jitter_is_bad_for_repeated_variation_but_not_for_one_outlier() {
        let mut window = LossWindow::new(at(0), &LIMITS);
        let mut said = Vec::new();
        for second in 0..240 {
            let nanos = if second == 70 || second >= 120 && second % 3 == 0 { 5_000_000 } else { 10_000 };
            window.on_probes(1, 0);
            window.on_variation(nanos, &LIMITS);
            let rates = window.on_time(at(second), &LIMITS);
            said.extend(rates.and_then(|rates| rates.1).map(|rate| (second, rate.sample)));
        }
        let first_bad = said.iter().find(|(_, sample)| *sample == Sample::Bad).unwrap().0;
        assert!((120..=150).contains(&first_bad), "{first_bad}");
    }
}
