//! Session-Reflector and evaluation of its replies (RFC 8762 section 4.3.1). The reflector is stateless; a reply is
//! as long as the probe it answers (41 octets for a TWAMP packet that is shorter than a STAMP packet), and its TLVs
//! are processed as RFC 8972 section 4 requires.
//!
//! [`reflect`] makes a reply, [`Reply`] decodes one, and [`OffsetWatch`] detects a moving clock from the delays in
//! both directions.

use std::time::Duration;

use super::key::{Key, SIGNATURE_LEN};
use super::packet::{ENTERPRISE, Probe, STAMP_LEN, TLV_HEADER, TLV_HMAC, TLV_PADDING, TLV_TYPE, be16, be32, be64};
use crate::pure::base::time::{Moment, WallTime};
use crate::pure::clock::error_estimate::{ClockQuality, Delay, ErrorEstimate};
use crate::pure::test::id::TestId;

/// Minimum length in octets of a reply: a reflector that supports TWAMP only sends at least this part of the base
/// packet.
pub const SHORTEST: usize = 38;

/// TLV flags of RFC 8972 section 4. U: the reflector does not support the TLV. M: the TLV is malformed. I: the
/// signature of the packet is wrong.
const UNRECOGNISED: u8 = 0x80;
const MALFORMED: u8 = 0x40;
const INTEGRITY: u8 = 0x20;

/// Length of the shortest packet of a TWAMP sender (RFC 5357 section 4.1.2), and of the reply to it without padding.
const TWAMP_LEN: usize = 14;
const TWAMP_ANSWER_LEN: usize = 41;

/// Result of verifying the signature of a request, which determines how the reply is signed.
#[derive(Clone, Copy, Debug)]
pub enum Signature<'a> {
    /// The request carries no signature, or one that is not verified.
    None,
    /// The packet is signed with this key; the reply is signed with it too.
    Good(&'a Key),
    /// The packet's HMAC matches no known key: the I flag is set in each TLV of the reply (RFC 8972 section 4.8).
    Bad,
}

/// Verifies the HMAC TLV of an unknown packet with any of these keys.
pub fn signature_of<'a>(octets: &[u8], keys: impl Iterator<Item = &'a Key>) -> Signature<'a> {
    let has_signature = tlvs(octets).any(|(at, len)| octets[at + 1] == TLV_HMAC && len == SIGNATURE_LEN);
    if !has_signature {
        return Signature::None;
    }
    let mut keys = keys;
    keys.find(|key| Reply::is_signed(octets, key)).map_or(Signature::Bad, Signature::Good)
}

/// Yields the offset of each complete TLV of a packet, and the length of its value.
fn tlvs(octets: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut at = STAMP_LEN;
    std::iter::from_fn(move || {
        let header = octets.get(at..at + TLV_HEADER)?;
        let (begin, len) = (at, usize::from(be16(header, 2)));
        at += TLV_HEADER + len;
        (at <= octets.len()).then_some((begin, len))
    })
}

/// Returns whether a datagram can be a TWAMP Light packet that is shorter than any STAMP packet.
pub fn is_short_sender_packet(octets: &[u8]) -> bool {
    (TWAMP_LEN..STAMP_LEN).contains(&octets.len())
        && octets[0] != b'{'
        && !ErrorEstimate(be16(octets, 12)).is_corrupt()
        && (octets.len() < SHORTEST || octets[16..].iter().all(|octet| *octet == 0))
}

/// Makes the reply to a packet of a TWAMP sender that is shorter than a STAMP packet, or returns `None` for any other
/// packet. Packets that are long enough to be a reply are answered only if they are not replies themselves, which
/// prevents two reflectors from answering each other.
pub fn reflect_short(octets: &[u8], by: Reflector) -> Option<[u8; TWAMP_ANSWER_LEN]> {
    if !is_short_sender_packet(octets) {
        return None;
    }
    let mut answer = [0; TWAMP_ANSWER_LEN];
    answer.copy_from_slice(&head_of_answer(octets, by)[..TWAMP_ANSWER_LEN]);
    Some(answer)
}

/// Metadata that the reflector adds to a reply.
#[derive(Clone, Copy, Debug)]
pub struct Reflector {
    /// Time at which the kernel received the probe.
    pub received: WallTime,
    /// Time just before the reply is sent.
    pub sent: WallTime,
    /// Error estimate of the reflector's clock.
    pub error_estimate: ErrorEstimate,
    /// IP time-to-live of the received probe, if known.
    pub ttl: Option<u8>,
}

