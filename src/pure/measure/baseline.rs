//! Baseline of a test's delay, learnt from the test itself, without synchronized clocks.
//!
//! A [`Baseline`] keeps the least delay of each of the last 20 slices of 30 s. A constant clock offset becomes part of
//! the baseline, and a clock that runs too fast or too slow only tilts it.

use std::time::Duration;

use crate::pure::base::time::Moment;

/// Number of slices whose least delays are kept to form the baseline.
const SLICES: usize = 20;
const SLICE: Duration = Duration::from_secs(30);
/// Minimum number of finished slices before a baseline exists.
const MIN_SLICES: usize = 8;
/// Maximum rate at which two clocks can drift apart, in nanoseconds per second; steeper slopes are clamped to it.
const MAX_SKEW: f64 = 500_000.0;

/// Learns the least delay of each slice of time and the line that runs below them.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// Least delay of each slice in nanoseconds, with the moment at which it was measured; the oldest slice first.
    least: Vec<(Moment, i64)>,
    slice_ends: Moment,
    /// Moment of the last delay, to detect a gap in the measurements.
    last: Moment,
}

/// Time span that a baseline is learnt from. After a longer gap, clocks and path may have changed in any way, and
/// extending the previous line across it would turn noise into a slope.
const WINDOW: Duration = Duration::from_secs(SLICES as u64 * SLICE.as_secs());

impl Baseline {
    /// Creates an empty baseline whose first slice begins now.
    pub fn new(now: Moment) -> Self {
        Baseline { least: Vec::new(), slice_ends: now + SLICE, last: now }
    }

    /// Records a delay in nanoseconds and returns its excess over the baseline; `None` until a baseline exists. `every`
    /// is the interval at which probes are expected.
    pub fn on_delay(&mut self, nanos: i64, every: Duration, now: Moment) -> Option<i64> {
        if now.since(self.last) > WINDOW.max(every.saturating_mul(SLICES as u32)) {
            *self = Baseline::new(now);
        }
        self.last = now;
        let above = self.estimate(now).map(|baseline| nanos.saturating_sub(baseline));
        if now >= self.slice_ends || self.least.is_empty() {
            self.slice_ends = now + SLICE;
            if self.least.len() == SLICES {
                self.least.remove(0);
            }
            self.least.push((now, nanos));
        } else if let Some(last) = self.least.last_mut().filter(|last| nanos < last.1) {
            *last = (now, nanos);
        }
        above
    }

    /// Discards the baseline after a clock step, since earlier delays are no longer comparable.
    pub fn on_step(&mut self, now: Moment) {
        *self = Baseline::new(now);
    }

    /// Returns the usual delay at `now` in nanoseconds: the least of the recent delays, extrapolated by the clock skew.
    /// A path that changes its length tilts the fitted line for a while, as clock skew would, but only in one half of
    /// the slices; the half with the better fit is therefore used for the skew.
    pub fn estimate(&self, now: Moment) -> Option<i64> {
        // Exclude the current slice: its least delay is not final yet.
        let settled = &self.least[..self.least.len().saturating_sub(1)];
        if settled.len() < MIN_SLICES {
            return None;
        }
        let (older, newer) = settled.split_at(settled.len() / 2);
        let fits = [fit(older), fit(newer)];
        let (skew, _) = fits.into_iter().min_by(|(_, rest), (_, other)| rest.total_cmp(other))?;
        let skew = skew.clamp(-MAX_SKEW, MAX_SKEW);
        let moved_on = |(at, nanos): &(Moment, i64)| *nanos as f64 + skew * now.since(*at).as_secs_f64();
        Some(newer.iter().map(moved_on).fold(f64::INFINITY, f64::min) as i64)
    }
}

