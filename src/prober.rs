//! The prober: probes of targets that need no agent, judged at this host.
//!
//! It owns the receive session of every such test and sends their probes; a probe ends with a result or fails before
//! the next one is due. It stops when the watcher requests it, or when it panics; the watcher restarts it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix::prelude::*;
use tracing::{Span, info_span};

use crate::actor::deadline::{DeadlineTimer, Deadlines};
use crate::actor::spanned::Spanned;
use crate::config::plan::TargetPlan;
use crate::io::shared::SharedState;
use crate::io::{prober, time};
use crate::messages::{Generation, Observe, ProberFact, ReportConditions, SetTargets, Stop};
use crate::pure::alarm::change::ConditionChange;
use crate::pure::base::time::Moment;
use crate::pure::judge::probe_result::ProbeResult;
use crate::pure::judge::session::ReceiveSession;
use crate::pure::stamp::schedule::Schedule;
use crate::pure::status::snapshot::TestStatus;
use crate::pure::test::id::TestId;

/// Largest number of probes in flight. Targets whose turn comes while there are more wait for their next turn, so that
/// many silent targets cannot use up the sockets of the agent.
const MAX_IN_FLIGHT: usize = 256;

/// Actor that probes the targets of this host.
pub struct Prober {
    targets: BTreeMap<TestId, Probed>,
    /// Next turn of each target.
    turns: BTreeSet<(Moment, TestId)>,
    in_flight: usize,
    /// Number of suspensions of this machine at the last turn.
    sleeps: u32,
    shared: SharedState,
    parent: Recipient<ProberFact>,
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
    /// Generation of this prober, which distinguishes it from its predecessors.
    pub generation: Generation,
}

/// State of one target.
struct Probed {
    plan: Arc<TargetPlan>,
    session: ReceiveSession,
    schedule: Schedule,
    /// Start of the current numbering; a result of an earlier one is dropped.
    epoch: u64,
    sequence: u32,
    is_in_flight: bool,
}

impl Prober {
    /// Creates a prober without targets.
    pub fn new(args: Args) -> Self {
        let Args { shared, parent, generation } = args;
        Prober {
            targets: BTreeMap::new(),
            turns: BTreeSet::new(),
            in_flight: 0,
            sleeps: shared.sleeps(),
            shared,
            parent,
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
            let schedule = Schedule::new(plan.send_every, id.as_u128());
            match self.targets.get_mut(id) {
                Some(probed) => {
                    probed.session.on_expected(plan.session.clone(), now, &mut changes);
                    (probed.plan, probed.schedule, probed.epoch, probed.sequence) = (plan.clone(), schedule, epoch, 0);
                }
                None => {
                    let session = ReceiveSession::new(plan.session.clone(), now);
                    let plan = plan.clone();
                    let probed = Probed { plan, session, schedule, epoch, sequence: 0, is_in_flight: false };
                    self.targets.insert(*id, probed);
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
            if probed.is_in_flight || self.in_flight >= MAX_IN_FLIGHT {
                continue;
            }
            probed.is_in_flight = true;
            self.in_flight += 1;
            let probe = (probed.epoch, probed.sequence);
            probed.sequence = probed.sequence.wrapping_add(1);
            let result = prober::probe(probed.plan.target, probed.plan.timeout);
            ctx.spawn(result.into_actor(self).map(move |result, prober, _| {
                let _entered = prober.enter();
                prober.on_result(id, probe, result);
            }));
        }
        self.send_changes(changes);
        self.arm(ctx);
    }

    fn on_result(&mut self, id: TestId, probe: (u64, u32), result: ProbeResult) {
        self.in_flight -= 1;
        let Some(probed) = self.targets.get_mut(&id) else { return };
        probed.is_in_flight = false;
        if probed.epoch != probe.0 {
            return;
        }
        let mut changes = Vec::new();
        let send_every = probed.plan.send_every;
        probed.session.on_result(result, probe, send_every, time::now(), &mut changes);
        self.send_changes(changes);
    }

    fn send_changes(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.parent.do_send(ProberFact::Changed(change)));
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some((next, _)) = self.turns.first().copied() {
            self.set_timer(next, ctx);
        }
    }
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
        let changes = self.targets.values().flat_map(|probed| probed.session.report(now)).collect();
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
