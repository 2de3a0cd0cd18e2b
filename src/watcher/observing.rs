//! Polling of the watcher's children for their status. A `PollRound` counts the answers; when the last one has arrived
//! or time is up, the watcher reports all of them together to the supervisor.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::Watcher;
use super::observed::ShownStatus;
use crate::actor::spanned::Spanned;
use crate::io::time;
use crate::messages::{Observe, WatcherFact, WatcherStatus};
use crate::pure::base::polling;
use crate::pure::status::snapshot::Status;

/// Time within which children answer, extended to the next common wake-up.
const OBSERVE_WAIT: Duration = polling::LONGEST.saturating_mul(3);

/// Last poll of the children, with the number of answers that are missing.
pub struct PollRound {
    observe: Observe,
    /// Number of children that have not answered yet.
    left: usize,
    /// Number of the round, so that the timeout of an earlier round does not end this one.
    number: u64,
}

impl Default for PollRound {
    fn default() -> Self {
        PollRound { observe: Observe::Briefly, left: 0, number: 0 }
    }
}

impl PollRound {
    /// Starts a round that expects `left` answers, and returns its number.
    fn begin(&mut self, observe: Observe, left: usize) -> u64 {
        *self = PollRound { observe, left, number: self.number + 1 };
        self.number
    }

    /// Returns true while a full poll is waiting for answers.
    fn is_busy(&self) -> bool {
        self.left > 0 && self.observe == Observe::Fully
    }

    /// Counts an answer; an answer of the other kind belongs to an earlier round and is ignored. Returns true if it was
    /// the last.
    fn on_answered(&mut self, answered: Observe) -> bool {
        if answered != self.observe || self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.left == 0
    }

    /// Ends the wait of a round; returns true if that round was still running.
    fn on_timeout(&mut self, number: u64) -> bool {
        self.number == number && std::mem::take(&mut self.left) > 0
    }
}

impl Watcher {
    /// Counts the answer of a child, and reports the status after the last one.
    pub(super) fn on_answered(&mut self, answered: Observe) {
        if self.round.on_answered(answered) {
            self.report_observed();
        }
    }

    fn report_observed(&self) {
        let now = time::now().wall;
        let problems = self.sockets.problems().map(|(binding, problem)| (binding.address, problem)).collect();
        let ShownStatus { listeners, mut senders, mut tests } = match self.round.observe {
            Observe::Fully => self.observed.show(&self.running, &problems, &self.bootstrap.host),
            Observe::Briefly => self.observed.show_listeners(&self.running, &problems),
        };
        let store = self.config.status(now);
        let restarts = [
            ("listener", self.listeners.restarts()),
            ("pacer", self.pacers.restarts()),
            ("sender", self.senders.restarts()),
            ("prober", self.prober.restarts()),
        ];
        let tests_taken = (self.round.observe == Observe::Fully).then_some(now);
        Status::sort_tests(&mut tests);
        senders.sort_by_key(|sender| sender.test.id);
        let (senders, tests) = (Arc::new(senders), Arc::new(tests));
        let status = WatcherStatus { store, listeners, senders, tests, tests_taken, restarts };
        self.parent.do_send(WatcherFact::Observed(Box::new(status)));
    }
}

impl Handler<Observe> for Watcher {
    type Result = ();
    fn handle(&mut self, observe: Observe, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.report_lasting_faults();
        if self.round.is_busy() {
            // The previous full poll is still running; a child that does not answer is shown with its last status.
            return;
        }
        self.listeners.iter().for_each(|listener| listener.do_send(observe));
        let mut left = self.listeners.len();
        match observe {
            Observe::Fully => {
                self.senders.iter().for_each(|sender| sender.do_send(observe));
                self.prober.iter().for_each(|prober| prober.do_send(observe));
                left += self.senders.len() + self.prober.len();
            }
            Observe::Briefly => self.observed.forget_tests(),
        }
        let number = self.round.begin(observe, left);
        if left == 0 {
            self.report_observed();
            return;
        }
        ctx.run_later(OBSERVE_WAIT + time::until_next(polling::LONGEST), move |watcher, _| {
            if watcher.round.on_timeout(number) {
                watcher.report_observed();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Late answers to a brief poll, and its timeout, must not count for the full poll after it.
    #[test]
    fn answers_and_timeout_of_an_earlier_round_do_not_end_a_later_one() {
        let mut round = PollRound::default();
        let brief = round.begin(Observe::Briefly, 2);
        assert!(!round.on_answered(Observe::Briefly));
        let full = round.begin(Observe::Fully, 2);
        assert!(round.is_busy());
        assert!(!round.on_answered(Observe::Briefly) && !round.on_answered(Observe::Briefly));
        assert!(!round.on_timeout(brief) && round.is_busy());
        assert!(!round.on_answered(Observe::Fully) && round.on_answered(Observe::Fully));
        assert!(!round.is_busy() && !round.on_timeout(full));
        let late = round.begin(Observe::Fully, 1);
        assert!(round.on_timeout(late) && !round.on_answered(Observe::Fully));
    }
}
