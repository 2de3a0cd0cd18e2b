//! Receive sessions of a listener, and the schedule by which they are checked for timeouts.
//!
//! The main type is [`Expectations`], made for very many tests: a lookup searches a small table, and the memory of the
//! sessions that it finds is prefetched.

use std::hash::BuildHasher;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::time::Duration;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use slab::Slab;

use crate::io::prefetch::prefetch;
use crate::pure::calendar::Calendar;
use crate::pure::expectation::{Expectation, Expected};
use crate::pure::pace;
use crate::pure::test::TestId;
use crate::pure::time::{Moment, saturating_nanos};

/// A timeout is judged late by at most this fraction of the test's interval, so that many tests share a wake-up.
const AGENDA_PARTS: u64 = 10;
/// Number of receive sessions whose memory is prefetched together; more would evict each other from the cache.
pub(super) const TOGETHER: usize = 16;

/// Index of a receive session in `rows`. A lookup by it takes one step; after the test is removed, another may get the
/// same index.
pub(super) type Place = u32;

/// Collection of receive sessions with a hash table for lookup and a calendar queue of their deadlines.
#[derive(Default)]
pub(super) struct Expectations {
    entries: HashTable<Entry>,
    rows: Slab<Row>,
    /// Times at which sessions are to be checked. A session's deadline may have moved later since; the check then
    /// enters the new one.
    agenda: Calendar<Place>,
}

/// Entry of the hash table. The tag alone nearly always identifies the wanted test, without access to its row.
struct Entry {
    tag: u32,
    place: Place,
}

/// Data of a receive session that is needed while no probe arrives and no timeout is due.
struct Row {
    /// Time of the session's valid entry in the agenda; entries at other times are obsolete.
    called: Moment,
    /// Time at which the session is to be judged. An agenda entry that is due earlier only enters this time again.
    turn: Moment,
    watched: Box<Watched>,
}

/// Receive session, preceded by the id by which it is found.
#[repr(C)]
pub(super) struct Watched {
    id: TestId,
    /// Source address of the test's probes, and whether it is an address of this host: both ends share a clock then.
    pub source: Option<(SocketAddr, bool)>,
    pub expectation: Expectation,
}

