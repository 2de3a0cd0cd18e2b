//! One test where it is judged: what is expected, what came, and what that means.

mod conditions;
mod expected;
mod judging;
pub mod streams;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Silence, Subject, Verdict};
use super::baseline::Baseline;
use super::clock_error::{Delay, DelayVerdict};
use super::condition::{Condition, Sample, State, Thresholds};
use super::flows::{FlowStatus, Seen};
use super::foreign::ROLL_OUT_GRACE;
use super::loss_window::LossWindow;
use super::reflection::OffsetWatch;
use super::spread::Count;
use super::statistics::{Event, HALF_MINUTE, Histogram, Statistics, Summaries};
use super::status::Role;
use super::test::TestId;
use super::time::{Moment, Now, saturating_nanos};

use conditions::{Calm, Conditions};
pub use expected::{Acceptance, Counters, Expected, Incoming, Manner};
use streams::{Place, Streams, Terms};

/// The state of one test where it is judged. Of very many tests, each probe's is fetched from memory: what
/// it changes lies together.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Expectation {
    /// If nothing comes until then, that is a bad sample.
    silence_deadline: Moment,
    /// What only few tests need.
    extra: Option<Box<Extra>>,
    /// Silence before this proves nothing.
    forgiven_until: Moment,
    /// Datagrams dropped at this socket when the last probe came.
    dropped: u64,
    announced_stop: bool,
    /// As the last probe came.
    ttl: Option<u8>,
    dscp: Option<u8>,
    /// What `conditions` says of itself.
    calm: Calm,
    last_probe: Option<Now>,
    expected: Expected,
    previous: Previous,
    /// The sender's interval in nanoseconds, as its last probe said it.
    send_every: Option<NonZeroU64>,
    last_delay: Option<LastDelay>,
    received: u64,
    streams: Streams,
    statistics: Statistics,
    reordered: u64,
    duplicates: u64,
    stale: u64,
    conditions: Conditions,
    started: Moment,
}

/// A probe's delay, for the next one's variation.
#[derive(Clone, Copy, Debug, Default)]
struct Previous {
    /// Its number, if there was one.
    sequence: Option<u32>,
    delay: i64,
}

/// The last delay and what it was worth, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct LastDelay {
    nanos: i64,
    uncertainty: u64,
    verdict: DelayVerdict,
}

#[derive(Clone, Debug, Default)]
struct Extra {
    loss: Option<LossWindow>,
    baseline: Option<Baseline>,
    flows: Option<FlowWatch>,
    offset: OffsetWatch,
    /// Former, slower pace that is still accepted, and until when.
    slower_until: Option<(Moment, Duration)>,
    /// The sender's probes said that it is slower than is expected here: that is forgiven once for each plan, since
    /// the two ends of a test learn of a change one after the other.
    was_slower: bool,
    /// Delays of the newest probes, while some are missing: one that was overtaken varies from its neighbours.
    recent: Option<Recent>,
    /// By kind: since when nothing decides whether what is down is good again, and when its cause was said last.
    undecided: [Option<Moment>; conditions::JUDGED.len()],
    cause_said: [Moment; conditions::JUDGED.len()],
}

/// The newest probes of a test, by sequence number, with their delays.
#[derive(Clone, Debug, Default)]
struct Recent {
    probes: VecDeque<(u32, i64)>,
    /// Probes until nothing that is missing can be filled in any more.
    left: u32,
}

impl Recent {
    /// Probes that are remembered; one that is overtaken by more has no known neighbours.
    const MOST: usize = 32;

    fn add(&mut self, sequence: u32, delay: i64) {
        if self.probes.len() == Self::MOST {
            self.probes.pop_front();
        }
        self.probes.push_back((sequence, delay));
        self.left = self.left.saturating_sub(1);
    }

    fn delay_of(&self, sequence: u32) -> Option<i64> {
        self.probes.iter().find(|(known, _)| *known == sequence).map(|(_, delay)| *delay)
    }
}

#[derive(Clone, Debug)]
struct FlowWatch {
    seen: Seen,
    /// When the flows are looked at next.
    look: Moment,
    begun: Moment,
}

impl Expectation {
    /// The first octets of the state, which is all that a probe needs as long as all is well.
    pub const HOT: usize = std::mem::offset_of!(Expectation, statistics) + Statistics::HOT;

