//! Receive session: one test at the host that judges it, from the expected probes to changes of its conditions.
//!
//! A [`ReceiveSession`] is a pure state machine. It is fed with probes (`on_probe`) and with the passage of time
//! (`on_timeout`), and appends condition changes for the alarm actor. Its owner calls it again at `next_deadline`.

mod conditions;
mod criteria;
pub mod sequence;
mod verdicts;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use super::condition::{Condition, Sample, State, Thresholds};
use super::probe_result::ProbeResult;
use crate::pure::alarm::cause::{Cause, NoProbe};
use crate::pure::alarm::change::{ConditionChange, Verdict};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Moment, Now, WallTime, saturating_nanos};
use crate::pure::clock::error_estimate::{Delay, DelayVerdict};
use crate::pure::measure::baseline::Baseline;
use crate::pure::measure::histogram::BucketCount;
use crate::pure::measure::loss_window::LossWindow;
use crate::pure::measure::statistics::{HALF_MINUTE, Histogram, ProbeEvent, Statistics, Summaries};
use crate::pure::stamp::flows::{FlowStatus, FlowTracker};
use crate::pure::stamp::session_reflector::OffsetWatch;
use crate::pure::stamp::unknown_packets::ROLL_OUT_GRACE;
use crate::pure::test::id::TestId;
use crate::pure::test::role::Role;

use conditions::{Conditions, SteadyConditions};
pub use criteria::{Acceptance, Counters, Criteria, ProbeSample, SessionPlan};
use sequence::{AcceptanceRules, SequencePosition, SequenceTracker};

/// State of one test at the host that judges it. With very many tests, every probe fetches this state from memory, so
/// the fields that a probe changes lie together at the front.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct ReceiveSession {
    /// Moment at which the absence of a probe becomes a bad sample.
    timeout_at: Moment,
    /// State that only few tests need, allocated on demand.
    extra: Option<Box<Extra>>,
    /// Moment until which a missing probe is no bad sample, because this process itself was suspended.
    no_timeout_before: Moment,
    /// Datagrams dropped at this socket, as of the last probe.
    dropped: u64,
    announced_stop: bool,
    /// Time-to-live and code point of the last probe's IP packet.
    ttl: Option<u8>,
    dscp: Option<u8>,
    /// Copy of the flags that `conditions` derives from itself, kept here with the other hot fields.
    steady: SteadyConditions,
    last_probe: Option<Now>,
    expected: SessionPlan,
    previous: Previous,
    /// Sender's interval in nanoseconds, according to its last probe.
    send_every: Option<NonZeroU64>,
    last_delay: Option<LastDelay>,
    received: u64,
    streams: SequenceTracker,
    statistics: Statistics,
    reordered: u64,
    duplicates: u64,
    stale: u64,
    conditions: Conditions,
    started: Moment,
}

/// Delay of a probe in nanoseconds, kept to compute the variation of the next one.
#[derive(Clone, Copy, Debug, Default)]
struct Previous {
    /// Sequence number of the probe; `None` before the first probe and after a clock step.
    sequence: Option<u32>,
    delay: i64,
}

/// Last measured delay with its uncertainty, both in nanoseconds, and the verdict on it.
#[derive(Clone, Copy, Debug)]
struct LastDelay {
    nanos: i64,
    uncertainty: u64,
    verdict: DelayVerdict,
}

/// State of a test that only a few criteria or circumstances require, kept apart from the hot fields.
#[derive(Clone, Debug, Default)]
struct Extra {
    loss: Option<LossWindow>,
    baseline: Option<Baseline>,
    flows: Option<FlowWatch>,
    offset: OffsetWatch,
    /// Former, longer interval that is still accepted, and the moment until which it is.
    tolerated_interval: Option<(Moment, Duration)>,
    /// True once the sender's probes have stated a longer interval than the expected one. That is tolerated once for
    /// each plan, since the two ends of a test learn of a change one after the other.
    slower_tolerated: bool,
    /// Delays of the newest probes, recorded while some are missing: a probe that was overtaken varies from its
    /// neighbours.
    recent: Option<Recent>,
    /// By alarm kind: the moment since which no measurement has decided on a condition that is down, and the moment at
    /// which its cause was last reported.
    undecided: [Option<Moment>; conditions::JUDGED.len()],
    cause_reported_at: [Moment; conditions::JUDGED.len()],
}

