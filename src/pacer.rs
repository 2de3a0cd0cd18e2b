//! The pacer: one source of probes, and when each of its tests has its turn.
//!
//! Its senders share its sockets, which the watcher lends, and their states are entered in its
//! calendar: one timer wakes it for all that is due, where one timer each would be too dear. It reads
//! what comes back, answers as well as errors of the path. It stops when the watcher says so or when it
//! panics; the watcher rebuilds it and has its senders enrol anew.

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

/// How often the errors that paths sent back are looked for: whenever others are awake anyway.
const LOOK_EVERY: Duration = pace::LONGEST;
/// Sockets that no answers are expected at are read at every so many of these looks: about once a second.
const LOOKS_FOR_FAREWELLS: u32 = 5;
/// Ticks served for one wake-up, so that many tests leave time for others.
const TICKS_PER_WAKE: usize = 16;
/// Batches of answers taken in for one wake-up.
const BATCHES_PER_WAKE: usize = 64;
/// A turn that is so late may have been waiting behind answers.
const LATE: Duration = Duration::from_millis(20);
/// Later than this means that this process slept.
const OWN_STALL: Duration = Duration::from_secs(1);
/// The memory of so many tests is on its way while one is served.
const AHEAD: usize = 6;
/// Fewer tests than this share their wake-ups.
const FEW: usize = 1_000;

/// See the module.
pub struct Pacer {
    source: Source,
    outlet: Outlet,
    /// Whether nobody else reads these sockets.
    reads: bool,
    parent: Recipient<PacerFact>,
    generation: Generation,
    post: Post,
    calendar: Calendar<Entry>,
    lines: HashMap<TestId, Arc<Line>>,
    /// Tests that expect answers, by where these come from: a reflector of another origin may not say
    /// which test it answers.
    answering: HashMap<SocketAddr, Vec<Arc<Line>>>,
    listening: Option<Vec<SpawnHandle>>,
    batch: Batch,
    /// When each port's socket was last found empty.
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

/// What a pacer begins with.
pub struct Beginning {
    /// Where its probes leave from.
    pub source: Source,
    /// Its sockets.
    pub outlet: Outlet,
    /// Whether nobody else reads these sockets.
    pub reads: bool,
    /// Readings of others.
    pub gauges: Gauges,
    /// The watcher.
    pub parent: Recipient<PacerFact>,
    /// Which of its name this is.
    pub generation: Generation,
}

impl Pacer {
    /// A pacer that nobody has enrolled at yet.
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

    /// Serves what is due.
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

    /// Before anything is judged by what did not come back: what lies in the sockets came in time.
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

    /// Gives when it was served. A test whose turn panics is its own fault, not that of the others.
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

    /// A line that does not count any more may have a successor of the same test.
    fn forget(&mut self, line: &Arc<Line>) {
        let current = self.lines.get(&line.id).is_some_and(|known| Arc::ptr_eq(known, line));
        if current && line.sound().is_none_or(|sending| sending.is_withdrawn()) {
            self.lines.remove(&line.id);
            self.answering.values_mut().for_each(|lines| lines.retain(|known| !Arc::ptr_eq(known, line)));
            self.answering.retain(|_, lines| !lines.is_empty());
        }
    }

    /// At whole multiples, as others keep to them: that is one wake-up for all.
    fn look_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(LOOK_EVERY), |pacer, ctx| {
            let span = pacer.span.clone();
            let _entered = span.enter();
            pacer.look();
            Self::look_later(ctx);
        });
    }

    /// Takes what the paths sent back, and whatever a step of the clock means.
    fn look(&mut self) {
        let now = time::now();
        self.observe_clock();
        self.looks = self.looks.wrapping_add(1);
        let errors: Vec<PathError> = self.outlet.iter().flat_map(|socket| socket.take_path_errors()).collect();
        // Datagrams that a batch left in the socket wake no task. On a socket without answers only farewells arrive: they
        // are read before the errors that they explain.
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

    /// Compares the clocks: delays of answers that are under way while the wall clock is set say nothing.
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

    /// An answer came after the socket was last seen empty, whatever the wall clock says, which may have been set since.
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

    /// Sets the alarm clock to what is due next, unless it is set to that or earlier.
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

/// Yields a port's place whenever it may have something to read.
fn readiness(readiness: Readiness, port: usize) -> impl Stream<Item = Readable> {
    stream::unfold(readiness, move |readiness| async move {
        readiness.readable().await.ok()?;
        Some((Readable(port), readiness))
    })
}

/// The socket of this port may have something to read.
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
