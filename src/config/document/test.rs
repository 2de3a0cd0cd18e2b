//! The document `tests/<host>/<id>`, which defines a single test.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::deserialize::Parts;
use super::findings::{Findings, Level};
use super::settings::{ALARM_SETTINGS_OF_TESTS, AlarmSettings, TestSettings};
use crate::pure::test::spec::Protocol;

/// The document `tests/<host>/<id>`, stored under both hosts of the test.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestDocument {
    /// UUID of the test. Both hosts must have the same one.
    pub id: String,
    /// Human-readable description, shown in alarms and on the status page.
    pub description: String,
    /// Properties that this test shares with others. Alarms of tests with a common tag can form a group.
    pub tags: BTreeSet<String>,
    /// Switch of the test. When false, neither end runs it.
    pub enabled: bool,
    /// Name of the host that sends the probes.
    pub from_host: String,
    /// Address and port that probes are sent from. Port 0 or an empty string leaves the choice to the system.
    pub from: String,
    /// Name of the host that receives the probes and judges them.
    pub to_host: String,
    /// Address and port that probes are sent to.
    pub to: String,
    /// Address and port that the receiver binds. Defaults to `to`.
    pub listen: String,
    /// Behavior of the receiver while the address to bind is not configured on its host.
    pub when_absent: WhenAbsent,
    /// Name of the set from which the test was expanded. `None` for a test with its own document.
    #[serde(skip)]
    pub set: Option<String>,
    /// Kind of probe.
    pub protocol: Protocol,
    /// Host and port that are probed, for the kinds of probes that need no agent at the other end.
    pub target: String,
    /// Settings of the test, among the fields of the document.
    #[serde(skip)]
    pub settings: TestSettings,
    /// Alarm settings of the test, among the fields of the document. Those of the whole host cannot be set.
    #[serde(skip)]
    pub alarm: AlarmSettings,
}

impl Default for TestDocument {
    fn default() -> Self {
        TestDocument {
            id: String::new(),
            description: String::new(),
            tags: BTreeSet::new(),
            enabled: true,
            from_host: String::new(),
            from: String::new(),
            to_host: String::new(),
            to: String::new(),
            listen: String::new(),
            when_absent: WhenAbsent::Alarm,
            set: None,
            protocol: Protocol::Udp,
            target: String::new(),
            settings: TestSettings::default(),
            alarm: AlarmSettings::default(),
        }
    }
}

impl TestDocument {
    /// Reads the document; what does not fit becomes a finding and is left out.
    pub fn read(value: Value, findings: &mut Findings) -> Self {
        let mut parts = Parts::new(value, "", Level::Warning, findings);
        let settings = TestSettings { common: parts.take(), stamp: parts.take() };
        let alarm = parts.take_only(&ALARM_SETTINGS_OF_TESTS);
        TestDocument { settings, alarm, ..parts.rest() }
    }
}

/// Behavior of a receiver while the address it should bind is not configured on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAbsent {
    /// Waits without an alarm until the address appears, because a floating address is currently on another host.
    Standby,
    /// Raises an alarm about the missing address.
    Alarm,
}
