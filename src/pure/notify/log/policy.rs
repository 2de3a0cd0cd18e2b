//! Notification policy of a receiver: rate, scope, detail, acknowledgement and repeats.
//!
//! `NotificationPolicy` is derived from the configuration of a sink; `HoldDown` comes with each alarm.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flapping::FlapSettings;
use super::storm::StormSettings;

/// Hold-down and flapping settings of one alarm, which limit its notifications while it keeps changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldDown {
    /// Hold-down after the first notification of a calm alarm, in which further changes are not sent.
    pub hold_down: Duration,
    /// Longest hold-down; it doubles up to this while the alarm keeps changing.
    pub hold_down_max: Duration,
    /// Thresholds from which the alarm is notified as flapping instead of change by change.
    pub flap: FlapSettings,
}

/// Completeness of the inventory of alarms that can exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Every document was read, so that an alarm missing from the inventory cannot exist.
    Whole,
    /// A document is bad and no good version of it is known, so that alarms may be missing from the inventory.
    Partial,
}

/// Treatment of the alarms that a receiver was notified of, once its sink no longer includes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemoval {
    /// The receiver gets a clear of each alarm that is still raised there.
    Clear,
    /// Another sink of the same receiver takes over the records, and notifies it of further changes.
    HandOver,
}

/// Scope of a sink: the alarms that its receiver is notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every alarm of the agent, of tests, hosts, groups and configuration.
    All,
    /// Faults of the configuration alone, for the bootstrap's sinks once the documents name others.
    Config,
    /// Empty scope, because the sink is about to be removed.
    Nothing,
}

/// Treatment of the first clear of a connection whose raise was never notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialClear {
    /// The clear is sent, so that consoles list the test as up.
    Told,
    /// The clear is sent only if the receiver may hold a raise without a record here.
    Silent,
}

/// Ability of a receiver to take one notification about many alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Groups and storms are notified in one message, instead of the alarms that they contain.
    Summed,
    /// Every alarm of a group is notified alone, since the receiver's format cannot express groups.
    Individually,
}

/// Confirmation that a protocol gives for a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The receiver acknowledges each message, so that its arrival is known.
    Acknowledged,
    /// Acknowledgements do not exist: the message is repeated after these times, counted from the first one, and then
    /// at growing intervals until `renotify`.
    Repeated(Vec<Duration>),
    /// Alarms expire at the receiver, as at an Alertmanager, and have to be refreshed.
    Refreshed {
        /// Interval at which raised alarms are sent again.
        every: Duration,
        /// Time for which the clear of an alarm is sent again.
        cleared_for: Duration,
    },
}

/// Notification policy of one receiver, as derived from the configuration of its sink.
#[derive(Clone, Debug, PartialEq)]
pub struct NotificationPolicy {
    /// Messages per second: the rate at which the token bucket is refilled.
    pub rate: f64,
    /// Messages that may be sent at once: the size of the token bucket.
    pub burst: u32,
    /// Greatest number of alarms in one message.
    pub batch: usize,
    /// Scope of the sink: the alarms that its receiver is notified of.
    pub scope: Scope,
    /// Policy for first clears, without a raise before them.
    pub initial_clear: InitialClear,
    /// Policy for groups and storms: one message, or one for each alarm.
    pub detail: Aggregation,
    /// Confirmation that the protocol gives, which decides about repeats.
    pub delivery_mode: DeliveryMode,
    /// Interval at which raised alarms are sent again as a reminder; `None` for no reminders.
    pub renotify: Option<Duration>,
    /// Thresholds and times of storm summaries.
    pub storm: StormSettings,
}
