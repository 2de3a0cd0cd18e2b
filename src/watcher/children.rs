//! Execution of a plan by the [`Watcher`]: opening the sockets, and starting, altering and stopping listeners, pacers
//! and senders. Failed children are rebuilt after their back-off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tracing::error;

use super::Watcher;
use super::sockets::{LINGER, Opened, Retry};
use crate::actor::spanned::Spanned;
use crate::config::plan::Binding;
use crate::config::plan::diff::PlanChange;
use crate::io::net::transmit::SourceSockets;
use crate::io::time;
use crate::listener::{self, Listener};
use crate::messages::{Generation, Handover, RemoveTest, Send, SenderContext, SetTargets, SetTest, Stop};
use crate::pacer::{self, Pacer};
use crate::prober::{self, Prober};
use crate::pure::stamp::session_sender::{SenderPlan, Source};
use crate::pure::test::id::TestId;
use crate::sender::{self, Sender};

/// Interval at which a sender without a sender context checks again whether its pacer has been started.
const CONTEXT_RETRY: Duration = Duration::from_millis(200);

impl Watcher {
    /// Applies one change of the plan; children that are to start are started by `start_missing`.
    pub(super) fn apply(&mut self, change: &PlanChange) {
        match change {
            PlanChange::StopSender(id) => {
                self.observed.senders.remove(id);
                if let Some((sender, _)) = self.senders.release(id) {
                    // The receiver may apply the change of the documents a little later, and the goodbye prevents an
                    // alarm until then.
                    sender.do_send(Stop::Announced);
                }
            }
            PlanChange::StopListener(address) => {
                self.observed.listeners.remove(address);
                if let Some((listener, _)) = self.listeners.release(address) {
                    listener.do_send(Stop::Silent);
                }
            }
            PlanChange::Forget(address, id) => {
                if let Some(listener) = self.listeners.get(address) {
                    let received = self.running.listeners.values().any(|listener| listener.tests.contains_key(id));
                    let retired = !received && self.running.senders.contains_key(id);
                    listener.do_send(RemoveTest(*id, if retired { Handover::Ended } else { Handover::Moved }));
                }
            }
            PlanChange::Expect(address, expected) => {
                if let Some(listener) = self.listeners.get(address) {
                    listener.do_send(SetTest(expected.clone()));
                }
            }
            PlanChange::AlterSender(plan) => self.alter_sender(plan),
            PlanChange::StartListener(_) | PlanChange::StartSender(_) => {}
        }
    }

    /// Opens the sockets that the plan needs and releases the others.
    pub(super) fn open_sockets(&mut self, ctx: &mut Context<Self>) {
        let needed = self.running.sockets();
        if self.sockets.keep(&needed) {
            ctx.run_later(LINGER, |watcher, _| watcher.sockets.close_lingering());
        }
        for opened in self.sockets.open(&needed) {
            self.on_opened(opened, ctx);
        }
    }

    pub(super) fn on_opened(&mut self, opened: Opened, ctx: &mut Context<Self>) {
        if let Opened::Retry(retry) = opened {
            ctx.run_later(retry.wait, move |watcher, ctx| {
                let _entered = watcher.enter();
                watcher.on_bind_again(&retry, ctx);
            });
        }
    }

    pub(super) fn on_bind_again(&mut self, retry: &Retry, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let Some(opened) = self.sockets.retry(retry) else { return };
        self.on_opened(opened, ctx);
        self.start_missing(ctx);
        if self.report_faults(time::now()) {
            self.log_plan();
        }
    }

    /// Starts all planned children that are not running and can be started. Children in back-off are left to their
    /// timer.
    pub(super) fn start_missing(&mut self, ctx: &mut Context<Self>) {
        let listeners: Vec<SocketAddr> = self.running.listeners.keys().copied().collect();
        for address in listeners {
            if !self.listeners.is_pending(&address) {
                self.start_listener(address, ctx);
            }
        }
        self.start_pacers(ctx);
        self.set_targets(ctx);
        let missing =
            |(id, _): &(&TestId, &Arc<SenderPlan>)| !self.senders.contains(id) && !self.senders.is_pending(id);
        let senders: Vec<Arc<SenderPlan>> =
            self.running.senders.iter().filter(missing).map(|(_, plan)| plan.clone()).collect();
        for plan in senders {
            self.start_sender(plan);
        }
    }

