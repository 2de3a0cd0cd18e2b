//! Pacer actor: sends the probes of all tests with one source address, each at its scheduled time.
//!
//! Its senders share its sockets, which the watcher lends, and enrol their session state in its calendar queue: one
//! timer serves all tests that are due, where a timer for each would cost too much. The pacer also reads what returns
//! to the sockets, reflected probes and ICMP errors. It stops on `Stop` from the watcher or when it panics; the
//! watcher starts a new one, and lets the senders enrol again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream::{self, Stream};
use tracing::{Span, debug, info, info_span};

use crate::actor::deadline::{DeadlineTimer, Deadlines};
use crate::actor::spanned::Spanned;
use crate::io::net::prefetch::prefetch;
use crate::io::net::recv_batch::{Batch, Datagram};
use crate::io::net::transmit::{SenderCell, SourceSockets, Transmitter};
use crate::io::net::udp::{PathError, Readiness};
use crate::io::shared::SharedState;
use crate::io::time;
use crate::messages::{ConditionReport, Generation, PacerFact, Register, Stop};
use crate::pure::alarm::change::ConditionChange;
use crate::pure::base::calendar_queue::CalendarQueue;
use crate::pure::base::polling;
use crate::pure::base::time::{Moment, Now};
use crate::pure::stamp::key::Key;
use crate::pure::stamp::packet::{Probe, flag};
use crate::pure::stamp::session_reflector::Reply;
use crate::pure::stamp::session_sender::{SlotPrecision, Source};
use crate::pure::test::id::TestId;

/// Interval of reading the sockets' error queues, chosen to coincide with other wake-ups.
const LOOK_EVERY: Duration = polling::LONGEST;
/// Number of these intervals, about one second, after which sockets without reflected probes are read for
/// announcements of receivers that stop.
const LOOKS_FOR_FAREWELLS: u32 = 5;
/// Largest number of calendar ticks served in one wake-up, so that many tests leave time for other actors.
const TICKS_PER_WAKE: usize = 16;
/// Largest number of batches of reflected probes received in one wake-up.
const BATCHES_PER_WAKE: usize = 64;
/// Lateness of a turn from which reflected probes may be queued in the sockets; they are read before timeouts are
/// judged.
const LATE: Duration = Duration::from_millis(20);
/// Lateness of a turn from which this process is considered to have been suspended.
const OWN_STALL: Duration = Duration::from_secs(1);
/// Number of tests whose memory is being prefetched while one is served.
const AHEAD: usize = 6;
/// Number of tests below which turns are aligned to a coarse grid, so that tests share wake-ups.
const FEW: usize = 1_000;

/// Actor that sends the probes of all tests with one source.
pub struct Pacer {
    source: Source,
    sockets: SourceSockets,
    /// True if this pacer is the only reader of the sockets; otherwise a listener reads them.
    reads: bool,
    parent: Recipient<PacerFact>,
    reports: Recipient<ConditionReport>,
    generation: Generation,
    transmitter: Transmitter,
    calendar: CalendarQueue<Enrolled>,
    lines: HashMap<TestId, Arc<SenderCell>>,
    /// Session states of the tests that expect reflected probes, by destination address: a Session-Reflector of
    /// another make may not return the test id.
    answering: HashMap<SocketAddr, Vec<Arc<SenderCell>>>,
    listening: Option<Vec<SpawnHandle>>,
    batch: Batch,
    /// Time at which each port's socket was last found empty.
    drained: Vec<Moment>,
    timer: DeadlineTimer,
    strangers: u64,
    looks: u32,
    steps: u32,
    span: Span,
}

struct Enrolled {
    cell: Arc<SenderCell>,
    turn: u32,
}

/// Constructor arguments of a pacer.
pub struct Args {
    /// Source address and ports from which the probes are sent.
    pub source: Source,
    /// Sockets of the source, one for each port.
    pub sockets: SourceSockets,
    /// True if this pacer is the only reader of the sockets; otherwise a listener reads them.
    pub reads: bool,
    /// Shared state of the agent: clock readings and keys.
    pub shared: SharedState,
    /// Watcher, which receives the facts of this pacer.
    pub parent: Recipient<PacerFact>,
    /// Supervisor, which passes reports to the alarm actor.
    pub reports: Recipient<ConditionReport>,
    /// Generation of this pacer, which distinguishes it from earlier ones with the same source.
    pub generation: Generation,
}

