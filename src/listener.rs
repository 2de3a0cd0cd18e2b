//! Listener actor: one bound address, and the receive session of every test that ends there.
//!
//! The actor owns the receive sessions and the counters of unknown packets. The watcher owns the socket and lends it,
//! so that a listener that is started again receives the datagrams that arrived meanwhile. It stops on `Stop` from the
//! watcher or when it panics; the watcher starts a new one.

mod expectations;
mod reflecting;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use rustc_hash::FxHasher;
use tracing::{Span, info, info_span};

use crate::io::batch::{Batch, Datagram};
use crate::io::gauges::Gauges;
use crate::io::time;
use crate::io::udp::{Readiness, Socket};
use crate::messages::{Expect, Forget, Generation, ListenerFact, Observe, Report, Stop, Whole};
use crate::pure::alarm::{ConditionChange, Subject};
use crate::pure::arrival::{self, AnyProbe, Clocks, Landed};
use crate::pure::bucket::Bucket;
use crate::pure::expectation::{Acceptance, Expectation, Expected};
use crate::pure::foreign::{ForeignTraffic, Reason};
use crate::pure::key::KeyRing;
use crate::pure::pace::{self, Look, Pace};
use crate::pure::probe::{Probe, flag};
use crate::pure::reflection::{Signature, is_short_sender_packet};
use crate::pure::status::{ForeignSource, ListenerStatus, TestStatus};
use crate::pure::test::{Mode, TestId};
use crate::pure::time::{Moment, Now};

use expectations::{Expectations, Place, TOGETHER};
use reflecting::wants_answer;

/// Largest number of batches received in one wake-up, so that a flood leaves time for timers.
const BATCHES_PER_WAKE: usize = 8;
/// Number of batches received before timeouts are judged. The receive buffer holds fewer, so that all datagrams that
/// arrived before are judged by then.
const BATCHES_BEFORE_JUDGING: usize = 128;
/// Longest normal time between two runs, after which this process must have been suspended: the supervisor requests a
/// status from all actors once a second.
const OWN_STALL: Duration = Duration::from_secs(3);
/// Number of sources of unknown packets that the status page shows.
const SOURCES_SHOWN: usize = 5;
/// Rate per second and burst of reflected packets: first to configured tests, then to unknown senders, if these are
/// answered at all.
const REFLECT_RATE: (f64, u32) = (20_000.0, 2_000);
const REFLECT_FOREIGN_RATE: (f64, u32) = (1_000.0, 100);
/// Rate per second and burst of log lines about changes of the time-to-live.
const PATH_CHANGE_RATE: (f64, u32) = (1.0, 20);

/// Actor that receives and judges the probes sent to one bound address.
pub struct Listener {
    address: SocketAddr,
    socket: Arc<Socket>,
    gauges: Gauges,
    parent: Recipient<ListenerFact>,
    generation: Generation,
    names: Vec<String>,
    expectations: Expectations,
    /// Maps the test id in a probe to the id of the test that accepts it, for tests that accept any of several
    /// senders.
    one_of: HashMap<TestId, TestId, BuildHasherDefault<FxHasher>>,
    foreign: ForeignTraffic,
    batch: Batch,
    alarm_clock: Option<(Moment, SpawnHandle)>,
    /// Time at which the socket was last found empty; `last_run` is the time at which this actor last ran.
    drained: Moment,
    last_run: Moment,
    packets: u64,
    kernel_drops: u64,
    reflected: u64,
    /// Copies of shared state that every probe needs, read once for each batch.
    keys: Arc<KeyRing>,
    clock_error: Duration,
    steps: u32,
    sleeps: u32,
    /// True if the wall clock stepped since the previous read of the socket; probes that were queued then are judged
    /// accordingly.
    clock_was_set: bool,
    addresses_changed: u32,
    /// Token buckets for reflected packets and for log lines about path changes.
    answers: Bucket,
    answers_to_strangers: Bucket,
    path_changes: Bucket,
    /// Changes of conditions that were found and not yet sent to the watcher.
    changes: Vec<ConditionChange>,
    pace: Pace,
    look: Look,
    /// Registration of the socket, present only while each datagram causes a wake-up.
    readiness: Option<Readiness>,
    span: Span,
}

