//! The sender: one test that starts on this host.
//!
//! It owns the test's state (epoch, sequence numbers, health, and what comes back) and has it enrolled
//! with the pacer of its source, which sends when its turn comes. It stops when the watcher says so,
//! with a last probe that says goodbye if nothing of the test is to follow, or when it panics; the
//! watcher rebuilds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use tracing::{Span, info_span};

use crate::io::outgoing::{Line, Post};
use crate::io::time;
use crate::messages::{Enrol, Farewell, Generation, Observe, Report, Send, SenderFact, Station, Stop};
use crate::pure::alarm::{ConditionChange, Kind};
use crate::pure::condition::State;
use crate::pure::probe::flag;
use crate::pure::sending::{SenderPlan, Sending};
use crate::pure::status::{Role, SenderStatus, TestStatus};
use crate::pure::test::TestId;

/// See the module.
pub struct Sender {
    line: Arc<Line>,
    station: Arc<Station>,
    generation: Generation,
}

/// What a sender begins with.
pub struct Beginning {
    /// What to send.
    pub plan: Arc<SenderPlan>,
    /// From where, and with whom.
    pub station: Arc<Station>,
    /// Which of its name this is.
    pub generation: Generation,
}

impl Sender {
    /// A sender whose epoch begins now.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { plan, station, generation } = beginning;
        let now = time::now();
        let epoch = station.gauges.next_epoch(now.wall);
        let line = Line::new(plan.test.id, Sending::new(plan, now, epoch));
        Sender { line, station, generation }
    }

    fn id(&self) -> TestId {
        self.line.id
    }

    /// There are too many senders for each to keep a span of its own.
    fn span(&self) -> Span {
        info_span!("sender", test = %self.id())
    }

    fn say(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.station.parent.do_send(SenderFact::Changed(change)));
    }

    /// Announces the stop, twice: one datagram may get lost.
    fn say_goodbye(&self, sending: &mut Sending) {
        let mut post = Post::new(self.station.gauges.clone());
        for _ in 0..2 {
            post.send_turn(sending, &self.station.outlet, flag::STOPS, time::now());
        }
    }
}

impl Actor for Sender {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.station.pacer.do_send(Enrol(self.line.clone()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.line.state().withdraw();
        self.station.parent.do_send(SenderFact::Down(self.id(), self.generation));
    }
}

impl Handler<Send> for Sender {
    type Result = ();
    fn handle(&mut self, Send { plan, station }: Send, _: &mut Self::Context) {
        let span = self.span();
        let _entered = span.enter();
        let mut changes = Vec::new();
        {
            let mut sending = self.line.state();
            if plan.destination != sending.plan().destination {
                // Whoever still listens there may hear of the change later.
                self.say_goodbye(&mut sending);
            }
            let now = time::now();
            let epoch = self.station.gauges.next_epoch(now.wall);
            sending.on_plan(plan, epoch, now, &mut changes);
        }
        self.station = station;
        self.station.pacer.do_send(Enrol(self.line.clone()));
        self.say(changes);
    }
}

impl Handler<Farewell> for Sender {
    type Result = ();
    fn handle(&mut self, farewell: Farewell, _: &mut Self::Context) {
        let Farewell { from, signed_with, sent, .. } = farewell;
        self.line.state().on_farewell(from, signed_with, sent, time::now());
    }
}

impl Handler<Report> for Sender {
    type Result = ();
    fn handle(&mut self, _: Report, _: &mut Self::Context) {
        let changes = self.line.state().report(time::now());
        self.say(changes);
    }
}

impl Handler<Observe> for Sender {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        let sending = self.line.state();
        let (health, counts) = (sending.health(), sending.counts());
        let condition = health.condition();
        let test = sending.plan().test.clone();
        let sender = SenderStatus {
            test: test.clone(),
            condition: condition.state(),
            sent: counts.sent,
            errors: counts.errors,
            skipped: counts.skipped,
            lateness_seconds: counts.lateness_nanos as f64 / 1e9,
            last_error: health.last_error().map(str::to_owned),
        };
        let own = TestStatus {
            condition: condition.state(),
            since: (condition.state() != State::Unknown).then(|| condition.since().wall),
            conditions: BTreeMap::from([(Kind::Sender, condition.state())]),
            ..TestStatus::unknown(test, Role::Sender)
        };
        let status = match sending.answers() {
            None => own,
            Some(answers) => {
                let mut status = TestStatus::of(answers, time::now().moment);
                status.conditions.extend(own.conditions);
                match condition.is_down() {
                    true => TestStatus { condition: own.condition, since: own.since, ..status },
                    false => status,
                }
            }
        };
        drop(sending);
        self.station.parent.do_send(SenderFact::Observed(Box::new(sender), Box::new(status)));
    }
}

impl Handler<Stop> for Sender {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        if stop == Stop::WithGoodbye {
            self.say_goodbye(&mut self.line.state());
        }
        ctx.stop();
    }
}
