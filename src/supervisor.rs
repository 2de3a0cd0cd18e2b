//! Supervisor: the root actor of the agent.
//!
//! [`Supervisor`] owns the watcher, the alarm actor, the clock actor and the web actor, and rebuilds a failed child
//! with back-off. It routes every violation and every clear to the alarm actor, and publishes the status snapshot. A
//! signal stops it: senders send goodbyes, sinks flush, and then the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{Span, error, info, info_span, warn};

use crate::actor::slot::Slot;
use crate::actor::spanned::Spanned;
use crate::alarm::{self, Alarm};
use crate::clock::Clock;
use crate::config::bootstrap::Bootstrap;
use crate::config::plan::{AlarmPlan, Plan};
use crate::exit::{EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::BootstrapFile;
use crate::io::receiver::delivery::Identity;
use crate::io::shared::SharedState;
use crate::io::state::engine_boots::EngineRole;
use crate::io::state::former_names;
use crate::io::time;
use crate::messages::{
    AlarmFact, AlarmsStatus, ApiCall, BootstrapChanged, ClockFact, ConditionReport, ConfigureClock, ConfigureSinks,
    InForce, Observe, Planned, ReportConditions, Stop, WatcherFact, WatcherState, WatcherStatus, WebFact,
};
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::ConditionChange;
use crate::pure::alarm::faults::Faults;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::polling;
use crate::pure::base::time::{Moment, WallTime};
use crate::pure::clock::error_estimate::ClockQuality;
use crate::pure::status::snapshot::{ClockStatus, Status};
use crate::watcher::{self, Watcher};
use crate::web::{self, Web};

/// Interval at which children are polled for their status.
const OBSERVE_EVERY: Duration = polling::SECOND;
/// Time for which tests are polled after a client last requested them.
const TESTS_POLLED_FOR: Duration = Duration::from_secs(10);
/// Time limit of an ordered stop, after which the process exits at once.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Root actor, with the newest status of each child and the state that a rebuilt child needs at once.
pub struct Supervisor {
    file: BootstrapFile,
    bootstrap: Arc<Bootstrap>,
    shared: SharedState,
    watcher: Slot<Watcher>,
    alarm: Slot<Alarm>,
    clock: Slot<Clock>,
    web: Slot<Web>,
    /// Sinks and alarm rules in force, which a rebuilt alarm actor needs at once.
    alarms: AlarmPlan,
    /// Identity of this agent towards receivers.
    identity: Identity,
    /// Last good configuration, which a rebuilt watcher needs at once.
    memory: Option<WatcherState>,
    /// Faults that the supervisor itself detects: a failed watcher, or a status page that cannot be served.
    faults: Faults,
    watcher_status: WatcherStatus,
    alarm_status: AlarmsStatus,
    clock_status: ClockStatus,
    started: WallTime,
    published: watch::Sender<Arc<Status>>,
    in_force: watch::Sender<Option<Arc<InForce>>>,
    /// Time at which a client last requested the tests.
    looked: Option<Moment>,
    stopping: bool,
    /// Channel for the exit code; `None` once it was sent.
    ended: Option<oneshot::Sender<i32>>,
    span: Span,
}

#[derive(Clone, Copy, Debug)]
enum Signal {
    Stop,
    Reload,
}

impl Supervisor {
    /// Creates a supervisor without children, and the channel on which the exit code arrives.
    pub fn new(file: BootstrapFile, bootstrap: Bootstrap) -> (Self, oneshot::Receiver<i32>) {
        let (ended, exit_code) = oneshot::channel();
        let started = time::now().wall;
        let clock = ClockQuality::UNKNOWN;
        let clock_status = ClockStatus { error_seconds: clock.error.as_secs_f64(), ..ClockStatus::default() };
        let bootstrap = Arc::new(bootstrap);
        let former = former_names::record(&bootstrap.state_dir, &file.path, &bootstrap.host);
        let identity = Identity { former: former.into(), ..Identity::of(&bootstrap, EngineRole::Agent) };
        let mut supervisor = Supervisor {
            alarms: Plan::of_bootstrap(&bootstrap.sink, &bootstrap.host).alarms,
            identity,
            file,
            bootstrap,
            shared: SharedState::new(),
            watcher: Slot::default(),
            alarm: Slot::default(),
            clock: Slot::default(),
            web: Slot::default(),
            ended: Some(ended),
            memory: None,
            faults: Faults::default(),
            watcher_status: WatcherStatus::default(),
            alarm_status: AlarmsStatus::default(),
            clock_status,
            started,
            published: watch::Sender::default(),
            in_force: watch::Sender::default(),
            looked: None,
            stopping: false,
            span: info_span!("supervisor"),
        };
        supervisor.publish();
        (supervisor, exit_code)
    }

    fn start_watcher(&mut self, ctx: &mut Context<Self>) {
        let generation = self.watcher.next_generation();
        let parent = ctx.address().recipient();
        let watcher = Watcher::new(watcher::Args {
            bootstrap: self.bootstrap.clone(),
            shared: self.shared.clone(),
            parent,
            reports: ctx.address().recipient(),
            generation,
            memory: self.memory.clone(),
        });
        self.watcher.hold(watcher.start());
    }

    fn start_alarm(&mut self, ctx: &mut Context<Self>) {
        let rebuilt = self.alarm.restarts() > 0;
        let generation = self.alarm.next_generation();
        let known = self.alarms.sinks.iter().map(|sink| sink.config.receiver());
        let alarm = Alarm::new(alarm::Args {
            identity: self.identity.clone(),
            plan: self.alarms.clone(),
            state_dir: self.bootstrap.state_dir.clone(),
            parent: ctx.address().recipient(),
            generation,
            notified_of_start: if rebuilt { known.collect() } else { BTreeSet::new() },
        });
        self.alarm.hold(alarm.start());
        self.alarm.send(ConfigureSinks(self.alarms.clone()));
        if rebuilt {
            self.report(self.faults.report(time::now()));
            self.watcher.send(ReportConditions);
            self.clock.send(ReportConditions);
        }
    }

    fn start_clock(&mut self, ctx: &mut Context<Self>) {
        let generation = self.clock.next_generation();
        let claimed = self.bootstrap.clock.error;
        let clock =
            Clock::new(self.shared.clone(), claimed, ctx.address().recipient(), ctx.address().recipient(), generation);
        self.clock.hold(clock.start());
        self.consult();
    }

    fn start_web(&mut self, ctx: &mut Context<Self>) {
        let config = &self.bootstrap.web;
        if config.listen.is_empty() {
            return;
        }
        let generation = self.web.next_generation();
        let web = Web::new(web::Args {
            listen: config.listen.clone(),
            token_file: config.token_file.clone(),
            status: self.published.subscribe(),
            in_force: self.in_force.subscribe(),
            parent: ctx.address().recipient(),
            generation,
        });
        self.web.hold(web.start());
    }

    fn on_web_down(&mut self, problem: Option<String>, ctx: &mut Context<Self>) {
        let Some(problem) = problem else {
            // The web actor stopped by request, to serve at another address.
            self.start_web(ctx);
            return;
        };
        let listen = self.bootstrap.web.listen.clone();
        let problem = format!("status page at {listen} cannot be served: {problem}");
        self.set_fault(Subject::Web(listen), Some(problem));
        let wait = self.web.on_failure();
        ctx.run_later(wait, |supervisor, ctx| {
            if !supervisor.web.is_held() {
                supervisor.unless_stopping(ctx, Self::start_web);
            }
        });
    }

    /// Sends the clock actor the settings that come from the documents.
    fn consult(&self) {
        let Some(in_force) = self.in_force.borrow().clone() else { return };
        let ntp_server = in_force.loaded.ntp_server.clone();
        self.clock.send(ConfigureClock { ntp_server, is_needed: in_force.plan.judges_by_clock() });
    }

    /// Raises a fault that the supervisor detects, or clears it if `problem` is `None`.
    fn set_fault(&mut self, subject: Subject, problem: Option<String>) {
        let key = AlarmKey::new(Kind::Config, subject);
        let changes = self.faults.on_fault(key, problem.map(Cause::Config), time::now());
        self.report(changes);
    }

    fn report(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.alarm.send(ConditionReport(change)));
    }

    fn on_planned(&mut self, planned: Planned) {
        let Planned { alarms, retain, memory, in_force } = planned;
        if let Some(in_force) = in_force {
            self.in_force.send_replace(Some(Arc::new(in_force)));
            self.consult();
        }
        self.set_fault(Subject::Agent, None);
        self.alarms = alarms;
        self.memory = memory.or(self.memory.take());
        self.alarm.send(ConfigureSinks(self.alarms.clone()));
        if let Some(mut retain) = retain {
            retain.possible.extend(self.faults.keys().cloned());
            self.alarm.send(retain);
        }
    }

    fn reload(&mut self, ctx: &mut Context<Self>) {
        let bootstrap = match self.file.read() {
            Ok(bootstrap) => Arc::new(bootstrap),
            Err(findings) => {
                for finding in findings {
                    error!(place = finding.location, help = finding.help, "{}", finding.problem);
                }
                error!("the bootstrap file has errors; the last good one remains in force");
                return;
            }
        };
        let before = std::mem::replace(&mut self.bootstrap, bootstrap.clone());
        if before == bootstrap {
            info!("bootstrap file read again, nothing changed");
            return;
        }
        if (&before.host, &before.state_dir, &before.log) != (&bootstrap.host, &bootstrap.state_dir, &bootstrap.log) {
            warn!("host, state_dir and log take effect at the next start");
            let kept = Bootstrap {
                host: before.host.clone(),
                state_dir: before.state_dir.clone(),
                log: before.log.clone(),
                ..bootstrap.as_ref().clone()
            };
            self.bootstrap = Arc::new(kept);
        }
        if before.web != bootstrap.web {
            self.set_fault(Subject::Web(before.web.listen.clone()), None);
            match self.web.is_held() {
                true => self.web.send(Stop::Silent),
                false => self.start_web(ctx),
            }
        }
        self.watcher.send(BootstrapChanged(self.bootstrap.clone()));
        info!("bootstrap file read again");
    }

    fn on_stop_signal(&mut self, ctx: &mut Context<Self>) {
        if self.stopping {
            warn!("second signal, stopping at once");
            self.exit(EXIT_FAILURE);
            return;
        }
        info!("stopping");
        self.stopping = true;
        ctx.run_later(STOP_WITHIN, |supervisor, _| {
            warn!(within = ?STOP_WITHIN, "the ordered stop takes too long and is aborted");
            supervisor.exit(EXIT_GOOD);
        });
        match self.watcher.is_held() {
            true => self.watcher.send(Stop::Announced),
            false => self.stop_alarm(),
        }
    }

    fn unless_stopping(&mut self, ctx: &mut Context<Self>, start: fn(&mut Self, &mut Context<Self>)) {
        if !self.stopping {
            start(self, ctx);
        }
    }

    fn stop_alarm(&mut self) {
        match self.alarm.is_held() {
            true => self.alarm.send(Stop::Announced),
            false => self.end(),
        }
    }

    fn end(&mut self) {
        self.clock.send(Stop::Silent);
        self.web.send(Stop::Announced);
        info!("stopped");
        self.exit(EXIT_GOOD);
    }

    fn exit(&mut self, code: i32) {
        if let Some(ended) = self.ended.take() {
            let _ignored = ended.send(code);
        }
    }

    /// Polls the tests at once, and then each second for a while, because a client has requested them.
    fn on_looked(&mut self) {
        let now = time::now().moment;
        let before = self.looked.replace(now);
        if before.is_none_or(|before| now.since(before) >= TESTS_POLLED_FOR) {
            self.watcher.send(Observe::Fully);
        }
    }

    fn publish(&mut self) {
        let watcher = self.watcher_status.clone();
        let mut restarts = BTreeMap::from(watcher.restarts);
        restarts.insert("watcher", self.watcher.restarts());
        restarts.insert("alarm", self.alarm.restarts());
        restarts.insert("sink", self.alarm_status.restarts);
        restarts.insert("clock", self.clock.restarts());
        let mut status = Status {
            host: self.bootstrap.host.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started: self.started,
            taken: time::now().wall,
            store: watcher.store,
            clock: self.clock_status.clone(),
            listeners: watcher.listeners,
            senders: watcher.senders,
            tests: watcher.tests,
            tests_taken: watcher.tests_taken,
            alarms: self.alarm_status.alarms.clone(),
            raised: self.alarm_status.raised,
            suppressed: self.alarm_status.suppressed.clone(),
            silences: self.alarm_status.silences.clone(),
            sinks: self.alarm_status.sinks.clone(),
            restarts,
        };
        status.sort();
        self.published.send_replace(Arc::new(status));
    }

    fn observe_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(OBSERVE_EVERY), |supervisor, ctx| {
            let looked = supervisor.looked.is_some_and(|at| time::now().moment.since(at) < TESTS_POLLED_FOR);
            supervisor.watcher.send(if looked { Observe::Fully } else { Observe::Briefly });
            supervisor.alarm.send(Observe::Briefly);
            supervisor.clock.send(Observe::Briefly);
            Self::observe_later(ctx);
        });
    }
}

