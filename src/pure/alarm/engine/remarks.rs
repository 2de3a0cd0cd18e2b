//! Remarks beside an alarm's cause: other tests of the same host, and this host's own probes to it.

use std::collections::BTreeMap;

use super::AlarmEngine;
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::alarm::notification::{AlarmStatus, Notification, SuppressedBy};
use crate::pure::base::time::Now;
use crate::pure::test::id::TestId;

impl AlarmEngine {
    /// Returns whether the last probe of a test that is down announced that its sender stops.
    pub(super) fn has_announced_its_stop(&self, id: TestId) -> bool {
        let cause = self.list.cause(&AlarmKey::new(Kind::Connection, Subject::Test(id)));
        matches!(cause, Some(Cause::Silence(silence)) if silence.announced_stop)
    }

    /// Returns the hosts to which this host's probes cannot be sent, each with the cause.
    pub(super) fn refused_hosts(&self) -> BTreeMap<String, String> {
        let refused = self.list.raised_of(Kind::Sender);
        let of_test = refused.filter(|alarm| alarm.key.test().is_some());
        of_test
            .filter_map(|alarm| {
                let cause = self.list.cause(&alarm.key)?;
                Some((alarm.test.as_ref()?.to_host.clone(), cause.to_string()))
            })
            .collect()
    }

    /// Sets the remark of a connection alarm: what else is known that points to its cause. Returns whether the text
    /// changed.
    pub(super) fn annotate(&mut self, key: &AlarmKey, refused: &BTreeMap<String, String>) -> bool {
        let Some(notification) = self.list.get(key).filter(|alarm| alarm.is_raised()) else { return false };
        let (Kind::Connection, Some(peer)) = (key.kind, self.peer(notification)) else { return false };
        let mut remark = String::new();
        if let Some(id) = key.test() {
            remark = match self.connection_groups.others_from_host(id) {
                None | Some((_, 0)) => String::new(),
                Some((0, _)) => format!("; no other test with {peer} gets through"),
                Some((up, others)) => format!("; {up} of {others} other tests with {peer} get through"),
            };
        }
        if let Some(problem) = refused.get(&peer) {
            remark += &format!("; from here to {peer}: {problem}");
        }
        self.list.annotate(key, &remark)
    }

    /// Updates the remarks of tests that are down, where the state of another test of the same host has changed.
    pub(super) fn refresh_remarks(&mut self, now: Now) -> Vec<AlarmStatus> {
        if self.outdated_remarks.is_empty() {
            return Vec::new();
        }
        let stale = std::mem::take(&mut self.outdated_remarks);
        let alone = |alarm: &Notification| {
            let grouped = |id| matches!(self.connection_groups.suppressed_by(id), Some(SuppressedBy::Group { .. }));
            !alarm.key.test().is_some_and(grouped) && self.peer(alarm).is_some_and(|peer| stale.contains(&peer))
        };
        let raised = self.list.raised_of(Kind::Connection);
        let keys: Vec<AlarmKey> = raised.filter(|alarm| alone(alarm)).map(|alarm| alarm.key.clone()).collect();
        let refused = self.refused_hosts();
        let mut alarm_status = Vec::new();
        for key in keys {
            if self.annotate(&key, &refused) {
                alarm_status.extend(self.list.get(&key).map(|notification| self.alarm_status(notification, now)));
            }
        }
        alarm_status
    }

    /// Adds to the clear of a group how many members are still down; each of them is notified alone once it was
    /// confirmed.
    pub(super) fn annotate_members_down(&mut self, group: &AlarmKey) {
        let left = self.groups_of(group.kind).down_of(group).count();
        if left > 0 {
            let of = if left == 1 { "1 test is".to_owned() } else { format!("{left} tests are") };
            self.list.annotate(group, &format!("; {of} not good again yet; each is notified if that does not change"));
        }
    }

    /// Returns the host at the other end of what an alarm is about.
    fn peer(&self, alarm: &Notification) -> Option<String> {
        match (&alarm.test, &alarm.key.subject) {
            (Some(test), _) => Some(test.peer_of(&self.agent).to_owned()),
            (None, Subject::Host(host)) => Some(host.clone()),
            (None, _) => None,
        }
    }
}