/// Returns the growth of the delays in nanoseconds per second, and their mean distance above the fitted line. The
/// growth is the slope of the lower convex hull below the middle of the slices (after Zhang, Liu and Xia, "Clock
/// synchronization algorithms for network measurements", 2002).
fn fit(slices: &[(Moment, i64)]) -> (f64, f64) {
    let first = slices.first().map_or(Moment::ZERO, |(at, _)| *at);
    let points: Vec<(f64, f64)> =
        slices.iter().map(|(at, nanos)| (at.since(first).as_secs_f64(), *nanos as f64)).collect();
    let middle = points.iter().map(|(x, _)| x).sum::<f64>() / points.len().max(1) as f64;
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for &point in &points {
        while let [.., (ax, ay), (bx, by)] = hull[..]
            && (bx - ax) * (point.1 - ay) <= (by - ay) * (point.0 - ax)
        {
            hull.pop();
        }
        hull.push(point);
    }
    let Some(&[(ax, ay), (bx, by)]) =
        hull.windows(2).find(|edge| edge[1].0 >= middle).and_then(|edge| edge.first_chunk::<2>())
    else {
        return (0.0, f64::INFINITY);
    };
    let slope = (by - ay) / (bx - ax).max(1.0);
    let above = points.iter().map(|(x, y)| y - ay - slope * (x - ax)).sum::<f64>();
    (slope, above / points.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    proptest! {
        /// Queueing noise stays near the baseline and an added delay is found, for any offset and skew of the clocks.
        #[test]
        fn excess_over_baseline_is_independent_of_clock_offset_and_skew(
            offset in -10_000_000_000i64..10_000_000_000,
            skew_ppm in -100i64..100,
            noise in prop::collection::vec(0i64..300_000, 1000),
        ) {
            let mut baseline = Baseline::new(at(0));
            for (n, noise) in noise.iter().enumerate() {
                let millis = n as u64 * 500;
                let delay = offset + skew_ppm * 1_000 * millis as i64 / 1_000 + 200_000 + noise;
                if let Some(above) = baseline.on_delay(delay, SECOND, at(millis)) {
                    // An estimate from noisy minima may lie above the delay by up to twice the noise.
                    prop_assert!((-600_000..1_000_000).contains(&above), "{above} at {millis}");
                }
            }
            let now = noise.len() as u64 * 500;
            let delay = offset + skew_ppm * now as i64 + 200_000 + 3_000_000;
            prop_assert!(baseline.on_delay(delay, SECOND, at(now)).unwrap() > 2_500_000);
        }
    }

    proptest! {
        /// A detour that ends makes the path shorter, and must not be reported as additional latency.
        #[test]
        fn path_that_becomes_shorter_does_not_exceed_the_baseline(
            drop in 1_000_000i64..50_000_000,
            skew_ppm in -50i64..50,
            at_second in 200u64..1_500,
        ) {
            let mut baseline = Baseline::new(at(0));
            for second in 0..3_000u64 {
                let path = if second < at_second { drop } else { 0 };
                let noise = (second * 7_919 % 100) as i64 * 1_000;
                let delay = path + 500_000 + noise + skew_ppm * 1_000 * second as i64;
                let above = baseline.on_delay(delay, SECOND, at(second * 1_000)).unwrap_or(0);
                prop_assert!(above < 900_000, "{above} at {second}");
            }
        }
    }

    /// Queueing noise before and after eight hours without probes, with clocks that do not drift apart at all.
    #[test]
    fn baseline_is_discarded_after_a_gap_longer_than_its_window() {
        for seed in 0..50u64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut baseline = Baseline::new(at(0));
            for second in (0..900).chain(29_700..31_000u64) {
                let delay = 500_000 + random.i64(0..400_000);
                let above = baseline.on_delay(delay, SECOND, at(second * 1_000)).unwrap_or(0);
                assert!(above < 1_000_000, "{above} at {second}, seed {seed}");
            }
        }
        // A slow test, with a probe every 900 s, gets a baseline nevertheless.
        let mut baseline = Baseline::new(at(0));
        let every = Duration::from_secs(900);
        let said = (0..20u64).filter(|n| baseline.on_delay(1_000, every, at(n * 900_000)).is_some()).count();
        assert!(said > 5, "{said}");
    }

    #[test]
    fn delay_has_no_excess_before_a_baseline_exists_or_after_a_step() {
        let mut baseline = Baseline::new(at(0));
        let said: Vec<u64> = (0..300).filter(|n| baseline.on_delay(1_000, SECOND, at(n * 1_000)).is_some()).collect();
        assert_eq!(said.first(), Some(&241));
        baseline.on_step(at(300_000));
        assert_eq!(baseline.on_delay(1_000_000_000, SECOND, at(300_000)), None);
    }
}
