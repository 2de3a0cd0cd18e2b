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

use crate::io::batch::{Batch, Datagram};
use crate::io::gauges::Gauges;
use crate::io::outgoing::{Line, Outlet, Post};
use crate::io::prefetch::prefetch;
use crate::io::time;
use crate::io::udp::{PathError, Readiness};
use crate::messages::{Enrol, Generation, PacerFact, Stop};
use crate::pure::alarm::ConditionChange;
use crate::pure::calendar::Calendar;
use crate::pure::key::Key;
use crate::pure::pace;
use crate::pure::probe::{Probe, flag};
use crate::pure::reflection::Reply;
use crate::pure::sending::{Grid, Source};
use crate::pure::test::TestId;
use crate::pure::time::{Moment, Now};

/// Interval of reading the sockets' error queues, chosen to coincide with other wake-ups.
const LOOK_EVERY: Duration = pace::LONGEST;
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
    outlet: Outlet,
    /// True if this pacer is the only reader of the sockets; otherwise a listener reads them.
    reads: bool,
    parent: Recipient<PacerFact>,
    generation: Generation,
    post: Post,
    calendar: Calendar<Entry>,
    lines: HashMap<TestId, Arc<Line>>,
    /// Session states of the tests that expect reflected probes, by destination address: a Session-Reflector of
    /// another make may not return the test id.
    answering: HashMap<SocketAddr, Vec<Arc<Line>>>,
    listening: Option<Vec<SpawnHandle>>,
    batch: Batch,
    /// Time at which each port's socket was last found empty.
    drained: Vec<Moment>,
    alarm_clock: Option<(Moment, SpawnHandle)>,
    strangers: u64,
    looks: u32,
    steps: u32,
    span: Span,
}

struct Entry {
    line: Arc<Line>,
    turn: u32,
}

/// Constructor arguments of a pacer.
pub struct Beginning {
    /// Source address and ports from which the probes are sent.
    pub source: Source,
    /// Sockets of the source, one for each port.
    pub outlet: Outlet,
    /// True if this pacer is the only reader of the sockets; otherwise a listener reads them.
    pub reads: bool,
    /// Shared state of the agent: clock readings and keys.
    pub gauges: Gauges,
    /// Watcher, which receives the facts of this pacer.
    pub parent: Recipient<PacerFact>,
    /// Generation of this pacer, which distinguishes it from earlier ones with the same source.
    pub generation: Generation,
}

