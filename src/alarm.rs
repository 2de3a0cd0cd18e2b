//! The alarm actor: takes in violations and clears, derives the alarms that are raised, and passes them to the sinks.
//!
//! It owns the alarm engine, the silences (in memory and on disk), and the sinks, which it rebuilds with back-off. It
//! stops on `Stop`, after its sinks have stopped, or when it panics. The supervisor rebuilds it; listeners and
//! senders then report every condition again.

mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use actix::prelude::*;
use tracing::{Span, error, info, info_span};

use crate::actor::children::Children;
use crate::actor::deadline::{DeadlineTimer, Deadlines};
use crate::actor::spanned::Spanned;
use crate::config::document::sinks::SinkConfig;
use crate::config::plan::AlarmPlan;
use crate::config::sink_plan::{SinkPlan, on_removal};
use crate::io::receiver::delivery::Identity;
use crate::io::state::file::{StateFile, load_list};
use crate::io::time;
use crate::messages::{
    AdoptRecords, AlarmFact, AlarmsStatus, ApiCall, ConditionReport, ConfigureSinks, Generation, Observe, Reconfigure,
    Retain, SinkFact, Stop, UpdateAlarm,
};
use crate::pure::alarm::engine::AlarmEngine;
use crate::pure::alarm::key::Kind;
use crate::pure::alarm::notification::AlarmStatus;
use crate::pure::base::polling;
use crate::pure::notify::log::{NotificationPolicy, NotifiedRecord, OnRemoval, Scope};
use crate::pure::status::api::{ApiRequest, ApiResponse};
use crate::pure::status::snapshot::SinkStatus;
use crate::pure::test::facts::TestFacts;
use crate::sink::{self, Sink, StartMessage, warn_of_unconfigured_receivers};

/// Greatest number of alarms in a status snapshot; alarms beyond it are only counted there, and `/api/alarms` lists
/// all of them.
const MAX_SHOWN: usize = 1000;
/// Name of the state file that holds the silences.
const SILENCES: &str = "silences";

/// Actor that owns the alarm engine and the sinks; the module documentation describes when it stops and who restarts
/// it.
pub struct Alarm {
    identity: Identity,
    state_dir: PathBuf,
    parent: Recipient<AlarmFact>,
    generation: Generation,
    engine: AlarmEngine,
    silences: StateFile,
    plan: AlarmPlan,
    timer: DeadlineTimer,
    /// Latest message about which alarms can still exist; `None` until the documents were read.
    retain: Option<Retain>,
    sinks: Children<String, Sink>,
    /// Sinks that were removed and still have clears to deliver, by receiver.
    removed_sinks: BTreeMap<String, (Addr<Sink>, Generation)>,
    /// Plan that each sink was last given, by the name of the sink.
    current_plans: BTreeMap<String, SinkPlan>,
    /// Receivers that were already notified of the start of this agent.
    notified_of_start: BTreeSet<String>,
    /// Set at the start of the agent only: clears under former host names are sent once, not by a rebuilt alarm
    /// actor.
    clears_former_names: bool,
    observed: BTreeMap<String, SinkStatus>,
    stopping: bool,
    span: Span,
}

/// Constructor arguments of an alarm actor.
pub struct Args {
    /// Identity of this agent, which outbound messages name as their origin.
    pub identity: Identity,
    /// Alarm plan of the bootstrap; its rules apply, but no sinks are started until `ConfigureSinks` brings a plan.
    pub plan: AlarmPlan,
    /// Directory that holds the notification logs of the sinks, and the silences.
    pub state_dir: PathBuf,
    /// Supervisor that receives the status of this actor and the report of its end.
    pub parent: Recipient<AlarmFact>,
    /// Generation of this actor, by which the supervisor distinguishes it from predecessors of the same name.
    pub generation: Generation,
    /// Receivers (see `SinkConfig::receiver`) that were already notified of the start of this agent.
    pub notified_of_start: BTreeSet<String>,
}

