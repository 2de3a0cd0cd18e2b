//! A place in the tree, whoever holds it just now.

use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;

use crate::io::time;
use crate::messages::Generation;
use crate::pure::restart::Restart;

/// The child of one kind.
pub struct Slot<A: Actor> {
    addr: Option<Addr<A>>,
    generation: Generation,
    lives: Restart,
    restarts: u64,
}

impl<A: Actor> Default for Slot<A> {
    fn default() -> Self {
        Slot { addr: None, generation: 0, lives: Restart::default(), restarts: 0 }
    }
}

impl<A: Actor> Slot<A> {
    /// A child is about to be built: its generation.
    pub fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        self.generation
    }

    /// It lives.
    pub fn hold(&mut self, addr: Addr<A>) {
        self.lives.on_start(time::now().moment);
        self.addr = Some(addr);
    }

    /// Whether there was one before.
    pub fn was_held(&self) -> bool {
        self.generation > 0
    }

    /// Whether there is one.
    pub fn is_held(&self) -> bool {
        self.addr.is_some()
    }

    /// One of this generation is gone. False if that was not the current one.
    pub fn on_down(&mut self, generation: Generation) -> bool {
        let current = generation == self.generation && self.addr.is_some();
        if current {
            self.addr = None;
        }
        current
    }

    /// It failed: how long to wait before it is rebuilt.
    pub fn wait(&mut self) -> Duration {
        self.restarts += 1;
        self.lives.on_down(time::now().moment, fastrand::f64())
    }

    /// How often it failed.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Sends a message, if there is anyone.
    pub fn send<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        if let Some(addr) = &self.addr {
            addr.do_send(message);
        }
    }
}
