//! Listener actor: one bound address, and the receive session of every test that ends there.
//!
//! The actor owns the receive sessions and the counters of unknown packets. The watcher owns the socket and lends it,
//! so that a listener that is started again receives the datagrams that arrived meanwhile. It stops on `Stop` from the
//! watcher or when it panics; the watcher starts a new one.

mod reflecting;
mod sessions;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use rustc_hash::FxHasher;
use tracing::{Span, info, info_span};

use crate::io::net::recv_batch::{Batch, Datagram};
use crate::io::net::udp::{Readiness, Socket};
use crate::io::shared::SharedState;
use crate::io::time;
use crate::messages::{Generation, Handover, ListenerFact, Observe, RemoveTest, ReportConditions, SetTest, Stop};
use crate::pure::alarm::change::ConditionChange;
use crate::pure::alarm::key::Subject;
use crate::pure::base::polling::{self, AdaptivePoll, NextRead};
use crate::pure::base::time::{Moment, Now};
use crate::pure::base::token_bucket::TokenBucket;
use crate::pure::judge::session::{Acceptance, ReceiveSession, SessionPlan};
use crate::pure::stamp::decode::{self, Clocks, DecodedProbe, RecvMeta};
use crate::pure::stamp::key::KeyRing;
use crate::pure::stamp::packet::{Probe, flag};
use crate::pure::stamp::session_reflector::{Signature, is_short_sender_packet};
use crate::pure::stamp::unknown_packets::{RejectReason, UnknownPackets};
use crate::pure::status::snapshot::{ListenerStatus, TestStatus, UnknownSource};
use crate::pure::test::id::TestId;
use crate::pure::test::spec::Mode;

use reflecting::wants_answer;
use sessions::{SessionIndex, Sessions, TOGETHER};

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
    shared: SharedState,
    parent: Recipient<ListenerFact>,
    generation: Generation,
    names: Vec<String>,
    sessions: Sessions,
    /// Maps the test id in a probe to the id of the test that accepts it, for tests that accept any of several
    /// senders.
    one_of: HashMap<TestId, TestId, BuildHasherDefault<FxHasher>>,
    foreign: UnknownPackets,
    batch: Batch,
    timer: Option<(Moment, SpawnHandle)>,
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
    answers: TokenBucket,
    answers_to_strangers: TokenBucket,
    path_changes: TokenBucket,
    /// Changes of conditions that were found and not yet sent to the watcher.
    changes: Vec<ConditionChange>,
    pace: AdaptivePoll,
    look: NextRead,
    /// Registration of the socket, present only while each datagram causes a wake-up.
    readiness: Option<Readiness>,
    span: Span,
}

/// Constructor arguments of a listener.
pub struct Args {
    /// Bound address, as the plan names it.
    pub address: SocketAddr,
    /// Socket that is bound to the address.
    pub socket: Arc<Socket>,
    /// Names that the documents use for this address.
    pub names: Vec<String>,
    /// Tests whose probes this listener is to receive.
    pub expected: Vec<SessionPlan>,
    /// Shared state of the agent: clock error, keys, local addresses.
    pub shared: SharedState,
    /// Watcher, which receives the facts of this listener.
    pub parent: Recipient<ListenerFact>,
    /// Generation of this listener, which distinguishes it from earlier ones with the same address.
    pub generation: Generation,
}

impl Listener {
    /// Creates a listener and starts the receive session of each expected test.
    pub fn new(beginning: Args) -> Self {
        let now = time::now();
        let (steps, sleeps) = (beginning.shared.steps(), beginning.shared.sleeps());
        let mut listener = Listener {
            address: beginning.address,
            socket: beginning.socket,
            shared: beginning.shared,
            parent: beginning.parent,
            generation: beginning.generation,
            names: beginning.names,
            sessions: Sessions::with_room_for(beginning.expected.len()),
            one_of: HashMap::default(),
            foreign: UnknownPackets::new(Subject::Listener(beginning.address), now),
            batch: Batch::default(),
            timer: None,
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
            answers: TokenBucket::new(REFLECT_RATE.0, REFLECT_RATE.1, now.moment),
            answers_to_strangers: TokenBucket::new(REFLECT_FOREIGN_RATE.0, REFLECT_FOREIGN_RATE.1, now.moment),
            path_changes: TokenBucket::new(PATH_CHANGE_RATE.0, PATH_CHANGE_RATE.1, now.moment),
            changes: Vec::new(),
            pace: AdaptivePoll::new(now.moment),
            look: NextRead::WhenReady,
            readiness: None,
            span: info_span!("listener", address = %beginning.address),
        };
        for expected in beginning.expected {
            listener.expect(expected, now);
        }
        listener
    }

