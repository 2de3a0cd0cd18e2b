//! Restart policy: decides when a failed child actor is restarted.
//!
//! [`Restart`] holds the state of one child; its parent calls it and runs the timer.

use std::time::Duration;

use super::backoff::Backoff;
use super::time::Moment;

/// Restart delay of a child that fails repeatedly: it starts at 1 s and doubles up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// Uptime after which the restart delay is reset.
const STABLE_UPTIME: Duration = Duration::from_secs(60);

/// Restart state of one child.
#[derive(Clone, Debug)]
pub struct Restart {
    backoff: Backoff,
    began: Moment,
    pending: bool,
}

impl Default for Restart {
    fn default() -> Self {
        Restart { backoff: RETRY, began: Moment::ZERO, pending: false }
    }
}

impl Restart {
    /// Records that the child has started.
    pub fn on_start(&mut self, now: Moment) {
        self.began = now;
        self.pending = false;
    }

    /// Records that the child has failed, and returns the delay before its restart. `random` is in `0.0..=1.0`.
    pub fn on_down(&mut self, now: Moment, random: f64) -> Duration {
        if now.since(self.began) >= STABLE_UPTIME {
            self.backoff.on_success();
        }
        self.pending = true;
        self.backoff.on_failure(random)
    }

    /// Returns whether the child has failed and not been restarted yet.
    pub fn is_pending(&self) -> bool {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_delay_doubles_and_is_reset_after_long_uptime() {
        let at = |seconds| Moment::new(Duration::from_secs(seconds));
        let mut restart = Restart::default();
        restart.on_start(at(100));
        assert_eq!(restart.on_down(at(101), 1.0).as_secs(), 1);
        assert!(restart.is_pending());
        restart.on_start(at(102));
        assert!(!restart.is_pending());
        assert_eq!(restart.on_down(at(103), 1.0).as_secs(), 2);
        restart.on_start(at(105));
        assert_eq!(restart.on_down(at(165), 1.0).as_secs(), 1);
    }
}
