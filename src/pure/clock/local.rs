//! Evaluation of the clock of this host, as far as it is possible locally.
//!
//! [`LocalClock`] combines the state that the kernel reports, detected steps, and the answer of a time server into
//! the clock condition of this agent.

use std::time::Duration;

use super::error_estimate::ClockQuality;
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::change::{ConditionChange, Verdict, condition_change};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Moment, Now, seconds};

/// Time for which an unsynchronized clock is tolerated: after a start, synchronization takes minutes.
const UNSYNCHRONISED_FOR: Duration = Duration::from_secs(300);
/// Time for which a step of the wall clock keeps the alarm raised.
const STEP_TOLD_FOR: Duration = Duration::from_secs(300);

/// Evaluates the local clock and holds its alarm condition.
#[derive(Clone, Debug, Default)]
pub struct LocalClock {
    /// Time since which the clock has been unsynchronized, according to the kernel.
    unsynchronized_since: Option<Moment>,
    /// Time and size in nanoseconds of the last step of the wall clock.
    step: Option<(Now, i64)>,
    /// Last answer of the time server, if one is queried.
    opinion: Option<ServerMeasurement>,
    /// True if at least one test on this host evaluates delays with the local clock.
    is_needed: bool,
    raised: Option<String>,
    is_settled: bool,
}

/// Measurement of the local clock by a time server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerMeasurement {
    /// Name of the time server, as used in alarm texts.
    pub server: String,
    /// Offset of the server's clock from the local one in nanoseconds; positive if the local clock is behind.
    pub offset: i64,
    /// Error bound of `offset`: half of the round trip to the server.
    pub error: Duration,
}

impl ServerMeasurement {
    /// Returns the error bound of the local clock, provided that the server is right.
    pub fn bound(&self) -> Duration {
        Duration::from_nanos(self.offset.unsigned_abs()).saturating_add(self.error)
    }

    /// Returns whether the measurement is inconsistent with the error bound that the kernel reports.
    fn contradicts(&self, quality: ClockQuality) -> bool {
        Duration::from_nanos(self.offset.unsigned_abs()) > quality.error.saturating_add(self.error)
    }
}

impl LocalClock {
    /// Sets whether at least one test on this host evaluates delays with the local clock. Without such a test, an
    /// unsynchronized clock raises no alarm.
    pub fn set_needed(&mut self, is_needed: bool) {
        self.is_needed = is_needed;
    }

    /// Stores the answer of the time server, or removes it when the server is no longer queried.
    pub fn on_opinion(&mut self, opinion: Option<ServerMeasurement>) {
        self.opinion = opinion;
    }

    /// Returns the clock quality to use: the error bound that the kernel reports, or the time server's bound if the
    /// two contradict.
    pub fn judge(&self, kernel: ClockQuality) -> ClockQuality {
        match &self.opinion {
            Some(opinion) if opinion.contradicts(kernel) => ClockQuality { error: opinion.bound(), ..kernel },
            Some(_) | None => kernel,
        }
    }

    /// Evaluates a new reading of the kernel's clock state and returns the change of the condition, if any. `step` is
    /// the step of the wall clock in nanoseconds since the previous reading.
    pub fn on_reading(&mut self, kernel: ClockQuality, step: Option<i64>, now: Now) -> Option<ConditionChange> {
        match kernel.synchronized {
            true => self.unsynchronized_since = None,
            false => {
                self.unsynchronized_since.get_or_insert(now.moment);
            }
        }
        if let Some(step) = step {
            self.step = Some((now, step));
        }
        self.step = self.step.filter(|(at, _)| now.moment.since(at.moment) < STEP_TOLD_FOR);
        let reason = self.reason(kernel, now);
        let settled = std::mem::replace(&mut self.is_settled, true);
        if settled && reason == self.raised {
            return None;
        }
        self.raised.clone_from(&reason);
        let verdict = reason.map_or(Verdict::Cleared, |reason| Verdict::Violated(Cause::LocalClock(reason)));
        Some(self.change(verdict, now))
    }

    /// Returns the current state of the condition, for an alarm actor that has just started.
    pub fn report(&self, now: Now) -> ConditionChange {
        let verdict =
            self.raised.clone().map_or(Verdict::Cleared, |reason| Verdict::Violated(Cause::LocalClock(reason)));
        self.change(verdict, now)
    }

