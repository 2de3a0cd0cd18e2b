//! Watcher: follows the config store, turns documents into a plan, and applies the difference.
//!
//! [`Watcher`] owns the loader with the last good documents, the resolved names, the sockets, and the listener, pacer
//! and sender actors that use them, which it rebuilds with back-off. It stops when the supervisor commands it or when
//! it panics. Its children then stop with it, and the supervisor rebuilds the watcher, which rebuilds them.

mod anti_replay;
mod children;
mod config;
mod names;
mod observed;
mod observing;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tracing::{Span, debug, info, info_span, warn};

use crate::actor::children::Children;
use crate::actor::spanned::Spanned;
use crate::config::bootstrap::Bootstrap;
use crate::config::load::STORE_PATIENCE;
use crate::config::plan::diff::difference;
use crate::config::plan::{self, Names, Plan, PlanInputs};
use crate::io::keys;
use crate::io::keys::KeyError;
use crate::io::net::addresses::{self, AddressesChanged, local_addresses};
use crate::io::net::dns::resolve;
use crate::io::shared::SharedState;
use crate::io::store::{self, ReadScope, Store, StoreEvent};
use crate::io::time;
use crate::listener::Listener;
use crate::messages::{
    BootstrapChanged, ConditionReport, Generation, InForce, ListenerFact, Observe, PacerFact, Planned, ProberFact,
    ReportConditions, Retain, SenderContext, SenderFact, Stop, WatcherFact, WatcherState,
};
use crate::pacer::Pacer;
use crate::prober::Prober;
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::faults::Faults;
use crate::pure::alarm::inventory::AlarmInventory;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Now, WallTime};
use crate::pure::notify::log::Completeness;
use crate::pure::stamp::session_sender::Source;
use crate::pure::test::id::TestId;
use crate::sender::Sender;

use anti_replay::AntiReplayStore;
use config::{Config, ListedFaults};
use names::KnownNames;
use observed::Observed;
use observing::PollRound;
use sockets::Sockets;

/// Interval at which names are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Delay before a failed reader of the store is started again.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Time without an answer from the store after which the configuration kept on disk takes effect.
const FALL_BACK: Duration = Duration::from_secs(5);
/// Time for which a missing local address is no fault: the network may be starting, or duplicate address detection (RFC
/// 4862) may be running.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);
/// Capacity of the channel for store events; more events would only be older ones.
const STORE_EVENTS: usize = 4;

/// Actor that carries out the plan, with all state that the plan and its children need.
pub struct Watcher {
    bootstrap: Arc<Bootstrap>,
    shared: SharedState,
    parent: Recipient<WatcherFact>,
    reports: Recipient<ConditionReport>,
    generation: Generation,
    config: Config,
    names: KnownNames,
    following: Option<SpawnHandle>,
    /// Plan in force.
    running: Arc<Plan>,
    /// True if the plan in force comes from documents, and not only from the bootstrap file.
    planned: bool,
    /// Inventory of the alarms that can be raised under the plan in force.
    possible: AlarmInventory,
    /// Local addresses of this host; `None` until they could be read.
    addresses: Option<HashSet<IpAddr>>,
    /// State that the predecessor of a rebuilt watcher left, until it is applied.
    memory: Option<WatcherState>,
    looking_again: Option<SpawnHandle>,
    /// Status of this agent that is published under `agents/<host>` where the store has leases.
    announced: watch::Sender<Option<String>>,
    sockets: Sockets,
    listeners: Children<SocketAddr, Listener>,
    pacers: Children<Source, Pacer>,
    /// Sender context of each source, and true if the pacer alone reads its sockets.
    contexts: BTreeMap<Source, (Arc<SenderContext>, bool)>,
    senders: Children<TestId, Sender>,
    /// Prober, under a single key; it runs while there are targets.
    prober: Children<(), Prober>,
    faults: Faults,
    observed: Observed,
    round: PollRound,
    replays: AntiReplayStore,
    /// Problems with the fleet's keys on this host, by key id.
    key_problems: Vec<(u8, KeyError)>,
    stopping: bool,
    span: Span,
}

