//! What a receiver may hold that nobody has a record of.
//!
//! Records of what was sent can be lost, or an older copy of them be restored. Then a receiver may hold a raise of an
//! alarm that is good by now. Every alarm that could be raised when the records were found missing is in doubt until
//! the receiver was told of it once: raised, or cleared.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::alarm::AlarmKey;
use crate::pure::possible::Possible;
use crate::pure::time::WallTime;

/// An alarm of which nothing was found for so long is in doubt no longer.
const LASTS: Duration = Duration::from_secs(4 * 3600);

/// Which alarms are in doubt. It outlives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Doubt {
    since: WallTime,
    /// Told since then.
    settled: BTreeSet<AlarmKey>,
    /// Those that could be raised; nothing before it is known which can be.
    #[serde(skip)]
    about: Option<Possible>,
}

impl Doubt {
    /// Records are missing, or may be older than what was sent last.
    pub fn new(now: WallTime) -> Self {
        Doubt { since: now, settled: BTreeSet::new(), about: None }
    }

    /// Whether it is too old to matter.
    pub fn is_over(&self, now: WallTime) -> bool {
        now.nanos_since(self.since) > LASTS.as_nanos() as i64
    }

    /// These alarms can be. True if that was not known before.
    pub fn is_about(&mut self, valid: &Possible) -> bool {
        let first = self.about.is_none();
        self.about.get_or_insert_with(|| valid.clone());
        first
    }

    /// Whether the receiver may hold this alarm.
    pub fn doubts(&self, key: &AlarmKey) -> bool {
        self.about.as_ref().is_some_and(|about| about.contains(key)) && !self.settled.contains(key)
    }

    /// The receiver was told of this alarm.
    pub fn settle(&mut self, key: &AlarmKey) {
        if self.doubts(key) {
            self.settled.insert(key.clone());
        }
    }
}
