//! Judgement of the probes of one test: loss, dead flows, delay, delay variation, and the clocks that measured them.
//!
//! The methods extend [`ReceiveSession`], which calls them for each probe and when time passes. They turn measurements
//! into samples of the test's conditions.

use std::time::Duration;

use super::{LastDelay, Previous, ProbeSample, ReceiveSession, SessionPlan};
use crate::pure::alarm::cause::{Cause, Direction};
use crate::pure::alarm::change::ConditionChange;
use crate::pure::alarm::key::Kind;
use crate::pure::base::time::{Moment, Now, saturating_nanos};
use crate::pure::clock::error_estimate::{Delay, DelayLimits, DelayVerdict};
use crate::pure::judge::condition::{Sample, State};
use crate::pure::measure::loss_window::Rate;
use crate::pure::measure::statistics::ProbeEvent;
use crate::pure::stamp::flows::FlowProbe;
use crate::pure::test::role::Role;

impl ReceiveSession {
    pub(super) fn judge_loss(&mut self, now: Now, dropped: u64, changes: &mut Vec<ConditionChange>) {
        let limits = self.expected.loss;
        let Some(window) = self.loss_window() else { return };
        let Some((loss, variation)) = window.on_time(now.moment, &limits) else { return };
        let dropped = dropped.saturating_sub(self.dropped);
        let loss_window = limits.loss_window;
        if let Some(ppm) = limits.max_loss_ppm {
            let cause = |share| Cause::Loss { share, max_loss: f64::from(ppm) / 1e6, loss_window, dropped };
            self.judge_rate(Kind::Loss, loss, cause, now, changes);
        }
        if let Some(max_jitter) = limits.max_jitter {
            let cause = |share| Cause::Jitter { share, max_jitter, loss_window };
            self.judge_rate(Kind::Jitter, variation, cause, now, changes);
        }
    }

    fn judge_rate(
        &mut self,
        kind: Kind,
        rate: Option<Rate>,
        cause: impl Fn(f64) -> Cause,
        now: Now,
        changes: &mut Vec<ConditionChange>,
    ) {
        if self.conditions.is_down(kind) {
            self.note_decision(kind, rate.is_some(), now.moment);
        }
        let Some(rate) = rate else { return };
        self.sample_once(kind, rate.sample, cause(rate.share), now, changes);
        self.sample_cause(kind, cause(rate.share), false, now, changes);
    }

    /// Judges whether flows of the test are dead. A flow is dead if no probe of it arrived for as long as would raise a
    /// connection alarm, while other flows still carry probes.
    pub(super) fn judge_flows(&mut self, now: Now, changes: &mut Vec<ConditionChange>) {
        if self.flow_watch().is_none_or(|watch| watch.next_check > now.moment) {
            return;
        }
        let expected = self.expected.criteria.clone();
        let Some(watch) = self.flow_watch() else { return };
        watch.next_check = now.moment + expected.expect_every;
        let after = expected.expect_every.saturating_mul(expected.thresholds.raise_after.max(1));
        let dead = watch.seen.dead(now.moment, after, watch.begun);
        let (begun, ports) = (watch.begun, watch.seen.ports());
        let alive = dead.iter().any(|dead| !dead) && now.moment.since(begun) > after;
        if self.connection().state() != State::Up || !alive {
            return;
        }
        let sample = if dead.contains(&true) { Sample::Bad } else { Sample::Good };
        let cause = Cause::DeadFlows(expected.flows.describe_dead(&dead, &ports));
        self.sample_once(Kind::Path, sample, cause.clone(), now, changes);
        if sample == Sample::Bad {
            self.sample_cause(Kind::Path, cause, true, now, changes);
        }
    }

    pub(super) fn judge_delay(&mut self, incoming: &ProbeSample, behind: bool, changes: &mut Vec<ConditionChange>) {
        if incoming.clock_was_set {
            self.previous = Previous::default();
            return;
        }
        let now = incoming.received;
        let (delay, limits) = (incoming.delay, self.expected.limits);
        let variation = self.variation(incoming, behind);
        let verdict = match self.clock_is_wrong(incoming) {
            Some(wrong) => {
                let cause = Cause::ClockWrong { delay: wrong, peer: self.expected.peer().to_owned() };
                self.sample(Kind::Clock, Sample::Bad, Some(cause), now, changes);
                DelayVerdict::ClockWrong
            }
            None => {
                self.sample(Kind::Clock, Sample::Good, None, now, changes);
                delay.judge(limits)
            }
        };
        let uncertainty = saturating_nanos(delay.uncertainty);
        self.last_delay = Some(LastDelay { nanos: delay.nanos, uncertainty, verdict });
        self.statistics.on_delay(delay, variation, now.moment);
        if verdict == DelayVerdict::Undecidable {
            self.statistics.on_event(ProbeEvent::Undecidable, now.moment);
        }
        self.judge_latency(incoming, verdict, changes);
    }

