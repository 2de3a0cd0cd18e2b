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

use crate::actor::deadline::{DeadlineTimer, Deadlines};
use crate::actor::spanned::Spanned;
use crate::config::sink_plan::SinkPlan;
use crate::io::error_chain::error_chain;
use crate::io::receiver::Receiver;
use crate::io::receiver::delivery::{Delivered, Identity, Outcome};
use crate::io::state::file::StateFile;
use crate::io::time;
use crate::messages::{
    AdoptRecords, Generation, Observe, QueryNotified, Reconfigure, Resync, Retain, SinkFact, Stop, UpdateAlarm,
};
use crate::pure::base::time::Moment;
use crate::pure::notify::log::{HoldDown, NotificationLog, Scope};
use crate::pure::status::snapshot::SinkStatus;

use kept_log::{KeptLog, SAVE_EVERY, SAVE_WITHIN, SaveError, log_file};
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
    log: NotificationLog,
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
    timer: DeadlineTimer,
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
    /// Plan of the sink: its configuration, notification policy, and what happens when it is narrowed.
    pub plan: SinkPlan,
    /// Identity of this agent, which outbound messages name as their origin.
    pub identity: Identity,
    /// Directory in which the notification log is kept.
    pub state_dir: &'a Path,
    /// Damping of alarms that an earlier run notified of, until their own is known.
    pub hold_down: HoldDown,
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
    pub fn new(args: Args<'_>) -> Self {
        let now = time::now();
        let name = &args.plan.config.name;
        let span = info_span!("sink", name);
        let _entered = span.clone().entered();
        let agent = &args.identity.agent;
        let state = log_file(args.state_dir, agent, &args.plan.config);
        let mut log = NotificationLog::new(agent.as_ref(), args.plan.policy.clone(), now.moment);
        let kept_by_earlier_run = state.exists();
        let (records, record_state) = KeptLog::load_list(&state, now.wall);
        log.load(records, record_state, args.hold_down, now);
        let is_removed = args.plan.policy.scope == Scope::Nothing;
        if args.start_message == StartMessage::ColdStart {
            log.on_cold_start();
        }
        Sink {
            receiver: Some(Receiver::new(&args.plan.config, &args.identity)),
            plan: args.plan,
            identity: args.identity,
            parent: args.parent,
            generation: args.generation,
            log,
            state,
            state_broken: false,
            kept_by_earlier_run,
            next_receiver: None,
            unsaved: true,
            saved_at: now.moment,
            save_not_before: Moment::ZERO,
            not_before: Moment::ZERO,
            timer: DeadlineTimer::default(),
            stopping: false,
            removal_deadline: is_removed.then(|| now.moment + REMOVAL_TIMEOUT),
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
        let due = if now < self.not_before { Vec::new() } else { self.log.take_due(full, MAX_IN_A_BATCH) };
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
        let (state, log) = (self.state.clone(), KeptLog::new(&self.log, false, full.wall));
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
            let _entered = sink.enter();
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
        if self.log.is_settled() {
            return true;
        }
        if removal_deadline > now {
            return false;
        }
        let (target, alarms) = (self.plan.config.place(), self.log.records().len());
        let help = "clear them manually at the receiver";
        warn!(target, alarms, help, "a receiver that is no longer configured could not be notified of clears");
        true
    }

    fn arm(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let due = self.log.next_deadline(now).map(|next| next.max(self.not_before));
        let next = due.into_iter().chain([self.next_save()]).chain(self.removal_deadline).min().unwrap_or(now);
        self.set_timer(next, ctx);
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
                    self.log.on_delivered(&due, now);
                }
                Outcome::Nothing => self.log.on_delivered(&due, now),
                Outcome::NotTried => self.log.on_not_tried(&due, now),
                Outcome::Refused(why) => {
                    self.failed += 1;
                    self.log.on_refused(&due, now);
                    problem.get_or_insert(("the receiver rejects a message", why));
                }
                Outcome::Unreachable(why) => {
                    self.failed += 1;
                    self.log.on_failed(&due, now);
                    problem.get_or_insert(("a message did not reach the receiver", why));
                }
            }
        }
        self.not_before = now + rest;
        if let Some(asked) = delivered.retry_after {
            self.log.postpone(now + asked.min(LONGEST_RETRY_AFTER));
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

    fn on_kept(&mut self, kept: Result<(), SaveError>) {
        match kept {
            Ok(()) => (self.state_broken, self.kept_by_earlier_run) = (false, false),
            Err(error) => {
                // The next run would take the old file for the latest state.
                if std::mem::take(&mut self.kept_by_earlier_run) {
                    self.state.remove();
                }
                // The write is repeated with the next batch, or on its own after `SAVE_WITHIN`.
                self.unsaved = true;
                self.save_not_before = time::now().moment + SAVE_WITHIN;
                if !self.state_broken {
                    let help = "make state_dir writable";
                    warn!(
                        problem = error.to_string(),
                        help, "the notification log cannot be saved; a restart may lose a clear"
                    );
                }
                self.state_broken = true;
            }
        }
    }
}

impl Spanned for Sink {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Deadlines for Sink {
    fn timer(&mut self) -> &mut DeadlineTimer {
        &mut self.timer
    }

