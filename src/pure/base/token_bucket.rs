//! Token bucket rate limiter: permits `burst` messages at once and `rate` messages per second in the long run.
//!
//! [`TokenBucket`] is the main type; time is passed in by the caller.

use std::time::Duration;

use super::time::Moment;

/// Token bucket. Tokens are fractional, so that rates below one token per call accumulate too.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Moment,
}

impl TokenBucket {
    /// Creates a full bucket; `rate` is in messages per second, and a `burst` of zero counts as one.
    pub fn new(rate: f64, burst: u32, now: Moment) -> Self {
        let burst = f64::from(burst.max(1));
        TokenBucket { rate, burst, tokens: burst, filled: now }
    }

    /// Takes one token, or returns the time at which the next one will be available.
    pub fn take(&mut self, now: Moment) -> Result<(), Moment> {
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let missing = (1.0 - self.tokens) / self.rate;
        // Add one nanosecond against rounding, so that a token is available when the returned time is reached.
        Err(now + Duration::try_from_secs_f64(missing).unwrap_or(Duration::from_secs(3600)) + Duration::from_nanos(1))
    }

    fn fill(&mut self, now: Moment) {
        let earned = now.since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.burst);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bucket_permits_burst_at_once_and_then_rate() {
        let mut bucket = TokenBucket::new(10.0, 3, Moment::ZERO);
        assert!((0..3).all(|_| bucket.take(Moment::ZERO).is_ok()));
        let next = bucket.take(Moment::ZERO).unwrap_err();
        assert!(next.after_start() >= Duration::from_millis(100));
        assert!(next.after_start() < Duration::from_millis(101));
        assert!(bucket.take(next).is_ok());
        assert!(bucket.take(next).is_err());
    }

    proptest! {
        #[test]
        fn tokens_taken_never_exceed_burst_plus_rate(rate in 0.1f64..1000.0, burst in 1u32..100, steps in prop::collection::vec(0u64..2_000, 1..200)) {
            let mut bucket = TokenBucket::new(rate, burst, Moment::ZERO);
            let (mut now, mut taken) = (Moment::ZERO, 0u32);
            for step in steps {
                now = now + Duration::from_millis(step);
                while bucket.take(now).is_ok() { taken += 1; }
            }
            let allowed = f64::from(burst) + now.after_start().as_secs_f64() * rate;
            prop_assert!(f64::from(taken) <= allowed + 1e-6);
        }
    }
}
