//! Carrying out a plan: the sockets, listeners and senders that it takes, one step after the other.

use std::net::SocketAddr;
use std::sync::Arc;

use actix::prelude::*;
use futures_util::stream;
use tracing::error;

use super::Watcher;
use super::sockets::{LINGER, Opened, Retry};
use crate::config::difference::Change;
use crate::config::plan::SenderPlan;
use crate::io::time;
use crate::io::udp::{PathError, Socket};
use crate::listener::{self, Listener};
use crate::messages::{Expect, Forget, Generation, Send, Stop};
use crate::pure::test::TestId;
use crate::sender::{self, Sender};

impl Watcher {
    /// One step towards the plan; what starts is started by `start_missing`.
    pub(super) fn carry_out(&mut self, change: &Change) {
        match change {
            Change::StopSender(id) => {
                self.observed.senders.remove(id);
                if let Some((sender, _)) = self.senders.release(id) {
                    // Its receiver may hear of the change a little later.
                    sender.do_send(Stop::WithGoodbye);
                }
            }
            Change::StopListener(address) => {
                self.observed.listeners.remove(address);
                if let Some((listener, _)) = self.listeners.release(address) {
                    listener.do_send(Stop::Quietly);
                }
            }
            Change::Forget(address, id) => {
                if let Some(listener) = self.listeners.get(address) {
                    listener.do_send(Forget(*id));
                }
            }
            Change::Expect(address, expected) => {
                if let Some(listener) = self.listeners.get(address) {
                    listener.do_send(Expect(expected.clone()));
                }
            }
            Change::AlterSender(plan) => match (self.senders.get(&plan.test.id), self.sockets.get(plan.socket)) {
                (Some(sender), Some(socket)) => sender.do_send(Send(plan.clone(), socket.clone())),
                (Some(sender), None) => {
                    // Its new address cannot be bound yet; it is started anew when it can.
                    sender.do_send(Stop::Quietly);
                    self.senders.release(&plan.test.id);
                    self.observed.senders.remove(&plan.test.id);
                }
                (None, _) => {}
            },
            Change::StartListener(_) | Change::StartSender(_) => {}
        }
    }

    /// Opens what the plan needs and lets go of what it does not.
    pub(super) fn open_sockets(&mut self, ctx: &mut Context<Self>) {
        let needed = self.running.sockets();
        let closed = self.sockets.keep(&needed);
        if !closed.is_empty() {
            ctx.run_later(LINGER, |watcher, _| watcher.sockets.close_lingering());
        }
        for closed in closed {
            if let Some(errors) = self.path_errors.remove(&closed) {
                ctx.cancel_future(errors);
            }
        }
        for (address, opened) in self.sockets.open(&needed) {
            self.on_opened(address, opened, ctx);
        }
    }

    pub(super) fn on_opened(&mut self, address: SocketAddr, opened: Opened, ctx: &mut Context<Self>) {
        match opened {
            Opened::Socket(socket) => {
                self.path_errors.insert(address, ctx.add_stream(path_errors(socket)));
            }
            Opened::Retry(retry) => {
                ctx.run_later(retry.wait, move |watcher, ctx| {
                    let span = watcher.span.clone();
                    let _entered = span.enter();
                    watcher.on_bind_again(retry, ctx);
                });
            }
        }
    }

    pub(super) fn on_bind_again(&mut self, retry: Retry, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let Some((address, opened)) = self.sockets.retry(retry) else { return };
        self.on_opened(address, opened, ctx);
        self.start_missing(ctx);
        if self.say_faults(time::now()) {
            self.say_plan();
        }
    }

    /// Starts what is planned and can be started, and is not yet. What waits for its back-off is left to it.
    pub(super) fn start_missing(&mut self, ctx: &mut Context<Self>) {
        let listeners: Vec<SocketAddr> = self.running.listeners.keys().copied().collect();
        for address in listeners {
            if !self.listeners.is_pending(&address) {
                self.start_listener(address, ctx);
            }
        }
        let missing = |(id, _): &(&TestId, &SenderPlan)| !self.senders.contains(id) && !self.senders.is_pending(id);
        let senders: Vec<SenderPlan> =
            self.running.senders.iter().filter(missing).map(|(_, plan)| plan.clone()).collect();
        for plan in senders {
            self.start_sender(plan, ctx);
        }
    }

    pub(super) fn start_listener(&mut self, address: SocketAddr, ctx: &mut Context<Self>) {
        let (Some(socket), Some(plan)) = (self.sockets.get(address), self.running.listeners.get(&address)) else {
            return;
        };
        if self.listeners.contains(&address) {
            return;
        }
        let generation = self.listeners.next_generation();
        let listener = Listener::new(listener::Beginning {
            address,
            socket: socket.clone(),
            names: plan.names.iter().cloned().collect(),
            expected: plan.tests.values().cloned().collect(),
            gauges: self.gauges.clone(),
            parent: ctx.address().recipient(),
            generation,
        });
        self.listeners.hold(address, listener.start());
    }

    pub(super) fn start_sender(&mut self, plan: SenderPlan, ctx: &mut Context<Self>) {
        let Some(socket) = self.sockets.get(plan.socket) else { return };
        let id = plan.test.id;
        if self.senders.contains(&id) {
            return;
        }
        let generation = self.senders.next_generation();
        let sender = Sender::new(sender::Beginning {
            plan,
            socket: socket.clone(),
            gauges: self.gauges.clone(),
            parent: ctx.address().recipient(),
            generation,
        });
        self.senders.hold(id, sender.start());
    }

    pub(super) fn on_listener_down(&mut self, address: SocketAddr, generation: Generation, ctx: &mut Context<Self>) {
        if !self.listeners.on_down(&address, generation) || self.stopping {
            return;
        }
        self.observed.listeners.remove(&address);
        let wait = self.listeners.on_failure(&address);
        error!(%address, ?wait, "listener failed, to be rebuilt");
        ctx.run_later(wait, move |watcher, ctx| watcher.start_listener(address, ctx));
    }

    pub(super) fn on_sender_down(&mut self, id: TestId, generation: Generation, ctx: &mut Context<Self>) {
        if !self.senders.on_down(&id, generation) || self.stopping {
            return;
        }
        self.observed.senders.remove(&id);
        let wait = self.senders.on_failure(&id);
        error!(test = %id, ?wait, "sender failed, to be rebuilt");
        ctx.run_later(wait, move |watcher, ctx| {
            if let Some(plan) = watcher.running.senders.get(&id).cloned() {
                watcher.start_sender(plan, ctx);
            }
        });
    }
}

/// What the path sent back to a socket, in batches.
fn path_errors(socket: Arc<Socket>) -> impl futures_util::Stream<Item = Vec<PathError>> {
    stream::unfold(socket, |socket| async move {
        socket.error_ready().await.ok()?;
        let errors = socket.take_path_errors();
        Some((errors, socket))
    })
}
