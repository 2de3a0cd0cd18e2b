//! Remarks beside an alarm's cause: other tests of the same host, and this host's own probes to it.

use std::collections::BTreeMap;

use super::AlarmEngine;
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::alarm::notification::{AlarmStatus, Notification, OtherTests, RefusedHost, Remarks, SuppressedBy};
use crate::pure::base::time::Now;
use crate::pure::test::id::TestId;

impl AlarmEngine {
    /// Returns whether the last probe of a test that is down announced that its sender stops.
    pub(super) fn has_announced_its_stop(&self, id: TestId) -> bool {
        let cause = self.list.cause(&AlarmKey::new(Kind::Connection, Subject::Test(id)));
        matches!(cause, Some(Cause::Silence(silence)) if silence.announced_stop)
    }

    /// Returns the hosts to which this host's probes cannot be sent, each with the cause.
    pub(super) fn refused_hosts(&self) -> BTreeMap<String, Cause> {
        let refused = self.list.raised_of(Kind::Sender);
        let of_test = refused.filter(|alarm| alarm.key.test().is_some());
        of_test
            .filter_map(|alarm| {
                let cause = self.list.cause(&alarm.key)?;
                Some((alarm.test.as_ref()?.to_host.clone(), cause.clone()))
            })
            .collect()
    }

    /// Sets the remarks of a connection alarm: what else is known that points to its cause. Returns whether the text
    /// changed.
    pub(super) fn annotate(&mut self, key: &AlarmKey, refused: &BTreeMap<String, Cause>) -> bool {
        let Some(notification) = self.list.get(key).filter(|alarm| alarm.is_raised()) else { return false };
        let (Kind::Connection, Some(peer)) = (key.kind, self.peer(notification)) else { return false };
        let others = key.test().and_then(|id| self.connection_groups.others_from_host(id));
        let others = others.map(|(up, total)| OtherTests { peer: peer.clone(), up, total });
        let refused = refused.get(&peer).map(|cause| RefusedHost { peer, cause: Box::new(cause.clone()) });
        self.list.annotate(key, Remarks { others, refused, still_down: 0 })
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
        let still_down = self.groups_of(group.kind).down_of(group).count();
        if still_down > 0 {
            self.list.annotate(group, Remarks { still_down, ..Remarks::default() });
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