/// Constructor arguments of [`Watcher`].
pub struct Args {
    /// Bootstrap file, which names the store, the host and the sinks.
    pub bootstrap: Arc<Bootstrap>,
    /// Shared state that other actors read and write.
    pub shared: SharedState,
    /// Supervisor, which receives the watcher's facts.
    pub parent: Recipient<WatcherFact>,
    /// Supervisor, which passes reports to the alarm actor.
    pub reports: Recipient<ConditionReport>,
    /// Generation of this watcher, which distinguishes it from its predecessors.
    pub generation: Generation,
    /// State that the predecessor left, if this watcher replaces a failed one.
    pub memory: Option<WatcherState>,
}

impl Watcher {
    /// Creates a watcher; with a predecessor's memory, it applies that when it starts.
    pub fn new(args: Args) -> Self {
        let Args { bootstrap, shared, parent, reports, generation, .. } = args;
        Watcher {
            config: Config::new(&bootstrap),
            shared,
            parent,
            reports,
            generation,
            names: KnownNames::default(),
            following: None,
            running: Arc::new(Plan::of_bootstrap(&bootstrap.sink, &bootstrap.host)),
            planned: false,
            possible: AlarmInventory::default(),
            addresses: None,
            memory: args.memory,
            looking_again: None,
            announced: watch::Sender::new(None),
            sockets: Sockets::default(),
            listeners: Children::default(),
            pacers: Children::default(),
            contexts: BTreeMap::new(),
            senders: Children::default(),
            prober: Children::default(),
            faults: Faults::default(),
            observed: Observed::default(),
            round: PollRound::default(),
            replays: AntiReplayStore::new(&bootstrap),
            key_problems: Vec::new(),
            stopping: false,
            span: info_span!("watcher"),
            bootstrap,
        }
    }

    fn follow_store(&mut self, ctx: &mut Context<Self>) {
        let store = match Store::new(&self.bootstrap.store, ReadScope::Host(self.bootstrap.host.clone())) {
            Ok(mut store) => {
                store.allow_reading_alone();
                if let Some(origin) = self.config.origin() {
                    store.expect(origin);
                }
                store
            }
            Err(error) => {
                self.on_store_lost(error.to_string());
                return;
            }
        };
        let (events, received) = mpsc::channel(STORE_EVENTS);
        actix_rt::spawn(store::reflect(store, events));
        let received = stream::unfold(received, |mut received| async {
            let event = received.recv().await?;
            Some((event, received))
        });
        self.following = Some(ctx.add_stream(received));
    }

    fn on_listed(&mut self, listed: ListedFaults, ctx: &mut Context<Self>) {
        let (ListedFaults::InForce(again), Some(loaded)) = (listed, self.config.loaded().cloned()) else {
            if self.report_faults(time::now()) {
                self.log_plan();
            }
            self.update_announcement();
            return;
        };
        if let Some(again) = again {
            self.schedule_reload(again, ctx);
        }
        self.shared.set_config_version(loaded.config_version);
        let needed = plan::names_to_resolve(&loaded, &self.bootstrap.host);
        let unknown = self.names.on_needed(needed);
        // At the start, a slow name service delays only the tests that need it. Later, a running test continues until
        // its new name is resolved, and is then altered in place.
        if unknown.is_empty() || !self.planned {
            self.replan(ctx);
        }
        self.resolve(unknown, ctx);
        self.update_announcement();
    }

    /// Updates the status that is published in the store, for those who roll out documents.
    fn update_announcement(&self) {
        let announced = self.config.announcement(self.bootstrap.web.url(&self.bootstrap.host), &self.shared.keys());
        self.announced.send_if_modified(|before| {
            *before != announced && {
                *before = announced;
                true
            }
        });
    }

    /// Schedules another pass over the same documents, at the end of a grace period in them.
    fn schedule_reload(&mut self, after: Duration, ctx: &mut Context<Self>) {
        if let Some(earlier) = self.looking_again.take() {
            ctx.cancel_future(earlier);
        }
        self.looking_again = Some(ctx.run_later(after, |watcher, ctx| {
            let _entered = watcher.enter();
            if let Some(listed) = watcher.config.on_grace_over(time::now()) {
                watcher.on_listed(listed, ctx);
            }
        }));
    }

