//! Receive sessions of a listener, and the schedule by which they are checked for timeouts.
//!
//! The main type is [`Sessions`], made for very many tests: a lookup searches a small table, and the memory of the
//! sessions that it finds is prefetched.

use std::hash::BuildHasher;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::time::Duration;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use slab::Slab;

use crate::io::net::prefetch::prefetch;
use crate::pure::base::calendar_queue::CalendarQueue;
use crate::pure::base::polling;
use crate::pure::base::time::{Moment, saturating_nanos};
use crate::pure::judge::session::{ReceiveSession, SessionPlan};
use crate::pure::test::id::TestId;

/// A timeout is judged late by at most this fraction of the test's interval, so that many tests share a wake-up.
const AGENDA_PARTS: u64 = 10;
/// Number of receive sessions whose memory is prefetched together; more would evict each other from the cache.
pub(super) const TOGETHER: usize = 16;

/// Index of a receive session in `rows`. A lookup by it takes one step; after the test is removed, another may get the
/// same index.
pub(super) type SessionIndex = u32;

/// Collection of receive sessions with a hash table for lookup and a calendar queue of their deadlines.
#[derive(Default)]
pub(super) struct Sessions {
    entries: HashTable<SessionEntry>,
    rows: Slab<Row>,
    /// Times at which sessions are to be checked. A session's deadline may have moved later since; the check then
    /// enters the new one.
    schedule: CalendarQueue<SessionIndex>,
}

/// Entry of the hash table. The tag alone nearly always identifies the wanted test, without access to its row.
struct SessionEntry {
    tag: u32,
    place: SessionIndex,
}

/// Data of a receive session that is needed while no probe arrives and no timeout is due.
struct Row {
    /// Time of the session's valid entry in the schedule; entries at other times are obsolete.
    called: Moment,
    /// Time at which the session is to be judged. A schedule entry that is due earlier only enters this time again.
    turn: Moment,
    watched: Box<WatchedSession>,
}

/// Receive session, preceded by the id by which it is found.
#[repr(C)]
pub(super) struct WatchedSession {
    id: TestId,
    /// Source address of the test's probes, and whether it is an address of this host: both ends share a clock then.
    pub source: Option<(SocketAddr, bool)>,
    pub session: ReceiveSession,
}

