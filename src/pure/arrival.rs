//! What a datagram is, and what it says of its test.

use std::time::Duration;

use super::clock_error::ClockQuality;
use super::expectation::Incoming;
use super::foreign::Reason;
use super::probe::{NotProbe, Probe, flag};
use super::probe_v1::ProbeV1;
use super::test::TestId;
use super::time::Now;

/// A probe of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyProbe {
    /// STAMP with our extension.
    Stamp(Probe),
    /// The original's.
    V1(ProbeV1),
}

/// How the receiver's clock relates to the sender's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clocks {
    /// The sender runs on this host: one clock gives both stamps.
    Same,
    /// Two clocks; the local one may be off by this.
    Two(Duration),
}

/// `clock_error` holds nanoseconds up to here; beyond it the STAMP error estimate says more.
const SATURATED: u32 = u32::MAX;

/// Tells what a datagram is: ours by its TLV, else the original's JSON, else a stranger's.
pub fn read(octets: &[u8]) -> Result<AnyProbe, Reason> {
    match Probe::decode(octets) {
        Ok(probe) => Ok(AnyProbe::Stamp(probe)),
        Err(NotProbe::Corrupt) => Err(Reason::Corrupt),
        Err(NotProbe::UnknownVersion(_)) => Err(Reason::UnknownVersion),
        Err(NotProbe::PlainStamp) => Err(Reason::PlainStamp),
        Err(NotProbe::Foreign) => ProbeV1::decode(octets).map(AnyProbe::V1).ok_or(Reason::NotAProbe),
    }
}

impl AnyProbe {
    /// Which test it belongs to.
    pub fn test_id(&self) -> TestId {
        match self {
            AnyProbe::Stamp(probe) => probe.test_id,
            AnyProbe::V1(probe) => probe.test_id,
        }
    }

    /// What it says to its test's expectation. `sender` is the host that has to have sent it; nothing:
    /// one of many.
    pub fn incoming(&self, sender: Option<&str>, received: Now, clocks: Clocks) -> Result<Incoming, Reason> {
        match self {
            AnyProbe::Stamp(probe) => Ok(Incoming {
                test_id: probe.test_id,
                received,
                sent: probe.sent,
                uncertainty: match clocks {
                    Clocks::Same => Duration::ZERO,
                    Clocks::Two(local) => local.saturating_add(sender_error(probe)),
                },
                order: Some((probe.epoch, probe.sequence)),
                stops: probe.flags & flag::STOPS != 0,
                dropped: 0,
            }),
            AnyProbe::V1(probe) if sender.is_some_and(|sender| probe.host_id != sender) => Err(Reason::WrongHost),
            AnyProbe::V1(probe) => Ok(Incoming {
                test_id: probe.test_id,
                received,
                sent: probe.sent,
                // The original says nothing of its clock; it is taken to be as good as ours.
                uncertainty: match clocks {
                    Clocks::Same => Duration::ZERO,
                    Clocks::Two(local) => local.saturating_mul(2),
                },
                order: None,
                stops: false,
                dropped: 0,
            }),
        }
    }
}

fn sender_error(probe: &Probe) -> Duration {
    if probe.clock_error != SATURATED {
        return Duration::from_nanos(probe.clock_error.into());
    }
    probe.error_estimate.decode().unwrap_or(ClockQuality::UNKNOWN).error
}
