//! The watcher: follows the config store, turns documents into a plan, and carries out the difference.
//!
//! It owns the loader with the last good documents, the resolved names, the sockets, and the
//! listener and sender actors that use them, which it rebuilds with back-off. It stops when the
//! supervisor says so or when it panics; then its children stop with it, and the supervisor
//! rebuilds it, and it them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream;
use tokio::sync::mpsc;
use tracing::{Span, debug, error, info, info_span, warn};

use crate::config::bootstrap::Bootstrap;
use crate::config::findings::Finding;
use crate::config::load::{Loaded, Loader};
use crate::config::plan::{self, AlarmPlan, Change, Names, Plan, SenderPlan};
use crate::io::gauges::{Gauges, local_addresses};
use crate::io::resolve::resolve;
use crate::io::store::{self, Snapshot, Store, StoreEvent};
use crate::io::time;
use crate::io::udp::{PathError, Socket};
use crate::listener::{self, Listener};
use crate::messages::{
    Expect, Forget, Generation, ListenerFact, Memory, Observe, Planned, Rebase, Report, Send, SenderFact, Stop,
    TakeError, WatcherFact, WatcherStatus,
};
use crate::pure::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use crate::pure::backoff::Backoff;
use crate::pure::status::{ListenerStatus, Role, SenderStatus, StoreStatus, TestStatus};
use crate::pure::test::TestId;
use crate::pure::time::{Moment, Now};
use crate::sender::{self, Sender};

/// Names are resolved again this often.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// A child, or a socket, that fails again and again is tried after 1 s and then ever later, up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A child that lived so long has earned a quick restart.
const LIVED: Duration = Duration::from_secs(60);
/// The first failure to bind is often a predecessor that is still closing its socket.
const BIND_AGAIN: Duration = Duration::from_millis(100);
/// A reader of the store that failed is begun anew after this.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Children answer within this; what they say goes up together.
const OBSERVE_WAIT: Duration = Duration::from_millis(50);
/// Store events that may wait; more would only be older.
const STORE_EVENTS: usize = 4;

/// See the module.
pub struct Watcher {
    bootstrap: Arc<Bootstrap>,
    gauges: Gauges,
    parent: Recipient<WatcherFact>,
    generation: Generation,
    loader: Loader,
    loaded: Option<Loaded>,
    names: Names,
    /// Names that resolve no longer; their last addresses are in force.
    names_lost: BTreeMap<String, String>,
    store: StoreStatus,
    following: Option<SpawnHandle>,
    /// What is carried out.
    running: Plan,
    /// Whether that comes from documents.
    planned: bool,
    /// The alarms that can be raised under it.
    possible: BTreeSet<AlarmKey>,
    /// What its predecessor knew.
    memory: Option<Memory>,
    snapshot: Option<Snapshot>,
    sockets: BTreeMap<SocketAddr, Open>,
    unbound: BTreeMap<SocketAddr, Unbound>,
    listeners: BTreeMap<SocketAddr, Child<Listener>>,
    senders: BTreeMap<TestId, Child<Sender>>,
    listener_retries: BTreeMap<SocketAddr, Retry>,
    sender_retries: BTreeMap<TestId, Retry>,
    /// What is wrong with the documents; only what is new is logged.
    findings: BTreeSet<Finding>,
    /// The faults that were said, so that only differences are.
    said: BTreeMap<AlarmKey, Cause>,
    next_generation: Generation,
    observed_listeners: BTreeMap<SocketAddr, (ListenerStatus, Vec<TestStatus>)>,
    observed_senders: BTreeMap<TestId, (SenderStatus, TestStatus)>,
    listener_restarts: u64,
    sender_restarts: u64,
    stopping: bool,
    span: Span,
}

/// A socket and the stream of errors that its paths send back.
struct Open {
    socket: Arc<Socket>,
    errors: SpawnHandle,
}

/// An address that could not be bound.
struct Unbound {
    problem: String,
    retry: Backoff,
    /// It is alarmed from the second failure on.
    failures: u32,
    /// Which retry is meant: an address may leave the plan and come back.
    ticket: u64,
}

