//! The only child of its kind.

use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;

use super::Children;
use crate::messages::Generation;

/// A place in the tree, whoever holds it just now.
pub struct Slot<A: Actor>(Children<(), A>);

impl<A: Actor> Default for Slot<A> {
    fn default() -> Self {
        Slot(Children::default())
    }
}

impl<A: Actor> Slot<A> {
    /// For the child that is about to be built.
    pub fn next_generation(&mut self) -> Generation {
        self.0.next_generation()
    }

    /// It lives.
    pub fn hold(&mut self, addr: Addr<A>) {
        self.0.hold((), addr);
    }

    /// Whether it lives.
    pub fn is_held(&self) -> bool {
        self.0.contains(&())
    }

    /// One of this generation is gone. False if that was not the current one.
    pub fn on_down(&mut self, generation: Generation) -> bool {
        self.0.on_down(&(), generation)
    }

    /// It went down by a fault of its own: how long to wait before it is rebuilt.
    pub fn on_failure(&mut self) -> Duration {
        self.0.on_failure(&())
    }

    /// How often it failed.
    pub fn restarts(&self) -> u64 {
        self.0.restarts()
    }

    /// Sends a message, if there is anyone.
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
