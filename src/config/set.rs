//! `sets/<name>`: one document for many tests.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::central::{MaintenanceDocument, TestDocument, WhenAbsent};
use super::settings::{define_document, with_test_settings};

with_test_settings! { define_document! {
    /// `sets/<name>`: many tests, expanded the same way by every agent.
    pub struct SetDocument {
        /// For people.
        pub description: String = String::new(),
        /// What its tests have in common with others.
        pub tags: BTreeSet<String> = BTreeSet::new(),
        /// False: none of its tests is run.
        pub enabled: bool = true,
        /// Who tests whom.
        pub topology: Topology = Topology::Disjoint,
        /// Which way.
        pub direction: Direction = Direction::Forward,
        /// One end, or all of a mesh.
        pub from: SetEnd = SetEnd::default(),
        /// The other end.
        pub to: SetEnd = SetEnd::default(),
        /// The pairs of a `list`.
        pub pairs: Vec<[String; 2]> = Vec::new(),
        /// Each host of `from` tests only so many others, chosen alike by all agents.
        pub sample: Option<u32> = None,
        /// Whose probes a receiver wants.
        pub expect: Expect = Expect::Each,
        /// Where receivers bind, if that is not where probes are sent to.
        pub listen: String = String::new(),
        /// What a receiver does whose address is not on it.
        pub when_absent: WhenAbsent = WhenAbsent::Alarm,
        /// When nothing about its tests is an alarm.
        pub maintenance: Vec<MaintenanceDocument> = Vec::new(),
    }
} }

impl SetDocument {
    /// What all its tests have in common.
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

/// Who tests whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Every host of `from` every other of `from`.
    Mesh,
    /// Every host of `from` every host of `to`.
    Disjoint,
    /// All of `from` the first host of `to`.
    Star,
    /// The pairs that are given one by one.
    List,
}

/// Which way probes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From `from` to `to`.
    Forward,
    /// From `to` to `from`.
    Backward,
    /// Both ways.
    Both,
}

/// Whose probes a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Those of each sender.
    Each,
    /// Those of any of them: the others may reach somebody else behind a load balancer.
    Any,
}

/// One end of a set: some hosts, and where each of them is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetEnd {
    /// Their names; `*` stands for anything.
    pub hosts: Vec<String>,
    /// The groups that they are in.
    pub groups: Vec<String>,
    /// But not these names; `*` stands for anything.
    pub except: Vec<String>,
    /// Which of a host's `addresses`.
    pub address: String,
    /// Where it receives, and what it sends from; left out: 8620 where it receives, any where it only sends.
    pub port: Option<u16>,
    /// Where senders send to, where that is not the receiver's own address: `address:port`.
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

/// All hosts with a document, by their names.
pub type Hosts = BTreeMap<String, std::sync::Arc<super::central::HostDocument>>;
