//! The conditions of one test, by kind, each with the cause of its last violation.

use crate::pure::alarm::{Cause, Kind, Verdict};
use crate::pure::condition::{Change, Condition, Sample, State, Thresholds};
use crate::pure::time::Now;

/// What is judged of a test.
pub const JUDGED: [Kind; 6] = [Kind::Connection, Kind::Latency, Kind::Clock, Kind::Loss, Kind::Jitter, Kind::Path];

/// Kinds of which every probe is a sample; they come first in `JUDGED`.
const OFTEN: usize = 3;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    often: [Judged; OFTEN],
    /// What only few tests ask for, once there is a sample of it.
    seldom: Option<Box<[Judged; JUDGED.len() - OFTEN]>>,
}

#[derive(Clone, Debug, Default)]
struct Judged {
    condition: Condition,
    /// Boxed: most conditions are good.
    cause: Option<Box<Cause>>,
}

/// Which conditions are good beyond doubt: a good sample does not change them. Of very many tests, nothing else is
/// looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calm([bool; OFTEN]);

impl Calm {
    /// Whether that of a kind is.
    pub fn holds(self, kind: Kind) -> bool {
        self.0.get(place(kind)) == Some(&true)
    }
}

impl Conditions {
    /// Which are calm; changes with any sample of one that is not, and with everything else that is done here.
    pub fn calm(&self) -> Calm {
        Calm(self.often.each_ref().map(|judged| judged.condition.is_calm()))
    }

    /// The condition of a kind; of the connection for what is not judged here.
    pub fn of(&self, kind: Kind) -> &Condition {
        self.judged(kind).map_or(&Condition::UNKNOWN, |judged| &judged.condition)
    }

    /// Why it is down.
    pub fn cause(&self, kind: Kind) -> Option<&Cause> {
        self.judged(kind)?.cause.as_deref()
    }

    /// Replaces the cause of a condition that is down.
    pub fn set_cause(&mut self, kind: Kind, cause: Cause) {
        self.judged_mut(kind).cause = Some(Box::new(cause));
    }

    /// Whether it is down. Cold: of what is calm it is not asked, and must not be fetched for an answer.
    #[cold]
    pub fn is_down(&self, kind: Kind) -> bool {
        self.of(kind).is_down()
    }

    /// The sender announced that it stops.
    pub fn pause(&mut self, now: Now) {
        self.judged_mut(Kind::Connection).condition.on_pause(now);
    }

    /// It is not judged any more. Tells whether it was down.
    pub fn forget(&mut self, kind: Kind) -> bool {
        std::mem::take(self.judged_mut(kind)).condition.is_down()
    }

    /// Takes a sample; gives the verdict if that changes.
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
            (Change::Raised, Some(cause)) => {
                judged.cause = Some(Box::new(cause.clone()));
                Some(Verdict::Violated(cause))
            }
            (Change::Raised, None) => None,
            (Change::Cleared, _) => {
                judged.cause = None;
                Some(Verdict::Cleared)
            }
            (Change::Suspected, _) => (kind == Kind::Connection).then_some(Verdict::Overdue),
            (Change::Relieved, _) => (kind == Kind::Connection).then_some(Verdict::Cleared),
        }
    }

    /// All that are decided.
    pub fn decided(&self) -> impl Iterator<Item = (Kind, Verdict)> {
        let all = self.often.iter().chain(self.seldom.iter().flat_map(|seldom| seldom.iter()));
        JUDGED.into_iter().zip(all).filter_map(|(kind, judged)| {
            let verdict = match (judged.condition.state(), &judged.cause) {
                (State::Unknown | State::Standby, _) => return None,
                (State::Down | State::Recovering, Some(cause)) => Verdict::Violated(cause.as_ref().clone()),
                // An unsettled condition may still be an alarm that an earlier run raised.
                (_, _) if !judged.condition.is_settled() => return None,
                (State::Suspect, _) if kind == Kind::Connection => Verdict::Overdue,
                (State::Up | State::Suspect | State::Paused | State::Down | State::Recovering, _) => Verdict::Cleared,
            };
            Some((kind, verdict))
        })
    }

    fn judged(&self, kind: Kind) -> Option<&Judged> {
        match place(kind).checked_sub(OFTEN) {
            None => Some(&self.often[place(kind)]),
            Some(place) => self.seldom.as_ref().map(|seldom| &seldom[place]),
        }
    }

    fn judged_mut(&mut self, kind: Kind) -> &mut Judged {
        match place(kind).checked_sub(OFTEN) {
            None => &mut self.often[place(kind)],
            Some(place) => &mut self.seldom.get_or_insert_default()[place],
        }
    }
}

/// The place of a kind in `JUDGED`; of what is not judged here, the connection's.
pub fn place(kind: Kind) -> usize {
    JUDGED.iter().position(|judged| *judged == kind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever was before: what is calm, a good sample neither changes nor makes to say something.
        #[test]
        fn a_good_sample_does_not_change_what_is_calm(steps in prop::collection::vec((0usize..6, 0u8..8), 0..300)) {
            let thresholds = Thresholds { raise_after: 2, raise_out_of: 4, clear_after: 2, clear_out_of: 3 };
            let (mut conditions, now) = (Conditions::default(), Now::default());
            let cause = || Some(Cause::NotSent(String::new()));
            for (place, step) in steps {
                match (JUDGED[place], step) {
                    (Kind::Connection, 0) => conditions.pause(now),
                    (kind, 0) => {
                        conditions.forget(kind);
                    }
                    (kind, step) => {
                        let sample = if step < 3 { Sample::Bad } else { Sample::Good };
                        conditions.on_sample(kind, sample, thresholds, cause(), now);
                    }
                }
                for kind in JUDGED.into_iter().filter(|kind| conditions.calm().holds(*kind)) {
                    let mut after = conditions.clone();
                    prop_assert_eq!(after.on_sample(kind, Sample::Good, thresholds, None, now), None);
                    prop_assert_eq!(after.of(kind).state(), State::Up);
                    prop_assert_eq!(after.calm(), conditions.calm());
                    prop_assert!(!conditions.is_down(kind));
                }
            }
        }
    }
}
