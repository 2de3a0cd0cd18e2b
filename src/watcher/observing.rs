//! Asking the watcher's children how they stand, and saying what they answered together.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::Watcher;
use super::observed::Shown;
use crate::io::time;
use crate::messages::{Observe, WatcherFact, WatcherStatus};
use crate::pure::pace;
use crate::pure::status::Status;

/// Children answer within this, or a little more.
const OBSERVE_WAIT: Duration = pace::LONGEST.saturating_mul(3);

/// What was asked for last, and who has not answered yet.
pub struct Round {
    observe: Observe,
    /// How many of the children have not answered yet.
    left: usize,
    /// Tells its end from that of an earlier one.
    number: u64,
}

impl Default for Round {
    fn default() -> Self {
        Round { observe: Observe::Briefly, left: 0, number: 0 }
    }
}

impl Round {
    /// Begins; gives its number.
    fn begin(&mut self, observe: Observe, left: usize) -> u64 {
        *self = Round { observe, left, number: self.number + 1 };
        self.number
    }

    /// Whether everything is being waited for.
    fn is_busy(&self) -> bool {
        self.left > 0 && self.observe == Observe::Fully
    }

    /// A child has answered; what was asked in an earlier round does not count. Tells whether it was the last.
    fn on_answered(&mut self, answered: Observe) -> bool {
        if answered != self.observe || self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.left == 0
    }

    /// Nobody is waited for any longer. Tells whether that ends this round, which still ran.
    fn on_timeout(&mut self, number: u64) -> bool {
        self.number == number && std::mem::take(&mut self.left) > 0
    }
}

impl Watcher {
    /// One of the children has answered.
    pub(super) fn on_answered(&mut self, answered: Observe) {
        if self.round.on_answered(answered) {
            self.say_observed();
        }
    }

    fn say_observed(&self) {
        let now = time::now().wall;
        let problems = self.sockets.problems().map(|(binding, problem)| (binding.address, problem)).collect();
        let Shown { listeners, mut senders, mut tests } = match self.round.observe {
            Observe::Fully => self.observed.show(&self.running, &problems, &self.bootstrap.host),
            Observe::Briefly => self.observed.show_listeners(&self.running, &problems),
        };
        let store = self.config.status(now);
        let restarts = [
            ("listener", self.listeners.restarts()),
            ("pacer", self.pacers.restarts()),
            ("sender", self.senders.restarts()),
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
        self.say_lasting_faults();
        if self.round.is_busy() {
            // Still busy with the last time; whoever does not answer is shown as he was.
            return;
        }
        self.listeners.iter().for_each(|listener| listener.do_send(observe));
        let mut left = self.listeners.len();
        match observe {
            Observe::Fully => {
                self.senders.iter().for_each(|sender| sender.do_send(observe));
                left += self.senders.len();
            }
            Observe::Briefly => self.observed.forget_tests(),
        }
        let number = self.round.begin(observe, left);
        if left == 0 {
            self.say_observed();
            return;
        }
        ctx.run_later(OBSERVE_WAIT + time::until_next(pace::LONGEST), move |watcher, _| {
            if watcher.round.on_timeout(number) {
                watcher.say_observed();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A late answer to a brief question, and the end of its wait, are not those of the full one after it.
    #[test]
    fn an_earlier_round_does_not_end_a_later_one() {
        let mut round = Round::default();
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
