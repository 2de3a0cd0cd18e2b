//! Encoding and decoding of probes. A probe is an unauthenticated STAMP Session-Sender packet (RFC 8762 section
//! 4.2.1) with one private-use TLV (RFC 8972 section 4), 108 octets in all, big-endian. With a key, the HMAC TLV
//! follows; the Extra Padding TLV fills the packet up to the configured size.
//!
//! [`Probe`] is the main type.

use std::time::Duration;

use super::key::{Key, SIGNATURE_LEN};
use crate::pure::base::time::WallTime;
use crate::pure::clock::error_estimate::ErrorEstimate;
use crate::pure::test::id::TestId;

/// Length in octets of a probe without signature and padding.
pub const PROBE_LEN: usize = 108;
/// Length in octets of a signed probe without padding.
pub const SIGNED_LEN: usize = PROBE_LEN + TLV_HEADER + SIGNATURE_LEN;
/// Range of sizes in octets to which a probe can be padded: from a signed probe with an empty padding TLV up to a
/// jumbo frame.
pub const PADDED_LEN: std::ops::RangeInclusive<usize> = SIGNED_LEN + TLV_HEADER..=9000;

/// Length in octets of the STAMP base packet, before any TLV.
pub const STAMP_LEN: usize = 44;
/// Length in octets of a TLV header, before the value.
pub const TLV_HEADER: usize = 4;
/// TLV flags in packets of a sender: U (unrecognised) is set, M (malformed) and I (integrity) are clear (RFC 8972
/// section 4).
const TLV_FLAGS: u8 = 0x80;
/// Type of the Extra Padding TLV (RFC 8972 section 4.1).
pub const TLV_PADDING: u8 = 1;
/// Type of the HMAC TLV (RFC 8972 section 4.8).
pub const TLV_HMAC: u8 = 8;
/// Type of the private-use TLV: the first type of the private-use range.
pub const TLV_TYPE: u8 = 252;
/// Length in octets of the value of the private-use TLV.
const TLV_LEN: u16 = 60;
/// SMI private enterprise number of this project, which identifies its TLV among other private-use TLVs.
pub(super) const ENTERPRISE: u32 = 50255;
/// Version of the private-use TLV.
const VERSION: u8 = 2;

/// Bits of the flags field, octet 53 of a probe.
pub mod flag {
    /// Requests the receiver to reflect this probe.
    pub const REFLECT: u8 = 1;
    /// Marks the field `previous_lateness` as valid.
    pub const CORRECTION_VALID: u8 = 2;
    /// Announces that the sender stops on purpose; this is its last probe.
    pub const STOPS: u8 = 4;
    /// Reports that the sender's wall clock was set since the previous probe.
    pub const CLOCK_STEPPED: u8 = 8;
    /// Announces to the sender of a test that its receiver stops on purpose.
    pub const RECEIVER_STOPS: u8 = 16;
}

/// Decoded fields of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Sequence number, which starts at 0 in each epoch.
    pub sequence: u32,
    /// Wall clock of the sender, read just before the send.
    pub sent: WallTime,
    /// Clock error of the sender, encoded as a STAMP error estimate.
    pub error_estimate: ErrorEstimate,
    /// STAMP session identifier (SSID, RFC 8972): non-zero, and only a hint.
    pub ssid: u16,
    /// Combination of the bits in [`flag`].
    pub flags: u8,
    /// Index of the flow of the test that the probe belongs to.
    pub flow: u8,
    /// Id of the key that signs the probe; 0 without a key.
    pub key_id: u8,
    /// Id of the test that the probe belongs to.
    pub test_id: TestId,
    /// Start of the sender in microseconds since 1970; it increases with every restart.
    pub epoch: u64,
    /// Send interval of the sender; encoded in whole microseconds.
    pub send_every: Duration,
    /// Sequence numbers below this one whose probes never left, because the sender's operating system refused them.
    /// Counts from 0 in each epoch and wraps. A receiver must not count those probes as lost.
    pub unsent: u32,
    /// Error bound of the sender's clock in nanoseconds; saturates at `u32::MAX`.
    pub clock_error: u32,
    /// Time in nanoseconds between the timestamp of the previous probe and its actual departure.
    pub previous_lateness: i32,
}

/// Reason why a datagram cannot be decoded as a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProbe {
    /// STAMP or TWAMP-Test packet without the private-use TLV of this project.
    PlainStamp,
    /// Packet with the private-use TLV in a version that this agent does not support.
    UnknownVersion(u8),
    /// Packet with the private-use TLV whose copy of the base fields differs from them, or whose error estimate is
    /// invalid.
    Corrupt,
    /// Datagram of any other kind.
    Foreign,
}