    /// Starts the task that publishes this agent's status in the store; the previous task ends.
    fn announce(&mut self) {
        self.announced = watch::Sender::new(None);
        self.update_announcement();
        let (store, host) = (self.bootstrap.store.clone(), self.bootstrap.host.clone());
        actix_rt::spawn(store::announce(store, host, self.announced.subscribe()));
    }

    fn on_store_answered(&mut self) {
        let now = time::now();
        self.config.on_answered(now);
        if self.report_faults(now) {
            self.log_plan();
        }
    }

    fn on_store_lost(&mut self, problem: String) {
        self.config.on_lost(problem);
        if self.report_faults(time::now()) {
            self.log_plan();
        }
    }

    fn resolve(&mut self, names: BTreeSet<String>, ctx: &mut Context<Self>) {
        if names.is_empty() {
            return;
        }
        ctx.spawn(resolve(names).into_actor(self).map(|names, watcher, ctx| {
            let _entered = watcher.enter();
            watcher.on_resolved(names, ctx);
        }));
    }

    fn on_resolved(&mut self, resolved: Names, ctx: &mut Context<Self>) {
        self.names.on_resolved(resolved);
        self.replan(ctx);
    }

    /// Plans with the documents, names and addresses known now, and applies the difference.
    fn replan(&mut self, ctx: &mut Context<Self>) {
        let Some(loaded) = self.config.loaded() else { return };
        if let Ok(addresses) = local_addresses() {
            self.shared.set_local_addresses(addresses.clone());
            self.addresses = Some(addresses);
        }
        self.shared.set_reflects_foreign(loaded.reflect_foreign);
        let (keys, key_problems) = keys::read(&loaded.keys, loaded.active_key, &self.shared.keys());
        self.shared.set_keys(Arc::new(keys));
        self.key_problems = key_problems;
        let around = PlanInputs { names: self.names.known(), addresses: self.addresses.as_ref() };
        let plan = plan::plan(loaded, around, &self.bootstrap.host, &self.bootstrap.sink);
        let changes = difference(&self.running, &plan);
        let before = std::mem::replace(&mut self.running, Arc::new(plan));
        let first = !std::mem::replace(&mut self.planned, true);
        self.possible = self.running.possible_alarms();
        if !changes.is_empty() {
            debug!(changes = changes.len(), "plan changed");
        }
        // The list begins with what stops, so that its addresses are free for what starts.
        let starts = changes.iter().position(|change| !change.stops()).unwrap_or(changes.len());
        let (stops, starts) = changes.split_at(starts);
        stops.iter().for_each(|change| self.apply(change));
        self.stop_idle_pacers();
        self.open_sockets(ctx);
        self.start_pacers(ctx);
        starts.iter().for_each(|change| self.apply(change));
        self.start_missing(ctx);
        let faults_changed = self.report_faults(time::now());
        if first || faults_changed || before != self.running {
            self.log_plan();
        }
    }

    /// Returns all faults of the configuration on this host, with their causes.
    fn find_faults(&self) -> BTreeMap<AlarmKey, Cause> {
        let mut faults = self.running.faults.clone();
        let mut add =
            |subject, problem: String| faults.insert(AlarmKey::new(Kind::Config, subject), Cause::Config(problem));
        for (name, problem) in self.names.lost() {
            add(Subject::Name(name.to_owned()), problem);
        }
        for (binding, problem) in self.sockets.problems() {
            let address = binding.address;
            let subject = match self.running.listeners.contains_key(&address) {
                true => Subject::Listener(address),
                false => Subject::Source(address),
            };
            add(subject, problem.to_owned());
        }
        for (id, problem) in &self.key_problems {
            add(Subject::Document(format!("config, key {id}")), format!("key {id} cannot be used: {problem}"));
        }
        faults.extend(self.config.faults());
        faults
    }

