//! Deterministic jitter, which spreads over time the messages that many agents would otherwise send at the same
//! instant.

use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use rustc_hash::FxBuildHasher;

use crate::pure::alarm::key::AlarmKey;

/// Fraction of an interval by which repeats are moved at most, in either direction.
const SPREAD: f64 = 0.3;

/// Returns a factor from 0.7 to 1.3 that differs between agents, alarms and repeats, and is the same on every call
/// with the same input.
pub(super) fn factor(of: impl Hash) -> f64 {
    // The low bits of this hash are the weak ones.
    let share = (FxBuildHasher.hash_one(of) >> 32) as f64 / f64::from(u32::MAX);
    1.0 - SPREAD + 2.0 * SPREAD * share
}

/// Returns the interval, lengthened or shortened by up to 30 %, depending on the hash of `of`.
pub(super) fn spread(interval: Duration, of: impl Hash) -> Duration {
    interval.mul_f64(factor(of))
}

/// Returns a seed that differs between agents and between alarms.
pub(super) fn seed(agent: &str, key: &AlarmKey) -> u64 {
    FxBuildHasher.hash_one((agent, key))
}