/// Converts a Session-Sender packet of at least `STAMP_LEN` octets into the reply to it, in place. The reply repeats
/// the sequence number of the probe, as a stateless reflector does (RFC 8762 section 4).
pub fn reflect(octets: &mut [u8], by: Reflector, signature: Signature<'_>) {
    let head = head_of_answer(octets, by);
    octets[..STAMP_LEN].copy_from_slice(&head);
    reflect_tlvs(octets, signature);
}

/// Returns the base packet of the reply to a packet of at least `TWAMP_LEN` octets.
fn head_of_answer(octets: &[u8], by: Reflector) -> [u8; STAMP_LEN] {
    let mut head = [0; STAMP_LEN];
    let mut put = |offset: usize, field: &[u8]| head[offset..offset + field.len()].copy_from_slice(field);
    put(0, &octets[..4]);
    put(4, &by.sent.to_ntp().to_be_bytes());
    put(12, &by.error_estimate.0.to_be_bytes());
    if octets.len() >= STAMP_LEN {
        put(14, &octets[14..16]);
    }
    put(16, &by.received.to_ntp().to_be_bytes());
    put(24, &octets[..14]);
    put(40, &[by.ttl.unwrap_or(0)]);
    head
}

/// Sets the flags of each TLV, and replaces the signature in the HMAC TLV, which covers the TLVs before it.
fn reflect_tlvs(octets: &mut [u8], signature: Signature<'_>) {
    let bad = if matches!(signature, Signature::Bad) { INTEGRITY } else { 0 };
    let mut at = STAMP_LEN;
    while octets.len() >= at + TLV_HEADER {
        let (kind, len) = (octets[at + 1], usize::from(be16(octets, at + 2)));
        let end = at + TLV_HEADER + len;
        if end > octets.len() {
            octets[at] = MALFORMED | bad;
            return;
        }
        // Other enterprises use the private-use types too.
        let is_ours = kind == TLV_TYPE && len >= 4 && be32(octets, at + TLV_HEADER) == ENTERPRISE;
        let is_known = kind == TLV_PADDING || is_ours || kind == TLV_HMAC && !matches!(signature, Signature::None);
        octets[at] = bad | if is_known { 0 } else { UNRECOGNISED };
        if let Signature::Good(key) = signature
            && kind == TLV_HMAC
            && len == SIGNATURE_LEN
        {
            let signed = key.sign([&octets[..4], &octets[STAMP_LEN..at]]);
            octets[at + TLV_HEADER..end].copy_from_slice(&signed);
        }
        at = end;
    }
}

/// Decoded reply of a reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Sequence number of the probe that the reply answers.
    pub sequence: u32,
    /// Timestamp of that probe, as its sender set it.
    pub sent: WallTime,
    /// Time at which the reflector received the probe, by the reflector's clock.
    pub received: WallTime,
    /// Time at which the reflector sent the reply, by the reflector's clock.
    pub reflected: WallTime,
    /// Quality of the reflector's clock.
    pub quality: ClockQuality,
    /// Time-to-live of the probe on arrival at the reflector; 0 if unknown.
    pub ttl: u8,
    /// Id of the test, if the reflector returned the private-use TLV.
    pub test_id: Option<TestId>,
    /// True if the reflector's timestamps are in PTP format; one-way delays cannot be derived from them.
    pub is_ptp: bool,
}

impl Reply {
    /// Decodes a datagram of any content that arrived at a sender's port, without panicking; returns `None` if it is
    /// too short.
    pub fn decode(octets: &[u8]) -> Option<Reply> {
        if octets.len() < SHORTEST {
            return None;
        }
        // Reflectors of other vendors may leave the error estimate empty.
        let estimate = ErrorEstimate(be16(octets, 12));
        let is_ptp = estimate.is_ptp();
        let stamp = if is_ptp { WallTime::from_ptp } else { WallTime::from_ntp };
        Some(Reply {
            sequence: be32(octets, 24),
            sent: WallTime::from_ntp(be64(octets, 28)),
            received: stamp(be64(octets, 16)),
            reflected: stamp(be64(octets, 4)),
            quality: estimate.decode().unwrap_or(ClockQuality::UNKNOWN),
            ttl: octets.get(40).copied().unwrap_or(0),
            test_id: Probe::quoted_test_id(octets),
            is_ptp,
        })
    }

