//! Which sequence numbers of one sender's epoch were seen: duplicates and replays are told apart
//! from reordering.

/// How far behind the newest sequence number a probe may still arrive.
pub const WINDOW: u32 = 1024;

/// What a sequence number is to this window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Newer than all before it.
    InOrder,
    /// Behind the newest, not seen before.
    Reordered,
    /// Seen before.
    Duplicate,
    /// More than `WINDOW` behind the newest: cannot be told from a replay.
    TooOld,
}

/// A sliding bitmap over the last `WINDOW` sequence numbers (RFC 6479's scheme).
#[derive(Clone, Debug)]
pub struct SequenceWindow {
    newest: Option<u32>,
    /// Bit `n % WINDOW` tells whether sequence number `n` was seen.
    seen: [u64; (WINDOW / 64) as usize],
}

impl Default for SequenceWindow {
    fn default() -> Self {
        SequenceWindow { newest: None, seen: [0; (WINDOW / 64) as usize] }
    }
}

impl SequenceWindow {
    /// One that has seen everything up to this number.
    pub fn all_seen(newest: u32) -> Self {
        SequenceWindow { newest: Some(newest), seen: [u64::MAX; (WINDOW / 64) as usize] }
    }

    /// The newest number.
    pub fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Takes a sequence number in.
    pub fn on_sequence(&mut self, sequence: u32) -> Arrival {
        let Some(newest) = self.newest else {
            self.newest = Some(sequence);
            self.set(sequence);
            return Arrival::InOrder;
        };
        // Serial number arithmetic (RFC 1982), since the counter wraps.
        let ahead = sequence.wrapping_sub(newest) as i32;
        if ahead > 0 {
            for skipped in 1..=(ahead as u32).min(WINDOW) {
                self.clear(sequence.wrapping_sub(skipped - 1));
            }
            self.newest = Some(sequence);
            self.set(sequence);
            return Arrival::InOrder;
        }
        if ahead.unsigned_abs() >= WINDOW {
            return Arrival::TooOld;
        }
        if self.is_set(sequence) {
            return Arrival::Duplicate;
        }
        self.set(sequence);
        Arrival::Reordered
    }

    fn set(&mut self, sequence: u32) {
        self.seen[word(sequence)] |= bit(sequence);
    }

    fn clear(&mut self, sequence: u32) {
        self.seen[word(sequence)] &= !bit(sequence);
    }

    fn is_set(&self, sequence: u32) -> bool {
        self.seen[word(sequence)] & bit(sequence) != 0
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

    proptest! {
        /// Against the plain model: a set of all numbers seen.
        #[test]
        fn agrees_with_a_set(start: u32, steps in prop::collection::vec(-1500i32..1500, 1..400)) {
            let mut window = SequenceWindow::default();
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
