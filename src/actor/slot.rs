//! Handle to a child that exists at most once. [`Slot`] wraps [`Children`] with a single key.

use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;

use crate::actor::children::Children;
use crate::messages::Generation;

/// Handle to at most one running child, which stays valid while the child is rebuilt.
pub struct Slot<A: Actor>(Children<(), A>);

impl<A: Actor> Default for Slot<A> {
    fn default() -> Self {
        Slot(Children::default())
    }
}

impl<A: Actor> Slot<A> {
    /// Allocates the generation of the child that is about to be built.
    pub fn next_generation(&mut self) -> Generation {
        self.0.next_generation()
    }

    /// Records that the child with the last allocated generation is running.
    pub fn hold(&mut self, addr: Addr<A>) {
        self.0.hold((), addr);
    }

    /// Returns true if the child is running.
    pub fn is_held(&self) -> bool {
        self.0.contains(&())
    }

    /// Records the end of a child; returns false if it was not the current one.
    pub fn on_down(&mut self, generation: Generation) -> bool {
        self.0.on_down(&(), generation)
    }

    /// Records a failure of the child and returns the back-off before it is rebuilt.
    pub fn on_failure(&mut self) -> Duration {
        self.0.on_failure(&())
    }

    /// Returns the number of failures so far.
    pub fn restarts(&self) -> u64 {
        self.0.restarts()
    }

    /// Sends a message to the child; the message is dropped if the child is not running.
    pub fn send<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        if let Some(addr) = self.0.get(&()) {
            addr.do_send(message);
        }
    }
}