    /// Returns the delay of the preceding probe of the same flow, if that arrived, and counts reordering and variation.
    fn variation(&mut self, incoming: &ProbeSample, behind: bool) -> Option<i64> {
        let (now, nanos) = (incoming.received.moment, incoming.delay.nanos);
        let (_, sequence) = incoming.epoch_and_sequence?;
        let overtaken = self.vary_from_neighbours(sequence, nanos, now);
        let count = self.expected.flows.count();
        let any = self.expected.any_of.is_some();
        let previous = match self.flow_watch() {
            Some(watch) => {
                if watch.seen.count() == 0 {
                    watch.begun = watch.begun.max(now);
                }
                let (unsent, source_port) = (incoming.unsent, incoming.source_port);
                let probe = FlowProbe { sequence, unsent, delay: nanos, source_port };
                let place = watch.seen.on_probe(probe, count, now);
                if place.overtaken {
                    self.reordered += 1;
                    self.statistics.on_event(ProbeEvent::Reordered, now);
                }
                place.previous
            }
            None if behind => {
                self.reordered += 1;
                self.statistics.on_event(ProbeEvent::Reordered, now);
                None
            }
            None if any => None,
            None => {
                let this = Previous { sequence: Some(sequence), delay: nanos };
                let before = std::mem::replace(&mut self.previous, this);
                (before.sequence == Some(sequence.wrapping_sub(1))).then_some(before.delay)
            }
        };
        // A probe that was overtaken has already been compared with both of its neighbours.
        let previous = previous.filter(|_| !overtaken);
        let limits = self.expected.loss;
        if let (Some(previous), Some(window)) = (previous, self.loss_window()) {
            window.on_variation(nanos.abs_diff(previous), &limits);
        }
        previous
    }

    /// Records the variation of a probe that arrived out of order, against the probes sent before and after it (RFC
    /// 3393 compares packets in the order in which they were sent). Returns whether the probe sent after it is known.
    fn vary_from_neighbours(&mut self, sequence: u32, nanos: i64, now: Moment) -> bool {
        let (step, limits) = (self.flow_count(), self.expected.loss);
        let Some(extra) = self.extra.as_mut().filter(|extra| extra.recent.is_some()) else { return false };
        let Some(recent) = &mut extra.recent else { return false };
        let neighbours = [recent.delay_of(sequence.wrapping_sub(step)), recent.delay_of(sequence.wrapping_add(step))];
        recent.add(sequence, nanos);
        if recent.left == 0 {
            extra.recent = None;
        }
        if neighbours[1].is_none() {
            return false;
        }
        for neighbour in neighbours.into_iter().flatten() {
            self.statistics.on_variation(nanos.abs_diff(neighbour), now);
            if let Some(window) = self.loss_window() {
                window.on_variation(nanos.abs_diff(neighbour), &limits);
            }
        }
        true
    }

    /// Returns the delay that proves a wrong clock: one that no path can have, or an offset that moved by more than the
    /// clocks' error bounds allow.
    fn clock_is_wrong(&mut self, incoming: &ProbeSample) -> Option<Delay> {
        let limits = DelayLimits { max_latency: None, ..self.expected.limits };
        let wrong = |delay: &Delay| delay.judge(limits) == DelayVerdict::ClockWrong;
        let Some(directions) = incoming.directions.filter(|directions| directions.are_comparable) else {
            return Some(incoming.delay).filter(wrong);
        };
        let moved = self.extra.as_mut().and_then(|extra| extra.offset.on_delays(&directions, incoming.received.moment));
        if let Some(extra) = self.extra.as_mut().filter(|_| incoming.stepped) {
            extra.offset.reset();
            return None;
        }
        let impossible = [directions.forward, directions.backward].into_iter().find(wrong);
        impossible.or(moved.map(|nanos| Delay { nanos, uncertainty: directions.forward.uncertainty }))
    }