impl Alarm {
    /// Creates an alarm actor without alarms and without sinks, and loads the silences from disk.
    pub fn new(args: Args) -> Self {
        let span = info_span!("alarm");
        let _entered = span.clone().entered();
        let agent = args.identity.agent.to_string();
        let silences = StateFile::new(&args.state_dir, SILENCES, &agent);
        let mut engine = AlarmEngine::new(agent, args.plan.rules.clone());
        engine.load_silences(load_list(&silences, "silences", "alarms that were silenced may be notified"));
        Alarm {
            engine,
            silences,
            identity: args.identity,
            state_dir: args.state_dir,
            parent: args.parent,
            generation: args.generation,
            plan: AlarmPlan { sinks: Vec::new(), ..args.plan },
            timer: DeadlineTimer::default(),
            retain: None,
            sinks: Children::default(),
            removed_sinks: BTreeMap::new(),
            current_plans: BTreeMap::new(),
            clears_former_names: args.notified_of_start.is_empty(),
            notified_of_start: args.notified_of_start,
            observed: BTreeMap::new(),
            stopping: false,
            span: span.clone(),
        }
    }

    /// Passes changed alarms to all sinks, and sets the timer for the next change that time alone will cause.
    fn publish(&mut self, changed: Vec<AlarmStatus>, ctx: &mut Context<Self>) {
        for alarm_status in changed {
            let hold_down = self.engine.hold_down(&alarm_status.notification.key);
            self.sinks.iter().for_each(|sink| sink.do_send(UpdateAlarm(alarm_status.clone(), hold_down)));
        }
        self.arm(ctx);
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(next) = self.engine.next_deadline() {
            self.set_timer(next, ctx);
        }
    }

    fn send_all(&self, sink: &Addr<Sink>) {
        for alarm_status in self.engine.all(time::now()) {
            let hold_down = self.engine.hold_down(&alarm_status.notification.key);
            sink.do_send(UpdateAlarm(alarm_status, hold_down));
        }
    }