    /// Begins to expect.
    pub fn new(expected: Expected, now: Now) -> Self {
        let mut expectation = Expectation {
            started: now.moment,
            last_probe: None,
            silence_deadline: now.moment,
            forgiven_until: Moment::ZERO,
            announced_stop: false,
            calm: Calm::default(),
            dropped: 0,
            send_every: None,
            streams: Streams::default(),
            conditions: Conditions::default(),
            received: 0,
            reordered: 0,
            duplicates: 0,
            stale: 0,
            last_delay: None,
            previous: Previous::default(),
            ttl: None,
            dscp: None,
            statistics: Statistics::new(now.moment, shortened(expected.test.id)),
            extra: None,
            expected,
        };
        expectation.extra = expectation.extra(now.moment);
        expectation.silence_deadline = expectation.first_deadline(now.moment);
        expectation
    }

    /// What the next probe changes elsewhere in memory.
    pub fn elsewhere(&self) -> Option<&[Count]> {
        self.statistics.elsewhere()
    }

    /// What is expected now.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Another expectation of the same test. What was seen and judged stays.
    pub fn on_expected(&mut self, expected: Expected, now: Now, changes: &mut Vec<ConditionChange>) {
        let kept: Vec<Kind> = expected.kinds().collect();
        let same_peer = expected.peer() == self.expected.peer();
        let stays = |kind: &Kind| if *kind == Kind::Clock { same_peer } else { kept.contains(kind) };
        let dropped: Vec<Kind> = conditions::JUDGED.into_iter().filter(|kind| !stays(kind)).collect();
        for kind in dropped {
            if self.change_conditions(|conditions| conditions.forget(kind)) {
                changes.push(self.change(kind, Verdict::Cleared, now));
            }
        }
        // The measurement that raised the alarm is not made any more: nothing could ever clear it.
        let measure = self.conditions.cause(Kind::Latency).and_then(judging::Measure::of);
        if measure.is_some_and(|measure| !measure.is_asked_of(&expected))
            && self.change_conditions(|conditions| conditions.forget(Kind::Latency))
        {
            changes.push(self.change(Kind::Latency, Verdict::Cleared, now));
        }
        let before = self.expected.expect_every;
        let pace = |expected: &Expected| (expected.expect_every, expected.thresholds, expected.startup_grace);
        let same_pace = pace(&self.expected) == pace(&expected);
        // The sender may have learnt of neither of two changes within the grace.
        let slower = self.slower_until().filter(|(until, _)| now.moment < *until).map_or(before, |(_, slower)| slower);
        let slower_until = match expected.expect_every < before {
            true => Some((now.moment + ROLL_OUT_GRACE, slower.max(before))),
            false => self.slower_until(),
        };
        let same_extra = (expected.loss, expected.max_above_baseline, expected.flows)
            == (self.expected.loss, self.expected.max_above_baseline, self.expected.flows);
        if self.expected.keys.is_none() && expected.keys.is_some() {
            self.streams.forget_unsigned();
        }
        self.expected = expected;
        if !same_extra {
            self.extra = self.extra(now.moment);
            // The sender may hear of its other flows later.
            if let Some(flows) = self.flow_watch() {
                flows.begun = now.moment + ROLL_OUT_GRACE;
            }
        }
        if slower_until.is_some() {
            self.extra.get_or_insert_default().slower_until = slower_until;
        }
        if let Some(extra) = &mut self.extra {
            extra.was_slower = false;
        }
        self.streams.retain(self.expected.any_of.as_deref());
        // What was counted stays counted; the interval that runs is the new one, from now.
        if !same_pace {
            self.silence_deadline = match self.last_probe {
                Some(_) if self.connection().state() == State::Paused => self.silence_deadline,
                Some(_) => self.deadline_after(now.moment),
                None => self.first_deadline(self.started).max(now.moment),
            };
        }
    }