    /// Judges the delay of a probe against all limits of the test. A wrong clock makes one-way delays meaningless, but
    /// the round trip, which one clock measures, and the test's own baseline are still judged. An alarm is cleared only
    /// by the kind of measurement that raised it.
    fn judge_latency(&mut self, incoming: &ProbeSample, found: DelayVerdict, changes: &mut Vec<ConditionChange>) {
        let now = incoming.received;
        let limits = self.expected.limits;
        let is_down = !self.steady.holds(Kind::Latency) && self.conditions.is_down(Kind::Latency);
        let alarm_status = if is_down { self.conditions.cause(Kind::Latency).and_then(Measure::of) } else { None };
        let mut results: [Option<Result<Sample, Cause>>; Measure::COUNT] = Default::default();
        let mut judge = |delay: Delay, max_latency: Option<Duration>, direction: Direction| {
            let Some(max_latency) = max_latency else { return };
            // While the alarm is raised, only a delay within the lower limit counts as good.
            let limit = if is_down { limits.clear_latency.min(max_latency) } else { max_latency };
            let result = match delay.judge(DelayLimits { max_latency: Some(limit), ..limits }) {
                DelayVerdict::Exceeded => Some(Err(Cause::Late { delay, max_latency, direction })),
                DelayVerdict::Good => Some(Ok(Sample::Good)),
                DelayVerdict::Undecidable | DelayVerdict::ClockWrong => None,
            };
            results[Measure::Limit(direction).place()] = result;
        };
        match incoming.directions {
            None => judge(incoming.delay, limits.max_latency, Direction::Forward),
            Some(directions) => {
                judge(directions.round_trip, limits.max_latency, Direction::RoundTrip);
                let comparable = found != DelayVerdict::ClockWrong && directions.are_comparable;
                let each_way = self.expected.max_each_way.filter(|_| comparable);
                judge(directions.forward, each_way, Direction::Forward);
                judge(directions.backward, each_way, Direction::Backward);
            }
        }
        let (nanos, every) = (incoming.delay.nanos, self.expected.expect_every);
        let above = self.extra.as_mut().and_then(|extra| {
            let baseline = extra.baseline.as_mut()?;
            if incoming.stepped {
                baseline.on_step(now.moment);
            }
            baseline.on_delay(nanos, every, now.moment)
        });
        if let Some((above, limit)) = above.zip(self.expected.max_above_baseline) {
            let exceeds = i128::from(above) > limit.as_nanos() as i128;
            let result = if exceeds { Err(Cause::AboveBaseline { above, limit }) } else { Ok(Sample::Good) };
            results[Measure::Baseline.place()] = Some(result);
        }
        if let Some(measure) = alarm_status {
            self.note_decision(Kind::Latency, results[measure.place()].is_some(), now.moment);
        }
        let is_good = match alarm_status {
            Some(measure) => matches!(results[measure.place()], Some(Ok(_))),
            None => results.iter().flatten().any(Result::is_ok),
        };
        // Keep naming the cause that raised the alarm while it is true, even if other limits are exceeded too.
        let first = alarm_status.map_or(0, Measure::place);
        results.rotate_left(first);
        let exceeded = results.into_iter().flatten().find_map(Result::err);
        if let Some(cause) = exceeded {
            self.sample(Kind::Latency, Sample::Bad, Some(cause.clone()), now, changes);
            if is_down {
                let other = alarm_status != Measure::of(&cause);
                self.sample_cause(Kind::Latency, cause, other, now, changes);
            }
        } else if is_good {
            self.sample(Kind::Latency, Sample::Good, None, now, changes);
        }
    }
}

/// Kind of measurement behind a latency alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Delay in one direction, or of the round trip, compared with a configured limit.
    Limit(Direction),
    /// Delay compared with the test's own baseline, independent of synchronized clocks.
    Baseline,
}

impl Measure {
    const COUNT: usize = 4;

    /// Returns the kind of measurement behind a latency cause; `None` for other causes.
    pub(super) fn of(cause: &Cause) -> Option<Measure> {
        if let Cause::Late { direction, .. } = cause {
            return Some(Measure::Limit(*direction));
        }
        matches!(cause, Cause::AboveBaseline { .. }).then_some(Measure::Baseline)
    }

    /// Returns whether the test's current limits still use this kind of measurement.
    pub(super) fn is_configured_in(self, expected: &SessionPlan) -> bool {
        let (role, limit) = (expected.role, expected.limits.max_latency.is_some());
        match self {
            Measure::Limit(Direction::Forward) if role == Role::Receiver => limit,
            Measure::Limit(Direction::RoundTrip) => limit,
            Measure::Limit(Direction::Forward | Direction::Backward) => expected.max_each_way.is_some(),
            Measure::Baseline => expected.max_above_baseline.is_some(),
        }
    }

    fn place(self) -> usize {
        match self {
            Measure::Limit(Direction::Forward) => 0,
            Measure::Limit(Direction::Backward) => 1,
            Measure::Limit(Direction::RoundTrip) => 2,
            Measure::Baseline => 3,
        }
    }
}