/// Newest probes of a test, each with its sequence number and its delay in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Recent {
    probes: VecDeque<(u32, i64)>,
    /// Number of further probes after which a missing one can no longer be filled in.
    left: u32,
}

impl Recent {
    /// Maximum number of recorded probes; a probe overtaken by more than these has no known neighbours.
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

/// Observation of the single flows of a test with more than one flow.
#[derive(Clone, Debug)]
struct FlowWatch {
    seen: FlowTracker,
    /// Moment at which the flows are judged next.
    next_check: Moment,
    /// Moment from which every flow is expected to carry probes.
    begun: Moment,
}

// A probe of a healthy test reads and writes six cache lines of 64 octets; a field that is added before `statistics` must
// not make them seven.
const _: () = assert!(ReceiveSession::HOT <= 6 * 64);

impl ReceiveSession {
    /// Number of leading octets of the state, which are all that a probe needs while the test is healthy.
    pub const HOT: usize = std::mem::offset_of!(ReceiveSession, statistics) + Statistics::HOT;

    /// Starts a receive session for a test that is expected from now on.
    pub fn new(expected: SessionPlan, now: Now) -> Self {
        let mut session = ReceiveSession {
            started: now.moment,
            last_probe: None,
            timeout_at: now.moment,
            no_timeout_before: Moment::ZERO,
            announced_stop: false,
            steady: SteadyConditions::default(),
            dropped: 0,
            send_every: None,
            streams: SequenceTracker::default(),
            conditions: Conditions::default(),
            received: 0,
            reordered: 0,
            duplicates: 0,
            stale: 0,
            last_delay: None,
            previous: Previous::default(),
            ttl: None,
            dscp: None,
            statistics: Statistics::new(now.moment, stagger(expected.test.id)),
            extra: None,
            expected,
        };
        session.extra = session.extra(now.moment);
        session.timeout_at = session.first_deadline(now.moment);
        session
    }

    /// Returns the memory outside this structure that the next probe will change, so that it can be prefetched.
    pub fn prefetch_hint(&self) -> Option<&[BucketCount]> {
        self.statistics.prefetch_hint()
    }

    /// Returns the current expectations on the test.
    pub fn expected(&self) -> &SessionPlan {
        &self.expected
    }

    /// Replaces the expectations on the test and keeps its measurements and conditions. Alarms that the new criteria
    /// can no longer raise are cleared.
    pub fn on_expected(&mut self, expected: SessionPlan, now: Now, changes: &mut Vec<ConditionChange>) {
        let kept: Vec<Kind> = expected.kinds().collect();
        let same_peer = expected.peer() == self.expected.peer();
        let stays = |kind: &Kind| if *kind == Kind::Clock { same_peer } else { kept.contains(kind) };
        let dropped: Vec<Kind> = conditions::JUDGED.into_iter().filter(|kind| !stays(kind)).collect();
        for kind in dropped {
            if self.change_conditions(|conditions| conditions.reset(kind)) {
                changes.push(self.change(kind, Verdict::Cleared, now));
            }
        }
        // The measurement that raised the alarm is no longer made, so no later sample could clear it.
        let measure = self.conditions.cause(Kind::Latency).and_then(verdicts::Measure::of);
        if measure.is_some_and(|measure| !measure.is_configured_in(&expected))
            && self.change_conditions(|conditions| conditions.reset(Kind::Latency))
        {
            changes.push(self.change(Kind::Latency, Verdict::Cleared, now));
        }
        let before = self.expected.expect_every;
        let pace = |expected: &SessionPlan| (expected.expect_every, expected.thresholds, expected.startup_grace);
        let same_pace = pace(&self.expected) == pace(&expected);
        // Within the grace, the sender may have learnt of neither of two successive changes.
        let slower =
            self.tolerated_interval().filter(|(until, _)| now.moment < *until).map_or(before, |(_, slower)| slower);
        let tolerated_interval = match expected.expect_every < before {
            true => Some((now.moment + ROLL_OUT_GRACE, slower.max(before))),
            false => self.tolerated_interval(),
        };
        let same_extra = (expected.loss, expected.max_above_baseline, expected.flows)
            == (self.expected.loss, self.expected.max_above_baseline, self.expected.flows);
        if self.expected.keys.is_none() && expected.keys.is_some() {
            self.streams.forget_unsigned();
        }
        self.expected = expected;
        if !same_extra {
            self.extra = self.extra(now.moment);
            // The sender may learn of its additional flows later.
            if let Some(flows) = self.flow_watch() {
                flows.begun = now.moment + ROLL_OUT_GRACE;
            }
        }
        if tolerated_interval.is_some() {
            self.extra.get_or_insert_default().tolerated_interval = tolerated_interval;
        }
        if let Some(extra) = &mut self.extra {
            extra.slower_tolerated = false;
        }
        self.streams.retain(self.expected.any_of.as_deref());
        // Counted samples remain counted; the current interval restarts now with the new length.
        if !same_pace {
            self.timeout_at = match self.last_probe {
                Some(_) if self.connection().state() == State::Paused => self.timeout_at,
                Some(_) => self.deadline_after(now.moment),
                None => self.first_deadline(self.started).max(now.moment),
            };
        }
    }

