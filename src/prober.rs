//! The prober: probes of targets that need no agent, judged at this host.
//!
//! It owns the receive session of every such test and sends their probes; a probe ends with a result or fails before
//! the next one is due. It stops when the watcher requests it, or when it panics; the watcher restarts it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix::prelude::*;
use nix::sys::resource::{Resource, getrlimit};
use tracing::{Span, info_span};

use crate::actor::deadline::{DeadlineTimer, Deadlines};
use crate::actor::spanned::Spanned;
use crate::config::plan::TargetPlan;
use crate::io::shared::SharedState;
use crate::io::{prober, time};
use crate::messages::{ConditionReport, Generation, Observe, ProberFact, ReportConditions, SetTargets, Stop};
use crate::pure::alarm::change::ConditionChange;
use crate::pure::base::time::{Moment, Now};
use crate::pure::judge::probe_result::ProbeResult;
use crate::pure::judge::sender_health::SenderHealth;
use crate::pure::judge::session::{ReceiveSession, SessionPlan};
use crate::pure::stamp::schedule::Schedule;
use crate::pure::status::snapshot::TestStatus;
use crate::pure::test::id::TestId;

/// Part of the file descriptors of this process that probes in flight may use, so that many silent targets leave the
/// rest of the agent what it needs.
const SHARE_OF_DESCRIPTORS: u64 = 2;

/// Actor that probes the targets of this host.
pub struct Prober {
    targets: BTreeMap<TestId, Probed>,
    /// Next turn of each target.
    turns: BTreeSet<(Moment, TestId)>,
    in_flight: usize,
    /// Largest number of probes in flight.
    max_in_flight: usize,
    /// Number of suspensions of this machine at the last turn.
    sleeps: u32,
    shared: SharedState,
    parent: Recipient<ProberFact>,
    reports: Recipient<ConditionReport>,
    generation: Generation,
    timer: DeadlineTimer,
    span: Span,
}

/// Constructor arguments of the prober.
pub struct Args {
    /// Shared state of the agent.
    pub shared: SharedState,
    /// The watcher.
    pub parent: Recipient<ProberFact>,
    /// Supervisor, which passes reports to the alarm actor.
    pub reports: Recipient<ConditionReport>,
    /// Generation of this prober, which distinguishes it from its predecessors.
    pub generation: Generation,
}

/// State of one target.
struct Probed {
    plan: Arc<TargetPlan>,
    session: ReceiveSession,
    /// Whether this host can send the probes.
    health: SenderHealth,
    schedule: Schedule,
    /// Start of the current numbering; a result of an earlier one is dropped.
    epoch: u64,
    sequence: u32,
    is_in_flight: bool,
}

impl Prober {
    /// Creates a prober without targets.
    pub fn new(args: Args) -> Self {
        let Args { shared, parent, reports, generation } = args;
        Prober {
            targets: BTreeMap::new(),
            turns: BTreeSet::new(),
            in_flight: 0,
            max_in_flight: max_in_flight(),
            sleeps: shared.sleeps(),
            shared,
            parent,
            reports,
            generation,
            timer: DeadlineTimer::default(),
            span: info_span!("prober"),
        }
    }

    fn set_targets(&mut self, plans: &BTreeMap<TestId, Arc<TargetPlan>>) {
        let now = time::now();
        let mut changes = Vec::new();
        self.targets.retain(|id, _| plans.contains_key(id));
        for (id, plan) in plans {
            let known = self.targets.get(id);
            if known.is_some_and(|probed| probed.plan == *plan) {
                continue;
            }
            let epoch = self.shared.next_epoch(now.wall);
            match self.targets.get_mut(id) {
                Some(probed) => {
                    probed.session.on_expected(plan.session.clone(), now, &mut changes);
                    probed.health.on_plan(plan.session.test.clone(), plan.session.thresholds);
                    probed.schedule = Schedule::new(plan.send_every, id.as_u128());
                    (probed.plan, probed.epoch, probed.sequence) = (plan.clone(), epoch, 0);
                }
                None => {
                    self.targets.insert(*id, Probed::new(plan.clone(), epoch, now));
                }
            }
        }
        let next = |(id, probed): (&TestId, &Probed)| (probed.schedule.next_slot(now.moment), *id);
        self.turns = self.targets.iter().map(next).collect();
        self.send_changes(changes);
    }

    /// Sends the probes that are due, and arms the timer for the next ones.
    fn on_turn(&mut self, ctx: &mut Context<Self>) {
        let now = time::now();
        let mut changes = Vec::new();
        let sleeps = self.shared.sleeps();
        if std::mem::replace(&mut self.sleeps, sleeps) != sleeps {
            self.targets.values_mut().for_each(|probed| probed.session.on_suspension(now));
        }
        while let Some((at, id)) = self.turns.first().copied().filter(|(at, _)| *at <= now.moment) {
            self.turns.remove(&(at, id));
            let Some(probed) = self.targets.get_mut(&id) else { continue };
            self.turns.insert((probed.schedule.next_slot(now.moment), id));
            probed.session.on_timeout(now, 0, &mut changes);
            if probed.is_in_flight {
                continue;
            }
            if self.in_flight >= self.max_in_flight {
                let problem = format!(
                    "{} probes of targets are in flight, as many as the limit of open files permits; raise LimitNOFILE",
                    self.in_flight
                );
                changes.extend(probed.on_result(ProbeResult::NotSent(problem), now));
                continue;
            }
            probed.is_in_flight = true;
            self.in_flight += 1;
            let epoch = probed.epoch;
            let result = prober::probe(probed.plan.target, probed.plan.timeout);
            ctx.spawn(result.into_actor(self).map(move |result, prober, _| {
                let _entered = prober.enter();
                prober.on_result(id, epoch, result);
            }));
        }
        self.send_changes(changes);
        self.arm(ctx);
    }

