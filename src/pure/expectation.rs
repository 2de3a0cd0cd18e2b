//! One test at its receiver: what is expected, what came, and what that means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Silence, Subject, Verdict};
use super::clock_error::{Delay, DelayLimits, DelayVerdict};
use super::condition::{Change, Condition, Sample, State, Thresholds};
use super::foreign::ROLL_OUT_GRACE;
use super::sequence_window::{Arrival, SequenceWindow};
use super::test::{TestFacts, TestId};
use super::time::{Moment, Now, WallTime};

/// What is expected of a test. Two equal ones need no change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Which test.
    pub test: Arc<TestFacts>,
    /// At least one probe in each such time.
    pub expect_every: Duration,
    /// How many samples decide.
    pub thresholds: Thresholds,
    /// What is asked of a probe's delay.
    pub limits: DelayLimits,
    /// Nothing is raised for silence before this is over, unless a probe came.
    pub startup_grace: Duration,
    /// The silence of a sender that announced its stop is forgiven for so long.
    pub max_pause: Duration,
    /// The tests of which any probe is enough; nothing: the test's own.
    pub any_of: Option<Arc<BTreeSet<TestId>>>,
}

/// A probe as it came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Which test it says it is of.
    pub test_id: TestId,
    /// When the kernel took it in, on both clocks.
    pub received: Now,
    /// When the sender says it left.
    pub sent: WallTime,
    /// How far the sender's and this host's clock may be off together.
    pub uncertainty: Duration,
    /// The sender's epoch and its sequence number; the original's probes have none.
    pub order: Option<(u64, u32)>,
    /// The sender announces its stop.
    pub stops: bool,
    /// Datagrams that the kernel dropped at this socket so far.
    pub dropped: u64,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It counts.
    Accepted,
    /// Its sequence number came before.
    Duplicate,
    /// Too far behind the newest sequence number.
    TooOld,
    /// From an earlier start of the sender, while the newer one still sends.
    StaleEpoch,
}

/// Counters since the expectation began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Accepted probes.
    pub received: u64,
    /// Accepted, but behind a later one.
    pub reordered: u64,
    /// Not accepted: came before.
    pub duplicates: u64,
    /// Not accepted: too old, or from an earlier start of the sender.
    pub stale: u64,
}

/// One condition with the cause of its last violation.
#[derive(Clone, Debug, Default)]
struct Judged {
    condition: Condition,
    cause: Option<Cause>,
}

/// The state of one test at its receiver.
#[derive(Clone, Debug)]
pub struct Expectation {
    expected: Expected,
    started: Now,
    last_probe: Option<Now>,
    /// If nothing comes until then, that is a bad sample.
    silence_deadline: Moment,
    /// Silence before this proves nothing.
    forgiven_until: Moment,
    /// Until then probes may still come at this slower pace of before.
    slower_until: Option<(Moment, Duration)>,
    announced_stop: bool,
    /// Datagrams dropped at this socket when the last probe came.
    dropped: u64,
    streams: Streams,
    connection: Judged,
    latency: Judged,
    clock: Judged,
    counters: Counters,
    last_delay: Option<(Delay, DelayVerdict)>,
}

/// What each sender's probes say of their order.
#[derive(Clone, Debug, Default)]
struct Streams {
    /// That of the only sender, as nearly all tests have it.
    own: Option<Stream>,
    /// Of many senders, of which any is enough.
    many: BTreeMap<TestId, Option<Stream>>,
}

#[derive(Clone, Debug)]
struct Stream {
    epoch: u64,
    window: SequenceWindow,
    /// When its last probe was accepted.
    last: Moment,
    /// It announced its stop.
    stopped: bool,
}

impl Expectation {
    /// Begins to expect.
    pub fn new(expected: Expected, now: Now) -> Self {
        let mut expectation = Expectation {
            expected,
            started: now,
            last_probe: None,
            silence_deadline: now.moment,
            forgiven_until: Moment::ZERO,
            slower_until: None,
            announced_stop: false,
            dropped: 0,
            streams: Streams::default(),
            connection: Judged::default(),
            latency: Judged::default(),
            clock: Judged::default(),
            counters: Counters::default(),
            last_delay: None,
        };
        expectation.silence_deadline = expectation.first_deadline(now.moment);
        expectation
    }

