//! Typed forms of the documents in the store: [`Global`] for `config`, [`HostDocument`] for `hosts/<host>` and
//! [`TestDocument`] for `tests/<host>/<id>`. The settings that a test, its host and the fleet share are merged by
//! [`AlarmSettings::or`] and [`TestDefaults::or`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::secret::Secret;
use super::settings::{define_defaults, define_document, with_test_settings};
use super::sinks::SinkConfig;

/// The document `config`, which applies to the whole fleet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Global {
    /// Schema version of the documents. An agent that supports only older versions keeps its current configuration.
    pub schema: u64,
    /// Master switch of the fleet. When false, agents run no tests at all.
    pub enabled: bool,
    /// Version of this document, maintained by its author. Probes of the original's format carry it.
    pub version: i64,
    /// Delay above which a measurement is attributed to a wrong clock rather than to a slow path.
    #[serde(with = "duration")]
    pub egregious_latency: Duration,
    /// Settings for tests that do not set them in their own document.
    pub defaults: TestDefaults,
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
    /// Settings for tests that do not set them in their own document.
    pub struct TestDefaults;
} }

/// Conditions under which alarms are raised, cleared and notified. An omitted setting is taken from the next level:
/// test, host, global document, built-in default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmSettings {
    /// Number of bad samples that raises an alarm.
    pub raise_after: Option<u32>,
    /// Number of most recent samples among which `raise_after` bad ones are counted. When omitted, the bad samples
    /// must be consecutive.
    pub raise_out_of: Option<u32>,
    /// Number of good samples that clears an alarm.
    pub clear_after: Option<u32>,
    /// Number of most recent samples among which `clear_after` good ones are counted. When omitted, the good samples
    /// must be consecutive.
    pub clear_out_of: Option<u32>,
    /// Time after the start of a test during which missing probes do not raise an alarm.
    #[serde(with = "duration::optional")]
    pub startup_grace: Option<Duration>,
    /// Time for which missing probes are tolerated after the sender announced that it stops.
    #[serde(with = "duration::optional")]
    pub max_pause: Option<Duration>,
    /// Time after a notification of an alarm during which further changes of that alarm are not notified.
    #[serde(with = "duration::optional")]
    pub hold_down: Option<Duration>,
    /// Upper bound for the hold-down time, which doubles from `hold_down` while the alarm keeps changing.
    #[serde(with = "duration::optional")]
    pub hold_down_max: Option<Duration>,
    /// Number of changes within `flap_window` from which an alarm is reported as flapping. 0 disables flap detection.
    pub flap_high: Option<u32>,
    /// Number of changes within `flap_window` at or below which a flapping alarm is stable again.
    pub flap_low: Option<u32>,
    /// Length of the sliding window in which the changes of an alarm are counted.
    #[serde(with = "duration::optional")]
    pub flap_window: Option<Duration>,
    /// Time to wait for further alarms of tests with a common host or tag before a group is formed. This setting and
    /// the following ones apply to a host or the fleet, not to single tests.
    #[serde(with = "duration::optional")]
    pub group_wait: Option<Duration>,
    /// Least number of related tests with an alarm that forms a group. 0 disables grouping.
    pub group_min: Option<u32>,
    /// Least share of the related tests that must have an alarm to form a group, above 0 and up to 1.
    pub group_ratio: Option<f64>,
    /// Number of pending notifications above which a storm is declared. 0 disables storm detection.
    pub storm_on: Option<u32>,
    /// Number of changes per minute below which a storm can end.
    #[serde(deserialize_with = "per_minute")]
    pub storm_calm: Option<u32>,
    /// Interval between the summary notifications during a storm.
    #[serde(with = "duration::optional")]
    pub summary_interval: Option<Duration>,
    /// Longest time for which single alarms are held back until the storm ends.
    #[serde(with = "duration::optional")]
    pub storm_hold_max: Option<Duration>,
    /// Interval at which a raised alarm is notified again. 0 s disables repetition.
    #[serde(with = "duration::optional")]
    pub renotify: Option<Duration>,
    /// Time for which the config store may be unreachable before an alarm is raised.
    #[serde(with = "duration::optional")]
    pub store_patience: Option<Duration>,
    /// Times after the first notification at which a plain trap or syslog message, which is not acknowledged, is sent
    /// again; in growing order. An empty list disables repetition.
    #[serde(with = "duration::list")]
    pub trap_repeat: Option<Vec<Duration>>,
}