impl Pacer {
    /// Creates a pacer without tests; senders enrol later.
    pub fn new(args: Args) -> Self {
        let Args { source, sockets, reads, shared, parent, reports, generation } = args;
        let transmitter = Transmitter::new(shared);
        Pacer {
            span: info_span!("pacer", source = %source.address),
            source,
            reads,
            parent,
            reports,
            generation,
            steps: transmitter.readings_and_keys().0.steps,
            transmitter,
            calendar: CalendarQueue::default(),
            lines: HashMap::new(),
            answering: HashMap::new(),
            listening: None,
            batch: Batch::default(),
            drained: vec![time::now().moment; sockets.len()],
            timer: DeadlineTimer::default(),
            strangers: 0,
            looks: 0,
            sockets,
        }
    }

    /// Sends the probes of the tests that are due.
    fn serve(&mut self) {
        self.detect_suspension();
        self.transmitter.refresh();
        let mut changes = Vec::new();
        for _ in 0..TICKS_PER_WAKE {
            let Some(due) = self.calendar.due(time::now().moment) else { break };
            prefetch(due.as_slice(), size_of_val(due.as_slice()));
            due.iter().take(AHEAD).for_each(|entry| entry.cell.prefetch());
            let mut now = time::now();
            let mut rest = due.into_iter();
            while let Some(entry) = rest.next() {
                if let Some(ahead) = rest.as_slice().get(AHEAD - 1) {
                    ahead.cell.prefetch();
                }
                now = self.serve_one(entry, now, &mut changes);
            }
        }
        self.send_changes(changes);
    }

    /// Reads the reflected probes that are queued and detects a suspension of this process. Call before judging
    /// missing reflections: those in the sockets arrived in time.
    fn detect_suspension(&mut self) {
        let now = time::now();
        let late = self.calendar.next().map_or(Duration::ZERO, |due| now.moment.since(due));
        if self.answering.is_empty() || late < LATE {
            return;
        }
        (0..self.sockets.len()).for_each(|port| self.take_answers(port));
        if late > OWN_STALL {
            info!(?late, "this process was suspended; missing replies meanwhile are not judged");
            let lines = self.answering.values().flatten();
            lines.filter_map(|cell| cell.lock_unpoisoned()).for_each(|mut sending| sending.on_suspension(now));
        }
    }

    /// Serves one turn of a test, and returns the time at which its last probe left. A panic in one test's turn is
    /// reported for that test and does not affect the others.
    fn serve_one(&mut self, entry: Enrolled, now: Now, changes: &mut Vec<ConditionChange>) -> Now {
        let (transmitter, sockets, grid) = (&mut self.transmitter, &self.sockets, grid_of(self.lines.len()));
        let served = catch_unwind(AssertUnwindSafe(|| {
            let mut sending = entry.cell.lock_unpoisoned().filter(|sending| sending.is_turn(entry.turn))?;
            sending.on_slot(now, changes);
            let left = transmitter.send_turn(&mut sending, sockets, 0, now);
            Some((left, sending.next_slot(left, grid)))
        }));
        match served {
            Ok(Some((left, next))) => {
                self.calendar.enter(next, entry);
                return now.advanced_to(left);
            }
            Ok(None) => self.forget(&entry.cell),
            Err(_) => {
                self.forget(&entry.cell);
                self.parent.do_send(PacerFact::Faulted(entry.cell.id));
            }
        }
        now
    }

    /// Removes a test whose state is withdrawn or damaged, unless a later sender of the same test has enrolled
    /// another.
    fn forget(&mut self, cell: &Arc<SenderCell>) {
        let current = self.lines.get(&cell.id).is_some_and(|known| Arc::ptr_eq(known, cell));
        if current && cell.lock_unpoisoned().is_none_or(|sending| sending.is_withdrawn()) {
            self.lines.remove(&cell.id);
            self.answering.values_mut().for_each(|lines| lines.retain(|known| !Arc::ptr_eq(known, cell)));
            self.answering.retain(|_, lines| !lines.is_empty());
        }
    }

