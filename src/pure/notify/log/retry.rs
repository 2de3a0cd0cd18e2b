//! Retries after a failure, and whether the receiver or one message is the trouble.
//!
//! A message that failed waits for a time of its own while others are tried. Only if different messages fail in a row
//! does `Reachability` count the receiver as away: then one message at a time is tried, at growing intervals.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::pure::alarm::key::AlarmKey;
use crate::pure::base::time::Moment;

/// Number of different messages that have to fail in a row before the receiver counts as away.
const AWAY: usize = 2;
/// Wait before the next try of a receiver that is away; it doubles with each failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longest wait of an untried message for a receiver that is away: the receiver may be well, and only the messages
/// that failed so far may be the trouble.
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
    /// Messages that failed since the receiver last took or refused one.
    failed: BTreeSet<Failed>,
    /// Number of failures since then.
    failures: u32,
    not_before: Moment,
    fresh_not_before: Moment,
}

impl Reachability {
    /// Returns whether the receiver counts as away.
    pub fn is_away(&self) -> bool {
        self.failed.len() >= AWAY
    }

    /// Records that a message did not arrive. `jitter` is a factor about 1 for the wait that follows.
    pub fn on_failure(&mut self, failed: Failed, jitter: f64, now: Moment) {
        self.failed.insert(failed);
        self.failures = self.failures.saturating_add(1);
        if self.is_away() {
            let wait = doubled(FIRST_WAIT, self.failures.saturating_sub(AWAY as u32), LONGEST_WAIT).mul_f64(jitter);
            self.not_before = now + wait;
            self.fresh_not_before = now + wait.min(FRESH_WAIT);
        }
    }

    /// Records that the receiver answered, and returns the messages that failed since its previous answer.
    pub fn on_reached(&mut self) -> BTreeSet<Failed> {
        std::mem::take(self).failed
    }

    /// Defers all attempts until the time that the receiver asked for.
    pub fn postpone(&mut self, until: Moment) {
        self.not_before = self.not_before.max(until);
        self.fresh_not_before = self.fresh_not_before.max(until);
    }

    /// Returns the earliest time of the next try, of a fresh message or of one that failed already.
    pub fn next_try(&self, is_fresh: bool) -> Moment {
        if is_fresh { self.fresh_not_before } else { self.not_before }
    }
}

/// Returns the wait of a message after `failures` failures in a row. A message is blamed if the receiver refused it,
/// or took others while it failed.
pub(super) fn message_wait(failures: u32, is_blamed: bool) -> Duration {
    let longest = if is_blamed { LONGEST_BLAMED_WAIT } else { LONGEST_MESSAGE_WAIT };
    doubled(FIRST_WAIT, failures, longest)
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}
