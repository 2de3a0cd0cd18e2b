//! Settings of tests and alarms, which test documents, sets, hosts and the fleet have in common.
//!
//! An omitted setting is taken from the next level: test, host, fleet, built-in default. Settings that every kind of
//! probe has are in [`CommonSettings`], those of one kind of probe in a struct of its own. Documents have all of them
//! as flat fields; `deserialize::Parts` distributes the fields.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{duration, notation};
use crate::pure::test::spec::{Mode, Wire};

/// Settings of a test that a document leaves to the next level where it omits them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TestSettings {
    /// Settings that every kind of probe has.
    #[serde(flatten)]
    pub common: CommonSettings,
    /// Settings of STAMP probes.
    #[serde(flatten)]
    pub stamp: StampSettings,
}

impl TestSettings {
    /// Returns these settings, with unset ones taken from `above`.
    #[must_use]
    pub fn or(self, above: &TestSettings) -> TestSettings {
        TestSettings { common: self.common.or(&above.common), stamp: self.stamp.or(&above.stamp) }
    }
}

/// Returns the names of the settings that are set in a struct of optional ones.
pub fn set_fields<T: Serialize>(settings: &T) -> Vec<String> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect()
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Settings that every kind of probe has: how often, and the limits of what is measured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommonSettings {
    /// Interval between two probes of the sender. Defaults to half of `expect_every`.
    #[serde(with = "duration::optional")]
    pub send_every: Option<Duration>,
    /// Timeout of the receiver: at least a probe is expected within each such period. Defaults to twice
    /// `send_every`.
    #[serde(with = "duration::optional")]
    pub expect_every: Option<Duration>,
    /// Limit of the one-way delay. A longer delay raises an alarm.
    #[serde(with = "duration::optional")]
    pub max_latency: Option<Duration>,
    /// Limit of the one-way delay for clearing. A raised latency alarm clears only at delays within it. Defaults to
    /// `max_latency`.
    #[serde(with = "duration::optional")]
    pub clear_latency: Option<Duration>,
    /// Limit of the delay above its own baseline. A larger increase raises an alarm. Synchronized clocks are not
    /// required.
    #[serde(with = "duration::optional")]
    pub max_latency_above_baseline: Option<Duration>,
    /// Limit of the round-trip delay in mode `two_way`. A longer one raises an alarm. Defaults to twice
    /// `max_latency`.
    #[serde(with = "duration::optional")]
    pub max_round_trip: Option<Duration>,
    /// Limit of the share of lost probes, written as `"2%"` or `0.02`. A larger share raises an alarm.
    #[serde(deserialize_with = "notation::share")]
    pub max_loss: Option<f64>,
    /// Length of the window in which loss and delay variation are judged.
    #[serde(with = "duration::optional")]
    pub loss_window: Option<Duration>,
    /// Limit of the delay variation between consecutive probes (RFC 3393). An alarm is raised when more than 5 % of
    /// the probes exceed it within `loss_window`.
    #[serde(with = "duration::optional")]
    pub max_jitter: Option<Duration>,
}

impl CommonSettings {
    fn or(self, above: &CommonSettings) -> CommonSettings {
        CommonSettings {
            send_every: self.send_every.or(above.send_every),
            expect_every: self.expect_every.or(above.expect_every),
            max_latency: self.max_latency.or(above.max_latency),
            clear_latency: self.clear_latency.or(above.clear_latency),
            max_latency_above_baseline: self.max_latency_above_baseline.or(above.max_latency_above_baseline),
            max_round_trip: self.max_round_trip.or(above.max_round_trip),
            max_loss: self.max_loss.or(above.max_loss),
            loss_window: self.loss_window.or(above.loss_window),
            max_jitter: self.max_jitter.or(above.max_jitter),
        }
    }
}

/// Settings of STAMP probes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StampSettings {
    /// Direction of measurement: one-way, or two-way with replies from the reflector.
    pub mode: Option<Mode>,
    /// Number of source ports to send from. Different ports exercise different equal-cost paths, which are then
    /// judged separately.
    pub flows: Option<u8>,
    /// Differentiated services code points of the probes. A probe is sent in each interval for every combination of
    /// port, code point and size.
    #[serde(deserialize_with = "notation::one_or_many")]
    pub dscp: Option<Vec<u8>>,
    /// UDP payload size in octets of additional large probes, which must not be fragmented.
    pub size: Option<u16>,
    /// Network interface that probes leave by, regardless of the routing table.
    pub from_interface: Option<String>,
    /// Signs probes with the fleet's `active_key` and rejects unsigned probes.
    pub keyed: Option<bool>,
    /// Ids of keys to use instead of `active_key`. The first one signs; all are accepted.
    #[serde(deserialize_with = "notation::one_or_many")]
    pub key: Option<Vec<u8>>,
    /// Packet format of the probes: STAMP (RFC 8762) or the JSON of the original program.
    pub wire: Option<Wire>,
}

impl StampSettings {
    fn or(self, above: &StampSettings) -> StampSettings {
        StampSettings {
            mode: self.mode.or(above.mode),
            flows: self.flows.or(above.flows),
            dscp: self.dscp.or_else(|| above.dscp.clone()),
            size: self.size.or(above.size),
            from_interface: self.from_interface.or_else(|| above.from_interface.clone()),
            keyed: self.keyed.or(above.keyed),
            key: self.key.or_else(|| above.key.clone()),
            wire: self.wire.or(above.wire),
        }
    }
}

/// Conditions under which alarms are raised, cleared and notified. An omitted setting is taken from the next level:
/// test, host, global document, built-in default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
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
    #[serde(deserialize_with = "notation::per_minute")]
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

/// Alarm settings that a single test or set may have; the others apply to a host or the fleet.
pub const ALARM_SETTINGS_OF_TESTS: [&str; 11] = [
    "raise_after",
    "raise_out_of",
    "clear_after",
    "clear_out_of",
    "startup_grace",
    "max_pause",
    "hold_down",
    "hold_down_max",
    "flap_high",
    "flap_low",
    "flap_window",
];

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
