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

/// A sliding bitmap over the last `WINDOW` sequence numbers (RFC 6479's scheme). Boxed but for the
/// word that the newest is in, which is all that nearly every number needs.
#[derive(Clone, Debug, Default)]
pub struct SequenceWindow {
    newest: Option<u32>,
    /// The word of `seen` that the newest number is in; what `seen` has there is of the past.
    current: u64,
    /// Bit `n % WINDOW` tells whether sequence number `n` was seen.
    seen: Box<[u64; (WINDOW / 64) as usize]>,
}

impl SequenceWindow {
    /// One that has seen everything up to this number.
    pub fn all_seen(newest: u32) -> Self {
        SequenceWindow { newest: Some(newest), current: u64::MAX, seen: Box::new([u64::MAX; (WINDOW / 64) as usize]) }
    }

    /// The newest number.
    pub fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Takes a sequence number in.
    pub fn on_sequence(&mut self, sequence: u32) -> Arrival {
        let Some(newest) = self.newest else {
            (self.newest, self.current) = (Some(sequence), bit(sequence));
            return Arrival::InOrder;
        };
        // The next one, as nearly all are.
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

    /// The next, one nearby, or one from anywhere.
    fn step() -> impl Strategy<Value = i32> {
        prop_oneof![3 => Just(1), 1 => -70i32..70, 1 => -1500i32..1500]
    }

    proptest! {
        /// Against the plain model: a set of all numbers seen.
        #[test]
        fn agrees_with_a_set(start: u32, steps in prop::collection::vec(step(), 1..400)) {
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