impl Sessions {
    pub fn with_room_for(tests: usize) -> Self {
        Sessions {
            entries: HashTable::with_capacity(tests),
            rows: Slab::with_capacity(tests),
            schedule: CalendarQueue::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn insert(&mut self, session: ReceiveSession) {
        let (id, turn) = (session.expected().test.id, turn(&session));
        let watched = Box::new(WatchedSession { id, source: None, session });
        let (hash_of, rows) = (hash(id), &mut self.rows);
        // An index beyond the range of `SessionIndex` would need more sessions than fit into memory.
        let place = rows.insert(Row { called: turn, turn, watched }) as SessionIndex;
        let entry = SessionEntry { tag: tag(hash_of), place };
        self.entries.insert_unique(hash_of, entry, |entry| hash(rows[entry.place as usize].watched.id));
        self.schedule.enter(turn, place);
    }

    pub fn remove(&mut self, id: TestId) -> Option<ReceiveSession> {
        let rows = &self.rows;
        let found = self.entries.find_entry(hash(id), |entry| rows[entry.place as usize].watched.id == id).ok()?;
        Some(self.rows.remove(found.remove().0.place as usize).watched.session)
    }

    pub fn find(&self, id: TestId) -> Option<SessionIndex> {
        let hash = hash(id);
        let is_it = |entry: &SessionEntry| entry.tag == tag(hash) && self.holds(entry.place, id);
        self.entries.find(hash, is_it).map(|entry| entry.place)
    }

    /// Returns the probable places of tests by their tags alone, without access to the sessions.
    pub fn probable_indices(&self, ids: impl Iterator<Item = Option<TestId>>) -> Vec<Option<SessionIndex>> {
        // Compute all hashes first, so that the memory accesses of the table overlap for many tests.
        let hashes: Vec<Option<u64>> = ids.map(|id| id.map(hash)).collect();
        let presumed = |hash| self.entries.find(hash, |entry| entry.tag == tag(hash)).map(|entry| entry.place);
        hashes.into_iter().map(|hash| presumed(hash?)).collect()
    }

    /// Returns the same as `find`, but faster if the presumed place is right.
    pub fn find_at(&self, presumed: Option<SessionIndex>, id: TestId) -> Option<SessionIndex> {
        presumed.filter(|place| self.holds(*place, id)).or_else(|| self.find(id))
    }

    /// Returns the session at a place, if there is one. A caller that changes its deadline calls `reschedule`.
    pub fn at(&mut self, place: SessionIndex) -> Option<(SessionIndex, &mut WatchedSession)> {
        self.rows.get_mut(place as usize).map(|row| (place, row.watched.as_mut()))
    }

    pub fn values(&self) -> impl Iterator<Item = &ReceiveSession> {
        self.rows.iter().map(|(_, row)| &row.watched.session)
    }

    /// Returns the tests that accepted a probe within their `expect_every`, and the source address of each.
    pub fn active_sources(&self, now: Moment) -> impl Iterator<Item = (SessionPlan, SocketAddr)> {
        let lately = move |watched: &&WatchedSession| !watched.session.is_silent(now);
        let all = self.rows.iter().map(|(_, row)| row.watched.as_ref()).filter(lately);
        all.filter_map(|watched| Some((watched.session.expected().clone(), watched.source?.0)))
    }

    /// Returns all sessions for changes that move deadlines only later, so that none needs `reschedule`.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut WatchedSession> {
        self.rows.iter_mut().map(|(_, row)| row.watched.as_mut())
    }

    /// Updates the schedule after the deadline of the session at a place may have changed.
    pub fn reschedule(&mut self, place: SessionIndex) {
        let Some(row) = self.rows.get_mut(place as usize) else { return };
        row.turn = turn(&row.watched.session);
        if row.turn < row.called {
            row.called = row.turn;
            self.schedule.enter(row.turn, place);
        }
    }

    /// Returns the time of the next entry of the schedule.
    pub fn next_call(&self) -> Option<Moment> {
        self.schedule.next()
    }

    /// Returns the sessions that are due. None has an entry in the schedule afterwards: the caller judges each and calls
    /// `reschedule`.
    pub fn take_due(&mut self, now: Moment) -> Vec<SessionIndex> {
        let mut all = Vec::new();
        while let Some(called) = self.schedule.due(now) {
            for place in called {
                let Some(row) = self.rows.get_mut(place as usize).filter(|row| row.called <= now) else { continue };
                if row.turn <= now {
                    // The session has no valid entry in the schedule until it is rescheduled.
                    row.called = Moment::MAX;
                    all.push(place);
                } else {
                    // A probe has usually arrived meanwhile and moved the deadline.
                    row.called = row.turn;
                    self.schedule.enter(row.turn, place);
                }
            }
        }
        all
    }

    /// Prefetches the memory that judging a probe of these tests reads.
    pub fn prefetch_for_probes(&self, places: &[Option<SessionIndex>]) {
        const FOR_PROBE: usize = offset_of!(WatchedSession, session) + ReceiveSession::HOT;
        self.of(places).for_each(|watched| prefetch(watched, FOR_PROBE));
    }

    /// Prefetches the histograms that count the delays of these tests; call when the sessions themselves are in the
    /// cache.
    pub fn prefetch_histograms(&self, places: &[Option<SessionIndex>]) {
        /// Size in octets of the histograms of most tests.
        const OCTETS: usize = 256;
        let prefetch_hint = self.of(places).filter_map(|watched| watched.session.prefetch_hint());
        prefetch_hint.for_each(|counts| prefetch(counts, OCTETS));
    }

    fn of(&self, places: &[Option<SessionIndex>]) -> impl Iterator<Item = &WatchedSession> {
        places.iter().flatten().filter_map(|place| self.rows.get(*place as usize)).map(|row| row.watched.as_ref())
    }

    fn holds(&self, place: SessionIndex, id: TestId) -> bool {
        self.rows.get(place as usize).is_some_and(|row| row.watched.id == id)
    }
}

/// Returns the time at which a timeout is judged: the deadline, rounded up so that several tests share a wake-up.
fn turn(session: &ReceiveSession) -> Moment {
    let part = Duration::from_nanos(saturating_nanos(session.expected().expect_every) / AGENDA_PARTS);
    session.next_deadline().rounded_up(part.min(polling::LONGEST))
}

fn hash(id: TestId) -> u64 {
    FxBuildHasher.hash_one(id.as_u128())
}

/// Returns bits of a hash other than those by which the hash table chooses a slot.
fn tag(hash: u64) -> u32 {
    (hash >> 24) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::pure::base::time::{Now, WallTime};
    use crate::pure::clock::error_estimate::{Delay, DelayLimits};
    use crate::pure::judge::condition::Thresholds;
    use crate::pure::judge::session::{Criteria, ProbeSample};
    use crate::pure::measure::loss_window::LossLimits;
    use crate::pure::stamp::flows::Flows;
    use crate::pure::test::facts::TestFacts;
    use crate::pure::test::role::Role;
    use crate::pure::test::spec::Mode;
    use proptest::prelude::*;

    fn id(n: u8) -> TestId {
        TestId::from_bytes([n; 16])
    }

    fn session(id: TestId, now: Now) -> ReceiveSession {
        let test = TestFacts::example(id);
        let second = Duration::from_secs(1);
        let criteria = Criteria {
            role: Role::Receiver,
            mode: Mode::OneWay,
            expect_every: second,
            has_timeout: true,
            thresholds: Thresholds::in_a_row(3, 3),
            limits: DelayLimits { max_latency: None, clear_latency: second, egregious_latency: second },
            max_each_way: None,
            max_above_baseline: None,
            loss: LossLimits { max_loss_ppm: None, max_jitter: None, loss_window: second },
            flows: Flows::default(),
            keys: None,
            startup_grace: second,
            max_pause: second,
        };
        let expected =
            SessionPlan { test: Arc::new(test), from_address: None, any_of: None, criteria: Arc::new(criteria) };
        ReceiveSession::new(expected, now)
    }

    fn probe(received: Now) -> ProbeSample {
        ProbeSample {
            test_id: id(0),
            received,
            delay: Delay { nanos: 0, uncertainty: Duration::ZERO },
            directions: None,
            epoch_and_sequence: None,
            unsent: 0,
            send_every: Duration::from_secs(1),
            sent: WallTime::ZERO,
            source_port: 0,
            is_trusted: true,
            clock_was_set: false,
            stops: false,
            stepped: false,
            ttl: None,
            dscp: None,
            dropped: 0,
        }
    }

    proptest! {
        /// Compares the sessions that are due with a walk over all sessions.
        #[test]
        fn exactly_the_due_sessions_are_returned(steps in prop::collection::vec((0u64..400, 0u8..8, any::<bool>()), 0..300)) {
            let (mut sessions, mut now, mut changes) = (Sessions::default(), Now::default(), Vec::new());
            for (millis, n, is_probe) in steps {
                now = now.advanced_to(now.moment + Duration::from_millis(millis));
                match sessions.find(id(n)).and_then(|place| sessions.at(place)) {
                    Some((place, watched)) if is_probe => {
                        watched.session.on_probe(&probe(now), &mut changes);
                        sessions.reschedule(place);
                    }
                    Some((_, watched)) if n == 0 => watched.session.on_suspension(now),
                    Some(_) if n == 1 => drop(sessions.remove(id(n))),
                    Some(_) => {}
                    None => sessions.insert(session(id(n), now)),
                }
                let due = |turn: Moment| turn <= now.moment;
                let wanted = sessions.values().filter(|session| due(turn(session)));
                let wanted: BTreeSet<TestId> = wanted.map(|session| session.expected().test.id).collect();
                let mut found = BTreeSet::new();
                for place in sessions.take_due(now.moment) {
                    let (_, watched) = sessions.at(place).unwrap();
                    // A session whose deadline moved later without `reschedule` is returned once more, and is not due.
                    if due(turn(&watched.session)) {
                        prop_assert!(found.insert(watched.id));
                    }
                    watched.session.on_timeout(now, 0, &mut changes);
                    sessions.reschedule(place);
                }
                prop_assert_eq!(found, wanted);
            }
        }

        /// Compares lookups with a plain set, while places are reused.
        #[test]
        fn lookup_finds_exactly_the_inserted_sessions(steps in prop::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let (mut sessions, mut known) = (Sessions::default(), BTreeSet::new());
            for (n, inserts) in steps {
                match inserts {
                    true if known.insert(n) => {
                        sessions.insert(session(id(n), Now::default()));
                    }
                    true => {}
                    false => prop_assert_eq!(sessions.remove(id(n)).is_some(), known.remove(&n)),
                }
                for n in 0..20 {
                    let found = sessions.find(id(n)).and_then(|place| sessions.at(place));
                    prop_assert_eq!(found.map(|(_, watched)| watched.id), known.contains(&n).then_some(id(n)));
                    let presumed = sessions.probable_indices([Some(id(n)), None].into_iter());
                    prop_assert_eq!(presumed, [sessions.find(id(n)), None]);
                    for presumed in 0..20 {
                        prop_assert_eq!(sessions.find_at(Some(presumed), id(n)), sessions.find(id(n)));
                    }
                }
                prop_assert_eq!(sessions.len(), known.len());
            }
        }
    }
}