    fn expect(&mut self, expected: SessionPlan, now: Now) {
        let id = expected.test.id;
        self.one_of.retain(|_, wanted| *wanted != id);
        self.one_of.extend(expected.any_of.iter().flat_map(|any_of| any_of.iter()).map(|sender| (*sender, id)));
        match self.sessions.find(id).and_then(|place| self.sessions.at(place)) {
            Some((place, watched)) => {
                watched.session.on_expected(expected, now, &mut self.changes);
                self.sessions.reschedule(place);
                self.send_changes();
            }
            None => {
                let mut session = ReceiveSession::new(expected, now);
                let replays = self.shared.replays();
                session.restore_newest(|id| replays.get(id), now);
                self.sessions.insert(session);
            }
        }
    }

    /// Receives up to `batches` batches, and returns when to read the socket next.
    fn apply(&mut self, batches: usize) -> NextRead {
        self.detect_suspension();
        self.clock_was_set = false;
        self.observe_clock();
        self.keys = self.shared.keys();
        let changed = self.shared.addresses_changed();
        if std::mem::replace(&mut self.addresses_changed, changed) != changed {
            self.sessions.values_mut().for_each(|watched| watched.source = None);
        }
        let mut look = NextRead::AtOnce;
        for _ in 0..batches {
            let now = time::now();
            match self.batch.apply(self.socket.as_fd()) {
                Ok(0) => {
                    look = self.pace.on_drained(now.moment, self.packets, self.reflected);
                    self.drained = now.moment;
                    break;
                }
                Ok(_) => self.judge_batch(now),
                Err(error) => {
                    look = NextRead::At(now.moment + polling::LONGEST);
                    // A datagram cannot cause this error. The socket is read again after `pace::LONGEST`.
                    tracing::debug!(%error, "receive failed");
                    break;
                }
            }
        }
        self.send_changes();
        look
    }

