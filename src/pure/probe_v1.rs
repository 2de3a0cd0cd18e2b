//! The original's probe of 2017: one JSON object in a datagram, ended by a newline.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::test::TestId;
use super::time::WallTime;

/// The version in every packet of the original.
const VERSION: u32 = 1;

/// The fields of the original's packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeV1 {
    /// The `Version` of the sender's global document.
    pub config_version: i64,
    /// The sender's wall clock just before the send; the wire holds microseconds.
    pub sent: WallTime,
    /// The test's `FromHostId`.
    pub host_id: String,
    /// The test.
    pub test_id: TestId,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    version: u32,
    #[serde(default)]
    config_version: i64,
    ntp_timestamp: String,
    host_id: String,
    test_id: TestId,
}

impl ProbeV1 {
    /// The octets on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            version: VERSION,
            config_version: self.config_version,
            ntp_timestamp: humantime::format_rfc3339_micros(SystemTime::from(self.sent)).to_string(),
            host_id: self.host_id.clone(),
            test_id: self.test_id,
        };
        // A struct of strings and numbers always serialises.
        let mut octets = serde_json::to_vec(&wire).unwrap_or_default();
        octets.push(b'\n');
        octets
    }

    /// Reads a datagram; nothing if it is not the original's.
    pub fn decode(octets: &[u8]) -> Option<ProbeV1> {
        if octets.first() != Some(&b'{') {
            return None;
        }
        let wire: Wire = serde_json::from_slice(octets).ok()?;
        if wire.version != VERSION {
            return None;
        }
        let sent = humantime::parse_rfc3339(&wire.ntp_timestamp).ok()?;
        Some(ProbeV1 {
            config_version: wire.config_version,
            sent: WallTime::from(sent),
            host_id: wire.host_id,
            test_id: wire.test_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGINAL: &[u8] = b"{\"Version\":1,\"ConfigVersion\":7,\"NtpTimestamp\":\"2017-07-13T01:02:03.456789Z\",\"HostId\":\"hostA\",\"TestId\":\"5b0c6f0e-6c7e-4b53-9d1c-1f4f5a6b7c8d\"}\n";

    #[test]
    fn reads_and_writes_what_the_original_wrote() {
        let probe = ProbeV1::decode(ORIGINAL).unwrap();
        assert_eq!(probe.host_id, "hostA");
        assert_eq!(probe.config_version, 7);
        assert_eq!(probe.sent.unix_nanos(), 1_499_907_723_456_789_000);
        assert_eq!(probe.encode(), ORIGINAL);
    }

    #[test]
    fn another_version_is_not_the_originals() {
        let other = String::from_utf8_lossy(ORIGINAL).replace("\"Version\":1", "\"Version\":2");
        assert_eq!(ProbeV1::decode(other.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_mutation_is_read_without_panic(offset in 0usize..ORIGINAL.len(), octet: u8, cut in 0usize..ORIGINAL.len()) {
            let mut octets = ORIGINAL.to_vec();
            octets[offset] = octet;
            let _ = ProbeV1::decode(&octets);
            let _ = ProbeV1::decode(&octets[..cut]);
        }
    }
}