    /// A probe of this test arrived.
    pub fn on_probe(&mut self, incoming: &Incoming, changes: &mut Vec<ConditionChange>) -> Acceptance {
        let now = incoming.received;
        self.on_silence(now, incoming.dropped, changes);
        let flows = self.flow_count();
        let terms = Terms {
            any_of: self.expected.any_of.as_deref(),
            expect_every: self.expected.expect_every,
            keyed: self.expected.keys.is_some(),
            flows,
        };
        let place = self.streams.admit(incoming, terms);
        let refused = match place {
            Place::Duplicate => {
                self.duplicates += 1;
                self.statistics.on_event(Event::Duplicate, now.moment);
                Some(Acceptance::Duplicate)
            }
            Place::TooOld | Place::StaleEpoch => {
                self.stale += 1;
                self.statistics.on_event(Event::Stale, now.moment);
                Some(if place == Place::TooOld { Acceptance::TooOld } else { Acceptance::StaleEpoch })
            }
            Place::First | Place::Newer(_) | Place::Behind(_) => None,
        };
        if let Some(refused) = refused {
            return refused;
        }
        self.received += 1;
        self.send_every = NonZeroU64::new(saturating_nanos(incoming.send_every));
        let overtaken = self.count(incoming, place);
        let ttl_was = self.note_path(incoming);
        // A probe that was overtaken by the goodbye does not take it back.
        if matches!(place, Place::Behind(_)) && self.connection().state() == State::Paused {
            return Acceptance::Accepted(ttl_was);
        }
        let stops = incoming.stops && self.streams.all_stopped();
        if stops && self.connection().state() == State::Paused {
            // Said once more: that makes the pause no longer.
            return Acceptance::Accepted(ttl_was);
        }
        self.last_probe = Some(now);
        if incoming.send_every > self.expected.expect_every && incoming.is_trusted {
            self.note_slower_pace(incoming.send_every, now.moment);
        }
        self.announced_stop = stops;
        self.dropped = incoming.dropped;
        self.silence_deadline = self.deadline_after(now.moment);
        self.sample(Kind::Connection, Sample::Good, None, now, changes);
        if stops {
            self.change_conditions(|conditions| conditions.pause(now));
            self.silence_deadline = self.silence_deadline.max(self.raising_at(now.moment + self.expected.max_pause));
        }
        self.judge_delay(incoming, overtaken, changes);
        Acceptance::Accepted(ttl_was)
    }

