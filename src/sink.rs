//! The sink: one receiver of alarms, and what it was told.
//!
//! It owns the receiver's ledger, on disk too, and the way out. It stops when the alarm actor says
//! so, after what is due was tried once more, or when it panics; the alarm actor rebuilds it, and
//! it knows from disk what its receiver was told.

use std::path::Path;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tracing::{Span, info, info_span, warn};

use crate::config::receivers::SinkPlan;
use crate::config::sinks::SinkConfig;
use crate::io::causes::describe;
use crate::io::outlet::{Delivered, Identity, Outcome, Outlet};
use crate::io::state_file::{Found, StateFile, recall};
use crate::io::time;
use crate::messages::{Account, Adopt, Generation, Learn, Observe, Resync, Retain, SinkFact, Stop, TakeOver};
use crate::pure::backoff::Backoff;
use crate::pure::ledger::{Damping, Ledger, Scope, ToldRecord};
use crate::pure::status::SinkStatus;
use crate::pure::time::Moment;

/// What its state files are called.
const TOLD: &str = "told";
/// A receiver that is away is tried after 1 s and then ever later, up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A receiver that asks for more time than this gets this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// A disk that takes longer does not keep people from being told.
const SAVE_WITHIN: Duration = Duration::from_secs(3);
/// Messages leave in batches this far apart at the least, since each batch costs a write to disk.
const BATCH_EVERY: Duration = Duration::from_millis(100);
/// The disk is left alone for so many times as long as it took to write. A book of many thousand
/// alarms is written less often, in larger batches.
const SAVE_REST: u32 = 10;
/// Messages in a batch. A receiver that was not reached is tried with one.
const MOST_IN_A_BATCH: usize = 1000;