impl Probe {
    /// Derives the STAMP session identifier from a test id; it is never zero.
    pub fn ssid_of(test_id: TestId) -> u16 {
        let id = test_id.as_u128();
        ((id ^ (id >> 64)) as u16).max(1)
    }

    /// Encodes the probe into `octets` and returns its length. The rest of `octets` becomes padding if it has room
    /// for a padding TLV; otherwise the length is the minimum one.
    pub fn write(&self, octets: &mut [u8], key: Option<&Key>) -> usize {
        octets[..PROBE_LEN].copy_from_slice(&self.encode());
        let mut end = PROBE_LEN;
        if let Some(key) = key {
            octets[KEY_ID] = key.id();
            let signature = key.sign([&signed_part(octets)]);
            end = put_tlv(octets, end, TLV_HMAC, SIGNATURE_LEN);
            octets[end - SIGNATURE_LEN..end].copy_from_slice(&signature);
        }
        if octets.len() >= end + TLV_HEADER {
            let padding = octets.len() - end - TLV_HEADER;
            octets[end..].fill(0);
            end = put_tlv(octets, end, TLV_PADDING, padding);
        }
        end
    }

    /// Returns whether a datagram that was decoded as a probe is entirely authentic: its signature matches `key`, and
    /// the octets that the signature does not cover are as a sender writes them.
    pub fn is_signed(octets: &[u8], key: &Key) -> bool {
        let Some((signed, rest)) = octets.split_at_checked(SIGNED_LEN) else { return false };
        let mut header = [0; TLV_HEADER];
        put_tlv(&mut header, 0, TLV_HMAC, SIGNATURE_LEN);
        let plain_rest = match rest.split_at_checked(TLV_HEADER) {
            None => rest.is_empty(),
            Some((tlv, padding)) => {
                tlv[..2] == [TLV_FLAGS, TLV_PADDING]
                    && usize::from(be16(tlv, 2)) == padding.len()
                    // Folding over all octets, without an early exit, allows vectorisation.
                    && padding.iter().fold(0, |all, octet| all | octet) == 0
            }
        };
        let (probe, tail) = signed.split_at(PROBE_LEN);
        let Some(signature) = tail.last_chunk::<SIGNATURE_LEN>() else { return false };
        plain_rest
            && tail[..TLV_HEADER] == header
            && probe[16..STAMP_LEN] == [0; STAMP_LEN - 16]
            && key.verifies([&signed_part(probe)], signature)
    }

    /// Encodes the probe without signature and padding.
    pub fn encode(&self) -> [u8; PROBE_LEN] {
        let mut octets = [0; PROBE_LEN];
        let mut put = |offset: usize, field: &[u8]| octets[offset..offset + field.len()].copy_from_slice(field);
        put(0, &self.sequence.to_be_bytes());
        let mut base = [0; 12];
        base[..8].copy_from_slice(&self.sent.to_ntp().to_be_bytes());
        base[8..10].copy_from_slice(&self.error_estimate.0.to_be_bytes());
        base[10..].copy_from_slice(&self.ssid.to_be_bytes());
        put(4, &base);
        put(44, &[TLV_FLAGS, TLV_TYPE]);
        put(46, &TLV_LEN.to_be_bytes());
        put(48, &ENTERPRISE.to_be_bytes());
        put(52, &[VERSION, self.flags, self.flow, self.key_id]);
        put(56, &self.test_id.to_bytes());
        put(72, &self.epoch.to_be_bytes());
        let send_every = u32::try_from(self.send_every.as_micros()).unwrap_or(u32::MAX);
        put(80, &send_every.to_be_bytes());
        put(84, &self.unsent.to_be_bytes());
        put(88, &self.clock_error.to_be_bytes());
        put(92, &self.previous_lateness.to_be_bytes());
        put(96, &base);
        octets
    }

