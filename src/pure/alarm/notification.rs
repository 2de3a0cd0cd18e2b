//! Notifications: the state of one alarm with its cause as a value, which each receiver renders in its own form.
//!
//! The main type is `Notification`; `AlarmStatus` adds why its raise is suppressed, if it is, and `Rendered` is its
//! form in JSON.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::pure::alarm::cause::{Cause, GroupDirection, GroupFault, StormCounts};
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

/// Current state of one alarm, in the terms that every kind of receiver renders.
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
    pub raised_at: WallTime,
    /// Latest cause; a clear still has the one of its raise. `None` if the alarm was never raised.
    pub cause: Option<Cause>,
    /// Cause at the time of the raise.
    pub first_cause: Option<Cause>,
    /// Reason for the clear; `None` while the alarm is raised.
    pub clear_reason: Option<ClearReason>,
    /// What else is known about the alarm.
    #[serde(default)]
    pub remarks: Remarks,
    /// Facts of the test, if the alarm is about one.
    pub test: Option<Arc<TestFacts>>,
    /// Number of raises since the agent started, or since its alarm actor was rebuilt.
    pub count: u64,
    /// Number of state changes that were not sent to this receiver since its last notification.
    pub suppressed: u64,
}

/// Reason for which an alarm is cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClearReason {
    /// The alarm was never raised, as far as this run of the agent has determined.
    Good,
    /// The alarm was never raised by this run of the agent, which has no record of what an earlier run has notified.
    NoRecord,
    /// The alarm was raised for this duration, and its condition is good again.
    GoodAgain(Duration),
    /// The alarm was raised for this duration, and its condition can no longer be decided.
    Undecidable(Duration),
    /// The subject of the alarm is gone: its test was removed or disabled, or its fault went away with it.
    NotWatched,
    /// The receiver is no longer notified of this alarm.
    OutOfScope,
    /// The storm has ended.
    StormEnded(StormCounts),
    /// The agent was restarted, and with it the count of a storm.
    Restarted,
    /// The notification is a test of the receiver.
    Test,
}

/// What else is known about a raised alarm, or is left of it after its clear.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Remarks {
    /// Other tests with the same host.
    pub others: Option<OtherTests>,
    /// Fault of this host's own probes to the same host.
    pub refused: Option<RefusedHost>,
    /// Number of members of a cleared group that are still down.
    pub still_down: usize,
}

/// State of the other tests with the host of an alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherTests {
    /// Name of the host at the other end.
    pub peer: String,
    /// Number of other tests that get through.
    pub up: usize,
    /// Number of other tests.
    pub total: usize,
}

/// Host to which this host's own probes cannot be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusedHost {
    /// Name of the host.
    pub peer: String,
    /// Cause for which the probes cannot be sent.
    pub cause: Box<Cause>,
}

impl Notification {
    /// Returns whether the alarm is raised; a flapping one counts as raised.
    pub fn is_raised(&self) -> bool {
        self.state.is_raised()
    }

    /// Returns the human-readable cause in its current form, or the reason for the clear.
    pub fn text(&self) -> String {
        let is_raised = self.clear_reason.is_none();
        let prefix = match (self.state, is_raised) {
            (AlarmState::Flapping, true) => "flapping, now down: ",
            (AlarmState::Flapping, false) => "flapping, now up: ",
            (AlarmState::Raised | AlarmState::Cleared, _) => "",
        };
        let remarks = &self.remarks;
        match (&self.clear_reason, &self.cause) {
            (Some(ClearReason::GoodAgain(lasted)), _) => {
                format!("{prefix}{} after {}{remarks}", self.key.kind.good_again(), shown_duration(*lasted))
            }
            (Some(reason), _) => format!("{prefix}{reason}{remarks}"),
            (None, Some(cause)) => format!("{prefix}{cause}{remarks}"),
            (None, None) => format!("{prefix}{remarks}"),
        }
    }

    /// Returns the number of tests that are down and of all tests of a group, or of raised and pending alarms in a
    /// storm.
    pub fn members(&self) -> Option<MemberCounts> {
        match &self.cause {
            Some(Cause::Shared(group)) => Some(MemberCounts { down: group.down, total: group.total }),
            Some(Cause::Storm(storm)) => Some(MemberCounts { down: storm.raised, total: storm.pending }),
            Some(_) | None => None,
        }
    }

    /// Returns the measured delay in seconds, if the alarm is about one.
    pub fn delay_seconds(&self) -> Option<f64> {
        self.cause.as_ref()?.delay().map(|delay| delay.seconds())
    }

    /// Returns the source address of the datagram, if the alarm is about unknown packets.
    pub fn source(&self) -> Option<&str> {
        match &self.cause {
            Some(Cause::UnknownPacket { source, .. }) => Some(source),
            Some(_) | None => None,
        }
    }

