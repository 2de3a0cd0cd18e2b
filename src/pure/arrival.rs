//! What a datagram is, and what it says of its test.

use std::time::Duration;

use super::clock_error::{ClockQuality, Delay};
use super::expectation::Incoming;
use super::foreign::Reason;
use super::probe::{NotProbe, Probe, flag};
use super::probe_v1::ProbeV1;
use super::test::TestId;
use super::time::{Now, WallTime};

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

    /// Converts the arrival for its test's expectation. `ends` gives the hosts of the test, sender first; `None` if the
    /// test is one of a set of which any probe is enough.
    pub fn incoming<'a>(
        &self,
        ends: impl FnOnce() -> Option<[&'a str; 2]>,
        landed: Landed,
    ) -> Result<Incoming, Reason> {
        let (wall, local) = (landed.received.wall, landed.clocks);
        let incoming = |sent: WallTime, theirs: Duration| Incoming {
            test_id: self.test_id(),
            received: landed.received,
            delay: Delay {
                nanos: wall.nanos_since(sent),
                uncertainty: match local {
                    Clocks::Same => Duration::ZERO,
                    Clocks::Two(ours) => ours.saturating_add(theirs),
                },
            },
            directions: None,
            order: None,
            unsent: 0,
            send_every: Duration::from_secs(1),
            sent,
            source_port: landed.source_port,
            is_trusted: landed.is_trusted,
            clock_was_set: landed.clock_was_set,
            stops: false,
            stepped: false,
            ttl: landed.ttl,
            dscp: landed.dscp,
            dropped: landed.dropped,
        };
        match self {
            AnyProbe::Stamp(probe) => Ok(Incoming {
                order: Some((probe.epoch, probe.sequence)),
                unsent: probe.unsent,
                send_every: probe.send_every,
                // An unsigned stranger must not pause a test.
                stops: probe.flags & flag::STOPS != 0 && landed.is_trusted,
                stepped: probe.flags & flag::CLOCK_STEPPED != 0,
                ..incoming(probe.sent, sender_error(probe))
            }),
            // The original names its sender; towards the original, ours name the receiver.
            AnyProbe::V1(probe) if ends().is_some_and(|ends| !ends.contains(&probe.host_id.as_str())) => {
                Err(Reason::WrongHost)
            }
            AnyProbe::V1(probe) => {
                // The original says nothing of its clock; it is taken to be as good as ours.
                let theirs = match local {
                    Clocks::Same => Duration::ZERO,
                    Clocks::Two(ours) => ours,
                };
                Ok(incoming(probe.sent, theirs))
            }
        }
    }
}

/// How a datagram came in.
#[derive(Clone, Copy, Debug)]
pub struct Landed {
    /// When the kernel took it in.
    pub received: Now,
    /// How its sender's clock relates to ours.
    pub clocks: Clocks,
    /// The time-to-live that it came with.
    pub ttl: Option<u8>,
    /// The differentiated services code point that it came with.
    pub dscp: Option<u8>,
    /// Datagrams that the kernel had dropped at this socket by then.
    pub dropped: u64,
    /// The port that it came from.
    pub source_port: u16,
    /// The probe is signed, or comes from the address that the test's probes come from.
    pub is_trusted: bool,
    /// The clock of this host was set while it was under way.
    pub clock_was_set: bool,
}

fn sender_error(probe: &Probe) -> Duration {
    if probe.clock_error != SATURATED {
        return Duration::from_nanos(probe.clock_error.into());
    }
    probe.error_estimate.decode().unwrap_or(ClockQuality::UNKNOWN).error
}