    /// Schedules the next reading of the error queues at a multiple of the interval, at which other timers expire too.
    fn poll_errors_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(LOOK_EVERY), |pacer, ctx| {
            let _entered = pacer.enter();
            pacer.poll_errors();
            Self::poll_errors_later(ctx);
        });
    }

    /// Compares the clocks, reads the errors that the network returned, and reports them to their tests.
    fn poll_errors(&mut self) {
        let now = time::now();
        self.observe_clock();
        self.looks = self.looks.wrapping_add(1);
        let errors: Vec<PathError> = self.sockets.iter().flat_map(|socket| socket.take_path_errors()).collect();
        // Datagrams left in a socket after a batch cause no wake-up. On a socket without reflected probes only
        // announcements of a stop arrive: they are read before the errors that they explain.
        let may_explain = self.looks.is_multiple_of(LOOKS_FOR_FAREWELLS) || !errors.is_empty();
        if self.listening.is_some() || self.reads && may_explain {
            (0..self.sockets.len()).for_each(|port| self.take_answers(port));
        }
        for error in errors {
            let cell = self.lines.get(&error.test_id).and_then(|cell| cell.lock_unpoisoned());
            if let Some(mut sending) = cell {
                debug!(test = %error.test_id, error.cause, "probe not delivered");
                sending.on_path_error(error.cause, now);
            }
        }
    }

    /// Compares the clocks. After a step of the wall clock, the delays of probes that are under way cannot be
    /// measured.
    fn observe_clock(&mut self) {
        let now = time::now();
        self.transmitter.observe(now);
        self.transmitter.refresh();
        let steps = self.transmitter.readings_and_keys().0.steps;
        if std::mem::replace(&mut self.steps, steps) != steps {
            let lines = self.answering.values().flatten();
            lines.filter_map(|cell| cell.lock_unpoisoned()).for_each(|mut sending| sending.on_clock_step(now));
        }
    }

    fn take_answers(&mut self, port: usize) {
        let Some(socket) = self.sockets.get(port).cloned() else { return };
        let mut changes = Vec::new();
        for _ in 0..BATCHES_PER_WAKE {
            let now = time::now();
            if !matches!(self.batch.receive(socket.as_fd()), Ok(taken) if taken > 0) {
                if let Some(drained) = self.drained.get_mut(port) {
                    *drained = now.moment;
                }
                break;
            }
            self.observe_clock();
            let drained = self.drained.get(port).copied().unwrap_or(now.moment);
            let answers = self.batch.datagrams().map(|datagram| self.on_answer(&datagram, now, drained, &mut changes));
            self.strangers += answers.filter(Option::is_none).count() as u64;
        }
        self.send_changes(changes);
    }

    /// Handles a reflected probe. Its receive time is no earlier than the socket was last found empty, even if the
    /// wall clock suggests so, because that may have stepped since.
    fn on_answer(
        &self,
        datagram: &Datagram<'_>,
        now: Now,
        drained: Moment,
        changes: &mut Vec<ConditionChange>,
    ) -> Option<()> {
        if let Ok(probe) = Probe::decode(datagram.octets)
            && probe.flags & flag::RECEIVER_STOPS != 0
        {
            return self.on_stop_announced(datagram, &probe, now);
        }
        let reply = Reply::decode(datagram.octets)?;
        let wall = datagram.received.unwrap_or(now.wall);
        let age = u64::try_from(now.wall.nanos_since(wall)).unwrap_or(0);
        let received = Now { moment: (now.moment - Duration::from_nanos(age)).max(drained), wall };
        let lines = self.answering.get(&datagram.source)?;
        let (readings, keys) = self.transmitter.readings_and_keys();
        let named = |cell: &&Arc<SenderCell>| reply.test_id.is_none_or(|id| id == cell.id);
        lines.iter().filter(named).filter_map(|cell| cell.lock_unpoisoned()).find_map(|mut sending| {
            let taken = sending.on_answer(&reply, datagram.octets, received, readings.clock, keys, changes);
            taken.ok()
        })
    }

    fn on_stop_announced(&self, datagram: &Datagram<'_>, probe: &Probe, now: Now) -> Option<()> {
        let cell = self.lines.get(&probe.test_id)?;
        let key = self
            .transmitter
            .readings_and_keys()
            .1
            .get(probe.key_id)
            .filter(|key| Probe::is_signed(datagram.octets, key));
        cell.lock_unpoisoned()?.on_stop_announced(datagram.source, key.map(Key::id), probe.sent, now);
        Some(())
    }

    fn send_changes(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.reports.do_send(ConditionReport(change)));
    }

    /// Sets the timer to the next turn, unless an earlier or equal time is set.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(next) = self.calendar.next() {
            self.set_timer(next, ctx);
        }
    }
}

