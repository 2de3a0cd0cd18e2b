//! Identity and descriptive data of a test.
//!
//! [`TestId`] identifies a test on all hosts, and [`TestFacts`] describes its endpoints for notifications and the web
//! pages.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identifier of a test, which is the same on the sending and the receiving host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TestId(Uuid);

impl TestId {
    /// Creates the id from the 16 octets that probes carry.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        TestId(Uuid::from_bytes(bytes))
    }

    /// Returns the 16 octets that probes carry.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Returns the id as a number, for hashing.
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// Creates a random id (UUIDv4) from 128 random bits, six of which are replaced by the version and variant.
    pub fn random(bits: u128) -> Self {
        TestId(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
    }

    /// Returns the id of a test that a set defines: a UUIDv5 of set, sender and receiver, which every agent derives
    /// alike.
    pub fn of_set(set: &str, from: &str, to: &str) -> Self {
        // The encoding is unambiguous, since names of sets and hosts contain no slash.
        TestId(Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("peerpair:sets/{set}/{from}/{to}").as_bytes()))
    }

    /// Returns the id that is proposed for a test document without one: a UUIDv5 of its location in the store.
    pub fn proposed_for(place: &str) -> Self {
        TestId(Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("peerpair:{place}").as_bytes()))
    }
}

impl fmt::Display for TestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TestId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(TestId)
    }
}

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

/// Descriptive data of a test for notifications and web pages, taken from its document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFacts {
    /// Identifier of the test.
    pub id: TestId,
    /// Human-readable description of the test.
    pub description: String,
    /// Name of the host that sends the probes.
    pub from_host: String,
    /// Address and port that the probes are sent from.
    pub from: String,
    /// Name of the host that receives and evaluates the probes.
    pub to_host: String,
    /// Address and port that the probes are sent to.
    pub to: String,
    /// Tags that group the test with others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Name of the set that defines the test, if any. Boxed, since every octet counts with a very large number of
    /// tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Box<str>>,
}

#[cfg(test)]
impl TestFacts {
    /// Creates example data of a test from host `a` to host `b`.
    pub fn example(id: TestId) -> Self {
        TestFacts {
            id,
            description: String::new(),
            from_host: "a".into(),
            from: "127.0.0.2:0".into(),
            to_host: "b".into(),
            to: "127.0.0.3:8620".into(),
            tags: [].into(),
            set: None,
        }
    }
}

impl TestFacts {
    /// Returns the host at the other end, as seen from `host`.
    pub fn peer_of(&self, host: &str) -> &str {
        if self.from_host == host { &self.to_host } else { &self.from_host }
    }

    /// Returns the path of the test in human-readable form: the sending host and address, an arrow, and the receiving
    /// host and address.
    pub fn path(&self) -> String {
        let end = |host: &str, at: &str| format!("{host} {at}").trim_end().to_owned();
        format!("{} → {}", end(&self.from_host, &self.from), end(&self.to_host, &self.to))
    }
}