impl Pacer {
    /// Creates a pacer without tests; senders enrol later.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { source, outlet, reads, gauges, parent, generation } = beginning;
        let post = Post::new(gauges);
        Pacer {
            span: info_span!("pacer", source = %source.address),
            source,
            reads,
            parent,
            generation,
            steps: post.known().0.steps,
            post,
            calendar: Calendar::default(),
            lines: HashMap::new(),
            answering: HashMap::new(),
            listening: None,
            batch: Batch::default(),
            drained: vec![time::now().moment; outlet.len()],
            alarm_clock: None,
            strangers: 0,
            looks: 0,
            outlet,
        }
    }

    /// Sends the probes of the tests that are due.
    fn serve(&mut self) {
        self.notice_own_stall();
        self.post.refresh();
        let mut changes = Vec::new();
        for _ in 0..TICKS_PER_WAKE {
            let Some(due) = self.calendar.due(time::now().moment) else { break };
            prefetch(due.as_slice(), size_of_val(due.as_slice()));
            due.iter().take(AHEAD).for_each(|entry| entry.line.prefetch());
            let mut now = time::now();
            let mut rest = due.into_iter();
            while let Some(entry) = rest.next() {
                if let Some(ahead) = rest.as_slice().get(AHEAD - 1) {
                    ahead.line.prefetch();
                }
                now = self.serve_one(entry, now, &mut changes);
            }
        }
        self.say(changes);
    }

    /// Reads the reflected probes that are queued and detects a suspension of this process. Call before judging
    /// missing reflections: those in the sockets arrived in time.
    fn notice_own_stall(&mut self) {
        let now = time::now();
        let late = self.calendar.next().map_or(Duration::ZERO, |due| now.moment.since(due));
        if self.answering.is_empty() || late < LATE {
            return;
        }
        (0..self.outlet.len()).for_each(|port| self.take_answers(port));
        if late > OWN_STALL {
            info!(?late, "this process slept; answers that are missing meanwhile are not judged");
            let lines = self.answering.values().flatten();
            lines.filter_map(|line| line.sound()).for_each(|mut sending| sending.on_own_stall(now));
        }
    }

    /// Serves one turn of a test, and returns the time at which its last probe left. A panic in one test's turn is
    /// reported for that test and does not affect the others.
    fn serve_one(&mut self, entry: Entry, now: Now, changes: &mut Vec<ConditionChange>) -> Now {
        let (post, outlet, grid) = (&mut self.post, &self.outlet, grid_of(self.lines.len()));
        let served = catch_unwind(AssertUnwindSafe(|| {
            let mut sending = entry.line.sound().filter(|sending| sending.is_turn(entry.turn))?;
            sending.on_slot(now, changes);
            let left = post.send_turn(&mut sending, outlet, 0, now);
            Some((left, sending.next_slot(left, grid)))
        }));
        match served {
            Ok(Some((left, next))) => {
                self.calendar.enter(next, entry);
                return now.advanced_to(left);
            }
            Ok(None) => self.forget(&entry.line),
            Err(_) => {
                self.forget(&entry.line);
                self.parent.do_send(PacerFact::Faulted(entry.line.id));
            }
        }
        now
    }

    /// Removes a test whose state is withdrawn or damaged, unless a later sender of the same test has enrolled
    /// another.
    fn forget(&mut self, line: &Arc<Line>) {
        let current = self.lines.get(&line.id).is_some_and(|known| Arc::ptr_eq(known, line));
        if current && line.sound().is_none_or(|sending| sending.is_withdrawn()) {
            self.lines.remove(&line.id);
            self.answering.values_mut().for_each(|lines| lines.retain(|known| !Arc::ptr_eq(known, line)));
            self.answering.retain(|_, lines| !lines.is_empty());
        }
    }

    /// Schedules the next reading of the error queues at a multiple of the interval, at which other timers expire too.
    fn look_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(LOOK_EVERY), |pacer, ctx| {
            let span = pacer.span.clone();
            let _entered = span.enter();
            pacer.look();
            Self::look_later(ctx);
        });
    }

    /// Compares the clocks, reads the errors that the network returned, and reports them to their tests.
    fn look(&mut self) {
        let now = time::now();
        self.observe_clock();
        self.looks = self.looks.wrapping_add(1);
        let errors: Vec<PathError> = self.outlet.iter().flat_map(|socket| socket.take_path_errors()).collect();
        // Datagrams left in a socket after a batch cause no wake-up. On a socket without reflected probes only
        // announcements of a stop arrive: they are read before the errors that they explain.
        let may_explain = self.looks.is_multiple_of(LOOKS_FOR_FAREWELLS) || !errors.is_empty();
        if self.listening.is_some() || self.reads && may_explain {
            (0..self.outlet.len()).for_each(|port| self.take_answers(port));
        }
        for error in errors {
            let line = self.lines.get(&error.test_id).and_then(|line| line.sound());
            if let Some(mut sending) = line {
                debug!(test = %error.test_id, error.cause, "probe not delivered");
                sending.on_path_error(error.cause, now);
            }
        }
    }

    /// Compares the clocks. After a step of the wall clock, the delays of probes that are under way cannot be
    /// measured.
    fn observe_clock(&mut self) {
        let now = time::now();
        self.post.observe(now);
        self.post.refresh();
        let steps = self.post.known().0.steps;
        if std::mem::replace(&mut self.steps, steps) != steps {
            let lines = self.answering.values().flatten();
            lines.filter_map(|line| line.sound()).for_each(|mut sending| sending.on_own_step(now));
        }
    }

    fn take_answers(&mut self, port: usize) {
        let Some(socket) = self.outlet.get(port).cloned() else { return };
        let mut changes = Vec::new();
        for _ in 0..BATCHES_PER_WAKE {
            let now = time::now();
            if !matches!(self.batch.take_in(socket.as_fd()), Ok(taken) if taken > 0) {
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
        self.say(changes);
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
            return self.on_farewell(datagram, &probe, now);
        }
        let reply = Reply::decode(datagram.octets)?;
        let wall = datagram.received.unwrap_or(now.wall);
        let age = u64::try_from(now.wall.nanos_since(wall)).unwrap_or(0);
        let received = Now { moment: (now.moment - Duration::from_nanos(age)).max(drained), wall };
        let lines = self.answering.get(&datagram.source)?;
        let (readings, keys) = self.post.known();
        let named = |line: &&Arc<Line>| reply.test_id.is_none_or(|id| id == line.id);
        lines.iter().filter(named).filter_map(|line| line.sound()).find_map(|mut sending| {
            let taken = sending.on_answer(&reply, datagram.octets, received, readings.clock, keys, changes);
            taken.ok()
        })
    }

    fn on_farewell(&self, datagram: &Datagram<'_>, probe: &Probe, now: Now) -> Option<()> {
        let line = self.lines.get(&probe.test_id)?;
        let key = self.post.known().1.get(probe.key_id).filter(|key| Probe::is_signed(datagram.octets, key));
        line.sound()?.on_farewell(datagram.source, key.map(Key::id), probe.sent, now);
        Some(())
    }

    fn say(&self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.parent.do_send(PacerFact::Changed(change)));
    }

    /// Sets the timer to the next turn, unless an earlier or equal time is set.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(next) = self.calendar.next() else { return };
        match self.alarm_clock {
            Some((set, _)) if set <= next => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let handle = ctx.run_later(next.since(time::now().moment), |pacer, ctx| {
            let span = pacer.span.clone();
            let _entered = span.enter();
            pacer.alarm_clock = None;
            pacer.serve();
            pacer.arm(ctx);
        });
        self.alarm_clock = Some((next, handle));
    }
}