    /// The sender goes slower than is expected here. A change of the documents may have reached it first.
    #[cold]
    fn note_slower_pace(&mut self, send_every: Duration, now: Moment) {
        let extra = self.extra.get_or_insert_default();
        if !std::mem::replace(&mut extra.was_slower, true) {
            extra.slower_until = Some((now + ROLL_OUT_GRACE, send_every.saturating_mul(2)));
        }
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
                silent_for: self
                    .silence_deadline
                    .since(self.last_probe.map_or(self.started, |last_probe| last_probe.moment)),
                last_probe: self.last_probe.map(|last_probe| last_probe.wall),
                expect_every: self.expected.expect_every,
                announced_stop: self.announced_stop,
                dropped: dropped.saturating_sub(self.dropped),
                answers: self.expected.role == Role::Sender,
            });
            if self.connection().state() != State::Paused {
                self.presume_lost(now.moment);
            }
            self.silence_deadline = self.deadline_after(self.silence_deadline);
            self.sample(Kind::Connection, Sample::Bad, Some(cause), now, changes);
        }
        self.judge_loss(now, dropped, changes);
        self.judge_flows(now, changes);
        self.end_undecidable(now, changes);
    }

    /// This agent itself slept (stopped, or its machine was frozen): silence meanwhile proves nothing.
    pub fn on_own_stall(&mut self, now: Now) {
        self.forgiven_until = now.moment + self.expected.expect_every;
        self.silence_deadline = self.silence_deadline.max(self.forgiven_until);
        self.streams.on_own_stall();
        if let Some(flows) = self.flow_watch() {
            flows.begun = now.moment;
        }
    }

    /// The wall's clock here stepped: delays of before and after cannot be compared.
    pub fn on_own_step(&mut self, now: Now) {
        self.previous = Previous::default();
        if let Some(flows) = self.flow_watch() {
            flows.seen.begin();
        }
        let Some(extra) = &mut self.extra else { return };
        extra.recent = None;
        extra.offset.forget();
        if let Some(baseline) = &mut extra.baseline {
            baseline.on_step(now.moment);
        }
    }

    /// What was taken of which test before this process began: of a keyed one, it cannot be taken again.
    pub fn on_remembered(&mut self, newest: impl Fn(TestId) -> Option<(u64, u32)>, now: Now) {
        if self.expected.keys.is_some() {
            let (own, any_of) = (self.expected.test.id, self.expected.any_of.as_deref());
            self.streams.remember(own, any_of, newest, now);
        }
    }

    /// Of each sender's test, the epoch and the newest sequence number, for whoever has to remember them.
    pub fn newest(&self) -> impl Iterator<Item = (TestId, (u64, u32))> {
        self.streams.newest(self.expected.test.id)
    }

    /// When `on_silence` wants to be called next.
    pub fn next_deadline(&self) -> Moment {
        let flows = self.extra.as_ref().and_then(|extra| extra.flows.as_ref());
        flows.map_or(self.silence_deadline, |flows| flows.look.min(self.silence_deadline))
    }

    /// Says everything that is decided once more, for an alarm actor that has just begun.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        self.conditions.decided().map(|(kind, verdict)| self.change(kind, verdict, now)).collect()
    }

    /// It is judged here no more: takes back what was said.
    pub fn retire(&self, now: Now) -> Vec<ConditionChange> {
        let said = self.conditions.decided().filter(|(_, verdict)| matches!(verdict, Verdict::Violated(_)));
        said.map(|(kind, _)| self.change(kind, Verdict::Cleared, now)).collect()
    }

    /// The connection's condition.
    pub fn connection(&self) -> &Condition {
        self.conditions.of(Kind::Connection)
    }

    /// The condition of a kind that is judged here.
    pub fn condition(&self, kind: Kind) -> &Condition {
        self.conditions.of(kind)
    }

    /// The condition that people should look at first: one that is down before one that is not, the
    /// connection before others.
    pub fn worst(&self) -> &Condition {
        let mut all = self.expected.kinds().map(|kind| self.conditions.of(kind));
        all.find(|condition| condition.is_down()).unwrap_or(self.connection())
    }

    /// What came so far.
    pub fn counters(&self) -> Counters {
        let (received, reordered, duplicates, stale) = (self.received, self.reordered, self.duplicates, self.stale);
        Counters { received, reordered, duplicates, stale }
    }

    /// The same in numbers of three periods.
    pub fn statistics(&self, now: Moment) -> Summaries {
        self.statistics.summaries(now)
    }

    /// The delays since the expectation began.
    pub fn histogram(&self) -> Histogram {
        self.statistics.histogram()
    }

    /// What came of each flow, if there is more than one.
    pub fn flows(&self) -> Vec<FlowStatus> {
        let watch = self.extra.as_ref().and_then(|extra| extra.flows.as_ref());
        watch.map(|watch| watch.seen.status(&self.expected.flows)).unwrap_or_default()
    }

    /// The time-to-live and the code point that the last probe came with.
    pub fn path(&self) -> (Option<u8>, Option<u8>) {
        (self.ttl, self.dscp)
    }

    /// The delay of the last accepted probe and what it was worth.
    pub fn last_delay(&self) -> Option<(Delay, DelayVerdict)> {
        let LastDelay { nanos, uncertainty, verdict } = self.last_delay?;
        Some((Delay { nanos, uncertainty: Duration::from_nanos(uncertainty) }, verdict))
    }

    /// Returns whether the last probe is longer ago than `expect_every`.
    pub fn is_silent(&self, now: Moment) -> bool {
        self.last_probe.is_none_or(|last| now.since(last.moment) > self.expected.expect_every)
    }

    /// When the last accepted probe came.
    pub fn last_probe(&self) -> Option<Now> {
        self.last_probe
    }

    fn extra(&self, now: Moment) -> Option<Box<Extra>> {
        let expected = &self.expected;
        let own = expected.any_of.is_none();
        let extra = Extra {
            loss: (expected.loss.any() && own).then(|| LossWindow::new(now, &expected.loss)),
            baseline: expected.max_above_baseline.filter(|_| own).map(|_| Baseline::new(now)),
            flows: (expected.flows.count() > 1 && own).then(|| FlowWatch {
                seen: Seen::default(),
                look: now + expected.expect_every,
                begun: now,
            }),
            ..Extra::default()
        };
        let needed =
            extra.loss.is_some() || extra.baseline.is_some() || extra.flows.is_some() || expected.role == Role::Sender;
        needed.then(|| Box::new(extra))
    }

    fn flow_count(&self) -> u32 {
        u32::try_from(self.expected.flows.count()).unwrap_or(1).max(1)
    }

    fn flow_watch(&mut self) -> Option<&mut FlowWatch> {
        self.extra.as_mut().and_then(|extra| extra.flows.as_mut())
    }

    fn loss_window(&mut self) -> Option<&mut LossWindow> {
        self.extra.as_mut().and_then(|extra| extra.loss.as_mut())
    }

    fn slower_until(&self) -> Option<(Moment, Duration)> {
        self.extra.as_ref().and_then(|extra| extra.slower_until)
    }

    /// The end of the interval that begins at `moment`.
    fn deadline_after(&self, moment: Moment) -> Moment {
        let every = self.expected.expect_every.max(Duration::from_nanos(1));
        let every = match self.slower_until() {
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

    /// Counts what an accepted probe says of those before it. True if it was overtaken.
    fn count(&mut self, incoming: &Incoming, place: Place) -> bool {
        let now = incoming.received.moment;
        let sequence = incoming.order.map_or(0, |(_, sequence)| sequence);
        let limits = self.expected.loss;
        match place {
            Place::First => {
                self.statistics.on_epoch(now);
                self.previous = Previous::default();
                if let Some(flows) = self.flow_watch() {
                    flows.seen.begin();
                }
                if let Some(extra) = &mut self.extra {
                    extra.recent = None;
                }
            }
            Place::Newer(missing) => {
                if missing > 0 {
                    self.remember_delays();
                }
                self.statistics.on_newer(sequence, missing, now);
            }
            Place::Behind(_) => self.statistics.on_filled(sequence, now),
            Place::Duplicate | Place::TooOld | Place::StaleEpoch => {}
        }
        // Silence is the connection's business. What was lost while the test was down is no loss of its own, and what
        // is only presumed to be lost may never have been sent.
        let is_down = self.connection().is_down();
        let proved = match place {
            Place::Newer(missing) => i32::try_from(missing).unwrap_or(i32::MAX),
            Place::Behind(_) => -1,
            Place::First | Place::Duplicate | Place::TooOld | Place::StaleEpoch => 0,
        };
        if let Some(window) = self.loss_window() {
            match is_down {
                true => window.reset(now, &limits),
                false => window.on_probes(1, proved),
            }
        }
        let Place::Behind(by) = place else { return false };
        // Given up means: by then, silence would have been a bad sample.
        let turns = by / self.flow_count();
        if incoming.send_every.saturating_mul(turns) > self.expected.expect_every {
            self.statistics.on_event(Event::Late, now);
        }
        true
    }

    /// Some probes are missing, and may have been overtaken: their neighbours' delays are kept for a while.
    #[cold]
    fn remember_delays(&mut self) {
        let (previous, step) = (self.previous, self.flow_count());
        let recent = self.extra.get_or_insert_default().recent.get_or_insert_default();
        recent.left = u32::try_from(Recent::MOST).unwrap_or(u32::MAX).max(step);
        if let Some(sequence) = previous.sequence.filter(|_| recent.probes.is_empty()) {
            recent.add(sequence, previous.delay);
        }
    }

    /// The time-to-live of the probes before, if it was another.
    fn note_path(&mut self, incoming: &Incoming) -> Option<u8> {
        self.dscp = incoming.dscp.or(self.dscp);
        // Equal paths may differ in length: only one port's probes can tell of a change.
        let index = incoming.order.map_or(0, |(_, sequence)| sequence % self.flow_count());
        if index != 0 || self.expected.any_of.is_some() {
            return None;
        }
        let before = self.ttl;
        self.ttl = incoming.ttl.or(before);
        let changed = before.filter(|_| self.ttl != before)?;
        self.statistics.on_event(Event::PathChange, incoming.received.moment);
        Some(changed)
    }

    fn presume_lost(&mut self, now: Moment) {
        let (Some(send_every), Some(_), None) = (self.send_every, self.last_probe, &self.expected.any_of) else {
            return;
        };
        let turns = saturating_nanos(self.expected.expect_every) / send_every;
        let missing = u32::try_from(turns).unwrap_or(u32::MAX).saturating_mul(self.flow_count()).min(MOST_PRESUMED);
        self.statistics.on_silence(missing, now);
    }

    /// The one way to change them: `calm` is what they say of themselves.
    fn change_conditions<R>(&mut self, change: impl FnOnce(&mut Conditions) -> R) -> R {
        let changed = change(&mut self.conditions);
        self.calm = self.conditions.calm();
        changed
    }

    fn sample(
        &mut self,
        kind: Kind,
        sample: Sample,
        cause: Option<Cause>,
        now: Now,
        changes: &mut Vec<ConditionChange>,
    ) {
        if sample == Sample::Good && self.calm.holds(kind) {
            return;
        }
        let thresholds = self.expected.thresholds;
        if let Some(verdict) =
            self.change_conditions(|conditions| conditions.on_sample(kind, sample, thresholds, cause, now))
        {
            changes.push(self.change(kind, verdict, now));
        }
    }

    /// What was judged over some time already needs no second sample to be believed.
    fn sample_once(&mut self, kind: Kind, sample: Sample, cause: Cause, now: Now, changes: &mut Vec<ConditionChange>) {
        let at_once = Thresholds::in_a_row(1, 1);
        if let Some(verdict) =
            self.change_conditions(|conditions| conditions.on_sample(kind, sample, at_once, Some(cause), now))
        {
            changes.push(self.change(kind, verdict, now));
        }
    }

    /// Updates the cause of a condition that is down. Figures that change with each sample are reported only now and
    /// then, unless `at_once`.
    fn sample_cause(&mut self, kind: Kind, cause: Cause, at_once: bool, now: Now, changes: &mut Vec<ConditionChange>) {
        if !self.conditions.is_down(kind) || self.conditions.cause(kind) == Some(&cause) {
            return;
        }
        let raised = self.conditions.of(kind).since().moment;
        let said = &mut self.extra.get_or_insert_default().cause_said[conditions::place(kind)];
        if !at_once && now.moment.since(raised.max(*said)) < CAUSE_SAID_EVERY {
            return;
        }
        *said = now.moment;
        self.conditions.set_cause(kind, cause.clone());
        changes.push(self.change(kind, Verdict::Violated(cause), now));
    }

    /// Notes whether a sample decided on what is down.
    fn note_decision(&mut self, kind: Kind, is_decided: bool, now: Moment) {
        let place = conditions::place(kind);
        if is_decided {
            if let Some(extra) = &mut self.extra {
                extra.undecided[place] = None;
            }
        } else {
            self.extra.get_or_insert_default().undecided[place].get_or_insert(now);
        }
    }

    /// Ends the alarms that no measurement has been able to confirm or clear for `UNDECIDED_FOR`.
    fn end_undecidable(&mut self, now: Now, changes: &mut Vec<ConditionChange>) {
        let is_up = matches!(self.connection().state(), State::Up | State::Suspect);
        let Some(extra) = &mut self.extra else { return };
        if extra.undecided == [None; conditions::JUDGED.len()] {
            return;
        }
        if !is_up {
            // A test that is down is not measured; alarms about its measurements are suppressed by its connection.
            extra.undecided = Default::default();
            return;
        }
        // A window that was begun again needs its time.
        let patience = UNDECIDED_FOR.max(self.expected.loss.loss_window.saturating_mul(3));
        let over = |since: &Option<Moment>| since.is_some_and(|since| now.moment.since(since) >= patience);
        let ended: Vec<Kind> = conditions::JUDGED
            .into_iter()
            .zip(&extra.undecided)
            .filter(|(_, s)| over(s))
            .map(|(kind, _)| kind)
            .collect();
        for kind in ended {
            if let Some(extra) = &mut self.extra {
                extra.undecided[conditions::place(kind)] = None;
            }
            if self.change_conditions(|conditions| conditions.forget(kind)) {
                changes.push(self.change(kind, Verdict::Undecidable, now));
            }
        }
    }

    /// A wrong clock is the other host's, whichever of its tests finds it.
    fn change(&self, kind: Kind, verdict: Verdict, at: Now) -> ConditionChange {
        let test = &self.expected.test;
        let subject = match kind == Kind::Clock {
            true => Subject::Host(self.expected.peer().to_owned()),
            false => Subject::Test(test.id),
        };
        let reporter = match self.expected.role {
            Role::Receiver => Subject::Test(test.id),
            Role::Sender => Subject::Answers(test.id),
        };
        ConditionChange { key: AlarmKey::new(kind, subject), reporter, at, verdict, test: Some(test.clone()) }
    }
}

/// By what the first half minute of a test's statistics is shorter, so that those of others end at other times.
fn shortened(id: TestId) -> Duration {
    HALF_MINUTE.mul_f64(f64::from(id.as_u128() as u16) / f64::from(u16::MAX))
}

/// An alarm ends as no longer decidable when nothing of the kind that raised it decided for so long.
const UNDECIDED_FOR: Duration = Duration::from_secs(300);
/// The figures of a standing alarm are said anew this often, since they change with each sample.
const CAUSE_SAID_EVERY: Duration = Duration::from_secs(30);

/// More are not presumed lost at once, however long `expect_every` is.
const MOST_PRESUMED: u32 = 1 << 24;

#[cfg(test)]
mod tests;
