//! Doubt about alarms that a receiver may hold without a record of it here.
//!
//! Records of what was sent can be lost, or an older copy of them be restored. Then a receiver may hold a raise of an
//! alarm that is good by now. Every alarm that could be raised when the records were found missing is in doubt until
//! the receiver was notified of it once: raised, or cleared.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::alarm::inventory::AlarmInventory;
use crate::pure::alarm::key::AlarmKey;
use crate::pure::base::time::WallTime;

/// Time after which the doubt ends, also for alarms whose state could not be determined meanwhile.
const LOST_RECORDS_EXPIRE_AFTER: Duration = Duration::from_secs(4 * 3600);

/// Set of the alarms in doubt, which is kept on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostRecords {
    since: WallTime,
    /// Alarms that the receiver was notified of since then.
    settled: BTreeSet<AlarmKey>,
    /// Alarms that could be raised when the doubt began; `None` until the documents are known.
    #[serde(skip)]
    about: Option<AlarmInventory>,
}

/// Completeness of an earlier run's records: whether they name everything that its receiver was notified of.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordState {
    /// The records are those of the last run, with the doubt that it had.
    Complete(Option<LostRecords>),
    /// Records are missing, or may be older than the last message.
    Incomplete,
}

impl LostRecords {
    /// Begins a doubt, because records are missing or may be older than the last message.
    pub(super) fn new(now: WallTime) -> Self {
        LostRecords { since: now, settled: BTreeSet::new(), about: None }
    }

    /// Returns whether the doubt has lasted for its time and ends.
    pub fn has_expired(&self, now: WallTime) -> bool {
        now.nanos_since(self.since) > LOST_RECORDS_EXPIRE_AFTER.as_nanos() as i64
    }

    /// Sets the alarms that can be raised, the first time. Returns whether this was the first time.
    pub fn is_about(&mut self, valid: &AlarmInventory) -> bool {
        let first = self.about.is_none();
        self.about.get_or_insert_with(|| valid.clone());
        first
    }

    /// Returns whether the receiver may hold a raise of this alarm.
    pub fn may_be_raised(&self, key: &AlarmKey) -> bool {
        self.about.as_ref().is_some_and(|about| about.contains(key)) && !self.settled.contains(key)
    }

    /// Removes an alarm from the doubt, since the receiver was now notified of it.
    pub fn settle(&mut self, key: &AlarmKey) {
        if self.may_be_raised(key) {
            self.settled.insert(key.clone());
        }
    }
}
