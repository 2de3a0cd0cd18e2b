//! Send schedule of one test.
//!
//! [`Schedule`] computes the slots at which the probes of a test are due, from its send interval and its id.

use std::time::Duration;

use crate::pure::base::time::Moment;

/// Slots at `phase + n * every`, in nanoseconds. Missed slots are skipped and never caught up with a burst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    every: u64,
    phase: u64,
}

impl Schedule {
    /// Creates the schedule of a test. The phase is derived from the test id, so that the tests of a host are spread
    /// over the interval, and a test keeps its phase when its plan is replaced. A zero interval is treated as 1 ns.
    pub fn new(every: Duration, test_id: u128) -> Self {
        // Fibonacci hashing: similar ids get distant phases.
        let hash = ((test_id ^ (test_id >> 64)) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
        let phase = (u128::from(hash) * u128::from(every)) >> 64;
        Schedule { every, phase: phase as u64 }
    }

    /// Returns the interval between consecutive slots.
    pub fn every(&self) -> Duration {
        Duration::from_nanos(self.every)
    }

    /// Returns the number of slots from one slot to a later one.
    pub fn slots_between(&self, slot: Moment, later: Moment) -> u64 {
        later.nanos().saturating_sub(slot.nanos()) / self.every
    }

    /// Returns the first slot after `now`.
    pub fn next_slot(&self, now: Moment) -> Moment {
        let slots = now.nanos().checked_sub(self.phase).map_or(0, |since| since / self.every + 1);
        Moment::ZERO + Duration::from_nanos(self.phase.saturating_add(slots.saturating_mul(self.every)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn next_slot_is_in_the_future_and_within_one_interval(id: u128, every in 1_000u64..10_000_000_000, now in 0u64..1_000_000_000_000) {
            let every = Duration::from_nanos(every);
            let schedule = Schedule::new(every, id);
            let now = Moment::new(Duration::from_nanos(now));
            let slot = schedule.next_slot(now);
            prop_assert!(slot > now && slot.since(now) <= every);
            prop_assert_eq!(schedule.next_slot(slot).since(slot), every);
        }
    }

    #[test]
    fn missed_slots_are_skipped_after_a_stall() {
        let schedule = Schedule::new(Duration::from_secs(1), 7);
        let slot = schedule.next_slot(Moment::ZERO);
        let late = slot + Duration::from_millis(30_400);
        assert_eq!(schedule.next_slot(late).since(slot), Duration::from_secs(31));
    }

    #[test]
    fn phases_of_test_ids_are_spread_over_the_interval() {
        let every = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for id in 0..1000u128 {
            let phase = Schedule::new(every, id).phase;
            tenths[(phase / 100_000_000) as usize] += 1;
        }
        assert!(tenths.iter().all(|&n| n > 50), "{tenths:?}");
    }
}