    /// Decodes a datagram of any content and length without panicking.
    pub fn decode(octets: &[u8]) -> Result<Probe, NotProbe> {
        let Some(base) = octets.first_chunk::<STAMP_LEN>() else { return Err(NotProbe::Foreign) };
        let Some(octets) = octets.first_chunk::<PROBE_LEN>() else { return Err(plain_or_foreign(base, octets.len())) };
        if octets[45] != TLV_TYPE || be16(octets, 46) != TLV_LEN || be32(octets, 48) != ENTERPRISE {
            return Err(plain_or_foreign(base, octets.len()));
        }
        if octets[52] != VERSION {
            return Err(NotProbe::UnknownVersion(octets[52]));
        }
        let error_estimate = ErrorEstimate(be16(octets, 12));
        if octets[96..108] != octets[4..16] || error_estimate.is_corrupt() {
            return Err(NotProbe::Corrupt);
        }
        let mut test_id = [0; 16];
        test_id.copy_from_slice(&octets[56..72]);
        Ok(Probe {
            sequence: be32(octets, 0),
            sent: WallTime::from_ntp(be64(octets, 4)),
            error_estimate,
            ssid: be16(octets, 14),
            flags: octets[53],
            flow: octets[54],
            key_id: octets[55],
            test_id: TestId::from_bytes(test_id),
            epoch: be64(octets, 72),
            send_every: Duration::from_micros(be32(octets, 80).into()),
            unsent: be32(octets, 84),
            clock_error: be32(octets, 88),
            previous_lateness: be32(octets, 92) as i32,
        })
    }

    /// Extracts the test id from the octets that an ICMP error quotes, which may be truncated.
    pub fn quoted_test_id(octets: &[u8]) -> Option<TestId> {
        let head = octets.first_chunk::<72>()?;
        (head[45] == TLV_TYPE && be32(head, 48) == ENTERPRISE).then(|| {
            let mut test_id = [0; 16];
            test_id.copy_from_slice(&head[56..72]);
            TestId::from_bytes(test_id)
        })
    }
}

/// Returns the octets that a signature covers, in one piece: signing two pieces takes a tenth longer.
fn signed_part(octets: &[u8]) -> [u8; 4 + PROBE_LEN - STAMP_LEN] {
    let mut part = [0; 4 + PROBE_LEN - STAMP_LEN];
    part[..4].copy_from_slice(&octets[..4]);
    part[4..].copy_from_slice(&octets[STAMP_LEN..PROBE_LEN]);
    part
}

/// Offset of the key id in a probe.
pub const KEY_ID: usize = 55;

/// Writes the header of a TLV and returns the end offset of its value.
fn put_tlv(octets: &mut [u8], at: usize, kind: u8, len: usize) -> usize {
    octets[at..at + 2].copy_from_slice(&[TLV_FLAGS, kind]);
    octets[at + 2..at + TLV_HEADER].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    (at + TLV_HEADER + len).min(octets.len())
}

/// Classifies a packet without the private-use TLV. A plain Session-Sender packet has an error estimate that is not
/// corrupt, and zeros where RFC 8762 requires them.
fn plain_or_foreign(base: &[u8; STAMP_LEN], len: usize) -> NotProbe {
    let plain = len >= STAMP_LEN && base[16..].iter().all(|&octet| octet == 0) && base[13] != 0;
    if plain { NotProbe::PlainStamp } else { NotProbe::Foreign }
}

pub(super) fn be16(octets: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([octets[offset], octets[offset + 1]])
}

pub(super) fn be32(octets: &[u8], offset: usize) -> u32 {
    u32::from(be16(octets, offset)) << 16 | u32::from(be16(octets, offset + 2))
}

