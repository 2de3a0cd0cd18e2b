//! Identifier of a test, the same on all hosts.

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