    pub(super) fn start_listener(&mut self, address: SocketAddr, ctx: &mut Context<Self>) {
        let binding = Binding::of_listener(address);
        let (Some(socket), Some(plan)) = (self.sockets.get(&binding), self.running.listeners.get(&address)) else {
            return;
        };
        if self.listeners.contains(&address) {
            return;
        }
        let generation = self.listeners.next_generation();
        let listener = Listener::new(listener::Args {
            address,
            socket: socket.clone(),
            names: plan.names.iter().cloned().collect(),
            expected: plan.tests.values().cloned().collect(),
            shared: self.shared.clone(),
            parent: ctx.address().recipient(),
            reports: self.reports.clone(),
            generation,
        });
        self.listeners.hold(address, listener.start());
    }

    pub(super) fn start_pacers(&mut self, ctx: &mut Context<Self>) {
        for (source, ports) in self.running.sources() {
            if !self.pacers.is_pending(&source) {
                self.start_pacer(&source, ports, ctx);
            }
        }
    }

    /// Starts the pacer of a source, or rebuilds it if it needs other sockets. Its senders enrol again.
    fn start_pacer(&mut self, source: &Source, ports: u8, ctx: &mut Context<Self>) {
        let Some(sockets) = self.sockets.sockets(source, ports) else { return };
        // Datagrams that a listener reads from a shared socket are not available to the pacer.
        let reads = source.interface.is_some() || !self.running.listeners.contains_key(&source.address);
        let same =
            |(context, read): &(Arc<SenderContext>, bool)| *read == reads && same_outlet(&context.sockets, &sockets);
        if self.contexts.get(source).is_some_and(same) && self.pacers.contains(source) {
            return;
        }
        self.stop_pacer(source);
        let generation = self.pacers.next_generation();
        let pacer = Pacer::new(pacer::Args {
            source: source.clone(),
            sockets: sockets.clone(),
            reads,
            shared: self.shared.clone(),
            parent: ctx.address().recipient(),
            reports: self.reports.clone(),
            generation,
        });
        let pacer = pacer.start();
        let context = SenderContext {
            sockets: sockets.clone(),
            pacer: pacer.clone().recipient(),
            shared: self.shared.clone(),
            parent: ctx.address().recipient(),
            reports: self.reports.clone(),
        };
        self.pacers.hold(source.clone(), pacer);
        self.contexts.insert(source.clone(), (Arc::new(context), reads));
        let altered: Vec<Arc<SenderPlan>> =
            self.running.senders.values().filter(|plan| plan.source == *source).cloned().collect();
        altered.iter().for_each(|plan| self.alter_sender(plan));
    }

    fn stop_pacer(&mut self, source: &Source) {
        self.contexts.remove(source);
        if let Some((pacer, _)) = self.pacers.release(source) {
            pacer.do_send(Stop::Silent);
        }
    }

    /// Stops the pacers whose source no test uses any more.
    pub(super) fn stop_idle_pacers(&mut self) {
        let sources = self.running.sources();
        let idle: Vec<Source> = self.contexts.keys().filter(|source| !sources.contains_key(source)).cloned().collect();
        idle.iter().for_each(|source| self.stop_pacer(source));
    }

    /// Returns the sender context of a source, if its pacer is running.
    fn context(&self, source: &Source) -> Option<Arc<SenderContext>> {
        self.contexts.get(source).map(|(context, _)| context.clone())
    }

    fn alter_sender(&mut self, plan: &Arc<SenderPlan>) {
        let Some(sender) = self.senders.get(&plan.test.id) else { return };
        match self.context(&plan.source) {
            Some(context) => sender.do_send(Send { plan: plan.clone(), context }),
            None => {
                // The sockets of the new source are not open yet; the sender is started again when they are.
                sender.do_send(Stop::Silent);
                self.senders.release(&plan.test.id);
                self.observed.senders.remove(&plan.test.id);
            }
        }
    }

