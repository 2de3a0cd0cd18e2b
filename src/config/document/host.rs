//! The document `hosts/<host>`, which applies to a single host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

use super::maintenance::MaintenanceDocument;
use super::settings::AlarmSettings;
use super::sinks::SinkConfig;

/// The document `hosts/<host>`, which applies to a single host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostDocument {
    /// Switch of the host. When false, its agent runs no tests.
    pub enabled: bool,
    /// IP addresses of the host by names that the fleet chooses. Sets use the name `default` unless they state
    /// another one.
    pub addresses: BTreeMap<String, IpAddr>,
    /// Groups by which the ends of a set select the host.
    pub groups: BTreeSet<String>,
    /// Suppresses alarms about this host, both on its own agent and on the agents at the other ends of its tests.
    pub drained: bool,
    /// Alarm settings for every test of this host.
    pub alarm: AlarmSettings,
    /// Windows that suppress alarms about this host, both on its own agent and on the agents at the other ends of its
    /// tests.
    pub maintenance: Vec<MaintenanceDocument>,
    /// Receivers of the alarms of this host.
    pub sinks: Vec<SinkConfig>,
    /// Time server in the form `address:port`, against which the agent compares the wall clock every few minutes.
    pub ntp_server: String,
    /// Lets listeners of this host answer STAMP and TWAMP-Light senders that are not peerpair agents.
    pub reflect_foreign: bool,
}

impl Default for HostDocument {
    fn default() -> Self {
        HostDocument {
            enabled: true,
            addresses: BTreeMap::new(),
            groups: BTreeSet::new(),
            drained: false,
            alarm: AlarmSettings::default(),
            maintenance: Vec::new(),
            sinks: Vec::new(),
            ntp_server: String::new(),
            reflect_foreign: false,
        }
    }
}
