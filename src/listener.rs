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

use crate::actor::deadline::{DeadlineTimer, Deadlines};
use crate::actor::spanned::Spanned;
use crate::io::net::recv_batch::{Batch, Datagram};
use crate::io::net::udp::{Readiness, Socket};
use crate::io::shared::SharedState;
use crate::io::time;
use crate::messages::{
    ConditionReport, Generation, Handover, ListenerFact, Observe, RemoveTest, ReportConditions, SetTest, Stop,
};
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
    reports: Recipient<ConditionReport>,
    generation: Generation,
    names: Vec<String>,
    sessions: Sessions,
    /// Maps the test id in a probe to the id of the test that accepts it, for tests that accept any of several
    /// senders.
    one_of: HashMap<TestId, TestId, BuildHasherDefault<FxHasher>>,
    foreign: UnknownPackets,
    batch: Batch,
    timer: DeadlineTimer,
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
    next_read: NextRead,
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
    /// Supervisor, which passes reports to the alarm actor.
    pub reports: Recipient<ConditionReport>,
    /// Generation of this listener, which distinguishes it from earlier ones with the same address.
    pub generation: Generation,
}

impl Listener {
    /// Creates a listener and starts the receive session of each expected test.
    pub fn new(args: Args) -> Self {
        let now = time::now();
        let (steps, sleeps) = (args.shared.steps(), args.shared.sleeps());
        let mut listener = Listener {
            address: args.address,
            socket: args.socket,
            shared: args.shared,
            parent: args.parent,
            reports: args.reports,
            generation: args.generation,
            names: args.names,
            sessions: Sessions::with_room_for(args.expected.len()),
            one_of: HashMap::default(),
            foreign: UnknownPackets::new(Subject::Listener(args.address), now),
            batch: Batch::default(),
            timer: DeadlineTimer::default(),
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
            next_read: NextRead::WhenReady,
            readiness: None,
            span: info_span!("listener", address = %args.address),
        };
        for expected in args.expected {
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
    fn receive_batches(&mut self, batches: usize) -> NextRead {
        self.detect_suspension();
        self.clock_was_set = false;
        self.observe_clock();
        self.keys = self.shared.keys();
        let changed = self.shared.addresses_changed();
        if std::mem::replace(&mut self.addresses_changed, changed) != changed {
            self.sessions.values_mut().for_each(|watched| watched.source = None);
        }
        let mut next_read = NextRead::AtOnce;
        for _ in 0..batches {
            let now = time::now();
            match self.batch.receive(self.socket.as_fd()) {
                Ok(0) => {
                    next_read = self.pace.on_drained(now.moment, self.packets, self.reflected);
                    self.drained = now.moment;
                    break;
                }
                Ok(_) => self.judge_batch(now),
                Err(error) => {
                    next_read = NextRead::At(now.moment + polling::LONGEST);
                    // A datagram cannot cause this error. The socket is read again after `polling::LONGEST`.
                    tracing::debug!(%error, "receive failed");
                    break;
                }
            }
        }
        self.send_changes();
        next_read
    }

    /// Schedules the next read: immediately, at a time, or when the socket becomes readable.
    fn wait(&mut self, next_read: NextRead, ctx: &mut Context<Self>) {
        self.next_read = next_read;
        match next_read {
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
        self.receive_batches(BATCHES_BEFORE_JUDGING);
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
            self.reports.do_send(ConditionReport(change));
        }
    }

    /// Sets the timer to the earliest deadline, unless an earlier or equal one is set.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let first = self.sessions.next_call().into_iter().chain(self.foreign.next_deadline()).min();
        // The next scheduled read judges everything that is due by then.
        let reads = |next: &Moment| matches!(self.next_read, NextRead::At(next_read) if next_read <= *next);
        if let Some(next) = first.filter(|next| !reads(next)) {
            self.set_timer(next, ctx);
        }
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

impl Spanned for Listener {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Deadlines for Listener {
    fn timer(&mut self) -> &mut DeadlineTimer {
        &mut self.timer
    }

    fn on_deadline(&mut self, ctx: &mut Context<Self>) {
        self.judge();
        self.arm(ctx);
    }
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
        let _entered = self.enter();
        let next_read = self.receive_batches(BATCHES_PER_WAKE);
        if next_read != NextRead::AtOnce {
            self.judge_silence();
        }
        self.wait(next_read, ctx);
        self.arm(ctx);
    }
}

impl Handler<SetTest> for Listener {
    type Result = ();
    fn handle(&mut self, SetTest(expected): SetTest, ctx: &mut Self::Context) {
        let _entered = self.enter();
        self.expect(expected, time::now());
        self.arm(ctx);
    }
}

impl Handler<RemoveTest> for Listener {
    type Result = ();
    fn handle(&mut self, RemoveTest(id, whole): RemoveTest, _: &mut Self::Context) {
        let _entered = self.enter();
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
        let _entered = self.enter();
        let now = time::now();
        self.changes.extend(self.sessions.values().flat_map(|session| session.report(now)));
        self.changes.extend(self.foreign.report(now));
        self.send_changes();
    }
}

impl Handler<Observe> for Listener {
    type Result = ();
    fn handle(&mut self, observe: Observe, ctx: &mut Self::Context) {
        let _entered = self.enter();
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
        let _entered = self.enter();
        if stop == Stop::Announced {
            self.announce_stop();
        }
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;
    use crate::pure::base::time::WallTime;
    use crate::pure::clock::error_estimate::{ClockQuality, DelayLimits, ErrorEstimate};
    use crate::pure::judge::condition::{State, Thresholds};
    use crate::pure::judge::session::Criteria;
    use crate::pure::measure::loss_window::LossLimits;
    use crate::pure::stamp::flows::Flows;
    use crate::pure::stamp::key::Key;
    use crate::pure::stamp::packet::{SIGNED_LEN, STAMP_LEN, TLV_HMAC};
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::role::Role;

    const SECOND: Duration = Duration::from_secs(1);

    /// Actor in place of the watcher.
    struct Parent(UnboundedSender<ListenerFact>);

    impl Actor for Parent {
        type Context = Context<Self>;
    }

    impl Handler<ConditionReport> for Parent {
        type Result = ();
        fn handle(&mut self, _: ConditionReport, _: &mut Self::Context) {}
    }

    impl Handler<ListenerFact> for Parent {
        type Result = ();
        fn handle(&mut self, fact: ListenerFact, _: &mut Self::Context) {
            let _test_is_over = self.0.send(fact);
        }
    }

    fn id() -> TestId {
        TestId::from_bytes([7; 16])
    }

    /// Returns a listener that is not started and expects the probes of one unsigned test each second.
    fn listener() -> Listener {
        listener_with(unbounded_channel().0)
    }

    fn listener_with(facts: UnboundedSender<ListenerFact>) -> Listener {
        let criteria = Criteria {
            role: Role::Receiver,
            mode: Mode::OneWay,
            expect_every: SECOND,
            has_timeout: true,
            thresholds: Thresholds::in_a_row(3, 3),
            limits: DelayLimits { max_latency: None, clear_latency: SECOND, egregious_latency: SECOND * 10 },
            max_each_way: None,
            max_above_baseline: None,
            loss: LossLimits { max_loss_ppm: None, max_jitter: None, loss_window: SECOND },
            flows: Flows::default(),
            keys: None,
            startup_grace: SECOND,
            max_pause: SECOND,
        };
        let test = Arc::new(TestFacts::example(id()));
        let expected = SessionPlan { test, from_address: None, any_of: None, criteria: Arc::new(criteria) };
        let socket = Socket::open(([127, 0, 0, 1], 0).into(), None).unwrap();
        let parent = Parent(facts).start();
        Listener::new(Args {
            address: socket.local(),
            socket: Arc::new(socket),
            names: Vec::new(),
            expected: vec![expected],
            shared: SharedState::new(),
            parent: parent.clone().recipient(),
            reports: parent.recipient(),
            generation: 1,
        })
    }

    fn datagram(octets: &[u8], source: SocketAddr, received: Option<WallTime>) -> Datagram<'_> {
        Datagram { octets, source, received, drops: None, ttl: None, dscp: None, sent_to: None }
    }

    fn probe(sequence: u32, flags: u8, key_id: u8, sent: WallTime) -> Probe {
        Probe {
            sequence,
            sent,
            error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
            ssid: Probe::ssid_of(id()),
            flags,
            flow: 0,
            key_id,
            test_id: id(),
            epoch: 1,
            send_every: SECOND / 2,
            unsent: 0,
            clock_error: 0,
            previous_lateness: 0,
        }
    }

    /// Hands the listener a probe from host `from` of 192.0.2.0/24, and returns the state of the connection.
    fn state_after(listener: &mut Listener, from: u8, sequence: u32, flags: u8, received: Now) -> State {
        let octets = probe(sequence, flags, 0, received.wall).encode();
        let source = SocketAddr::from(([192, 0, 2, from], 40_000));
        listener.on_probe(&datagram(&octets, source, None), None, received).unwrap();
        session(listener).connection().state()
    }

    fn session(listener: &Listener) -> &ReceiveSession {
        listener.sessions.values().next().unwrap()
    }

    /// Anybody can send a probe of an unsigned test: neither an announcement nor a probe before it pauses the test.
    #[actix::test]
    async fn forged_stop_of_the_sender_pauses_nothing() {
        let (mut listener, start) = (listener(), time::now());
        let at = |millis| start.advanced_to(start.moment + Duration::from_millis(millis));
        assert_eq!(state_after(&mut listener, 2, 0, 0, at(0)), State::Up);
        assert_eq!(state_after(&mut listener, 9, 1, 0, at(100)), State::Up);
        assert_eq!(state_after(&mut listener, 9, 2, flag::STOPS, at(200)), State::Up);
        assert_eq!(state_after(&mut listener, 2, 3, flag::STOPS, at(300)), State::Paused);
    }

    #[actix::test]
    async fn sender_with_another_address_is_believed_once_the_former_address_is_silent() {
        let (mut listener, start) = (listener(), time::now());
        let at = |millis| start.advanced_to(start.moment + Duration::from_millis(millis));
        assert_eq!(state_after(&mut listener, 2, 0, 0, at(0)), State::Up);
        assert_eq!(state_after(&mut listener, 9, 1, 0, at(1_500)), State::Up);
        assert_eq!(state_after(&mut listener, 9, 2, flag::STOPS, at(1_600)), State::Paused);
    }

    /// The clock was set forward by a minute while the datagram was queued.
    #[actix::test]
    async fn datagram_arrived_no_earlier_than_the_socket_was_last_empty() {
        let mut listener = listener();
        listener.drained = Moment::new(SECOND * 999);
        let wall = WallTime::from_unix_nanos(1_700_000_000_000_000_000);
        let now = Now { moment: Moment::new(SECOND * 1_000), wall: wall + SECOND * 60 };
        let arrival = |received| listener.arrival(&datagram(&[], listener.address, Some(received)), now).moment;
        assert_eq!(arrival(wall), listener.drained);
        assert_eq!(arrival(now.wall), now.moment);
    }

    #[actix::test]
    async fn delay_of_a_probe_is_not_measured_in_a_batch_before_which_the_clock_was_set() {
        let mut listener = listener();
        let now = time::now();
        listener.shared.observe(now, time::slept());
        listener.shared.set_clock(ClockQuality { synchronized: true, error: Duration::ZERO });
        listener.shared.observe(Now { wall: now.wall + SECOND * 60, ..now }, time::slept());
        listener.judge_batch(now);
        assert_eq!(listener.clock_error, ClockQuality::UNKNOWN.error);
        assert_eq!(state_after(&mut listener, 2, 0, 0, now), State::Up);
        assert_eq!(session(&listener).last_delay(), None);
    }

    #[actix::test]
    async fn missing_probes_are_not_judged_while_the_machine_was_suspended() {
        let mut listener = listener();
        let now = time::now();
        state_after(&mut listener, 2, 0, 0, now);
        listener.shared.observe(now, time::slept());
        listener.shared.observe(now, time::slept() + SECOND * 600);
        let before = session(&listener).next_deadline();
        listener.observe_clock();
        assert!(session(&listener).next_deadline() > before);
    }

    #[actix::test]
    async fn short_packet_of_a_twamp_sender_is_reflected_if_foreign_senders_are_answered() {
        let mut packet = [0; 14];
        // The error estimate of a valid packet is not zero.
        packet[13] = 1;
        for reflects in [true, false] {
            let mut listener = listener();
            listener.shared.set_reflects_foreign(reflects);
            let address = listener.address;
            listener.on_datagram(&datagram(&packet, address, None), None, time::now());
            let status = listener.status();
            assert_eq!((status.reflected == 1, status.unknown_packets == 0), (reflects, reflects));
        }
    }

    #[actix::test]
    async fn stop_announcement_of_a_receiver_names_a_key_only_if_that_signed_it() {
        for (octet, signed_with) in [(1, Some(1)), (2, None)] {
            let (facts, mut received) = unbounded_channel();
            let mut listener = listener_with(facts);
            listener.keys = Arc::new(KeyRing::new([Key::new(1, [1; 32])], Some(1)));
            let mut octets = [0; SIGNED_LEN];
            let now = time::now();
            probe(0, flag::RECEIVER_STOPS, 1, now.wall).write(&mut octets, Some(&Key::new(1, [octet; 32])));
            listener.on_datagram(&datagram(&octets, listener.address, None), None, now);
            let Some(ListenerFact::ReceiverStops(stop)) = received.recv().await else { panic!("an announcement") };
            assert_eq!(stop.signed_with, signed_with);
        }
    }

    /// RFC 8972 calls the flag of a wrong signature I; a TLV that is not recognised would have flag U.
    #[actix::test]
    async fn wrong_signature_of_a_foreign_sender_is_flagged_in_the_reply() {
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.set_read_timeout(Some(SECOND * 10)).unwrap();
        for (octet, flags) in [(1, 0), (2, 0x20)] {
            let mut listener = listener();
            listener.shared.set_reflects_foreign(true);
            listener.keys = Arc::new(KeyRing::new([Key::new(1, [1; 32])], Some(1)));
            let mut packet = vec![0; STAMP_LEN];
            packet[13] = 1;
            let signature = Key::new(1, [octet; 32]).sign([&packet[..4], &[]]);
            packet.extend([0, TLV_HMAC, 0, signature.len() as u8]);
            packet.extend(signature);
            listener.on_datagram(&datagram(&packet, sender.local_addr().unwrap(), None), None, time::now());
            let mut reply = [0; STAMP_LEN + 4];
            sender.recv(&mut reply).unwrap();
            assert_eq!(reply[STAMP_LEN], flags);
        }
    }
}