    fn reason(&self, kernel: ClockQuality, now: Now) -> Option<String> {
        if let Some(opinion) = self.opinion.as_ref().filter(|opinion| opinion.contradicts(kernel)) {
            let (offset, error) = (millis(opinion.offset), opinion.error.as_secs_f64() * 1e3);
            let claimed = kernel.error.as_secs_f64() * 1e3;
            let server = &opinion.server;
            return Some(format!(
                "{server} reports that this host's clock is off by {offset:.3} ms (± {error:.3} ms), though its own \
                error bound is {claimed:.3} ms"
            ));
        }
        if let Some((at, step)) = self.step {
            return Some(format!("this host's clock stepped by {:.3} s at {}", seconds(step), at.wall));
        }
        let since = self.unsynchronized_since.filter(|since| now.moment.since(*since) >= UNSYNCHRONISED_FOR)?;
        let _ = self.is_needed.then_some(since)?;
        Some("this host's clock is not synchronized: delays that end here are not judged by max_latency".to_owned())
    }

    fn change(&self, verdict: Verdict, now: Now) -> ConditionChange {
        condition_change(AlarmKey::new(Kind::Clock, Subject::Agent), Subject::Agent, now, verdict)
    }
}

fn millis(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: ClockQuality = ClockQuality { synchronized: true, error: Duration::from_millis(1) };

    fn at(seconds: u64) -> Now {
        Now { moment: Moment::new(Duration::from_secs(seconds)), ..Now::default() }
    }

    /// Feeds one reading per second; returns the second and the text of each reported change.
    fn run(clock: &mut LocalClock, seconds: std::ops::Range<u64>, quality: ClockQuality) -> Vec<(u64, String)> {
        let said = |second| clock.on_reading(quality, None, at(second)).map(|change| (second, change.verdict));
        let text = |verdict| match verdict {
            Verdict::Violated(cause) => cause.to_string(),
            Verdict::Cleared | Verdict::Overdue | Verdict::Undecidable => "good".to_owned(),
        };
        seconds.filter_map(said).map(|(second, verdict)| (second, text(verdict))).collect()
    }

    #[test]
    fn unsynchronized_clock_is_reported_after_five_minutes_if_needed() {
        let mut clock = LocalClock::default();
        assert_eq!(run(&mut clock, 0..1_000, ClockQuality::UNKNOWN), [(0, "good".to_owned())]);
        clock.set_needed(true);
        let said = run(&mut clock, 1_000..1_010, ClockQuality::UNKNOWN);
        assert!(said.len() == 1 && said[0].1.contains("not synchronized"), "{said:?}");
        assert_eq!(run(&mut clock, 1_010..1_100, GOOD), [(1_010, "good".to_owned())]);
        let said = run(&mut clock, 1_100..2_000, ClockQuality::UNKNOWN);
        assert_eq!(said.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [1_400]);
    }

    #[test]
    fn step_is_reported_for_five_minutes() {
        let mut clock = LocalClock::default();
        clock.on_reading(GOOD, None, at(0));
        let change = clock.on_reading(GOOD, Some(-2_500_000_000), at(10)).unwrap();
        let Verdict::Violated(cause) = change.verdict else { panic!("not told") };
        assert!(cause.to_string().starts_with("this host's clock stepped by -2.500 s at "), "{cause}");
        assert_eq!(run(&mut clock, 11..1_000, GOOD), [(310, "good".to_owned())]);
    }

    #[test]
    fn contradicting_time_server_is_reported_and_its_bound_used() {
        let mut clock = LocalClock::default();
        let opinion = |offset| ServerMeasurement { server: "ntp1".into(), offset, error: Duration::from_millis(2) };
        clock.on_opinion(Some(opinion(2_500_000)));
        assert_eq!(clock.judge(GOOD), GOOD);
        assert_eq!(run(&mut clock, 0..5, GOOD), [(0, "good".to_owned())]);
        clock.on_opinion(Some(opinion(-40_000_000)));
        assert_eq!(clock.judge(GOOD).error, Duration::from_millis(42));
        let said = run(&mut clock, 5..10, GOOD);
        assert!(said.len() == 1 && said[0].1.starts_with("ntp1 reports that this host's clock is off by -40.000 ms"));
        clock.on_opinion(None);
        assert_eq!(run(&mut clock, 10..15, GOOD), [(10, "good".to_owned())]);
    }
}
