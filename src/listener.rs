//! The listener: one bound address, and the expectation of every test that ends there.
//!
//! It owns the expectations and the count of strangers; the socket is lent by the watcher, so that
//! a listener that is rebuilt finds what came meanwhile. It stops when the watcher says so or when
//! it panics; the watcher rebuilds it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream::{self, Stream};
use tracing::{Span, info, info_span};

use crate::io::gauges::Gauges;
use crate::io::time;
use crate::io::udp::{Buffer, Datagram, Socket};
use crate::messages::{Expect, Forget, Generation, ListenerFact, Observe, Report, Stop};
use crate::pure::alarm::{ConditionChange, Kind, Subject};
use crate::pure::arrival::{self, Clocks};
use crate::pure::condition::State;
use crate::pure::expectation::{Expectation, Expected, Incoming};
use crate::pure::foreign::{ForeignTraffic, Reason};
use crate::pure::status::{ForeignSource, ListenerStatus, Role, TestStatus};
use crate::pure::test::TestId;
use crate::pure::time::{Moment, Now};

/// Batches taken in for one wake-up, so that a flood leaves time for timers.
const BATCHES_PER_WAKE: usize = 8;
/// More batches than the receive buffer holds: after so many, all that had come before is judged.
const BATCHES_BEFORE_JUDGING: usize = 128;
/// The supervisor has everybody observed once a second. Longer silence than this means that this
/// process slept.
const OWN_STALL: Duration = Duration::from_secs(3);
/// Strangers shown on the status page.
const SOURCES_SHOWN: usize = 5;

/// See the module.
pub struct Listener {
    address: SocketAddr,
    socket: Arc<Socket>,
    gauges: Gauges,
    parent: Recipient<ListenerFact>,
    generation: Generation,
    names: Vec<String>,
    expectations: HashMap<TestId, Watched>,
    /// Which expectation a probe is for that carries another test's id: that of one of many senders.
    one_of: HashMap<TestId, TestId>,
    /// When to look at whom. A test's deadline may have moved on; it is asked when its turn comes.
    agenda: BinaryHeap<Reverse<(Moment, TestId)>>,
    foreign: ForeignTraffic,
    buffer: Buffer,
    alarm_clock: Option<(Moment, SpawnHandle)>,
    /// When the socket was last found empty, or this actor last ran.
    drained: Moment,
    last_run: Moment,
    packets: u64,
    kernel_drops: u64,
    span: Span,
}

/// An expectation, and its place in the agenda. Other places of it there are of the past.
struct Watched {
    expectation: Expectation,
    due: Moment,
}

/// What a listener begins with.
pub struct Beginning {
    /// The bound address, as the plan names it.
    pub address: SocketAddr,
    /// Its socket.
    pub socket: Arc<Socket>,
    /// What the documents call it.
    pub names: Vec<String>,
    /// The tests that end there.
    pub expected: Vec<Expected>,
    /// Readings of others.
    pub gauges: Gauges,
    /// The watcher.
    pub parent: Recipient<ListenerFact>,
    /// Which of its name this is.
    pub generation: Generation,
}