/// A child that failed.
struct Retry {
    backoff: Backoff,
    /// A restart is due.
    pending: bool,
}

struct Child<A: Actor> {
    addr: Addr<A>,
    generation: Generation,
    began: Moment,
}

/// What a watcher begins with.
pub struct Beginning {
    /// Where the documents are, and for whom.
    pub bootstrap: Arc<Bootstrap>,
    /// Readings of others.
    pub gauges: Gauges,
    /// The supervisor.
    pub parent: Recipient<WatcherFact>,
    /// Which of its name this is.
    pub generation: Generation,
    /// What its predecessor knew.
    pub memory: Option<Memory>,
}

impl Watcher {
    /// A watcher that knows what its predecessor knew, or nothing yet.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { bootstrap, gauges, parent, generation, .. } = beginning;
        Watcher {
            loader: Loader::new(bootstrap.host.clone()),
            store: store_status(&bootstrap),
            gauges,
            parent,
            generation,
            loaded: None,
            names: Names::new(),
            names_lost: BTreeMap::new(),
            following: None,
            running: Plan { alarms: AlarmPlan::of_bootstrap(&bootstrap.sink), ..Plan::default() },
            planned: false,
            possible: BTreeSet::new(),
            memory: beginning.memory,
            snapshot: None,
            sockets: BTreeMap::new(),
            unbound: BTreeMap::new(),
            listeners: BTreeMap::new(),
            senders: BTreeMap::new(),
            listener_retries: BTreeMap::new(),
            sender_retries: BTreeMap::new(),
            findings: BTreeSet::new(),
            said: BTreeMap::new(),
            next_generation: 0,
            observed_listeners: BTreeMap::new(),
            observed_senders: BTreeMap::new(),
            listener_restarts: 0,
            sender_restarts: 0,
            stopping: false,
            span: info_span!("watcher"),
            bootstrap,
        }
    }

    fn follow_store(&mut self, ctx: &mut Context<Self>) {
        let store = match Store::new(&self.bootstrap.store, &self.bootstrap.host) {
            Ok(store) => store,
            Err(error) => {
                self.on_store_lost(error.to_string());
                return;
            }
        };
        let (events, received) = mpsc::channel(STORE_EVENTS);
        actix::spawn(store::reflect(store, events));
        let received = stream::unfold(received, |mut received| async {
            let event = received.recv().await?;
            Some((event, received))
        });
        self.following = Some(ctx.add_stream(received));
    }

    fn on_listed(&mut self, snapshot: Snapshot, ctx: &mut Context<Self>) {
        let loaded = self.loader.load(&snapshot.documents);
        let findings: BTreeSet<Finding> = loaded.findings.iter().cloned().collect();
        for finding in findings.difference(&self.findings) {
            warn!(place = finding.place, way_out = finding.way_out, "{}", finding.problem);
        }
        self.findings = findings;
        info!(
            revision = snapshot.revision,
            documents = snapshot.documents.len(),
            rejected = loaded.rejected.len(),
            tests = loaded.tests.len(),
            "documents read"
        );
        self.gauges.set_config(snapshot.revision, loaded.config_version);
        self.store.revision = Some(snapshot.revision);
        self.store.rejected.clone_from(&loaded.rejected);
        let needed = plan::names_to_resolve(&loaded, &self.bootstrap.host);
        self.names.retain(|name, _| needed.contains(name));
        self.names_lost.retain(|name, _| needed.contains(name));
        self.loaded = Some(loaded);
        self.snapshot = Some(snapshot);
        let unknown: BTreeSet<String> = needed.into_iter().filter(|name| !self.names.contains_key(name)).collect();
        if unknown.is_empty() {
            self.replan(ctx);
        } else {
            self.resolve(unknown, ctx);
        }
    }

    fn on_store_answered(&mut self) {
        let now = time::now();
        if !self.store.connected {
            info!(place = self.store.place, "store connected");
        }
        self.store.connected = true;
        self.store.error = None;
        self.store.confirmed = Some(now.wall);
        if self.say_faults(now) {
            self.say_plan();
        }
    }

    fn on_store_lost(&mut self, problem: String) {
        if self.store.error.is_none() {
            match self.loaded {
                Some(_) => warn!(place = self.store.place, problem, "store lost, tests go on"),
                None => warn!(place = self.store.place, problem, "store not reached, waiting for it"),
            }
        }
        self.store.connected = false;
        self.store.error = Some(problem);
        if self.say_faults(time::now()) {
            self.say_plan();
        }
    }

    fn resolve(&mut self, names: BTreeSet<String>, ctx: &mut Context<Self>) {
        if names.is_empty() {
            return;
        }
        ctx.spawn(resolve(names).into_actor(self).map(|names, watcher, ctx| {
            let span = watcher.span.clone();
            let _entered = span.enter();
            watcher.on_resolved(names, ctx);
        }));
    }

    fn on_resolved(&mut self, resolved: Names, ctx: &mut Context<Self>) {
        for (name, addresses) in resolved {
            match (addresses, self.names.get(&name)) {
                (Err(problem), Some(Ok(_))) => {
                    self.names_lost.insert(name, problem);
                }
                (addresses, _) => {
                    self.names_lost.remove(&name);
                    self.names.insert(name, addresses);
                }
            }
        }
        self.replan(ctx);
    }

    /// Plans with what is known now, and carries out the difference.
    fn replan(&mut self, ctx: &mut Context<Self>) {
        let Some(loaded) = &self.loaded else { return };
        self.gauges.set_local_addresses(local_addresses());
        let plan = plan::plan(loaded, &self.names, &self.bootstrap.host, &self.bootstrap.sink);
        let changes = plan::difference(&self.running, &plan);
        let before = std::mem::replace(&mut self.running, plan);
        let first = !std::mem::replace(&mut self.planned, true);
        self.possible = self.running.possible_alarms();
        if !changes.is_empty() {
            debug!(changes = changes.len(), "plan changed");
        }
        // What stops comes first in the list, so that its addresses are free for what starts.
        let starts = changes.iter().position(|change| !change.stops()).unwrap_or(changes.len());
        let (stops, starts) = changes.split_at(starts);
        stops.iter().for_each(|change| self.carry_out(change));
        self.open_sockets(ctx);
        starts.iter().for_each(|change| self.carry_out(change));
        self.start_missing(ctx);
        let faults_changed = self.say_faults(time::now());
        if first || faults_changed || before != self.running {
            self.say_plan();
        }
    }

    /// One step towards the plan; what starts is started by `start_missing`.
    fn carry_out(&mut self, change: &Change) {
        match change {
            Change::StopSender(id) => {
                self.observed_senders.remove(id);
                self.sender_retries.remove(id);
                if let Some(child) = self.senders.remove(id) {
                    child.addr.do_send(Stop::Quietly);
                }
            }
            Change::StopListener(address) => {
                self.observed_listeners.remove(address);
                self.listener_retries.remove(address);
                if let Some(child) = self.listeners.remove(address) {
                    child.addr.do_send(Stop::Quietly);
                }
            }
            Change::Forget(address, id) => {
                if let Some(child) = self.listeners.get(address) {
                    child.addr.do_send(Forget(*id));
                }
            }
            Change::Expect(address, expected) => {
                if let Some(child) = self.listeners.get(address) {
                    child.addr.do_send(Expect(expected.clone()));
                }
            }
            Change::AlterSender(plan) => match (self.senders.get(&plan.test.id), self.sockets.get(&plan.socket)) {
                (Some(child), Some(open)) => child.addr.do_send(Send(plan.clone(), open.socket.clone())),
                (Some(child), None) => {
                    // Its new address cannot be bound yet; it is started anew when it can.
                    child.addr.do_send(Stop::Quietly);
                    self.senders.remove(&plan.test.id);
                }
                (None, _) => {}
            },
            Change::StartListener(_) | Change::StartSender(_) => {}
        }
    }

    /// Opens what the plan needs and closes what it does not. Closed is a socket when its last user is gone.
    fn open_sockets(&mut self, ctx: &mut Context<Self>) {
        let needed = self.running.sockets();
        self.unbound.retain(|address, _| needed.contains(address));
        let unneeded: Vec<SocketAddr> = self.sockets.keys().filter(|addr| !needed.contains(addr)).copied().collect();
        for address in unneeded {
            if let Some(open) = self.sockets.remove(&address) {
                ctx.cancel_future(open.errors);
            }
        }
        for address in needed {
            if !self.sockets.contains_key(&address) && !self.unbound.contains_key(&address) {
                self.open_socket(address, ctx);
            }
        }
    }

    fn open_socket(&mut self, address: SocketAddr, ctx: &mut Context<Self>) {
        match Socket::open(address) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                let errors = ctx.add_stream(path_errors(socket.clone()));
                self.sockets.insert(address, Open { socket, errors });
                if self.unbound.remove(&address).is_some_and(|unbound| unbound.failures > 1) {
                    info!(%address, "address bound at last");
                }
            }
            Err(problem) => {
                self.next_generation += 1;
                let ticket = self.next_generation;
                let fresh = || Unbound { problem: String::new(), retry: RETRY, failures: 0, ticket };
                let unbound = self.unbound.entry(address).or_insert_with(fresh);
                unbound.ticket = ticket;
                unbound.failures += 1;
                unbound.problem = describe_bind_error(address, &problem);
                let wait = match unbound.failures {
                    1 => BIND_AGAIN,
                    _ => unbound.retry.on_failure(fastrand::f64()),
                };
                ctx.run_later(wait, move |watcher, ctx| {
                    let span = watcher.span.clone();
                    let _entered = span.enter();
                    watcher.on_bind_again(address, ticket, ctx);
                });
            }
        }
    }

    fn on_bind_again(&mut self, address: SocketAddr, ticket: u64, ctx: &mut Context<Self>) {
        if self.stopping || self.unbound.get(&address).is_none_or(|unbound| unbound.ticket != ticket) {
            return;
        }
        self.open_socket(address, ctx);
        self.start_missing(ctx);
        if self.say_faults(time::now()) {
            self.say_plan();
        }
    }

    /// Starts what is planned and can be started, and is not yet. What waits for its back-off is left to it.
    fn start_missing(&mut self, ctx: &mut Context<Self>) {
        let listeners: Vec<SocketAddr> = self.running.listeners.keys().copied().collect();
        for address in listeners {
            if !self.listener_retries.get(&address).is_some_and(|retry| retry.pending) {
                self.start_listener(address, ctx);
            }
        }
        let missing = |(id, _): &(&TestId, &SenderPlan)| {
            !self.senders.contains_key(id) && !self.sender_retries.get(id).is_some_and(|retry| retry.pending)
        };
        let senders: Vec<SenderPlan> =
            self.running.senders.iter().filter(missing).map(|(_, plan)| plan.clone()).collect();
        for plan in senders {
            self.start_sender(plan, ctx);
        }
    }

    fn start_listener(&mut self, address: SocketAddr, ctx: &mut Context<Self>) {
        let (Some(open), Some(plan)) = (self.sockets.get(&address), self.running.listeners.get(&address)) else {
            return;
        };
        if self.listeners.contains_key(&address) {
            return;
        }
        self.next_generation += 1;
        let generation = self.next_generation;
        let listener = Listener::new(listener::Beginning {
            address,
            socket: open.socket.clone(),
            names: plan.names.iter().cloned().collect(),
            expected: plan.tests.values().cloned().collect(),
            gauges: self.gauges.clone(),
            parent: ctx.address().recipient(),
            generation,
        });
        let child = Child { addr: listener.start(), generation, began: time::now().moment };
        self.listeners.insert(address, child);
    }

    fn start_sender(&mut self, plan: SenderPlan, ctx: &mut Context<Self>) {
        let Some(open) = self.sockets.get(&plan.socket) else { return };
        let id = plan.test.id;
        if self.senders.contains_key(&id) {
            return;
        }
        self.next_generation += 1;
        let generation = self.next_generation;
        let sender = Sender::new(sender::Beginning {
            plan,
            socket: open.socket.clone(),
            gauges: self.gauges.clone(),
            parent: ctx.address().recipient(),
            generation,
        });
        self.senders.insert(id, Child { addr: sender.start(), generation, began: time::now().moment });
    }

    fn on_listener_down(&mut self, address: SocketAddr, generation: Generation, ctx: &mut Context<Self>) {
        if self.listeners.get(&address).is_none_or(|child| child.generation != generation) || self.stopping {
            return;
        }
        let Some(child) = self.listeners.remove(&address) else { return };
        self.listener_restarts += 1;
        let wait = self.listener_retries.entry(address).or_default().on_down(child.began);
        error!(%address, ?wait, "listener failed, to be rebuilt");
        ctx.run_later(wait, move |watcher, ctx| {
            if let Some(retry) = watcher.listener_retries.get_mut(&address) {
                retry.pending = false;
            }
            watcher.start_listener(address, ctx);
        });
    }

    fn on_sender_down(&mut self, id: TestId, generation: Generation, ctx: &mut Context<Self>) {
        if self.senders.get(&id).is_none_or(|child| child.generation != generation) || self.stopping {
            return;
        }
        let Some(child) = self.senders.remove(&id) else { return };
        self.sender_restarts += 1;
        let wait = self.sender_retries.entry(id).or_default().on_down(child.began);
        error!(test = %id, ?wait, "sender failed, to be rebuilt");
        ctx.run_later(wait, move |watcher, ctx| {
            if let Some(retry) = watcher.sender_retries.get_mut(&id) {
                retry.pending = false;
            }
            if let Some(plan) = watcher.running.senders.get(&id).cloned() {
                watcher.start_sender(plan, ctx);
            }
        });
    }

    /// Everything of the configuration that is not as it should be.
    fn faults(&self) -> BTreeMap<AlarmKey, Cause> {
        let mut faults = self.running.faults.clone();
        let mut add =
            |subject, problem: String| faults.insert(AlarmKey::new(Kind::Config, subject), Cause::Config(problem));
        for (name, problem) in &self.names_lost {
            let problem = format!("name `{name}` resolves no longer, its last address is in force: {problem}");
            add(Subject::Name(name.clone()), problem);
        }
        for (address, unbound) in self.unbound.iter().filter(|(_, unbound)| unbound.failures > 1) {
            let subject = match self.running.listeners.contains_key(address) {
                true => Subject::Listener(address.to_string()),
                false => Subject::Source(address.to_string()),
            };
            add(subject, unbound.problem.clone());
        }
        if let Some(problem) = &self.store.error {
            add(Subject::Store, format!("store {} cannot be read: {problem}", self.store.place));
        }
        faults
    }

    /// Says which faults came and went, each once. Tells whether any did.
    fn say_faults(&mut self, now: Now) -> bool {
        let faults = self.faults();
        let came = faults.iter().filter(|(key, _)| !self.said.contains_key(key));
        let gone = self.said.keys().filter(|key| !faults.contains_key(key));
        let came = came.map(|(key, cause)| (key.clone(), Verdict::Violated(cause.clone())));
        let changes: Vec<_> = came.chain(gone.map(|key| (key.clone(), Verdict::Cleared))).collect();
        let any = !changes.is_empty();
        for (key, verdict) in changes {
            let reporter = key.subject.clone();
            self.parent.do_send(WatcherFact::Changed(condition_change(key, reporter, now, verdict)));
        }
        self.said = faults;
        any
    }

    fn say_plan(&self) {
        let mut possible = self.possible.clone();
        possible.extend(self.said.keys().cloned());
        // Before the documents are known, nothing that was told before can be said to be over.
        let retain = self.planned.then(|| (possible, self.running.reporters()));
        let memory = self.snapshot.clone().map(|snapshot| Memory {
            snapshot,
            loader: self.loader.clone(),
            names: self.names.clone(),
        });
        let alarms = self.running.alarms.clone();
        self.parent.do_send(WatcherFact::Planned(Box::new(Planned { alarms, retain, memory })));
    }

    fn say_observed(&self) {
        let mut listeners: Vec<ListenerStatus> = Vec::new();
        let mut tests = Vec::new();
        for (listener, its_tests) in self.observed_listeners.values() {
            listeners.push(listener.clone());
            tests.extend(its_tests.iter().cloned());
        }
        for (address, unbound) in &self.unbound {
            if let Some(plan) = self.running.listeners.get(address) {
                let waiting = plan.tests.values().map(|expected| expected.test.clone());
                tests.extend(waiting.map(|test| TestStatus::unknown(test, Role::Receiver)));
                listeners.push(ListenerStatus {
                    address: address.to_string(),
                    names: plan.names.iter().cloned().collect(),
                    bound: false,
                    error: Some(unbound.problem.clone()),
                    tests: plan.tests.len(),
                    packets: 0,
                    foreign: 0,
                    foreign_sources: Vec::new(),
                    kernel_drops: 0,
                });
            }
        }
        let mut senders = Vec::new();
        for (sender, test) in self.observed_senders.values() {
            senders.push(sender.clone());
            tests.push(test.clone());
        }
        let mut store = self.store.clone();
        let age = store.confirmed.map(|confirmed| time::now().wall.nanos_since(confirmed));
        store.age_seconds = age.map(|age| crate::pure::time::seconds(age.max(0)));
        let restarts = [("listener", self.listener_restarts), ("sender", self.sender_restarts)];
        let status = WatcherStatus { store, listeners, senders, tests, restarts };
        self.parent.do_send(WatcherFact::Observed(Box::new(status)));
    }

    /// A fact of a test that was removed while it was on its way would never be taken back.
    fn pass_on(&self, change: ConditionChange) {
        if self.possible.contains(&change.key) && self.running.expects_from(&change.reporter) {
            self.parent.do_send(WatcherFact::Changed(change));
        }
    }

    fn stop_children(&mut self, how: Stop) {
        std::mem::take(&mut self.senders).into_values().for_each(|child| child.addr.do_send(how));
        std::mem::take(&mut self.listeners).into_values().for_each(|child| child.addr.do_send(how));
    }
}

