//! Children of one kind, by key. [`Children`] holds their addresses, counts restarts and computes the back-off before a
//! rebuild; building the actor remains the parent's task.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::prelude::*;

use crate::io::time;
use crate::messages::Generation;
use crate::pure::base::restart::Restart;

/// Running children of one kind, by key. A generation distinguishes a child from its successor under the same key, so
/// that a late report of the end of one is not taken for that of the other.
pub struct Children<K, A: Actor> {
    held: BTreeMap<K, (Addr<A>, Generation)>,
    restarts_by_key: BTreeMap<K, Restart>,
    generation: Generation,
    restarts: u64,
}

impl<K, A: Actor> Default for Children<K, A> {
    fn default() -> Self {
        Children { held: BTreeMap::new(), restarts_by_key: BTreeMap::new(), generation: 0, restarts: 0 }
    }
}

impl<K: Clone + Ord, A: Actor> Children<K, A> {
    /// Allocates the generation of the child that is about to be built.
    pub fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        self.generation
    }

    /// Records that the child with the generation from the last `next_generation` is running.
    pub fn hold(&mut self, key: K, addr: Addr<A>) {
        self.restarts_by_key.entry(key.clone()).or_default().on_start(time::now().moment);
        self.held.insert(key, (addr, self.generation));
    }

    /// Records a released child of this generation again, because it keeps running after all.
    pub fn hold_again(&mut self, key: K, addr: Addr<A>, generation: Generation) {
        self.restarts_by_key.entry(key.clone()).or_default().on_start(time::now().moment);
        self.held.insert(key, (addr, generation));
    }

    /// Returns the address of the child, if it is running.
    pub fn get(&self, key: &K) -> Option<&Addr<A>> {
        self.held.get(key).map(|(addr, _)| addr)
    }

    /// Returns true if the child is running.
    pub fn contains(&self, key: &K) -> bool {
        self.held.contains_key(key)
    }

    /// Returns the addresses of all running children, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Addr<A>> {
        self.held.values().map(|(addr, _)| addr)
    }

    /// Returns the keys of all running children, in the order of [`iter`](Self::iter).
    pub fn names(&self) -> impl Iterator<Item = &K> {
        self.held.keys()
    }

    /// Returns the number of running children.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns true if no child is running.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Removes a child that is no longer needed; stopping the returned actor remains the parent's task.
    pub fn release(&mut self, key: &K) -> Option<(Addr<A>, Generation)> {
        self.restarts_by_key.remove(key);
        self.held.remove(key)
    }

    /// Removes all children, because none is needed any more.
    pub fn release_all(&mut self) -> impl Iterator<Item = Addr<A>> + use<K, A> {
        std::mem::take(&mut self.held).into_values().map(|(addr, _)| addr)
    }

    /// Records the end of a child; returns false if it was released before or already has a successor.
    pub fn on_down(&mut self, key: &K, generation: Generation) -> bool {
        let current = self.held.get(key).is_some_and(|(_, held)| *held == generation);
        if current {
            self.held.remove(key);
        }
        current
    }

    /// Records a failure of the child and returns the back-off before it is rebuilt.
    pub fn on_failure(&mut self, key: &K) -> Duration {
        self.restarts += 1;
        self.restarts_by_key.entry(key.clone()).or_default().on_down(time::now().moment, fastrand::f64())
    }

    /// Returns true if the child failed and has not been rebuilt yet.
    pub fn is_pending(&self, key: &K) -> bool {
        self.restarts_by_key.get(key).is_some_and(Restart::is_pending)
    }

    /// Returns the number of failures of all children so far.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }
}
