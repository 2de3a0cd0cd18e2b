//! The sink: one receiver of alarms, and what it was told.
//!
//! It owns the receiver's ledger, on disk too, and the way out. It stops when the alarm actor says
//! so, after what is due was tried once more, or when it panics; the alarm actor rebuilds it, and
//! it knows from disk what its receiver was told.

mod kept_log;

use std::path::Path;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tracing::{Span, info, info_span, warn};

use crate::config::receivers::SinkPlan;
use crate::io::causes::describe;
use crate::io::outlet::{Delivered, Identity, Outcome, Outlet};
use crate::io::state_file::StateFile;
use crate::io::time;
use crate::messages::{Account, Adopt, Generation, Learn, Observe, Resync, Retain, SinkFact, Stop, TakeOver};
use crate::pure::ledger::{Damping, Ledger, Scope};
use crate::pure::status::SinkStatus;
use crate::pure::time::Moment;

use kept_log::{KeptLog, SAVE_EVERY, SAVE_WITHIN, log_file};
pub use kept_log::{has_log, warn_of_forgotten};

/// A receiver that asks for more time than this gets this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Messages leave in batches this far apart at the least, since each batch costs a write to disk.
const BATCH_EVERY: Duration = Duration::from_millis(100);
/// The disk is left alone for so many times as long as it took to write. A book of many thousand
/// alarms is written less often, in larger batches.
const SAVE_REST: u32 = 10;
/// Messages in a batch. A receiver that was not reached is tried with one.
const MOST_IN_A_BATCH: usize = 1000;
/// A sink that was removed or narrowed tries to clear what it told for this long; a receiver that is away longer is
/// named in the log.
const LEAVE_WITHIN: Duration = Duration::from_secs(4 * 3600);
/// The log names another problem of the same receiver no sooner than this.
const PROBLEM_AGAIN: Duration = Duration::from_secs(60);

/// Delivers to one receiver; the module's documentation says what it owns and when it stops.
pub struct Sink {
    plan: SinkPlan,
    identity: Identity,
    parent: Recipient<SinkFact>,
    generation: Generation,
    ledger: Ledger,
    state: StateFile,
    state_broken: bool,
    /// The file on disk is still that of the previous run.
    kept_by_earlier_run: bool,
    /// The way out; elsewhere while a batch is on its way.
    outlet: Option<Outlet>,
    /// Another way out, adopted while a batch was on its way.
    next_outlet: Option<Outlet>,
    /// The ledger changed since it was last kept.
    unsaved: bool,
    /// A disk that failed is left alone until then.
    save_not_before: Moment,
    /// When the ledger was written last.
    saved_at: Moment,
    not_before: Moment,
    timer: Option<(Moment, SpawnHandle)>,
    stopping: bool,
    /// The sink was removed: it ends when its receiver has been told so, or then at the latest.
    leave_by: Option<Moment>,
    sent: u64,
    failed: u64,
    /// Why the last message was not taken, and when the log named that.
    problem: Option<(String, Moment)>,
    span: Span,
}

/// What a sink begins with.
pub struct Beginning<'a> {
    /// As configured.
    pub plan: SinkPlan,
    /// Who speaks.
    pub identity: Identity,
    /// Where told states are kept.
    pub state_dir: &'a Path,
    /// For what was told before this agent began.
    pub damping: Damping,
    /// The alarm actor.
    pub parent: Recipient<SinkFact>,
    /// Which of its name this is.
    pub generation: Generation,
    /// Whether the receiver is to be told that the agent has started.
    pub greeting: Greeting,
}

/// Whether the receiver is to be told that the agent has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The agent has just started.
    ColdStart,
    /// Only this sink has.
    None,
}

impl Sink {
    /// A sink that knows from disk what its receiver was told.
    pub fn new(beginning: Beginning<'_>) -> Self {
        let now = time::now();
        let name = &beginning.plan.config.name;
        let span = info_span!("sink", name);
        let _entered = span.clone().entered();
        let agent = &beginning.identity.agent;
        let state = log_file(beginning.state_dir, agent, &beginning.plan.config);
        let mut ledger = Ledger::new(agent.as_ref(), beginning.plan.manner.clone(), now.moment);
        let kept_by_earlier_run = state.exists();
        let (records, recollection) = KeptLog::recall(&state, now.wall);
        ledger.load(records, recollection, beginning.damping, now);
        let leaves = beginning.plan.manner.scope == Scope::Nothing;
        if beginning.greeting == Greeting::ColdStart {
            ledger.on_cold_start();
        }
        Sink {
            outlet: Some(Outlet::new(&beginning.plan.config, &beginning.identity)),
            plan: beginning.plan,
            identity: beginning.identity,
            parent: beginning.parent,
            generation: beginning.generation,
            ledger,
            state,
            state_broken: false,
            kept_by_earlier_run,
            next_outlet: None,
            unsaved: true,
            saved_at: now.moment,
            save_not_before: Moment::ZERO,
            not_before: Moment::ZERO,
            timer: None,
            stopping: false,
            leave_by: leaves.then(|| now.moment + LEAVE_WITHIN),
            sent: 0,
            failed: 0,
            problem: None,
            span: span.clone(),
        }
    }

