//! How delays are spread: a histogram in bounded memory, for quantiles.

use serde::{Deserialize, Serialize};

/// The histogram never has more buckets than this; it becomes coarser instead.
const MOST_BUCKETS: usize = 48;
/// Buckets per doubling at the finest: each is at most 3.2 % wide.
const PER_OCTAVE: u64 = 32;
const OCTAVE_BITS: u32 = PER_OCTAVE.trailing_zeros();
/// Below this many nanoseconds times `PER_OCTAVE`, buckets are this wide.
const UNIT_BITS: u32 = 8;

/// Counts of delays, negative ones too, in buckets whose width grows with the delay. Few delays of
/// one path differ much, so only buckets that hold something are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Ascending.
    #[serde(with = "steps")]
    buckets: Vec<Count>,
    /// Buckets are joined by so many bits of their number.
    coarseness: u8,
    /// The other way round while there is nothing.
    min: i64,
    max: i64,
}

/// A bucket, and how many delays lie in it. Packed, since every test has many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(2))]
pub struct Count {
    bucket: i16,
    count: u32,
}

/// Where a delay is to be counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket(i16);

impl Default for Spread {
    fn default() -> Self {
        Spread { buckets: Vec::new(), coarseness: 0, min: i64::MAX, max: i64::MIN }
    }
}

impl Spread {
    /// Nothing, in the same memory.
    pub fn clear(&mut self) {
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.clear();
        *self = Spread { buckets, ..Spread::default() };
    }

    /// Takes a delay in, in nanoseconds.
    pub fn record(&mut self, nanos: i64) {
        let noted = self.note(nanos);
        self.count_in(&[noted]);
    }

    /// The same, in two steps: it is counted once `count_in` is given what comes of it here.
    #[must_use]
    pub fn note(&mut self, nanos: i64) -> Bucket {
        (self.min, self.max) = (self.min.min(nanos), self.max.max(nanos));
        Bucket(bucket(nanos))
    }

    /// Counts delays that were noted.
    pub fn count_in(&mut self, noted: &[Bucket]) {
        for Bucket(bucket) in noted {
            self.add(bucket >> self.coarseness, 1);
        }
    }

    /// Where it counts.
    pub fn counts(&self) -> &[Count] {
        &self.buckets
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &Spread) {
        while self.coarseness < other.coarseness {
            self.coarsen();
        }
        for &Count { bucket, count } in &other.buckets {
            // Becomes coarser in the middle of this, too.
            self.add(bucket >> (self.coarseness - other.coarseness), count);
        }
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    /// The smallest and the largest, exactly.
    pub fn range(&self) -> Option<(i64, i64)> {
        (self.min <= self.max).then_some((self.min, self.max))
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|held| u64::from(held.count)).sum()
    }

