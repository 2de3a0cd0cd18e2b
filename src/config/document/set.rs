//! The document `sets/<name>`, which defines many tests at once. [`SetDocument`] selects hosts, pairs them by a
//! topology and states the settings that their tests share; `config::expand` derives the tests.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::deserialize::Parts;
use super::findings::{Findings, Level};
use super::maintenance::MaintenanceDocument;
use super::settings::{ALARM_SETTINGS_OF_TESTS, AlarmSettings, TestSettings};
use super::test::{TestDocument, WhenAbsent};

/// The document `sets/<name>`: many tests, expanded identically by every agent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetDocument {
    /// Human-readable description of the tests. Defaults to the name of the set.
    pub description: String,
    /// Tags of the tests. Alarms of tests with a common tag can form a group.
    pub tags: BTreeSet<String>,
    /// Switch of the set. When false, none of its tests runs.
    pub enabled: bool,
    /// Rule by which hosts are paired.
    pub topology: Topology,
    /// Direction in which probes are sent within a pair.
    pub direction: SetDirection,
    /// Selection of the hosts at the first end, or of every host of a mesh.
    pub from: SetEnd,
    /// Selection of the hosts at the second end. Unused in a mesh.
    pub to: SetEnd,
    /// Pairs of host names, for the topology `list` only.
    pub pairs: Vec<[String; 2]>,
    /// Number of peers that each host of `from` tests. Every agent selects the same peers. When omitted, hosts
    /// test every peer.
    pub sample: Option<u32>,
    /// Senders whose probes a receiver expects.
    pub expect: SetExpect,
    /// Address and port that receivers bind. Defaults to the destination of the probes.
    pub listen: String,
    /// Behavior of a receiver while the address to bind is not configured on its host.
    pub when_absent: WhenAbsent,
    /// Windows that suppress alarms about the tests of the set.
    pub maintenance: Vec<MaintenanceDocument>,
    /// Settings of the tests of the set, among the fields of the document.
    #[serde(skip)]
    pub settings: TestSettings,
    /// Alarm settings of the tests of the set, among the fields of the document. Those of the whole host cannot be set.
    #[serde(skip)]
    pub alarm: AlarmSettings,
}

impl Default for SetDocument {
    fn default() -> Self {
        SetDocument {
            description: String::new(),
            tags: BTreeSet::new(),
            enabled: true,
            topology: Topology::Disjoint,
            direction: SetDirection::Forward,
            from: SetEnd::default(),
            to: SetEnd::default(),
            pairs: Vec::new(),
            sample: None,
            expect: SetExpect::Each,
            listen: String::new(),
            when_absent: WhenAbsent::Alarm,
            maintenance: Vec::new(),
            settings: TestSettings::default(),
            alarm: AlarmSettings::default(),
        }
    }
}

impl SetDocument {
    /// Reads the document; what does not fit becomes a finding and is left out.
    pub fn read(value: Value, findings: &mut Findings) -> Self {
        let mut parts = Parts::new(value, "", Level::Warning, findings);
        let settings = TestSettings { common: parts.take(), stamp: parts.take() };
        let alarm = parts.take_only(&ALARM_SETTINGS_OF_TESTS);
        SetDocument { settings, alarm, ..parts.rest() }
    }
}

impl SetDocument {
    /// Returns a test document with the settings that the tests of the set share.
    pub fn template(&self) -> TestDocument {
        TestDocument {
            description: self.description.clone(),
            tags: self.tags.clone(),
            listen: self.listen.clone(),
            when_absent: self.when_absent,
            settings: self.settings.clone(),
            alarm: self.alarm.clone(),
            ..TestDocument::default()
        }
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
pub enum SetDirection {
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
pub enum SetExpect {
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
pub type Hosts = BTreeMap<String, std::sync::Arc<super::host::HostDocument>>;