    /// What is expected now.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Another expectation of the same test. What was seen and judged stays.
    pub fn on_expected(&mut self, expected: Expected, now: Now) -> Vec<ConditionChange> {
        let mut changes = Vec::new();
        if expected.limits.max_latency.is_none() && self.latency.condition.state() != State::Unknown {
            let was_down = self.latency.condition.is_down();
            self.latency = Judged::default();
            if was_down {
                changes.push(self.change(Kind::Latency, Verdict::Cleared, now));
            }
        }
        if expected.test.from_host != self.expected.test.from_host {
            let was_wrong = self.clock.condition.is_down();
            self.clock = Judged::default();
            if was_wrong {
                changes.push(self.change(Kind::Clock, Verdict::Cleared, now));
            }
        }
        let before = self.expected.expect_every;
        let pace = |expected: &Expected| (expected.expect_every, expected.thresholds, expected.startup_grace);
        let same_pace = pace(&self.expected) == pace(&expected);
        if expected.expect_every < before {
            self.slower_until = Some((now.moment + ROLL_OUT_GRACE, before));
        }
        self.expected = expected;
        let any_of = self.expected.any_of.as_deref();
        self.streams.many.retain(|id, _| any_of.is_some_and(|any_of| any_of.contains(id)));
        // What was counted stays counted; the interval that runs is the new one, from now.
        if !same_pace {
            self.silence_deadline = match self.last_probe {
                Some(_) if self.connection.condition.state() == State::Paused => self.silence_deadline,
                Some(_) => self.deadline_after(now.moment),
                None => self.first_deadline(self.started.moment).max(now.moment),
            };
        }
        changes
    }

    /// A probe of this test arrived.
    pub fn on_probe(&mut self, incoming: &Incoming) -> (Acceptance, Vec<ConditionChange>) {
        let now = incoming.received;
        let mut changes = Vec::new();
        self.on_silence(now, incoming.dropped, &mut changes);
        let reordered_before = self.counters.reordered;
        match self.admit(incoming) {
            Acceptance::Accepted => {}
            refused @ (Acceptance::Duplicate | Acceptance::TooOld | Acceptance::StaleEpoch) => {
                return (refused, changes);
            }
        }
        self.counters.received += 1;
        // A probe that was overtaken by the goodbye does not take it back.
        if self.connection.condition.state() == State::Paused && self.counters.reordered > reordered_before {
            return (Acceptance::Accepted, changes);
        }
        self.last_probe = Some(now);
        let stops = incoming.stops && self.all_stopped();
        self.announced_stop = stops;
        self.dropped = incoming.dropped;
        self.silence_deadline = self.deadline_after(now.moment);
        self.sample(Kind::Connection, Sample::Good, None, now, &mut changes);
        if stops {
            self.connection.condition.on_pause(now);
            self.silence_deadline = self.silence_deadline.max(self.raising_at(now.moment + self.expected.max_pause));
        }
        self.judge_delay(incoming, &mut changes);
        (Acceptance::Accepted, changes)
    }

    /// Time has passed: each `expect_every` without a probe is a bad sample. `dropped` is what the
    /// kernel dropped at this socket so far.
    pub fn on_silence(&mut self, now: Now, dropped: u64, changes: &mut Vec<ConditionChange>) {
        let mut samples = 0;
        while self.silence_deadline <= now.moment {
            // What lies beyond the threshold changes nothing; a long gap costs no more than a short one.
            if samples > self.expected.thresholds.raise_after {
                self.silence_deadline = self.deadline_after(now.moment);
                break;
            }
            samples += 1;
            let cause = Cause::Silence(Silence {
                silent_for: self.silence_deadline.since(self.last_probe.unwrap_or(self.started).moment),
                last_probe: self.last_probe.map(|last_probe| last_probe.wall),
                expect_every: self.expected.expect_every,
                announced_stop: self.announced_stop,
                dropped: dropped.saturating_sub(self.dropped),
            });
            self.silence_deadline = self.deadline_after(self.silence_deadline);
            self.sample(Kind::Connection, Sample::Bad, Some(cause), now, changes);
        }
    }