fn store_status(bootstrap: &Bootstrap) -> StoreStatus {
    let kind = bootstrap.store.kind.as_str();
    StoreStatus { kind, place: store::place(&bootstrap.store), ..StoreStatus::default() }
}

impl Default for Retry {
    fn default() -> Self {
        Retry { backoff: RETRY, pending: false }
    }
}

impl Retry {
    /// How long to wait after a child that began then went down.
    fn on_down(&mut self, began: Moment) -> Duration {
        if time::now().moment.since(began) >= LIVED {
            self.backoff.on_success();
        }
        self.pending = true;
        self.backoff.on_failure(fastrand::f64())
    }
}

fn describe_bind_error(address: SocketAddr, error: &io::Error) -> String {
    let meanings = [
        (ErrorKind::AddrInUse, "another program has it"),
        (ErrorKind::AddrNotAvailable, "the address is not on this host"),
        (ErrorKind::PermissionDenied, "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE"),
    ];
    let known = meanings.into_iter().find(|(kind, _)| *kind == error.kind());
    let meaning = known.map_or_else(|| error.to_string(), |(_, meaning)| meaning.to_owned());
    format!("cannot bind {address}: {meaning}")
}

/// What the path sent back to a socket, in batches.
fn path_errors(socket: Arc<Socket>) -> impl futures_util::Stream<Item = Vec<PathError>> {
    stream::unfold(socket, |socket| async move {
        socket.error_ready().await.ok()?;
        let errors = socket.take_path_errors();
        Some((errors, socket))
    })
}

