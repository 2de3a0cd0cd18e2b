//! The sink actor: delivers alarms to one receiver, and records what the receiver was notified of.
//!
//! It owns the receiver's notification log, in memory and on disk, and the connection to the receiver. It stops on
//! `Stop`, after due messages were tried once more, when a removed sink has delivered its clears, or when it panics.
//! The alarm actor rebuilds it, and the log on disk then states what its receiver was notified of.

mod kept_log;

use std::path::Path;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tracing::{Span, info, info_span, warn};

use crate::config::sink_plan::SinkPlan;
use crate::io::error_chain::error_chain;
use crate::io::receiver::Receiver;
use crate::io::receiver::delivery::{Delivered, Identity, Outcome};
use crate::io::state::file::StateFile;
use crate::io::time;
use crate::messages::{
    Generation, Observe, QueryNotified, Reconfigure, Resync, Retain, SinkFact, Stop, TakeOver, UpdateAlarm,
};
use crate::pure::base::time::Moment;
use crate::pure::notify::log::{HoldDown, NotificationLog, Scope};
use crate::pure::status::snapshot::SinkStatus;

use kept_log::{KeptLog, SAVE_EVERY, SAVE_WITHIN, log_file};
pub use kept_log::{has_log, warn_of_unconfigured_receivers};

/// Longest pause that a receiver may ask for; longer requests are cut to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Shortest interval between two batches of messages, since each batch costs a write to disk.
const BATCH_EVERY: Duration = Duration::from_millis(100);
/// Pause after a write, as a multiple of the time that it took, and at most `SAVE_WITHIN`. A log of many thousand
/// alarms is thus written less often, in larger batches.
const SAVE_REST_FACTOR: u32 = 10;
/// Greatest number of messages in a batch. A receiver that counts as away is tried with one.
const MAX_IN_A_BATCH: usize = 1000;
/// Time for which a removed or narrowed sink tries to clear what it notified; a receiver that is away longer is named
/// in the log file.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Shortest interval between two log lines about different problems of the same receiver.
const PROBLEM_AGAIN: Duration = Duration::from_secs(60);

/// Actor that delivers to one receiver; the module documentation describes what it owns and when it stops.
pub struct Sink {
    plan: SinkPlan,
    identity: Identity,
    parent: Recipient<SinkFact>,
    generation: Generation,
    ledger: NotificationLog,
    state: StateFile,
    state_broken: bool,
    /// Set while the file on disk is still that of the previous run.
    kept_by_earlier_run: bool,
    /// Connection to the receiver; `None` while a batch in flight uses it.
    receiver: Option<Receiver>,
    /// Connection by a changed configuration, which was adopted while a batch was in flight.
    next_receiver: Option<Receiver>,
    /// Set if the notification log has changed since it was last saved.
    unsaved: bool,
    /// Earliest time of the next write after one that failed.
    save_not_before: Moment,
    /// Time at which the notification log was written last.
    saved_at: Moment,
    not_before: Moment,
    timer: Option<(Moment, SpawnHandle)>,
    stopping: bool,
    /// Deadline of a removed sink, which ends earlier if its receiver was notified of every clear.
    removal_deadline: Option<Moment>,
    sent: u64,
    failed: u64,
    /// Reason why the last message was not taken, and the time at which the log file named one.
    problem: Option<(String, Moment)>,
    span: Span,
}

/// Constructor arguments of a sink.
pub struct Args<'a> {
    /// Plan of the sink: its configuration, notification policy and parting.
    pub plan: SinkPlan,
    /// Identity of this agent, which outbound messages name as their origin.
    pub identity: Identity,
    /// Directory in which the notification log is kept.
    pub state_dir: &'a Path,
    /// Damping of alarms that an earlier run notified of, until their own is known.
    pub damping: HoldDown,
    /// Alarm actor that receives the status of this sink and the report of its end.
    pub parent: Recipient<SinkFact>,
    /// Generation of this sink, by which the alarm actor distinguishes it from predecessors of the same name.
    pub generation: Generation,
    /// Start message for the receiver, if the agent has just started.
    pub start_message: StartMessage,
}

/// Start message that a new sink sends before its first alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMessage {
    /// The agent has just started, and the receiver is notified of that.
    ColdStart,
    /// The sink alone was started or rebuilt, so that no start message is sent.
    None,
}