    /// Processes an arrived probe: first the intervals missed before it, then its sequence number, and, if it is
    /// accepted, its delay.
    pub fn on_probe(&mut self, incoming: &ProbeSample, changes: &mut Vec<ConditionChange>) -> Acceptance {
        let now = incoming.received;
        self.on_timeout(now, incoming.dropped, changes);
        let flows = self.flow_count();
        let rules = AcceptanceRules {
            any_of: self.expected.any_of.as_deref(),
            expect_every: self.expected.expect_every,
            keyed: self.expected.keys.is_some(),
            flows,
        };
        let place = self.streams.classify(incoming, rules);
        let refused = match place {
            SequencePosition::Duplicate => {
                self.duplicates += 1;
                self.statistics.on_event(ProbeEvent::Duplicate, now.moment);
                Some(Acceptance::Duplicate)
            }
            SequencePosition::TooOld | SequencePosition::StaleEpoch => {
                self.stale += 1;
                self.statistics.on_event(ProbeEvent::Stale, now.moment);
                Some(if place == SequencePosition::TooOld { Acceptance::TooOld } else { Acceptance::StaleEpoch })
            }
            SequencePosition::First | SequencePosition::Newer(_) | SequencePosition::Behind(_) => None,
        };
        if let Some(refused) = refused {
            return refused;
        }
        self.received += 1;
        self.send_every = NonZeroU64::new(saturating_nanos(incoming.send_every));
        let overtaken = self.count(incoming, place);
        let ttl_was = self.note_path(incoming);
        // A probe that was overtaken by the announcement of a stop does not revoke that.
        if matches!(place, SequencePosition::Behind(_)) && self.connection().state() == State::Paused {
            return Acceptance::Accepted(ttl_was);
        }
        let stops = incoming.stops && self.streams.all_stopped();
        if stops && self.connection().state() == State::Paused {
            // A repeated announcement must not extend the pause.
            return Acceptance::Accepted(ttl_was);
        }
        self.last_probe = Some(now);
        if incoming.send_every > self.expected.expect_every && incoming.is_trusted {
            self.note_slower_pace(incoming.send_every, now.moment);
        }
        self.announced_stop = stops;
        self.dropped = incoming.dropped;
        self.timeout_at = self.deadline_after(now.moment);
        self.sample(Kind::Connection, Sample::Good, None, now, changes);
        if stops {
            self.change_conditions(|conditions| conditions.pause(now));
            self.timeout_at = self.timeout_at.max(self.first_sample_for_raise_at(now.moment + self.expected.max_pause));
        }
        self.judge_delay(incoming, overtaken, changes);
        Acceptance::Accepted(ttl_was)
    }

