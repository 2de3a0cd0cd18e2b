//! How long to wait before the next try.

use std::time::Duration;

/// Doubles from `first` to `longest` with jitter, and starts over after `on_success`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// For children, listeners and sinks.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, failures: 0 }
    }

    /// Another failure: how long to wait now. `random` is in `0.0..1.0`; the wait lies between
    /// half of the current step and the whole of it.
    pub fn on_failure(&mut self, random: f64) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(30)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The same where many fail at once: the wait lies anywhere in the current step, so that they
    /// do not come back as a herd.
    pub fn on_failure_spread(&mut self, random: f64) -> Duration {
        self.on_failure(1.0).mul_f64(random.clamp(0.0, 1.0))
    }

    /// It worked: the next failure waits the shortest time again.
    pub fn on_success(&mut self) {
        self.failures = 0;
    }

    /// How often it failed since it last worked.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let waits: Vec<u64> = (0..8).map(|_| backoff.on_failure(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.on_success();
        assert_eq!(backoff.on_failure(0.0), Duration::from_millis(500));
        assert_eq!(backoff.on_failure_spread(0.0), Duration::ZERO);
        assert_eq!(backoff.on_failure_spread(0.5), Duration::from_secs(2));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        for _ in 0..100 {
            backoff.on_failure(0.0);
        }
    }
}
