//! Notifications: the state of one alarm in the form that every kind of sink renders.
//!
//! The main type is `Notification`; `AlarmStatus` adds why its raise is suppressed, if it is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::pure::alarm::key::{AlarmKey, Kind, Severity, Subject};
use crate::pure::base::time::WallTime;
use crate::pure::test::facts::TestFacts;

/// State of an alarm, as receivers are notified of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmState {
    /// The alarm is raised.
    Raised,
    /// The alarm is raised and cleared too often for each change to be notified; until it is calm, it counts as
    /// raised.
    Flapping,
    /// The alarm was cleared, or was never raised.
    Cleared,
}

impl AlarmState {
    /// Returns the name of the state in JSON and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmState::Raised => "raised",
            AlarmState::Flapping => "flapping",
            AlarmState::Cleared => "cleared",
        }
    }

    /// Returns whether a receiver that is notified of this state takes the alarm to be raised.
    pub fn is_raised(self) -> bool {
        self != AlarmState::Cleared
    }
}

/// Ratio of two counts, for alarms about groups and storms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCounts {
    /// Number of tests of a group that are down, or of alarms of tests that are raised in a storm.
    pub down: u64,
    /// Number of tests of the group, or of alarms that wait to be notified in a storm.
    pub total: u64,
}

/// Current state of one alarm, in the terms that every kind of sink renders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Name of the host whose agent found the alarm.
    pub agent: String,
    /// Key of the alarm: its kind and its subject.
    #[serde(flatten)]
    pub key: AlarmKey,
    /// State of the alarm: raised, flapping or cleared.
    pub state: AlarmState,
    /// Severity that the alarm has while it is raised.
    pub severity: Severity,
    /// Time since when the alarm has been in this state.
    pub since: WallTime,
    /// Time at which the alarm was raised last, or first reported if it was never raised.
    #[serde(default)]
    pub raised_at: WallTime,
    /// Human-readable cause in its current form.
    pub text: String,
    /// Human-readable cause at the time of the raise; empty if the alarm was never raised.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub first_text: String,
    /// Cause in the original's words, for its traps.
    pub legacy_text: String,
    /// Facts of the test, if the alarm is about one.
    pub test: Option<Arc<TestFacts>>,
    /// Measured delay in seconds, if the alarm is about one.
    pub delay_seconds: Option<f64>,
    /// Source address of the datagram, if the alarm is about unknown packets.
    pub source: Option<String>,
    /// Counts of tests for the alarm of a group, or of alarms for a storm summary.
    #[serde(default)]
    pub members: Option<MemberCounts>,
    /// Number of raises since the agent started, or since its alarm actor was rebuilt.
    pub count: u64,
    /// Number of state changes that were not sent to this receiver since its last notification.
    pub suppressed: u64,
}

impl Notification {
    /// Returns whether the alarm is raised; a flapping one counts as raised.
    pub fn is_raised(&self) -> bool {
        self.state.is_raised()
    }

    /// Returns a short human-readable summary: first the subject, then the kind and the state.
    pub fn headline(&self) -> String {
        let state = match (self.state, self.key.kind) {
            (AlarmState::Flapping, _) => "FLAPPING",
            (AlarmState::Raised, Kind::Connection) => "DOWN",
            (AlarmState::Cleared, Kind::Connection) => "UP",
            (AlarmState::Raised, _) => "RAISED",
            (AlarmState::Cleared, _) => "CLEARED",
        };
        let description = self.test.as_ref().map_or("", |test| test.description.as_str());
        let description = if description.is_empty() { String::new() } else { format!(", {description}") };
        if self.key.kind == Kind::Test {
            return format!("{}: TEST notification", self.agent);
        }
        format!("{}: {} {state}{description}", self.subject_text(), self.key.kind)
    }