    /// The delay that `share` of all do not exceed, in nanoseconds, within a bucket's width.
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let (min, max) = self.range()?;
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        for &Count { bucket, count } in &self.buckets {
            let within = u64::from(count);
            if below + within >= rank {
                let bucket = i64::from(bucket) << self.coarseness;
                let (low, high) = (lower_end(bucket), lower_end(bucket + (1 << self.coarseness)));
                // Delays are taken to lie evenly within their bucket.
                let part = (rank - below) as f64 / within as f64;
                let (low, high) = (low.clamp(min, max), high.clamp(min, max));
                return Some(low + ((high - low) as f64 * part) as i64);
            }
            below += within;
        }
        Some(max)
    }

    /// How many do not exceed this, within a bucket's width.
    pub fn count_up_to(&self, nanos: i64) -> u64 {
        let bucket = bucket(nanos) >> self.coarseness;
        let within = self.buckets.partition_point(|held| held.bucket < bucket);
        self.buckets[..within].iter().map(|held| u64::from(held.count)).sum()
    }

    fn add(&mut self, bucket: i16, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |held| held.bucket) {
            Ok(at) => self.buckets[at].count = self.buckets[at].count.saturating_add(count),
            Err(at) if self.buckets.len() < MOST_BUCKETS => {
                // Memory is what many tests are short of.
                if self.buckets.len() == self.buckets.capacity() {
                    self.buckets.reserve_exact(2);
                }
                self.buckets.insert(at, Count { bucket, count });
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

/// The finest bucket of a delay. Negative ones mirror the others.
fn bucket(nanos: i64) -> i16 {
    let units = nanos.unsigned_abs() >> UNIT_BITS;
    let exponent = (u64::BITS - units.leading_zeros()).saturating_sub(OCTAVE_BITS + 1);
    let index = u64::from(exponent) * PER_OCTAVE + (units >> exponent);
    let index = i16::try_from(index).unwrap_or(i16::MAX);
    if nanos < 0 { -1 - index } else { index }
}

/// The least delay of a finest bucket, in nanoseconds.
fn lower_end(bucket: i64) -> i64 {
    let index = bucket.unsigned_abs();
    let exponent = (index / PER_OCTAVE).saturating_sub(1);
    let units = (index - exponent * PER_OCTAVE) << exponent.min(u64::from(u64::BITS - OCTAVE_BITS - UNIT_BITS - 2));
    let nanos = i64::try_from(units << UNIT_BITS).unwrap_or(i64::MAX);
    if bucket < 0 { -nanos } else { nanos }
}

/// Buckets as the steps from one to the next, which are small numbers.
mod steps {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    use super::{Count, MOST_BUCKETS};

    pub fn serialize<S: Serializer>(buckets: &[Count], serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(buckets.iter().map(|held| {
            let step = held.bucket.wrapping_sub(std::mem::replace(&mut before, held.bucket));
            (step as u16, held.count)
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Count>, D::Error> {
        deserializer.deserialize_seq(Steps)
    }

    struct Steps;

    impl<'de> Visitor<'de> for Steps {
        type Value = Vec<Count>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("buckets")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut steps: A) -> Result<Vec<Count>, A::Error> {
            let mut buckets = Vec::with_capacity(steps.size_hint().unwrap_or(0).min(MOST_BUCKETS));
            let mut bucket = 0i16;
            while let Some((step, count)) = steps.next_element::<(u16, u32)>()? {
                bucket = bucket.wrapping_add(step as i16);
                buckets.push(Count { bucket, count });
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
        fn every_delay_lies_in_its_bucket(nanos in -20_000_000_000i64..20_000_000_000) {
            let bucket = i64::from(bucket(nanos));
            prop_assert!(lower_end(bucket) <= nanos && nanos <= lower_end(bucket + 1), "{} {nanos} {}", lower_end(bucket), lower_end(bucket + 1));
        }

        /// Against the plain model: all delays, sorted.
        #[test]
        fn quantiles_are_near(
            base in -50_000_000i64..50_000_000,
            extra in prop::collection::vec(0i64..2_000_000, 1..300),
            share in 0.0f64..=1.0,
            cut in 0usize..300,
        ) {
            let mut delays: Vec<i64> = extra.iter().map(|extra| base + extra).collect();
            let (mut spread, mut rest) = (Spread::default(), Spread::default());
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
        fn memory_is_bounded(delays in prop::collection::vec(any::<i64>(), 0..2000)) {
            let mut spread = Spread::default();
            delays.iter().for_each(|delay| spread.record(*delay));
            prop_assert!(spread.buckets.len() <= MOST_BUCKETS);
            prop_assert_eq!(spread.count(), delays.len() as u64);
            let _ = spread.quantile(0.5);
        }
    }

    #[test]
    fn a_steady_delay_is_told_as_it_is() {
        let mut spread = Spread::default();
        (0..100).for_each(|n| spread.record(20_000_000 + n * 1_000));
        let median = spread.quantile(0.5).unwrap();
        assert!((median - 20_050_000).abs() < 60_000, "{median}");
    }
}
