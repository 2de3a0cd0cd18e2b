//! Calendar queue: a timer queue for a very large number of recurring entries.
//!
//! [`CalendarQueue`] groups entries by ticks of one millisecond, which is the resolution of the timers, so that all
//! entries of one tick are served by one wake-up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Moment;

const TICK_NANOS: u64 = 1_000_000;

/// Timer queue that maps each tick to the entries that are due in it.
#[derive(Debug)]
pub struct CalendarQueue<T> {
    ticks: BTreeMap<u64, Vec<T>>,
}

impl<T> Default for CalendarQueue<T> {
    fn default() -> Self {
        CalendarQueue { ticks: BTreeMap::new() }
    }
}

impl<T> CalendarQueue<T> {
    /// Schedules an entry for the first tick boundary at or after `at`, so that it is never served early.
    pub fn enter(&mut self, at: Moment, entry: T) {
        self.ticks.entry(at.nanos().div_ceil(TICK_NANOS)).or_default().push(entry);
    }

    /// Returns the time of the earliest tick that has entries, or `None` if the queue is empty.
    pub fn next(&self) -> Option<Moment> {
        let (tick, _) = self.ticks.first_key_value()?;
        Some(Moment::ZERO + Duration::from_millis(*tick))
    }

    /// Removes and returns the entries of the earliest tick, if that tick is due at `now`.
    pub fn due(&mut self, now: Moment) -> Option<Vec<T>> {
        (self.next()? <= now).then(|| self.ticks.pop_first())?.map(|(_, entries)| entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_are_never_early_and_at_most_one_tick_late(micros in prop::collection::vec(0u64..100_000, 0..200)) {
            let mut calendar = CalendarQueue::default();
            for at in &micros {
                calendar.enter(Moment::new(Duration::from_micros(*at)), *at);
            }
            let mut found = Vec::new();
            for now in (0..=101_000).step_by(100) {
                while let Some(entries) = calendar.due(Moment::new(Duration::from_micros(now))) {
                    for at in entries {
                        prop_assert!(at <= now && now < at + 1_100, "{at} at {now}");
                        found.push(at);
                    }
                }
            }
            found.sort_unstable();
            let mut all = micros.clone();
            all.sort_unstable();
            prop_assert_eq!(found, all);
        }
    }
}
