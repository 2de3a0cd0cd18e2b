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
        self.found(ids).for_each(|watched| prefetch(watched, FOR_PROBE));
    }

    /// Has fetched what their delays are counted in, once the rest has come.
    pub fn prefetch_histograms(&self, ids: impl Iterator<Item = TestId>) {
        self.found(ids).for_each(|watched| prefetch(watched.expectation.elsewhere(), FOR_HISTOGRAM));
    }

    fn found(&self, ids: impl Iterator<Item = TestId>) -> impl Iterator<Item = &Watched> {
        ids.filter_map(|id| self.all.get(self.find(id)? as usize)).map(Box::as_ref)
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
                    let found = expectations.find(id(n)).and_then(|place| expectations.get_mut(place));
                    prop_assert_eq!(found.map(|watched| watched.id), known.contains(&n).then_some(id(n)));
                }
                prop_assert_eq!(expectations.len(), known.len());
            }
        }
    }
}