    /// Evaluates the result of probe `sequence` of a target, which was sent in epoch `epoch` and ended at `now`. A failure
    /// is a bad sample, except within the startup grace of a test that never succeeded. A probe that could not be sent
    /// is no sample.
    pub fn on_result(
        &mut self,
        result: ProbeResult,
        (epoch, sequence): (u64, u32),
        send_every: Duration,
        now: Now,
        changes: &mut Vec<ConditionChange>,
    ) {
        match result {
            ProbeResult::Measured(delay) => {
                let nanos = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
                let sent = WallTime::from_unix_nanos(now.wall.unix_nanos().saturating_sub(saturating_nanos(delay)));
                let probe = ProbeSample {
                    test_id: self.expected.test.id,
                    received: now,
                    delay: Delay { nanos, uncertainty: Duration::ZERO },
                    directions: None,
                    epoch_and_sequence: Some((epoch, sequence)),
                    unsent: 0,
                    send_every,
                    sent,
                    source_port: 0,
                    is_trusted: true,
                    clock_was_set: false,
                    stops: false,
                    stepped: false,
                    ttl: None,
                    dscp: None,
                    dropped: 0,
                };
                self.on_probe(&probe, changes);
            }
            ProbeResult::NotSent(_) => self.on_timeout(now, 0, changes),
            ProbeResult::Failed(problem) => {
                self.on_timeout(now, 0, changes);
                match self.last_probe {
                    Some(_) => self.statistics.on_timeout(1, now.moment),
                    None => self.statistics.on_lost(1, now.moment),
                }
                let in_grace = self.last_probe.is_none() && now.moment < self.started + self.expected.startup_grace;
                if in_grace {
                    return;
                }
                let cause = Cause::ProbeFailed(problem);
                self.sample(Kind::Connection, Sample::Bad, Some(cause.clone()), now, changes);
                // The first probe of a numbering may go to another target, so that an earlier reason no longer holds.
                self.sample_cause(Kind::Connection, cause, sequence == 0, now, changes);
            }
        }
    }

    /// Tolerates a sender that is slower than expected, once: a change of the documents may have reached it first.
    #[cold]
    fn note_slower_pace(&mut self, send_every: Duration, now: Moment) {
        let extra = self.extra.get_or_insert_default();
        if !std::mem::replace(&mut extra.slower_tolerated, true) {
            extra.tolerated_interval = Some((now + ROLL_OUT_GRACE, send_every.saturating_mul(2)));
        }
    }

    /// Processes the passage of time up to `now`: each `expect_every` without a probe is a bad sample. `dropped` is the
    /// number of datagrams that the kernel has dropped at this socket so far.
    pub fn on_timeout(&mut self, now: Now, dropped: u64, changes: &mut Vec<ConditionChange>) {
        let mut samples = 0;
        while self.timeout_at <= now.moment {
            // Samples beyond the threshold change nothing, so a long gap costs no more than a short one.
            if samples > self.expected.thresholds.raise_after {
                self.timeout_at = self.deadline_after(now.moment);
                break;
            }
            samples += 1;
            let cause = Cause::Silence(NoProbe {
                silent_for: self.timeout_at.since(self.last_probe.map_or(self.started, |last_probe| last_probe.moment)),
                last_probe: self.last_probe.map(|last_probe| last_probe.wall),
                expect_every: self.expected.expect_every,
                announced_stop: self.announced_stop,
                dropped: dropped.saturating_sub(self.dropped),
                answers: self.expected.role == Role::Sender,
            });
            if self.connection().state() != State::Paused {
                self.presume_lost(now.moment);
            }
            self.timeout_at = self.deadline_after(self.timeout_at);
            self.sample(Kind::Connection, Sample::Bad, Some(cause), now, changes);
        }
        self.judge_loss(now, dropped, changes);
        self.judge_flows(now, changes);
        self.end_undecidable(now, changes);
    }

    /// Records that this agent itself was suspended (stopped, or its machine was frozen), so that missing probes until
    /// now prove nothing.
    pub fn on_suspension(&mut self, now: Now) {
        self.no_timeout_before = now.moment + self.expected.expect_every;
        self.timeout_at = self.timeout_at.max(self.no_timeout_before);
        self.streams.on_suspension();
        if let Some(flows) = self.flow_watch() {
            flows.begun = now.moment;
        }
    }

    /// Records that the local wall clock stepped, after which earlier and later delays cannot be compared.
    pub fn on_clock_step(&mut self, now: Now) {
        self.previous = Previous::default();
        if let Some(flows) = self.flow_watch() {
            flows.seen.begin();
        }
        let Some(extra) = &mut self.extra else { return };
        extra.recent = None;
        extra.offset.reset();
        if let Some(baseline) = &mut extra.baseline {
            baseline.on_step(now.moment);
        }
    }

