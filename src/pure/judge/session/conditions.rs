//! Conditions of one test, one per judged alarm kind, each with the cause of its last violation.
//!
//! [`Conditions`] keeps the frequently sampled kinds inline and the rest in a box, so that a test without loss, jitter
//! or flow limits needs no memory for them.

use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::Verdict;
use crate::pure::alarm::key::Kind;
use crate::pure::base::time::Now;
use crate::pure::judge::condition::{Condition, Sample, State, Thresholds, Transition};

/// Alarm kinds that are judged for a test, in the order in which their conditions are stored.
pub const JUDGED: [Kind; 6] = [Kind::Connection, Kind::Latency, Kind::Clock, Kind::Loss, Kind::Jitter, Kind::Path];

/// Number of kinds that every probe is a sample of; they come first in `JUDGED`.
const OFTEN: usize = 3;

/// Conditions of one test by alarm kind. A kind that is not judged maps to the connection's condition.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    often: [Judged; OFTEN],
    /// Conditions of the less frequent kinds, allocated when the first of them gets a sample; few tests use them.
    seldom: Option<Box<[Judged; JUDGED.len() - OFTEN]>>,
}

#[derive(Clone, Debug, Default)]
struct Judged {
    condition: Condition,
    /// Cause of the last violation, boxed because most conditions are good and need none.
    cause: Option<Box<Cause>>,
}

/// Flags that mark the conditions that are good without recent doubt, so that a good sample does not change them. With
/// very many tests, a probe reads only these flags and not the conditions themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteadyConditions([bool; OFTEN]);

impl SteadyConditions {
    /// Returns whether the condition of this kind is calm; false for kinds that are not sampled by every probe.
    pub fn holds(self, kind: Kind) -> bool {
        self.0.get(index(kind)) == Some(&true)
    }
}

impl Conditions {
    /// Returns which conditions are calm. The result may change with any sample of a condition that is not calm, and
    /// with every other method that modifies the conditions.
    pub fn steady(&self) -> SteadyConditions {
        SteadyConditions(self.often.each_ref().map(|judged| judged.condition.is_steady()))
    }

    /// Returns the condition of a kind, or the connection's condition for a kind that is not judged here.
    pub fn of(&self, kind: Kind) -> &Condition {
        self.judged(kind).map_or(&Condition::UNKNOWN, |judged| &judged.condition)
    }

    /// Returns the cause for which the condition of this kind is down, if it is.
    pub fn cause(&self, kind: Kind) -> Option<&Cause> {
        self.judged(kind)?.cause.as_deref()
    }

    /// Replaces the cause of a condition that is down.
    pub fn set_cause(&mut self, kind: Kind, cause: Cause) {
        self.judged_mut(kind).cause = Some(Box::new(cause));
    }

    /// Returns whether the condition of this kind is down. Marked cold because calm conditions are not queried, and
    /// must not be fetched from memory for the answer.
    #[cold]
    pub fn is_down(&self, kind: Kind) -> bool {
        self.of(kind).is_down()
    }

    /// Pauses the connection's condition because the sender announced that it stops.
    pub fn pause(&mut self, now: Now) {
        self.judged_mut(Kind::Connection).condition.on_pause(now);
    }

    /// Resets the condition of a kind that is no longer judged. Returns whether it was down.
    pub fn reset(&mut self, kind: Kind) -> bool {
        std::mem::take(self.judged_mut(kind)).condition.is_down()
    }

    /// Applies a sample to the condition of a kind and returns the new verdict if that changes.
    pub fn on_sample(
        &mut self,
        kind: Kind,
        sample: Sample,
        thresholds: Thresholds,
        cause: Option<Cause>,
        now: Now,
    ) -> Option<Verdict> {
        let judged = self.judged_mut(kind);
        let change = judged.condition.on_sample(sample, thresholds, now);
        match (change?, cause) {
            (Transition::Raised, Some(cause)) => {
                judged.cause = Some(Box::new(cause.clone()));
                Some(Verdict::Violated(cause))
            }
            (Transition::Raised, None) => None,
            (Transition::Cleared, _) => {
                judged.cause = None;
                Some(Verdict::Cleared)
            }
            (Transition::Suspected, _) => (kind == Kind::Connection).then_some(Verdict::Overdue),
            (Transition::SuspicionEnded, _) => (kind == Kind::Connection).then_some(Verdict::Cleared),
        }
    }

    /// Returns the verdict of every condition that is decided and settled.
    pub fn decided(&self) -> impl Iterator<Item = (Kind, Verdict)> {
        let all = self.often.iter().chain(self.seldom.iter().flat_map(|seldom| seldom.iter()));
        JUDGED.into_iter().zip(all).filter_map(|(kind, judged)| {
            let verdict = match (judged.condition.state(), &judged.cause) {
                (State::Unknown | State::Standby, _) => return None,
                (State::Down | State::Recovering, Some(cause)) => Verdict::Violated(cause.as_ref().clone()),
                // An unsettled condition may still be an alarm that an earlier run raised.
                (_, _) if !judged.condition.is_confirmed() => return None,
                (State::Suspect, _) if kind == Kind::Connection => Verdict::Overdue,
                (State::Up | State::Suspect | State::Paused | State::Down | State::Recovering, _) => Verdict::Cleared,
            };
            Some((kind, verdict))
        })
    }

    fn judged(&self, kind: Kind) -> Option<&Judged> {
        match index(kind).checked_sub(OFTEN) {
            None => Some(&self.often[index(kind)]),
            Some(place) => self.seldom.as_ref().map(|seldom| &seldom[place]),
        }
    }

    fn judged_mut(&mut self, kind: Kind) -> &mut Judged {
        match index(kind).checked_sub(OFTEN) {
            None => &mut self.often[index(kind)],
            Some(place) => &mut self.seldom.get_or_insert_default()[place],
        }
    }
}

/// Returns the index of a kind in `JUDGED`; for a kind that is not judged here, the connection's index.
pub fn index(kind: Kind) -> usize {
    JUDGED.iter().position(|judged| *judged == kind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A good sample neither changes a calm condition nor causes a report, for any sequence of earlier steps.
        #[test]
        fn good_sample_does_not_change_a_calm_condition(steps in prop::collection::vec((0usize..6, 0u8..8), 0..300)) {
            let thresholds = Thresholds { raise_after: 2, raise_out_of: 4, clear_after: 2, clear_out_of: 3 };
            let (mut conditions, now) = (Conditions::default(), Now::default());
            let cause = || Some(Cause::NotSent(String::new()));
            for (place, step) in steps {
                match (JUDGED[place], step) {
                    (Kind::Connection, 0) => conditions.pause(now),
                    (kind, 0) => {
                        conditions.reset(kind);
                    }
                    (kind, step) => {
                        let sample = if step < 3 { Sample::Bad } else { Sample::Good };
                        conditions.on_sample(kind, sample, thresholds, cause(), now);
                    }
                }
                for kind in JUDGED.into_iter().filter(|kind| conditions.steady().holds(*kind)) {
                    let mut after = conditions.clone();
                    prop_assert_eq!(after.on_sample(kind, Sample::Good, thresholds, None, now), None);
                    prop_assert_eq!(after.of(kind).state(), State::Up);
                    prop_assert_eq!(after.steady(), conditions.steady());
                    prop_assert!(!conditions.is_down(kind));
                }
            }
        }
    }
}
