//! What is over: the half minute before, the last ten minutes, and all. Looked at twice a minute and when somebody
//! asks, and there is one for every test: so it lies in as few octets as will hold it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::time::Moment;
use super::period::Period;

pub(super) const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// From a rack to the other side of the world.
pub(super) const BOUNDS: [f64; 15] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5];

/// Everything but the half minute that runs.
#[derive(Clone, Debug)]
pub(super) struct Older {
    /// `FiveMinutes` that run, and the half minute before, which may be in them. Changes twice a minute.
    recent: Packed,
    /// `Past`. Changes every five minutes.
    past: Packed,
}

#[derive(Default, Serialize, Deserialize)]
struct FiveMinutes {
    begun: Moment,
    counted: Period,
    /// Delays up to each of `BOUNDS`, of all half minutes that are over. A histogram that is coarser by now than it
    /// was would count otherwise.
    up_to: [u64; BOUNDS.len()],
}

#[derive(Default, Serialize, Deserialize)]
struct Past {
    /// The five minutes before those that run.
    five_minutes: Period,
    /// All before those that run.
    total: Period,
}

/// All of it, to be looked at.
pub(super) struct Opened {
    pub(super) half_minute: Period,
    /// Five to ten minutes.
    pub(super) ten_minutes: Period,
    pub(super) ten_minutes_begun: Moment,
    pub(super) total: Period,
    /// Delays up to each of `BOUNDS`.
    pub(super) up_to: [u64; BOUNDS.len()],
}

impl Older {
    pub(super) fn new(now: Moment) -> Self {
        let five_minutes = FiveMinutes { begun: now, ..FiveMinutes::default() };
        Older { recent: Packed::new(&(five_minutes, Period::default())), past: Packed::default() }
    }

    /// A half minute is over.
    pub(super) fn take_in(&mut self, half_minute: &Period, now: Moment) {
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

    /// Nothing came in the half minute before.
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
            // After a long silence they are not the five minutes before.
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

/// A value in few octets: numbers take as many as they need. Members stand one after the other, and what follows the
/// value that is read is left alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Lengths are multiples of this, so that most changes need no other memory.
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
            // Larger than most.
            Err(_) => return self.0 = postcard::to_allocvec(value).unwrap_or_default().into(),
        };
        if self.0.len() == octets.len() {
            self.0.copy_from_slice(octets);
        } else {
            self.0 = octets.into();
        }
    }

    /// What was put there, or the first of it; its default before that.
    pub(super) fn open<T: DeserializeOwned + Default>(&self) -> T {
        postcard::from_bytes(&self.0).unwrap_or_default()
    }
}
