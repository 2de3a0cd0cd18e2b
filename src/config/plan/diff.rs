//! The difference between two plans, as the ordered steps that lead from one to the other. [`difference`] leaves
//! listeners and senders that are equal in both plans running.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::plan::Plan;
use crate::pure::judge::session::SessionPlan;
use crate::pure::stamp::session_sender::SenderPlan;
use crate::pure::test::id::TestId;

/// Step that leads from the old plan towards the new one.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanChange {
    /// Stops the sender of a test that is no longer sent from this host.
    StopSender(TestId),
    /// Removes a test whose probes are no longer received at this address.
    Forget(SocketAddr, TestId),
    /// Closes an address at which tests are no longer received.
    StopListener(SocketAddr),
    /// Binds an address at which tests are received for the first time.
    StartListener(SocketAddr),
    /// Adds a test to a listener, or replaces its parameters.
    Expect(SocketAddr, SessionPlan),
    /// Starts the sender of a test that was not sent from this host before.
    StartSender(Arc<SenderPlan>),
    /// Replaces the parameters of a running sender.
    AlterSender(Arc<SenderPlan>),
}

impl PlanChange {
    /// Returns true for a step that releases a socket or an entry. These steps must precede those that start
    /// something, because they may occupy the same address.
    pub fn stops(&self) -> bool {
        matches!(self, PlanChange::StopSender(_) | PlanChange::StopListener(_) | PlanChange::Forget(..))
    }
}

/// Returns the steps that lead from `old` to `new`. Steps that stop something come first, so that their addresses are
/// free. Equal parts stay untouched.
pub fn difference(old: &Plan, new: &Plan) -> Vec<PlanChange> {
    let mut changes = Vec::new();
    changes.extend(old.senders.keys().filter(|id| !new.senders.contains_key(id)).map(|id| PlanChange::StopSender(*id)));
    for (addr, listener) in &old.listeners {
        let Some(stays) = new.listeners.get(addr) else {
            changes.push(PlanChange::StopListener(*addr));
            continue;
        };
        let gone = listener.tests.keys().filter(|id| !stays.tests.contains_key(id));
        changes.extend(gone.map(|id| PlanChange::Forget(*addr, *id)));
    }
    for (addr, listener) in &new.listeners {
        let before = old.listeners.get(addr);
        if before.is_none() {
            changes.push(PlanChange::StartListener(*addr));
        }
        for (id, expected) in &listener.tests {
            if before.and_then(|before| before.tests.get(id)) != Some(expected) {
                changes.push(PlanChange::Expect(*addr, expected.clone()));
            }
        }
    }
    for (id, sender) in &new.senders {
        match old.senders.get(id) {
            None => changes.push(PlanChange::StartSender(sender.clone())),
            Some(before) if before != sender => changes.push(PlanChange::AlterSender(sender.clone())),
            Some(_) => {}
        }
    }
    changes
}