impl AlarmSettings {
    /// Returns these settings, with unset ones taken from `above`.
    pub fn or(self, above: &AlarmSettings) -> AlarmSettings {
        AlarmSettings {
            raise_after: self.raise_after.or(above.raise_after),
            // A threshold and its sample count belong together: a level that sets the threshold does not inherit the
            // count.
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

/// Deserializes a rate in changes per minute, written as `30` or `"30/min"`.
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

/// Time window in which matching alarms are suppressed. An alarm that was notified before the window and clears
/// during it is still notified as cleared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceDocument {
    /// Human-readable name of the window, shown where alarms are suppressed by it.
    pub comment: String,
    /// Host names to which the window is limited; `*` matches any text, also in `tags` and `tests`. An empty list
    /// matches everything.
    pub hosts: Vec<String>,
    /// Tags to which the window is limited: a test needs at least one of them.
    pub tags: Vec<String>,
    /// Ids or descriptions of the tests to which the window is limited.
    pub tests: Vec<String>,
    /// Names of the sets to whose tests the window is limited.
    pub sets: Vec<String>,
    /// Begin of the window: a date and time, or a time of day for a recurring window.
    pub from: String,
    /// End of the window, in the same form as `from`.
    pub to: String,
    /// IANA time zone of the window, such as `Europe/Berlin`. Defaults to UTC.
    pub time_zone: String,
    /// Weekdays on which a recurring window begins. An empty list means every day.
    pub days: Vec<Day>,
}

/// Days of the week, in the abbreviations that documents use.
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

with_test_settings! { define_document! {
    /// The document `tests/<host>/<id>`, stored under both hosts of the test.
    pub struct TestDocument {
        /// UUID of the test. Both hosts must have the same one.
        pub id: String = String::new(),
        /// Human-readable description, shown in alarms and on the status page.
        pub description: String = String::new(),
        /// Properties that this test shares with others. Alarms of tests with a common tag can form a group.
        pub tags: BTreeSet<String> = BTreeSet::new(),
        /// Switch of the test. When false, neither end runs it.
        pub enabled: bool = true,
        /// Name of the host that sends the probes.
        pub from_host: String = String::new(),
        /// Address and port that probes are sent from. Port 0 or an empty string leaves the choice to the system.
        pub from: String = String::new(),
        /// Name of the host that receives the probes and judges them.
        pub to_host: String = String::new(),
        /// Address and port that probes are sent to.
        pub to: String = String::new(),
        /// Address and port that the receiver binds. Defaults to `to`.
        pub listen: String = String::new(),
        /// Behavior of the receiver while the address to bind is not configured on its host.
        pub when_absent: WhenAbsent = WhenAbsent::Alarm,
        /// Name of the set from which the test was expanded. `None` for a test with its own document.
        #[serde(skip)]
        pub set: Option<String> = None,
        /// Transport protocol of the probes, which is always `udp`.
        pub protocol: Protocol = Protocol::Udp,
    }
} }

/// Behavior of a receiver while the address it should bind is not configured on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAbsent {
    /// Waits without an alarm until the address appears, because a floating address is currently on another host.
    Standby,
    /// Raises an alarm about the missing address.
    Alarm,
}

/// Transport protocols that probes can use; UDP is the single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP, the transport of STAMP (RFC 8762).
    Udp,
}

/// Accepts the name of the protocol in upper and lower case.
impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.eq_ignore_ascii_case("udp") {
            true => Ok(Protocol::Udp),
            false => Err(serde::de::Error::unknown_variant(&name, &["udp"])),
        }
    }
}