/// See the module.
pub struct Sink {
    plan: SinkPlan,
    identity: Identity,
    parent: Recipient<SinkFact>,
    generation: Generation,
    ledger: Ledger,
    state: StateFile,
    state_broken: bool,
    /// The way out; elsewhere while a batch is on its way.
    outlet: Option<Outlet>,
    /// Another way out, adopted while a batch was on its way.
    next_outlet: Option<Outlet>,
    /// The ledger changed since it was last kept.
    unsaved: bool,
    /// A disk that failed is left alone until then.
    save_not_before: Moment,
    retry: Backoff,
    not_before: Moment,
    timer: Option<(Moment, SpawnHandle)>,
    stopping: bool,
    leaving: bool,
    sent: u64,
    failed: u64,
    last_error: Option<String>,
    /// Why the receiver, though it is there, did not take a message.
    refusal: Option<String>,
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
        let state = state_file(beginning.state_dir, agent, &beginning.plan.config);
        let mut ledger = Ledger::new(agent.as_ref(), beginning.plan.manner.clone(), now.moment);
        ledger.load(recall(&state, "told states", "receivers may keep old alarms"), beginning.damping, now);
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
            next_outlet: None,
            unsaved: false,
            save_not_before: Moment::ZERO,
            retry: RETRY,
            not_before: Moment::ZERO,
            timer: None,
            stopping: false,
            leaving: false,
            sent: 0,
            failed: 0,
            last_error: None,
            refusal: None,
            span: span.clone(),
        }
    }

    /// Sends what is due, or arms the timer for when something will be.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let Some(mut outlet) = self.outlet.take() else { return };
        let full = time::now();
        let now = full.moment;
        let most = if self.last_error.is_some() { 1 } else { MOST_IN_A_BATCH };
        let due = if now < self.not_before { Vec::new() } else { self.ledger.take_due(full, most) };
        let overdue = self.unsaved && now >= self.save_not_before;
        if due.is_empty() && !overdue {
            self.outlet = Some(outlet);
            if self.stopping || (self.leaving && self.ledger.is_settled()) {
                ctx.stop();
                return;
            }
            self.arm(now, ctx);
            return;
        }
        self.unsaved = false;
        let (state, records) = (self.state.clone(), self.ledger.records());
        let delivery = async move {
            // Kept before it is sent: after a crash in between it is told again, never forgotten.
            let began = Instant::now();
            let kept = save(state, records).await;
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

    fn arm(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let due = self.ledger.next_deadline(now).map(|next| next.max(self.not_before));
        let Some(next) = due.into_iter().chain(self.unsaved.then_some(self.save_not_before)).min() else { return };
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
        let (mut away, mut refused, mut reached) = (None, None, false);
        for (due, outcome) in delivered.outcomes {
            match outcome {
                Outcome::Delivered => {
                    self.sent += 1;
                    reached = true;
                    self.ledger.on_delivered(&due, now);
                }
                Outcome::Nothing => self.ledger.on_delivered(&due, now),
                Outcome::Refused(problem) => {
                    self.failed += 1;
                    reached = true;
                    self.ledger.on_refused(&due, now);
                    refused.get_or_insert(problem);
                }
                Outcome::Unreachable(problem) => {
                    self.failed += 1;
                    self.ledger.on_failed(&due, now);
                    away.get_or_insert(problem);
                }
            }
        }
        if let Some(problem) = &refused
            && self.refusal.as_ref() != Some(problem)
        {
            warn!(target = self.plan.config.place(), problem, "refused by the receiver, to be tried again");
        }
        if reached {
            self.refusal = refused;
        }
        match away {
            None => {
                if reached && self.last_error.take().is_some() {
                    info!(target = self.plan.config.place(), "receiver reached again");
                    self.retry.on_success();
                }
                self.not_before = now + rest;
            }
            Some(problem) => {
                if self.last_error.is_none() {
                    warn!(target = self.plan.config.place(), problem, "receiver not reached, trying on");
                }
                // Nobody waits for a sink that was taken away and whose receiver is away too.
                self.stopping |= self.leaving;
                self.last_error = Some(problem);
                let wait = self.retry.on_failure(fastrand::f64());
                self.not_before =
                    now + delivered.retry_after.map_or(wait, |asked| asked.clamp(wait, LONGEST_RETRY_AFTER));
            }
        }
    }

    fn on_kept(&mut self, kept: Result<(), String>) {
        match kept {
            Ok(()) => self.state_broken = false,
            Err(problem) => {
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

/// Two agents on one host may share a directory, and must not take each other's word for their own.
fn state_file(directory: &Path, agent: &str, config: &SinkConfig) -> StateFile {
    StateFile::new(directory, TOLD, &format!("{agent} {}", config.receiver()))
}

/// Says which receivers were told of alarms by an earlier run and are not configured any more:
/// nobody can tell them the end of it.
pub fn warn_of_forgotten(directory: &Path, agent: &str, plans: &[SinkPlan]) {
    let known = plans.iter().map(|plan| state_file(directory, agent, &plan.config).path().to_owned()).collect();
    for forgotten in StateFile::others(directory, TOLD, &format!("{agent} "), &known) {
        let Ok(Found::State(records)) = forgotten.load::<Vec<ToldRecord>>() else { continue };
        let raised = records.iter().filter(|record| record.notification.is_raised()).count();
        if raised > 0 {
            let path = forgotten.path().display().to_string();
            let way_out = "configure that sink once more to have them cleared there, or remove the file";
            warn!(path, alarms = raised, way_out, "a receiver that is no longer configured was told of alarms");
        }
    }
}

async fn save(state: StateFile, records: Vec<ToldRecord>) -> Result<(), String> {
    let saved = tokio::task::spawn_blocking(move || state.save(&records));
    match tokio::time::timeout(SAVE_WITHIN, saved).await {
        Ok(Ok(saved)) => saved.map_err(|error| describe(&error)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer from state_dir within {}", humantime::format_duration(SAVE_WITHIN))),
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.pump(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Err(error) = self.state.save(&self.ledger.records()) {
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
            self.retry = RETRY;
            self.not_before = now.moment;
        }
        self.plan = plan;
        let handed_over = self.ledger.on_manner(self.plan.manner.clone(), self.plan.parting, now);
        if !handed_over.is_empty() {
            self.parent.do_send(SinkFact::HandedOver(Box::new(self.plan.config.clone()), handed_over));
        }
        // One that is to tell nothing any more ends when that is settled.
        self.leaving = self.plan.manner.scope == Scope::Nothing;
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
            last_error: self.last_error.clone().or_else(|| self.refusal.clone()),
        })));
    }
}

impl Handler<TakeOver> for Sink {
    type Result = ();
    fn handle(&mut self, TakeOver(records, damping): TakeOver, ctx: &mut Self::Context) {
        self.ledger.take_over(records, damping, time::now().moment);
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
        if self.last_error.is_some() {
            ctx.stop();
            return;
        }
        self.not_before = Moment::ZERO;
        self.pump(ctx);
    }
}
