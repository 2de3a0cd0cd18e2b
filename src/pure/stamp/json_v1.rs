//! Encoding and decoding of the probes of the original agent of 2017: one JSON object per datagram, terminated by a
//! newline.
//!
//! [`JsonProbe`] is the main type.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::pure::base::time::WallTime;
use crate::pure::test::id::TestId;

/// Protocol version that every packet of the original agent carries.
const VERSION: u32 = 1;

/// Fields of a packet of the original agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonProbe {
    /// Value of `Version` in the global document of the sender.
    pub config_version: i64,
    /// Wall clock of the sender, read just before the send; encoded in whole microseconds.
    pub sent: WallTime,
    /// Host id in the packet, which the original agent sets to the `FromHostId` of the test.
    pub host_id: String,
    /// Id of the test that the probe belongs to.
    pub test_id: TestId,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JsonFields {
    version: u32,
    #[serde(default)]
    config_version: i64,
    ntp_timestamp: String,
    host_id: String,
    test_id: TestId,
}

impl JsonProbe {
    /// Encodes the probe as JSON with a terminating newline.
    pub fn encode(&self) -> Vec<u8> {
        let wire = JsonFields {
            version: VERSION,
            config_version: self.config_version,
            ntp_timestamp: humantime::format_rfc3339_micros(SystemTime::from(self.sent)).to_string(),
            host_id: self.host_id.clone(),
            test_id: self.test_id,
        };
        // Serialisation cannot fail: the struct has only strings and numbers.
        let mut octets = serde_json::to_vec(&wire).unwrap_or_default();
        octets.push(b'\n');
        octets
    }

    /// Decodes a datagram, or returns `None` if it is not a probe of the original agent.
    pub fn decode(octets: &[u8]) -> Option<JsonProbe> {
        if octets.first() != Some(&b'{') {
            return None;
        }
        let wire: JsonFields = serde_json::from_slice(octets).ok()?;
        if wire.version != VERSION {
            return None;
        }
        let sent = humantime::parse_rfc3339(&wire.ntp_timestamp).ok()?;
        Some(JsonProbe {
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
    fn packet_of_the_original_agent_is_decoded_and_encoded_unchanged() {
        let probe = JsonProbe::decode(ORIGINAL).unwrap();
        assert_eq!(probe.host_id, "hostA");
        assert_eq!(probe.config_version, 7);
        assert_eq!(probe.sent.unix_nanos(), 1_499_907_723_456_789_000);
        assert_eq!(probe.encode(), ORIGINAL);
    }

    #[test]
    fn packet_with_another_version_is_rejected() {
        let other = String::from_utf8_lossy(ORIGINAL).replace("\"Version\":1", "\"Version\":2");
        assert_eq!(JsonProbe::decode(other.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_mutated_packet_is_decoded_without_panic(offset in 0usize..ORIGINAL.len(), octet: u8, cut in 0usize..ORIGINAL.len()) {
            let mut octets = ORIGINAL.to_vec();
            octets[offset] = octet;
            let _ = JsonProbe::decode(&octets);
            let _ = JsonProbe::decode(&octets[..cut]);
        }
    }
}