    pub(super) fn start_sender(&mut self, plan: Arc<SenderPlan>) {
        let Some(context) = self.context(&plan.source) else { return };
        let id = plan.test.id;
        if self.senders.contains(&id) {
            return;
        }
        let generation = self.senders.next_generation();
        let sender = Sender::new(sender::Args { plan, context, generation });
        self.senders.hold(id, sender.start());
    }

    /// Gives the prober the targets of the plan; starts it for the first ones and stops it after the last.
    fn set_targets(&mut self, ctx: &mut Context<Self>) {
        if self.running.targets.is_empty() {
            if let Some((prober, _)) = self.prober.release(&()) {
                prober.do_send(Stop::Silent);
            }
            return;
        }
        if self.prober.is_pending(&()) {
            return;
        }
        if !self.prober.contains(&()) {
            self.start_prober(ctx);
        }
        if let Some(prober) = self.prober.get(&()) {
            prober.do_send(SetTargets(self.running.targets.clone()));
        }
    }

    fn start_prober(&mut self, ctx: &mut Context<Self>) {
        let generation = self.prober.next_generation();
        let (parent, reports) = (ctx.address().recipient(), self.reports.clone());
        let args = prober::Args { shared: self.shared.clone(), parent, reports, generation };
        self.prober.hold((), Prober::new(args).start());
    }

    pub(super) fn on_prober_down(&mut self, generation: Generation, ctx: &mut Context<Self>) {
        if !self.prober.on_down(&(), generation) || self.stopping {
            return;
        }
        let wait = self.prober.on_failure(&());
        error!(?wait, "prober failed and is restarted");
        ctx.run_later(wait, |watcher, ctx| {
            watcher.start_prober(ctx);
            watcher.set_targets(ctx);
        });
    }

    pub(super) fn on_listener_down(&mut self, address: SocketAddr, generation: Generation, ctx: &mut Context<Self>) {
        if !self.listeners.on_down(&address, generation) || self.stopping {
            return;
        }
        self.observed.listeners.remove(&address);
        let wait = self.listeners.on_failure(&address);
        error!(%address, ?wait, "listener failed and is restarted");
        ctx.run_later(wait, move |watcher, ctx| watcher.start_listener(address, ctx));
    }

    pub(super) fn on_pacer_down(&mut self, source: &Source, generation: Generation, ctx: &mut Context<Self>) {
        if !self.pacers.on_down(source, generation) || self.stopping {
            return;
        }
        self.contexts.remove(source);
        let wait = self.pacers.on_failure(source);
        error!(source = %source.address, ?wait, "pacer failed and is restarted");
        let source = source.clone();
        ctx.run_later(wait, move |watcher, ctx| {
            if let Some(ports) = watcher.running.sources().remove(&source) {
                watcher.start_pacer(&source, ports, ctx);
                watcher.start_missing(ctx);
            }
        });
    }

    /// Stops a sender whose turn panicked in the pacer, so that it is rebuilt as if it had failed itself.
    pub(super) fn on_sender_faulted(&mut self, id: TestId) {
        if let Some(sender) = self.senders.get(&id) {
            sender.do_send(Stop::Silent);
        }
    }

    pub(super) fn on_sender_down(&mut self, id: TestId, generation: Generation, ctx: &mut Context<Self>) {
        if !self.senders.on_down(&id, generation) || self.stopping {
            return;
        }
        self.observed.senders.remove(&id);
        let wait = self.senders.on_failure(&id);
        error!(test = %id, ?wait, "sender failed and is restarted");
        self.start_sender_after(wait, id, ctx);
    }

    /// Starts a sender after a delay, and retries while its pacer, which may have failed too, is not back.
    fn start_sender_after(&self, wait: Duration, id: TestId, ctx: &mut Context<Self>) {
        ctx.run_later(wait, move |watcher, ctx| {
            let Some(plan) = watcher.running.senders.get(&id).cloned() else { return };
            match watcher.context(&plan.source) {
                Some(_) => watcher.start_sender(plan),
                None if watcher.stopping => {}
                None => watcher.start_sender_after(CONTEXT_RETRY, id, ctx),
            }
        });
    }
}

fn same_outlet(held: &SourceSockets, wanted: &SourceSockets) -> bool {
    held.len() == wanted.len() && held.iter().zip(wanted.iter()).all(|(held, wanted)| Arc::ptr_eq(held, wanted))
}
