//! Histogram of delays in bounded memory, from which quantiles are computed.
//!
//! [`DelayHistogram`] is the main type. Its buckets become wider as delays grow, and adjacent buckets are merged when
//! there would be too many.

use serde::{Deserialize, Serialize};

/// Maximum number of buckets. When more are needed, the resolution is halved instead.
const MAX_BUCKETS: usize = 48;
/// Number of buckets per doubling of the delay at the finest resolution, where each bucket from 8 µs upwards is at
/// most 3.2 % wide.
const PER_OCTAVE: u64 = 32;
const OCTAVE_BITS: u32 = PER_OCTAVE.trailing_zeros();
/// Binary logarithm of the smallest bucket width in nanoseconds (256 ns), which applies to delays below 2 *
/// `PER_OCTAVE` times that width.
const UNIT_BITS: u32 = 8;

/// Histogram of delays, including negative ones, whose bucket width grows with the delay. The delays of one path
/// differ little, so only non-empty buckets are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayHistogram {
    /// Non-empty buckets in ascending order.
    #[serde(with = "steps")]
    buckets: Vec<BucketCount>,
    /// Number of low-order bits that are dropped from the number of a finest bucket.
    coarseness: u8,
    /// Smallest recorded delay in nanoseconds; greater than `max` while the histogram is empty.
    min: i64,
    max: i64,
}

/// Number of a bucket and the count of delays in it. Packed to six octets, since every test has many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(2))]
pub struct BucketCount {
    bucket: i16,
    count: u32,
}

/// Bucket number of a delay at the finest resolution, whose counting is deferred.
#[derive(Clone, Copy, Debug, Default)]
pub struct BucketIndex(i16);

impl Default for DelayHistogram {
    fn default() -> Self {
        DelayHistogram { buckets: Vec::new(), coarseness: 0, min: i64::MAX, max: i64::MIN }
    }
}

impl DelayHistogram {
    /// Removes all delays and keeps the allocated memory.
    pub fn clear(&mut self) {
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.clear();
        *self = DelayHistogram { buckets, ..DelayHistogram::default() };
    }

    /// Records a delay in nanoseconds.
    pub fn record(&mut self, nanos: i64) {
        let noted = self.record_deferred(nanos);
        self.count_in(&[noted]);
    }

    /// Records a delay in two steps: updates the range and returns the bucket, which the caller has to pass to
    /// `count_in` later.
    #[must_use]
    pub fn record_deferred(&mut self, nanos: i64) -> BucketIndex {
        (self.min, self.max) = (self.min.min(nanos), self.max.max(nanos));
        BucketIndex(bucket(nanos))
    }

    /// Counts the delays that `note` deferred.
    pub fn count_in(&mut self, noted: &[BucketIndex]) {
        for BucketIndex(bucket) in noted {
            self.add(bucket >> self.coarseness, 1);
        }
    }

    /// Returns the counters in memory, so that the caller can prefetch them.
    pub fn counts(&self) -> &[BucketCount] {
        &self.buckets
    }

    /// Adds all delays of another histogram to this one.
    pub fn merge(&mut self, other: &DelayHistogram) {
        while self.coarseness < other.coarseness {
            self.coarsen();
        }
        for &BucketCount { bucket, count } in &other.buckets {
            // Adding may increase the coarseness of this histogram, so that the shift is computed for each bucket.
            self.add(bucket >> (self.coarseness - other.coarseness), count);
        }
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    /// Returns the exact minimum and maximum in nanoseconds, or `None` if the histogram is empty.
    pub fn range(&self) -> Option<(i64, i64)> {
        (self.min <= self.max).then_some((self.min, self.max))
    }

    /// Returns the number of recorded delays.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|held| u64::from(held.count)).sum()
    }

    /// Returns the delay in nanoseconds that a fraction `share` of all delays does not exceed, accurate to the width
    /// of a bucket.
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let (min, max) = self.range()?;
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        for &BucketCount { bucket, count } in &self.buckets {
            let within = u64::from(count);
            if below + within >= rank {
                let bucket = i64::from(bucket) << self.coarseness;
                let (low, high) = (lower_end(bucket), lower_end(bucket + (1 << self.coarseness)));
                // Interpolate linearly: delays are assumed to be evenly distributed within a bucket.
                let part = (rank - below) as f64 / within as f64;
                let (low, high) = (low.clamp(min, max), high.clamp(min, max));
                return Some(low + ((high - low) as f64 * part) as i64);
            }
            below += within;
        }
        Some(max)
    }

    /// Returns the number of delays that do not exceed `nanos`, accurate to the width of a bucket.
    pub fn count_up_to(&self, nanos: i64) -> u64 {
        let bucket = bucket(nanos) >> self.coarseness;
        let within = self.buckets.partition_point(|held| held.bucket < bucket);
        self.buckets[..within].iter().map(|held| u64::from(held.count)).sum()
    }

    fn add(&mut self, bucket: i16, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |held| held.bucket) {
            Ok(at) => self.buckets[at].count = self.buckets[at].count.saturating_add(count),
            Err(at) if self.buckets.len() < MAX_BUCKETS => {
                // Memory is the limiting resource with many tests, so the capacity grows by two only.
                if self.buckets.len() == self.buckets.capacity() {
                    self.buckets.reserve_exact(2);
                }
                self.buckets.insert(at, BucketCount { bucket, count });
            }
            Err(_) => {
                self.coarsen();
                self.add(bucket >> 1, count);
            }
        }
    }

    fn coarsen(&mut self) {
        self.coarseness += 1;
        for held in &mut self.buckets {
            held.bucket >>= 1;
        }
        self.buckets.dedup_by(|next, kept| {
            let same = next.bucket == kept.bucket;
            if same {
                kept.count = kept.count.saturating_add(next.count);
            }
            same
        });
    }
}

