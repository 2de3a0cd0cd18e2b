//! State machine that turns good and bad samples into a condition: `unknown → up ⇄ suspect → down ⇄ recovering`.
//!
//! A [`Condition`] changes state when N of the last M samples contradict it (see [`Thresholds`]). A condition that is
//! up becomes `paused` when the sender announces that it stops.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pure::base::time::{Moment, Now, WallTime};

/// State of a condition. `suspect` still counts as up, and `recovering` still counts as down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Undecided: too few samples have been taken since the condition began.
    #[default]
    Unknown,
    /// Condition is good, and recent samples confirm it.
    Up,
    /// Condition still counts as up, although recent samples were bad.
    Suspect,
    /// Condition is bad: enough recent samples were bad to raise an alarm.
    Down,
    /// Condition still counts as down, although recent samples were good.
    Recovering,
    /// Condition was up until its sender announced that it would stop on purpose.
    Paused,
    /// Condition is not judged here, because the test's floating address is on another host.
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

/// Result of one observation of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Observation is within its limits and supports the condition being up.
    Good,
    /// Observation violates its limits and supports the condition being down.
    Bad,
}

/// Thresholds of a condition: N of the last M samples decide, separately for raising and for clearing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Number of bad samples that raise the alarm; at least 1.
    pub raise_after: u32,
    /// Number of recent samples among which the `raise_after` bad ones must lie; if equal, they must be consecutive.
    pub raise_out_of: u32,
    /// Number of good samples that clear the alarm; at least 1.
    pub clear_after: u32,
    /// Number of recent samples among which the `clear_after` good ones must lie; if equal, they must be consecutive.
    pub clear_out_of: u32,
}

/// Maximum number of recent samples that a condition records; one bit is kept for each.
pub const MAX_SAMPLES: u32 = u64::BITS;

impl Thresholds {
    /// Returns thresholds that require this many consecutive bad or good samples.
    pub fn in_a_row(raise_after: u32, clear_after: u32) -> Self {
        Thresholds { raise_after, raise_out_of: raise_after, clear_after, clear_out_of: clear_after }
    }
}

/// Change of a condition that is reported upwards; single samples are never reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Condition went down, after enough bad samples.
    Raised,
    /// Condition came up, or an unknown condition was confirmed to be up.
    Cleared,
    /// Condition is up, but the latest samples were bad.
    Suspected,
    /// Condition left the suspect state and is up, after bad samples that did not suffice to raise an alarm.
    SuspicionEnded,
}

/// Combined weight of the recent samples that contradict the current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Nothing,
    Counts,
    Decides,
}

/// Condition of one subject, together with the recent samples that contradict it.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    state: State,
    /// Number of good samples still needed before the condition is first reported as up. A receiver may hold a raise
    /// from before a restart or a move of the test, which one good sample must not clear.
    settling: u16,
    since: Now,
    /// Most recent samples since the last decision, the newest in the lowest bit; a set bit contradicts the decided
    /// state.
    against: u64,
}

impl Condition {
    /// Condition for which no sample has been taken yet.
    pub const UNKNOWN: Condition = Condition {
        state: State::Unknown,
        settling: 0,
        since: Now { moment: Moment::ZERO, wall: WallTime::ZERO },
        against: 0,
    };

    /// Returns the current state of the condition.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the time at which the condition entered its current state.
    pub fn since(&self) -> Now {
        self.since
    }