pub(super) fn be64(octets: &[u8], offset: usize) -> u64 {
    u64::from(be32(octets, offset)) << 32 | u64::from(be32(octets, offset + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::clock::error_estimate::ClockQuality;
    use proptest::prelude::*;

    fn sample() -> Probe {
        Probe {
            sequence: 0x0102_0304,
            sent: WallTime::from_unix_nanos(1_500_000_000_250_000_000),
            error_estimate: ErrorEstimate::encode(ClockQuality::UNKNOWN),
            ssid: 0x0506,
            flags: flag::STOPS,
            flow: 0,
            key_id: 0,
            test_id: TestId::from_bytes([0xab; 16]),
            epoch: 1_500_000_000_000_000,
            send_every: Duration::from_millis(100),
            unsent: 7,
            clock_error: u32::MAX,
            previous_lateness: -12,
        }
    }

    /// Checks every octet against the table of the packet format in the design document.
    #[test]
    fn encoding_matches_the_documented_layout() {
        let octets = sample().encode();
        assert_eq!(octets[0..4], [1, 2, 3, 4]);
        assert_eq!(octets[4..12], [0xdd, 0x12, 0xad, 0x80, 0x40, 0, 0, 0]);
        assert_eq!(octets[12..16], [29, 128, 5, 6]);
        assert_eq!(octets[16..44], [0; 28]);
        assert_eq!(octets[44..56], [0x80, 252, 0, 60, 0, 0, 0xc4, 0x4f, 2, 4, 0, 0]);
        assert_eq!(octets[56..72], [0xab; 16]);
        assert_eq!(octets[72..80], 1_500_000_000_000_000u64.to_be_bytes());
        assert_eq!(octets[80..84], 100_000u32.to_be_bytes());
        assert_eq!(octets[84..88], [0, 0, 0, 7]);
        assert_eq!(octets[88..92], [0xff; 4]);
        assert_eq!(octets[92..96], (-12i32).to_be_bytes());
        assert_eq!(octets[96..108], octets[4..16]);
    }

    #[test]
    fn decoding_an_encoded_probe_returns_its_fields() {
        assert_eq!(Probe::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn invalid_probe_is_rejected_with_its_reason() {
        let octets = sample().encode();
        assert_eq!(Probe::decode(&octets[..44]), Err(NotProbe::PlainStamp));
        assert_eq!(Probe::decode(&octets[..43]), Err(NotProbe::Foreign));
        assert_eq!(Probe::decode(b"hello"), Err(NotProbe::Foreign));
        assert_eq!(Probe::decode(&[]), Err(NotProbe::Foreign));
        let mut newer = octets;
        newer[52] = 3;
        assert_eq!(Probe::decode(&newer), Err(NotProbe::UnknownVersion(3)));
        let mut tampered = octets;
        tampered[5] ^= 1;
        assert_eq!(Probe::decode(&tampered), Err(NotProbe::Corrupt));
    }

    #[test]
    fn test_id_is_extracted_from_an_icmp_quote() {
        let octets = sample().encode();
        assert_eq!(Probe::quoted_test_id(&octets[..72]), Some(TestId::from_bytes([0xab; 16])));
        assert_eq!(Probe::quoted_test_id(&octets[..71]), None);
    }

    fn key() -> Key {
        Key::new(3, [7; 32])
    }

    fn signed(size: usize) -> Vec<u8> {
        let mut octets = vec![0xff; size];
        assert_eq!(sample().write(&mut octets, Some(&key())), size);
        octets
    }

    #[test]
    fn signature_and_padding_follow_the_probe() {
        let octets = signed(200);
        assert_eq!(octets[108..112], [0x80, 8, 0, 16]);
        assert_eq!(octets[128..132], [0x80, 1, 0, 68]);
        assert!(octets[132..].iter().all(|&octet| octet == 0));
        assert_eq!(Probe::decode(&octets), Ok(Probe { key_id: 3, ..sample() }));
        assert!(Probe::is_signed(&octets, &key()));
        // The remaining three octets are too few for a padding TLV, so that none is written.
        let mut octets = [0; 111];
        assert_eq!(sample().write(&mut octets, None), 108);
        assert!(!Probe::is_signed(&signed(128), &Key::new(3, [8; 32])));
    }

    proptest! {
        /// Property: any change to a signed probe invalidates it.
        #[test]
        fn changed_signed_probe_is_rejected(
            size in prop::sample::select(vec![128usize, 132, 200, 1400]),
            offset in 0usize..1400,
            flip in 1u8..=255,
            cut in 0usize..1400,
            more in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let octets = signed(size);
            prop_assert!(Probe::is_signed(&octets, &key()));
            let mut flipped = octets.clone();
            flipped[offset % size] ^= flip;
            // The signature covers octets 4 to 15 through their copy, which `decode` compares.
            prop_assert!(Probe::decode(&flipped).is_err() || !Probe::is_signed(&flipped, &key()));
            prop_assert!(!Probe::is_signed(&octets[..cut % size], &key()) || cut % size == 128);
            let mut longer = octets.clone();
            longer.extend(more);
            prop_assert!(!Probe::is_signed(&longer, &key()));
        }

        /// Property: no combination of two signed probes passes as a third one.
        #[test]
        fn spliced_signed_probes_are_rejected(sequence: u32, micros: u32, at in 1usize..128) {
            let mut other = sample();
            other.sequence = sequence;
            other.sent = other.sent + Duration::from_micros(micros.into());
            let (one, mut two) = (signed(128), vec![0; 128]);
            other.write(&mut two, Some(&key()));
            let spliced = [&one[..at], &two[at..]].concat();
            let whole = spliced == one || spliced == two;
            let taken = Probe::decode(&spliced).is_ok() && Probe::is_signed(&spliced, &key());
            prop_assert_eq!(taken, whole);
        }

        #[test]
        fn any_datagram_is_decoded_without_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Probe::decode(&octets);
            let _ = Probe::quoted_test_id(&octets);
        }

        #[test]
        fn any_mutated_probe_is_decoded_without_panic(offset in 0usize..PROBE_LEN, octet: u8, cut in 0usize..=PROBE_LEN) {
            let mut octets = sample().encode();
            octets[offset] = octet;
            let _ = Probe::decode(&octets[..cut]);
        }
    }
}