/// Returns the finest bucket of a delay. Buckets of negative delays mirror those of positive ones.
fn bucket(nanos: i64) -> i16 {
    let units = nanos.unsigned_abs() >> UNIT_BITS;
    let exponent = (u64::BITS - units.leading_zeros()).saturating_sub(OCTAVE_BITS + 1);
    let index = u64::from(exponent) * PER_OCTAVE + (units >> exponent);
    let index = i16::try_from(index).unwrap_or(i16::MAX);
    if nanos < 0 { -1 - index } else { index }
}

/// Returns the boundary of a finest bucket in nanoseconds: its smallest delay.
fn lower_end(bucket: i64) -> i64 {
    let index = bucket.unsigned_abs();
    let exponent = (index / PER_OCTAVE).saturating_sub(1);
    let units = (index - exponent * PER_OCTAVE) << exponent.min(u64::from(u64::BITS - OCTAVE_BITS - UNIT_BITS - 2));
    let nanos = i64::try_from(units << UNIT_BITS).unwrap_or(i64::MAX);
    if bucket < 0 { -nanos } else { nanos }
}

/// Serialisation of buckets as differences of consecutive bucket numbers, which are small and therefore short when
/// encoded.
mod steps {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    use super::{BucketCount, MAX_BUCKETS};

    pub fn serialize<S: Serializer>(buckets: &[BucketCount], serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(buckets.iter().map(|held| {
            let step = held.bucket.wrapping_sub(std::mem::replace(&mut before, held.bucket));
            (step as u16, held.count)
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BucketCount>, D::Error> {
        deserializer.deserialize_seq(Steps)
    }

    struct Steps;

    impl<'de> Visitor<'de> for Steps {
        type Value = Vec<BucketCount>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("buckets")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut steps: A) -> Result<Vec<BucketCount>, A::Error> {
            let mut buckets = Vec::with_capacity(steps.size_hint().unwrap_or(0).min(MAX_BUCKETS));
            let mut bucket = 0i16;
            while let Some((step, count)) = steps.next_element::<(u16, u32)>()? {
                bucket = bucket.wrapping_add(step as i16);
                buckets.push(BucketCount { bucket, count });
            }
            Ok(buckets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delay_lies_within_the_boundaries_of_its_bucket(nanos in -20_000_000_000i64..20_000_000_000) {
            let bucket = i64::from(bucket(nanos));
            prop_assert!(lower_end(bucket) <= nanos && nanos <= lower_end(bucket + 1), "{} {nanos} {}", lower_end(bucket), lower_end(bucket + 1));
        }

        /// Compares quantiles with a simple model: the sorted list of all delays.
        #[test]
        fn quantiles_match_sorted_delays_within_a_bucket_width(
            base in -50_000_000i64..50_000_000,
            extra in prop::collection::vec(0i64..2_000_000, 1..300),
            share in 0.0f64..=1.0,
            cut in 0usize..300,
        ) {
            let mut delays: Vec<i64> = extra.iter().map(|extra| base + extra).collect();
            let (mut spread, mut rest) = (DelayHistogram::default(), DelayHistogram::default());
            for (n, delay) in delays.iter().enumerate() {
                if n < cut { spread.record(*delay) } else { rest.record(*delay) }
            }
            spread.merge(&rest);
            delays.sort_unstable();
            prop_assert_eq!(spread.count(), delays.len() as u64);
            prop_assert_eq!(spread.range(), Some((delays[0], delays[delays.len() - 1])));
            let rank = ((delays.len() as f64 * share).ceil() as usize).max(1);
            let exact = delays[rank - 1];
            let found = spread.quantile(share).unwrap();
            let width = 600 + (exact.unsigned_abs() >> (OCTAVE_BITS - 1) << spread.coarseness) as i64;
            prop_assert!((found - exact).abs() <= width, "{found} for {exact}, coarseness {}", spread.coarseness);
        }

        #[test]
        fn number_of_buckets_is_bounded_for_any_delays(delays in prop::collection::vec(any::<i64>(), 0..2000)) {
            let mut spread = DelayHistogram::default();
            delays.iter().for_each(|delay| spread.record(*delay));
            prop_assert!(spread.buckets.len() <= MAX_BUCKETS);
            prop_assert_eq!(spread.count(), delays.len() as u64);
            let _ = spread.quantile(0.5);
        }
    }

    #[test]
    fn median_of_a_steady_delay_is_accurate() {
        let mut spread = DelayHistogram::default();
        (0..100).for_each(|n| spread.record(20_000_000 + n * 1_000));
        let median = spread.quantile(0.5).unwrap();
        assert!((median - 20_050_000).abs() < 60_000, "{median}");
    }
}
