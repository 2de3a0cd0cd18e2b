//! What a receiver is told of one alarm.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::alarm::{AlarmKey, Kind, Severity};
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
    /// Why, for people.
    pub text: String,
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

    /// In a few words, for people.
    pub fn headline(&self) -> String {
        let state = match (self.state, self.key.kind) {
            (AlarmState::Flapping, _) => "FLAPPING",
            (AlarmState::Raised, Kind::Connection) => "DOWN",
            (AlarmState::Cleared, Kind::Connection) => "UP",
            (AlarmState::Raised, _) => "RAISED",
            (AlarmState::Cleared, _) => "CLEARED",
        };
        match &self.test {
            Some(test) if test.description.is_empty() => format!("{state} {}: {}", self.key.kind, test.path()),
            Some(test) => format!("{state} {}: {}", self.key.kind, test.description),
            None => format!("{state} {}: {}", self.key.kind, self.key.subject),
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

/// Why a raise is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Withheld {
    /// It may turn out to be one of many that share a cause, or it has to be seen once more after
    /// such a cause is over.
    Waiting,
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
