//! Anti-replay window over the sequence numbers of one sender's epoch. It distinguishes duplicates and replays from
//! reordering.
//!
//! [`ReplayWindow`] is the main type.

/// Number of sequence numbers in the window; a probe that is this far behind the newest one, or further, is rejected.
pub const WINDOW: u32 = 1024;

/// Classification of a sequence number against the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The number is newer than all previous ones.
    InOrder,
    /// The number is older than the newest one and has not been received before.
    Reordered,
    /// The number has already been received.
    Duplicate,
    /// The number is `WINDOW` or more behind the newest, so that it cannot be distinguished from a replay.
    TooOld,
}

/// Sliding bitmap over the last `WINDOW` sequence numbers, similar to RFC 6479. The bitmap is boxed, except for the
/// word of the newest number, which is the only one that nearly every probe needs.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    newest: Option<u32>,
    /// Bitmap word of the newest number; it takes precedence over the outdated word in `seen`.
    current: u64,
    /// Bitmap in which bit `n % WINDOW` is set if sequence number `n` was received.
    seen: Box<[u64; (WINDOW / 64) as usize]>,
}

impl ReplayWindow {
    /// Creates a window in which all numbers up to this one count as received.
    pub fn all_seen(newest: u32) -> Self {
        ReplayWindow { newest: Some(newest), current: u64::MAX, seen: Box::new([u64::MAX; (WINDOW / 64) as usize]) }
    }

    /// Returns the newest sequence number, or `None` before the first one.
    pub fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Records a sequence number and returns its classification.
    pub fn on_sequence(&mut self, sequence: u32) -> Arrival {
        let Some(newest) = self.newest else {
            (self.newest, self.current) = (Some(sequence), bit(sequence));
            return Arrival::InOrder;
        };
        // Fast path: nearly every number is the successor of the newest one.
        if sequence == newest.wrapping_add(1) && word(sequence) == word(newest) {
            self.newest = Some(sequence);
            self.current |= bit(sequence);
            return Arrival::InOrder;
        }
        // Serial number arithmetic (RFC 1982), since the counter wraps.
        let ahead = sequence.wrapping_sub(newest) as i32;
        if ahead > 0 {
            self.seen[word(newest)] = self.current;
            for skipped in 1..=(ahead as u32).min(WINDOW) {
                let number = sequence.wrapping_sub(skipped - 1);
                self.seen[word(number)] &= !bit(number);
            }
            self.current = self.seen[word(sequence)] | bit(sequence);
            self.newest = Some(sequence);
            return Arrival::InOrder;
        }
        if ahead.unsigned_abs() >= WINDOW {
            return Arrival::TooOld;
        }
        let bits = if word(sequence) == word(newest) { &mut self.current } else { &mut self.seen[word(sequence)] };
        if *bits & bit(sequence) != 0 {
            return Arrival::Duplicate;
        }
        *bits |= bit(sequence);
        Arrival::Reordered
    }
}

fn word(sequence: u32) -> usize {
    (sequence % WINDOW / 64) as usize
}

fn bit(sequence: u32) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Generates the next number, a nearby number, or a distant one.
    fn step() -> impl Strategy<Value = i32> {
        prop_oneof![3 => Just(1), 1 => -70i32..70, 1 => -1500i32..1500]
    }

    proptest! {
        /// Compares the window with a simple model: the set of all received numbers.
        #[test]
        fn classification_matches_a_set_of_all_received_numbers(start: u32, steps in prop::collection::vec(step(), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let (mut newest, mut sequence) = (None::<i64>, 0i64);
            for step in steps {
                sequence += i64::from(step);
                let wire = start.wrapping_add(sequence as u32);
                let expected = match newest {
                    None => Arrival::InOrder,
                    Some(newest) if sequence > newest => Arrival::InOrder,
                    Some(newest) if newest - sequence >= i64::from(WINDOW) => Arrival::TooOld,
                    Some(_) if seen.contains(&sequence) => Arrival::Duplicate,
                    Some(_) => Arrival::Reordered,
                };
                prop_assert_eq!(window.on_sequence(wire), expected);
                newest = newest.max(Some(sequence));
                seen.insert(sequence);
            }
        }
    }
}
