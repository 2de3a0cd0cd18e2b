//! When a receiver is tried again after a failure, and whether the receiver or one message is the trouble.
//!
//! A message that failed waits for a time of its own while others are tried. Only if different messages fail in a
//! row does the receiver count as away: then one message at a time is tried, ever more seldom.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::alarm::AlarmKey;
use super::super::time::Moment;

/// Different messages that have to fail in a row before the receiver counts as away.
const AWAY: usize = 2;
/// Wait before the next try of a receiver that is away; it doubles with each failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A message that was not tried yet waits no longer than this for a receiver that is away: the receiver may be well,
/// and only the messages that failed so far may be the trouble.
const FRESH_WAIT: Duration = Duration::from_secs(10);
/// Longest wait of one message before it is tried again: while nothing else is known, and where the receiver refused
/// it or took others meanwhile.
const LONGEST_MESSAGE_WAIT: Duration = Duration::from_secs(60);
const LONGEST_BLAMED_WAIT: Duration = Duration::from_secs(600);

/// Message that failed: the key of its alarm, or `None` for the coldStart.
pub(super) type Failed = Option<AlarmKey>;

/// Reachability of a receiver, judged by the latest attempts.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// The messages that failed since the receiver last took one.
    failed: BTreeSet<Failed>,
    /// Failures since then.
    failures: u32,
    not_before: Moment,
    fresh_not_before: Moment,
}

impl Reachability {
    /// Returns whether the receiver counts as away.
    pub fn is_away(&self) -> bool {
        self.failed.len() >= AWAY
    }

    /// A message did not arrive. `jitter` is about 1.
    pub fn on_failure(&mut self, failed: Failed, jitter: f64, now: Moment) {
        self.failed.insert(failed);
        self.failures = self.failures.saturating_add(1);
        if self.is_away() {
            let wait = doubled(FIRST_WAIT, self.failures.saturating_sub(AWAY as u32), LONGEST_WAIT).mul_f64(jitter);
            self.not_before = now + wait;
            self.fresh_not_before = now + wait.min(FRESH_WAIT);
        }
    }

    /// The receiver took a message: gives those that failed before.
    pub fn on_reached(&mut self) -> BTreeSet<Failed> {
        std::mem::take(self).failed
    }

    /// The receiver asked to be left alone until then.
    pub fn postpone(&mut self, until: Moment) {
        self.not_before = self.not_before.max(until);
        self.fresh_not_before = self.fresh_not_before.max(until);
    }

    /// The earliest time for the next try, of a message that failed already or of a fresh one.
    pub fn next_try(&self, is_fresh: bool) -> Moment {
        if is_fresh { self.fresh_not_before } else { self.not_before }
    }
}

/// How long a message waits after it failed `failures` times in a row. It is blamed if the receiver refused it, or
/// took others while it failed.
pub(super) fn message_wait(failures: u32, is_blamed: bool) -> Duration {
    let longest = if is_blamed { LONGEST_BLAMED_WAIT } else { LONGEST_MESSAGE_WAIT };
    doubled(FIRST_WAIT, failures, longest)
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}