/// Constructor arguments of a listener.
pub struct Beginning {
    /// Bound address, as the plan names it.
    pub address: SocketAddr,
    /// Socket that is bound to the address.
    pub socket: Arc<Socket>,
    /// Names that the documents use for this address.
    pub names: Vec<String>,
    /// Tests whose probes this listener is to receive.
    pub expected: Vec<Expected>,
    /// Shared state of the agent: clock error, keys, local addresses.
    pub gauges: Gauges,
    /// Watcher, which receives the facts of this listener.
    pub parent: Recipient<ListenerFact>,
    /// Generation of this listener, which distinguishes it from earlier ones with the same address.
    pub generation: Generation,
}

impl Listener {
    /// Creates a listener and starts the receive session of each expected test.
    pub fn new(beginning: Beginning) -> Self {
        let now = time::now();
        let (steps, sleeps) = (beginning.gauges.steps(), beginning.gauges.sleeps());
        let mut listener = Listener {
            address: beginning.address,
            socket: beginning.socket,
            gauges: beginning.gauges,
            parent: beginning.parent,
            generation: beginning.generation,
            names: beginning.names,
            expectations: Expectations::with_room_for(beginning.expected.len()),
            one_of: HashMap::default(),
            foreign: ForeignTraffic::new(Subject::Listener(beginning.address.to_string()), now),
            batch: Batch::default(),
            alarm_clock: None,
            drained: now.moment,
            last_run: now.moment,
            packets: 0,
            kernel_drops: 0,
            reflected: 0,
            keys: Arc::default(),
            clock_error: Duration::ZERO,
            steps,
            sleeps,
            clock_was_set: false,
            addresses_changed: 0,
            answers: Bucket::new(REFLECT_RATE.0, REFLECT_RATE.1, now.moment),
            answers_to_strangers: Bucket::new(REFLECT_FOREIGN_RATE.0, REFLECT_FOREIGN_RATE.1, now.moment),
            path_changes: Bucket::new(PATH_CHANGE_RATE.0, PATH_CHANGE_RATE.1, now.moment),
            changes: Vec::new(),
            pace: Pace::new(now.moment),
            look: Look::WhenReady,
            readiness: None,
            span: info_span!("listener", address = %beginning.address),
        };
        for expected in beginning.expected {
            listener.expect(expected, now);
        }
        listener
    }

    fn expect(&mut self, expected: Expected, now: Now) {
        let id = expected.test.id;
        self.one_of.retain(|_, wanted| *wanted != id);
        self.one_of.extend(expected.any_of.iter().flat_map(|any_of| any_of.iter()).map(|sender| (*sender, id)));
        match self.expectations.find(id).and_then(|place| self.expectations.at(place)) {
            Some((place, watched)) => {
                watched.expectation.on_expected(expected, now, &mut self.changes);
                self.expectations.reschedule(place);
                self.say();
            }
            None => {
                let mut expectation = Expectation::new(expected, now);
                let replays = self.gauges.replays();
                expectation.on_remembered(|id| replays.get(id), now);
                self.expectations.insert(expectation);
            }
        }
    }

    /// Receives up to `batches` batches, and returns when to read the socket next.
    fn take_in(&mut self, batches: usize) -> Look {
        self.notice_own_stall();
        self.clock_was_set = false;
        self.observe_clock();
        self.keys = self.gauges.keys();
        let changed = self.gauges.addresses_changed();
        if std::mem::replace(&mut self.addresses_changed, changed) != changed {
            self.expectations.values_mut().for_each(|watched| watched.source = None);
        }
        let mut look = Look::AtOnce;
        for _ in 0..batches {
            let now = time::now();
            match self.batch.take_in(self.socket.as_fd()) {
                Ok(0) => {
                    look = self.pace.on_drained(now.moment, self.packets, self.reflected);
                    self.drained = now.moment;
                    break;
                }
                Ok(_) => self.judge_batch(now),
                Err(error) => {
                    look = Look::At(now.moment + pace::LONGEST);
                    // A datagram cannot cause this error. The socket is read again after `pace::LONGEST`.
                    tracing::debug!(%error, "receive failed");
                    break;
                }
            }
        }
        self.say();
        look
    }

