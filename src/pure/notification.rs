//! What a receiver is told of one alarm.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::alarm::{AlarmKey, Kind, Severity, Subject};
use super::test::TestFacts;
use super::time::WallTime;

/// Whether an alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmState {
    /// It stands.
    Raised,
    /// It comes and goes too often to be told each time. Until it is calm it counts as standing.
    Flapping,
    /// It does not, or no longer.
    Cleared,
}

impl AlarmState {
    /// As in JSON and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmState::Raised => "raised",
            AlarmState::Flapping => "flapping",
            AlarmState::Cleared => "cleared",
        }
    }

    /// Whether a receiver that is told so takes the alarm to stand.
    pub fn is_raised(self) -> bool {
        self != AlarmState::Cleared
    }
}

/// How many of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Tests of a group that are down, or alarms that stand in a storm.
    pub down: u64,
    /// Tests of the group, or alarms that wait to be told in a storm.
    pub of: u64,
}

/// The current state of one alarm, in the words that every kind of sink renders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// The agent that found it, by its host's name.
    pub agent: String,
    /// Which alarm.
    #[serde(flatten)]
    pub key: AlarmKey,
    /// Whether it stands.
    pub state: AlarmState,
    /// How bad it is while it stands.
    pub severity: Severity,
    /// Since when it has been in this state.
    pub since: WallTime,
    /// When it was raised last.
    #[serde(default)]
    pub raised_at: WallTime,
    /// Why, for people: as it is now.
    pub text: String,
    /// Why it was raised, as it was then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub first_text: String,
    /// Why, in the original's words.
    pub legacy_text: String,
    /// The test, if it is about one.
    pub test: Option<Arc<TestFacts>>,
    /// The delay that was measured, in seconds, if it is about one.
    pub delay_seconds: Option<f64>,
    /// The sender of the datagram, if it is about strangers.
    pub source: Option<String>,
    /// How many tests a group alarm is about, how many alarms a storm.
    #[serde(default)]
    pub tally: Option<Tally>,
    /// How often it was raised since the agent began.
    pub count: u64,
    /// Changes that this receiver was not told, since it was last told something.
    pub suppressed: u64,
}

impl Notification {
    /// Whether the alarm stands.
    pub fn is_raised(&self) -> bool {
        self.state.is_raised()
    }

    /// In a few words, for people: first whom it is about, then what happened.
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
        format!("{}: {} {state}{description}", self.who(), self.key.kind)
    }

    /// Returns the subject for people: `h2 → h3 (set app-db)`, a host and this agent, or the agent and a part of it.
    pub fn who(&self) -> String {
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

    /// The hosts at both ends of what this is about, as far as it has ends.
    pub fn ends(&self) -> (Option<&str>, Option<&str>) {
        match (&self.test, &self.key.subject, self.key.kind) {
            // A wrong clock is one host's, whichever test found it.
            (_, Subject::Host(host), Kind::Clock) => (Some(host), None),
            (Some(test), _, _) => (Some(&test.from_host), Some(&test.to_host)),
            (None, Subject::Host(host), Kind::Sender) => (Some(&self.agent), Some(host)),
            (None, Subject::Host(host), _) => (Some(host), Some(&self.agent)),
            (None, _, _) => (None, None),
        }
    }

    /// Whether this is about a test's connection: the one kind whose first good news is news.
    pub fn is_connection(&self) -> bool {
        self.key.kind == Kind::Connection && self.key.test().is_some()
    }
}

/// An alarm as it is, and why its raise is not told if it is not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// As it is.
    #[serde(flatten)]
    pub notification: Arc<Notification>,
    /// Why it is kept back. A clear never is.
    pub withheld: Option<Withheld>,
}

impl Standing {
    /// The order in which people read alarms: those about more than one thing, those that are told, those that wait,
    /// those that something keeps back, the members of a group that is told; the worse and the older first.
    pub fn rank(&self) -> (u8, Severity, WallTime) {
        let alarm = &self.notification;
        let class = match &self.withheld {
            None if !alarm.key.is_single() => 0,
            None => 1,
            Some(Withheld::Waiting) => 2,
            Some(Withheld::Explained { .. } | Withheld::Shelved { .. }) => 3,
            Some(Withheld::Group { .. }) => 4,
        };
        (class, alarm.severity, alarm.since)
    }
}

impl Withheld {
    /// Word for the reason in labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Withheld::Waiting => "waiting",
            Withheld::Explained { .. } => "explained",
            Withheld::Group { .. } => "group",
            Withheld::Shelved { .. } => "shelved",
        }
    }
}

/// Why a raise is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Withheld {
    /// It may turn out to be one of many that share a cause, or it has to be seen once more after
    /// such a cause is over.
    Waiting,
    /// Another alarm that stands explains it: what a test measures yields to its connection, and probes that cannot be
    /// sent to a host yield to that host's silence.
    Explained {
        /// The alarm that is told instead.
        by: String,
    },
    /// It is one of many that share a cause, and that is told.
    Group {
        /// The alarm that is told instead.
        group: String,
    },
    /// A window of maintenance, a silence, or a host that was drained.
    Shelved {
        /// Which, for people.
        by: String,
    },
}