    /// Schedules the next read: immediately, at a time, or when the socket becomes readable.
    fn wait(&mut self, look: NextRead, ctx: &mut Context<Self>) {
        self.look = look;
        match look {
            NextRead::AtOnce => {
                // Other actors and tasks run first.
                let yielded = tokio::task::yield_now().into_actor(self);
                ctx.spawn(yielded.map(|(), _, ctx| ctx.notify(Readable)));
            }
            NextRead::At(moment) => {
                self.readiness = None;
                ctx.notify_later(Readable, moment.since(time::now().moment));
            }
            NextRead::WhenReady => {
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
                        ctx.notify_later(Readable, polling::LONGEST);
                    }
                }));
            }
        }
    }

    /// Compares the clocks. After a step of the wall clock, the delays measured with it no longer hold, and queued
    /// datagrams were sent or received by the clock's previous setting.
    fn observe_clock(&mut self) {
        let now = time::now();
        self.shared.observe(now, time::slept());
        let (steps, sleeps) = (self.shared.steps(), self.shared.sleeps());
        if std::mem::replace(&mut self.steps, steps) != steps {
            self.clock_was_set = true;
            self.sessions.values_mut().for_each(|watched| watched.session.on_clock_step(now));
        }
        if std::mem::replace(&mut self.sleeps, sleeps) != sleeps {
            info!("this machine was suspended; missing probes meanwhile are not judged");
            self.sessions.values_mut().for_each(|watched| watched.session.on_suspension(now));
        }
        self.clock_error = self.shared.clock_error();
    }

    /// Detects a suspension of this process. Call before judging timeouts or a backlog: after a suspension, neither
    /// indicates a problem of the network.
    fn detect_suspension(&mut self) {
        let now = time::now();
        let slept = now.moment.since(self.last_run);
        if slept > OWN_STALL {
            info!(?slept, "this process was suspended; missing probes meanwhile are not judged");
            self.sessions.values_mut().for_each(|watched| watched.session.on_suspension(now));
        }
        self.last_run = now.moment;
    }

    fn judge_batch(&mut self, now: Now) {
        self.observe_clock();
        let batch = std::mem::take(&mut self.batch);
        let presumed = self.sessions.probable_indices(batch.octets().map(Probe::quoted_test_id));
        let some = |first: usize| &presumed[first.min(presumed.len())..(first + TOGETHER).min(presumed.len())];
        self.sessions.prefetch_for_probes(some(0));
        for (n, datagram) in batch.datagrams().enumerate() {
            // While one group of probes is judged, the memory for the next group is being fetched.
            if n % TOGETHER == 0 {
                self.sessions.prefetch_histograms(some(n));
                self.sessions.prefetch_for_probes(some(n + TOGETHER));
            }
            self.on_datagram(&datagram, presumed.get(n).copied().flatten(), now);
        }
        self.batch = batch;
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>, presumed: Option<SessionIndex>, now: Now) {
        self.packets += 1;
        if let Some(drops) = datagram.drops {
            self.kernel_drops = drops.into();
        }
        let received = self.arrival(datagram, now);
        match self.on_probe(datagram, presumed, received) {
            Ok(()) => {}
            Err(RejectReason::PlainStamp) if self.shared.reflects_foreign() => {
                self.on_foreign_sender(datagram, received)
            }
            Err(RejectReason::NotAProbe)
                if self.shared.reflects_foreign() && is_short_sender_packet(datagram.octets) =>
            {
                self.on_foreign_sender(datagram, received);
            }
            Err(reason) => {
                let change = self.foreign.on_foreign(datagram.source, reason, received);
                self.changes.extend(change);
            }
        }
    }

    fn on_probe(
        &mut self,
        datagram: &Datagram<'_>,
        presumed: Option<SessionIndex>,
        received: Now,
    ) -> Result<(), RejectReason> {
        let probe = decode::decode(datagram.octets)?;
        if let DecodedProbe::Stamp(stamp) = &probe
            && stamp.flags & flag::RECEIVER_STOPS != 0
        {
            self.on_stop_announced(datagram, stamp, received);
            return Ok(());
        }
        // A test with this id takes precedence over one that accepts any of several senders.
        let id = probe.test_id();
        let place = self.sessions.find_at(presumed, id);
        let place = place.or_else(|| self.sessions.find(*self.one_of.get(&id)?));
        let Some((place, watched)) = place.and_then(|place| self.sessions.at(place)) else {
            return self.on_visitor(datagram, &probe, received);
        };
        let expected = watched.session.expected();
        let signed_with = check_signature(expected, &self.keys, &probe, datagram.octets)?;
        let (from, source) = (datagram.source, datagram.source.ip());
        let (is_usual, is_local) = match watched.source {
            Some((known, is_local)) if known.ip() == source => (true, is_local),
            Some(_) | None => (false, self.shared.is_local(source)),
        };
        // The source address becomes the usual one if there is none, or if no probe was accepted for `expect_every`.
        let becomes_usual = is_usual || watched.source.is_none() || watched.session.is_silent(received.moment);
        let landed = RecvMeta {
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
        let accepted = watched.session.on_probe(&incoming, &mut self.changes);
        if becomes_usual && matches!(accepted, Acceptance::Accepted(_)) {
            watched.source = Some((from, is_local));
        }
        self.sessions.reschedule(place);
        let Acceptance::Accepted(ttl_was) = accepted else { return Ok(()) };
        if let Some(was) = ttl_was
            && self.path_changes.take(received.moment).is_ok()
        {
            info!(test = %id, was, ttl = datagram.ttl, "the time-to-live of probes changed: the path changed");
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
        self.apply(BATCHES_BEFORE_JUDGING);
        self.judge_silence();
    }

    fn judge_silence(&mut self) {
        let now = time::now();
        for place in self.sessions.take_due(now.moment) {
            if let Some((_, watched)) = self.sessions.at(place) {
                watched.session.on_timeout(now, self.kernel_drops, &mut self.changes);
            }
            self.sessions.reschedule(place);
        }
        self.changes.extend(self.foreign.on_quiet(now));
        self.send_changes();
    }

    fn send_changes(&mut self) {
        for change in self.changes.drain(..) {
            self.parent.do_send(ListenerFact::Changed(change));
        }
    }

    /// Sets the timer to the earliest deadline, unless an earlier or equal one is set.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let first = self.sessions.next_call().into_iter().chain(self.foreign.next_deadline()).min();
        // The next scheduled read judges everything that is due by then.
        let looks = |next: &Moment| matches!(self.look, NextRead::At(look) if look <= *next);
        let Some(next) = first.filter(|next| !looks(next)) else { return };
        match self.timer {
            Some((set, _)) if set <= next => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let handle = ctx.run_later(next.since(time::now().moment), |listener, ctx| {
            let span = listener.span.clone();
            let _entered = span.enter();
            listener.timer = None;
            listener.judge();
            listener.arm(ctx);
        });
        self.timer = Some((next, handle));
    }

    /// Stores the newest accepted sequence numbers of a signed test, so that the next listener does not accept
    /// replays.
    fn keep_newest(&self, session: &ReceiveSession) {
        if session.expected().keys.is_some() {
            session.newest().for_each(|(id, newest)| self.shared.replays().set(id, newest));
        }
    }

    fn status(&self) -> ListenerStatus {
        let sources = self.foreign.busiest(SOURCES_SHOWN).into_iter().map(|(source, count)| UnknownSource {
            source: source.to_string(),
            packets: count.packets,
            last_reason: count.last_reason.to_string(),
        });
        let (address, names) = (self.address, self.names.clone());
        ListenerStatus {
            packets: self.packets,
            unknown_packets: self.foreign.total(),
            unknown_sources: sources.collect(),
            dropped_packets: self.kernel_drops,
            reflected: self.reflected,
            ..ListenerStatus::silent(address, names, self.sessions.len())
        }
    }
}

/// Returns the id of the key that signed a probe, or `None` if its test uses no keys.
fn check_signature(
    expected: &SessionPlan,
    keys: &KeyRing,
    probe: &DecodedProbe,
    octets: &[u8],
) -> Result<Option<u8>, RejectReason> {
    let Some(choice) = &expected.keys else { return Ok(None) };
    let DecodedProbe::Stamp(probe) = probe else { return Err(RejectReason::BadSignature) };
    let key = keys.accepted(choice, probe.key_id).filter(|key| Probe::is_signed(octets, key));
    key.map(|key| Some(key.id())).ok_or(RejectReason::BadSignature)
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.wait(NextRead::WhenReady, ctx);
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
        let look = self.apply(BATCHES_PER_WAKE);
        if look != NextRead::AtOnce {
            self.judge_silence();
        }
        self.wait(look, ctx);
        self.arm(ctx);
    }
}