impl Sink {
    /// Creates a sink, and loads from disk what its receiver was notified of.
    pub fn new(beginning: Args<'_>) -> Self {
        let now = time::now();
        let name = &beginning.plan.config.name;
        let span = info_span!("sink", name);
        let _entered = span.clone().entered();
        let agent = &beginning.identity.agent;
        let state = log_file(beginning.state_dir, agent, &beginning.plan.config);
        let mut ledger = NotificationLog::new(agent.as_ref(), beginning.plan.manner.clone(), now.moment);
        let kept_by_earlier_run = state.exists();
        let (records, recollection) = KeptLog::load_list(&state, now.wall);
        ledger.load(records, recollection, beginning.damping, now);
        let leaves = beginning.plan.manner.scope == Scope::Nothing;
        if beginning.start_message == StartMessage::ColdStart {
            ledger.on_cold_start();
        }
        Sink {
            receiver: Some(Receiver::new(&beginning.plan.config, &beginning.identity)),
            plan: beginning.plan,
            identity: beginning.identity,
            parent: beginning.parent,
            generation: beginning.generation,
            ledger,
            state,
            state_broken: false,
            kept_by_earlier_run,
            next_receiver: None,
            unsaved: true,
            saved_at: now.moment,
            save_not_before: Moment::ZERO,
            not_before: Moment::ZERO,
            timer: None,
            stopping: false,
            removal_deadline: leaves.then(|| now.moment + REMOVAL_TIMEOUT),
            sent: 0,
            failed: 0,
            problem: None,
            span: span.clone(),
        }
    }

