//! Selects the receivers that a host notifies, and the notification policy of each. [`select_receivers`] merges the
//! sinks of the documents with those of the bootstrap file; [`SinkPlan`] is the result for a receiver.

use std::time::Duration;

use crate::config::document::settings::AlarmSettings;
use crate::config::document::sinks::{SinkConfig, SinkKind, SnmpMode, SnmpProfile};
use crate::pure::notify::log::{
    Aggregation, DeliveryMode, InitialClear, NotificationPolicy, OnRemoval, Scope, StormSettings,
};

/// Receiver with its configuration and notification policy.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkPlan {
    /// Configuration of the sink, as written in the documents or the bootstrap file.
    pub config: SinkConfig,
    /// Notification policy: scope, rate, repetition and storm handling.
    pub policy: NotificationPolicy,
    /// Treatment of alarms that the receiver was notified of, once they leave its scope.
    pub on_removal: OnRemoval,
}

/// Notification settings shared by the receivers of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct NotificationSettings {
    /// Times after the first notification at which messages without acknowledgment are sent again.
    pub trap_repeat: Vec<Duration>,
    /// Interval at which raised alarms are notified again. Zero disables repetition.
    pub renotify: Duration,
    /// Thresholds at which a storm begins and ends.
    pub storm: StormSettings,
}

/// Default repetition: a lost raise is replaced within a minute, and a lost repetition within five.
const TRAP_REPEAT: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];
/// Default for `renotify`: four hours, so that operators are reminded of a raised alarm within every shift.
const RENOTIFY: Duration = Duration::from_secs(4 * 3600);
const STORM: StormSettings = StormSettings {
    storm_on: 20,
    storm_calm: 30,
    summary_interval: Duration::from_secs(60),
    storm_hold_max: Duration::from_secs(600),
};
/// Interval and duration of resending, equal to those of Prometheus: an Alertmanager lets alarms expire after five
/// minutes.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
const CLEARED_FOR: Duration = Duration::from_secs(300);
/// Upper bound on the alarms in a request to an Alertmanager.
const ALARMS_IN_A_REQUEST: usize = 100;
/// Upper bound on the alarms in a mail.
const ALARMS_IN_A_MAIL: usize = 500;

impl NotificationSettings {
    /// Completes the alarm settings with the built-in defaults.
    pub fn of(alarm: &AlarmSettings) -> Self {
        NotificationSettings {
            trap_repeat: alarm.trap_repeat.clone().unwrap_or_else(|| TRAP_REPEAT.to_vec()),
            renotify: alarm.renotify.unwrap_or(RENOTIFY),
            storm: StormSettings {
                storm_on: alarm.storm_on.unwrap_or(STORM.storm_on),
                storm_calm: alarm.storm_calm.unwrap_or(STORM.storm_calm),
                summary_interval: alarm.summary_interval.unwrap_or(STORM.summary_interval),
                storm_hold_max: alarm.storm_hold_max.unwrap_or(STORM.storm_hold_max),
            },
        }
    }
}

impl Default for NotificationSettings {
    fn default() -> Self {
        NotificationSettings::of(&AlarmSettings::default())
    }
}

impl SinkPlan {
    /// Derives the notification policy of a receiver from its kind and the shared settings.
    pub fn new(
        config: SinkConfig,
        scope: Scope,
        on_removal: OnRemoval,
        notification_settings: &NotificationSettings,
    ) -> Self {
        let delivery_mode = match (config.kind, config.mode) {
            // A stream that accepts a line does not prove that its reader processed it, so syslog counts as
            // unacknowledged.
            (SinkKind::Snmp, SnmpMode::Trap) | (SinkKind::Syslog, _) => {
                DeliveryMode::Repeated(notification_settings.trap_repeat.clone())
            }
            // A new log lacks the alarms that were raised in the previous one, so earlier lines do not count as
            // acknowledged.
            (SinkKind::Log, _) => DeliveryMode::Repeated(Vec::new()),
            (SinkKind::Alertmanager, _) => DeliveryMode::Refreshed { every: REFRESH_EVERY, cleared_for: CLEARED_FOR },
            (SinkKind::Snmp | SinkKind::Webhook | SinkKind::Email | SinkKind::Exec, _) => DeliveryMode::Acknowledged,
        };
        let batch = match config.kind {
            SinkKind::Alertmanager => ALARMS_IN_A_REQUEST,
            SinkKind::Email => ALARMS_IN_A_MAIL,
            SinkKind::Log | SinkKind::Snmp | SinkKind::Webhook | SinkKind::Syslog | SinkKind::Exec => 1,
        };
        // The original's MIB has no notification about several tests, so these receivers get each alarm alone.
        let legacy = config.kind == SinkKind::Snmp && config.profile == SnmpProfile::Legacy;
        // Earlier log lines remain readable, and an Alertmanager repeats notifications itself.
        let reminds =
            !matches!(config.kind, SinkKind::Log | SinkKind::Alertmanager) && !notification_settings.renotify.is_zero();
        let (rate, burst) = config.pace();
        let policy = NotificationPolicy {
            rate,
            burst,
            batch,
            scope,
            initial_clear: if config.kind == SinkKind::Log { InitialClear::Told } else { InitialClear::Silent },
            detail: if legacy { Aggregation::Individually } else { Aggregation::Summed },
            delivery_mode,
            renotify: reminds.then_some(notification_settings.renotify),
            storm: if legacy {
                StormSettings { storm_on: 0, ..notification_settings.storm }
            } else {
                notification_settings.storm
            },
        };
        SinkPlan { config, policy, on_removal }
    }
}

/// Name of the log sink that is added when no sink of kind log is configured.
const OWN_LOG: &str = "log";

/// Returns the receivers of a host. Sinks of the documents receive every alarm. Sinks of the bootstrap file receive
/// every alarm while the documents name none, and configuration faults only afterwards.
pub fn select_receivers(
    documents: &[SinkConfig],
    bootstrap: &[SinkConfig],
    notification_settings: &NotificationSettings,
) -> Vec<SinkPlan> {
    let scope = if documents.is_empty() { Scope::All } else { Scope::Config };
    let named = documents
        .iter()
        .map(|config| SinkPlan::new(config.clone(), Scope::All, OnRemoval::Clear, notification_settings));
    let first = bootstrap
        .iter()
        .filter(|sink| documents.iter().all(|document| document.name != sink.name))
        .map(|config| SinkPlan::new(config.clone(), scope, on_removal(config, documents), notification_settings));
    // The local log shows alarms to an operator who examines this host.
    let own = SinkConfig { name: OWN_LOG.to_owned(), ..SinkConfig::default() };
    let configured = documents.iter().chain(bootstrap).any(|sink| sink.kind == SinkKind::Log || sink.name == OWN_LOG);
    let own = SinkPlan::new(own, Scope::All, OnRemoval::Clear, notification_settings);
    named.chain(first).chain((!configured).then_some(own)).collect()
}

/// Returns the treatment of the alarms that `sink` was notified of when `others` notify instead: handover when one of
/// them notifies the same receiver, clearing otherwise.
pub fn on_removal<'a>(sink: &SinkConfig, others: impl IntoIterator<Item = &'a SinkConfig>) -> OnRemoval {
    match others.into_iter().any(|other| other.is_same_receiver(sink)) {
        true => OnRemoval::HandOver,
        false => OnRemoval::Clear,
    }
}
