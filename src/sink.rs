//! The sink: one receiver of alarms, and what it was told.
//!
//! It owns the receiver's ledger, on disk too, and the way out. It stops when the alarm actor says
//! so, after what is due was tried once more, or when it panics; the alarm actor rebuilds it, and
//! it knows from disk what its receiver was told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tracing::{Span, info, info_span, warn};

use crate::config::plan::SinkPlan;
use crate::config::sinks::{SinkConfig, SinkKind};
use crate::io::outlet::Outlet;
use crate::io::state_file::{Found, StateFile};
use crate::io::time;
use crate::messages::{Adopt, Generation, Learn, Observe, Retain, SinkFact, Stop};
use crate::pure::backoff::Backoff;
use crate::pure::ledger::{Due, FirstUp, HoldDown, Ledger, Manner, Scope, ToldRecord};
use crate::pure::status::SinkStatus;
use crate::pure::time::Moment;

/// What its state files are called.
const TOLD: &str = "told";
/// A receiver that is away is tried after 1 s and then ever later, up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A disk that takes longer does not keep people from being told.
const SAVE_WITHIN: Duration = Duration::from_secs(3);
/// Messages leave in batches this far apart at the least, since each batch costs a write to disk.
const BATCH_EVERY: Duration = Duration::from_millis(100);

/// See the module.
pub struct Sink {
    plan: SinkPlan,
    agent: Arc<str>,
    config_server: Arc<str>,
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
    retry: Backoff,
    not_before: Moment,
    timer: Option<(Moment, SpawnHandle)>,
    stopping: bool,
    leaving: bool,
    sent: u64,
    failed: u64,
    last_error: Option<String>,
    span: Span,
}