    /// Returns the subject in human-readable form: `h2 → h3 (set app-db)`, a host and this agent, or the agent and a
    /// part of it.
    pub fn subject_text(&self) -> String {
        let (from, to) = self.ends();
        let path = match (from, to) {
            (Some(from), Some(to)) => format!("{from} → {to}"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => self.agent.clone(),
        };
        match (&self.test, &self.key.subject) {
            (Some(test), _) => match &test.set {
                Some(set) => format!("{path} (set {set})"),
                None => path,
            },
            (None, Subject::Agent | Subject::Host(_) | Subject::Test(_) | Subject::Answers(_)) => path,
            (None, subject) => format!("{path} {subject}"),
        }
    }

    /// Returns the sending and the receiving host of what the alarm is about, as far as it has them.
    pub fn ends(&self) -> (Option<&str>, Option<&str>) {
        match (&self.test, &self.key.subject, self.key.kind) {
            // A wrong clock belongs to one host, whichever test found it.
            (_, Subject::Host(host), Kind::Clock) => (Some(host), None),
            (Some(test), _, _) => (Some(&test.from_host), Some(&test.to_host)),
            (None, Subject::Host(host), Kind::Sender) => (Some(&self.agent), Some(host)),
            (None, Subject::Host(host), _) => (Some(host), Some(&self.agent)),
            (None, _, _) => (None, None),
        }
    }

    /// Returns whether this is about a test's connection: the only kind whose first clear, without a raise, may be
    /// notified.
    pub fn is_connection(&self) -> bool {
        self.key.kind == Kind::Connection && self.key.test().is_some()
    }
}

/// Alarm in its current state, with the reason why its raise is suppressed, if it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlarmStatus {
    /// Alarm in its current state.
    #[serde(flatten)]
    pub notification: Arc<Notification>,
    /// Reason why the raise is suppressed; always `None` for a clear.
    pub suppressed_by: Option<SuppressedBy>,
}

impl AlarmStatus {
    /// Returns the key of the display order: alarms about more than one thing, single alarms that are notified, those
    /// that wait, those that are explained or shelved, and members of a notified group; then by severity and age.
    pub fn rank(&self) -> (u8, Severity, WallTime) {
        let alarm = &self.notification;
        let class = match &self.suppressed_by {
            None if !alarm.key.is_single() => 0,
            None => 1,
            Some(SuppressedBy::Waiting) => 2,
            Some(SuppressedBy::Explained { .. } | SuppressedBy::Shelved { .. }) => 3,
            Some(SuppressedBy::Group { .. }) => 4,
        };
        (class, alarm.severity, alarm.since)
    }
}

impl SuppressedBy {
    /// Returns the name of the reason as used in metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            SuppressedBy::Waiting => "waiting",
            SuppressedBy::Explained { .. } => "explained",
            SuppressedBy::Group { .. } => "group",
            SuppressedBy::Shelved { .. } => "shelved",
        }
    }
}

/// Reason why a raise is suppressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum SuppressedBy {
    /// Other alarms may follow that share the cause, or the alarm has to be confirmed once more after such a cause
    /// has ended.
    Waiting,
    /// Another raised alarm explains this one: what a test measures yields to its connection, and probes that cannot
    /// be sent to a host yield to the connection alarm of that host.
    Explained {
        /// Key of the alarm that is notified instead.
        by: String,
    },
    /// The alarm is a member of a group that shares one cause, and the group is notified instead.
    Group {
        /// Key of the group's alarm, which is notified instead.
        group: String,
    },
    /// A maintenance window, a silence or a drained host suppresses the alarm.
    Shelved {
        /// Human-readable name of the window, silence or host.
        by: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::alarm::list::cleared_notification;
    use crate::pure::base::time::Now;
    use crate::pure::test::id::TestId;

    fn raised(kind: Kind, subject: Subject) -> Notification {
        let cleared = cleared_notification("a", &AlarmKey::new(kind, subject), Now::default());
        Notification { state: AlarmState::Raised, ..cleared }
    }

    #[test]
    fn headline_of_a_test_notification_names_no_state() {
        for state in [AlarmState::Raised, AlarmState::Cleared] {
            let alarm = Notification { state, ..raised(Kind::Test, Subject::Agent) };
            assert_eq!(alarm.headline(), "a: TEST notification");
        }
    }

    #[test]
    fn headline_names_the_set_of_a_test() {
        let id = TestId::from_bytes([1; 16]);
        let test = TestFacts { set: Some("app-db".into()), ..TestFacts::example(id) };
        let alarm = Notification { test: Some(Arc::new(test)), ..raised(Kind::Loss, Subject::Test(id)) };
        assert_eq!(alarm.headline(), "a → b (set app-db): loss RAISED");
    }

    #[test]
    fn alarm_about_more_than_one_test_precedes_older_and_explained_ones() {
        let shown = |subject: Subject, since, suppressed_by| {
            let alarm = Notification { since: WallTime::from_unix_nanos(since), ..raised(Kind::Connection, subject) };
            AlarmStatus { notification: Arc::new(alarm), suppressed_by }.rank()
        };
        let test = || Subject::Test(TestId::from_bytes([1; 16]));
        let ranks = [
            shown(Subject::Host("b".into()), 9, None),
            shown(test(), 2, None),
            shown(test(), 3, None),
            shown(test(), 1, Some(SuppressedBy::Waiting)),
            shown(test(), 1, Some(SuppressedBy::Shelved { by: String::new() })),
            shown(test(), 1, Some(SuppressedBy::Group { group: String::new() })),
        ];
        assert!(ranks.is_sorted_by(|first, next| first < next), "{ranks:?}");
    }
}
