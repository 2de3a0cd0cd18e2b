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
#[repr(C)]
pub struct Conditions {
    /// Which of `often` a good sample does not change. Stands first, since of very many tests nothing else is
    /// looked at.
    calm: [bool; OFTEN],
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

impl Conditions {
    /// The first octets, which are all that is looked at as long as all is well.
    pub const HOT: usize = OFTEN;

    /// The condition of a kind; of the connection for what is not judged here.
    pub fn of(&self, kind: Kind) -> &Condition {
        self.judged(kind).map_or(&Condition::UNKNOWN, |judged| &judged.condition)
    }

    /// Why it is down.
    pub fn cause(&self, kind: Kind) -> Option<&Cause> {
        self.judged(kind)?.cause.as_deref()
    }

    /// Whether it is down.
    pub fn is_down(&self, kind: Kind) -> bool {
        !self.is_calm(kind) && self.of(kind).is_down()
    }

    fn is_calm(&self, kind: Kind) -> bool {
        self.calm.get(place(kind)) == Some(&true)
    }

    /// The sender announced that it stops.
    pub fn pause(&mut self, now: Now) {
        self.calm[place(Kind::Connection)] = false;
        self.judged_mut(Kind::Connection).condition.on_pause(now);
    }

    /// It is not judged any more. Tells whether it was down.
    pub fn forget(&mut self, kind: Kind) -> bool {
        if let Some(calm) = self.calm.get_mut(place(kind)) {
            *calm = false;
        }
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
        if sample == Sample::Good && self.is_calm(kind) {
            return None;
        }
        let place = place(kind);
        let judged = self.judged_mut(kind);
        let change = judged.condition.on_sample(sample, thresholds, now);
        let is_calm = judged.condition.is_calm();
        if let Some(calm) = self.calm.get_mut(place) {
            *calm = is_calm;
        }
        let judged = self.judged_mut(kind);
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
        }
    }

    /// All that are decided.
    pub fn decided(&self) -> impl Iterator<Item = (Kind, Verdict)> {
        let all = self.often.iter().chain(self.seldom.iter().flat_map(|seldom| seldom.iter()));
        JUDGED.into_iter().zip(all).filter_map(|(kind, judged)| {
            let verdict = match (judged.condition.state(), &judged.cause) {
                (State::Unknown | State::Standby, _) => return None,
                (State::Down | State::Recovering, Some(cause)) => Verdict::Violated(cause.as_ref().clone()),
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

/// Of what is not judged here, the connection's.
fn place(kind: Kind) -> usize {
    JUDGED.iter().position(|judged| *judged == kind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is calm is not looked at: that changes nothing.
        #[test]
        fn each_is_what_it_would_be_by_itself(steps in prop::collection::vec((0usize..6, 0u8..8), 0..300)) {
            let thresholds = Thresholds { raise_after: 2, raise_out_of: 4, clear_after: 2, clear_out_of: 3 };
            let (mut conditions, mut plain) = (Conditions::default(), vec![Condition::default(); JUDGED.len()]);
            for (place, step) in steps {
                let (kind, now) = (JUDGED[place], Now::default());
                match step {
                    0 if kind == Kind::Connection => {
                        conditions.pause(now);
                        plain[place].on_pause(now);
                    }
                    0 => {
                        prop_assert_eq!(conditions.forget(kind), plain[place].is_down());
                        plain[place] = Condition::default();
                    }
                    _ => {
                        let sample = if step < 3 { Sample::Bad } else { Sample::Good };
                        let cause = Cause::NotSent(String::new());
                        let verdict = conditions.on_sample(kind, sample, thresholds, Some(cause), now);
                        let change = plain[place].on_sample(sample, thresholds, now);
                        prop_assert_eq!(verdict.is_some(), change.is_some());
                    }
                }
                for (kind, plain) in JUDGED.into_iter().zip(&plain) {
                    prop_assert_eq!(conditions.of(kind).state(), plain.state());
                    prop_assert_eq!(conditions.is_down(kind), plain.is_down());
                }
            }
        }
    }
}
