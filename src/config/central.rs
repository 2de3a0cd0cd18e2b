//! The documents: `config`, `hosts/<host>` and `tests/<host>/<id>`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::secret::Secret;
use super::settings::{define_defaults, define_document, with_test_settings};
use super::sinks::SinkConfig;

/// `config`: for the whole fleet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Global {
    /// The version of these documents' form; an agent that knows only older ones changes nothing.
    pub schema: u64,
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
    /// When no alarms are raised.
    pub maintenance: Vec<MaintenanceDocument>,
    /// Receivers of alarms, beside those in the host's own document.
    pub sinks: Vec<SinkConfig>,
    /// What probes can be signed with. Every agent takes all of them.
    pub keys: Vec<KeyDocument>,
    /// The id of the one that tests with `keyed` are signed with.
    pub active_key: Option<u8>,
}

/// A key that probes can be signed with: 32 octets in hex or base64.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyDocument {
    /// From 1 to 255; probes carry it.
    pub id: u8,
    /// The file that holds it, on every host; others must not be able to read it.
    pub secret_file: Option<PathBuf>,
    /// The key itself, for those who trust whoever can read the store.
    pub secret: Option<Secret>,
}

/// The form of documents that this agent knows.
pub const SCHEMA: u64 = 1;

/// No path takes that long.
const EGREGIOUS_LATENCY: Duration = Duration::from_secs(10);

impl Default for Global {
    fn default() -> Self {
        Global {
            schema: SCHEMA,
            enabled: true,
            version: 0,
            egregious_latency: EGREGIOUS_LATENCY,
            defaults: TestDefaults::default(),
            alarm: AlarmSettings::default(),
            maintenance: Vec::new(),
            sinks: Vec::new(),
            keys: Vec::new(),
            active_key: None,
        }
    }
}

with_test_settings! { define_defaults! {
    /// How tests are run and judged that say nothing else.
    pub struct TestDefaults;
} }

/// When alarms are raised, cleared and told. What is left out comes from the level above: test,
/// host, global, built-in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmSettings {
    /// So many bad samples raise.
    pub raise_after: Option<u32>,
    /// Out of so many; left out: as many, in a row.
    pub raise_out_of: Option<u32>,
    /// So many good samples clear.
    pub clear_after: Option<u32>,
    /// Out of so many; left out: as many, in a row.
    pub clear_out_of: Option<u32>,
    /// After a test begins, its silence is forgiven for so long.
    #[serde(with = "duration::optional")]
    pub startup_grace: Option<Duration>,
    /// The silence of a sender that announced its stop is forgiven for so long.
    #[serde(with = "duration::optional")]
    pub max_pause: Option<Duration>,
    /// After a telling, the alarm is left alone for so long.
    #[serde(with = "duration::optional")]
    pub hold_down: Option<Duration>,
    /// While it keeps changing, `hold_down` doubles up to this.
    #[serde(with = "duration::optional")]
    pub hold_down_max: Option<Duration>,
    /// So many changes within `flap_window` are told as flapping; 0: never.
    pub flap_high: Option<u32>,
    /// It is calm again once there are no more than so many.
    pub flap_low: Option<u32>,
    /// The time in which changes are counted.
    #[serde(with = "duration::optional")]
    pub flap_window: Option<Duration>,
    /// Tests that share something are waited for so long. This and what follows is for a host or
    /// the fleet, not for single tests.
    #[serde(with = "duration::optional")]
    pub group_wait: Option<Duration>,
    /// So many of them make one alarm; 0: never.
    pub group_min: Option<u32>,
    /// If they are this share of all that share it.
    pub group_ratio: Option<f64>,
    /// More alarms that wait to be told are a storm; 0: never.
    pub storm_on: Option<u32>,
    /// Fewer changes a minute are calm.
    #[serde(deserialize_with = "per_minute")]
    pub storm_calm: Option<u32>,
    /// A storm is summed up this often.
    #[serde(with = "duration::optional")]
    pub summary_interval: Option<Duration>,
    /// Single alarms wait for its end no longer than this.
    #[serde(with = "duration::optional")]
    pub storm_hold_max: Option<Duration>,
    /// An alarm that stands is told again this often; 0s: never.
    #[serde(with = "duration::optional")]
    pub renotify: Option<Duration>,
    /// The config store may be away for so long before that is an alarm.
    #[serde(with = "duration::optional")]
    pub store_patience: Option<Duration>,
    /// A plain trap is sent again so long after; an empty list: never.
    #[serde(with = "duration::list")]
    pub trap_repeat: Option<Vec<Duration>>,
}

