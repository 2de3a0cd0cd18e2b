//! From samples to a condition: `unknown → up ⇄ suspect → down ⇄ recovering`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::time::Now;

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
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Recovering => "recovering",
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

/// How many samples in a row decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// So many bad ones raise; at least 1.
    pub raise_after: u32,
    /// So many good ones clear; at least 1.
    pub clear_after: u32,
}

/// What travels up: only these, never samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Now down.
    Raised,
    /// Now up.
    Cleared,
}

/// One condition of one subject.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    state: State,
    since: Now,
    /// Samples in a row that speak against the state.
    against: u32,
}

impl Condition {
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

    /// Takes a sample. The first good one settles an unknown condition, since nothing was told of
    /// it that would have to be taken back.
    pub fn on_sample(&mut self, sample: Sample, thresholds: Thresholds, now: Now) -> Option<Change> {
        let raise_after = thresholds.raise_after.max(1);
        let clear_after = thresholds.clear_after.max(1);
        match (self.state, sample) {
            (State::Up, Sample::Good) | (State::Down, Sample::Bad) => None,
            (State::Unknown, Sample::Good) => self.go(State::Up, now, Some(Change::Cleared)),
            (State::Suspect, Sample::Good) => self.go(State::Up, now, None),
            (State::Recovering, Sample::Bad) => self.go(State::Down, now, None),
            (State::Unknown | State::Up | State::Suspect, Sample::Bad) => {
                self.against += 1;
                if self.against >= raise_after {
                    self.go(State::Down, now, Some(Change::Raised))
                } else if self.state == State::Up {
                    self.doubt(State::Suspect, now)
                } else {
                    None
                }
            }
            (State::Down | State::Recovering, Sample::Good) => {
                self.against += 1;
                if self.against >= clear_after {
                    self.go(State::Up, now, Some(Change::Cleared))
                } else if self.state == State::Down {
                    self.doubt(State::Recovering, now)
                } else {
                    None
                }
            }
        }
    }

    fn go(&mut self, state: State, now: Now, change: Option<Change>) -> Option<Change> {
        self.state = state;
        self.since = now;
        self.against = 0;
        change
    }

    fn doubt(&mut self, state: State, now: Now) -> Option<Change> {
        self.state = state;
        self.since = now;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THREE: Thresholds = Thresholds { raise_after: 3, clear_after: 3 };

    /// Every state and sample with thresholds of 2: from, sample, to, change.
    #[test]
    fn the_whole_table() {
        use Sample::{Bad, Good};
        let two = Thresholds { raise_after: 2, clear_after: 2 };
        let reach = |path: &[Sample]| {
            let mut condition = Condition::default();
            for &sample in path {
                condition.on_sample(sample, two, Now::default());
            }
            condition
        };
        #[expect(clippy::type_complexity, reason = "a table")]
        let table: [(&[Sample], State, State, Option<Change>, State, Option<Change>); 6] = [
            (&[], State::Unknown, State::Up, Some(Change::Cleared), State::Unknown, None),
            (&[Bad], State::Unknown, State::Up, Some(Change::Cleared), State::Down, Some(Change::Raised)),
            (&[Good], State::Up, State::Up, None, State::Suspect, None),
            (&[Good, Bad], State::Suspect, State::Up, None, State::Down, Some(Change::Raised)),
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

    proptest! {
        /// Raises and clears alternate, and each needs its number of samples in a row.
        #[test]
        fn changes_alternate(samples in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut condition = Condition::default();
            let (mut last, mut run, mut previous) = (None, 0, None);
            for good in samples {
                run = if previous == Some(good) { run + 1 } else { 1 };
                previous = Some(good);
                let sample = if good { Sample::Good } else { Sample::Bad };
                if let Some(change) = condition.on_sample(sample, THREE, Now::default()) {
                    prop_assert_ne!(last, Some(change));
                    let settles = last.is_none() && change == Change::Cleared;
                    prop_assert!(settles || run >= 3);
                    last = Some(change);
                }
                prop_assert_eq!(condition.is_down(), last == Some(Change::Raised));
            }
        }
    }
}
