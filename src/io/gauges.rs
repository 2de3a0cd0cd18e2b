//! Readings that one actor writes and many read on every packet, where a message each would be too dear.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::replays::Replays;
use crate::pure::clock_error::{ClockEvent, ClockQuality, ErrorEstimate, StepDetector};
use crate::pure::key::KeyRing;
use crate::pure::sending::Readings;
use crate::pure::time::{Now, WallTime};

/// Shared by all actors of an agent; each reading has one writer.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Values>);

#[derive(Debug, Default)]
struct Values {
    clock_error_nanos: AtomicU64,
    error_estimate: AtomicU16,
    config_version: AtomicI64,
    steps: AtomicU32,
    sleeps: AtomicU32,
    /// Detector of clock steps; `None` until the wall clock was first read.
    detector: Mutex<Option<StepDetector>>,
    /// All steps together since the clock actor took them, in nanoseconds.
    stepped: AtomicI64,
    addresses_changed: AtomicU32,
    last_epoch: AtomicU64,
    reflects_foreign: AtomicBool,
    local_addresses: RwLock<HashSet<IpAddr>>,
    keys: RwLock<Arc<KeyRing>>,
    replays: Replays,
}

impl Gauges {
    /// Gauges that know nothing yet.
    pub fn new() -> Self {
        let gauges = Gauges::default();
        gauges.set_clock(ClockQuality::UNKNOWN);
        gauges
    }

    /// Written by the clock actor.
    pub fn set_clock(&self, quality: ClockQuality) {
        let nanos = u64::try_from(quality.error.as_nanos()).unwrap_or(u64::MAX);
        self.0.clock_error_nanos.store(nanos, Ordering::Relaxed);
        self.0.error_estimate.store(ErrorEstimate::encode(quality).0, Ordering::Relaxed);
    }

    /// Holds the wall clock against the monotonic one. Called with every batch of datagrams: after a step the error of
    /// the clock is unknown at once, and not only when the kernel is asked again.
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

    /// By how much the wall clock was set since this was asked before, in nanoseconds.
    pub fn take_step(&self) -> Option<i64> {
        Some(self.0.stepped.swap(0, Ordering::Relaxed)).filter(|step| *step != 0)
    }

    /// How often this machine slept.
    pub fn sleeps(&self) -> u32 {
        self.0.sleeps.load(Ordering::Relaxed)
    }

    /// How often the wall's clock stepped.
    pub fn steps(&self) -> u32 {
        self.0.steps.load(Ordering::Relaxed)
    }

    /// What probes say of this host.
    pub fn readings(&self) -> Readings {
        let error_estimate = self.error_estimate();
        let synchronised = error_estimate.decode().is_some_and(|quality| quality.synchronised);
        Readings {
            clock: ClockQuality { synchronised, error: self.clock_error() },
            error_estimate,
            config_version: self.config_version(),
            steps: self.steps(),
        }
    }

    /// Written by the watcher.
    pub fn set_keys(&self, keys: Arc<KeyRing>) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// What probes are signed with.
    pub fn keys(&self) -> Arc<KeyRing> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No epoch is earlier than this or equal to it: an earlier run of this agent had it.
    pub fn set_last_epoch(&self, epoch: u64) {
        self.0.last_epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// The epoch that a sender had last, here or in an earlier run.
    pub fn last_epoch(&self) -> u64 {
        self.0.last_epoch.load(Ordering::Relaxed)
    }

    /// The epoch of a sender that begins now: growing, even if the wall's clock is set back.
    pub fn next_epoch(&self, now: WallTime) -> u64 {
        let next = |last: u64| Some(now.unix_micros().max(last + 1));
        let last = self.0.last_epoch.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        next(last.unwrap_or_default()).unwrap_or_default()
    }

    /// Written by the watcher: whether strangers' STAMP packets are answered.
    pub fn set_reflects_foreign(&self, reflects: bool) {
        self.0.reflects_foreign.store(reflects, Ordering::Relaxed);
    }

    /// Whether strangers' STAMP packets are answered.
    pub fn reflects_foreign(&self) -> bool {
        self.0.reflects_foreign.load(Ordering::Relaxed)
    }

    /// What signed probes were taken; written by listeners.
    pub fn replays(&self) -> &Replays {
        &self.0.replays
    }

    /// How far the local clock may be off.
    pub fn clock_error(&self) -> Duration {
        Duration::from_nanos(self.0.clock_error_nanos.load(Ordering::Relaxed))
    }

    /// The same, as probes carry it.
    pub fn error_estimate(&self) -> ErrorEstimate {
        ErrorEstimate(self.0.error_estimate.load(Ordering::Relaxed))
    }

    /// Sets the version of the document `config`, which probes in the original's format carry.
    pub fn set_config_version(&self, version: i64) {
        self.0.config_version.store(version, Ordering::Relaxed);
    }

    /// The global document's version.
    pub fn config_version(&self) -> i64 {
        self.0.config_version.load(Ordering::Relaxed)
    }

    /// Written by the watcher.
    pub fn set_local_addresses(&self, addresses: HashSet<IpAddr>) {
        // A poisoned lock still holds a whole set: writers only replace it.
        let mut known = self.0.local_addresses.write().unwrap_or_else(PoisonError::into_inner);
        if *known != addresses {
            *known = addresses;
            self.0.addresses_changed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often they changed.
    pub fn addresses_changed(&self) -> u32 {
        self.0.addresses_changed.load(Ordering::Relaxed)
    }

    /// Whether the address is on this host.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        let addresses = self.0.local_addresses.read().unwrap_or_else(PoisonError::into_inner);
        addr.is_loopback() || addresses.contains(&addr)
    }
}
