//! `sets/<name>`: one document for many tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use super::central::{MaintenanceDocument, TestDocument, WhenAbsent, Wire};
use super::duration;

/// `sets/<name>`: many tests, expanded the same way by every agent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetDocument {
    /// For people.
    pub description: String,
    /// What its tests have in common with others.
    pub tags: BTreeSet<String>,
    /// False: none of its tests is run.
    pub enabled: bool,
    /// Who tests whom.
    pub topology: Topology,
    /// Which way.
    pub direction: Direction,
    /// One end, or all of a mesh.
    pub from: SetEnd,
    /// The other end.
    pub to: SetEnd,
    /// The pairs of a `list`.
    pub pairs: Vec<[String; 2]>,
    /// Each host of `from` tests only so many others, chosen alike by all agents.
    pub sample: Option<u32>,
    /// Whose probes a receiver wants.
    pub expect: Expect,
    /// Where receivers bind, if that is not where probes are sent to.
    pub listen: String,
    /// What a receiver does whose address is not on it.
    pub when_absent: WhenAbsent,
    /// When nothing about its tests is an alarm.
    pub maintenance: Vec<MaintenanceDocument>,
    /// See [`TestDocument`].
    #[serde(with = "duration::optional")]
    pub send_every: Option<Duration>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub expect_every: Option<Duration>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub max_latency: Option<Duration>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub clear_latency: Option<Duration>,
    /// See [`TestDocument`].
    pub wire: Option<Wire>,
    /// See [`TestDocument`].
    pub raise_after: Option<u32>,
    /// See [`TestDocument`].
    pub raise_out_of: Option<u32>,
    /// See [`TestDocument`].
    pub clear_after: Option<u32>,
    /// See [`TestDocument`].
    pub clear_out_of: Option<u32>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub startup_grace: Option<Duration>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub max_pause: Option<Duration>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub hold_down: Option<Duration>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub hold_down_max: Option<Duration>,
    /// See [`TestDocument`].
    pub flap_high: Option<u32>,
    /// See [`TestDocument`].
    pub flap_low: Option<u32>,
    #[serde(with = "duration::optional")]
    /// See [`TestDocument`].
    pub flap_window: Option<Duration>,
}

impl Default for SetDocument {
    fn default() -> Self {
        SetDocument {
            description: String::new(),
            tags: BTreeSet::new(),
            enabled: true,
            topology: Topology::Disjoint,
            direction: Direction::Forward,
            from: SetEnd::default(),
            to: SetEnd::default(),
            pairs: Vec::new(),
            sample: None,
            expect: Expect::Each,
            listen: String::new(),
            when_absent: WhenAbsent::Alarm,
            maintenance: Vec::new(),
            send_every: None,
            expect_every: None,
            max_latency: None,
            clear_latency: None,
            wire: None,
            raise_after: None,
            raise_out_of: None,
            clear_after: None,
            clear_out_of: None,
            startup_grace: None,
            max_pause: None,
            hold_down: None,
            hold_down_max: None,
            flap_high: None,
            flap_low: None,
            flap_window: None,
        }
    }
}

impl SetDocument {
    /// What all its tests have in common.
    pub fn template(&self) -> TestDocument {
        TestDocument {
            description: self.description.clone(),
            tags: self.tags.clone(),
            listen: self.listen.clone(),
            when_absent: self.when_absent,
            send_every: self.send_every,
            expect_every: self.expect_every,
            max_latency: self.max_latency,
            clear_latency: self.clear_latency,
            wire: self.wire,
            raise_after: self.raise_after,
            raise_out_of: self.raise_out_of,
            clear_after: self.clear_after,
            clear_out_of: self.clear_out_of,
            startup_grace: self.startup_grace,
            max_pause: self.max_pause,
            hold_down: self.hold_down,
            hold_down_max: self.hold_down_max,
            flap_high: self.flap_high,
            flap_low: self.flap_low,
            flap_window: self.flap_window,
            ..TestDocument::default()
        }
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