    /// Reports faults that appeared or ended, once each; returns true if there were any.
    fn report_faults(&mut self, now: Now) -> bool {
        let store_patience = self.config.loaded().map_or(STORE_PATIENCE, |loaded| loaded.store_patience);
        let patience = |key: &AlarmKey| match key.subject {
            Subject::Store => store_patience,
            Subject::Listener(_) | Subject::Source(_) => ADDRESS_PATIENCE,
            Subject::Agent
            | Subject::Test(_)
            | Subject::Host(_)
            | Subject::Name(_)
            | Subject::Document(_)
            | Subject::Web(_)
            | Subject::Tag(_)
            | Subject::Answers(_)
            | Subject::Configuration => Duration::ZERO,
        };
        let changes = self.faults.on_faults(self.find_faults(), patience, now);
        let any = !changes.is_empty();
        changes.into_iter().for_each(|change| self.reports.do_send(ConditionReport(change)));
        any
    }

    fn log_plan(&self) {
        let mut possible = self.possible.clone();
        possible.extend(self.faults.keys().cloned());
        // Unless all documents are known, an alarm that was notified earlier cannot be called cleared.
        let completeness = match self.config.is_whole() {
            false => Completeness::Partial,
            true => Completeness::Whole,
        };
        let reporters = Arc::new(self.running.reporters());
        let retain = self.planned.then_some(Retain { possible, reporters, completeness });
        let names = || self.names.known().clone();
        let memory = self.config.memory().map(|(snapshot, loader)| WatcherState { snapshot, loader, names: names() });
        let alarms = self.running.alarms.clone();
        let loaded = self.config.loaded().cloned().filter(|_| self.planned);
        let in_force = loaded.map(|loaded| InForce {
            revision: self.config.status(WallTime::default()).revision.unwrap_or(0),
            loaded,
            names: names(),
            plan: self.running.clone(),
        });
        self.parent.do_send(WatcherFact::Planned(Box::new(Planned { alarms, retain, memory, in_force })));
    }

    fn stop_children(&mut self, how: Stop) {
        self.senders.release_all().for_each(|sender| sender.do_send(how));
        self.prober.release_all().for_each(|prober| prober.do_send(how));
        self.pacers.release_all().for_each(|pacer| pacer.do_send(how));
        self.listeners.release_all().for_each(|listener| listener.do_send(how));
    }
}

impl Spanned for Watcher {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Actor for Watcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.follow_store(ctx);
        actix_rt::spawn(self.config.writer());
        if let Some(memory) = self.memory.take() {
            info!("restarted with the last good documents");
            self.names = KnownNames::remembered(memory.names);
            self.config.restore(memory.loader);
            let listed = self.config.on_listed(memory.snapshot, time::now());
            self.on_listed(listed, ctx);
        }
        self.replays.remember(&self.shared);
        Self::keep_replays_later(ctx);
        ctx.run_later(FALL_BACK, |watcher, ctx| {
            let _entered = watcher.enter();
            if let Some(listed) = watcher.config.use_cached(time::now()) {
                watcher.on_listed(listed, ctx);
            }
        });
        self.announce();
        match addresses::changes() {
            Ok(changes) => {
                ctx.add_stream(changes);
            }
            Err(error) => warn!(%error, "address changes are not reported by the kernel: addresses are read every 30 \
                s instead"),
        }
        ctx.run_interval(RESOLVE_EVERY, |watcher, ctx| {
            watcher.replan(ctx);
            watcher.resolve(watcher.names.names(), ctx);
        });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // An actor with timers outlives its last address: without this, the predecessor's children would run beside
        // those of a rebuilt watcher.
        self.stop_children(Stop::Silent);
        self.parent.do_send(WatcherFact::Down(self.generation));
    }
}

impl StreamHandler<StoreEvent> for Watcher {
    fn handle(&mut self, event: StoreEvent, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match event {
            StoreEvent::Listed(snapshot) => {
                self.on_store_answered();
                let listed = self.config.on_listed(Arc::new(snapshot), time::now());
                self.on_listed(listed, ctx);
            }
            StoreEvent::Confirmed => self.on_store_answered(),
            StoreEvent::Lost(problem) => self.on_store_lost(problem),
        }
    }

    /// Restarts the task that reads the store, which ends only by a fault of its own.
    fn finished(&mut self, ctx: &mut Self::Context) {
        if self.stopping {
            return;
        }
        self.on_store_lost("the store reader failed and is restarted".to_owned());
        self.following = None;
        ctx.run_later(READ_AGAIN, |watcher, ctx| {
            if watcher.following.is_none() {
                watcher.follow_store(ctx);
            }
        });
    }
}