/// What a sink begins with.
pub struct Beginning<'a> {
    /// As configured.
    pub plan: SinkPlan,
    /// This host.
    pub agent: Arc<str>,
    /// Where the documents come from.
    pub config_server: Arc<str>,
    /// Where told states are kept.
    pub state_dir: &'a Path,
    /// For what was told before this agent began.
    pub hold_down: HoldDown,
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
        let now = time::now().moment;
        let name = &beginning.plan.config.name;
        let span = info_span!("sink", name);
        let _entered = span.clone().entered();
        let state = state_file(beginning.state_dir, &beginning.agent, &beginning.plan.config);
        let mut ledger = Ledger::new(manner(&beginning.plan), now);
        // A log forgets nothing and corrects nothing: it is told all anew.
        if beginning.plan.config.kind != SinkKind::Log {
            ledger.load(load(&state), beginning.hold_down);
        }
        if beginning.greeting == Greeting::ColdStart {
            ledger.on_cold_start();
        }
        Sink {
            outlet: Some(Outlet::new(&beginning.plan.config, &beginning.agent, &beginning.config_server)),
            plan: beginning.plan,
            agent: beginning.agent,
            config_server: beginning.config_server,
            parent: beginning.parent,
            generation: beginning.generation,
            ledger,
            state,
            state_broken: false,
            next_outlet: None,
            unsaved: false,
            retry: RETRY,
            not_before: Moment::ZERO,
            timer: None,
            stopping: false,
            leaving: false,
            sent: 0,
            failed: 0,
            last_error: None,
            span: span.clone(),
        }
    }

    /// Sends what is due, or arms the timer for when something will be.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = time::now().moment;
        let Some(mut outlet) = self.outlet.take() else { return };
        let due = if now < self.not_before { Vec::new() } else { self.ledger.take_due(now) };
        let keep = self.plan.config.kind != SinkKind::Log;
        if due.is_empty() && !(keep && self.unsaved) {
            self.outlet = Some(outlet);
            let settled = self.leaving && self.ledger.next_deadline(now).is_none();
            if self.stopping || settled {
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
            let kept = if keep { save(state, records).await } else { Ok(()) };
            let outcomes = outlet.deliver(due).await;
            (kept, outlet, outcomes)
        };
        ctx.spawn(delivery.into_actor(self).map(|(kept, outlet, outcomes), sink, ctx| {
            let span = sink.span.clone();
            let _entered = span.enter();
            sink.outlet = Some(sink.next_outlet.take().unwrap_or(outlet));
            sink.on_kept(kept);
            sink.on_outcomes(outcomes);
            sink.pump(ctx);
        }));
    }

    fn arm(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let Some(next) = self.ledger.next_deadline(now).map(|next| next.max(self.not_before)) else { return };
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

    fn on_outcomes(&mut self, outcomes: Vec<(Due, Result<(), String>)>) {
        if outcomes.is_empty() {
            return;
        }
        self.unsaved = true;
        let now = time::now().moment;
        let mut failure = None;
        for (due, outcome) in outcomes {
            match outcome {
                Ok(()) => {
                    self.sent += 1;
                    self.ledger.on_delivered(&due, now);
                }
                Err(problem) => {
                    self.failed += 1;
                    self.ledger.on_failed(&due);
                    failure = Some(problem);
                }
            }
        }
        match failure {
            None => {
                if self.last_error.take().is_some() {
                    info!(target = self.plan.config.place(), "receiver reached again");
                }
                self.retry.on_success();
                self.not_before = now + BATCH_EVERY;
            }
            Some(problem) => {
                if self.last_error.is_none() {
                    warn!(target = self.plan.config.place(), problem, "receiver not reached, trying on");
                }
                // Nobody waits for a sink that was taken away and whose receiver is away too.
                self.stopping |= self.leaving;
                self.last_error = Some(problem);
                self.not_before = now + self.retry.on_failure(fastrand::f64());
            }
        }
    }

    fn on_kept(&mut self, kept: Result<(), String>) {
        match kept {
            Ok(()) => self.state_broken = false,
            Err(problem) => {
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
        if !records.is_empty() {
            let path = forgotten.path().display().to_string();
            let way_out = "configure that sink once more to have them cleared there, or remove the file";
            warn!(path, alarms = records.len(), way_out, "a receiver that is no longer configured was told of alarms");
        }
    }
}

fn manner(plan: &SinkPlan) -> Manner {
    let first_up = match plan.config.kind {
        SinkKind::Log => FirstUp::Told,
        SinkKind::Snmp => FirstUp::Silent,
    };
    let repeat = plan.repeat.clone();
    Manner { rate: plan.config.rate, burst: plan.config.burst, scope: plan.scope, first_up, repeat }
}

fn load(state: &StateFile) -> Vec<ToldRecord> {
    match state.load() {
        Ok(Found::State(records)) => records,
        Ok(Found::Nothing) => Vec::new(),
        Ok(Found::Previous(records, aside)) => {
            let aside = aside.display().to_string();
            match records {
                Some(records) => {
                    warn!(aside, "told states were damaged and set aside; going on with the copy before");
                    records
                }
                None => {
                    warn!(aside, "told states were damaged and set aside; receivers may keep old alarms");
                    Vec::new()
                }
            }
        }
        Err(error) => {
            warn!(problem = describe(&error), "told states cannot be read; receivers may keep old alarms");
            Vec::new()
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

fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.pump(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if self.plan.config.kind != SinkKind::Log
            && let Err(error) = self.state.save_unless_busy(&self.ledger.records())
        {
            warn!(problem = describe(&error), "told states cannot be kept; a restart may lose a clear");
        }
        self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
    }
}

impl Handler<Learn> for Sink {
    type Result = ();
    fn handle(&mut self, Learn(notification, hold_down): Learn, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.ledger.on_change(notification, hold_down, time::now().moment);
        self.pump(ctx);
    }
}

impl Handler<Retain> for Sink {
    type Result = ();
    fn handle(&mut self, retain: Retain, ctx: &mut Self::Context) {
        self.ledger.retain(&retain.possible, retain.knowledge, time::now().wall);
        self.pump(ctx);
    }
}

impl Handler<Adopt> for Sink {
    type Result = ();
    fn handle(&mut self, Adopt(plan): Adopt, ctx: &mut Self::Context) {
        let now = time::now();
        if plan.config != self.plan.config {
            let outlet = Outlet::new(&plan.config, &self.agent, &self.config_server);
            match self.outlet {
                Some(_) => self.outlet = Some(outlet),
                None => self.next_outlet = Some(outlet),
            }
            self.retry = RETRY;
            self.not_before = now.moment;
        }
        self.plan = plan;
        self.ledger.on_manner(manner(&self.plan), self.plan.parting, now.moment, now.wall);
        // One that is to tell nothing any more ends when that is settled.
        self.leaving = self.plan.scope == Scope::Nothing;
        self.pump(ctx);
    }
}

impl Handler<Observe> for Sink {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        self.parent.do_send(SinkFact::Observed(Box::new(SinkStatus {
            name: self.plan.config.name.clone(),
            kind: self.plan.config.kind_name(),
            target: self.plan.config.place(),
            scope: self.plan.scope,
            counts: self.ledger.counts(time::now().moment),
            sent: self.sent,
            failed: self.failed,
            last_error: self.last_error.clone(),
        })));
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
