//! Asking the watcher's children how they stand, and saying what they answered together.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::Watcher;
use super::observed::Shown;
use crate::io::time;
use crate::messages::{Observe, WatcherFact, WatcherStatus};
use crate::pure::status::Status;

/// Children answer within this.
const OBSERVE_WAIT: Duration = Duration::from_millis(900);

/// What was asked for last.
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

impl Watcher {
    /// One of the children has answered; what was asked in an earlier round does not count.
    pub(super) fn on_answered(&mut self, answered: Observe) {
        if answered != self.round.observe || self.round.left == 0 {
            return;
        }
        self.round.left -= 1;
        if self.round.left == 0 {
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
        if self.round.left > 0 && self.round.observe == Observe::Fully {
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
        let number = self.round.number + 1;
        self.round = Round { observe, left, number };
        if left == 0 {
            self.say_observed();
            return;
        }
        ctx.run_later(OBSERVE_WAIT, move |watcher, _| {
            if watcher.round.number == number && std::mem::take(&mut watcher.round.left) > 0 {
                watcher.say_observed();
            }
        });
    }
}