    /// Returns whether the condition counts as bad, which includes `recovering`.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down | State::Recovering)
    }

    /// Returns whether the condition is up without recent doubt, so that another good sample changes nothing.
    pub fn is_steady(&self) -> bool {
        self.state == State::Up && self.against == 0 && self.settling == 0
    }

    /// Pauses a condition that is up or suspect because its sender announced a stop. A condition that is down stays
    /// down.
    pub fn on_pause(&mut self, now: Now) {
        if matches!(self.state, State::Up | State::Suspect) {
            self.enter(State::Paused, now, None);
        }
    }

    /// Returns whether as many good samples as clear an alarm have confirmed that the condition is up.
    pub fn is_confirmed(&self) -> bool {
        self.settling == 0
    }

    /// Applies a sample and returns the change to report. The first good sample sets an unknown condition to `up` for
    /// display; the change is reported only after as many good samples as clear an alarm.
    pub fn on_sample(&mut self, sample: Sample, thresholds: Thresholds, now: Now) -> Option<Transition> {
        let to_clear = thresholds.clear_after.clamp(1, MAX_SAMPLES) as u16;
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
                self.enter(State::Up, now, None);
                self.settling = to_clear;
                self.settle(1)
            }
            (State::Paused, Sample::Good) => {
                self.enter(State::Up, now, None);
                self.settle(1)
            }
            (State::Unknown | State::Standby | State::Up | State::Suspect | State::Paused, sample) => {
                if sample == Sample::Bad && self.settling > 0 && thresholds.clear_out_of <= thresholds.clear_after {
                    // Consecutive samples are required, so a bad one restarts the count.
                    self.settling = to_clear;
                }
                let (needed, of) = (thresholds.raise_after, thresholds.raise_out_of);
                match self.weigh(sample == Sample::Bad, needed, of) {
                    Weight::Decides => {
                        self.settling = 0;
                        self.enter(State::Down, now, Some(Transition::Raised))
                    }
                    Weight::Counts if self.state == State::Up => {
                        self.enter_tentatively(State::Suspect, now);
                        self.is_confirmed().then_some(Transition::Suspected)
                    }
                    Weight::Counts if sample == Sample::Good => self.settle(1),
                    Weight::Counts => None,
                    Weight::Nothing => {
                        let was_suspect = self.state == State::Suspect && self.is_confirmed();
                        self.enter(State::Up, now, None);
                        self.settle(u16::from(sample == Sample::Good))
                            .or(was_suspect.then_some(Transition::SuspicionEnded))
                    }
                }
            }
            (State::Down | State::Recovering, sample) => {
                let (needed, of) = (thresholds.clear_after, thresholds.clear_out_of);
                match self.weigh(sample == Sample::Good, needed, of) {
                    Weight::Decides => self.enter(State::Up, now, Some(Transition::Cleared)),
                    Weight::Counts if self.state == State::Down => {
                        self.enter_tentatively(State::Recovering, now);
                        None
                    }
                    Weight::Counts => None,
                    Weight::Nothing => self.enter(State::Down, now, None),
                }
            }
        }
    }

    /// Counts good samples towards the first report of an unsettled condition; returns `Cleared` at the last of them.
    fn settle(&mut self, good: u16) -> Option<Transition> {
        if self.settling == 0 {
            return None;
        }
        self.settling = self.settling.saturating_sub(good);
        (self.settling == 0).then_some(Transition::Cleared)
    }

    /// Records a sample, which contradicts the current state if `against` is set, and weighs it with the recent ones.
    fn weigh(&mut self, against: bool, needed: u32, of: u32) -> Weight {
        let needed = needed.clamp(1, MAX_SAMPLES);
        let of = of.clamp(needed, MAX_SAMPLES);
        self.against = (self.against << 1) | u64::from(against);
        let recent = self.against & (u64::MAX >> (MAX_SAMPLES - of));
        if recent.count_ones() >= needed {
            Weight::Decides
        } else if recent.trailing_zeros() > of - needed {
            // The latest samples support the state in such number that no earlier contradicting one can contribute any
            // more.
            Weight::Nothing
        } else {
            Weight::Counts
        }
    }

    fn enter(&mut self, state: State, now: Now, change: Option<Transition>) -> Option<Transition> {
        self.state = state;
        self.since = now;
        self.against = 0;
        change
    }

    fn enter_tentatively(&mut self, state: State, now: Now) {
        self.state = state;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THREE: Thresholds = Thresholds { raise_after: 3, raise_out_of: 3, clear_after: 3, clear_out_of: 3 };

    /// Transition table with thresholds of 2: every state and sample, with the new state and the reported change.
    #[test]
    fn every_state_and_sample_leads_to_the_expected_state_and_change() {
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
        let table: [(&[Sample], State, State, Option<Transition>, State, Option<Transition>); 7] = [
            (&[], State::Unknown, State::Up, None, State::Unknown, None),
            (&[Bad], State::Unknown, State::Up, None, State::Down, Some(Transition::Raised)),
            (&[Good], State::Up, State::Up, Some(Transition::Cleared), State::Suspect, None),
            (&[Good, Good], State::Up, State::Up, None, State::Suspect, Some(Transition::Suspected)),
            (
                &[Good, Good, Bad],
                State::Suspect,
                State::Up,
                Some(Transition::SuspicionEnded),
                State::Down,
                Some(Transition::Raised),
            ),
            (&[Bad, Bad], State::Down, State::Recovering, None, State::Down, None),
            (&[Bad, Bad, Good], State::Recovering, State::Up, Some(Transition::Cleared), State::Down, None),
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
    fn condition_goes_down_at_three_bad_samples_of_the_last_five() {
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

    /// A receiver may hold a raise from before a restart, so the first good sample must not clear it.
    #[test]
    fn unknown_condition_is_reported_up_after_clear_after_good_samples() {
        use Sample::{Bad, Good};
        let mut condition = Condition::default();
        let mut changes = Vec::new();
        for sample in [Good, Good, Bad, Good, Good, Good, Good] {
            changes.push(condition.on_sample(sample, THREE, Now::default()));
        }
        assert_eq!(changes, [None, None, None, None, None, Some(Transition::Cleared), None]);
    }

    #[test]
    fn pause_reports_no_change_and_does_not_prevent_a_later_raise() {
        let mut condition = Condition::default();
        condition.on_sample(Sample::Good, THREE, Now::default());
        condition.on_pause(Now::default());
        assert_eq!(condition.state(), State::Paused);
        assert_eq!(condition.on_sample(Sample::Good, THREE, Now::default()), None);
        assert_eq!(condition.state(), State::Up);
        condition.on_pause(Now::default());
        let changes: Vec<_> = (0..3).map(|_| condition.on_sample(Sample::Bad, THREE, Now::default())).collect();
        assert_eq!(changes, [None, None, Some(Transition::Raised)]);
        assert!(condition.is_confirmed());
        condition.on_pause(Now::default());
        assert_eq!(condition.state(), State::Down);
    }

    proptest! {
        /// A raise needs N bad samples among the last M, and is reported as soon as they are there, for any N and M.
        #[test]
        fn raise_comes_exactly_when_n_of_the_last_m_samples_are_bad(
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
                prop_assert_eq!(change == Some(Transition::Raised), bad >= needed as usize);
            }
        }

        /// Raises and clears alternate, and each of them needs its number of consecutive samples.
        #[test]
        fn raises_and_clears_alternate_after_samples_in_a_row(samples in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut condition = Condition::default();
            let (mut last, mut run, mut previous) = (None, 0, None);
            for good in samples {
                run = if previous == Some(good) { run + 1 } else { 1 };
                previous = Some(good);
                let sample = if good { Sample::Good } else { Sample::Bad };
                let change = condition.on_sample(sample, THREE, Now::default());
                if let Some(change) = change.filter(|change| [Transition::Raised, Transition::Cleared].contains(change)) {
                    prop_assert_ne!(last, Some(change));
                    prop_assert!(run >= 3);
                    last = Some(change);
                }
                prop_assert_eq!(condition.is_down(), last == Some(Transition::Raised));
            }
        }
    }
}