    fn on_deadline(&mut self, ctx: &mut Context<Self>) {
        self.send_due(ctx);
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.send_due(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if self.removal_deadline.is_some() && self.log.is_settled() {
            self.state.remove();
            self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
            return;
        }
        let notified = KeptLog::new(&self.log, true, time::now().wall);
        if let Err(error) = self.state.save(&[notified]) {
            warn!(problem = error_chain(&error), "the notification log cannot be saved; a restart may lose a clear");
        }
        self.parent.do_send(SinkFact::Down(self.plan.config.name.clone(), self.generation));
    }
}

impl Handler<UpdateAlarm> for Sink {
    type Result = ();
    fn handle(&mut self, UpdateAlarm(alarm_status, hold_down): UpdateAlarm, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.log.on_change(alarm_status, hold_down, time::now().moment);
        self.send_due(ctx);
    }
}

impl Handler<Retain> for Sink {
    type Result = ();
    fn handle(&mut self, retain: Retain, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.log.retain(&retain.possible, retain.completeness, time::now());
        self.send_due(ctx);
    }
}

impl Handler<Reconfigure> for Sink {
    type Result = ();
    fn handle(&mut self, Reconfigure(plan): Reconfigure, ctx: &mut Self::Context) {
        let _entered = self.enter();
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
        let handed_over = self.log.set_policy(self.plan.policy.clone(), self.plan.on_removal, now);
        if !handed_over.is_empty() {
            self.parent.do_send(SinkFact::RecordsHandedOver(Box::new(self.plan.config.clone()), handed_over));
        }
        // A sink with an empty scope ends once its clears are delivered.
        let is_removed = self.plan.policy.scope == Scope::Nothing;
        self.removal_deadline = is_removed.then(|| self.removal_deadline.unwrap_or(now.moment + REMOVAL_TIMEOUT));
        self.send_due(ctx);
    }
}

impl Handler<Observe> for Sink {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        let _entered = self.enter();
        self.parent.do_send(SinkFact::Observed(Box::new(SinkStatus {
            name: self.plan.config.name.clone(),
            kind: self.plan.config.kind.as_str(),
            target: self.plan.config.place(),
            scope: self.plan.policy.scope,
            counts: self.log.counts(time::now().moment),
            sent: self.sent,
            failed: self.failed,
            last_error: self.problem.as_ref().map(|(problem, _)| problem.clone()),
        })));
    }
}

impl Handler<AdoptRecords> for Sink {
    type Result = ();
    fn handle(&mut self, AdoptRecords(records, hold_down): AdoptRecords, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.log.adopt_records(records, hold_down, time::now());
        self.unsaved = true;
        self.send_due(ctx);
    }
}

impl Handler<QueryNotified> for Sink {
    type Result = MessageResult<QueryNotified>;
    fn handle(&mut self, _: QueryNotified, _: &mut Self::Context) -> Self::Result {
        let _entered = self.enter();
        MessageResult(self.log.notified(time::now()).collect())
    }
}

impl Handler<Resync> for Sink {
    type Result = usize;
    fn handle(&mut self, _: Resync, ctx: &mut Self::Context) -> usize {
        let _entered = self.enter();
        let resent = self.log.resync(time::now().moment);
        self.send_due(ctx);
        resent
    }
}

impl Handler<Stop> for Sink {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        if stop == Stop::Silent {
            ctx.stop();
            return;
        }
        // Due messages are sent now or not at all; a batch in flight is awaited.
        self.stopping = true;
        if self.log.is_away() {
            ctx.stop();
            return;
        }
        self.not_before = Moment::ZERO;
        self.send_due(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Plan;
    use crate::io::state::engine_boots::{Engine, EngineRole};

    /// Actor in place of the alarm actor.
    struct Parent;

    impl Actor for Parent {
        type Context = Context<Self>;
    }

    impl Handler<SinkFact> for Parent {
        type Result = ();
        fn handle(&mut self, _: SinkFact, _: &mut Self::Context) {}
    }

    /// Returns a sink that is not started, with this scope.
    fn sink(state_dir: &Path, scope: Scope) -> Sink {
        let mut plan = Plan::of_bootstrap(&[], "a").alarms.sinks.remove(0);
        plan.policy.scope = scope;
        Sink::new(Args {
            plan,
            identity: Identity {
                agent: "a".into(),
                config_server: "dir".into(),
                page: "".into(),
                former: [].into(),
                machine: "".into(),
                engine: Engine::new(state_dir, "a", EngineRole::Agent),
            },
            state_dir,
            hold_down: Plan::of_bootstrap(&[], "a").alarms.rules.hold_down,
            parent: Parent.start().recipient(),
            generation: 1,
            start_message: StartMessage::None,
        })
    }

    /// The next run would take the file of the run before for the latest state.
    #[actix::test]
    async fn file_of_an_earlier_run_is_removed_when_it_cannot_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        // A file that this run wrote already stays: it is the latest state.
        for is_replaced in [false, true] {
            let earlier = sink(directory.path(), Scope::All);
            earlier.state.save(&[KeptLog::new(&earlier.log, true, time::now().wall)]).unwrap();
            let mut sink = sink(directory.path(), Scope::All);
            if is_replaced {
                sink.on_kept(Ok(()));
            }
            sink.on_kept(Err(SaveError::TimedOut));
            assert_eq!(sink.state.exists(), is_replaced);
        }
    }

    #[actix::test]
    async fn another_problem_is_logged_after_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = sink(directory.path(), Scope::All);
        let at = |seconds| Moment::new(Duration::from_secs(seconds));
        let problems = [("503", 100, 100), ("503", 200, 100), ("429", 210, 210), ("503", 220, 210), ("429", 270, 270)];
        for (why, second, logged) in problems {
            sink.on_problem("a message did not reach the receiver", why.to_owned(), at(second));
            assert_eq!(sink.problem, Some((why.to_owned(), at(logged))));
        }
    }

    #[actix::test]
    async fn removed_sink_without_alarms_may_stop_and_another_may_not() {
        let directory = tempfile::tempdir().unwrap();
        for (scope, may_stop) in [(Scope::Nothing, true), (Scope::Config, false), (Scope::All, false)] {
            assert_eq!(sink(directory.path(), scope).may_stop(time::now().moment), may_stop);
        }
    }
}
