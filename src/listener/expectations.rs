//! The expectations of a listener, and the order in which they are looked at for silence. Very many of them are
//! found quickly: what is looked through is small, and what follows is fetched ahead of its use.

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

/// Silence is judged no later than this part of its interval, so that many tests share a wake-up.
const AGENDA_PARTS: u64 = 10;
/// Expectations whose memory is fetched together; more would drive each other out of the cache.
pub(super) const TOGETHER: usize = 16;

/// Found in one step, as long as the test is there; another may have its place later.
pub(super) type Place = u32;

/// See the module.
#[derive(Default)]
pub(super) struct Expectations {
    entries: HashTable<Entry>,
    rows: Slab<Row>,
    /// When to look at whom. A test's turn may have moved on; it is asked when it is called up.
    agenda: Calendar<Place>,
}

/// What is looked through. Nearly always the tag alone tells whether a test is the wanted one.
struct Entry {
    tag: u32,
    place: Place,
}

/// All that is needed of an expectation while no probe comes and no silence is due.
struct Row {
    /// When it is called up next. Calls at other times are of the past.
    called: Moment,
    /// When it has its turn: a call before that only makes the next one.
    turn: Moment,
    watched: Box<Watched>,
}

/// An expectation, with what it is found by before it.
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
        // More than fit into memory would be needed for this not to fit.
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

    /// Where tests are if they are there, without a look at them.
    pub fn presume(&self, ids: impl Iterator<Item = Option<TestId>>) -> Vec<Option<Place>> {
        // By themselves first, so that the table is waited for once for many of them.
        let hashes: Vec<Option<u64>> = ids.map(|id| id.map(hash)).collect();
        let presumed = |hash| self.entries.find(hash, |entry| entry.tag == tag(hash)).map(|entry| entry.place);
        hashes.into_iter().map(|hash| presumed(hash?)).collect()
    }

    /// The same as `find`, for a test that is presumed to be there.
    pub fn find_at(&self, presumed: Option<Place>, id: TestId) -> Option<Place> {
        presumed.filter(|place| self.holds(*place, id)).or_else(|| self.find(id))
    }

    /// What is at a place, if anything is there by now. Whoever changes its deadline calls `reschedule`.
    pub fn at(&mut self, place: Place) -> Option<(Place, &mut Watched)> {
        self.rows.get_mut(place as usize).map(|row| (place, row.watched.as_mut()))
    }

    pub fn values(&self) -> impl Iterator<Item = &Expectation> {
        self.rows.iter().map(|(_, row)| &row.watched.expectation)
    }

    /// The tests of which probes came lately, and where those come from.
    pub fn heard_lately(&self, now: Moment) -> impl Iterator<Item = (Expected, SocketAddr)> {
        let lately = move |watched: &&Watched| !watched.expectation.is_silent(now);
        let all = self.rows.iter().map(|(_, row)| row.watched.as_ref()).filter(lately);
        all.filter_map(|watched| Some((watched.expectation.expected().clone(), watched.source?.0)))
    }

    /// What is done to them only moves deadlines on.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.rows.iter_mut().map(|(_, row)| row.watched.as_mut())
    }

    /// The deadline of what is at a place may have changed.
    pub fn reschedule(&mut self, place: Place) {
        let Some(row) = self.rows.get_mut(place as usize) else { return };
        row.turn = turn(&row.watched.expectation);
        if row.turn < row.called {
            row.called = row.turn;
            self.agenda.enter(row.turn, place);
        }
    }

    /// When anything is called up next.
    pub fn next_call(&self) -> Option<Moment> {
        self.agenda.next()
    }

    /// Whose turn it is. Each is at its place again by now; whoever looks at it calls `reschedule`.
    pub fn have_their_turn(&mut self, now: Moment) -> Vec<Place> {
        let mut all = Vec::new();
        while let Some(called) = self.agenda.due(now) {
            for place in called {
                let Some(row) = self.rows.get_mut(place as usize).filter(|row| row.called <= now) else { continue };
                if row.turn <= now {
                    // Until it is rescheduled.
                    row.called = Moment::MAX;
                    all.push(place);
                } else {
                    // For most, a probe came meanwhile.
                    row.called = row.turn;
                    self.agenda.enter(row.turn, place);
                }
            }
        }
        all
    }

    /// Has fetched what probes of these tests need.
    pub fn prefetch_for_probes(&self, places: &[Option<Place>]) {
        const FOR_PROBE: usize = offset_of!(Watched, expectation) + Expectation::HOT;
        self.of(places).for_each(|watched| prefetch(watched, FOR_PROBE));
    }

    /// Has fetched what their delays are counted in, once the rest has come.
    pub fn prefetch_histograms(&self, places: &[Option<Place>]) {
        /// Of most tests.
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

/// When it is asked for silence: when that is due, or a little later together with others.
fn turn(expectation: &Expectation) -> Moment {
    let part = Duration::from_nanos(saturating_nanos(expectation.expected().expect_every) / AGENDA_PARTS);
    expectation.next_deadline().rounded_up(part.min(pace::LONGEST))
}

fn hash(id: TestId) -> u64 {
    FxBuildHasher.hash_one(id.as_u128())
}

/// Bits of a hash that are not those by which a table is ordered.
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
        /// Against a walk over all of them.
        #[test]
        fn all_have_their_turn_and_no_others(steps in prop::collection::vec((0u64..400, 0u8..8, any::<bool>()), 0..300)) {
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
                    // One whose deadline moved on unnoticed is asked once more, and has nothing to say.
                    if due(turn(&watched.expectation)) {
                        prop_assert!(found.insert(watched.id));
                    }
                    watched.expectation.on_silence(now, 0, &mut changes);
                    expectations.reschedule(place);
                }
                prop_assert_eq!(found, wanted);
            }
        }

        /// Against a plain set, while places are given away again.
        #[test]
        fn what_is_there_is_found(steps in prop::collection::vec((0u8..20, any::<bool>()), 0..200)) {
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
