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
    places: HashTable<Place>,
    /// Boxed: a table of large things wastes much.
    all: Slab<Box<Watched>>,
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

/// What a probe needs of an expectation.
const FOR_PROBE: usize = offset_of!(Watched, expectation) + Expectation::HOT;
/// What a delay is counted in, of most tests.
const FOR_HISTOGRAM: usize = 256;
/// What a deadline needs, unless silence is due.
const FOR_DEADLINE: usize = 128;

impl Expectations {
    pub fn with_room_for(tests: usize) -> Self {
        Expectations { places: HashTable::with_capacity(tests), all: Slab::with_capacity(tests) }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn insert(&mut self, watched: Watched) -> Place {
        let (id, all) = (watched.id, &mut self.all);
        // More than fit into memory would be needed for this not to fit.
        let place = all.insert(Box::new(watched)) as Place;
        self.places.insert_unique(hash(id), place, |place| hash(all[*place as usize].id));
        place
    }

    pub fn remove(&mut self, id: TestId) -> Option<Box<Watched>> {
        let all = &self.all;
        let found = self.places.find_entry(hash(id), |place| all[*place as usize].id == id).ok()?;
        Some(self.all.remove(found.remove().0 as usize))
    }

    pub fn find(&self, id: TestId) -> Option<Place> {
        self.places.find(hash(id), |place| self.all[*place as usize].id == id).copied()
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut Watched> {
        self.all.get_mut(place as usize).map(Box::as_mut)
    }

    pub fn values(&self) -> impl Iterator<Item = &Expectation> {
        self.all.iter().map(|(_, watched)| &watched.expectation)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.all.iter_mut().map(|(_, watched)| watched.as_mut())
    }

    /// Has fetched what probes of these tests need.
    pub fn prefetch_for_probes(&self, ids: impl Iterator<Item = TestId>) {
        let found = ids.filter_map(|id| self.all.get(self.find(id)? as usize));
        let found: Vec<&Watched> = found.map(Box::as_ref).inspect(|watched| prefetch(*watched, FOR_PROBE)).collect();
        // By now the first of them are there.
        found.iter().for_each(|watched| prefetch(watched.expectation.elsewhere(), FOR_HISTOGRAM));
    }

    /// Has fetched what is needed to see whether silence is due.
    pub fn prefetch_for_deadlines(&self, places: &[Place]) {
        let watched = places.iter().filter_map(|place| self.all.get(*place as usize));
        watched.for_each(|watched| prefetch(watched.as_ref(), FOR_DEADLINE));
    }
}

fn hash(id: TestId) -> u64 {
    FxBuildHasher.hash_one(id)
}