    fn on_result(&mut self, id: TestId, epoch: u64, result: ProbeResult) {
        self.in_flight -= 1;
        let Some(probed) = self.targets.get_mut(&id) else { return };
        probed.is_in_flight = false;
        if probed.epoch != epoch {
            return;
        }
        let changes = probed.on_result(result, time::now());
        self.send_changes(changes);
    }

    fn send_changes(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.reports.do_send(ConditionReport(change)));
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some((next, _)) = self.turns.first().copied() {
            self.set_timer(next, ctx);
        }
    }
}

impl Probed {
    /// Starts to judge a target.
    fn new(plan: Arc<TargetPlan>, epoch: u64, now: Now) -> Self {
        let SessionPlan { test, criteria, .. } = &plan.session;
        Probed {
            session: ReceiveSession::new(plan.session.clone(), now),
            health: SenderHealth::new(test.clone(), criteria.thresholds, now.moment),
            schedule: Schedule::new(plan.send_every, test.id.as_u128()),
            epoch,
            sequence: 0,
            is_in_flight: false,
            plan,
        }
    }

    /// Judges the result of a probe, and whether it could be sent.
    fn on_result(&mut self, result: ProbeResult, now: Now) -> Vec<ConditionChange> {
        if let ProbeResult::NotSent(problem) = &result {
            self.health.on_error(problem.clone(), now);
        } else {
            self.sequence = self.sequence.wrapping_add(1);
        }
        let mut changes: Vec<ConditionChange> = self.health.on_slot(now).into_iter().collect();
        self.session.on_result(result, (self.epoch, self.sequence), self.plan.send_every, now, &mut changes);
        changes
    }
}

/// Returns the largest number of probes in flight that the limit of open files permits.
fn max_in_flight() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(limit / SHARE_OF_DESCRIPTORS).unwrap_or(usize::MAX).max(1)
}

impl Spanned for Prober {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Deadlines for Prober {
    fn timer(&mut self) -> &mut DeadlineTimer {
        &mut self.timer
    }

    fn on_deadline(&mut self, ctx: &mut Context<Self>) {
        self.on_turn(ctx);
    }
}

impl Actor for Prober {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(ProberFact::Down(self.generation));
    }
}

impl Handler<SetTargets> for Prober {
    type Result = ();
    fn handle(&mut self, SetTargets(plans): SetTargets, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.set_targets(&plans);
        self.arm(ctx);
    }
}

impl Handler<ReportConditions> for Prober {
    type Result = ();
    fn handle(&mut self, _: ReportConditions, _: &mut Self::Context) {
        let _entered = self.enter();
        let now = time::now();
        let reports = |probed: &Probed| probed.session.report(now).into_iter().chain(probed.health.report(now));
        let changes = self.targets.values().flat_map(reports).collect();
        self.send_changes(changes);
    }
}

impl Handler<Observe> for Prober {
    type Result = ();
    fn handle(&mut self, _: Observe, _: &mut Self::Context) {
        let _entered = self.enter();
        let now = time::now().moment;
        let tests = self.targets.values().map(|probed| TestStatus::of(&probed.session, now)).collect();
        self.parent.do_send(ProberFact::Observed(tests));
    }
}

impl Handler<Stop> for Prober {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::document::raw::{Documents, RawDocument};
    use crate::config::load::Loader;
    use crate::config::plan::{Names, PlanInputs, plan};
    use crate::pure::alarm::change::Verdict;
    use crate::pure::alarm::key::Kind;

    /// Returns a target that is probed from now on.
    fn probed() -> Probed {
        let text =
            r#"{"id":"5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d","protocol":"tcp","from_host":"b","target":"10.0.0.9:443"}"#;
        let document = Arc::new(RawDocument::of_store("tests/b/1", Ok(text.to_owned()), 0));
        let loaded = Loader::new("b").load(&Documents::from([("tests/b/1".to_owned(), document)]));
        let mut plan = plan(&loaded, PlanInputs { names: &Names::new(), addresses: None }, "b", &[]);
        Probed::new(plan.targets.pop_first().unwrap().1, 1, Now::default())
    }

    /// A lack of descriptors or local ports on this host says nothing about the target.
    #[test]
    fn probe_that_cannot_be_sent_raises_the_sender_alarm_only() {
        let mut probed = probed();
        let at = |seconds| Now { moment: Moment::new(Duration::from_secs(seconds)), ..Now::default() };
        let mut run = |seconds: std::ops::Range<u64>, result: ProbeResult| {
            seconds.flat_map(|second| probed.on_result(result.clone(), at(second))).collect::<Vec<_>>()
        };
        let good = ProbeResult::Measured(Duration::from_millis(1));
        let kinds = |changes: &[ConditionChange]| {
            let decided = changes.iter().filter(|change| change.verdict != Verdict::Overdue);
            decided.map(|change| (change.key.kind, change.verdict == Verdict::Cleared)).collect::<Vec<_>>()
        };
        let cleared = [Kind::Connection, Kind::Clock, Kind::Sender].map(|kind| (kind, true));
        assert_eq!(kinds(&run(40..50, good.clone())), cleared);
        let none_left = ProbeResult::NotSent("Too many open files".to_owned());
        assert_eq!(kinds(&run(50..150, none_left)), [(Kind::Sender, false)]);
        assert_eq!(kinds(&run(150..160, good)), [(Kind::Sender, true)]);
        let refused = ProbeResult::Failed("refused".to_owned());
        assert_eq!(kinds(&run(160..170, refused)), [(Kind::Connection, false)]);
    }
}