    /// Returns whether the reply is signed with this key. The signature covers the sequence number and the TLVs
    /// before the HMAC TLV.
    pub fn is_signed(octets: &[u8], key: &Key) -> bool {
        let mut at = STAMP_LEN;
        while octets.len() >= at + TLV_HEADER {
            let (kind, len) = (octets[at + 1], usize::from(be16(octets, at + 2)));
            let end = at + TLV_HEADER + len;
            let Some(value) = octets.get(at + TLV_HEADER..end) else { return false };
            if kind == TLV_HMAC {
                let signature: Result<&[u8; SIGNATURE_LEN], _> = value.try_into();
                return signature
                    .is_ok_and(|signature| key.verifies([&octets[..4], &octets[STAMP_LEN..at]], signature));
            }
            at = end;
        }
        false
    }

    /// Computes the three delays that a reply gives, which arrived at `back` by the local clock of quality `local`.
    pub fn delays(&self, back: WallTime, local: ClockQuality) -> Delays {
        let uncertainty = local.error.saturating_add(self.quality.error);
        let residence = self.reflected.nanos_since(self.received);
        Delays {
            round_trip: Delay {
                nanos: back.nanos_since(self.sent).saturating_sub(residence),
                uncertainty: Duration::ZERO,
            },
            forward: Delay { nanos: self.received.nanos_since(self.sent), uncertainty },
            backward: Delay { nanos: back.nanos_since(self.reflected), uncertainty },
            are_comparable: !self.is_ptp,
        }
    }
}

/// Delays of the path, measured with one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// Round-trip delay without the residence time at the reflector. It has no uncertainty: the local clock gives
    /// both outer timestamps, and the offset of the reflector's clock cancels out in the residence time.
    pub round_trip: Delay,
    /// Forward one-way delay, from sender to reflector.
    pub forward: Delay,
    /// Backward one-way delay, from reflector to sender.
    pub backward: Delay,
    /// True if both clocks use the same timescale, so that the one-way delays are meaningful.
    pub are_comparable: bool,
}

/// Detects a clock that moves by more than its claimed error. When a clock moves, the one-way delay increases in one
/// direction and decreases in the other, while the round-trip delay stays constant.
#[derive(Clone, Copy, Debug, Default)]
pub struct OffsetWatch {
    /// Proven lower and upper bound of the remote clock's offset, and the claimed error of both clocks at that time;
    /// all in nanoseconds.
    proved: Option<(i64, i64, i64)>,
    /// Last detected movement in nanoseconds, and the time until which it is reported.
    moved: Option<(i64, Moment)>,
}

/// Time for which a movement of a clock is reported; after it, the new offset is accepted.
const MOVE_TOLD_FOR: Duration = Duration::from_secs(120);

impl OffsetWatch {
    /// Evaluates the delays of one more reply. Returns by how many nanoseconds the offset has recently moved beyond
    /// the claimed error of the clocks, if it has.
    pub fn on_delays(&mut self, delays: &Delays, now: Moment) -> Option<i64> {
        if let Some(moved) = self.find_move(delays) {
            self.moved = Some((moved, now + MOVE_TOLD_FOR));
        }
        self.moved = self.moved.filter(|(_, until)| now < *until);
        self.moved.map(|(moved, _)| moved)
    }

    fn find_move(&mut self, delays: &Delays) -> Option<i64> {
        // True one-way delays are not negative. The remote clock is therefore ahead by at most the forward delay, and
        // behind by at most the backward delay.
        let (least, most) = (-delays.backward.nanos, delays.forward.nanos);
        let error = i64::try_from(delays.forward.uncertainty.as_nanos()).unwrap_or(i64::MAX);
        let Some((was_least, was_most, was_error)) = self.proved else {
            self.proved = Some((least, most, error));
            return None;
        };
        // A clock may have been corrected by as much as the error that it claimed before.
        let allowed = error.saturating_add(was_error);
        let moved = if least > was_most.saturating_add(allowed) {
            least - was_most
        } else if most < was_least.saturating_sub(allowed) {
            most - was_least
        } else {
            // Intersect the bounds with those of all previous replies, provided that they are consistent.
            let both = (least.max(was_least), most.min(was_most));
            self.proved = Some(match both.0 <= both.1 {
                true => (both.0, both.1, error.max(was_error)),
                false => (least, most, error),
            });
            return None;
        };
        self.proved = Some((least, most, error));
        Some(moved)
    }