impl Handler<SetTest> for Listener {
    type Result = ();
    fn handle(&mut self, SetTest(expected): SetTest, ctx: &mut Self::Context) {
        self.expect(expected, time::now());
        self.arm(ctx);
    }
}

impl Handler<RemoveTest> for Listener {
    type Result = ();
    fn handle(&mut self, RemoveTest(id, whole): RemoveTest, _: &mut Self::Context) {
        if let Some(session) = self.sessions.remove(id) {
            self.keep_newest(&session);
            if whole == Handover::Ended {
                self.changes.extend(session.retire(time::now()));
                self.send_changes();
            }
        }
        self.one_of.retain(|_, wanted| *wanted != id);
    }
}

impl Handler<ReportConditions> for Listener {
    type Result = ();
    fn handle(&mut self, _: ReportConditions, _: &mut Self::Context) {
        let now = time::now();
        self.changes.extend(self.sessions.values().flat_map(|session| session.report(now)));
        self.changes.extend(self.foreign.report(now));
        self.send_changes();
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
        let all = || self.sessions.values();
        let tests = match observe {
            Observe::Briefly => None,
            Observe::Fully => Some(all().map(|session| TestStatus::of(session, now)).collect()),
        };
        // Without keys no signed probe is accepted, so that the walk over very many tests is skipped.
        if self.keys.ids().next().is_some() {
            all().for_each(|session| self.keep_newest(session));
        }
        self.parent.do_send(ListenerFact::Observed(Box::new(self.status()), tests));
    }
}

impl Handler<Stop> for Listener {
    type Result = ();
    fn handle(&mut self, stop: Stop, ctx: &mut Self::Context) {
        if stop == Stop::WithGoodbye {
            self.announce_stop();
        }
        ctx.stop();
    }
}