    /// This agent itself slept (stopped, or its machine was frozen): silence meanwhile proves nothing.
    pub fn on_own_stall(&mut self, now: Now) {
        self.forgiven_until = now.moment + self.expected.expect_every;
        self.silence_deadline = self.silence_deadline.max(self.forgiven_until);
    }

    /// When `on_silence` wants to be called next.
    pub fn next_deadline(&self) -> Moment {
        self.silence_deadline
    }

    /// Says everything that is decided once more, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        [(Kind::Connection, &self.connection), (Kind::Latency, &self.latency), (Kind::Clock, &self.clock)]
            .into_iter()
            .filter_map(|(kind, judged)| {
                let verdict = match (judged.condition.state(), &judged.cause) {
                    (State::Unknown | State::Standby, _) => return None,
                    (State::Down | State::Recovering, Some(cause)) => Verdict::Violated(cause.clone()),
                    (State::Up | State::Suspect | State::Paused | State::Down | State::Recovering, _) => {
                        Verdict::Cleared
                    }
                };
                Some(self.change(kind, verdict, now))
            })
            .collect()
    }

    /// The connection's condition.
    pub fn connection(&self) -> &Condition {
        &self.connection.condition
    }

    /// The latency's condition.
    pub fn latency(&self) -> &Condition {
        &self.latency.condition
    }

    /// What came so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The delay of the last accepted probe and what it was worth.
    pub fn last_delay(&self) -> Option<(Delay, DelayVerdict)> {
        self.last_delay
    }

    /// When the last accepted probe came.
    pub fn last_probe(&self) -> Option<Now> {
        self.last_probe
    }

    /// The end of the interval that begins at `moment`.
    fn deadline_after(&self, moment: Moment) -> Moment {
        let every = self.expected.expect_every.max(Duration::from_nanos(1));
        let every = match self.slower_until {
            // No longer than an interval beyond the roll-out.
            Some((until, slower)) if moment < until => slower.min((until + every).since(moment)).max(every),
            Some(_) | None => every,
        };
        (moment + every).max(self.forgiven_until)
    }

    /// The first bad samples are timed so that the raise falls at the end of the grace, not before.
    fn first_deadline(&self, started: Moment) -> Moment {
        self.raising_at(started + self.expected.startup_grace).max(started + self.expected.expect_every)
    }

    /// When the first of the bad samples must fall so that the last of them, which raises, falls at
    /// `moment`.
    fn raising_at(&self, moment: Moment) -> Moment {
        moment - self.expected.expect_every.saturating_mul(self.expected.thresholds.raise_after.max(1) - 1)
    }

    /// One of many senders that stops says nothing of the others.
    fn all_stopped(&self) -> bool {
        self.streams.many.values().flatten().all(|stream| stream.stopped)
    }

    fn admit(&mut self, incoming: &Incoming) -> Acceptance {
        let Some((epoch, sequence)) = incoming.order else { return Acceptance::Accepted };
        let now = incoming.received.moment;
        let slot = match self.expected.any_of {
            None => &mut self.streams.own,
            Some(_) => self.streams.many.entry(incoming.test_id).or_default(),
        };
        let last = slot.as_ref().map(|stream| stream.last);
        let fallen_silent = last.is_none_or(|last| now.since(last) > self.expected.expect_every);
        let stream = match slot {
            Some(stream) if stream.epoch == epoch => stream,
            // A sender whose clock was set back, or whose state was lost, begins an older epoch: it
            // is taken once the newer one has fallen silent.
            Some(stream) if stream.epoch > epoch && !fallen_silent => {
                self.counters.stale += 1;
                return Acceptance::StaleEpoch;
            }
            begun => begun.insert(Stream { epoch, window: SequenceWindow::default(), last: now, stopped: false }),
        };
        match stream.window.on_sequence(sequence) {
            Arrival::InOrder => {
                (stream.last, stream.stopped) = (now, incoming.stops);
                Acceptance::Accepted
            }
            Arrival::Reordered => {
                stream.last = now;
                self.counters.reordered += 1;
                Acceptance::Accepted
            }
            Arrival::Duplicate => {
                self.counters.duplicates += 1;
                Acceptance::Duplicate
            }
            // A sender that was set back to an earlier state of itself, as a virtual machine can be.
            Arrival::TooOld if fallen_silent => {
                stream.window = SequenceWindow::default();
                stream.window.on_sequence(sequence);
                stream.last = now;
                Acceptance::Accepted
            }
            Arrival::TooOld => {
                self.counters.stale += 1;
                Acceptance::TooOld
            }
        }
    }

    fn judge_delay(&mut self, incoming: &Incoming, changes: &mut Vec<ConditionChange>) {
        let now = incoming.received;
        let limits = self.expected.limits;
        let delay = Delay { nanos: now.wall.nanos_since(incoming.sent), uncertainty: incoming.uncertainty };
        let verdict = delay.judge(limits);
        self.last_delay = Some((delay, verdict));
        if verdict == DelayVerdict::ClockWrong {
            let cause = Cause::ClockWrong { delay, from_host: self.expected.test.from_host.clone() };
            self.sample(Kind::Clock, Sample::Bad, Some(cause), now, changes);
            return;
        }
        self.sample(Kind::Clock, Sample::Good, None, now, changes);
        let Some(max_latency) = limits.max_latency else { return };
        // Once it was too much, only what is within the lower limit counts as good.
        let limit = if self.latency.condition.is_down() { limits.clear_latency.min(max_latency) } else { max_latency };
        match delay.judge(DelayLimits { max_latency: Some(limit), ..limits }) {
            DelayVerdict::Good => self.sample(Kind::Latency, Sample::Good, None, now, changes),
            DelayVerdict::Exceeded => {
                self.sample(Kind::Latency, Sample::Bad, Some(Cause::Late { delay, max_latency }), now, changes);
            }
            DelayVerdict::Undecidable | DelayVerdict::ClockWrong => {}
        }
    }

    fn sample(
        &mut self,
        kind: Kind,
        sample: Sample,
        cause: Option<Cause>,
        now: Now,
        changes: &mut Vec<ConditionChange>,
    ) {
        let thresholds = self.expected.thresholds;
        let judged = match kind {
            Kind::Latency => &mut self.latency,
            Kind::Clock => &mut self.clock,
            Kind::Connection
            | Kind::Sender
            | Kind::Config
            | Kind::UnknownPacket
            | Kind::Isolated
            | Kind::Storm
            | Kind::Test => &mut self.connection,
        };
        let verdict = match (judged.condition.on_sample(sample, thresholds, now), cause) {
            (Some(Change::Raised), Some(cause)) => {
                judged.cause = Some(cause.clone());
                Verdict::Violated(cause)
            }
            (Some(Change::Raised), None) | (None, _) => return,
            (Some(Change::Cleared), _) => {
                judged.cause = None;
                Verdict::Cleared
            }
        };
        changes.push(self.change(kind, verdict, now));
    }

    /// A wrong clock is the sending host's, whichever of its tests finds it.
    fn change(&self, kind: Kind, verdict: Verdict, at: Now) -> ConditionChange {
        let test = &self.expected.test;
        let reporter = Subject::Test(test.id);
        let subject = match kind {
            Kind::Clock => Subject::Host(test.from_host.clone()),
            Kind::Connection
            | Kind::Latency
            | Kind::Sender
            | Kind::Config
            | Kind::UnknownPacket
            | Kind::Isolated
            | Kind::Storm
            | Kind::Test => reporter.clone(),
        };
        ConditionChange { key: AlarmKey::new(kind, subject), reporter, at, verdict, test: Some(test.clone()) }
    }
}

#[cfg(test)]
mod tests;