    /// Discards the proven offset after an intended clock step: the next reply sets a new one.
    pub fn reset(&mut self) {
        *self = OffsetWatch::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::stamp::packet::{PROBE_LEN, flag};
    use proptest::prelude::*;

    fn wall(micros: u64) -> WallTime {
        WallTime::from_unix_nanos(1_700_000_000_000_000_000 + micros * 1_000)
    }

    fn quality(error: Duration) -> ClockQuality {
        ClockQuality { synchronized: true, error }
    }

    fn probe(sent: WallTime) -> Probe {
        Probe {
            sequence: 9,
            sent,
            error_estimate: ErrorEstimate::encode(quality(Duration::from_millis(1))),
            ssid: 7,
            flags: flag::REFLECT,
            flow: 0,
            key_id: 0,
            test_id: TestId::from_bytes([4; 16]),
            epoch: 1,
            send_every: Duration::from_secs(1),
            unsent: 0,
            clock_error: 1_000_000,
            previous_lateness: 0,
        }
    }

    #[test]
    fn reply_gives_three_delays_for_any_clock_offset() {
        let key = Key::new(1, [9; 32]);
        for offset in [0i64, 5_000, -5_000] {
            let mut octets = vec![0; 200];
            let len = probe(wall(1_000_000)).write(&mut octets, Some(&key));
            assert_eq!(len, 200);
            let there = |micros: u64| wall((micros as i64 + offset) as u64);
            let by = Reflector {
                received: there(1_000_300),
                sent: there(1_000_350),
                error_estimate: ErrorEstimate::encode(quality(Duration::from_millis(1))),
                ttl: Some(61),
            };
            reflect(&mut octets, by, Signature::Good(&key));
            assert_eq!(octets.len(), 200);
            let reply = Reply::decode(&octets).unwrap();
            assert_eq!((reply.sequence, reply.ttl, reply.test_id), (9, 61, Some(TestId::from_bytes([4; 16]))));
            assert!(Reply::is_signed(&octets, &key) && !Reply::is_signed(&octets, &Key::new(1, [8; 32])));
            let delays = reply.delays(wall(1_000_550), quality(Duration::from_millis(1)));
            assert_eq!(delays.round_trip, Delay { nanos: 500_000, uncertainty: Duration::ZERO });
            assert_eq!(delays.forward.nanos, 300_000 + offset * 1_000);
            assert_eq!(delays.backward.nanos, 200_000 - offset * 1_000);
            // The reflector supports the private-use, HMAC and padding TLVs, so that no flag is set.
            assert_eq!((octets[44], octets[108], octets[128]), (0, 0, 0));
        }
    }

    #[test]
    fn opposite_shifts_of_both_directions_are_reported_as_clock_movement() {
        let delays = |offset: i64, queue: i64, error: u64| Delays {
            round_trip: Delay { nanos: 400_000 + queue, uncertainty: Duration::ZERO },
            forward: Delay { nanos: 200_000 + offset + queue, uncertainty: Duration::from_micros(error) },
            backward: Delay { nanos: 200_000 - offset, uncertainty: Duration::from_micros(error) },
            are_comparable: true,
        };
        let on = |watch: &mut OffsetWatch, delays: Delays, second| {
            watch.on_delays(&delays, Moment::new(Duration::from_secs(second)))
        };
        let mut watch = OffsetWatch::default();
        for queue in [0, 50_000, 3_000_000, 0] {
            assert_eq!(on(&mut watch, delays(3_000_000, queue, 100), 0), None, "a busy path is no clock");
        }
        assert_eq!(on(&mut watch, delays(3_300_000, 0, 100), 0), None, "within what the clocks allow");
        assert_eq!(on(&mut watch, delays(13_000_000, 0, 100), 10), Some(9_600_000));
        assert_eq!(on(&mut watch, delays(13_000_000, 0, 100), 100), Some(9_600_000));
        assert_eq!(on(&mut watch, delays(13_000_000, 0, 100), 131), None, "it counts as it is by now");
        assert_eq!(on(&mut watch, delays(30_000_000, 0, 20_000), 140), None, "a clock that says so");
        watch.reset();
        assert_eq!(on(&mut watch, delays(-13_000_000, 0, 100), 150), None);
        // A clock with a claimed error of 16 s is corrected.
        let mut watch = OffsetWatch::default();
        assert_eq!(on(&mut watch, delays(5_000_000_000, 0, 16_000_000), 0), None);
        assert_eq!(on(&mut watch, delays(0, 0, 1_000), 10), None);
    }

    proptest! {
        #[test]
        fn any_datagram_is_reflected_and_decoded_without_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Reply::decode(&octets);
            let _ = Reply::is_signed(&octets, &Key::new(1, [9; 32]));
            let short = Reflector { received: wall(0), sent: wall(1), error_estimate: ErrorEstimate(1), ttl: None };
            let _ = reflect_short(&octets, short);
            let _ = signature_of(&octets, [Key::new(1, [9; 32])].iter());
            if octets.len() >= STAMP_LEN {
                let mut answer = octets.clone();
                let by = Reflector { received: wall(0), sent: wall(1), error_estimate: ErrorEstimate(1), ttl: None };
                reflect(&mut answer, by, Signature::Good(&Key::new(1, [9; 32])));
                prop_assert_eq!(answer.len(), octets.len());
            }
        }
    }

