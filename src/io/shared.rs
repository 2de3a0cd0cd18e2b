//! Shared state that one actor writes and many read for every packet, where a message per read would cost too much.
//!
//! The main type is [`SharedState`], a cheap handle; nearly all values are atomics.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::io::state::anti_replay::Replays;
use crate::pure::base::time::{Now, WallTime};
use crate::pure::clock::error_estimate::{ClockEvent, ClockQuality, ErrorEstimate, StepDetector};
use crate::pure::stamp::key::KeyRing;
use crate::pure::stamp::session_sender::Readings;

/// Handle to the shared state, cloned into all actors of an agent. Each value has one writing actor, except for clock
/// readings, epochs and the anti-replay state.
#[derive(Clone, Debug, Default)]
pub struct SharedState(Arc<Values>);

#[derive(Debug, Default)]
struct Values {
    clock_error_nanos: AtomicU64,
    error_estimate: AtomicU16,
    config_version: AtomicI64,
    steps: AtomicU32,
    sleeps: AtomicU32,
    /// Detector of clock steps; `None` until the wall clock was first read.
    detector: Mutex<Option<StepDetector>>,
    /// Sum of all clock steps since the clock actor last took them, in nanoseconds.
    stepped: AtomicI64,
    addresses_changed: AtomicU32,
    last_epoch: AtomicU64,
    reflects_foreign: AtomicBool,
    local_addresses: RwLock<HashSet<IpAddr>>,
    keys: RwLock<Arc<KeyRing>>,
    replays: Replays,
}

impl SharedState {
    /// Creates shared state with an unsynchronized clock, no keys and no addresses.
    pub fn new() -> Self {
        let shared = SharedState::default();
        shared.set_clock(ClockQuality::UNKNOWN);
        shared
    }

    /// Sets the quality of the local clock. Called by the clock actor, and by [`SharedState::observe`] after a step.
    pub fn set_clock(&self, quality: ClockQuality) {
        let nanos = u64::try_from(quality.error.as_nanos()).unwrap_or(u64::MAX);
        self.0.clock_error_nanos.store(nanos, Ordering::Relaxed);
        self.0.error_estimate.store(ErrorEstimate::encode(quality).0, Ordering::Relaxed);
    }