fn grid_of(tests: usize) -> Grid {
    if tests < FEW { Grid::Coarse } else { Grid::Fine }
}

/// Returns a stream that yields the index of a port whenever its socket may be readable.
fn readiness(readiness: Readiness, port: usize) -> impl Stream<Item = Readable> {
    stream::unfold(readiness, move |readiness| async move {
        readiness.readable().await.ok()?;
        Some((Readable(port), readiness))
    })
}

/// Item of the stream above: the socket of the port with this index may be readable.
struct Readable(usize);

impl Actor for Pacer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        Self::look_later(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parent.do_send(PacerFact::Down(self.source.clone(), self.generation));
    }
}

impl StreamHandler<Readable> for Pacer {
    fn handle(&mut self, Readable(port): Readable, _: &mut Self::Context) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.take_answers(port);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Enrol> for Pacer {
    type Result = ();
    fn handle(&mut self, Enrol(line): Enrol, ctx: &mut Self::Context) {
        let grid = grid_of(self.lines.len());
        let Some((turn, next, answers)) = line.sound().map(|mut sending| {
            let turn = sending.on_enrolled();
            let answers = sending.answers().map(|_| sending.plan().destination);
            (turn, sending.next_slot(time::now().moment, grid), answers)
        }) else {
            return;
        };
        self.lines.insert(line.id, line.clone());
        self.answering.values_mut().for_each(|lines| lines.retain(|known| known.id != line.id));
        if let Some(from) = answers {
            self.answering.entry(from).or_default().push(line.clone());
            if self.reads && self.listening.is_none() {
                let sockets = self.outlet.iter().cloned().enumerate();
                let listening = sockets
                    .filter_map(|(port, socket)| Some(ctx.add_stream(readiness(Readiness::of(socket).ok()?, port))));
                self.listening = Some(listening.collect());
            }
        }
        self.calendar.enter(next, Entry { line, turn });
        self.arm(ctx);
    }
}

impl Handler<Stop> for Pacer {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
