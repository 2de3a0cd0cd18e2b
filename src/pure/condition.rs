//! From samples to a condition: `unknown → up ⇄ suspect → down ⇄ recovering`. What is up may be
//! `paused`, if its sender announced that it stops.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::time::{Moment, Now, WallTime};

/// Where a condition stands. `suspect` and `recovering` still count as what they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was decided yet.
    #[default]
    Unknown,
    /// Good.
    Up,
    /// Good until now, with bad samples lately.
    Suspect,
    /// Bad.
    Down,
    /// Bad until now, with good samples lately.
    Recovering,
    /// Good until its sender stopped on purpose.
    Paused,
    /// Not judged here: its floating address is on another host.
    Standby,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Recovering => "recovering",
            State::Paused => "paused",
            State::Standby => "standby",
        })
    }
}

/// One observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
}

/// How many samples decide: so many of the last so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// So many bad ones raise; at least 1.
    pub raise_after: u32,
    /// Of so many; as many as `raise_after` means: in a row.
    pub raise_out_of: u32,
    /// So many good ones clear; at least 1.
    pub clear_after: u32,
    /// Of so many; as many as `clear_after` means: in a row.
    pub clear_out_of: u32,
}

/// A condition remembers so many samples.
pub const MOST_SAMPLES: u32 = u64::BITS;

impl Thresholds {
    /// So many in a row.
    pub fn in_a_row(raise_after: u32, clear_after: u32) -> Self {
        Thresholds { raise_after, raise_out_of: raise_after, clear_after, clear_out_of: clear_after }
    }
}

/// What travels up: only these, never samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Now down.
    Raised,
    /// Now up.
    Cleared,
    /// Up, with bad samples lately.
    Suspected,
    /// Up beyond doubt again, after bad samples that did not suffice.
    Relieved,
}

/// What the samples that speak against a state are worth together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Nothing,
    Counts,
    Decides,
}

/// One condition of one subject.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    state: State,
    /// Number of good samples still needed before the condition is first reported as up. A receiver may hold a raise
    /// from before a restart or a move of the test, which one good sample must not clear.
    settling: u16,
    since: Now,
    /// The newest samples since it was settled, the last in the lowest bit: set if it speaks
    /// against what was settled.
    against: u64,
}

impl Condition {
    /// One that no sample was taken of.
    pub const UNKNOWN: Condition = Condition {
        state: State::Unknown,
        settling: 0,
        since: Now { moment: Moment::ZERO, wall: WallTime::ZERO },
        against: 0,
    };

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it has stood there.
    pub fn since(&self) -> Now {
        self.since
    }

