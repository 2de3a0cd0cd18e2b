//! The sender: one test that starts on this host.
//!
//! It owns the test's schedule, epoch and sequence numbers; the socket is shared with the other
//! tests of its source address and lent by the watcher. It stops when the watcher says so, with a
//! last probe that says goodbye if the whole agent stops, or when it panics; the watcher rebuilds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use tracing::{Span, debug, info_span};

use crate::config::central::Wire;
use crate::config::plan::SenderPlan;
use crate::io::gauges::Gauges;
use crate::io::time;
use crate::io::udp::{Socket, describe_send_error};
use crate::messages::{Generation, Observe, Report, Send, SenderFact, Stop, TakeError};
use crate::pure::alarm::Kind;
use crate::pure::condition::State;
use crate::pure::probe::{Probe, flag};
use crate::pure::probe_v1::ProbeV1;
use crate::pure::schedule::Schedule;
use crate::pure::sender_health::SenderHealth;
use crate::pure::status::{Role, SenderStatus, TestStatus};
use crate::pure::time::{Moment, Now};

/// See the module.
pub struct Sender {
    plan: SenderPlan,
    socket: Arc<Socket>,
    gauges: Gauges,
    parent: Recipient<SenderFact>,
    generation: Generation,
    schedule: Schedule,
    health: SenderHealth,
    epoch: u64,
    sequence: u32,
    /// How late the last probe left after its timestamp, in nanoseconds.
    lateness: Option<i32>,
    /// The slot that is armed, or has just passed.
    slot: Option<Moment>,
    timer: Option<SpawnHandle>,
    sent: u64,
    errors: u64,
    skipped: u64,
    span: Span,
}

/// What a sender begins with.
pub struct Beginning {
    /// What to send.
    pub plan: SenderPlan,
    /// From where.
    pub socket: Arc<Socket>,
    /// Readings of others.
    pub gauges: Gauges,
    /// The watcher.
    pub parent: Recipient<SenderFact>,
    /// Which of its name this is.
    pub generation: Generation,
}

impl Sender {
    /// A sender whose epoch begins now.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { plan, socket, gauges, parent, generation } = beginning;
        let now = time::now();
        Sender {
            schedule: Schedule::new(plan.send_every, plan.test.id.as_u128()),
            health: SenderHealth::new(plan.test.clone(), plan.thresholds, now.moment + plan.startup_grace),
            epoch: now.wall.unix_micros(),
            sequence: 0,
            lateness: None,
            slot: None,
            timer: None,
            sent: 0,
            errors: 0,
            skipped: 0,
            span: info_span!("sender", test = %plan.test.id),
            plan,
            socket,
            gauges,
            parent,
            generation,
        }
    }

    /// Arms the next slot. Those that passed meanwhile are counted and left out.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let now = time::now().moment;
        let next = self.schedule.next_slot(now);
        if let Some(passed) = self.slot.replace(next) {
            let slots = next.since(passed).as_nanos() / self.plan.send_every.as_nanos().max(1);
            self.skipped += u64::try_from(slots.saturating_sub(1)).unwrap_or(0);
        }
        self.timer = Some(ctx.run_later(next.since(now), |sender, ctx| {
            let span = sender.span.clone();
            let _entered = span.enter();
            sender.on_slot();
            sender.arm(ctx);
        }));
    }

    fn on_slot(&mut self) {
        let now = time::now();
        if let Some(change) = self.health.on_slot(now) {
            self.parent.do_send(SenderFact::Changed(change));
        }
        self.send(now, 0);
    }

    fn send(&mut self, now: Now, flags: u8) {
        let plan = &self.plan;
        let sent = match plan.wire {
            Wire::Stamp => self.socket.send(&self.probe(now, flags).encode(), plan.destination, plan.source),
            Wire::JsonV1 => {
                let probe = ProbeV1 {
                    config_version: self.gauges.config_version(),
                    sent: now.wall,
                    host_id: plan.test.from_host.clone(),
                    test_id: plan.test.id,
                };
                self.socket.send(&probe.encode(), plan.destination, plan.source)
            }
        };
        self.sequence = self.sequence.wrapping_add(1);
        match sent {
            Ok(()) => {
                let lateness = time::now().moment.since(now.moment);
                self.lateness = i32::try_from(lateness.as_nanos()).ok();
                self.sent += 1;
            }
            Err(error) => {
                self.lateness = None;
                self.on_error(describe_send_error(&error, self.plan.destination), now);
            }
        }
    }

    fn probe(&self, now: Now, flags: u8) -> Probe {
        let correction = if self.lateness.is_some() { flag::CORRECTION_VALID } else { 0 };
        let clock_error = self.gauges.clock_error().as_nanos();
        Probe {
            sequence: self.sequence,
            sent: now.wall,
            error_estimate: self.gauges.error_estimate(),
            ssid: Probe::ssid_of(self.plan.test.id),
            flags: flags | correction,
            flow: 0,
            key_id: 0,
            test_id: self.plan.test.id,
            epoch: self.epoch,
            send_every: self.plan.send_every,
            config_revision: self.gauges.config_revision(),
            clock_error: u32::try_from(clock_error).unwrap_or(u32::MAX),
            previous_lateness: self.lateness.unwrap_or(0),
        }
    }

    fn on_error(&mut self, cause: String, now: Now) {
        debug!(cause, "probe not sent");
        self.errors += 1;
        self.health.on_error(cause, now);
    }

    fn on_path_error(&mut self, cause: String, now: Now) {
        debug!(cause, "probe not delivered");
        self.errors += 1;
        self.health.on_path_error(cause, now);
    }
}

