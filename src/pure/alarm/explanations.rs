//! Relations between alarms in which one explains others, so that a single fault is notified once.
//!
//! Alarms about a test's loss, latency, jitter and flows are suppressed by the alarm about its connection, because a
//! test that is down is not measured. Alarms about probes to a host are suppressed by a connection alarm about that
//! host. When the explaining alarm is cleared, the explained one waits for fresh samples, so that a stale one is not
//! sent. [`Explanations`] records these relations.

use std::collections::{BTreeMap, BTreeSet};

use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::Moment;
use crate::pure::test::id::TestId;

/// Alarm kinds of a test that are suppressed while its connection alarm is raised.
pub const MEASURED: [Kind; 4] = [Kind::Loss, Kind::Latency, Kind::Jitter, Kind::Path];

/// Relation between the alarms of an agent: which are explained by others, and which wait for fresh samples.
#[derive(Debug, Default)]
pub struct Explanations {
    /// Tests whose connection is down, by the name of the host at their other end.
    down: BTreeMap<String, BTreeSet<TestId>>,
    /// Name of the host at the other end of each test that is down.
    peers: BTreeMap<TestId, String>,
    /// Alarms that wait for fresh samples, with the moment at which each wait ends.
    settling: BTreeMap<AlarmKey, Moment>,
    schedule: BTreeSet<(Moment, AlarmKey)>,
}

impl Explanations {
    /// Records the peer host of a test whose connection is down, or `None` for a test that is not down. Returns the
    /// peer host if the test was the first to go down or the last to come up there.
    pub fn on_connection(&mut self, id: TestId, peer: Option<&str>) -> Option<String> {
        let before = match peer {
            Some(peer) => self.peers.insert(id, peer.to_owned()),
            None => self.peers.remove(&id),
        };
        if before.as_deref() == peer {
            return None;
        }
        let mut turned = None;
        if let Some(before) = before
            && let Some(tests) = self.down.get_mut(&before)
        {
            tests.remove(&id);
            if tests.is_empty() {
                self.down.remove(&before);
                turned = Some(before);
            }
        }
        if let Some(peer) = peer {
            let tests = self.down.entry(peer.to_owned()).or_default();
            if tests.is_empty() {
                turned = Some(peer.to_owned());
            }
            tests.insert(id);
        }
        turned
    }

    /// Returns the alarm that explains `key`. For a sender alarm, `to_host` is the host that its probes are sent to.
    pub fn explained_by(&self, key: &AlarmKey, to_host: Option<&str>) -> Option<AlarmKey> {
        let test = match (key.kind, &key.subject) {
            (kind, Subject::Test(id)) if MEASURED.contains(&kind) => self.peers.contains_key(id).then_some(*id),
            (Kind::Sender, _) => self.down.get(to_host?).and_then(|tests| tests.first()).copied(),
            (_, _) => None,
        };
        test.map(|id| AlarmKey::new(Kind::Connection, Subject::Test(id)))
    }

    /// Returns whether any test with this host at its other end is down.
    pub fn is_down(&self, host: &str) -> bool {
        self.down.contains_key(host)
    }

    /// Makes an alarm wait until `until` for fresh samples, or for an alarm that may explain it.
    pub fn settle(&mut self, key: AlarmKey, until: Moment) {
        if let Some(before) = self.settling.insert(key.clone(), until) {
            self.schedule.remove(&(before, key.clone()));
        }
        self.schedule.insert((until, key));
    }

    /// Returns whether an alarm is suppressed until fresh samples have arrived.
    pub fn is_settling(&self, key: &AlarmKey) -> bool {
        self.settling.contains_key(key)
    }

    /// Ends the wait of an alarm that has been cleared.
    pub fn forget(&mut self, key: &AlarmKey) {
        if let Some(until) = self.settling.remove(key) {
            self.schedule.remove(&(until, key.clone()));
        }
    }

    /// Ends the waits that are due at `now` and returns their alarms.
    pub fn on_time(&mut self, now: Moment) -> Vec<AlarmKey> {
        let mut over = Vec::new();
        while let Some((until, key)) = self.schedule.first().filter(|(until, _)| *until <= now).cloned() {
            self.schedule.remove(&(until, key.clone()));
            self.settling.remove(&key);
            over.push(key);
        }
        over
    }

    /// Returns the moment at which `on_time` must be called next; `None` if no alarm waits.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.schedule.first().map(|(until, _)| *until)
    }
}