    /// Schedules the next read: immediately, at a time, or when the socket becomes readable.
    fn wait(&mut self, look: Look, ctx: &mut Context<Self>) {
        self.look = look;
        match look {
            Look::AtOnce => {
                // Other actors and tasks run first.
                let yielded = tokio::task::yield_now().into_actor(self);
                ctx.spawn(yielded.map(|(), _, ctx| ctx.notify(Readable)));
            }
            Look::At(moment) => {
                self.readiness = None;
                ctx.notify_later(Readable, moment.since(time::now().moment));
            }
            Look::WhenReady => {
                // A new registration also reports datagrams that are already queued.
                let registered = self.readiness.take().map_or_else(|| Readiness::of(self.socket.clone()), Ok);
                let ready = async { registered?.wait().await }.into_actor(self);
                ctx.spawn(ready.map(|readiness, listener, ctx| match readiness {
                    Ok(readiness) => {
                        listener.readiness = Some(readiness);
                        ctx.notify(Readable);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot wait for the socket");
                        ctx.notify_later(Readable, pace::LONGEST);
                    }
                }));
            }
        }
    }

    /// Compares the clocks. After a step of the wall clock, the delays measured with it no longer hold, and queued
    /// datagrams were sent or received by the clock's previous setting.
    fn observe_clock(&mut self) {
        let now = time::now();
        self.gauges.observe(now, time::slept());
        let (steps, sleeps) = (self.gauges.steps(), self.gauges.sleeps());
        if std::mem::replace(&mut self.steps, steps) != steps {
            self.clock_was_set = true;
            self.expectations.values_mut().for_each(|watched| watched.expectation.on_own_step(now));
        }
        if std::mem::replace(&mut self.sleeps, sleeps) != sleeps {
            info!("this machine slept; silence meanwhile is not judged");
            self.expectations.values_mut().for_each(|watched| watched.expectation.on_own_stall(now));
        }
        self.clock_error = self.gauges.clock_error();
    }

    /// Detects a suspension of this process. Call before judging timeouts or a backlog: after a suspension, neither
    /// indicates a problem of the network.
    fn notice_own_stall(&mut self) {
        let now = time::now();
        let slept = now.moment.since(self.last_run);
        if slept > OWN_STALL {
            info!(?slept, "this process slept; silence meanwhile is not judged");
            self.expectations.values_mut().for_each(|watched| watched.expectation.on_own_stall(now));
        }
        self.last_run = now.moment;
    }

    fn judge_batch(&mut self, now: Now) {
        self.observe_clock();
        let batch = std::mem::take(&mut self.batch);
        let presumed = self.expectations.presume(batch.octets().map(Probe::quoted_test_id));
        let some = |first: usize| &presumed[first.min(presumed.len())..(first + TOGETHER).min(presumed.len())];
        self.expectations.prefetch_for_probes(some(0));
        for (n, datagram) in batch.datagrams().enumerate() {
            // While one group of probes is judged, the memory for the next group is being fetched.
            if n % TOGETHER == 0 {
                self.expectations.prefetch_histograms(some(n));
                self.expectations.prefetch_for_probes(some(n + TOGETHER));
            }
            self.on_datagram(&datagram, presumed.get(n).copied().flatten(), now);
        }
        self.batch = batch;
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>, presumed: Option<Place>, now: Now) {
        self.packets += 1;
        if let Some(drops) = datagram.drops {
            self.kernel_drops = drops.into();
        }
        let received = self.arrival(datagram, now);
        match self.on_probe(datagram, presumed, received) {
            Ok(()) => {}
            Err(Reason::PlainStamp) if self.gauges.reflects_foreign() => self.on_foreign_sender(datagram, received),
            Err(Reason::NotAProbe) if self.gauges.reflects_foreign() && is_short_sender_packet(datagram.octets) => {
                self.on_foreign_sender(datagram, received);
            }
            Err(reason) => {
                let change = self.foreign.on_foreign(datagram.source, reason, received);
                self.changes.extend(change);
            }
        }
    }

