//! Archive of completed periods: the previous half minute, the last ten minutes, and the total.
//!
//! [`Archive`] exists once per test and is accessed only twice a minute and on request. It is therefore stored in
//! serialised form, in as few octets as possible.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::period::Period;
use crate::pure::base::time::Moment;

pub(super) const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// Upper bounds of the histogram buckets in seconds, from the delay within a rack to that around the world.
pub(super) const BOUNDS: [f64; 15] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5];

/// Archive of all periods except the current half minute.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    /// Serialised `FiveMinutes` in progress, followed by the previous half minute, which may already be included.
    /// Changes twice a minute.
    recent: Packed,
    /// Serialised `Past`, which changes every five minutes.
    past: Packed,
}

#[derive(Default, Serialize, Deserialize)]
struct FiveMinutes {
    begun: Moment,
    counted: Period,
    /// Number of delays up to each of `BOUNDS`, over all completed half minutes. Maintained separately, since the
    /// histogram changes its counts whenever it becomes coarser.
    up_to: [u64; BOUNDS.len()],
}

#[derive(Default, Serialize, Deserialize)]
struct Past {
    /// Counters of the five minutes before the current ones.
    five_minutes: Period,
    /// Counters of all time before the current five minutes.
    total: Period,
}

/// Deserialised content of the archive.
pub(super) struct Opened {
    pub(super) half_minute: Period,
    /// Counters of the last five to ten minutes.
    pub(super) ten_minutes: Period,
    pub(super) ten_minutes_begun: Moment,
    pub(super) total: Period,
    /// Number of delays up to each of `BOUNDS`.
    pub(super) up_to: [u64; BOUNDS.len()],
}

impl Archive {
    pub(super) fn new(now: Moment) -> Self {
        let five_minutes = FiveMinutes { begun: now, ..FiveMinutes::default() };
        Archive { recent: Packed::new(&(five_minutes, Period::default())), past: Packed::default() }
    }

    /// Adds a completed half minute.
    pub(super) fn add(&mut self, half_minute: &Period, now: Moment) {
        let mut running: FiveMinutes = self.recent.open();
        running.counted.merge(half_minute);
        for (bound, count) in BOUNDS.into_iter().zip(&mut running.up_to) {
            *count += half_minute.up_to(bound);
        }
        if now.since(running.begun) >= FIVE_MINUTES {
            running = self.begin_five_minutes(running, now);
        }
        self.recent.put(&(running, half_minute));
    }

    /// Empties the previous half minute, in which no probe arrived.
    pub(super) fn forget_half_minute(&mut self) {
        let running: FiveMinutes = self.recent.open();
        self.recent.put(&(running, Period::default()));
    }

    fn begin_five_minutes(&mut self, over: FiveMinutes, now: Moment) -> FiveMinutes {
        let mut past: Past = self.past.open();
        past.total.merge(&over.counted);
        let mut begun = over.begun + FIVE_MINUTES;
        past.five_minutes = over.counted;
        if now.since(begun) >= FIVE_MINUTES {
            // After a long outage, the completed five minutes do not directly precede the current ones.
            past.five_minutes = Period::default();
            begun = now;
        }
        self.past.put(&past);
        FiveMinutes { begun, counted: Period::default(), up_to: over.up_to }
    }

    pub(super) fn open(&self) -> Opened {
        let (running, half_minute): (FiveMinutes, Period) = self.recent.open();
        let mut past: Past = self.past.open();
        past.total.merge(&running.counted);
        past.five_minutes.merge(&running.counted);
        Opened {
            half_minute,
            ten_minutes: past.five_minutes,
            ten_minutes_begun: running.begun - FIVE_MINUTES,
            total: past.total,
            up_to: running.up_to,
        }
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.recent.0.len() + self.past.0.len()
    }
}

/// Value in a compact serialised form with variable-length integers. The members of a tuple are encoded one after the
/// other, so that a prefix of them can be read alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Granularity of the length in octets, so that most changes need no reallocation.
    const STEP: usize = 16;

    pub(super) fn new(value: &impl Serialize) -> Self {
        let mut packed = Packed::default();
        packed.put(value);
        packed
    }

    pub(super) fn put(&mut self, value: &impl Serialize) {
        let mut room = [0; 768];
        let len = postcard::to_slice(value, &mut room).map(|octets| octets.len().next_multiple_of(Self::STEP));
        let octets = match len {
            Ok(len) => &room[..len],
            // The value is larger than usual and needs a heap buffer.
            Err(_) => {
                let octets = postcard::to_allocvec(value).expect("numbers and lists of them can always be encoded");
                return self.0 = octets.into();
            }
        };
        if self.0.len() == octets.len() {
            self.0.copy_from_slice(octets);
        } else {
            self.0 = octets.into();
        }
    }

    /// Deserialises the stored value or a prefix of it; returns the default if nothing has been stored.
    pub(super) fn open<T: DeserializeOwned + Default>(&self) -> T {
        if self.0.is_empty() {
            return T::default();
        }
        // A default here would silently erase the statistics of a test.
        postcard::from_bytes(&self.0).expect("what `put` has written can be read")
    }
}
