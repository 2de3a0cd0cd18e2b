//! The expectations of a listener, in memory that very many of them are found in quickly: what is looked
//! through to find one fits into the processor's own cache, and what follows is fetched ahead of its use.

use std::hash::BuildHasher;
use std::mem::offset_of;
use std::net::IpAddr;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use slab::Slab;

use crate::io::prefetch::prefetch;
use crate::pure::expectation::Expectation;
use crate::pure::test::TestId;
use crate::pure::time::Moment;

/// Found in one step, as long as the test is there; another may have its place later.
pub(super) type Place = u32;

/// See the module.
#[derive(Default)]
pub(super) struct Expectations {
    places: HashTable<Entry>,
    /// Boxed: a table of large things wastes much.
    all: Slab<Box<Watched>>,
}

/// What is looked through. Nearly always the tag alone tells whether a test is the wanted one.
struct Entry {
    tag: u32,
    place: Place,
}

/// An expectation, and when it is looked at for silence. What it is found by stands first.
#[repr(C)]
pub(super) struct Watched {
    /// Its place in the agenda. Others that are there are of the past.
    pub due: Moment,
    id: TestId,
    /// Whether its last probe came from this host: one clock gives both stamps then.
    pub source: Option<(IpAddr, bool)>,
    pub expectation: Expectation,
}

impl Watched {
    pub fn new(expectation: Expectation) -> Self {
        let (id, due) = (expectation.expected().test.id, expectation.next_deadline());
        Watched { due, id, source: None, expectation }
    }
}

impl Expectations {
    pub fn with_room_for(tests: usize) -> Self {
        Expectations { places: HashTable::with_capacity(tests), all: Slab::with_capacity(tests) }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn insert(&mut self, watched: Watched) -> Place {
        let (hash_of, all) = (hash(watched.id), &mut self.all);
        // More than fit into memory would be needed for this not to fit.
        let place = all.insert(Box::new(watched)) as Place;
        self.places.insert_unique(hash_of, Entry { tag: tag(hash_of), place }, |entry| hash(all[entry.place as usize].id));
        place
    }

    pub fn remove(&mut self, id: TestId) -> Option<Box<Watched>> {
        let all = &self.all;
        let found = self.places.find_entry(hash(id), |entry| all[entry.place as usize].id == id).ok()?;
        Some(self.all.remove(found.remove().0.place as usize))
    }

    pub fn find(&self, id: TestId) -> Option<Place> {
        let hash = hash(id);
        let is_it = |entry: &Entry| entry.tag == tag(hash) && self.holds(entry.place, id);
        self.places.find(hash, is_it).map(|entry| entry.place)
    }

    /// Where a test is if it is there, without a look at it.
    pub fn presume(&self, id: TestId) -> Option<Place> {
        let hash = hash(id);
        self.places.find(hash, |entry| entry.tag == tag(hash)).map(|entry| entry.place)
    }

    /// The same as `find`, for a test that is presumed to be there.
    pub fn find_at(&self, presumed: Option<Place>, id: TestId) -> Option<Place> {
        presumed.filter(|place| self.holds(*place, id)).or_else(|| self.find(id))
    }

    /// What is at a place, if anything is there by now.
    pub fn at(&mut self, place: Place) -> Option<(Place, &mut Watched)> {
        self.all.get_mut(place as usize).map(|watched| (place, watched.as_mut()))
    }

    pub fn values(&self) -> impl Iterator<Item = &Expectation> {
        self.all.iter().map(|(_, watched)| &watched.expectation)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.all.iter_mut().map(|(_, watched)| watched.as_mut())
    }

    /// Has fetched what probes of these tests need.
    pub fn prefetch_for_probes(&self, places: &[Option<Place>]) {
        const EXPECTATION: usize = offset_of!(Watched, expectation);
        let [first, rest @ ..] = Expectation::HOT;
        for watched in self.of(places) {
            prefetch(watched, 0..EXPECTATION + first.end);
            rest.iter().for_each(|octets| prefetch(&watched.expectation, octets.clone()));
        }
    }

    /// Has fetched what their delays are counted in, once the rest has come.
    pub fn prefetch_histograms(&self, places: &[Option<Place>]) {
        let elsewhere = self.of(places).filter_map(|watched| watched.expectation.elsewhere());
        elsewhere.for_each(|counts| prefetch(counts, 0..FOR_HISTOGRAM));
    }

    /// Has fetched what is needed to see whether silence is due.
    pub fn prefetch_for_deadlines(&self, places: &[Place]) {
        for watched in places.iter().filter_map(|place| self.all.get(*place as usize)) {
            prefetch(watched.as_ref(), 0..offset_of!(Watched, expectation) + Expectation::HOT_FOR_DEADLINE);
        }
    }

    fn of(&self, places: &[Option<Place>]) -> impl Iterator<Item = &Watched> {
        places.iter().flatten().filter_map(|place| self.all.get(*place as usize)).map(Box::as_ref)
    }

    fn holds(&self, place: Place, id: TestId) -> bool {
        self.all.get(place as usize).is_some_and(|watched| watched.id == id)
    }
}

/// What a delay is counted in, of most tests.
const FOR_HISTOGRAM: usize = 256;

fn hash(id: TestId) -> u64 {
    FxBuildHasher.hash_one(id)
}

/// Bits of a hash that are not those by which a table is ordered.
fn tag(hash: u64) -> u32 {
    (hash >> 24) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::pure::clock_error::DelayLimits;
    use crate::pure::condition::Thresholds;
    use crate::pure::expectation::{Expected, Manner};
    use crate::pure::flows::Flows;
    use crate::pure::loss_window::LossLimits;
    use crate::pure::status::Role;
    use crate::pure::test::{Mode, TestFacts};
    use crate::pure::time::Now;
    use proptest::prelude::*;

    fn id(n: u8) -> TestId {
        TestId::from_bytes([n; 16])
    }

    fn watched(id: TestId) -> Watched {
        let test = TestFacts {
            id,
            description: String::new(),
            from_host: "a".into(),
            from: "127.0.0.2:0".into(),
            to_host: "b".into(),
            to: "127.0.0.3:8620".into(),
            tags: [].into(),
            set: None,
        };
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
        Watched::new(Expectation::new(expected, Now::default()))
    }

    proptest! {
        /// Against a plain set, while places are given away again.
        #[test]
        fn what_is_there_is_found(steps in prop::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let (mut expectations, mut known) = (Expectations::default(), BTreeSet::new());
            for (n, inserts) in steps {
                match inserts {
                    true if known.insert(n) => {
                        let place = expectations.insert(watched(id(n)));
                        prop_assert_eq!(expectations.find(id(n)), Some(place));
                    }
                    true => {}
                    false => prop_assert_eq!(expectations.remove(id(n)).is_some(), known.remove(&n)),
                }
                for n in 0..20 {
                    let found = expectations.find(id(n)).and_then(|place| expectations.at(place));
                    prop_assert_eq!(found.map(|(_, watched)| watched.id), known.contains(&n).then_some(id(n)));
                    prop_assert_eq!(expectations.presume(id(n)), expectations.find(id(n)));
                    for presumed in 0..20 {
                        prop_assert_eq!(expectations.find_at(Some(presumed), id(n)), expectations.find(id(n)));
                    }
                }
                prop_assert_eq!(expectations.len(), known.len());
            }
        }
    }
}
