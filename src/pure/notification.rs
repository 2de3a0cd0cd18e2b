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
    /// It does not, or no longer.
    Cleared,
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
    /// How often it was raised since the agent began.
    pub count: u64,
    /// Changes that this receiver was not told, since it was last told something.
    pub suppressed: u64,
}

impl Notification {
    /// Whether the alarm stands.
    pub fn is_raised(&self) -> bool {
        self.state == AlarmState::Raised
    }

    /// Whether this is about a test's connection: the one kind whose first good news is news.
    pub fn is_connection(&self) -> bool {
        self.key.kind == Kind::Connection
    }
}
