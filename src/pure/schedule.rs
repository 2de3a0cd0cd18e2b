//! When the probes of one test leave.

use std::time::Duration;

use super::time::Moment;

/// Slots at `phase + n * every`. A slot that was missed is skipped, never caught up by a burst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    every: Duration,
    phase: Duration,
}

impl Schedule {
    /// The phase comes from the test's id, so that the tests of a host spread over the interval
    /// and keep their place when they are planned again. `every` must not be zero.
    pub fn new(every: Duration, test_id: u128) -> Self {
        // Fibonacci hashing: neighbouring ids land far apart.
        let hash = ((test_id ^ (test_id >> 64)) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let every = every.max(Duration::from_nanos(1));
        let phase = (u128::from(hash) * every.as_nanos()) >> 64;
        Schedule { every, phase: Duration::from_nanos(phase as u64) }
    }

    /// The first slot after `now`.
    pub fn next_slot(&self, now: Moment) -> Moment {
        let first = Moment::ZERO + self.phase;
        if now < first {
            return first;
        }
        let passed = now.since(first).as_nanos() / self.every.as_nanos();
        let nanos = (passed + 1) * self.every.as_nanos();
        first + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_next_slot_is_ahead_and_within_one_interval(id: u128, every in 1_000u64..10_000_000_000, now in 0u64..1_000_000_000_000) {
            let every = Duration::from_nanos(every);
            let schedule = Schedule::new(every, id);
            let now = Moment::new(Duration::from_nanos(now));
            let slot = schedule.next_slot(now);
            prop_assert!(slot > now && slot.since(now) <= every);
            prop_assert_eq!(schedule.next_slot(slot).since(slot), every);
        }
    }

    #[test]
    fn a_stall_of_thirty_slots_is_one_slot() {
        let schedule = Schedule::new(Duration::from_secs(1), 7);
        let slot = schedule.next_slot(Moment::ZERO);
        let late = slot + Duration::from_millis(30_400);
        assert_eq!(schedule.next_slot(late).since(slot), Duration::from_secs(31));
    }

    #[test]
    fn ids_spread_over_the_interval() {
        let every = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for id in 0..1000u128 {
            let phase = Schedule::new(every, id).phase;
            tenths[(phase.as_millis() / 100) as usize] += 1;
        }
        assert!(tenths.iter().all(|&n| n > 50), "{tenths:?}");
    }
}