    /// Sends what is due, or arms the timer for when something will be.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let Some(mut outlet) = self.outlet.take() else { return };
        let full = time::now();
        let now = full.moment;
        let due = if now < self.not_before { Vec::new() } else { self.ledger.take_due(full, MOST_IN_A_BATCH) };
        let overdue = now >= self.next_save();
        if due.is_empty() && !overdue {
            self.outlet = Some(outlet);
            if self.stopping || self.has_left(now) {
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
            // Kept before it is sent: after a crash in between it is told again, never forgotten.
            let began = Instant::now();
            let kept = log.save(state).await;
            let rest = began.elapsed().saturating_mul(SAVE_REST).clamp(BATCH_EVERY, SAVE_WITHIN);
            let delivered = outlet.deliver(due).await;
            (kept, rest, outlet, delivered)
        };
        ctx.spawn(delivery.into_actor(self).map(|(kept, rest, outlet, delivered), sink, ctx| {
            let span = sink.span.clone();
            let _entered = span.enter();
            sink.outlet = Some(sink.next_outlet.take().unwrap_or(outlet));
            sink.on_kept(kept);
            sink.on_delivered(delivered, rest);
            sink.pump(ctx);
        }));
    }

    /// When the ledger is to be written, if no message leaves before.
    fn next_save(&self) -> Moment {
        if self.unsaved { self.save_not_before } else { self.save_not_before.max(self.saved_at + SAVE_EVERY) }
    }

    /// Returns whether a removed sink has notified its receiver of everything, or has run out of time.
    fn has_left(&self, now: Moment) -> bool {
        let Some(leave_by) = self.leave_by else { return false };
        if self.ledger.is_settled() {
            return true;
        }
        if leave_by > now {
            return false;
        }
        let (target, alarms) = (self.plan.config.place(), self.ledger.records().len());
        let way_out = "clear them at the receiver by hand";
        warn!(
            target,
            alarms, way_out, "a receiver that is no longer configured could not be told that alarms are over"
        );
        true
    }

    fn arm(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let due = self.ledger.next_deadline(now).map(|next| next.max(self.not_before));
        let next = due.into_iter().chain([self.next_save()]).chain(self.leave_by).min().unwrap_or(now);
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
            sink.pump(ctx);
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
                    problem.get_or_insert(("the receiver refuses a message", why));
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

    /// Names a problem in the log when it is another one than before, but not ever so often.
    fn on_problem(&mut self, what: &str, why: String, now: Moment) {
        let named = match &self.problem {
            Some((known, named)) if *known == why || now.since(*named) < PROBLEM_AGAIN => *named,
            Some(_) | None => {
                warn!(target = self.plan.config.place(), problem = why, "{what}; it is tried again");
                now
            }
        };
        self.problem = Some((why, named));
    }

    fn on_kept(&mut self, kept: Result<(), String>) {
        match kept {
            Ok(()) => (self.state_broken, self.kept_by_earlier_run) = (false, false),
            Err(problem) => {
                // The next run would take it for the last word.
                if std::mem::take(&mut self.kept_by_earlier_run) {
                    self.state.remove();
                }
                // To be tried again with the next batch, or by itself.
                self.unsaved = true;
                self.save_not_before = time::now().moment + SAVE_WITHIN;
                if !self.state_broken {
                    let way_out = "make state_dir writable";
                    warn!(problem, way_out, "told states cannot be kept; a restart may lose a clear");
                }
                self.state_broken = true;
            }
        }
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.pump(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if self.leave_by.is_some() && self.ledger.is_settled() {
            self.state.remove();
            self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
            return;
        }
        let told = KeptLog::new(&self.ledger, true, time::now().wall);
        if let Err(error) = self.state.save(&[told]) {
            warn!(problem = describe(&error), "told states cannot be kept; a restart may lose a clear");
        }
        self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
    }
}

impl Handler<Learn> for Sink {
    type Result = ();
    fn handle(&mut self, Learn(standing, damping): Learn, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.ledger.on_change(standing, damping, time::now().moment);
        self.pump(ctx);
    }
}

impl Handler<Retain> for Sink {
    type Result = ();
    fn handle(&mut self, retain: Retain, ctx: &mut Self::Context) {
        self.ledger.retain(&retain.possible, retain.knowledge, time::now());
        self.pump(ctx);
    }
}

impl Handler<Adopt> for Sink {
    type Result = ();
    fn handle(&mut self, Adopt(plan): Adopt, ctx: &mut Self::Context) {
        let now = time::now();
        if plan.config != self.plan.config {
            let outlet = Outlet::new(&plan.config, &self.identity);
            match self.outlet {
                Some(_) => self.outlet = Some(outlet),
                None => self.next_outlet = Some(outlet),
            }
            self.not_before = now.moment;
        }
        self.plan = plan;
        let handed_over = self.ledger.on_manner(self.plan.manner.clone(), self.plan.parting, now);
        if !handed_over.is_empty() {
            self.parent.do_send(SinkFact::HandedOver(Box::new(self.plan.config.clone()), handed_over));
        }
        // One that is to tell nothing any more ends when that is settled.
        let leaves = self.plan.manner.scope == Scope::Nothing;
        self.leave_by = leaves.then(|| self.leave_by.unwrap_or(now.moment + LEAVE_WITHIN));
        self.pump(ctx);
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
        self.ledger.take_over(records, damping, time::now());
        self.unsaved = true;
        self.pump(ctx);
    }
}

impl Handler<Account> for Sink {
    type Result = MessageResult<Account>;
    fn handle(&mut self, _: Account, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.ledger.told(time::now()).collect())
    }
}

impl Handler<Resync> for Sink {
    type Result = usize;
    fn handle(&mut self, _: Resync, ctx: &mut Self::Context) -> usize {
        let resent = self.ledger.resync(time::now().moment);
        self.pump(ctx);
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
        // What is due leaves now or not at all; a batch on its way is waited for.
        self.stopping = true;
        if self.ledger.is_away() {
            ctx.stop();
            return;
        }
        self.not_before = Moment::ZERO;
        self.pump(ctx);
    }
}
