//! Change of a condition: what an actor that finds a fault, or finds it gone, reports to the alarm actor.

use std::sync::Arc;

use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::key::{AlarmKey, Subject};
use crate::pure::base::time::Now;
use crate::pure::test::facts::TestFacts;

/// Change of one condition, sent by the actor that found it to the alarm actor.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionChange {
    /// Key of the alarm that this change raises, updates or clears.
    pub key: AlarmKey,
    /// Reporter of the condition. An alarm stays raised while at least one reporter reports it as violated.
    pub reporter: Subject,
    /// Time of the change, on the monotonic clock and the wall clock.
    pub at: Now,
    /// New verdict on the condition, with the cause if it is violated.
    pub verdict: Verdict,
    /// Facts about the test; `None` if the alarm does not concern a test.
    pub test: Option<Arc<TestFacts>>,
}

/// Verdict on a condition after a change, as reported to the alarm actor.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Condition is down, for this cause. Reported again while it is down when the cause has changed.
    Violated(Cause),
    /// Connection is suspect: a probe is overdue, so the test does not count as getting through in remarks about other tests, but is not down yet.
    Overdue,
    /// Condition is up; an alarm that this reporter raised can be cleared.
    Cleared,
    /// Condition was down, and no measurement can decide any more whether it still is. The alarm ends.
    Undecidable,
}

/// Builds a change of a condition that belongs to no test, such as a document, an address or unknown packets.
pub fn condition_change(key: AlarmKey, reporter: Subject, at: Now, verdict: Verdict) -> ConditionChange {
    ConditionChange { key, reporter, at, verdict, test: None }
}