impl StreamHandler<AddressesChanged> for Watcher {
    fn handle(&mut self, _: AddressesChanged, ctx: &mut Self::Context) {
        let _entered = self.enter();
        // Addresses that could not be bound may exist now.
        for opened in self.sockets.try_all() {
            self.on_opened(opened, ctx);
        }
        self.replan(ctx);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<PacerFact> for Watcher {
    type Result = ();
    fn handle(&mut self, fact: PacerFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            PacerFact::Faulted(id) => self.on_sender_faulted(id),
            PacerFact::Down(source, generation) => self.on_pacer_down(&source, generation, ctx),
        }
    }
}

impl Handler<ProberFact> for Watcher {
    type Result = ();
    fn handle(&mut self, fact: ProberFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            ProberFact::Observed(tests) => {
                self.observed.targets = tests.into_iter().map(|test| (test.test.id, test)).collect();
                self.on_answered(Observe::Fully);
            }
            ProberFact::Down(generation) => self.on_prober_down(generation, ctx),
        }
    }
}

impl Handler<ListenerFact> for Watcher {
    type Result = ();
    fn handle(&mut self, fact: ListenerFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            ListenerFact::Observed(status, tests) => {
                let address = status.address;
                let answered = if tests.is_some() { Observe::Fully } else { Observe::Briefly };
                if self.listeners.contains(&address) {
                    self.observed.on_listener(address, *status, tests);
                }
                self.on_answered(answered);
            }
            ListenerFact::ReceiverStops(stop_announced) => {
                if let Some(sender) = self.senders.get(&stop_announced.test_id) {
                    sender.do_send(stop_announced);
                }
            }
            ListenerFact::Down(address, generation) => self.on_listener_down(address, generation, ctx),
        }
    }
}

impl Handler<SenderFact> for Watcher {
    type Result = ();
    fn handle(&mut self, fact: SenderFact, ctx: &mut Self::Context) {
        let _entered = self.enter();
        match fact {
            SenderFact::Observed(sender, test) => {
                if self.senders.contains(&sender.test.id) {
                    self.observed.senders.insert(sender.test.id, (*sender, *test));
                }
                self.on_answered(Observe::Fully);
            }
            SenderFact::Down(id, generation) => self.on_sender_down(id, generation, ctx),
        }
    }
}

impl Watcher {
    /// Reports the faults that have lasted long enough by now.
    fn report_lasting_faults(&mut self) {
        let now = time::now();
        if self.faults.next_deadline().is_some_and(|at| at <= now.moment) && self.report_faults(now) {
            self.log_plan();
        }
    }
}

impl Handler<BootstrapChanged> for Watcher {
    type Result = ();
    fn handle(&mut self, BootstrapChanged(bootstrap): BootstrapChanged, ctx: &mut Self::Context) {
        let _entered = self.enter();
        let before = std::mem::replace(&mut self.bootstrap, bootstrap);
        if before.store != self.bootstrap.store {
            // Running tests continue until the other store has answered.
            self.config.on_rebased(&self.bootstrap, time::now());
            self.announce();
            if let Some(following) = self.following.take() {
                ctx.cancel_future(following);
            }
            self.follow_store(ctx);
        }
        match self.planned {
            true => self.replan(ctx),
            false => self.running = Arc::new(Plan::of_bootstrap(&self.bootstrap.sink, &self.bootstrap.host)),
        }
        self.log_plan();
    }
}

impl Handler<ReportConditions> for Watcher {
    type Result = ();
    fn handle(&mut self, _: ReportConditions, _: &mut Self::Context) {
        let _entered = self.enter();
        self.log_plan();
        self.faults.report(time::now()).into_iter().for_each(|change| self.reports.do_send(ConditionReport(change)));
        self.listeners.iter().for_each(|listener| listener.do_send(ReportConditions));
        self.senders.iter().for_each(|sender| sender.do_send(ReportConditions));
        self.prober.iter().for_each(|prober| prober.do_send(ReportConditions));
    }
}

impl Handler<Stop> for Watcher {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.stopping = true;
        self.write_replays();
        self.stop_children(stop);
        ctx.stop();
    }
}

#[cfg(test)]
mod tests;
