//! Exponential back-off for retries.
//!
//! [`Backoff`] returns the delay before the next attempt; the caller supplies the randomness and runs the timer.

use std::time::Duration;

/// Exponential back-off with jitter: the delay doubles from `first` to `longest` and is reset by
/// [`Backoff::on_success`].
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Creates a back-off without failures, whose delay starts at `first` and grows up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, failures: 0 }
    }

    /// Records a failure and returns the delay before the next attempt. `random` is in `0.0..=1.0` and chooses a
    /// delay between half of the current step and the whole of it.
    pub fn on_failure(&mut self, random: f64) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(30)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Records a failure like `on_failure`, but spreads the delay over the whole current step. Use it where many
    /// clients fail at the same time, to prevent a thundering herd.
    pub fn on_failure_spread(&mut self, random: f64) -> Duration {
        self.on_failure(1.0).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Records a success and resets the back-off: the next failure starts again at the shortest delay.
    pub fn on_success(&mut self) {
        self.failures = 0;
    }

    /// Returns the number of failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_longest_and_is_reset_by_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let waits: Vec<u64> = (0..8).map(|_| backoff.on_failure(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.on_success();
        assert_eq!(backoff.on_failure(0.0), Duration::from_millis(500));
        assert_eq!(backoff.on_failure_spread(0.0), Duration::ZERO);
        assert_eq!(backoff.on_failure_spread(0.5), Duration::from_secs(2));
    }

    #[test]
    fn many_failures_do_not_overflow_the_delay() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        for _ in 0..100 {
            backoff.on_failure(0.0);
        }
    }
}