impl Expectations {
    pub fn with_room_for(tests: usize) -> Self {
        Expectations {
            entries: HashTable::with_capacity(tests),
            rows: Slab::with_capacity(tests),
            agenda: Calendar::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn insert(&mut self, expectation: Expectation) {
        let (id, turn) = (expectation.expected().test.id, turn(&expectation));
        let watched = Box::new(Watched { id, source: None, expectation });
        let (hash_of, rows) = (hash(id), &mut self.rows);
        // An index beyond the range of `Place` would need more sessions than fit into memory.
        let place = rows.insert(Row { called: turn, turn, watched }) as Place;
        let entry = Entry { tag: tag(hash_of), place };
        self.entries.insert_unique(hash_of, entry, |entry| hash(rows[entry.place as usize].watched.id));
        self.agenda.enter(turn, place);
    }

    pub fn remove(&mut self, id: TestId) -> Option<Expectation> {
        let rows = &self.rows;
        let found = self.entries.find_entry(hash(id), |entry| rows[entry.place as usize].watched.id == id).ok()?;
        Some(self.rows.remove(found.remove().0.place as usize).watched.expectation)
    }

    pub fn find(&self, id: TestId) -> Option<Place> {
        let hash = hash(id);
        let is_it = |entry: &Entry| entry.tag == tag(hash) && self.holds(entry.place, id);
        self.entries.find(hash, is_it).map(|entry| entry.place)
    }

    /// Returns the probable places of tests by their tags alone, without access to the sessions.
    pub fn presume(&self, ids: impl Iterator<Item = Option<TestId>>) -> Vec<Option<Place>> {
        // Compute all hashes first, so that the memory accesses of the table overlap for many tests.
        let hashes: Vec<Option<u64>> = ids.map(|id| id.map(hash)).collect();
        let presumed = |hash| self.entries.find(hash, |entry| entry.tag == tag(hash)).map(|entry| entry.place);
        hashes.into_iter().map(|hash| presumed(hash?)).collect()
    }

    /// Returns the same as `find`, but faster if the presumed place is right.
    pub fn find_at(&self, presumed: Option<Place>, id: TestId) -> Option<Place> {
        presumed.filter(|place| self.holds(*place, id)).or_else(|| self.find(id))
    }

    /// Returns the session at a place, if there is one. A caller that changes its deadline calls `reschedule`.
    pub fn at(&mut self, place: Place) -> Option<(Place, &mut Watched)> {
        self.rows.get_mut(place as usize).map(|row| (place, row.watched.as_mut()))
    }

    pub fn values(&self) -> impl Iterator<Item = &Expectation> {
        self.rows.iter().map(|(_, row)| &row.watched.expectation)
    }

    /// Returns the tests that accepted a probe within their `expect_every`, and the source address of each.
    pub fn heard_lately(&self, now: Moment) -> impl Iterator<Item = (Expected, SocketAddr)> {
        let lately = move |watched: &&Watched| !watched.expectation.is_silent(now);
        let all = self.rows.iter().map(|(_, row)| row.watched.as_ref()).filter(lately);
        all.filter_map(|watched| Some((watched.expectation.expected().clone(), watched.source?.0)))
    }

    /// Returns all sessions for changes that move deadlines only later, so that none needs `reschedule`.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.rows.iter_mut().map(|(_, row)| row.watched.as_mut())
    }

    /// Updates the agenda after the deadline of the session at a place may have changed.
    pub fn reschedule(&mut self, place: Place) {
        let Some(row) = self.rows.get_mut(place as usize) else { return };
        row.turn = turn(&row.watched.expectation);
        if row.turn < row.called {
            row.called = row.turn;
            self.agenda.enter(row.turn, place);
        }
    }

    /// Returns the time of the next agenda entry.
    pub fn next_call(&self) -> Option<Moment> {
        self.agenda.next()
    }

    /// Returns the sessions that are due. None has an agenda entry afterwards: the caller judges each and calls
    /// `reschedule`.
    pub fn have_their_turn(&mut self, now: Moment) -> Vec<Place> {
        let mut all = Vec::new();
        while let Some(called) = self.agenda.due(now) {
            for place in called {
                let Some(row) = self.rows.get_mut(place as usize).filter(|row| row.called <= now) else { continue };
                if row.turn <= now {
                    // The session has no valid agenda entry until it is rescheduled.
                    row.called = Moment::MAX;
                    all.push(place);
                } else {
                    // A probe has usually arrived meanwhile and moved the deadline.
                    row.called = row.turn;
                    self.agenda.enter(row.turn, place);
                }
            }
        }
        all
    }

    /// Prefetches the memory that judging a probe of these tests reads.
    pub fn prefetch_for_probes(&self, places: &[Option<Place>]) {
        const FOR_PROBE: usize = offset_of!(Watched, expectation) + Expectation::HOT;
        self.of(places).for_each(|watched| prefetch(watched, FOR_PROBE));
    }

    /// Prefetches the histograms that count the delays of these tests; call when the sessions themselves are in the
    /// cache.
    pub fn prefetch_histograms(&self, places: &[Option<Place>]) {
        /// Size in octets of the histograms of most tests.
        const OCTETS: usize = 256;
        let elsewhere = self.of(places).filter_map(|watched| watched.expectation.elsewhere());
        elsewhere.for_each(|counts| prefetch(counts, OCTETS));
    }

    fn of(&self, places: &[Option<Place>]) -> impl Iterator<Item = &Watched> {
        places.iter().flatten().filter_map(|place| self.rows.get(*place as usize)).map(|row| row.watched.as_ref())
    }

    fn holds(&self, place: Place, id: TestId) -> bool {
        self.rows.get(place as usize).is_some_and(|row| row.watched.id == id)
    }
}

/// Returns the time at which a timeout is judged: the deadline, rounded up so that several tests share a wake-up.
fn turn(expectation: &Expectation) -> Moment {
    let part = Duration::from_nanos(saturating_nanos(expectation.expected().expect_every) / AGENDA_PARTS);
    expectation.next_deadline().rounded_up(part.min(pace::LONGEST))
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
    use crate::pure::clock_error::{Delay, DelayLimits};
    use crate::pure::condition::Thresholds;
    use crate::pure::expectation::{Incoming, Manner};
    use crate::pure::flows::Flows;
    use crate::pure::loss_window::LossLimits;
    use crate::pure::status::Role;
    use crate::pure::test::{Mode, TestFacts};
    use crate::pure::time::{Now, WallTime};
    use proptest::prelude::*;

    fn id(n: u8) -> TestId {
        TestId::from_bytes([n; 16])
    }

    fn expectation(id: TestId, now: Now) -> Expectation {
        let test = TestFacts::example(id);
        let second = Duration::from_secs(1);
        let manner = Manner {
            role: Role::Receiver,
            mode: Mode::OneWay,
            expect_every: second,
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
        let expected = Expected { test: Arc::new(test), from_address: None, any_of: None, manner: Arc::new(manner) };
        Expectation::new(expected, now)
    }

    fn probe(received: Now) -> Incoming {
        Incoming {
            test_id: id(0),
            received,
            delay: Delay { nanos: 0, uncertainty: Duration::ZERO },
            directions: None,
            order: None,
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
            let (mut expectations, mut now, mut changes) = (Expectations::default(), Now::default(), Vec::new());
            for (millis, n, is_probe) in steps {
                now = now.advanced_to(now.moment + Duration::from_millis(millis));
                match expectations.find(id(n)).and_then(|place| expectations.at(place)) {
                    Some((place, watched)) if is_probe => {
                        watched.expectation.on_probe(&probe(now), &mut changes);
                        expectations.reschedule(place);
                    }
                    Some((_, watched)) if n == 0 => watched.expectation.on_own_stall(now),
                    Some(_) if n == 1 => drop(expectations.remove(id(n))),
                    Some(_) => {}
                    None => expectations.insert(expectation(id(n), now)),
                }
                let due = |turn: Moment| turn <= now.moment;
                let wanted = expectations.values().filter(|expectation| due(turn(expectation)));
                let wanted: BTreeSet<TestId> = wanted.map(|expectation| expectation.expected().test.id).collect();
                let mut found = BTreeSet::new();
                for place in expectations.have_their_turn(now.moment) {
                    let (_, watched) = expectations.at(place).unwrap();
                    // A session whose deadline moved later without `reschedule` is returned once more, and is not due.
                    if due(turn(&watched.expectation)) {
                        prop_assert!(found.insert(watched.id));
                    }
                    watched.expectation.on_silence(now, 0, &mut changes);
                    expectations.reschedule(place);
                }
                prop_assert_eq!(found, wanted);
            }
        }

        /// Compares lookups with a plain set, while places are reused.
        #[test]
        fn lookup_finds_exactly_the_inserted_sessions(steps in prop::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let (mut expectations, mut known) = (Expectations::default(), BTreeSet::new());
            for (n, inserts) in steps {
                match inserts {
                    true if known.insert(n) => {
                        expectations.insert(expectation(id(n), Now::default()));
                    }
                    true => {}
                    false => prop_assert_eq!(expectations.remove(id(n)).is_some(), known.remove(&n)),
                }
                for n in 0..20 {
                    let found = expectations.find(id(n)).and_then(|place| expectations.at(place));
                    prop_assert_eq!(found.map(|(_, watched)| watched.id), known.contains(&n).then_some(id(n)));
                    let presumed = expectations.presume([Some(id(n)), None].into_iter());
                    prop_assert_eq!(presumed, [expectations.find(id(n)), None]);
                    for presumed in 0..20 {
                        prop_assert_eq!(expectations.find_at(Some(presumed), id(n)), expectations.find(id(n)));
                    }
                }
                prop_assert_eq!(expectations.len(), known.len());
            }
        }
    }
}
