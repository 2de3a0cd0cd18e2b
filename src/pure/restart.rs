//! When a child that failed is rebuilt.

use std::time::Duration;

use super::backoff::Backoff;
use super::time::Moment;

/// A child that fails again and again is rebuilt after 1 s and then ever later, up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A child that lived so long has earned a quick restart.
const LIVED: Duration = Duration::from_secs(60);

/// The lives of one child.
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
    /// It begins to live.
    pub fn on_start(&mut self, now: Moment) {
        self.began = now;
        self.pending = false;
    }

    /// It failed: how long to wait before it is rebuilt. `random` is in `0.0..1.0`.
    pub fn on_down(&mut self, now: Moment, random: f64) -> Duration {
        if now.since(self.began) >= LIVED {
            self.backoff.on_success();
        }
        self.pending = true;
        self.backoff.on_failure(random)
    }

    /// Whether it failed and has not been rebuilt yet.
    pub fn is_pending(&self) -> bool {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_and_later_until_it_lives() {
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