fn grid_of(tests: usize) -> SlotPrecision {
    if tests < FEW { SlotPrecision::Coarse } else { SlotPrecision::Fine }
}

/// Returns a stream that yields the index of a port whenever its socket may be readable.
fn readiness(readiness: Readiness, port: usize) -> impl Stream<Item = SourceReadable> {
    stream::unfold(readiness, move |readiness| async move {
        readiness.readable().await.ok()?;
        Some((SourceReadable(port), readiness))
    })
}

/// Item of the stream above: the socket of the port with this index may be readable.
struct SourceReadable(usize);

impl Spanned for Pacer {
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Deadlines for Pacer {
    fn timer(&mut self) -> &mut DeadlineTimer {
        &mut self.timer
    }

    fn on_deadline(&mut self, ctx: &mut Context<Self>) {
        self.serve();
        self.arm(ctx);
    }
}

impl Actor for Pacer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        Self::poll_errors_later(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(PacerFact::Down(self.source.clone(), self.generation));
    }
}

impl StreamHandler<SourceReadable> for Pacer {
    fn handle(&mut self, SourceReadable(port): SourceReadable, _: &mut Self::Context) {
        let _entered = self.enter();
        self.take_answers(port);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Register> for Pacer {
    type Result = ();
    fn handle(&mut self, Register(cell): Register, ctx: &mut Self::Context) {
        let _entered = self.enter();
        let grid = grid_of(self.lines.len());
        let Some((turn, next, answers)) = cell.lock_unpoisoned().map(|mut sending| {
            let turn = sending.on_enrolled();
            let answers = sending.answers().map(|_| sending.plan().destination);
            (turn, sending.next_slot(time::now().moment, grid), answers)
        }) else {
            return;
        };
        self.lines.insert(cell.id, cell.clone());
        self.answering.values_mut().for_each(|lines| lines.retain(|known| known.id != cell.id));
        if let Some(from) = answers {
            self.answering.entry(from).or_default().push(cell.clone());
            if self.reads && self.listening.is_none() {
                let sockets = self.sockets.iter().cloned().enumerate();
                let listening = sockets
                    .filter_map(|(port, socket)| Some(ctx.add_stream(readiness(Readiness::of(socket).ok()?, port))));
                self.listening = Some(listening.collect());
            }
        }
        self.calendar.enter(next, Enrolled { cell, turn });
        self.arm(ctx);
    }
}

impl Handler<Stop> for Pacer {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        let _entered = self.enter();
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::raw::{Documents, RawDocument};
    use crate::config::load::Loader;
    use crate::config::plan::{Names, PlanInputs, plan};
    use crate::pure::base::time::WallTime;
    use crate::pure::clock::error_estimate::{ClockQuality, ErrorEstimate};
    use crate::pure::stamp::key::{KeyChoice, KeyRing};
    use crate::pure::stamp::packet::{PADDED_LEN, SIGNED_LEN};
    use crate::pure::stamp::session_reflector::{Reflector, Signature, reflect};
    use crate::pure::stamp::session_sender::{SenderPlan, SessionSender};

    const SECOND: Duration = Duration::from_secs(1);

    /// Actor in place of the watcher.
    struct Parent;

    impl Actor for Parent {
        type Context = Context<Self>;
    }

    impl Handler<ConditionReport> for Parent {
        type Result = ();
        fn handle(&mut self, _: ConditionReport, _: &mut Self::Context) {}
    }

    impl Handler<PacerFact> for Parent {
        type Result = ();
        fn handle(&mut self, _: PacerFact, _: &mut Self::Context) {}
    }

    fn at(seconds: u64) -> Now {
        let wall = WallTime::from_unix_nanos((1_700_000_000 + seconds) * 1_000_000_000);
        Now { moment: Moment::new(SECOND * seconds as u32), wall }
    }

    /// Returns a pacer that is not started, with one test that expects replies. The host has key 1.
    fn pacer(keys: Option<KeyChoice>) -> (Pacer, Arc<SenderCell>) {
        let text = r#"{"id":"5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d","from_host":"a","from":"127.0.0.1:0","to_host":"b",
            "to":"127.0.0.9:8620","mode":"two_way"}"#;
        let key = "tests/a/x".to_owned();
        let document = Arc::new(RawDocument::of_store(&key, Ok(text.to_owned()), 0));
        let loaded = Loader::new("a").load(&Documents::from([(key, document)]));
        let around = PlanInputs { names: &Names::new(), addresses: None };
        let planned = plan(&loaded, around, "a", &[]).senders.into_values().next().unwrap();
        let planned = Arc::new(SenderPlan { keys, startup_grace: Duration::ZERO, ..planned.as_ref().clone() });
        let cell = SenderCell::new(planned.test.id, SessionSender::new(planned.clone(), at(0), 1));
        let shared = SharedState::new();
        shared.set_keys(Arc::new(KeyRing::new([Key::new(1, [1; 32])], Some(1))));
        let parent = Parent.start();
        let mut pacer = Pacer::new(Args {
            source: planned.source.clone(),
            sockets: [].into(),
            reads: true,
            shared,
            parent: parent.clone().recipient(),
            reports: parent.recipient(),
            generation: 1,
        });
        pacer.lines.insert(cell.id, cell.clone());
        pacer.answering.insert(planned.destination, vec![cell.clone()]);
        (pacer, cell)
    }

    fn datagram(octets: &[u8], source: SocketAddr, received: WallTime) -> Datagram<'_> {
        Datagram { octets, source, received: Some(received), drops: None, ttl: None, dscp: None, sent_to: None }
    }

