//! Choices that a test document makes of how its probes are sent.

use serde::{Deserialize, Serialize};

/// Measuring mode of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Probes are not reflected; the receiver evaluates them.
    #[default]
    OneWay,
    /// Probes are reflected by the receiver, and the sender evaluates the round trip in addition.
    TwoWay,
}

/// Packet format that the sender uses. Receivers accept both formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Wire {
    /// STAMP packet with the private-use TLV of this project.
    #[serde(rename = "stamp")]
    Stamp,
    /// JSON packet of the original agent, for receivers that still run it.
    #[serde(rename = "json-v1")]
    JsonV1,
}

/// Kinds of probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// STAMP over UDP (RFC 8762), between two agents, judged at the receiver.
    #[default]
    Udp,
    /// TCP connection to a `target`, judged at the sender.
    Tcp,
}

/// Accepts the names in upper and lower case, as the original wrote them.
impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.to_ascii_lowercase().as_str() {
            "udp" => Ok(Protocol::Udp),
            "tcp" => Ok(Protocol::Tcp),
            _ => Err(serde::de::Error::unknown_variant(&name, &["udp", "tcp"])),
        }
    }
}
