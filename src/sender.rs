//! Sender actor: one test that starts on this host.
//!
//! The actor owns the session state (epoch, sequence numbers, health, and the results of reflected probes) and enrols
//! it with the pacer of its source, which sends the probes. It stops on `Stop` from the watcher or when it panics; the
//! watcher starts a new one. On `Stop::Announced`, when no other sender of the test follows, it announces the stop
//! to the receiver.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use tracing::{Span, info_span};

use crate::io::net::transmit::{SenderCell, Transmitter};
use crate::io::time;
use crate::messages::{
    ConditionReport, Generation, Observe, ReceiverStopping, Register, ReportConditions, Send, SenderContext,
    SenderFact, Stop,
};
use crate::pure::alarm::change::ConditionChange;
use crate::pure::alarm::key::Kind;
use crate::pure::judge::condition::State;
use crate::pure::stamp::packet::flag;
use crate::pure::stamp::session_sender::{SenderPlan, SessionSender};
use crate::pure::status::snapshot::{SenderStatus, TestStatus};
use crate::pure::test::id::TestId;
use crate::pure::test::role::Role;

/// Actor that owns the state of one test that starts on this host.
pub struct Sender {
    cell: Arc<SenderCell>,
    context: Arc<SenderContext>,
    generation: Generation,
}

/// Constructor arguments of a sender.
pub struct Args {
    /// Plan of the test: what to send, to which destination, and how often.
    pub plan: Arc<SenderPlan>,
    /// Sender context that senders of the same source share: sockets, pacer, shared state and the watcher.
    pub context: Arc<SenderContext>,
    /// Generation of this sender, which distinguishes it from earlier ones of the same test.
    pub generation: Generation,
}

impl Sender {
    /// Creates a sender with a new epoch that starts now.
    pub fn new(args: Args) -> Self {
        let Args { plan, context, generation } = args;
        let now = time::now();
        let epoch = context.shared.next_epoch(now.wall);
        let cell = SenderCell::new(plan.test.id, SessionSender::new(plan, now, epoch));
        Sender { cell, context, generation }
    }

    fn id(&self) -> TestId {
        self.cell.id
    }

    /// Creates the span for each use, because there are too many senders for each to keep its own.
    fn span(&self) -> Span {
        info_span!("sender", test = %self.id())
    }

    fn send_changes(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.context.reports.do_send(ConditionReport(change)));
    }

    /// Announces to the receiver that the test stops. The announcement is sent twice, because a datagram may be lost.
    fn announce_stop(&self, sending: &mut SessionSender) {
        let mut transmitter = Transmitter::new(self.context.shared.clone());
        for _ in 0..2 {
            transmitter.send_turn(sending, &self.context.sockets, flag::STOPS, time::now());
        }
    }
}

impl Actor for Sender {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.context.pacer.do_send(Register(self.cell.clone()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.cell.state().withdraw();
        self.context.parent.do_send(SenderFact::Down(self.id(), self.generation));
    }
}

impl Handler<Send> for Sender {
    type Result = ();
    fn handle(&mut self, Send { plan, context }: Send, _: &mut Self::Context) {
        let span = self.span();
        let _entered = span.enter();
        let mut changes = Vec::new();
        {
            let mut sending = self.cell.state();
            if plan.destination != sending.plan().destination {
                // The receiver at the previous destination may learn of the change later than this host, and must not
                // take the end of the probes for a fault.
                self.announce_stop(&mut sending);
            }
            let now = time::now();
            let epoch = self.context.shared.next_epoch(now.wall);
            sending.on_plan(plan, epoch, now, &mut changes);
        }
        self.context = context;
        self.context.pacer.do_send(Register(self.cell.clone()));
        self.send_changes(changes);
    }
}

impl Handler<ReceiverStopping> for Sender {
    type Result = ();
    fn handle(&mut self, stop_announced: ReceiverStopping, _: &mut Self::Context) {
        let ReceiverStopping { from, signed_with, sent, .. } = stop_announced;
        self.cell.state().on_stop_announced(from, signed_with, sent, time::now());
    }
}

impl Handler<ReportConditions> for Sender {
    type Result = ();
    fn handle(&mut self, _: ReportConditions, _: &mut Self::Context) {
        let changes = self.cell.state().report(time::now());
        self.send_changes(changes);
    }
}

impl Handler<Observe> for Sender {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        let sending = self.cell.state();
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
        self.context.parent.do_send(SenderFact::Observed(Box::new(sender), Box::new(status)));
    }
}

impl Handler<Stop> for Sender {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        if stop == Stop::Announced {
            self.announce_stop(&mut self.cell.state());
        }
        ctx.stop();
    }
}