    /// Returns an announcement, at 10 s, that the receiver of a test stops.
    fn stop_announcement(test_id: TestId, key: &Key) -> [u8; SIGNED_LEN] {
        let probe = Probe {
            sequence: 0,
            sent: at(10).wall,
            error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
            ssid: Probe::ssid_of(test_id),
            flags: flag::RECEIVER_STOPS,
            flow: 0,
            key_id: 1,
            test_id,
            epoch: 1,
            send_every: SECOND,
            unsent: 0,
            clock_error: 0,
            previous_lateness: 0,
        };
        let mut octets = [0; SIGNED_LEN];
        probe.write(&mut octets, Some(key));
        octets
    }

    #[actix::test]
    async fn stop_announcement_that_is_signed_with_a_wrong_key_forgives_nothing() {
        for (octet, is_raised) in [(1, false), (2, true)] {
            let (pacer, cell) = pacer(Some(KeyChoice::Fleet));
            let octets = stop_announcement(cell.id, &Key::new(1, [octet; 32]));
            let source = cell.state().plan().destination;
            pacer.on_answer(&datagram(&octets, source, at(10).wall), at(10), at(10).moment, &mut Vec::new());
            for second in 10..13 {
                cell.state().on_path_error("port unreachable".to_owned(), at(second));
                cell.state().on_slot(at(second), &mut Vec::new());
            }
            assert_eq!(cell.state().health().condition().is_down(), is_raised);
        }
    }

    /// The clock was set forward by a minute while the reply was queued.
    #[actix::test]
    async fn reply_arrived_no_earlier_than_the_socket_was_last_empty() {
        let (pacer, cell) = pacer(None);
        let mut octets = [0; *PADDED_LEN.end()];
        let (readings, keys) = pacer.transmitter.readings_and_keys();
        let len = cell.state().write(0, 0, at(990), readings, keys, &mut octets).unwrap();
        let (received, error_estimate) = (at(990).wall, readings.error_estimate);
        let by = Reflector { received, sent: received, error_estimate, ttl: None };
        reflect(&mut octets[..len], by, Signature::None);
        let now = Now { wall: at(1_050).wall, ..at(991) };
        let source = cell.state().plan().destination;
        let reply = datagram(&octets[..len], source, at(990).wall);
        assert_eq!(pacer.on_answer(&reply, now, at(990).moment, &mut Vec::new()), Some(()));
        assert_eq!(cell.state().answers().unwrap().last_probe().unwrap().moment, at(990).moment);
    }
}
