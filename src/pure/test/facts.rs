//! Facts that describe a test and its endpoints, for notifications and the web pages.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::id::TestId;
use super::spec::Protocol;

/// Descriptive data of a test for notifications and web pages, taken from its document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFacts {
    /// Identifier of the test.
    pub id: TestId,
    /// Kind of its probes.
    #[serde(default)]
    pub protocol: Protocol,
    /// Human-readable description of the test.
    pub description: String,
    /// Name of the host that sends the probes.
    pub from_host: String,
    /// Address and port that the probes are sent from.
    pub from: String,
    /// Name of the host that receives and judges the probes, or the host of a target that needs no agent.
    pub to_host: String,
    /// Address and port that the probes are sent to, as the document states them.
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
            protocol: Protocol::Udp,
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

    /// Returns the host whose agent receives and judges the probes; `None` for a target.
    pub fn receiver(&self) -> Option<&str> {
        match self.protocol {
            Protocol::Udp => Some(&self.to_host),
            Protocol::Tcp => None,
        }
    }

    /// Returns whether the agent of this host takes part in the test.
    pub fn concerns(&self, host: &str) -> bool {
        self.from_host == host || self.receiver() == Some(host)
    }

    /// Returns the destination in human-readable form: a host, or a target with its port.
    pub fn destination(&self) -> &str {
        match self.protocol {
            Protocol::Udp => &self.to_host,
            Protocol::Tcp => &self.to,
        }
    }

    /// Returns the path of the test in human-readable form: the sending host and address, an arrow, and the receiving
    /// host and address.
    pub fn path(&self) -> String {
        let end = |host: &str, at: &str| format!("{host} {at}").trim_end().to_owned();
        let to = match self.protocol {
            Protocol::Udp => end(&self.to_host, &self.to),
            Protocol::Tcp => self.to.clone(),
        };
        format!("{} → {to}", end(&self.from_host, &self.from))
    }
}
