//! What people ask of a running agent, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ledger::ToldState;
use super::notification::{Notification, Withheld};
use super::shelf::{Matcher, Silence};
use super::time::WallTime;

/// What people ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Which alarms stand, and which receiver knows of them?
    Alarms,
    /// Which silences are there?
    Silences,
    /// Raise none of these alarms for a while.
    AddSilence(NewSilence),
    /// End this silence.
    ExpireSilence(String),
    /// Tell this receiver of all alarms that stand once more.
    Resync(String),
}

/// Whoever wants to hear nothing for longer has another way to say so.
const LONGEST_SILENCE: Duration = Duration::from_secs(366 * 24 * 3600);

/// A silence to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewSilence {
    /// Only alarms about these hosts; `*` stands for anything.
    pub hosts: Vec<String>,
    /// Only tests with these tags.
    pub tags: Vec<String>,
    /// Only tests of these ids or descriptions.
    pub tests: Vec<String>,
    /// Only tests of these sets.
    pub sets: Vec<String>,
    /// Until when.
    pub until: WallTime,
    /// Why.
    pub comment: String,
    /// Who asks.
    pub author: String,
}

impl NewSilence {
    /// The silence, from now on; or what is wrong with it.
    pub fn begin(self, id: String, now: WallTime) -> Result<Silence, Refusal> {
        let matcher = Matcher { hosts: self.hosts, tags: self.tags, tests: self.tests, sets: self.sets };
        if matcher == Matcher::default() {
            let all = "a silence needs hosts, tags, tests or sets; [\"*\"] means all of them";
            return Err(Refusal::Invalid(all.to_owned()));
        }
        if self.until <= now {
            return Err(Refusal::Invalid("`until` has to be a time to come".to_owned()));
        }
        if self.until > now + LONGEST_SILENCE {
            return Err(Refusal::Invalid("a silence ends within a year: write a window of maintenance".to_owned()));
        }
        let printable = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let (comment, author) = (printable(self.comment), printable(self.author));
        Ok(Silence { id, matcher, from: now, until: self.until, comment, author })
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The alarms that stand, or that a receiver believes to stand.
    Alarms(Vec<ActiveAlarm>),
    /// The silences that have not ended.
    Silences(Vec<Silence>),
    /// The silence that was made or ended.
    Silence(Silence),
    /// So many alarms are told once more.
    Resent {
        /// How many.
        resent: usize,
    },
}

/// Why it does not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    NotFound(String),
    /// It makes no sense.
    Invalid(String),
    /// Nobody may.
    Forbidden(String),
    /// Whoever asks has not shown who he is.
    Unknown(String),
    /// Not now.
    Unavailable(String),
}

/// An alarm that stands, or that a receiver believes to stand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActiveAlarm {
    /// The alarm.
    #[serde(flatten)]
    pub notification: Arc<Notification>,
    /// Why its raise is not told; nothing if it is.
    pub withheld: Option<Withheld>,
    /// What each sink's receiver knows of it.
    pub sinks: BTreeMap<String, ToldState>,
}