impl Listener {
    /// A listener that begins to expect now.
    pub fn new(beginning: Beginning) -> Self {
        let now = time::now();
        let mut listener = Listener {
            address: beginning.address,
            socket: beginning.socket,
            gauges: beginning.gauges,
            parent: beginning.parent,
            generation: beginning.generation,
            names: beginning.names,
            expectations: HashMap::new(),
            one_of: HashMap::new(),
            agenda: BinaryHeap::new(),
            foreign: ForeignTraffic::new(Subject::Listener(beginning.address.to_string()), now),
            buffer: Buffer::default(),
            alarm_clock: None,
            drained: now.moment,
            last_run: now.moment,
            packets: 0,
            kernel_drops: 0,
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
        match self.expectations.get_mut(&id) {
            Some(watched) => {
                let changes = watched.expectation.on_expected(expected, now);
                let due = watched.expectation.next_deadline();
                if due < watched.due {
                    watched.due = due;
                    self.agenda.push(Reverse((due, id)));
                }
                self.say(changes);
            }
            None => {
                let expectation = Expectation::new(expected, now);
                let due = expectation.next_deadline();
                self.expectations.insert(id, Watched { expectation, due });
                self.agenda.push(Reverse((due, id)));
            }
        }
    }

    /// Takes in up to `batches` batches.
    fn take_in(&mut self, batches: usize) {
        self.notice_own_stall();
        let socket = self.socket.clone();
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..batches {
            let now = time::now();
            let received = socket.receive(&mut buffer, |datagram| self.on_datagram(&datagram, now));
            match received {
                Ok(0) => {
                    self.drained = now.moment;
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    // Nothing that a datagram can cause; the socket is asked again at the next wake-up.
                    tracing::debug!(%error, "receive failed");
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Before anything is judged by what did not come, or by what came in one heap.
    fn notice_own_stall(&mut self) {
        let now = time::now();
        let slept = now.moment.since(self.last_run);
        if slept > OWN_STALL {
            info!(?slept, "this process slept; silence meanwhile is not judged");
            self.expectations.values_mut().for_each(|watched| watched.expectation.on_own_stall(now));
        }
        self.last_run = now.moment;
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>, now: Now) {
        self.packets += 1;
        if let Some(drops) = datagram.drops {
            self.kernel_drops = drops.into();
        }
        let received = self.arrival(datagram, now);
        if let Err(reason) = self.on_probe(datagram, received) {
            let change = self.foreign.on_foreign(datagram.source, reason, received);
            self.say(change);
        }
    }

    fn on_probe(&mut self, datagram: &Datagram<'_>, received: Now) -> Result<(), Reason> {
        let probe = arrival::read(datagram.octets)?;
        // A test of its own goes before those of which any is enough.
        let id = match self.expectations.contains_key(&probe.test_id()) {
            true => probe.test_id(),
            false => self.one_of.get(&probe.test_id()).copied().unwrap_or(probe.test_id()),
        };
        let watched = self.expectations.get_mut(&id).ok_or(Reason::UnknownTest)?;
        let expectation = &mut watched.expectation;
        let clocks = match self.gauges.is_local(datagram.source.ip()) {
            true => Clocks::Same,
            false => Clocks::Two(self.gauges.clock_error()),
        };
        let expected = expectation.expected();
        let sender = expected.any_of.is_none().then_some(expected.test.from_host.as_str());
        let incoming = probe.incoming(sender, received, clocks)?;
        let incoming = Incoming { dropped: self.kernel_drops, ..incoming };
        let (_, changes) = expectation.on_probe(&incoming);
        // The first probe ends the grace: silence is due earlier than it was.
        let due = expectation.next_deadline();
        if due < watched.due {
            watched.due = due;
            self.agenda.push(Reverse((due, id)));
        }
        self.say(changes);
        Ok(())
    }

    /// The kernel stamps with the wall's clock. On the monotonic one the arrival was as long ago,
    /// but not before the socket was last seen empty: the wall's clock may have stepped since.
    fn arrival(&self, datagram: &Datagram<'_>, now: Now) -> Now {
        let Some(wall) = datagram.received else { return now };
        let age = u64::try_from(now.wall.nanos_since(wall)).unwrap_or(0);
        Now { moment: (now.moment - Duration::from_nanos(age)).max(self.drained), wall }
    }

    fn judge(&mut self) {
        // What is in the socket came in time, however late it is read.
        self.take_in(BATCHES_BEFORE_JUDGING);
        let now = time::now();
        let mut changes = Vec::new();
        while let Some(Reverse((deadline, id))) = self.agenda.peek().copied() {
            if deadline > now.moment {
                break;
            }
            self.agenda.pop();
            let Some(watched) = self.expectations.get_mut(&id).filter(|watched| watched.due == deadline) else {
                continue;
            };
            watched.expectation.on_silence(now, self.kernel_drops, &mut changes);
            watched.due = watched.expectation.next_deadline();
            self.agenda.push(Reverse((watched.due, id)));
        }
        changes.extend(self.foreign.on_quiet(now));
        self.say(changes);
    }

    fn say(&self, changes: impl IntoIterator<Item = ConditionChange>) {
        for change in changes {
            self.parent.do_send(ListenerFact::Changed(change));
        }
    }

    /// Sets the alarm clock to the earliest deadline, unless it is set to that or earlier.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let first = self.agenda.peek().map(|Reverse((deadline, _))| *deadline);
        let Some(next) = first.into_iter().chain(self.foreign.next_deadline()).min() else { return };
        match self.alarm_clock {
            Some((set, _)) if set <= next => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let wait = next.since(time::now().moment);
        let handle = ctx.run_later(wait, |listener, ctx| {
            let span = listener.span.clone();
            let _entered = span.enter();
            listener.alarm_clock = None;
            listener.judge();
            listener.arm(ctx);
        });
        self.alarm_clock = Some((next, handle));
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
            ..ListenerStatus::silent(address, names, self.expectations.len())
        }
    }
}

fn test_status(expectation: &Expectation) -> TestStatus {
    let (connection, latency) = (expectation.connection(), expectation.latency());
    let mut conditions = BTreeMap::from([(Kind::Connection, connection.state())]);
    if expectation.expected().limits.max_latency.is_some() {
        conditions.insert(Kind::Latency, latency.state());
    }
    // The worse of the two; the connection where neither is.
    let worst = if latency.is_down() && !connection.is_down() { latency } else { connection };
    let last_delay = expectation.last_delay();
    TestStatus {
        test: expectation.expected().test.clone(),
        role: Role::Receiver,
        condition: worst.state(),
        since: (worst.state() != State::Unknown).then(|| worst.since().wall),
        conditions,
        last_probe: expectation.last_probe().map(|now| now.wall),
        last_delay: last_delay.map(|(delay, _)| delay.seconds()),
        last_delay_uncertainty: last_delay.map(|(delay, _)| delay.uncertainty.as_secs_f64()),
        last_delay_verdict: last_delay.map(|(_, verdict)| verdict),
        counters: Some(expectation.counters()),
    }
}

/// Yields whenever the socket may have something to read.
fn readiness(socket: Arc<Socket>) -> impl Stream<Item = Readable> {
    stream::unfold(socket, |socket| async move {
        socket.readable().await.ok()?;
        Some((Readable, socket))
    })
}

/// The socket may have something to read.
struct Readable;

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(readiness(self.socket.clone()));
        self.arm(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(ListenerFact::Down(self.address, self.generation));
    }
}

impl StreamHandler<Readable> for Listener {
    fn handle(&mut self, _: Readable, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.take_in(BATCHES_PER_WAKE);
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
    fn handle(&mut self, Forget(id): Forget, _: &mut Self::Context) {
        self.expectations.remove(&id);
        self.one_of.retain(|_, wanted| *wanted != id);
    }
}

impl Handler<Report> for Listener {
    type Result = ();
    fn handle(&mut self, _: Report, _: &mut Self::Context) {
        let now = time::now();
        self.say(self.expectations.values().flat_map(|watched| watched.expectation.report(now)));
        self.say(self.foreign.report(now));
    }
}

impl Handler<Observe> for Listener {
    type Result = ();
    fn handle(&mut self, _: Observe, ctx: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.judge();
        self.arm(ctx);
        let tests = self.expectations.values().map(|watched| test_status(&watched.expectation)).collect();
        self.parent.do_send(ListenerFact::Observed(Box::new(self.status()), tests));
    }
}

impl Handler<Stop> for Listener {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