    /// Restores the newest sequence numbers that an earlier process accepted, so that signed probes cannot be replayed.
    /// Unsigned tests ignore this.
    pub fn restore_newest(&mut self, newest: impl Fn(TestId) -> Option<(u64, u32)>, now: Now) {
        if self.expected.keys.is_some() {
            let (own, any_of) = (self.expected.test.id, self.expected.any_of.as_deref());
            self.streams.restore(own, any_of, newest, now);
        }
    }

    /// Returns the epoch and newest sequence number of each sender's test, to be stored for a later process.
    pub fn newest(&self) -> impl Iterator<Item = (TestId, (u64, u32))> {
        self.streams.newest(self.expected.test.id)
    }

    /// Returns the moment at which `on_timeout` must be called next.
    pub fn next_deadline(&self) -> Moment {
        let flows = self.extra.as_ref().and_then(|extra| extra.flows.as_ref());
        flows.map_or(self.timeout_at, |flows| flows.next_check.min(self.timeout_at))
    }

    /// Returns all decided verdicts again, for an alarm actor that has just started.
    pub fn report(&self, now: Now) -> Vec<ConditionChange> {
        self.conditions.decided().map(|(kind, verdict)| self.change(kind, verdict, now)).collect()
    }

    /// Returns the changes that clear this test's alarms when it is no longer judged here.
    pub fn retire(&self, now: Now) -> Vec<ConditionChange> {
        let reported = self.conditions.decided().filter(|(_, verdict)| matches!(verdict, Verdict::Violated(_)));
        reported.map(|(kind, _)| self.change(kind, Verdict::Cleared, now)).collect()
    }

    /// Returns the condition of the connection.
    pub fn connection(&self) -> &Condition {
        self.conditions.of(Kind::Connection)
    }

    /// Returns the condition of a kind that is judged here.
    pub fn condition(&self, kind: Kind) -> &Condition {
        self.conditions.of(kind)
    }

    /// Returns the condition that an operator should examine first: one that is down before one that is not, and the
    /// connection before others.
    pub fn worst(&self) -> &Condition {
        let mut all = self.expected.kinds().map(|kind| self.conditions.of(kind));
        all.find(|condition| condition.is_down()).unwrap_or(self.connection())
    }

    /// Returns the counters of probes since the receive session began.
    pub fn counters(&self) -> Counters {
        let (received, reordered, duplicates, stale) = (self.received, self.reordered, self.duplicates, self.stale);
        Counters { received, reordered, duplicates, stale }
    }

    /// Returns statistics of loss and delay for three periods, each up to `now`.
    pub fn statistics(&self, now: Moment) -> Summaries {
        self.statistics.summaries(now)
    }

    /// Returns the histogram of all delays since the receive session began.
    pub fn histogram(&self) -> Histogram {
        self.statistics.histogram()
    }

    /// Returns the state of each flow; empty if the test has only one.
    pub fn flows(&self) -> Vec<FlowStatus> {
        let watch = self.extra.as_ref().and_then(|extra| extra.flows.as_ref());
        watch.map(|watch| watch.seen.status(&self.expected.flows)).unwrap_or_default()
    }

    /// Returns the time-to-live and the code point of the last probe's IP packet.
    pub fn path(&self) -> (Option<u8>, Option<u8>) {
        (self.ttl, self.dscp)
    }

    /// Returns the delay of the last accepted probe, with the verdict on it.
    pub fn last_delay(&self) -> Option<(Delay, DelayVerdict)> {
        let LastDelay { nanos, uncertainty, verdict } = self.last_delay?;
        Some((Delay { nanos, uncertainty: Duration::from_nanos(uncertainty) }, verdict))
    }

    /// Returns whether the last probe is longer ago than `expect_every`.
    pub fn is_silent(&self, now: Moment) -> bool {
        self.last_probe.is_none_or(|last| now.since(last.moment) > self.expected.expect_every)
    }

    /// Returns the time at which the last accepted probe arrived.
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
                seen: FlowTracker::default(),
                next_check: now + expected.expect_every,
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

