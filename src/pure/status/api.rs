//! Requests of the API to a running agent, and their answers.
//!
//! `ApiRequest` is handled by the alarm actor, which replies with `ApiResponse` or `ApiError`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::alarm::notification::{Notification, SuppressedBy, rendered};
use crate::pure::alarm::shelving::{Matcher, Silence};
use crate::pure::base::time::WallTime;
use crate::pure::notify::log::NotifiedState;

/// Request to a running agent, from the web API or the command line.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiRequest {
    /// Lists the raised alarms, with their state at each receiver.
    Alarms,
    /// Lists the silences that have not ended, including those from before a restart.
    Silences,
    /// Adds a silence, which suppresses matching alarms until its end.
    AddSilence(NewSilence),
    /// Ends the silence of this id, so that alarms that are still raised are notified.
    ExpireSilence(String),
    /// Notifies the receiver of the sink of this name again of all raised alarms.
    Resync(String),
}

/// Longest silence, 366 days; longer suppressions belong into a maintenance window.
const LONGEST_SILENCE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parameters of a silence that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewSilence {
    /// Hosts whose alarms the silence is restricted to; `*` matches any text, and an empty list does not restrict.
    pub hosts: Vec<String>,
    /// Tags of the tests that the silence is restricted to, as patterns.
    pub tags: Vec<String>,
    /// Ids or descriptions of the tests that the silence is restricted to, as patterns.
    pub tests: Vec<String>,
    /// Sets whose tests the silence is restricted to, as patterns.
    pub sets: Vec<String>,
    /// End of the silence, at most 366 days from now.
    pub until: WallTime,
    /// Human-readable reason for the silence; control characters are replaced by spaces.
    pub comment: String,
    /// Name of the person who makes the silence, as stated in the request.
    pub author: String,
}

impl NewSilence {
    /// Returns the silence, which begins at `now`, or the reason why its parameters are invalid.
    pub fn begin(self, id: String, now: WallTime) -> Result<Silence, ApiError> {
        let matcher = Matcher { hosts: self.hosts, tags: self.tags, tests: self.tests, sets: self.sets };
        if matcher == Matcher::default() {
            let all = "a silence needs hosts, tags, tests or sets; [\"*\"] means all of them";
            return Err(ApiError::Invalid(all.to_owned()));
        }
        if self.until <= now {
            return Err(ApiError::Invalid("`until` must be in the future".to_owned()));
        }
        if self.until > now + LONGEST_SILENCE {
            return Err(ApiError::Invalid("a silence lasts at most a year: use a maintenance window".to_owned()));
        }
        let printable = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let (comment, author) = (printable(self.comment), printable(self.author));
        Ok(Silence { id, matcher, from: now, until: self.until, comment, author })
    }
}

/// Answer of the agent to a request that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ApiResponse {
    /// Alarms that are raised, or may be raised at a receiver.
    Alarms(Vec<ActiveAlarm>),
    /// Silences that have not ended, as answer to `Request::Silences`.
    Silences(Vec<Silence>),
    /// Silence that was made or ended, once the change is on disk.
    Silence(Silence),
    /// Result of a resync: the raised alarms are sent once more.
    Resent {
        /// Number of raised alarms that are sent once more.
        resent: usize,
    },
}

/// Reason why a request was not carried out, with a human-readable explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The object that the request names does not exist.
    NotFound(String),
    /// The parameters of the request are invalid.
    Invalid(String),
    /// The web interface does not permit the request to anybody, for example because no token is configured.
    Forbidden(String),
    /// The requester is not authenticated: the token is missing or wrong.
    Unknown(String),
    /// The request cannot be carried out now, but may succeed later.
    Unavailable(String),
}

/// Alarm that is raised, or may be raised at a receiver.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActiveAlarm {
    /// Alarm in its current state, or as it was last notified if that is unknown.
    #[serde(flatten, serialize_with = "rendered")]
    pub notification: Arc<Notification>,
    /// Reason why the raise is suppressed; `None` if it is not, or if the alarm is cleared.
    pub suppressed_by: Option<SuppressedBy>,
    /// State of the alarm at each receiver, by the name of the sink.
    pub sinks: BTreeMap<String, NotifiedState>,
}
