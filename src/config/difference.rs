//! The difference between two plans: what has to be done to get from one to the other.

use std::net::SocketAddr;
use std::sync::Arc;

use super::plan::Plan;
use crate::pure::expectation::Expected;
use crate::pure::sending::SenderPlan;
use crate::pure::test::TestId;

/// One step from one plan to the next.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A test no longer starts here.
    StopSender(TestId),
    /// A test no longer ends at this address.
    Forget(SocketAddr, TestId),
    /// No test ends at this address any more.
    StopListener(SocketAddr),
    /// Tests end at an address where none did.
    StartListener(SocketAddr),
    /// A test ends at this address, new or with other parameters.
    Expect(SocketAddr, Expected),
    /// A test starts here that did not.
    StartSender(Arc<SenderPlan>),
    /// A test that starts here has other parameters.
    AlterSender(Arc<SenderPlan>),
}

impl Change {
    /// Whether this ends something that may be in the way of what begins.
    pub fn stops(&self) -> bool {
        matches!(self, Change::StopSender(_) | Change::StopListener(_) | Change::Forget(..))
    }
}

/// What has to be done to get from `old` to `new`: first what stops, so that addresses are free
/// for what starts. What is in both and equal is not touched.
pub fn difference(old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(old.senders.keys().filter(|id| !new.senders.contains_key(id)).map(|id| Change::StopSender(*id)));
    for (addr, listener) in &old.listeners {
        let Some(stays) = new.listeners.get(addr) else {
            changes.push(Change::StopListener(*addr));
            continue;
        };
        let gone = listener.tests.keys().filter(|id| !stays.tests.contains_key(id));
        changes.extend(gone.map(|id| Change::Forget(*addr, *id)));
    }
    for (addr, listener) in &new.listeners {
        let before = old.listeners.get(addr);
        if before.is_none() {
            changes.push(Change::StartListener(*addr));
        }
        for (id, expected) in &listener.tests {
            if before.and_then(|before| before.tests.get(id)) != Some(expected) {
                changes.push(Change::Expect(*addr, expected.clone()));
            }
        }
    }
    for (id, sender) in &new.senders {
        match old.senders.get(id) {
            None => changes.push(Change::StartSender(sender.clone())),
            Some(before) if before != sender => changes.push(Change::AlterSender(sender.clone())),
            Some(_) => {}
        }
    }
    changes
}