    fn tolerated_interval(&self) -> Option<(Moment, Duration)> {
        self.extra.as_ref().and_then(|extra| extra.tolerated_interval)
    }

    /// Returns the end of the interval that begins at `moment`.
    fn deadline_after(&self, moment: Moment) -> Moment {
        if !self.expected.has_timeout {
            return Moment::MAX;
        }
        let every = self.expected.expect_every.max(Duration::from_nanos(1));
        let every = match self.tolerated_interval() {
            // Tolerate the longer interval until at most one regular interval after the roll-out.
            Some((until, slower)) if moment < until => slower.min((until + every).since(moment)).max(every),
            Some(_) | None => every,
        };
        (moment + every).max(self.no_timeout_before)
    }

    /// Returns the first deadline of a session. The first bad samples are timed so that the raise falls at the end of
    /// the startup grace, not before.
    fn first_deadline(&self, started: Moment) -> Moment {
        if !self.expected.has_timeout {
            return Moment::MAX;
        }
        self.first_sample_for_raise_at(started + self.expected.startup_grace).max(started + self.expected.expect_every)
    }

    /// Returns the moment at which the first bad sample must fall so that the last of them, which raises the alarm,
    /// falls at `moment`.
    fn first_sample_for_raise_at(&self, moment: Moment) -> Moment {
        moment - self.expected.expect_every.saturating_mul(self.expected.thresholds.raise_after.max(1) - 1)
    }

    /// Counts an accepted probe and the preceding ones that it shows to be missing or late. Returns whether the probe
    /// was overtaken.
    fn count(&mut self, incoming: &ProbeSample, place: SequencePosition) -> bool {
        let now = incoming.received.moment;
        let sequence = incoming.epoch_and_sequence.map_or(0, |(_, sequence)| sequence);
        let limits = self.expected.loss;
        match place {
            SequencePosition::First => {
                self.statistics.on_epoch(now);
                self.previous = Previous::default();
                if let Some(flows) = self.flow_watch() {
                    flows.seen.begin();
                }
                if let Some(extra) = &mut self.extra {
                    extra.recent = None;
                }
            }
            SequencePosition::Newer(missing) => {
                if missing > 0 {
                    self.remember_delays();
                }
                self.statistics.on_newer(sequence, missing, now);
            }
            SequencePosition::Behind(_) => self.statistics.on_filled(sequence, now),
            SequencePosition::Duplicate | SequencePosition::TooOld | SequencePosition::StaleEpoch => {}
        }
        // Missing probes while the test is down belong to the connection alarm, and probes that are only presumed lost
        // may never have been sent. Neither counts as loss.
        let is_down = self.connection().is_down();
        let proved = match place {
            SequencePosition::Newer(missing) => i32::try_from(missing).unwrap_or(i32::MAX),
            SequencePosition::Behind(_) => -1,
            SequencePosition::First
            | SequencePosition::Duplicate
            | SequencePosition::TooOld
            | SequencePosition::StaleEpoch => 0,
        };
        if let Some(window) = self.loss_window() {
            match is_down {
                true => window.reset(now, &limits),
                false => window.on_probes(1, proved),
            }
        }
        let SequencePosition::Behind(by) = place else { return false };
        // A probe counts as late if, by the time it arrived, its absence would already have been a bad sample.
        let turns = by / self.flow_count();
        if incoming.send_every.saturating_mul(turns) > self.expected.expect_every {
            self.statistics.on_event(ProbeEvent::Late, now);
        }
        true
    }

    /// Starts to record delays because some probes are missing and may arrive later, overtaken by others.
    #[cold]
    fn remember_delays(&mut self) {
        let (previous, step) = (self.previous, self.flow_count());
        let recent = self.extra.get_or_insert_default().recent.get_or_insert_default();
        recent.left = u32::try_from(Recent::MOST).unwrap_or(u32::MAX).max(step);
        if let Some(sequence) = previous.sequence.filter(|_| recent.probes.is_empty()) {
            recent.add(sequence, previous.delay);
        }
    }