    fn by() -> Reflector {
        Reflector { received: wall(6), sent: wall(7), error_estimate: ErrorEstimate(1), ttl: None }
    }

    /// The timestamps of such a reflector have an unknown timescale: its residence time is valid, and its one-way
    /// delays are not.
    #[test]
    fn ptp_timestamps_give_a_round_trip_but_no_one_way_delay() {
        let mut octets = vec![0; PROBE_LEN];
        probe(wall(1_000_000)).write(&mut octets, None);
        let by = Reflector { received: wall(0), sent: wall(0), ..by() };
        reflect(&mut octets, by, Signature::None);
        octets[12] |= 0x40;
        let stamp = |seconds: u64, nanos: u64| ((seconds << 32) | nanos).to_be_bytes();
        octets[16..24].copy_from_slice(&stamp(1_700_000_038, 1_000));
        octets[4..12].copy_from_slice(&stamp(1_700_000_038, 51_000));
        let reply = Reply::decode(&octets).unwrap();
        let delays = reply.delays(wall(1_000_550), quality(Duration::from_millis(1)));
        assert_eq!(delays.round_trip.nanos, 500_000);
        assert!(!delays.are_comparable);
    }

    #[test]
    fn private_tlv_of_another_enterprise_is_flagged_unrecognised() {
        let mut octets = vec![0; PROBE_LEN];
        probe(wall(5)).write(&mut octets, None);
        octets[48..52].copy_from_slice(&[0, 0, 0, 9]);
        reflect(&mut octets, by(), Signature::None);
        assert_eq!(octets[44], UNRECOGNISED);
    }

    #[test]
    fn signature_of_unknown_packet_is_verified_and_failure_flagged() {
        let keys = [Key::new(1, [1; 32]), Key::new(2, [2; 32])];
        for (signed_with, good) in [(keys[1].clone(), true), (Key::new(3, [3; 32]), false)] {
            // A plain STAMP packet: a location TLV of an unknown sender, followed by its HMAC TLV.
            let mut octets = vec![0; STAMP_LEN];
            octets.extend([0x80, 2, 0, 4, 1, 2, 3, 4]);
            let signature = signed_with.sign([&octets[..4], &octets[STAMP_LEN..]]);
            octets.extend([0x80, TLV_HMAC, 0, 16]);
            octets.extend(signature);
            let found = signature_of(&octets, keys.iter());
            assert_eq!(matches!(found, Signature::Good(key) if key.id() == 2), good);
            reflect(&mut octets, by(), found);
            assert_eq!(Reply::is_signed(&octets, &keys[1]), good);
            let integrity = if good { 0 } else { INTEGRITY };
            assert_eq!((octets[44], octets[52]), (UNRECOGNISED | integrity, integrity));
        }
    }

    #[test]
    fn short_twamp_packets_are_answered_and_replies_are_not() {
        for len in [14, 20, 40, 43] {
            let mut octets = vec![0; len];
            octets[..4].copy_from_slice(&[0, 0, 0, 9]);
            octets[13] = 1;
            let answer = reflect_short(&octets, by()).unwrap();
            assert_eq!((be32(&answer, 24), be32(&answer, 0)), (9, 9));
            assert_eq!(reflect_short(&answer, by()), None, "two reflectors would answer each other for ever");
        }
        assert_eq!(reflect_short(&[0; 14], by()), None);
        assert_eq!(reflect_short(b"{\"Version\":1}", by()), None);
        assert_eq!(reflect_short(&[1; 13], by()), None);
    }

    #[test]
    fn short_twamp_light_reply_is_decoded() {
        let mut octets = vec![0; PROBE_LEN];
        probe(wall(5)).write(&mut octets, None);
        let by = Reflector { received: wall(6), sent: wall(7), error_estimate: ErrorEstimate(1), ttl: None };
        reflect(&mut octets, by, Signature::None);
        let reply = Reply::decode(&octets[..SHORTEST]).unwrap();
        assert_eq!((reply.sequence, reply.sent, reply.received, reply.test_id), (9, wall(5), wall(6), None));
        assert_eq!(Reply::decode(&octets[..SHORTEST - 1]), None);
    }
}