impl Actor for Watcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.follow_store(ctx);
        if let Some(memory) = self.memory.take() {
            info!("rebuilt with the last good documents");
            self.names = memory.names;
            self.loader = memory.loader;
            self.on_listed(memory.snapshot, ctx);
        }
        ctx.run_interval(RESOLVE_EVERY, |watcher, ctx| {
            watcher.gauges.set_local_addresses(local_addresses());
            let names = watcher.names.keys().cloned().collect();
            watcher.resolve(names, ctx);
        });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // An actor with timers outlives its last address: without this a rebuilt watcher would have
        // its predecessor's children beside its own.
        self.stop_children(Stop::Quietly);
        self.parent.do_send(WatcherFact::Down(self.generation));
    }
}

impl StreamHandler<StoreEvent> for Watcher {
    fn handle(&mut self, event: StoreEvent, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        match event {
            StoreEvent::Listed(snapshot) => {
                self.on_store_answered();
                self.on_listed(snapshot, ctx);
            }
            StoreEvent::Confirmed => self.on_store_answered(),
            StoreEvent::Lost(problem) => self.on_store_lost(problem),
        }
    }

    /// The task that reads the store ends only by a fault of its own.
    fn finished(&mut self, ctx: &mut Self::Context) {
        if self.stopping {
            return;
        }
        self.on_store_lost("its reader failed, to be begun anew".to_owned());
        ctx.run_later(READ_AGAIN, |watcher, ctx| watcher.follow_store(ctx));
    }
}