    /// Whether it counts as bad.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down | State::Recovering)
    }

    /// Whether it is good beyond doubt: a good sample changes nothing.
    pub fn is_calm(&self) -> bool {
        self.state == State::Up && self.against == 0 && self.settling == 0
    }

    /// Its sender announced that it stops. What is down stays down.
    pub fn on_pause(&mut self, now: Now) {
        if matches!(self.state, State::Up | State::Suspect) {
            self.go(State::Paused, now, None);
        }
    }

    /// Returns whether as many good samples as clear an alarm have confirmed that the condition is up.
    pub fn is_settled(&self) -> bool {
        self.settling == 0
    }

    /// Takes a sample. The first good one settles what is shown of an unknown condition; that it is good is said after
    /// as many as clear an alarm.
    pub fn on_sample(&mut self, sample: Sample, thresholds: Thresholds, now: Now) -> Option<Change> {
        let to_clear = thresholds.clear_after.clamp(1, MOST_SAMPLES) as u16;
        match (self.state, sample) {
            (State::Up, Sample::Good) => {
                self.against <<= 1;
                self.settle(1)
            }
            (State::Down, Sample::Bad) => {
                self.against <<= 1;
                None
            }
            (State::Unknown | State::Standby, Sample::Good) => {
                self.go(State::Up, now, None);
                self.settling = to_clear;
                self.settle(1)
            }
            (State::Paused, Sample::Good) => {
                self.go(State::Up, now, None);
                self.settle(1)
            }
            (State::Unknown | State::Standby | State::Up | State::Suspect | State::Paused, sample) => {
                if sample == Sample::Bad && self.settling > 0 && thresholds.clear_out_of <= thresholds.clear_after {
                    // In a row means: from the start again.
                    self.settling = to_clear;
                }
                let (needed, of) = (thresholds.raise_after, thresholds.raise_out_of);
                match self.weigh(sample == Sample::Bad, needed, of) {
                    Weight::Decides => {
                        self.settling = 0;
                        self.go(State::Down, now, Some(Change::Raised))
                    }
                    Weight::Counts if self.state == State::Up => {
                        self.doubt(State::Suspect, now);
                        self.is_settled().then_some(Change::Suspected)
                    }
                    Weight::Counts if sample == Sample::Good => self.settle(1),
                    Weight::Counts => None,
                    Weight::Nothing => {
                        let was_suspect = self.state == State::Suspect && self.is_settled();
                        self.go(State::Up, now, None);
                        self.settle(u16::from(sample == Sample::Good)).or(was_suspect.then_some(Change::Relieved))
                    }
                }
            }
            (State::Down | State::Recovering, sample) => {
                let (needed, of) = (thresholds.clear_after, thresholds.clear_out_of);
                match self.weigh(sample == Sample::Good, needed, of) {
                    Weight::Decides => self.go(State::Up, now, Some(Change::Cleared)),
                    Weight::Counts if self.state == State::Down => {
                        self.doubt(State::Recovering, now);
                        None
                    }
                    Weight::Counts => None,
                    Weight::Nothing => self.go(State::Down, now, None),
                }
            }
        }
    }

    /// Counts good samples of a condition that was not said to be good yet.
    fn settle(&mut self, good: u16) -> Option<Change> {
        if self.settling == 0 {
            return None;
        }
        self.settling = self.settling.saturating_sub(good);
        (self.settling == 0).then_some(Change::Cleared)
    }

    /// Adds a sample that speaks against the state or for it.
    fn weigh(&mut self, against: bool, needed: u32, of: u32) -> Weight {
        let needed = needed.clamp(1, MOST_SAMPLES);
        let of = of.clamp(needed, MOST_SAMPLES);
        self.against = (self.against << 1) | u64::from(against);
        let recent = self.against & (u64::MAX >> (MOST_SAMPLES - of));
        if recent.count_ones() >= needed {
            Weight::Decides
        } else if recent.trailing_zeros() > of - needed {
            // So many speak for the state since that no sample before them can still help to turn it.
            Weight::Nothing
        } else {
            Weight::Counts
        }
    }

    fn go(&mut self, state: State, now: Now, change: Option<Change>) -> Option<Change> {
        self.state = state;
        self.since = now;
        self.against = 0;
        change
    }

    fn doubt(&mut self, state: State, now: Now) {
        self.state = state;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THREE: Thresholds = Thresholds { raise_after: 3, raise_out_of: 3, clear_after: 3, clear_out_of: 3 };

    /// Every state and sample with thresholds of 2: from, sample, to, change.
    #[test]
    fn the_whole_table() {
        use Sample::{Bad, Good};
        let two = Thresholds::in_a_row(2, 2);
        let reach = |path: &[Sample]| {
            let mut condition = Condition::default();
            for &sample in path {
                condition.on_sample(sample, two, Now::default());
            }
            condition
        };
        #[expect(clippy::type_complexity, reason = "a table")]
        let table: [(&[Sample], State, State, Option<Change>, State, Option<Change>); 7] = [
            (&[], State::Unknown, State::Up, None, State::Unknown, None),
            (&[Bad], State::Unknown, State::Up, None, State::Down, Some(Change::Raised)),
            (&[Good], State::Up, State::Up, Some(Change::Cleared), State::Suspect, None),
            (&[Good, Good], State::Up, State::Up, None, State::Suspect, Some(Change::Suspected)),
            (&[Good, Good, Bad], State::Suspect, State::Up, Some(Change::Relieved), State::Down, Some(Change::Raised)),
            (&[Bad, Bad], State::Down, State::Recovering, None, State::Down, None),
            (&[Bad, Bad, Good], State::Recovering, State::Up, Some(Change::Cleared), State::Down, None),
        ];
        for (path, from, on_good, good_change, on_bad, bad_change) in table {
            let mut condition = reach(path);
            assert_eq!(condition.state(), from);
            assert_eq!(condition.on_sample(Good, two, Now::default()), good_change, "{path:?} + good");
            assert_eq!(condition.state(), on_good, "{path:?} + good");
            let mut condition = reach(path);
            assert_eq!(condition.on_sample(Bad, two, Now::default()), bad_change, "{path:?} + bad");
            assert_eq!(condition.state(), on_bad, "{path:?} + bad");
        }
    }

    #[test]
    fn three_of_the_last_five() {
        use Sample::{Bad, Good};
        let thresholds = Thresholds { raise_after: 3, raise_out_of: 5, clear_after: 2, clear_out_of: 2 };
        let mut condition = Condition::default();
        let mut states = Vec::new();
        for sample in [Good, Bad, Good, Bad, Good, Good, Bad, Good, Good, Good, Bad, Bad, Good, Bad] {
            condition.on_sample(sample, thresholds, Now::default());
            states.push(condition.state());
        }
        use State::{Down, Suspect, Up};
        let suspect_then = [Up, Suspect, Suspect, Suspect, Suspect, Suspect, Suspect, Suspect, Suspect, Up];
        assert_eq!(states[..10], suspect_then);
        assert_eq!(states[10..], [Suspect, Suspect, Suspect, Down]);
    }

    /// A receiver may have been told down before a restart: the first good sample clears nothing.
    #[test]
    fn unknown_condition_is_said_to_be_good_after_as_many_samples_as_clear() {
        use Sample::{Bad, Good};
        let mut condition = Condition::default();
        let mut changes = Vec::new();
        for sample in [Good, Good, Bad, Good, Good, Good, Good] {
            changes.push(condition.on_sample(sample, THREE, Now::default()));
        }
        assert_eq!(changes, [None, None, None, None, None, Some(Change::Cleared), None]);
    }

    #[test]
    fn a_pause_is_no_fault_and_hides_none() {
        let mut condition = Condition::default();
        condition.on_sample(Sample::Good, THREE, Now::default());
        condition.on_pause(Now::default());
        assert_eq!(condition.state(), State::Paused);
        assert_eq!(condition.on_sample(Sample::Good, THREE, Now::default()), None);
        assert_eq!(condition.state(), State::Up);
        condition.on_pause(Now::default());
        let changes: Vec<_> = (0..3).map(|_| condition.on_sample(Sample::Bad, THREE, Now::default())).collect();
        assert_eq!(changes, [None, None, Some(Change::Raised)]);
        assert!(condition.is_settled());
        condition.on_pause(Now::default());
        assert_eq!(condition.state(), State::Down);
    }

    proptest! {
        /// However many of however many decide: a raise needs that many bad ones among the last so
        /// many, and comes as soon as they are there.
        #[test]
        fn so_many_of_the_last_so_many(
            samples in prop::collection::vec(any::<bool>(), 0..200),
            needed in 1u32..6,
            more in 0u32..6,
        ) {
            let thresholds =
                Thresholds { raise_after: needed, raise_out_of: needed + more, ..Thresholds::in_a_row(1, 1) };
            let mut condition = Condition::default();
            condition.on_sample(Sample::Good, thresholds, Now::default());
            let mut recent = Vec::new();
            for good in samples {
                let was_down = condition.is_down();
                let sample = if good { Sample::Good } else { Sample::Bad };
                let change = condition.on_sample(sample, thresholds, Now::default());
                if was_down {
                    recent.clear();
                    continue;
                }
                recent.push(good);
                let bad = recent.iter().rev().take((needed + more) as usize).filter(|good| !**good).count();
                prop_assert_eq!(change == Some(Change::Raised), bad >= needed as usize);
            }
        }

        /// Raises and clears alternate, and each needs its number of samples in a row.
        #[test]
        fn changes_alternate(samples in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut condition = Condition::default();
            let (mut last, mut run, mut previous) = (None, 0, None);
            for good in samples {
                run = if previous == Some(good) { run + 1 } else { 1 };
                previous = Some(good);
                let sample = if good { Sample::Good } else { Sample::Bad };
                let change = condition.on_sample(sample, THREE, Now::default());
                if let Some(change) = change.filter(|change| [Change::Raised, Change::Cleared].contains(change)) {
                    prop_assert_ne!(last, Some(change));
                    prop_assert!(run >= 3);
                    last = Some(change);
                }
                prop_assert_eq!(condition.is_down(), last == Some(Change::Raised));
            }
        }
    }
}
