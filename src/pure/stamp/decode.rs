//! Decodes received datagrams into probes and combines a probe with its receive metadata into a probe sample.
//!
//! [`decode`] recognises the protocol of a datagram, and [`DecodedProbe::incoming`] makes the `ProbeSample` that a
//! receive session evaluates. The module is stateless.

use std::time::Duration;

use super::json_v1::JsonProbe;
use super::packet::{NotProbe, Probe, flag};
use super::unknown_packets::RejectReason;
use crate::pure::base::time::{Now, WallTime};
use crate::pure::clock::error_estimate::{ClockQuality, Delay};
use crate::pure::judge::session::ProbeSample;
use crate::pure::test::id::TestId;

/// Decoded probe of either supported protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum DecodedProbe {
    /// STAMP packet (RFC 8762) that carries the private-use TLV of this project.
    Stamp(Probe),
    /// JSON packet of the original agent of 2017, protocol version 1.
    V1(JsonProbe),
}

/// Relation between the clock of the receiver and the clock of the sender of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clocks {
    /// Sender and receiver run on this host, so one clock gives both timestamps and the delay has no uncertainty.
    Same,
    /// Sender and receiver have separate clocks; the value is the error bound of the local one.
    Two(Duration),
}

/// Largest value of `clock_error` in nanoseconds; a field with this value is saturated, and the STAMP error estimate
/// is used instead.
const SATURATED: u32 = u32::MAX;

/// Decodes a datagram: as STAMP if it carries the private-use TLV, otherwise as JSON of the original agent. Returns
/// the reason to count it as an unknown packet when neither fits.
pub fn decode(octets: &[u8]) -> Result<DecodedProbe, RejectReason> {
    match Probe::decode(octets) {
        Ok(probe) => Ok(DecodedProbe::Stamp(probe)),
        Err(NotProbe::Corrupt) => Err(RejectReason::Corrupt),
        Err(NotProbe::UnknownVersion(_)) => Err(RejectReason::UnknownVersion),
        Err(NotProbe::PlainStamp) => Err(RejectReason::PlainStamp),
        Err(NotProbe::Foreign) => JsonProbe::decode(octets).map(DecodedProbe::V1).ok_or(RejectReason::NotAProbe),
    }
}

impl DecodedProbe {
    /// Returns the id of the test that the probe belongs to.
    pub fn test_id(&self) -> TestId {
        match self {
            DecodedProbe::Stamp(probe) => probe.test_id,
            DecodedProbe::V1(probe) => probe.test_id,
        }
    }

    /// Converts the probe into the sample that its receive session evaluates. `ends` returns the two hosts of the
    /// test, sender first, or `None` for a test of a set that accepts the probes of any of its tests.
    pub fn incoming<'a>(
        &self,
        ends: impl FnOnce() -> Option<[&'a str; 2]>,
        landed: RecvMeta,
    ) -> Result<ProbeSample, RejectReason> {
        let (wall, local) = (landed.received.wall, landed.clocks);
        let incoming = |sent: WallTime, theirs: Duration| ProbeSample {
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
            epoch_and_sequence: None,
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
            DecodedProbe::Stamp(probe) => Ok(ProbeSample {
                epoch_and_sequence: Some((probe.epoch, probe.sequence)),
                unsent: probe.unsent,
                send_every: probe.send_every,
                // Pausing a test requires a trusted probe: a forged, unsigned one must not suppress its alarms.
                stops: probe.flags & flag::STOPS != 0 && landed.is_trusted,
                stepped: probe.flags & flag::CLOCK_STEPPED != 0,
                ..incoming(probe.sent, sender_error(probe))
            }),
            // A probe of the original agent carries its sender's host; one sent by this agent to an original agent
            // carries the receiver's host.
            DecodedProbe::V1(probe) if ends().is_some_and(|ends| !ends.contains(&probe.host_id.as_str())) => {
                Err(RejectReason::WrongHost)
            }
            DecodedProbe::V1(probe) => {
                // The original protocol has no clock error field: the remote clock is assumed to be as good as the
                // local one.
                let theirs = match local {
                    Clocks::Same => Duration::ZERO,
                    Clocks::Two(ours) => ours,
                };
                Ok(incoming(probe.sent, theirs))
            }
        }
    }
}

/// Receive metadata of one datagram, as reported by the kernel and the listener.
#[derive(Clone, Copy, Debug)]
pub struct RecvMeta {
    /// Time at which the kernel received the datagram, on both clocks.
    pub received: Now,
    /// Relation between the sender's clock and the clock of this host.
    pub clocks: Clocks,
    /// IP time-to-live (or hop limit) of the received packet, if the kernel reported it.
    pub ttl: Option<u8>,
    /// Differentiated services code point of the received packet, if the kernel reported it.
    pub dscp: Option<u8>,
    /// Total number of datagrams that the kernel had dropped at this socket by the time of reception.
    pub dropped: u64,
    /// UDP source port of the datagram.
    pub source_port: u16,
    /// True if the probe is signed or comes from the address from which probes of its test are expected.
    pub is_trusted: bool,
    /// True if the wall clock of this host was set while the datagram was in transit or queued in the socket.
    pub clock_was_set: bool,
}

fn sender_error(probe: &Probe) -> Duration {
    if probe.clock_error != SATURATED {
        return Duration::from_nanos(probe.clock_error.into());
    }
    probe.error_estimate.decode().unwrap_or(ClockQuality::UNKNOWN).error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::clock::error_estimate::ErrorEstimate;

    /// Receive metadata of a datagram from a sender with a clock of its own.
    fn landed(is_trusted: bool) -> RecvMeta {
        RecvMeta {
            received: Now::default(),
            clocks: Clocks::Two(Duration::ZERO),
            ttl: None,
            dscp: None,
            dropped: 0,
            source_port: 40_000,
            is_trusted,
            clock_was_set: false,
        }
    }

    #[test]
    fn stop_is_announced_by_a_trusted_probe_alone() {
        let probe = DecodedProbe::Stamp(Probe {
            sequence: 0,
            sent: WallTime::ZERO,
            error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
            ssid: 1,
            flags: flag::STOPS,
            flow: 0,
            key_id: 0,
            test_id: TestId::from_bytes([7; 16]),
            epoch: 1,
            send_every: Duration::from_secs(1),
            unsent: 0,
            clock_error: 0,
            previous_lateness: 0,
        });
        for is_trusted in [true, false] {
            assert_eq!(probe.incoming(|| None, landed(is_trusted)).unwrap().stops, is_trusted);
        }
    }

    /// A probe of the original agent names its sender, and a probe of this agent for an original one its receiver.
    #[test]
    fn original_probe_is_accepted_with_the_name_of_either_end() {
        let accepted = |host_id: &str| {
            let (sent, test_id) = (WallTime::ZERO, TestId::from_bytes([7; 16]));
            let probe = JsonProbe { config_version: 0, sent, host_id: host_id.into(), test_id };
            DecodedProbe::V1(probe).incoming(|| Some(["a", "b"]), landed(true)).map(|_| ())
        };
        assert_eq!(["a", "b", "c"].map(accepted), [Ok(()), Ok(()), Err(RejectReason::WrongHost)]);
    }
}