impl AlarmSettings {
    /// These settings, and those of `above` where these say nothing.
    pub fn or(self, above: &AlarmSettings) -> AlarmSettings {
        AlarmSettings {
            raise_after: self.raise_after.or(above.raise_after),
            // How many out of how many belong together.
            raise_out_of: self.raise_out_of.or(above.raise_out_of.filter(|_| self.raise_after.is_none())),
            clear_after: self.clear_after.or(above.clear_after),
            clear_out_of: self.clear_out_of.or(above.clear_out_of.filter(|_| self.clear_after.is_none())),
            startup_grace: self.startup_grace.or(above.startup_grace),
            max_pause: self.max_pause.or(above.max_pause),
            hold_down: self.hold_down.or(above.hold_down),
            hold_down_max: self.hold_down_max.or(above.hold_down_max),
            flap_high: self.flap_high.or(above.flap_high),
            flap_low: self.flap_low.or(above.flap_low),
            flap_window: self.flap_window.or(above.flap_window),
            group_wait: self.group_wait.or(above.group_wait),
            group_min: self.group_min.or(above.group_min),
            group_ratio: self.group_ratio.or(above.group_ratio),
            storm_on: self.storm_on.or(above.storm_on),
            storm_calm: self.storm_calm.or(above.storm_calm),
            summary_interval: self.summary_interval.or(above.summary_interval),
            storm_hold_max: self.storm_hold_max.or(above.storm_hold_max),
            renotify: self.renotify.or(above.renotify),
            store_patience: self.store_patience.or(above.store_patience),
            trap_repeat: self.trap_repeat.or_else(|| above.trap_repeat.clone()),
        }
    }
}

/// `30` or `"30/min"`.
fn per_minute<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = u32;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number of changes a minute, such as 30 or \"30/min\"")
        }
        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
        }
        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u32, E> {
            let number = text.trim().strip_suffix("/min").unwrap_or(text).trim().parse();
            number.map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    struct PerMinute(u32);
    impl<'de> Deserialize<'de> for PerMinute {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Visitor).map(PerMinute)
        }
    }
    let number: Option<PerMinute> = Option::deserialize(deserializer)?;
    Ok(number.map(|number| number.0))
}

/// A window in which no alarms are raised. What was told before, and ends meanwhile, is told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceDocument {
    /// For people.
    pub comment: String,
    /// Only alarms about these hosts; `*` stands for anything, also in `tags` and `tests`. Lists
    /// that are left out match everything.
    pub hosts: Vec<String>,
    /// Only tests with one of these tags.
    pub tags: Vec<String>,
    /// Only tests with one of these ids or descriptions.
    pub tests: Vec<String>,
    /// Only tests of these sets.
    pub sets: Vec<String>,
    /// Its begin: a date and time, or a time of day if it recurs.
    pub from: String,
    /// Its end, likewise.
    pub to: String,
    /// In which time zone, such as `Europe/Berlin`; left out: UTC.
    pub time_zone: String,
    /// It recurs: on these days of the week, by their begin; left out: every day.
    pub days: Vec<Day>,
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// `hosts/<host>`: for one host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostDocument {
    /// False: this host tests nothing.
    pub enabled: bool,
    /// Its addresses by names of the fleet's choice; sets take `default`.
    pub addresses: BTreeMap<String, IpAddr>,
    /// What sets can select it by.
    pub groups: BTreeSet<String>,
    /// True: nothing about this host is an alarm, here and at the other ends of its tests.
    pub drained: bool,
    /// For all tests of this host.
    pub alarm: AlarmSettings,
    /// When nothing about this host is an alarm, here and at the other ends of its tests.
    pub maintenance: Vec<MaintenanceDocument>,
    /// Receivers of this host's alarms.
    pub sinks: Vec<SinkConfig>,
    /// `address:port` of a time server that this host's clock is held against every few minutes.
    pub ntp_server: String,
    /// True: its listeners answer STAMP and TWAMP-light senders that are no agents.
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

with_test_settings! { define_document! {
    /// `tests/<host>/<id>`: one test, under both of its hosts.
    pub struct TestDocument {
        /// A UUID, the same under both hosts.
        pub id: String = String::new(),
        /// For people.
        pub description: String = String::new(),
        /// What this test has in common with others.
        pub tags: BTreeSet<String> = BTreeSet::new(),
        /// False: not run.
        pub enabled: bool = true,
        /// The host that sends.
        pub from_host: String = String::new(),
        /// The address and port that it sends from; port 0 or nothing: any.
        pub from: String = String::new(),
        /// The host that receives and judges.
        pub to_host: String = String::new(),
        /// The address and port that it sends to.
        pub to: String = String::new(),
        /// Where the receiver binds, if that is not `to`.
        pub listen: String = String::new(),
        /// What the receiver does if that address is not on it now.
        pub when_absent: WhenAbsent = WhenAbsent::Alarm,
        /// The set that it was expanded from.
        #[serde(skip)]
        pub set: Option<String> = None,
        /// `udp`.
        pub protocol: Protocol = Protocol::Udp,
    }
} }

/// What a receiver does if the address where it should listen is not on it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAbsent {
    /// It expects nothing until the address comes: a floating one is elsewhere now.
    Standby,
    /// It says so.
    Alarm,
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
