//! The document `sets/<name>`, which defines many tests at once. [`SetDocument`] selects hosts, pairs them by a
//! topology and states the settings that their tests share; `expansion` derives the tests.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::central::{MaintenanceDocument, TestDocument, WhenAbsent};
use super::settings::{define_document, with_test_settings};

with_test_settings! { define_document! {
    /// The document `sets/<name>`: many tests, expanded identically by every agent.
    pub struct SetDocument {
        /// Human-readable description of the tests. Defaults to the name of the set.
        pub description: String = String::new(),
        /// Tags of the tests. Alarms of tests with a common tag can form a group.
        pub tags: BTreeSet<String> = BTreeSet::new(),
        /// Switch of the set. When false, none of its tests runs.
        pub enabled: bool = true,
        /// Rule by which hosts are paired.
        pub topology: Topology = Topology::Disjoint,
        /// Direction in which probes are sent within a pair.
        pub direction: Direction = Direction::Forward,
        /// Selection of the hosts at the first end, or of every host of a mesh.
        pub from: SetEnd = SetEnd::default(),
        /// Selection of the hosts at the second end. Unused in a mesh.
        pub to: SetEnd = SetEnd::default(),
        /// Pairs of host names, for the topology `list` only.
        pub pairs: Vec<[String; 2]> = Vec::new(),
        /// Number of peers that each host of `from` tests. Every agent selects the same peers. When omitted, hosts
        /// test every peer.
        pub sample: Option<u32> = None,
        /// Senders whose probes a receiver expects.
        pub expect: Expect = Expect::Each,
        /// Address and port that receivers bind. Defaults to the destination of the probes.
        pub listen: String = String::new(),
        /// Behavior of a receiver while the address to bind is not configured on its host.
        pub when_absent: WhenAbsent = WhenAbsent::Alarm,
        /// Windows that suppress alarms about the tests of the set.
        pub maintenance: Vec<MaintenanceDocument> = Vec::new(),
    }
} }

impl SetDocument {
    /// Returns a test document with the settings that the tests of the set share.
    pub fn template(&self) -> TestDocument {
        let document = TestDocument {
            description: self.description.clone(),
            tags: self.tags.clone(),
            listen: self.listen.clone(),
            when_absent: self.when_absent,
            ..TestDocument::default()
        };
        document.with(self.settings(), self.alarm())
    }
}

/// Rules by which the hosts of a set are paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Pairs every host of `from` with every other host of `from`.
    Mesh,
    /// Pairs every host of `from` with every host of `to`.
    Disjoint,
    /// Pairs every host of `from` with the first host of `to`, the hub.
    Star,
    /// Uses the pairs that the document lists.
    List,
}

/// Direction in which probes are sent within a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Probes are sent from `from` to `to`.
    Forward,
    /// Probes are sent from `to` to `from`.
    Backward,
    /// Probes are sent in both directions, as two tests.
    Both,
}

/// Senders whose probes a receiver expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Probes of every sender are expected, and a missing one is an alarm.
    Each,
    /// Probes of any sender are sufficient, because a load balancer may deliver those of others to another receiver.
    Any,
}

/// Selection of hosts at an end of the set, with their addresses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetEnd {
    /// Names of the hosts; `*` matches any text.
    pub hosts: Vec<String>,
    /// Groups whose hosts are selected.
    pub groups: Vec<String>,
    /// Names to exclude from the selection; `*` matches any text.
    pub except: Vec<String>,
    /// Name of the host address to use, from `addresses` in the host documents.
    pub address: String,
    /// Port to receive at and to send from. When omitted, an end that receives uses 8620 and an end that only sends
    /// uses any port.
    pub port: Option<u16>,
    /// Destination of the probes in the form `address:port`, when it is not an address of the receiver itself.
    pub at: String,
}

impl Default for SetEnd {
    fn default() -> Self {
        SetEnd {
            hosts: Vec::new(),
            groups: Vec::new(),
            except: Vec::new(),
            address: "default".to_owned(),
            port: None,
            at: String::new(),
        }
    }
}

/// Host documents by host name, from which the ends of a set are selected.
pub type Hosts = BTreeMap<String, std::sync::Arc<super::central::HostDocument>>;