    fn apply_plan(&mut self, plan: AlarmPlan, ctx: &mut Context<Self>) {
        self.plan = plan;
        let changed = self.engine.on_rules(self.plan.rules.clone(), time::now());
        self.publish(changed, ctx);
        let planned: Vec<SinkPlan> = self.plan.sinks.clone();
        let names: BTreeSet<&str> = planned.iter().map(|sink| sink.config.name.as_str()).collect();
        let gone: Vec<String> =
            self.current_plans.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.observed.remove(&name);
            self.remove_sink(&name, ctx);
        }
        for sink in planned {
            let name = sink.config.name.clone();
            match self.current_plans.get(&name) {
                Some(before) if *before == sink => {}
                // Another receiver under the same name was not notified of what this one was notified of.
                Some(before) if before.config.receiver() != sink.config.receiver() => {
                    self.remove_sink(&name, ctx);
                    self.start_sink(sink, ctx);
                }
                // A sink that is about to be rebuilt gets the new plan at that time.
                Some(_) => {
                    self.current_plans.insert(name.clone(), sink.clone());
                    if let Some(addr) = self.sinks.get(&name).cloned() {
                        addr.do_send(Reconfigure(sink));
                        self.send_all(&addr);
                    }
                }
                None => self.start_sink(sink, ctx),
            }
        }
    }

    /// Brings a new sink up to date: first which alarms can still exist, so that others are cleared, then the current
    /// alarms.
    fn initialize_sink(&self, addr: &Addr<Sink>) {
        if let Some(retain) = &self.retain {
            addr.do_send(self.retained(retain));
        }
        self.send_all(addr);
    }

    /// Adds to the inventory the alarms of groups, and every alarm that is raised now.
    fn retained(&self, retain: &Retain) -> Retain {
        let mut retain = retain.clone();
        retain.possible.extend(self.engine.group_keys());
        retain.possible.extend(self.engine.raised().map(|notification| notification.key.clone()));
        retain
    }

    /// Removes a sink. Its actor still delivers the clears to its receiver, and then ends by itself.
    fn remove_sink(&mut self, name: &str, ctx: &mut Context<Self>) {
        // A sink that is about to be rebuilt is rebuilt now, since its state file holds what was notified.
        if let Some(plan) = self.current_plans.get(name).filter(|_| !self.sinks.contains(&name.to_owned())).cloned() {
            self.start_sink(plan, ctx);
        }
        let (sink, before) = (self.sinks.release(&name.to_owned()), self.current_plans.remove(name));
        let Some(((sink, generation), before)) = sink.zip(before) else { return };
        self.removed_sinks.insert(before.config.receiver(), (sink.clone(), generation));
        let others = self.plan.sinks.iter().filter(|sink| sink.policy.scope == Scope::All).map(|sink| &sink.config);
        let on_removal = on_removal(&before.config, others);
        let policy = NotificationPolicy { scope: Scope::Nothing, ..before.policy };
        sink.do_send(Reconfigure(SinkPlan { policy, on_removal, config: before.config }));
    }

    /// Passes the notification log of a sink that was removed to another sink of the same receiver.
    fn hand_over(&self, before: &SinkConfig, records: Vec<NotifiedRecord>) {
        let successors = self.plan.sinks.iter().filter(|sink| sink.policy.scope == Scope::All);
        let successor = successors.map(|sink| &sink.config).find(|config| config.is_same_receiver(before));
        if let Some(sink) = successor.and_then(|successor| self.sinks.get(&successor.name)) {
            sink.do_send(AdoptRecords(records, self.plan.rules.hold_down));
        }
    }

    fn start_sink(&mut self, plan: SinkPlan, ctx: &mut Context<Self>) {
        let name = plan.config.name.clone();
        // A sink that is still leaving has the current notification log of this receiver, so it is kept.
        if let Some((addr, generation)) = self.removed_sinks.remove(&plan.config.receiver()) {
            addr.do_send(Reconfigure(plan.clone()));
            self.initialize_sink(&addr);
            self.sinks.hold_again(name.clone(), addr, generation);
            self.current_plans.insert(name, plan);
            return;
        }
        let generation = self.sinks.next_generation();
        // A receiver that is added later is not notified of a start that is long past.
        let starting = self.retain.is_none() && self.notified_of_start.insert(plan.config.receiver());
        let start_message = if starting { StartMessage::ColdStart } else { StartMessage::None };
        let sink = Sink::new(sink::Args {
            plan: plan.clone(),
            identity: self.identity.clone(),
            state_dir: &self.state_dir,
            hold_down: self.plan.rules.hold_down,
            parent: ctx.address().recipient(),
            generation,
            start_message,
        });
        let addr = sink.start();
        self.initialize_sink(&addr);
        if self.clears_former_names {
            self.clear_former_names(&plan, ctx);
        }
        self.current_plans.insert(name.clone(), plan);
        self.sinks.hold(name, addr);
    }

    /// Starts a sink that clears, under the agent's former name, the alarms that this receiver was notified of.
    fn clear_former_names(&mut self, plan: &SinkPlan, ctx: &mut Context<Self>) {
        for former in self.identity.former.iter() {
            if !sink::has_log(&self.state_dir, former, &plan.config) {
                continue;
            }
            info!(
                former,
                target = plan.config.place(),
                "this host was renamed: alarms under its former name are \
                cleared"
            );
            let policy = NotificationPolicy { scope: Scope::Nothing, ..plan.policy.clone() };
            let generation = self.sinks.next_generation();
            let sink = Sink::new(sink::Args {
                plan: SinkPlan { policy, on_removal: OnRemoval::Clear, config: plan.config.clone() },
                identity: Identity { agent: former.as_str().into(), ..self.identity.clone() },
                state_dir: &self.state_dir,
                hold_down: self.plan.rules.hold_down,
                parent: ctx.address().recipient(),
                generation,
                start_message: StartMessage::None,
            });
            self.removed_sinks.insert(format!("{former} {}", plan.config.receiver()), (sink.start(), generation));
        }
    }

    fn on_sink_down(&mut self, name: String, generation: Generation, ctx: &mut Context<Self>) {
        if !self.sinks.on_down(&name, generation) {
            self.removed_sinks.retain(|_, (_, left)| *left != generation);
            return;
        }
        if self.stopping {
            if self.sinks.is_empty() {
                ctx.stop();
            }
            return;
        }
        let wait = self.sinks.on_failure(&name);
        error!(name, ?wait, "sink failed and is restarted");
        ctx.run_later(wait, move |alarm, ctx| {
            let plan = alarm.current_plans.get(&name).cloned();
            if let Some(plan) = plan.filter(|_| !alarm.stopping && !alarm.sinks.contains(&name)) {
                alarm.start_sink(plan, ctx);
            }
        });
    }
}

impl Spanned for Alarm {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Deadlines for Alarm {
    fn timer(&mut self) -> &mut DeadlineTimer {
        &mut self.timer
    }

    fn on_deadline(&mut self, ctx: &mut Context<Self>) {
        let changed = self.engine.on_time(time::now());
        self.publish(changed, ctx);
    }
}

impl Actor for Alarm {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.sinks.release_all().for_each(|sink| sink.do_send(Stop::Silent));
        self.parent.do_send(AlarmFact::Down(self.generation));
    }
}

impl Handler<ConditionReport> for Alarm {
    type Result = ();
    fn handle(&mut self, ConditionReport(change): ConditionReport, ctx: &mut Self::Context) {
        let _entered = self.enter();
        let changed = self.engine.on_change(&change, time::now());
        self.publish(changed, ctx);
    }
}

