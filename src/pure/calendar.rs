//! What is due when, for very many things that are due again and again: a millisecond is as fine as
//! timers are, and what falls into the same one lies together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Moment;

const TICK_NANOS: u64 = 1_000_000;

/// Entries by the tick in which they are due.
#[derive(Debug)]
pub struct Calendar<T> {
    ticks: BTreeMap<u64, Vec<T>>,
}

impl<T> Default for Calendar<T> {
    fn default() -> Self {
        Calendar { ticks: BTreeMap::new() }
    }
}

impl<T> Calendar<T> {
    /// Due at the end of the tick that holds `at`, which is not before `at`.
    pub fn enter(&mut self, at: Moment, entry: T) {
        self.ticks.entry(at.nanos().div_ceil(TICK_NANOS)).or_default().push(entry);
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Moment> {
        let (tick, _) = self.ticks.first_key_value()?;
        Some(Moment::ZERO + Duration::from_millis(*tick))
    }

    /// The entries of the first tick, if it is due.
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
        fn nothing_is_early_or_more_than_a_tick_late(micros in prop::collection::vec(0u64..100_000, 0..200)) {
            let mut calendar = Calendar::default();
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
