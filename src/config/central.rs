//! The documents: `config`, `hosts/<host>` and `tests/<host>/<id>`.

use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::sinks::SinkConfig;

/// `config`: for the whole fleet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Global {
    /// False: no agent tests anything.
    pub enabled: bool,
    /// The document's own version; the original's probes carry it.
    pub version: i64,
    /// A delay beyond this is a wrong clock, not a slow path.
    #[serde(with = "duration")]
    pub egregious_latency: Duration,
    /// What tests do that say nothing else.
    pub defaults: TestDefaults,
    /// When alarms are raised, cleared and told.
    pub alarm: AlarmSettings,
    /// Receivers of alarms, beside those in the host's own document.
    pub sinks: Vec<SinkConfig>,
}

/// No path takes that long.
const EGREGIOUS_LATENCY: Duration = Duration::from_secs(10);

impl Default for Global {
    fn default() -> Self {
        Global {
            enabled: true,
            version: 0,
            egregious_latency: EGREGIOUS_LATENCY,
            defaults: TestDefaults::default(),
            alarm: AlarmSettings::default(),
            sinks: Vec::new(),
        }
    }
}

/// What tests do that say nothing else.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestDefaults {
    /// See [`TestDocument::send_every`].
    #[serde(with = "duration::optional")]
    pub send_every: Option<Duration>,
    /// See [`TestDocument::expect_every`].
    #[serde(with = "duration::optional")]
    pub expect_every: Option<Duration>,
    /// See [`TestDocument::max_latency`].
    #[serde(with = "duration::optional")]
    pub max_latency: Option<Duration>,
    /// See [`TestDocument::wire`].
    pub wire: Option<Wire>,
}

/// When alarms are raised, cleared and told. What is left out comes from the level above: test,
/// host, global, built-in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmSettings {
    /// So many bad samples in a row raise.
    pub raise_after: Option<u32>,
    /// So many good samples in a row clear.
    pub clear_after: Option<u32>,
    /// After a test begins, its silence is forgiven for so long.
    #[serde(with = "duration::optional")]
    pub startup_grace: Option<Duration>,
    /// After a telling, the alarm is left alone for so long.
    #[serde(with = "duration::optional")]
    pub hold_down: Option<Duration>,
    /// While it keeps changing, `hold_down` doubles up to this.
    #[serde(with = "duration::optional")]
    pub hold_down_max: Option<Duration>,
    /// A plain trap is sent again so long after; an empty list: never. Not for single tests.
    #[serde(with = "duration::list")]
    pub trap_repeat: Option<Vec<Duration>>,
}

impl AlarmSettings {
    /// These settings, and those of `above` where these say nothing.
    pub fn or(self, above: &AlarmSettings) -> AlarmSettings {
        AlarmSettings {
            raise_after: self.raise_after.or(above.raise_after),
            clear_after: self.clear_after.or(above.clear_after),
            startup_grace: self.startup_grace.or(above.startup_grace),
            hold_down: self.hold_down.or(above.hold_down),
            hold_down_max: self.hold_down_max.or(above.hold_down_max),
            trap_repeat: self.trap_repeat.or_else(|| above.trap_repeat.clone()),
        }
    }
}

/// `hosts/<host>`: for one host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostDocument {
    /// False: this host tests nothing.
    pub enabled: bool,
    /// For all tests of this host.
    pub alarm: AlarmSettings,
    /// Receivers of this host's alarms.
    pub sinks: Vec<SinkConfig>,
}

impl Default for HostDocument {
    fn default() -> Self {
        HostDocument { enabled: true, alarm: AlarmSettings::default(), sinks: Vec::new() }
    }
}

/// `tests/<host>/<id>`: one test, under both of its hosts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestDocument {
    /// A UUID, the same under both hosts.
    pub id: String,
    /// For people.
    pub description: String,
    /// False: not run.
    pub enabled: bool,
    /// The host that sends.
    pub from_host: String,
    /// The address and port that it sends from; port 0 or nothing: any.
    pub from: String,
    /// The host that receives and judges.
    pub to_host: String,
    /// The address and port that it sends to.
    pub to: String,
    /// Where the receiver binds, if that is not `to`.
    pub listen: String,
    /// `udp`.
    pub protocol: Protocol,
    /// The sender's interval; left out: half of `expect_every`.
    #[serde(with = "duration::optional")]
    pub send_every: Option<Duration>,
    /// At least one probe in each such time; left out: twice `send_every`.
    #[serde(with = "duration::optional")]
    pub expect_every: Option<Duration>,
    /// A one-way delay beyond this is an alarm.
    #[serde(with = "duration::optional")]
    pub max_latency: Option<Duration>,
    /// Which probe is sent.
    pub wire: Option<Wire>,
    /// See [`AlarmSettings`].
    pub raise_after: Option<u32>,
    /// See [`AlarmSettings`].
    pub clear_after: Option<u32>,
    /// See [`AlarmSettings`].
    #[serde(with = "duration::optional")]
    pub startup_grace: Option<Duration>,
    /// See [`AlarmSettings`].
    #[serde(with = "duration::optional")]
    pub hold_down: Option<Duration>,
    /// See [`AlarmSettings`].
    #[serde(with = "duration::optional")]
    pub hold_down_max: Option<Duration>,
}

impl Default for TestDocument {
    fn default() -> Self {
        TestDocument {
            id: String::new(),
            description: String::new(),
            enabled: true,
            from_host: String::new(),
            from: String::new(),
            to_host: String::new(),
            to: String::new(),
            listen: String::new(),
            protocol: Protocol::Udp,
            send_every: None,
            expect_every: None,
            max_latency: None,
            wire: None,
            raise_after: None,
            clear_after: None,
            startup_grace: None,
            hold_down: None,
            hold_down_max: None,
        }
    }
}

impl TestDocument {
    /// The test's own alarm settings.
    pub fn alarm(&self) -> AlarmSettings {
        AlarmSettings {
            raise_after: self.raise_after,
            clear_after: self.clear_after,
            startup_grace: self.startup_grace,
            hold_down: self.hold_down,
            hold_down_max: self.hold_down_max,
            trap_repeat: None,
        }
    }
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
}

/// In any case, as people write it.
impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.eq_ignore_ascii_case("udp") {
            true => Ok(Protocol::Udp),
            false => Err(serde::de::Error::unknown_variant(&name, &["udp"])),
        }
    }
}

/// Which probe is sent. Both are understood on receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub enum Wire {
    /// STAMP with our extension.
    #[serde(rename = "stamp")]
    Stamp,
    /// The original's JSON, for a receiver that still runs it.
    #[serde(rename = "json-v1")]
    JsonV1,
}
