//! Readings that one actor writes and many read on every packet, where a message each would be too dear.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::pure::clock_error::{ClockQuality, ErrorEstimate};

/// Shared by all actors of an agent; each reading has one writer.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Readings>);

#[derive(Debug, Default)]
struct Readings {
    clock_error_nanos: AtomicU64,
    error_estimate: AtomicU16,
    config_revision: AtomicU32,
    config_version: AtomicI64,
    local_addresses: RwLock<HashSet<IpAddr>>,
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

    /// How far the local clock may be off.
    pub fn clock_error(&self) -> Duration {
        Duration::from_nanos(self.0.clock_error_nanos.load(Ordering::Relaxed))
    }

    /// The same, as probes carry it.
    pub fn error_estimate(&self) -> ErrorEstimate {
        ErrorEstimate(self.0.error_estimate.load(Ordering::Relaxed))
    }

    /// Written by the watcher: the store's revision (its low 32 bits) and the global document's version.
    pub fn set_config(&self, revision: u64, version: i64) {
        self.0.config_revision.store(revision as u32, Ordering::Relaxed);
        self.0.config_version.store(version, Ordering::Relaxed);
    }

    /// The store's revision, its low 32 bits.
    pub fn config_revision(&self) -> u32 {
        self.0.config_revision.load(Ordering::Relaxed)
    }

    /// The global document's version.
    pub fn config_version(&self) -> i64 {
        self.0.config_version.load(Ordering::Relaxed)
    }

    /// Written by the watcher.
    pub fn set_local_addresses(&self, addresses: HashSet<IpAddr>) {
        // A poisoned lock still holds a whole set: writers only replace it.
        *self.0.local_addresses.write().unwrap_or_else(std::sync::PoisonError::into_inner) = addresses;
    }

    /// Whether the address is on this host.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        let addresses = self.0.local_addresses.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        addr.is_loopback() || addresses.contains(&addr)
    }
}