    fn on_probe(&mut self, datagram: &Datagram<'_>, presumed: Option<Place>, received: Now) -> Result<(), Reason> {
        let probe = arrival::read(datagram.octets)?;
        if let AnyProbe::Stamp(stamp) = &probe
            && stamp.flags & flag::RECEIVER_STOPS != 0
        {
            self.on_farewell(datagram, stamp, received);
            return Ok(());
        }
        // A test with this id takes precedence over one that accepts any of several senders.
        let id = probe.test_id();
        let place = self.expectations.find_at(presumed, id);
        let place = place.or_else(|| self.expectations.find(*self.one_of.get(&id)?));
        let Some((place, watched)) = place.and_then(|place| self.expectations.at(place)) else {
            return self.on_visitor(datagram, &probe, received);
        };
        let expected = watched.expectation.expected();
        let signed_with = check_signature(expected, &self.keys, &probe, datagram.octets)?;
        let (from, source) = (datagram.source, datagram.source.ip());
        let (is_usual, is_local) = match watched.source {
            Some((known, is_local)) if known.ip() == source => (true, is_local),
            Some(_) | None => (false, self.gauges.is_local(source)),
        };
        // The source address becomes the usual one if there is none, or if no probe was accepted for `expect_every`.
        let becomes_usual = is_usual || watched.source.is_none() || watched.expectation.is_silent(received.moment);
        let landed = Landed {
            received,
            clocks: if is_local { Clocks::Same } else { Clocks::Two(self.clock_error) },
            ttl: datagram.ttl,
            dscp: datagram.dscp,
            dropped: self.kernel_drops,
            source_port: from.port(),
            is_trusted: signed_with.is_some() || is_usual || expected.from_address == Some(source),
            clock_was_set: self.clock_was_set,
        };
        let ends = || {
            let test = &expected.test;
            expected.any_of.is_none().then_some([test.from_host.as_str(), test.to_host.as_str()])
        };
        let incoming = probe.incoming(ends, landed)?;
        let reflects = expected.mode == Mode::TwoWay && wants_answer(&probe);
        let may_reflect = signed_with.is_some() || expected.from_address.is_none_or(|from| from == source);
        let accepted = watched.expectation.on_probe(&incoming, &mut self.changes);
        if becomes_usual && matches!(accepted, Acceptance::Accepted(_)) {
            watched.source = Some((from, is_local));
        }
        self.expectations.reschedule(place);
        let Acceptance::Accepted(ttl_was) = accepted else { return Ok(()) };
        if let Some(was) = ttl_was
            && self.path_changes.take(received.moment).is_ok()
        {
            info!(test = %id, was, ttl = datagram.ttl, "the time-to-live of probes changed: they take another path");
        }
        if reflects && may_reflect && self.answers.take(received.moment).is_ok() {
            let keys = self.keys.clone();
            let key = signed_with.and_then(|id| keys.get(id));
            self.answer(datagram, received, key.map_or(Signature::None, Signature::Good));
        }
        Ok(())
    }

    /// Returns when the datagram arrived, on both clocks. The kernel's timestamp is from the wall clock; the same age
    /// is applied to the monotonic clock, but no earlier than the socket was last found empty, because the wall clock
    /// may have stepped since.
    fn arrival(&self, datagram: &Datagram<'_>, now: Now) -> Now {
        let Some(wall) = datagram.received else { return now };
        let age = u64::try_from(now.wall.nanos_since(wall)).unwrap_or(0);
        Now { moment: (now.moment - Duration::from_nanos(age)).max(self.drained), wall }
    }

    fn judge(&mut self) {
        // Datagrams in the socket arrived before the deadline, even if they are read after it.
        self.take_in(BATCHES_BEFORE_JUDGING);
        self.judge_silence();
    }

    fn judge_silence(&mut self) {
        let now = time::now();
        for place in self.expectations.have_their_turn(now.moment) {
            if let Some((_, watched)) = self.expectations.at(place) {
                watched.expectation.on_silence(now, self.kernel_drops, &mut self.changes);
            }
            self.expectations.reschedule(place);
        }
        self.changes.extend(self.foreign.on_quiet(now));
        self.say();
    }

    fn say(&mut self) {
        for change in self.changes.drain(..) {
            self.parent.do_send(ListenerFact::Changed(change));
        }
    }

    /// Sets the timer to the earliest deadline, unless an earlier or equal one is set.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let first = self.expectations.next_call().into_iter().chain(self.foreign.next_deadline()).min();
        // The next scheduled read judges everything that is due by then.
        let looks = |next: &Moment| matches!(self.look, Look::At(look) if look <= *next);
        let Some(next) = first.filter(|next| !looks(next)) else { return };
        match self.alarm_clock {
            Some((set, _)) if set <= next => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let handle = ctx.run_later(next.since(time::now().moment), |listener, ctx| {
            let span = listener.span.clone();
            let _entered = span.enter();
            listener.alarm_clock = None;
            listener.judge();
            listener.arm(ctx);
        });
        self.alarm_clock = Some((next, handle));
    }