impl Actor for Sender {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.arm(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(SenderFact::Down(self.plan.test.id, self.generation));
    }
}

impl Handler<Send> for Sender {
    type Result = ();
    fn handle(&mut self, Send(plan, socket): Send, ctx: &mut Self::Context) {
        let same_schedule = plan.send_every == self.plan.send_every;
        if plan.destination != self.plan.destination {
            // Whoever still listens there may hear of the change later.
            let now = time::now();
            self.send(now, flag::STOPS);
            self.health.on_moved(now.moment + plan.startup_grace);
        }
        self.health.on_plan(plan.test.clone(), plan.thresholds);
        self.schedule = Schedule::new(plan.send_every, plan.test.id.as_u128());
        self.plan = plan;
        self.socket = socket;
        if !same_schedule {
            self.slot = None;
            if let Some(timer) = self.timer.take() {
                ctx.cancel_future(timer);
            }
            self.arm(ctx);
        }
    }
}

impl Handler<TakeError> for Sender {
    type Result = ();
    fn handle(&mut self, TakeError(cause): TakeError, _: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.on_path_error(cause, time::now());
    }
}

impl Handler<Report> for Sender {
    type Result = ();
    fn handle(&mut self, _: Report, _: &mut Self::Context) {
        if let Some(change) = self.health.report(time::now()) {
            self.parent.do_send(SenderFact::Changed(change));
        }
    }
}

impl Handler<Observe> for Sender {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        let condition = self.health.condition();
        let sender = SenderStatus {
            test: self.plan.test.clone(),
            condition: condition.state(),
            sent: self.sent,
            errors: self.errors,
            skipped: self.skipped,
            last_error: self.health.last_error().map(str::to_owned),
        };
        let test = TestStatus {
            condition: condition.state(),
            since: (condition.state() != State::Unknown).then(|| condition.since().wall),
            conditions: BTreeMap::from([(Kind::Sender, condition.state())]),
            ..TestStatus::unknown(self.plan.test.clone(), Role::Sender)
        };
        self.parent.do_send(SenderFact::Observed(Box::new(sender), Box::new(test)));
    }
}

impl Handler<Stop> for Sender {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        if stop == Stop::WithGoodbye {
            self.send(time::now(), flag::STOPS);
        }
        ctx.stop();
    }
}
