//! What a test is called and between whom it runs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a test, the same at both of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TestId(Uuid);

impl TestId {
    /// From the 16 octets in a probe.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        TestId(Uuid::from_bytes(bytes))
    }

    /// The 16 octets in a probe.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// As a number, for hashing.
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// An id of 128 random bits.
    pub fn random(bits: u128) -> Self {
        TestId(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
    }

    /// The id of a test of a set: UUIDv5, the same at every agent.
    pub fn of_set(set: &str, from: &str, to: &str) -> Self {
        // No name of a set or of a host has a slash in it.
        TestId(Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("peerpair:sets/{set}/{from}/{to}").as_bytes()))
    }

    /// The id that is proposed for a test that has none: UUIDv5 of its place in the store.
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

/// Whether the probes of a test come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They do not: the receiver judges.
    #[default]
    OneWay,
    /// The receiver reflects them, and the sender judges the round trip too.
    TwoWay,
}

/// Which probe is sent. Both are understood on receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Wire {
    /// STAMP with our extension.
    #[serde(rename = "stamp")]
    Stamp,
    /// The original's JSON, for a receiver that still runs it.
    #[serde(rename = "json-v1")]
    JsonV1,
}

/// What notifications and pages say about a test, as its document says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFacts {
    /// The test's id.
    pub id: TestId,
    /// For people.
    pub description: String,
    /// The host that sends.
    pub from_host: String,
    /// The address and port it sends from.
    pub from: String,
    /// The host that receives and judges.
    pub to_host: String,
    /// The address and port that it sends to.
    pub to: String,
    /// What it has in common with others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// The set that it is of. Boxed: of very many tests every octet counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Box<str>>,
}

#[cfg(test)]
impl TestFacts {
    /// From host `a` to host `b`.
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
    /// The host at the other end, as seen from `host`.
    pub fn peer_of(&self, host: &str) -> &str {
        if self.from_host == host { &self.to_host } else { &self.from_host }
    }

    /// From where to where.
    pub fn path(&self) -> String {
        let end = |host: &str, at: &str| format!("{host} {at}").trim_end().to_owned();
        format!("{} → {}", end(&self.from_host, &self.from), end(&self.to_host, &self.to))
    }
}