    /// Stores the newest accepted sequence numbers of a signed test, so that the next listener does not accept
    /// replays.
    fn keep_newest(&self, expectation: &Expectation) {
        if expectation.expected().keys.is_some() {
            expectation.newest().for_each(|(id, newest)| self.gauges.replays().set(id, newest));
        }
    }

    fn status(&self) -> ListenerStatus {
        let sources = self.foreign.busiest(SOURCES_SHOWN).into_iter().map(|(source, count)| ForeignSource {
            source: source.to_string(),
            packets: count.packets,
            last_reason: count.last_reason.to_string(),
        });
        let (address, names) = (self.address.to_string(), self.names.clone());
        ListenerStatus {
            packets: self.packets,
            foreign: self.foreign.total(),
            foreign_sources: sources.collect(),
            kernel_drops: self.kernel_drops,
            reflected: self.reflected,
            ..ListenerStatus::silent(address, names, self.expectations.len())
        }
    }
}

/// Returns the id of the key that signed a probe, or `None` if its test uses no keys.
fn check_signature(expected: &Expected, keys: &KeyRing, probe: &AnyProbe, octets: &[u8]) -> Result<Option<u8>, Reason> {
    let Some(choice) = &expected.keys else { return Ok(None) };
    let AnyProbe::Stamp(probe) = probe else { return Err(Reason::BadSignature) };
    let key = keys.taken(choice, probe.key_id).filter(|key| Probe::is_signed(octets, key));
    key.map(|key| Some(key.id())).ok_or(Reason::BadSignature)
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.wait(Look::WhenReady, ctx);
        self.arm(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(ListenerFact::Down(self.address, self.generation));
    }
}

/// Message to the listener itself: the socket may be readable.
#[derive(Message)]
#[rtype(result = "()")]
struct Readable;

impl Handler<Readable> for Listener {
    type Result = ();
    fn handle(&mut self, _: Readable, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        let look = self.take_in(BATCHES_PER_WAKE);
        if look != Look::AtOnce {
            self.judge_silence();
        }
        self.wait(look, ctx);
        self.arm(ctx);
    }
}

impl Handler<Expect> for Listener {
    type Result = ();
    fn handle(&mut self, Expect(expected): Expect, ctx: &mut Self::Context) {
        self.expect(expected, time::now());
        self.arm(ctx);
    }
}

impl Handler<Forget> for Listener {
    type Result = ();
    fn handle(&mut self, Forget(id, whole): Forget, _: &mut Self::Context) {
        if let Some(expectation) = self.expectations.remove(id) {
            self.keep_newest(&expectation);
            if whole == Whole::Retired {
                self.changes.extend(expectation.retire(time::now()));
                self.say();
            }
        }
        self.one_of.retain(|_, wanted| *wanted != id);
    }
}

impl Handler<Report> for Listener {
    type Result = ();
    fn handle(&mut self, _: Report, _: &mut Self::Context) {
        let now = time::now();
        self.changes.extend(self.expectations.values().flat_map(|expectation| expectation.report(now)));
        self.changes.extend(self.foreign.report(now));
        self.say();
    }
}

impl Handler<Observe> for Listener {
    type Result = ();
    fn handle(&mut self, observe: Observe, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.judge();
        self.arm(ctx);
        let now = time::now().moment;
        let all = || self.expectations.values();
        let tests = match observe {
            Observe::Briefly => None,
            Observe::Fully => Some(all().map(|expectation| TestStatus::of(expectation, now)).collect()),
        };
        // Without keys no signed probe is accepted, so that the walk over very many tests is skipped.
        if self.keys.ids().next().is_some() {
            all().for_each(|expectation| self.keep_newest(expectation));
        }
        self.parent.do_send(ListenerFact::Observed(Box::new(self.status()), tests));
    }
}

impl Handler<Stop> for Listener {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        if stop == Stop::WithGoodbye {
            self.say_farewell();
        }
        ctx.stop();
    }
}
