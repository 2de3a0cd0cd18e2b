//! The alarm actor: every violation and every clear, and what is true now.
//!
//! It owns the truth and the sinks, and rebuilds them with back-off. It stops when the supervisor
//! says so, after its sinks, or when it panics; the supervisor rebuilds it, and listeners and
//! senders report every condition anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tracing::{Span, error, info_span};

use crate::config::plan::{self, AlarmPlan, SinkPlan};
use crate::io::time;
use crate::messages::{
    Adopt, AlarmFact, AlarmStatus, Generation, Learn, Observe, Retain, SinkFact, Stop, TakeIn, Tell,
};
use crate::pure::alarm::{AlarmKey, Subject};
use crate::pure::ledger::{HoldDown, Scope};
use crate::pure::notification::Notification;
use crate::pure::status::SinkStatus;
use crate::pure::truth::Truth;
use crate::sink::{Beginning, Greeting, Sink, warn_of_forgotten};
use crate::tree::Children;

/// Sinks answer within this; what they say goes up together.
const OBSERVE_WAIT: Duration = Duration::from_millis(50);

/// See the module.
pub struct Alarm {
    agent: Arc<str>,
    config_server: Arc<str>,
    state_dir: PathBuf,
    parent: Recipient<AlarmFact>,
    generation: Generation,
    truth: Truth,
    plan: AlarmPlan,
    /// The last word on which alarms can still be.
    retain: Option<Retain>,
    sinks: Children<String, Sink>,
    /// Sinks that were taken away and have their receiver's last word still to tell, by receiver.
    leaving: BTreeMap<String, (Addr<Sink>, Generation)>,
    /// What those sinks were told to be.
    adopted: BTreeMap<String, SinkPlan>,
    /// Receivers that know that this agent has started.
    greeted: BTreeSet<String>,
    observed: BTreeMap<String, SinkStatus>,
    stopping: bool,
    span: Span,
}

/// What an alarm actor begins with.
pub struct Setting {
    /// This host.
    pub agent: Arc<str>,
    /// Where the documents come from.
    pub config_server: Arc<str>,
    /// Where told states are kept.
    pub state_dir: PathBuf,
    /// The supervisor.
    pub parent: Recipient<AlarmFact>,
    /// Which of its name this is.
    pub generation: Generation,
    /// The receivers (see `SinkConfig::receiver`) that know already that this agent has started.
    pub greeted: BTreeSet<String>,
}

impl Alarm {
    /// An alarm actor that knows of nothing and tells nobody yet.
    pub fn new(setting: Setting) -> Self {
        Alarm {
            truth: Truth::new(setting.agent.to_string()),
            agent: setting.agent,
            config_server: setting.config_server,
            state_dir: setting.state_dir,
            parent: setting.parent,
            generation: setting.generation,
            plan: AlarmPlan::default(),
            retain: None,
            sinks: Children::default(),
            leaving: BTreeMap::new(),
            adopted: BTreeMap::new(),
            greeted: setting.greeted,
            observed: BTreeMap::new(),
            stopping: false,
            span: info_span!("alarm"),
        }
    }

    fn hold_down(&self, key: &AlarmKey) -> HoldDown {
        let own = match &key.subject {
            Subject::Test(id) => self.plan.hold_downs.get(id),
            Subject::Agent
            | Subject::Store
            | Subject::Host(_)
            | Subject::Listener(_)
            | Subject::Source(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Web(_) => None,
        };
        own.copied().unwrap_or(self.plan.hold_down)
    }

    fn tell_all(&self, notification: &Notification) {
        let hold_down = self.hold_down(&notification.key);
        self.sinks.iter().for_each(|sink| sink.do_send(Learn(notification.clone(), hold_down)));
    }

    fn teach(&self, sink: &Addr<Sink>) {
        for notification in self.truth.all() {
            sink.do_send(Learn(notification.clone(), self.hold_down(&notification.key)));
        }
    }

    fn adopt(&mut self, plan: AlarmPlan, ctx: &mut Context<Self>) {
        self.plan = plan;
        let planned: Vec<SinkPlan> = self.plan.sinks.clone();
        let names: BTreeSet<&str> = planned.iter().map(|sink| sink.config.name.as_str()).collect();
        let gone: Vec<String> = self.adopted.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.observed.remove(&name);
            self.part_from(&name);
        }
        for sink in planned {
            let name = sink.config.name.clone();
            match self.adopted.get(&name) {
                Some(before) if *before == sink => {}
                // Another receiver under the same name knows nothing of what this one was told.
                Some(before) if before.config.receiver() != sink.config.receiver() => {
                    self.part_from(&name);
                    self.start_sink(sink, ctx);
                }
                // One that waits to be rebuilt will be rebuilt as it is planned then.
                Some(_) => {
                    self.adopted.insert(name.clone(), sink.clone());
                    if let Some(addr) = self.sinks.get(&name).cloned() {
                        addr.do_send(Adopt(sink));
                        self.teach(&addr);
                    }
                }
                None => self.start_sink(sink, ctx),
            }
        }
    }

    /// First what a sink may have told in vain, then what is true.
    fn instruct(&self, addr: &Addr<Sink>) {
        if let Some(retain) = &self.retain {
            let mut possible = retain.possible.as_ref().clone();
            possible.extend(self.truth.all().map(|notification| notification.key.clone()));
            addr.do_send(Retain { possible: Arc::new(possible), ..retain.clone() });
        }
        self.teach(addr);
    }