    /// Returns a short human-readable summary: first the subject, then the kind and the state.
    pub fn headline(&self) -> String {
        let state = match (self.state, self.key.kind) {
            (AlarmState::Flapping, _) => "FLAPPING",
            (AlarmState::Raised, Kind::Connection) => "DOWN",
            (AlarmState::Cleared, Kind::Connection) if self.is_good() => "UP",
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

    /// Returns whether the alarm is cleared because its condition is good, and not because nobody judges it any more.
    fn is_good(&self) -> bool {
        matches!(self.clear_reason, Some(ClearReason::Good | ClearReason::NoRecord | ClearReason::GoodAgain(_)))
    }

    /// Returns the subject in human-readable form: `h2 → h3 (set app-db)`, a host and this agent, or the agent and a
    /// part of it.
    pub fn subject_text(&self) -> String {
        let (from, to) = self.ends();
        let to = to.map(|to| self.test.as_ref().map_or(to, |test| test.destination()));
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
            (None, Subject::Host(host), _) => match &self.cause {
                Some(Cause::Shared(GroupFault { direction: GroupDirection::To, .. })) => {
                    (Some(&self.agent), Some(host))
                }
                Some(_) => (Some(host), Some(&self.agent)),
                // A group that this run of the agent has never raised.
                None if self.key.kind == Kind::Sender => (Some(&self.agent), Some(host)),
                None => (Some(host), Some(&self.agent)),
            },
            (None, _, _) => (None, None),
        }
    }

    /// Returns whether this is about a test's connection: the only kind whose first clear, without a raise, may be
    /// notified.
    pub fn is_connection(&self) -> bool {
        self.key.kind == Kind::Connection && self.key.test().is_some()
    }
}

impl fmt::Display for ClearReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClearReason::Good => f.write_str("good"),
            ClearReason::NoRecord => {
                f.write_str("good; sent once, because this agent has no record of earlier notifications")
            }
            ClearReason::GoodAgain(lasted) => write!(f, "good again after {}", shown_duration(*lasted)),
            ClearReason::Undecidable(lasted) => write!(
                f,
                "no longer decidable after {}: measurements since then are neither good nor bad",
                shown_duration(*lasted)
            ),
            ClearReason::NotWatched => f.write_str("removed, disabled or no longer watched"),
            ClearReason::OutOfScope => f.write_str("this receiver is no longer notified of this alarm"),
            ClearReason::StormEnded(StormCounts { pending, raised, lasted }) => write!(
                f,
                "ended after {}: {raised} alarms are raised, {pending} pending ones are notified from now on",
                humantime::format_duration(*lasted)
            ),
            ClearReason::Restarted => f.write_str("the agent was restarted"),
            ClearReason::Test => f.write_str("a test notification of peerpair: nothing is wrong"),
        }
    }
}

impl fmt::Display for Remarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.others {
            None | Some(OtherTests { total: 0, .. }) => {}
            Some(OtherTests { peer, up: 0, .. }) => write!(f, "; no other test with {peer} gets through")?,
            Some(OtherTests { peer, up, total }) => {
                write!(f, "; {up} of {total} other tests with {peer} get through")?;
            }
        }
        if let Some(RefusedHost { peer, cause }) = &self.refused {
            write!(f, "; from here to {peer}: {cause}")?;
        }
        match self.still_down {
            0 => Ok(()),
            1 => f.write_str("; 1 test is not good again yet; it is notified if that does not change"),
            down => write!(f, "; {down} tests are not good again yet; each is notified if that does not change"),
        }
    }
}

/// Formats a duration in whole seconds, or in milliseconds where it is shorter than a second.
fn shown_duration(duration: Duration) -> String {
    let whole = match duration.as_secs() {
        0 => Duration::from_millis(u64::from(duration.subsec_millis()).max(1)),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(whole).to_string()
}

/// Notification for people and programs, with its texts instead of its cause.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Rendered<'a>(#[serde(serialize_with = "rendered")] pub &'a Notification);

/// Fields of a notification in JSON, in the API and on the standard input of programs.
#[derive(Serialize)]
struct RenderedFields<'a> {
    agent: &'a str,
    #[serde(flatten)]
    key: &'a AlarmKey,
    state: AlarmState,
    severity: Severity,
    since: WallTime,
    raised_at: WallTime,
    text: String,
    /// Cause at the time of the raise.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_text: Option<String>,
    test: Option<&'a TestFacts>,
    delay_seconds: Option<f64>,
    source: Option<&'a str>,
    members: Option<MemberCounts>,
    count: u64,
    suppressed: u64,
}

/// Serialises a notification like [`Rendered`].
pub fn rendered<S: Serializer>(notification: &Notification, serializer: S) -> Result<S::Ok, S::Error> {
    let fields = RenderedFields {
        agent: &notification.agent,
        key: &notification.key,
        state: notification.state,
        severity: notification.severity,
        since: notification.since,
        raised_at: notification.raised_at,
        text: notification.text(),
        first_text: notification.first_cause.as_ref().map(Cause::to_string),
        test: notification.test.as_deref(),
        delay_seconds: notification.delay_seconds(),
        source: notification.source(),
        members: notification.members(),
        count: notification.count,
        suppressed: notification.suppressed,
    };
    fields.serialize(serializer)
}

/// Alarm in its current state, with the reason why its raise is suppressed, if it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlarmStatus {
    /// Alarm in its current state.
    #[serde(flatten, serialize_with = "rendered")]
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