    /// Sends what is due, or arms the timer for when something will be.
    fn send_due(&mut self, ctx: &mut Context<Self>) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let full = time::now();
        let now = full.moment;
        let due = if now < self.not_before { Vec::new() } else { self.ledger.take_due(full, MAX_IN_A_BATCH) };
        let overdue = now >= self.next_save();
        if due.is_empty() && !overdue {
            self.receiver = Some(receiver);
            if self.stopping || self.may_stop(now) {
                ctx.stop();
                return;
            }
            self.arm(now, ctx);
            return;
        }
        self.unsaved = false;
        self.saved_at = now;
        let (state, log) = (self.state.clone(), KeptLog::new(&self.ledger, false, full.wall));
        let delivery = async move {
            // The log is saved before the messages are sent: after a crash in between they are sent again, never
            // lost.
            let began = Instant::now();
            let kept = log.save(state).await;
            let rest = began.elapsed().saturating_mul(SAVE_REST_FACTOR).clamp(BATCH_EVERY, SAVE_WITHIN);
            let delivered = receiver.deliver(due).await;
            (kept, rest, receiver, delivered)
        };
        ctx.spawn(delivery.into_actor(self).map(|(kept, rest, receiver, delivered), sink, ctx| {
            let span = sink.span.clone();
            let _entered = span.enter();
            sink.receiver = Some(sink.next_receiver.take().unwrap_or(receiver));
            sink.on_kept(kept);
            sink.on_delivered(delivered, rest);
            sink.send_due(ctx);
        }));
    }

    /// Returns when the log is to be written if no message is sent before.
    fn next_save(&self) -> Moment {
        if self.unsaved { self.save_not_before } else { self.save_not_before.max(self.saved_at + SAVE_EVERY) }
    }

    /// Returns whether a removed sink has notified its receiver of everything, or has run out of time.
    fn may_stop(&self, now: Moment) -> bool {
        let Some(removal_deadline) = self.removal_deadline else { return false };
        if self.ledger.is_settled() {
            return true;
        }
        if removal_deadline > now {
            return false;
        }
        let (target, alarms) = (self.plan.config.place(), self.ledger.records().len());
        let help = "clear them manually at the receiver";
        warn!(target, alarms, help, "a receiver that is no longer configured could not be notified of clears");
        true
    }

    fn arm(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let due = self.ledger.next_deadline(now).map(|next| next.max(self.not_before));
        let next = due.into_iter().chain([self.next_save()]).chain(self.removal_deadline).min().unwrap_or(now);
        match self.timer {
            Some((set, _)) if set <= next => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let handle = ctx.run_later(next.since(now), |sink, ctx| {
            let span = sink.span.clone();
            let _entered = span.enter();
            sink.timer = None;
            sink.send_due(ctx);
        });
        self.timer = Some((next, handle));
    }

    fn on_delivered(&mut self, delivered: Delivered, rest: Duration) {
        if delivered.outcomes.is_empty() {
            return;
        }
        self.unsaved = true;
        let now = time::now().moment;
        let (mut problem, mut reached) = (None, false);
        for (due, outcome) in delivered.outcomes {
            match outcome {
                Outcome::Delivered => {
                    self.sent += 1;
                    reached = true;
                    self.ledger.on_delivered(&due, now);
                }
                Outcome::Nothing => self.ledger.on_delivered(&due, now),
                Outcome::NotTried => self.ledger.on_not_tried(&due, now),
                Outcome::Refused(why) => {
                    self.failed += 1;
                    self.ledger.on_refused(&due, now);
                    problem.get_or_insert(("the receiver rejects a message", why));
                }
                Outcome::Unreachable(why) => {
                    self.failed += 1;
                    self.ledger.on_failed(&due, now);
                    problem.get_or_insert(("a message did not reach the receiver", why));
                }
            }
        }
        self.not_before = now + rest;
        if let Some(asked) = delivered.retry_after {
            self.ledger.postpone(now + asked.min(LONGEST_RETRY_AFTER));
        }
        match problem {
            Some((what, why)) => self.on_problem(what, why, now),
            None if reached && self.problem.take().is_some() => {
                info!(target = self.plan.config.place(), "receiver reached again");
            }
            None => {}
        }
    }

    /// Logs a problem when it differs from the previous one, at most once in `PROBLEM_AGAIN`.
    fn on_problem(&mut self, what: &str, why: String, now: Moment) {
        let named = match &self.problem {
            Some((known, named)) if *known == why || now.since(*named) < PROBLEM_AGAIN => *named,
            Some(_) | None => {
                warn!(target = self.plan.config.place(), problem = why, "{what}; it is sent again");
                now
            }
        };
        self.problem = Some((why, named));
    }

    fn on_kept(&mut self, kept: Result<(), String>) {
        match kept {
            Ok(()) => (self.state_broken, self.kept_by_earlier_run) = (false, false),
            Err(problem) => {
                // The next run would take the old file for the latest state.
                if std::mem::take(&mut self.kept_by_earlier_run) {
                    self.state.remove();
                }
                // The write is repeated with the next batch, or on its own after `SAVE_WITHIN`.
                self.unsaved = true;
                self.save_not_before = time::now().moment + SAVE_WITHIN;
                if !self.state_broken {
                    let help = "make state_dir writable";
                    warn!(problem, help, "the notification log cannot be saved; a restart may lose a clear");
                }
                self.state_broken = true;
            }
        }
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.send_due(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if self.removal_deadline.is_some() && self.ledger.is_settled() {
            self.state.remove();
            self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
            return;
        }
        let notified = KeptLog::new(&self.ledger, true, time::now().wall);
        if let Err(error) = self.state.save(&[notified]) {
            warn!(problem = error_chain(&error), "the notification log cannot be saved; a restart may lose a clear");
        }
        self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
    }
}

impl Handler<UpdateAlarm> for Sink {
    type Result = ();
    fn handle(&mut self, UpdateAlarm(standing, damping): UpdateAlarm, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.ledger.on_change(standing, damping, time::now().moment);
        self.send_due(ctx);
    }
}

impl Handler<Retain> for Sink {
    type Result = ();
    fn handle(&mut self, retain: Retain, ctx: &mut Self::Context) {
        self.ledger.retain(&retain.possible, retain.knowledge, time::now());
        self.send_due(ctx);
    }
}

impl Handler<Reconfigure> for Sink {
    type Result = ();
    fn handle(&mut self, Reconfigure(plan): Reconfigure, ctx: &mut Self::Context) {
        let now = time::now();
        if plan.config != self.plan.config {
            let receiver = Receiver::new(&plan.config, &self.identity);
            match self.receiver {
                Some(_) => self.receiver = Some(receiver),
                None => self.next_receiver = Some(receiver),
            }
            self.not_before = now.moment;
        }
        self.plan = plan;
        let handed_over = self.ledger.on_manner(self.plan.manner.clone(), self.plan.on_removal, now);
        if !handed_over.is_empty() {
            self.parent.do_send(SinkFact::HandedOver(Box::new(self.plan.config.clone()), handed_over));
        }
        // A sink with an empty scope ends once its clears are delivered.
        let leaves = self.plan.manner.scope == Scope::Nothing;
        self.removal_deadline = leaves.then(|| self.removal_deadline.unwrap_or(now.moment + REMOVAL_TIMEOUT));
        self.send_due(ctx);
    }
}

impl Handler<Observe> for Sink {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        self.parent.do_send(SinkFact::Observed(Box::new(SinkStatus {
            name: self.plan.config.name.clone(),
            kind: self.plan.config.kind.as_str(),
            target: self.plan.config.place(),
            scope: self.plan.manner.scope,
            counts: self.ledger.counts(time::now().moment),
            sent: self.sent,
            failed: self.failed,
            last_error: self.problem.as_ref().map(|(problem, _)| problem.clone()),
        })));
    }
}

impl Handler<TakeOver> for Sink {
    type Result = ();
    fn handle(&mut self, TakeOver(records, damping): TakeOver, ctx: &mut Self::Context) {
        self.ledger.adopt_records(records, damping, time::now());
        self.unsaved = true;
        self.send_due(ctx);
    }
}

impl Handler<QueryNotified> for Sink {
    type Result = MessageResult<QueryNotified>;
    fn handle(&mut self, _: QueryNotified, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.ledger.notified(time::now()).collect())
    }
}

impl Handler<Resync> for Sink {
    type Result = usize;
    fn handle(&mut self, _: Resync, ctx: &mut Self::Context) -> usize {
        let resent = self.ledger.resync(time::now().moment);
        self.send_due(ctx);
        resent
    }
}

impl Handler<Stop> for Sink {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        if stop == Stop::Quietly {
            ctx.stop();
            return;
        }
        // Due messages are sent now or not at all; a batch in flight is awaited.
        self.stopping = true;
        if self.ledger.is_away() {
            ctx.stop();
            return;
        }
        self.not_before = Moment::ZERO;
        self.send_due(ctx);
    }
}