impl StreamHandler<Vec<PathError>> for Watcher {
    fn handle(&mut self, errors: Vec<PathError>, _: &mut Self::Context) {
        for error in errors {
            if let Some(child) = self.senders.get(&error.test_id) {
                child.addr.do_send(TakeError(error.cause));
            }
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<ListenerFact> for Watcher {
    type Result = ();
    fn handle(&mut self, fact: ListenerFact, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        match fact {
            ListenerFact::Changed(change) => self.pass_on(change),
            ListenerFact::Observed(status, tests) => {
                let address = status.address.parse();
                if let Some(address) = address.ok().filter(|address| self.listeners.contains_key(address)) {
                    self.observed_listeners.insert(address, (*status, tests));
                }
            }
            ListenerFact::Down(address, generation) => self.on_listener_down(address, generation, ctx),
        }
    }
}

impl Handler<SenderFact> for Watcher {
    type Result = ();
    fn handle(&mut self, fact: SenderFact, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        match fact {
            SenderFact::Changed(change) => self.pass_on(change),
            SenderFact::Observed(sender, test) => {
                if self.senders.contains_key(&sender.test.id) {
                    self.observed_senders.insert(sender.test.id, (*sender, *test));
                }
            }
            SenderFact::Down(id, generation) => self.on_sender_down(id, generation, ctx),
        }
    }
}

impl Handler<Rebase> for Watcher {
    type Result = ();
    fn handle(&mut self, Rebase(bootstrap): Rebase, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        let before = std::mem::replace(&mut self.bootstrap, bootstrap);
        if before.store != self.bootstrap.store {
            // What runs goes on until the other store has answered.
            self.store = store_status(&self.bootstrap);
            if let Some(following) = self.following.take() {
                ctx.cancel_future(following);
            }
            self.follow_store(ctx);
        }
        match self.planned {
            true => self.replan(ctx),
            false => self.running.alarms = AlarmPlan::of_bootstrap(&self.bootstrap.sink),
        }
        self.say_plan();
    }
}

impl Handler<Report> for Watcher {
    type Result = ();
    fn handle(&mut self, _: Report, _: &mut Self::Context) {
        self.say_plan();
        self.said.clear();
        self.say_faults(time::now());
        self.listeners.values().for_each(|child| child.addr.do_send(Report));
        self.senders.values().for_each(|child| child.addr.do_send(Report));
    }
}

impl Handler<Observe> for Watcher {
    type Result = ();
    fn handle(&mut self, _: Observe, ctx: &mut Self::Context) {
        self.listeners.values().for_each(|child| child.addr.do_send(Observe));
        self.senders.values().for_each(|child| child.addr.do_send(Observe));
        ctx.run_later(OBSERVE_WAIT, |watcher, _| watcher.say_observed());
    }
}

impl Handler<Stop> for Watcher {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        self.stopping = true;
        self.stop_children(stop);
        ctx.stop();
    }
}

#[cfg(test)]
mod tests;