    /// Records the probe's time-to-live and code point. Returns the previous time-to-live if it has changed.
    fn note_path(&mut self, incoming: &ProbeSample) -> Option<u8> {
        self.dscp = incoming.dscp.or(self.dscp);
        // Equal-cost paths may differ in length, so only probes of one source port can reveal a change of path.
        let index = incoming.epoch_and_sequence.map_or(0, |(_, sequence)| sequence % self.flow_count());
        if index != 0 || self.expected.any_of.is_some() {
            return None;
        }
        let before = self.ttl;
        self.ttl = incoming.ttl.or(before);
        let changed = before.filter(|_| self.ttl != before)?;
        self.statistics.on_event(ProbeEvent::PathChange, incoming.received.moment);
        Some(changed)
    }

    fn presume_lost(&mut self, now: Moment) {
        let (Some(send_every), Some(_), None) = (self.send_every, self.last_probe, &self.expected.any_of) else {
            return;
        };
        let turns = saturating_nanos(self.expected.expect_every) / send_every;
        let missing = u32::try_from(turns).unwrap_or(u32::MAX).saturating_mul(self.flow_count()).min(MAX_PRESUMED);
        self.statistics.on_timeout(missing, now);
    }

    /// Applies a change to the conditions and updates `steady`. Every change must go through this function, because
    /// `steady` is derived from the conditions.
    fn change_conditions<R>(&mut self, change: impl FnOnce(&mut Conditions) -> R) -> R {
        let changed = change(&mut self.conditions);
        self.steady = self.conditions.steady();
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
        if sample == Sample::Good && self.steady.holds(kind) {
            return;
        }
        let thresholds = self.expected.thresholds;
        if let Some(verdict) =
            self.change_conditions(|conditions| conditions.on_sample(kind, sample, thresholds, cause, now))
        {
            changes.push(self.change(kind, verdict, now));
        }
    }

    /// Applies a sample that was judged over some time already and needs no second one to decide.
    fn sample_once(&mut self, kind: Kind, sample: Sample, cause: Cause, now: Now, changes: &mut Vec<ConditionChange>) {
        let at_once = Thresholds::in_a_row(1, 1);
        if let Some(verdict) =
            self.change_conditions(|conditions| conditions.on_sample(kind, sample, at_once, Some(cause), now))
        {
            changes.push(self.change(kind, verdict, now));
        }
    }

    /// Updates the cause of a condition that is down. Figures that change with each sample are reported only at
    /// intervals, unless `at_once`.
    fn sample_cause(&mut self, kind: Kind, cause: Cause, at_once: bool, now: Now, changes: &mut Vec<ConditionChange>) {
        if !self.conditions.is_down(kind) || self.conditions.cause(kind) == Some(&cause) {
            return;
        }
        let raised = self.conditions.of(kind).since().moment;
        let reported = &mut self.extra.get_or_insert_default().cause_reported_at[conditions::index(kind)];
        if !at_once && now.moment.since(raised.max(*reported)) < CAUSE_REPORT_INTERVAL {
            return;
        }
        *reported = now.moment;
        self.conditions.set_cause(kind, cause.clone());
        changes.push(self.change(kind, Verdict::Violated(cause), now));
    }

    /// Records whether a sample was able to decide on a condition that is down.
    fn note_decision(&mut self, kind: Kind, is_decided: bool, now: Moment) {
        let place = conditions::index(kind);
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
        // A loss window that was reset needs time to fill before it can decide.
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
                extra.undecided[conditions::index(kind)] = None;
            }
            if self.change_conditions(|conditions| conditions.reset(kind)) {
                changes.push(self.change(kind, Verdict::Undecidable, now));
            }
        }
    }

    /// Builds the change of one condition. A wrong clock is attributed to the peer host, whichever of its tests finds
    /// it.
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

/// Returns the time by which the first half minute of a test's statistics is shortened, so that those of many tests end
/// at different times.
fn stagger(id: TestId) -> Duration {
    HALF_MINUTE.mul_f64(f64::from(id.as_u128() as u16) / f64::from(u16::MAX))
}

/// Time without a deciding measurement after which an alarm ends as no longer decidable.
const UNDECIDED_FOR: Duration = Duration::from_secs(300);
/// Interval at which the changing figures of a raised alarm are reported again.
const CAUSE_REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Maximum number of probes that are presumed lost at once, however long `expect_every` is.
const MAX_PRESUMED: u32 = 1 << 24;

#[cfg(test)]
mod tests;
