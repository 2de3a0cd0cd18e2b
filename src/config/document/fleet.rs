//! The document `config`, which applies to the whole fleet.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::deserialize::Parts;
use super::duration;
use super::findings::{Findings, Level};
use super::maintenance::MaintenanceDocument;
use super::secret::Secret;
use super::settings::{AlarmSettings, TestSettings};
use super::sinks::SinkConfig;

/// The document `config`, which applies to the whole fleet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetDocument {
    /// Schema version of the documents. An agent that supports only older versions keeps its current configuration.
    pub schema: u64,
    /// Master switch of the fleet. When false, agents run no tests at all.
    pub enabled: bool,
    /// Version of this document, maintained by its author. Probes of the original's format carry it.
    pub version: i64,
    /// Delay above which a measurement is attributed to a wrong clock rather than to a slow path.
    #[serde(with = "duration")]
    pub egregious_latency: Duration,
    /// Settings for tests that do not set them in their own document, in the object `defaults`.
    #[serde(skip)]
    pub defaults: TestSettings,
    /// Conditions under which alarms are raised, cleared and notified.
    pub alarm: AlarmSettings,
    /// Maintenance windows of the fleet, during which matching alarms are suppressed.
    pub maintenance: Vec<MaintenanceDocument>,
    /// Receivers of alarms for every host, in addition to those in the host's own document.
    pub sinks: Vec<SinkConfig>,
    /// Keys for signing probes. Agents accept probes that are signed with any of them.
    pub keys: Vec<KeyDocument>,
    /// Id of the key in `keys` that signs the probes of tests with `keyed = true`.
    pub active_key: Option<u8>,
}

impl FleetDocument {
    /// Reads the document; what does not fit becomes a finding and is left out.
    pub fn read(mut value: Value, findings: &mut Findings) -> Self {
        let defaults = value.as_object_mut().and_then(|fields| fields.remove("defaults"));
        let defaults = defaults.map_or_else(TestSettings::default, |defaults| {
            let mut parts = Parts::new(defaults, "defaults.", Level::Warning, findings);
            TestSettings { common: parts.take(), stamp: parts.rest() }
        });
        let mut parts = Parts::new(value, "", Level::Warning, findings);
        parts.knows("defaults");
        FleetDocument { defaults, ..parts.rest() }
    }
}

/// Key for signing probes: 32 octets in hex or base64, in a file or in the document itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyDocument {
    /// Identifier from 1 to 255, carried in each probe so that the receiver can select the key.
    pub id: u8,
    /// File that contains the key, at this path on every host. It must not be readable by other users.
    pub secret_file: Option<PathBuf>,
    /// The key itself. Anyone with read access to the store can then sign probes.
    pub secret: Option<Secret>,
}

/// Schema version of the documents that this agent supports.
pub const SCHEMA: u64 = 1;

/// Default for `egregious_latency`: a delay that a working network path does not reach.
const EGREGIOUS_LATENCY: Duration = Duration::from_secs(10);

impl Default for FleetDocument {
    fn default() -> Self {
        FleetDocument {
            schema: SCHEMA,
            enabled: true,
            version: 0,
            egregious_latency: EGREGIOUS_LATENCY,
            defaults: TestSettings::default(),
            alarm: AlarmSettings::default(),
            maintenance: Vec::new(),
            sinks: Vec::new(),
            keys: Vec::new(),
            active_key: None,
        }
    }
}
