//! The children of one kind, by key.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::prelude::*;

use crate::io::time;
use crate::messages::Generation;
use crate::pure::restart::Restart;

/// A child that is gone is told from its successor under the same key by its generation.
pub struct Children<K, A: Actor> {
    held: BTreeMap<K, (Addr<A>, Generation)>,
    lives: BTreeMap<K, Restart>,
    generation: Generation,
    restarts: u64,
}

impl<K, A: Actor> Default for Children<K, A> {
    fn default() -> Self {
        Children { held: BTreeMap::new(), lives: BTreeMap::new(), generation: 0, restarts: 0 }
    }
}

impl<K: Clone + Ord, A: Actor> Children<K, A> {
    /// For the child that is about to be built.
    pub fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        self.generation
    }

    /// The child that was built with the last `next_generation` lives.
    pub fn hold(&mut self, key: K, addr: Addr<A>) {
        self.lives.entry(key.clone()).or_default().on_start(time::now().moment);
        self.held.insert(key, (addr, self.generation));
    }

    /// A child of this generation that was released lives on after all.
    pub fn hold_again(&mut self, key: K, addr: Addr<A>, generation: Generation) {
        self.lives.entry(key.clone()).or_default().on_start(time::now().moment);
        self.held.insert(key, (addr, generation));
    }

    /// The child, if it lives.
    pub fn get(&self, key: &K) -> Option<&Addr<A>> {
        self.held.get(key).map(|(addr, _)| addr)
    }

    /// Whether it lives.
    pub fn contains(&self, key: &K) -> bool {
        self.held.contains_key(key)
    }

    /// All that live.
    pub fn iter(&self) -> impl Iterator<Item = &Addr<A>> {
        self.held.values().map(|(addr, _)| addr)
    }

    /// The keys of all that live, in the same order.
    pub fn names(&self) -> impl Iterator<Item = &K> {
        self.held.keys()
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// It is not needed any more: to be told so by its parent, and forgotten.
    pub fn release(&mut self, key: &K) -> Option<(Addr<A>, Generation)> {
        self.lives.remove(key);
        self.held.remove(key)
    }

    /// None is needed any more.
    pub fn release_all(&mut self) -> impl Iterator<Item = Addr<A>> + use<K, A> {
        std::mem::take(&mut self.held).into_values().map(|(addr, _)| addr)
    }

    /// One of this generation is gone. False if it was released, or has a successor.
    pub fn on_down(&mut self, key: &K, generation: Generation) -> bool {
        let current = self.held.get(key).is_some_and(|(_, held)| *held == generation);
        if current {
            self.held.remove(key);
        }
        current
    }

    /// It went down by a fault of its own: how long to wait before it is rebuilt.
    pub fn on_failure(&mut self, key: &K) -> Duration {
        self.restarts += 1;
        self.lives.entry(key.clone()).or_default().on_down(time::now().moment, fastrand::f64())
    }

    /// Whether it waits to be rebuilt.
    pub fn is_pending(&self, key: &K) -> bool {
        self.lives.get(key).is_some_and(Restart::is_pending)
    }

    /// How often any of them failed.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }
}