fn signals(kind: SignalKind, meaning: Signal) -> std::io::Result<impl futures_util::Stream<Item = Signal>> {
    let received = signal(kind)?;
    Ok(stream::unfold(received, move |mut received| async move {
        received.recv().await?;
        Some((meaning, received))
    }))
}

impl Spanned for Supervisor {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let _entered = self.enter();
        let kinds = [
            (SignalKind::terminate(), Signal::Stop),
            (SignalKind::interrupt(), Signal::Stop),
            (SignalKind::hangup(), Signal::Reload),
        ];
        for (kind, meaning) in kinds {
            match signals(kind, meaning) {
                Ok(received) => {
                    ctx.add_stream(received);
                }
                Err(error) => error!(%error, "a signal cannot be received"),
            }
        }
        self.start_alarm(ctx);
        self.start_clock(ctx);
        self.start_watcher(ctx);
        self.start_web(ctx);
        Self::observe_later(ctx);
    }
}

impl StreamHandler<Signal> for Supervisor {
    fn handle(&mut self, signal: Signal, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match signal {
            Signal::Stop => self.on_stop_signal(ctx),
            Signal::Reload => self.reload(ctx),
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<WatcherFact> for Supervisor {
    type Result = ();
    fn handle(&mut self, fact: WatcherFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            WatcherFact::Planned(planned) => self.on_planned(*planned),
            WatcherFact::Observed(status) => {
                self.watcher_status = *status;
                self.publish();
            }
            WatcherFact::Down(generation) => {
                if !self.watcher.on_down(generation) {
                    return;
                }
                if self.stopping {
                    self.stop_alarm();
                    return;
                }
                let wait = self.watcher.on_failure();
                error!(?wait, "watcher failed and is restarted");
                let failed = "the watcher failed because of a defect in peerpair: nothing is tested until it is \
                restarted";
                self.set_fault(Subject::Agent, Some(failed.to_owned()));
                ctx.run_later(wait, |supervisor, ctx| supervisor.unless_stopping(ctx, Self::start_watcher));
            }
        }
    }
}

impl Handler<AlarmFact> for Supervisor {
    type Result = ();
    fn handle(&mut self, fact: AlarmFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            AlarmFact::Observed(status) => {
                self.alarm_status = *status;
                self.publish();
            }
            AlarmFact::Down(generation) => {
                if !self.alarm.on_down(generation) {
                    return;
                }
                if self.stopping {
                    self.end();
                    return;
                }
                let wait = self.alarm.on_failure();
                error!(?wait, "alarm actor failed and is restarted");
                ctx.run_later(wait, |supervisor, ctx| supervisor.unless_stopping(ctx, Self::start_alarm));
            }
        }
    }
}

impl Handler<WebFact> for Supervisor {
    type Result = ();
    fn handle(&mut self, fact: WebFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            WebFact::TestsRequested => self.on_looked(),
            WebFact::Serving(_) => self.set_fault(Subject::Web(self.bootstrap.web.listen.clone()), None),
            WebFact::ApiRequested(request, reply) => self.alarm.send(ApiCall(request, reply)),
            WebFact::Down(generation, problem) => {
                if self.web.on_down(generation) && !self.stopping {
                    self.on_web_down(problem, ctx);
                }
            }
        }
    }
}

impl Handler<ConditionReport> for Supervisor {
    type Result = ();
    fn handle(&mut self, report: ConditionReport, _: &mut Self::Context) {
        self.alarm.send(report);
    }
}

impl Handler<ClockFact> for Supervisor {
    type Result = ();
    fn handle(&mut self, fact: ClockFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            ClockFact::Observed(status) => self.clock_status = status,
            ClockFact::Down(generation) => {
                if self.clock.on_down(generation) && !self.stopping {
                    let wait = self.clock.on_failure();
                    error!(?wait, "clock actor failed and is restarted");
                    ctx.run_later(wait, |supervisor, ctx| supervisor.unless_stopping(ctx, Self::start_clock));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
