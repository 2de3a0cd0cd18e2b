//! What is wrong with this host's own clock, as far as it can be told from here.

use std::time::Duration;

use super::alarm::{AlarmKey, Cause, ConditionChange, Kind, Subject, Verdict, condition_change};
use super::clock_error::ClockQuality;
use super::time::{Moment, Now, seconds};

/// A clock that was just started takes minutes to be disciplined.
const UNSYNCHRONISED_FOR: Duration = Duration::from_secs(300);
/// A step is told for so long.
const STEP_TOLD_FOR: Duration = Duration::from_secs(300);

/// Judges the local clock.
#[derive(Clone, Debug, Default)]
pub struct LocalClock {
    /// Since when nobody disciplines it.
    unsynchronised_since: Option<Moment>,
    /// The last step, and when it was.
    step: Option<(Now, i64)>,
    /// What a time server said last.
    opinion: Option<Opinion>,
    /// Whether any test here judges delays by it.
    is_needed: bool,
    raised: Option<String>,
    is_settled: bool,
}

/// What a time server says of the local clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    /// Which.
    pub server: String,
    /// How far the local clock is behind, in nanoseconds.
    pub offset: i64,
    /// The opinion is off by this at most: half of the round trip.
    pub error: Duration,
}

impl Opinion {
    /// The local clock is off by this at most, if the server is right.
    pub fn bound(&self) -> Duration {
        Duration::from_nanos(self.offset.unsigned_abs()).saturating_add(self.error)
    }

    /// Whether it cannot be true together with what the kernel says.
    fn contradicts(&self, quality: ClockQuality) -> bool {
        Duration::from_nanos(self.offset.unsigned_abs()) > quality.error.saturating_add(self.error)
    }
}

impl LocalClock {
    /// Whether any test here judges delays by it: else nobody minds a clock that nobody disciplines.
    pub fn set_needed(&mut self, is_needed: bool) {
        self.is_needed = is_needed;
    }

    /// A time server answered, or is not asked any more.
    pub fn on_opinion(&mut self, opinion: Option<Opinion>) {
        self.opinion = opinion;
    }

    /// What the clock is worth in view of that.
    pub fn judge(&self, kernel: ClockQuality) -> ClockQuality {
        match &self.opinion {
            Some(opinion) if opinion.contradicts(kernel) => ClockQuality { error: opinion.bound(), ..kernel },
            Some(_) | None => kernel,
        }
    }

    /// The kernel was asked. `step` is the clock's step since it was asked before.
    pub fn on_reading(&mut self, kernel: ClockQuality, step: Option<i64>, now: Now) -> Option<ConditionChange> {
        match kernel.synchronised {
            true => self.unsynchronised_since = None,
            false => {
                self.unsynchronised_since.get_or_insert(now.moment);
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

    /// Says it once more, for an alarm actor that has just begun.
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
                "{server} says that this host's clock is off by {offset:.3} ms (± {error:.3} ms), \
                 which claims to be within {claimed:.3} ms"
            ));
        }
        if let Some((at, step)) = self.step {
            return Some(format!("this host's clock stepped by {:.3} s at {}", seconds(step), at.wall));
        }
        let since = self.unsynchronised_since.filter(|since| now.moment.since(*since) >= UNSYNCHRONISED_FOR)?;
        let _ = self.is_needed.then_some(since)?;
        Some("this host's clock is not synchronised: delays that end here are not judged by max_latency".to_owned())
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

    const GOOD: ClockQuality = ClockQuality { synchronised: true, error: Duration::from_millis(1) };

    fn at(seconds: u64) -> Now {
        Now { moment: Moment::new(Duration::from_secs(seconds)), ..Now::default() }
    }

    /// When something is said, and what.
    fn run(clock: &mut LocalClock, seconds: std::ops::Range<u64>, quality: ClockQuality) -> Vec<(u64, String)> {
        let said = |second| clock.on_reading(quality, None, at(second)).map(|change| (second, change.verdict));
        let text = |verdict| match verdict {
            Verdict::Violated(cause) => cause.to_string(),
            Verdict::Cleared | Verdict::Overdue | Verdict::Undecidable => "good".to_owned(),
        };
        seconds.filter_map(said).map(|(second, verdict)| (second, text(verdict))).collect()
    }

    #[test]
    fn an_unsynchronised_clock_is_told_after_a_while_where_it_matters() {
        let mut clock = LocalClock::default();
        assert_eq!(run(&mut clock, 0..1_000, ClockQuality::UNKNOWN), [(0, "good".to_owned())]);
        clock.set_needed(true);
        let said = run(&mut clock, 1_000..1_010, ClockQuality::UNKNOWN);
        assert!(said.len() == 1 && said[0].1.contains("not synchronised"), "{said:?}");
        assert_eq!(run(&mut clock, 1_010..1_100, GOOD), [(1_010, "good".to_owned())]);
        let said = run(&mut clock, 1_100..2_000, ClockQuality::UNKNOWN);
        assert_eq!(said.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [1_400]);
    }

    #[test]
    fn a_step_is_told_for_a_while() {
        let mut clock = LocalClock::default();
        clock.on_reading(GOOD, None, at(0));
        let change = clock.on_reading(GOOD, Some(-2_500_000_000), at(10)).unwrap();
        let Verdict::Violated(cause) = change.verdict else { panic!("not told") };
        assert!(cause.to_string().starts_with("this host's clock stepped by -2.500 s at "), "{cause}");
        assert_eq!(run(&mut clock, 11..1_000, GOOD), [(310, "good".to_owned())]);
    }

    #[test]
    fn a_second_opinion_that_contradicts_is_told_and_believed() {
        let mut clock = LocalClock::default();
        let opinion = |offset| Opinion { server: "ntp1".into(), offset, error: Duration::from_millis(2) };
        clock.on_opinion(Some(opinion(2_500_000)));
        assert_eq!(clock.judge(GOOD), GOOD);
        assert_eq!(run(&mut clock, 0..5, GOOD), [(0, "good".to_owned())]);
        clock.on_opinion(Some(opinion(-40_000_000)));
        assert_eq!(clock.judge(GOOD).error, Duration::from_millis(42));
        let said = run(&mut clock, 5..10, GOOD);
        assert!(said.len() == 1 && said[0].1.starts_with("ntp1 says that this host's clock is off by -40.000 ms"));
        clock.on_opinion(None);
        assert_eq!(run(&mut clock, 10..15, GOOD), [(10, "good".to_owned())]);
    }
}