impl Handler<Retain> for Alarm {
    type Result = ();
    fn handle(&mut self, retain: Retain, ctx: &mut Self::Context) {
        let _entered = self.enter();
        let changed = self.engine.retain(&retain.possible, &retain.reporters, time::now());
        self.publish(changed, ctx);
        let retained = self.retained(&retain);
        self.sinks.iter().for_each(|sink| sink.do_send(retained.clone()));
        if self.retain.is_none() {
            warn_of_unconfigured_receivers(&self.state_dir, &self.identity.agent, &self.plan.sinks);
        }
        self.retain = Some(retain);
    }
}

impl Handler<ConfigureSinks> for Alarm {
    type Result = ();
    fn handle(&mut self, ConfigureSinks(plan): ConfigureSinks, ctx: &mut Self::Context) {
        let _entered = self.enter();
        if plan != self.plan && !self.stopping {
            self.apply_plan(plan, ctx);
        }
    }
}

impl Handler<ApiCall> for Alarm {
    type Result = ();
    fn handle(&mut self, ApiCall(request, reply): ApiCall, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match request {
            ApiRequest::Alarms => self.list(reply, ctx),
            ApiRequest::Resync(name) => self.resync(&name, reply, ctx),
            ApiRequest::AddSilence(new) => self.add_silence(new, reply, ctx),
            ApiRequest::ExpireSilence(id) => self.expire_silence(&id, reply, ctx),
            ApiRequest::Silences => {
                let silences = self.engine.silences(time::now()).cloned().collect();
                let _ignored = reply.send(Ok(ApiResponse::Silences(silences)));
            }
        }
    }
}

impl Handler<SinkFact> for Alarm {
    type Result = ();
    fn handle(&mut self, fact: SinkFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            SinkFact::Observed(status) => {
                if self.sinks.contains(&status.name) {
                    self.observed.insert(status.name.clone(), *status);
                }
            }
            SinkFact::RecordsHandedOver(before, records) => self.hand_over(&before, records),
            SinkFact::Down(name, generation) => self.on_sink_down(name, generation, ctx),
        }
    }
}

impl Handler<Observe> for Alarm {
    type Result = ();
    fn handle(&mut self, _: Observe, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.on_deadline(ctx);
        self.sinks.iter().for_each(|sink| sink.do_send(Observe::Briefly));
        // The sinks have reported by then, so that one message carries the status of all.
        ctx.run_later(time::until_next(polling::LONGEST), |alarm, _| {
            alarm.parent.do_send(AlarmFact::Observed(Box::new(AlarmsStatus {
                alarms: worst(&alarm.engine),
                silences: alarm.engine.silences(time::now()).cloned().collect(),
                raised: alarm.engine.raised().count(),
                suppressed: Arc::new(suppressed(&alarm.engine)),
                sinks: alarm.observed.values().cloned().collect(),
                restarts: alarm.sinks.restarts(),
            })));
        });
    }
}

impl Handler<Stop> for Alarm {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.stopping = true;
        if self.sinks.is_empty() {
            ctx.stop();
        }
        self.removed_sinks.values().for_each(|(sink, _)| sink.do_send(stop));
        self.sinks.iter().for_each(|sink| sink.do_send(stop));
    }
}

/// Returns the raised alarms that come first in display order, at most `MAX_SHOWN`, without sorting them.
fn worst(engine: &AlarmEngine) -> Vec<AlarmStatus> {
    let now = time::now();
    let mut raised: Vec<AlarmStatus> = engine.raised().map(|alarm| engine.alarm_status(alarm, now)).collect();
    if raised.len() > MAX_SHOWN {
        raised.select_nth_unstable_by_key(MAX_SHOWN, AlarmStatus::rank);
        raised.truncate(MAX_SHOWN);
    }
    raised
}

/// Returns the raised alarms of tests that are suppressed, with the reason, so that the metrics let external alerting
/// rules respect it.
fn suppressed(engine: &AlarmEngine) -> Vec<(Arc<TestFacts>, Kind, &'static str)> {
    let now = time::now();
    let of_tests = engine.raised().filter(|alarm| alarm.key.test().is_some());
    let suppressed = of_tests.filter_map(|alarm| {
        let suppressed_by = engine.alarm_status(alarm, now).suppressed_by?;
        Some((alarm.test.clone()?, alarm.key.kind, suppressed_by.as_str()))
    });
    suppressed.collect()
}

#[cfg(test)]
mod tests;