    /// A sink that is taken away tells its receiver the last of it, and ends by itself.
    fn part_from(&mut self, name: &str) {
        let (sink, before) = (self.sinks.release(&name.to_owned()), self.adopted.remove(name));
        let Some(((sink, generation), before)) = sink.zip(before) else { return };
        self.leaving.insert(before.config.receiver(), (sink.clone(), generation));
        let others = self.plan.sinks.iter().filter(|sink| sink.scope == Scope::All).map(|sink| &sink.config);
        let parting = plan::parting(&before.config, others);
        sink.do_send(Adopt(SinkPlan { scope: Scope::Nothing, parting, ..before }));
    }

    fn start_sink(&mut self, plan: SinkPlan, ctx: &mut Context<Self>) {
        let name = plan.config.name.clone();
        // One that is still about to leave knows best what its receiver was told.
        if let Some((addr, generation)) = self.leaving.remove(&plan.config.receiver()) {
            addr.do_send(Adopt(plan.clone()));
            self.instruct(&addr);
            self.sinks.hold_again(name.clone(), addr, generation);
            self.adopted.insert(name, plan);
            return;
        }
        let generation = self.sinks.next_generation();
        // Whoever is named later learns nothing by being told that the agent started long ago.
        let starting = self.retain.is_none() && self.greeted.insert(plan.config.receiver());
        let greeting = if starting { Greeting::ColdStart } else { Greeting::None };
        let sink = Sink::new(Beginning {
            plan: plan.clone(),
            agent: self.agent.clone(),
            config_server: self.config_server.clone(),
            state_dir: &self.state_dir,
            hold_down: self.plan.hold_down,
            parent: ctx.address().recipient(),
            generation,
            greeting,
        });
        let addr = sink.start();
        self.instruct(&addr);
        self.adopted.insert(name.clone(), plan);
        self.sinks.hold(name, addr);
    }

    fn on_sink_down(&mut self, name: String, generation: Generation, ctx: &mut Context<Self>) {
        if !self.sinks.on_down(&name, generation) {
            self.leaving.retain(|_, (_, left)| *left != generation);
            return;
        }
        if self.stopping {
            if self.sinks.is_empty() {
                ctx.stop();
            }
            return;
        }
        let wait = self.sinks.on_failure(&name);
        error!(name, ?wait, "sink failed, to be rebuilt");
        ctx.run_later(wait, move |alarm, ctx| {
            let plan = alarm.adopted.get(&name).cloned();
            if let Some(plan) = plan.filter(|_| !alarm.stopping && !alarm.sinks.contains(&name)) {
                alarm.start_sink(plan, ctx);
            }
        });
    }
}

impl Actor for Alarm {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.sinks.release_all().for_each(|sink| sink.do_send(Stop::Quietly));
        self.parent.do_send(AlarmFact::Down(self.generation));
    }
}

impl Handler<TakeIn> for Alarm {
    type Result = ();
    fn handle(&mut self, TakeIn(change): TakeIn, _: &mut Self::Context) {
        if let Some(notification) = self.truth.on_change(&change) {
            self.tell_all(&notification);
        }
    }
}

impl Handler<Retain> for Alarm {
    type Result = ();
    fn handle(&mut self, retain: Retain, _: &mut Self::Context) {
        for notification in self.truth.retain(&retain.possible, &retain.reporters, time::now()) {
            self.tell_all(&notification);
        }
        self.sinks.iter().for_each(|sink| sink.do_send(retain.clone()));
        if self.retain.is_none() {
            warn_of_forgotten(&self.state_dir, &self.agent, &self.plan.sinks);
        }
        self.retain = Some(retain);
    }
}

impl Handler<Tell> for Alarm {
    type Result = ();
    fn handle(&mut self, Tell(plan): Tell, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        if plan != self.plan && !self.stopping {
            self.adopt(plan, ctx);
        }
    }
}

impl Handler<SinkFact> for Alarm {
    type Result = ();
    fn handle(&mut self, fact: SinkFact, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        match fact {
            SinkFact::Observed(status) => {
                if self.sinks.contains(&status.name) {
                    self.observed.insert(status.name.clone(), *status);
                }
            }
            SinkFact::Down(name, generation) => self.on_sink_down(name, generation, ctx),
        }
    }
}

impl Handler<Observe> for Alarm {
    type Result = ();
    fn handle(&mut self, _: Observe, ctx: &mut Self::Context) {
        self.sinks.iter().for_each(|sink| sink.do_send(Observe));
        ctx.run_later(OBSERVE_WAIT, |alarm, _| {
            alarm.parent.do_send(AlarmFact::Observed(Box::new(AlarmStatus {
                alarms: alarm.truth.raised().cloned().collect(),
                sinks: alarm.observed.values().cloned().collect(),
                restarts: alarm.sinks.restarts(),
            })));
        });
    }
}

impl Handler<Stop> for Alarm {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        self.stopping = true;
        if self.sinks.is_empty() {
            ctx.stop();
        }
        self.leaving.values().for_each(|(sink, _)| sink.do_send(stop));
        self.sinks.iter().for_each(|sink| sink.do_send(stop));
    }
}

#[cfg(test)]
mod tests;
