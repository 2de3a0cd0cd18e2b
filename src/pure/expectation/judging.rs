//! What the probes of a test are worth: loss, dead flows, delays, and the clocks behind them.

use std::time::Duration;

use super::{Expectation, Incoming, LastDelay, Previous};
use crate::pure::alarm::{Cause, ConditionChange, Direction, Kind};
use crate::pure::clock_error::{Delay, DelayLimits, DelayVerdict};
use crate::pure::condition::{Sample, State};
use crate::pure::statistics::Event;
use crate::pure::time::{Now, saturating_nanos};

impl Expectation {
    pub(super) fn judge_loss(&mut self, now: Now, dropped: u64, changes: &mut Vec<ConditionChange>) {
        let limits = self.expected.loss;
        let Some(window) = self.loss_window() else { return };
        let (loss, variation) = window.on_time(now.moment, &limits);
        let dropped = dropped.saturating_sub(self.dropped);
        let loss_window = limits.loss_window;
        if let Some((rate, ppm)) = loss.zip(limits.max_loss_ppm) {
            let cause = Cause::Loss { share: rate.share, max_loss: f64::from(ppm) / 1e6, loss_window, dropped };
            self.sample_once(Kind::Loss, rate.sample, cause, now, changes);
        }
        if let Some((rate, max_jitter)) = variation.zip(limits.max_jitter) {
            let cause = Cause::Jitter { share: rate.share, max_jitter, loss_window };
            self.sample_once(Kind::Jitter, rate.sample, cause, now, changes);
        }
    }

    /// A flow is dead that nothing came from for as long as would raise an alarm of its own, while
    /// others carry on.
    pub(super) fn judge_flows(&mut self, now: Now, changes: &mut Vec<ConditionChange>) {
        if self.flow_watch().is_none_or(|watch| watch.look > now.moment) {
            return;
        }
        let expected = self.expected.manner.clone();
        let Some(watch) = self.flow_watch() else { return };
        watch.look = now.moment + expected.expect_every;
        let after = expected.expect_every.saturating_mul(expected.thresholds.raise_after.max(1));
        let dead = watch.seen.dead(now.moment, after, watch.begun);
        let begun = watch.begun;
        let alive = dead.iter().any(|dead| !dead) && now.moment.since(begun) > after;
        if self.connection().state() != State::Up || !alive {
            return;
        }
        let sample = if dead.contains(&true) { Sample::Bad } else { Sample::Good };
        self.sample_once(Kind::Path, sample, Cause::DeadFlows(expected.flows.name(&dead)), now, changes);
    }

    pub(super) fn judge_delay(&mut self, incoming: &Incoming, behind: bool, changes: &mut Vec<ConditionChange>) {
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
            self.statistics.on_event(Event::Undecidable, now.moment);
        }
        self.judge_latency(incoming, verdict, changes);
    }

    /// The delay of the probe before this one in the same flow; notes what that says.
    fn variation(&mut self, incoming: &Incoming, behind: bool) -> Option<i64> {
        let (now, nanos) = (incoming.received.moment, incoming.delay.nanos);
        let (_, sequence) = incoming.order?;
        let count = self.expected.flows.count();
        let any = self.expected.any_of.is_some();
        let previous = match self.flow_watch() {
            Some(watch) => {
                if watch.seen.count() == 0 {
                    watch.begun = watch.begun.max(now);
                }
                let place = watch.seen.on_probe(sequence, count, nanos, now);
                if place.overtaken {
                    self.reordered += 1;
                    self.statistics.on_event(Event::Reordered, now);
                }
                place.previous
            }
            None if behind => {
                self.reordered += 1;
                self.statistics.on_event(Event::Reordered, now);
                None
            }
            None if any => None,
            None => {
                let this = Previous { sequence: Some(sequence), delay: nanos };
                let before = std::mem::replace(&mut self.previous, this);
                (before.sequence == Some(sequence.wrapping_sub(1))).then_some(before.delay)
            }
        };
        let limits = self.expected.loss;
        if let (Some(previous), Some(window)) = (previous, self.loss_window()) {
            window.on_variation(nanos.abs_diff(previous), &limits);
        }
        previous
    }

    /// A delay that no path can have, or an offset that moved by more than the clocks allow.
    fn clock_is_wrong(&mut self, incoming: &Incoming) -> Option<Delay> {
        let limits = DelayLimits { max_latency: None, ..self.expected.limits };
        let wrong = |delay: &Delay| delay.judge(limits) == DelayVerdict::ClockWrong;
        let Some(directions) = incoming.directions else {
            return Some(incoming.delay).filter(wrong);
        };
        let moved = self.extra.as_mut().and_then(|extra| extra.offset.on_delays(&directions, incoming.received.moment));
        if let Some(extra) = self.extra.as_mut().filter(|_| incoming.stepped) {
            extra.offset.forget();
            return None;
        }
        let impossible = [directions.forward, directions.backward].into_iter().find(wrong);
        impossible.or(moved.map(|nanos| Delay { nanos, uncertainty: directions.forward.uncertainty }))
    }

    /// A wrong clock says nothing of one way; what one clock measures, and what is held against its own
    /// baseline, is judged all the same.
    fn judge_latency(&mut self, incoming: &Incoming, found: DelayVerdict, changes: &mut Vec<ConditionChange>) {
        let now = incoming.received;
        let limits = self.expected.limits;
        let is_down = !self.calm.holds(Kind::Latency) && self.conditions.is_down(Kind::Latency);
        let (mut exceeded, mut good, mut undecided) = (None, false, false);
        let mut judge = |delay: Delay, max_latency: Option<Duration>, direction: Direction| {
            let Some(max_latency) = max_latency else { return };
            // Once it was too much, only what is within the lower limit counts as good.
            let limit = if is_down { limits.clear_latency.min(max_latency) } else { max_latency };
            match delay.judge(DelayLimits { max_latency: Some(limit), ..limits }) {
                DelayVerdict::Exceeded if exceeded.is_none() => {
                    exceeded = Some(Cause::Late { delay, max_latency, direction });
                }
                DelayVerdict::Exceeded | DelayVerdict::ClockWrong => {}
                DelayVerdict::Good => good = true,
                DelayVerdict::Undecidable => undecided = true,
            }
        };
        match incoming.directions {
            None => judge(incoming.delay, limits.max_latency, Direction::Forward),
            Some(directions) => {
                judge(directions.round_trip, limits.max_latency, Direction::RoundTrip);
                let each_way = self.expected.max_each_way.filter(|_| found != DelayVerdict::ClockWrong);
                judge(directions.forward, each_way, Direction::Forward);
                judge(directions.backward, each_way, Direction::Backward);
            }
        }
        let nanos = incoming.delay.nanos;
        let above = self.extra.as_mut().and_then(|extra| {
            let baseline = extra.baseline.as_mut()?;
            if incoming.stepped {
                baseline.on_step(now.moment);
            }
            baseline.on_delay(nanos, now.moment)
        });
        if let Some((above, limit)) = above.zip(self.expected.max_above_baseline) {
            match i128::from(above) > limit.as_nanos() as i128 {
                true => exceeded = exceeded.or(Some(Cause::AboveBaseline { above, limit })),
                false => good = true,
            }
        }
        let stands_by_limit = is_down && matches!(self.conditions.cause(Kind::Latency), Some(Cause::Late { .. }));
        if exceeded.is_some() {
            self.sample(Kind::Latency, Sample::Bad, exceeded, now, changes);
        } else if good && !(undecided && stands_by_limit) {
            self.sample(Kind::Latency, Sample::Good, None, now, changes);
        }
    }
}
