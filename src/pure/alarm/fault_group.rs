//! Grouping of configuration faults that occur together: one alarm with a count replaces the individual alarms.
//!
//! A mistake in a document that many others depend on is a fault of each of them. Each fault waits for `group_wait` in
//! case others follow; `group_min` of them are sent as one alarm, and each is sent by itself when fewer are left.
//! [`FaultGroup`] holds the present faults of one agent.

use std::collections::BTreeMap;

use super::correlation::GroupSettings;
use super::notification::SuppressedBy;
use crate::pure::alarm::cause::{GroupDirection, GroupFault};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::Moment;

/// Present faults of one agent's configuration, grouped when many occur together.
#[derive(Debug)]
pub struct FaultGroup {
    settings: GroupSettings,
    /// Present faults, each with the moment at which its wait for further faults ends; `None` when it does not wait.
    faults: BTreeMap<AlarmKey, Option<Moment>>,
    is_told: bool,
}

impl FaultGroup {
    /// Creates a group without faults.
    pub fn new(settings: GroupSettings) -> Self {
        FaultGroup { settings, faults: BTreeMap::new(), is_told: false }
    }

    /// Returns the key of the alarm that is notified in place of the individual faults.
    pub fn key() -> AlarmKey {
        AlarmKey::new(Kind::Config, Subject::Configuration)
    }

    /// Replaces the settings; takes effect with the next fault or deadline.
    pub fn on_settings(&mut self, settings: GroupSettings) {
        self.settings = settings;
    }

    /// Records a fault. A fault that is present already keeps its wait.
    pub fn on_raised(&mut self, key: &AlarmKey, now: Moment) {
        let waits = (!self.is_told && self.groups()).then(|| now + self.settings.group_wait);
        self.faults.entry(key.clone()).or_insert(waits);
    }

    /// Removes a fault that is gone or was shelved. Returns the faults that leave the group and wait again before each
    /// is notified by itself.
    pub fn on_gone(&mut self, key: &AlarmKey, now: Moment) -> Vec<AlarmKey> {
        self.faults.remove(key);
        if !self.is_told || self.faults.len() >= self.settings.group_min as usize {
            return Vec::new();
        }
        self.is_told = false;
        // The other faults are usually corrected together with this one, so each waits once more before it is notified.
        let until = now + self.settings.group_wait;
        self.faults.values_mut().for_each(|waits| *waits = Some(until));
        self.faults.keys().cloned().collect()
    }

    /// Ends the waits that are due at `now`. Returns the faults whose suppression has changed.
    pub fn on_time(&mut self, now: Moment) -> Vec<AlarmKey> {
        let over = |waits: &Option<Moment>| waits.is_some_and(|until| until <= now);
        if !self.faults.values().any(over) {
            return Vec::new();
        }
        let waiting = self.faults.values().filter(|waits| waits.is_some()).count();
        if self.groups() && waiting >= self.settings.group_min as usize {
            self.is_told = true;
            self.faults.values_mut().for_each(|waits| *waits = None);
            return self.faults.keys().cloned().collect();
        }
        let over = self.faults.iter_mut().filter(|(_, waits)| over(waits));
        over.map(|(key, waits)| {
            *waits = None;
            key.clone()
        })
        .collect()
    }

    /// Returns the moment at which `on_time` must be called next; `None` if no fault waits.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.faults.values().flatten().min().copied()
    }

    /// Returns the counts of the group while the faults are notified as one; otherwise `None`.
    pub fn shared(&self) -> Option<GroupFault> {
        let example = self.faults.keys().next().map_or(String::new(), |key| key.subject.to_string());
        let down = self.faults.len() as u64;
        self.is_told.then_some(GroupFault {
            kind: Kind::Config,
            subject: Subject::Configuration,
            down,
            total: down,
            direction: GroupDirection::Both,
            first: None,
            example,
            announced_stop: false,
        })
    }

    /// Returns the reason for which a fault is suppressed; `None` if it is notified by itself.
    pub fn suppressed_by(&self, key: &AlarmKey) -> Option<SuppressedBy> {
        let waits = self.faults.get(key)?;
        match self.is_told {
            true => Some(SuppressedBy::Group { group: Self::key().to_string() }),
            false => waits.map(|_| SuppressedBy::Waiting),
        }
    }

    fn groups(&self) -> bool {
        self.settings.group_min > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SETTINGS: GroupSettings =
        GroupSettings { group_wait: Duration::from_secs(5), group_min: 3, group_ratio: 0.8 };

    fn fault(n: u8) -> AlarmKey {
        AlarmKey::new(Kind::Config, Subject::Document(format!("tests/a/{n}")))
    }

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    #[test]
    fn simultaneous_faults_are_one_alarm_until_fewer_than_group_min_remain() {
        let mut group = FaultGroup::new(SETTINGS);
        (0..40).for_each(|n| group.on_raised(&fault(n), at(0)));
        assert_eq!(group.suppressed_by(&fault(7)), Some(SuppressedBy::Waiting));
        assert_eq!(group.next_deadline(), Some(at(5)));
        assert_eq!(group.on_time(at(5)).len(), 40);
        let shared = group.shared().unwrap().to_string();
        assert_eq!(shared, "40 configuration faults at once, among them document tests/a/0");
        assert!(matches!(group.suppressed_by(&fault(7)), Some(SuppressedBy::Group { .. })));
        // A later fault joins the group without a wait.
        group.on_raised(&fault(40), at(60));
        assert!(matches!(group.suppressed_by(&fault(40)), Some(SuppressedBy::Group { .. })));
        (0..38).for_each(|n| assert_eq!(group.on_gone(&fault(n), at(70)), []));
        assert_eq!(group.on_gone(&fault(38), at(70)), [fault(39), fault(40)]);
        assert_eq!(group.shared(), None);
        assert_eq!(group.suppressed_by(&fault(39)), Some(SuppressedBy::Waiting));
        assert_eq!(group.on_time(at(75)), [fault(39), fault(40)]);
        assert_eq!(group.suppressed_by(&fault(39)), None);
    }

    #[test]
    fn fewer_faults_than_group_min_are_notified_individually() {
        let mut group = FaultGroup::new(SETTINGS);
        group.on_raised(&fault(1), at(0));
        group.on_raised(&fault(2), at(2));
        assert_eq!(group.on_time(at(5)), [fault(1)]);
        assert_eq!(group.on_time(at(7)), [fault(2)]);
        assert_eq!((group.suppressed_by(&fault(1)), group.shared()), (None, None));
    }
}