    /// Compares the wall clock with the monotonic clock and records steps and suspensions. Called with every batch of
    /// datagrams, so that the clock's error is unknown immediately after a step, and not only after the next reading
    /// of the kernel.
    pub fn observe(&self, now: Now, slept: Duration) {
        let mut detector = self.0.detector.lock().unwrap_or_else(PoisonError::into_inner);
        let detector = detector.get_or_insert_with(|| StepDetector::new(now, slept));
        match detector.on_reading(now, slept) {
            ClockEvent::Steady => return,
            ClockEvent::Stepped(nanos) => {
                self.0.stepped.fetch_add(nanos, Ordering::Relaxed);
                self.0.steps.fetch_add(1, Ordering::Relaxed);
            }
            ClockEvent::Slept(_) => {
                self.0.sleeps.fetch_add(1, Ordering::Relaxed);
                self.0.steps.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.set_clock(ClockQuality::UNKNOWN);
    }

    /// Returns the sum of the wall clock's steps since the previous call, in nanoseconds, and resets it; `None` if
    /// zero.
    pub fn take_step(&self) -> Option<i64> {
        Some(self.0.stepped.swap(0, Ordering::Relaxed)).filter(|step| *step != 0)
    }

    /// Returns the number of suspensions of this machine since the agent started.
    pub fn sleeps(&self) -> u32 {
        self.0.sleeps.load(Ordering::Relaxed)
    }

    /// Returns the number of discontinuities of the wall clock since the agent started: steps and suspensions.
    pub fn steps(&self) -> u32 {
        self.0.steps.load(Ordering::Relaxed)
    }

    /// Returns the values that probes carry about this host: clock quality, error estimate, config version and steps.
    pub fn readings(&self) -> Readings {
        let error_estimate = self.error_estimate();
        let synchronized = error_estimate.decode().is_some_and(|quality| quality.synchronized);
        Readings {
            clock: ClockQuality { synchronized, error: self.clock_error() },
            error_estimate,
            config_version: self.config_version(),
            steps: self.steps(),
        }
    }

    /// Replaces the key ring with which probes are signed and verified; called by the watcher.
    pub fn set_keys(&self, keys: Arc<KeyRing>) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Returns the key ring with which probes are signed and verified.
    pub fn keys(&self) -> Arc<KeyRing> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Raises the last epoch to at least `epoch`, which an earlier run of this agent used; later epochs are greater.
    pub fn set_last_epoch(&self, epoch: u64) {
        self.0.last_epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Returns the latest epoch of any sender, from this run or an earlier one.
    pub fn last_epoch(&self) -> u64 {
        self.0.last_epoch.load(Ordering::Relaxed)
    }

    /// Returns the epoch for a sender that starts now. Epochs increase strictly, even if the wall clock is set back.
    pub fn next_epoch(&self, now: WallTime) -> u64 {
        let next = |last: u64| Some(now.unix_micros().max(last + 1));
        let last = self.0.last_epoch.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        next(last.unwrap_or_default()).unwrap_or_default()
    }

    /// Sets whether STAMP packets of unknown senders are reflected; called by the watcher.
    pub fn set_reflects_foreign(&self, reflects: bool) {
        self.0.reflects_foreign.store(reflects, Ordering::Relaxed);
    }

    /// Returns whether STAMP packets of unknown senders are reflected.
    pub fn reflects_foreign(&self) -> bool {
        self.0.reflects_foreign.load(Ordering::Relaxed)
    }

    /// Returns the anti-replay state of signed probes, which listeners update.
    pub fn replays(&self) -> &Replays {
        &self.0.replays
    }

    /// Returns the bound on the local clock's error.
    pub fn clock_error(&self) -> Duration {
        Duration::from_nanos(self.0.clock_error_nanos.load(Ordering::Relaxed))
    }

    /// Returns the clock's error in the encoding that probes carry, the STAMP error estimate (RFC 8762).
    pub fn error_estimate(&self) -> ErrorEstimate {
        ErrorEstimate(self.0.error_estimate.load(Ordering::Relaxed))
    }

    /// Sets the version of the document `config`, which probes in the original's format carry.
    pub fn set_config_version(&self, version: i64) {
        self.0.config_version.store(version, Ordering::Relaxed);
    }

    /// Returns the version of the global document.
    pub fn config_version(&self) -> i64 {
        self.0.config_version.load(Ordering::Relaxed)
    }

    /// Replaces the set of this host's addresses, and counts the change if they differ; called by the watcher.
    pub fn set_local_addresses(&self, addresses: HashSet<IpAddr>) {
        // A poisoned lock still holds a complete set: writers only replace it.
        let mut known = self.0.local_addresses.write().unwrap_or_else(PoisonError::into_inner);
        if *known != addresses {
            *known = addresses;
            self.0.addresses_changed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many times the set of local addresses changed since the agent started.
    pub fn addresses_changed(&self) -> u32 {
        self.0.addresses_changed.load(Ordering::Relaxed)
    }

    /// Returns whether the address is a loopback address or belongs to this host.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        let addresses = self.0.local_addresses.read().unwrap_or_else(PoisonError::into_inner);
        addr.is_loopback() || addresses.contains(&addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::base::time::Moment;

    /// Returns a reading of both clocks, in seconds.
    fn at(monotonic: u64, wall: u64) -> Now {
        let wall = WallTime::from_unix_nanos(wall * 1_000_000_000);
        Now { moment: Moment::new(Duration::from_secs(monotonic)), wall }
    }

    /// Returns shared state with a good clock whose steps are watched.
    fn synchronized() -> SharedState {
        let shared = SharedState::new();
        shared.observe(at(1, 1_001), Duration::ZERO);
        shared.set_clock(ClockQuality { synchronized: true, error: Duration::from_millis(1) });
        shared.observe(at(2, 1_002), Duration::ZERO);
        assert_eq!((shared.clock_error(), shared.steps()), (Duration::from_millis(1), 0));
        shared
    }

    #[test]
    fn clock_error_is_unknown_at_once_after_a_step() {
        let shared = synchronized();
        shared.observe(at(3, 1_013), Duration::ZERO);
        assert_eq!(shared.clock_error(), ClockQuality::UNKNOWN.error);
        assert!(!shared.readings().clock.synchronized);
        assert_eq!((shared.steps(), shared.sleeps(), shared.take_step()), (1, 0, Some(10_000_000_000)));
    }

    #[test]
    fn clock_error_is_unknown_at_once_after_a_suspension() {
        let shared = synchronized();
        shared.observe(at(3, 1_603), Duration::from_secs(600));
        assert_eq!(shared.clock_error(), ClockQuality::UNKNOWN.error);
        assert_eq!((shared.steps(), shared.sleeps(), shared.take_step()), (1, 1, None));
    }
}
