//! Sockets that a plan needs, and addresses that cannot be bound. [`Sockets`] opens each address once and lends the
//! socket to listeners and pacers; failed addresses are retried with back-off.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::config::plan::Binding;
use crate::io::net::transmit::SourceSockets;
use crate::io::net::udp::Socket;
use crate::pure::base::backoff::Backoff;
use crate::pure::stamp::session_sender::Source;

/// Back-off for an address that fails repeatedly: from 1 s up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// Delay after the first failure, which is often caused by a predecessor that is still closing its socket.
const AT_FIRST: Duration = Duration::from_millis(100);

/// Time for which an unneeded socket stays open: a sender may learn of a test's end later than the receiver, and would
/// report a closed port as an error.
pub const LINGER: Duration = Duration::from_secs(60);

/// Open sockets by binding, lent to listeners and senders; a socket is closed when its last user drops it.
#[derive(Default)]
pub struct Sockets {
    open: BTreeMap<Binding, Arc<Socket>>,
    unbound: BTreeMap<Binding, Unbound>,
    tickets: u64,
    /// Sockets that are no longer needed, each with the time until which it stays open.
    lingering: BTreeMap<Binding, (Arc<Socket>, Instant)>,
}

struct Unbound {
    problem: String,
    backoff: Backoff,
    failures: u32,
    /// Number of the pending retry, since an address may leave the plan and return before the timer fires.
    attempt: u64,
}

/// Result of an attempt to bind an address.
pub enum Opened {
    /// Address is bound.
    Bound,
    /// Address could not be bound and is to be retried.
    Retry(Retry),
}

/// Pending retry of an address that could not be bound.
#[derive(Clone)]
pub struct Retry {
    binding: Binding,
    ticket: u64,
    /// Delay before the retry.
    pub wait: Duration,
}

impl Sockets {
    /// Returns the open socket of a binding, if there is one.
    pub fn get(&self, binding: &Binding) -> Option<&Arc<Socket>> {
        self.open.get(binding)
    }

    /// Returns the sockets of a source, one for each of its ports; `None` until all of them are open.
    pub fn sockets(&self, source: &Source, ports: u8) -> Option<SourceSockets> {
        (0..ports).map(|port| self.get(&Binding::of(source, port)).cloned()).collect()
    }

    /// Releases the sockets that are not needed, and returns true if there were any. A released socket stays open for
    /// [`LINGER`], unless its port is needed or was chosen by the kernel.
    pub fn keep(&mut self, needed: &BTreeSet<Binding>) -> bool {
        self.unbound.retain(|binding, _| needed.contains(binding));
        let unneeded: Vec<Binding> = self.open.keys().filter(|held| !needed.contains(held)).cloned().collect();
        let until = Instant::now() + LINGER;
        for binding in &unneeded {
            if let Some(socket) = self.open.remove(binding).filter(|_| binding.address.port() != 0) {
                self.lingering.insert(binding.clone(), (socket, until));
            }
        }
        let wanted: BTreeSet<u16> = needed.iter().map(|binding| binding.address.port()).collect();
        self.lingering
            .retain(|binding, (_, until)| *until > Instant::now() && !wanted.contains(&binding.address.port()));
        !unneeded.is_empty()
    }

    /// Retries all addresses that could not be bound, and resets their back-off.
    pub fn try_all(&mut self) -> Vec<Opened> {
        self.unbound.values_mut().for_each(|unbound| unbound.backoff = RETRY);
        let waiting: Vec<Binding> = self.unbound.keys().cloned().collect();
        waiting.into_iter().map(|binding| self.bind(&binding)).collect()
    }

    /// Closes the released sockets whose time is over.
    pub fn close_lingering(&mut self) {
        self.lingering.retain(|_, (_, until)| *until > Instant::now());
    }

    /// Opens the needed addresses that are neither open nor in back-off.
    pub fn open(&mut self, needed: &BTreeSet<Binding>) -> Vec<Opened> {
        let missing = |binding: &&Binding| !self.open.contains_key(*binding) && !self.unbound.contains_key(*binding);
        let missing: Vec<Binding> = needed.iter().filter(missing).cloned().collect();
        missing.into_iter().map(|binding| self.bind(&binding)).collect()
    }

    /// Retries an address; returns `None` if it is no longer needed or a newer attempt has replaced this one.
    pub fn retry(&mut self, retry: &Retry) -> Option<Opened> {
        let wanted = self.unbound.get(&retry.binding).is_some_and(|unbound| unbound.attempt == retry.ticket);
        wanted.then(|| self.bind(&retry.binding))
    }

    /// Returns the addresses that cannot be bound, with the reason. An address counts from its second failure on.
    pub fn problems(&self) -> impl Iterator<Item = (&Binding, &str)> {
        let lasting = self.unbound.iter().filter(|(_, unbound)| unbound.failures > 1);
        lasting.map(|(binding, unbound)| (binding, unbound.problem.as_str()))
    }

    fn bind(&mut self, binding: &Binding) -> Opened {
        match Socket::open(binding.address, binding.interface.as_deref()) {
            Ok(socket) => {
                self.open.insert(binding.clone(), Arc::new(socket));
                if self.unbound.remove(binding).is_some_and(|unbound| unbound.failures > 1) {
                    info!(address = %binding.address, "address bound after retries");
                }
                Opened::Bound
            }
            Err(error) => {
                self.tickets += 1;
                let ticket = self.tickets;
                let fresh = || Unbound { problem: String::new(), backoff: RETRY, failures: 0, attempt: ticket };
                let unbound = self.unbound.entry(binding.clone()).or_insert_with(fresh);
                unbound.attempt = ticket;
                unbound.failures += 1;
                unbound.problem = describe(binding, &error);
                let wait = match unbound.failures {
                    1 => AT_FIRST,
                    _ => unbound.backoff.on_failure(fastrand::f64()),
                };
                Opened::Retry(Retry { binding: binding.clone(), ticket, wait })
            }
        }
    }
}

fn describe(binding: &Binding, error: &io::Error) -> String {
    let meanings = [
        (ErrorKind::AddrInUse, "another program uses it"),
        (ErrorKind::AddrNotAvailable, "the address is not on this host"),
        (ErrorKind::PermissionDenied, "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE"),
    ];
    let known = meanings.into_iter().find(|(kind, _)| *kind == error.kind());
    let meaning = known.map_or_else(|| error.to_string(), |(_, meaning)| meaning.to_owned());
    let at = binding.interface.as_ref().map(|interface| format!(" at {interface}")).unwrap_or_default();
    if error.raw_os_error() == Some(libc::ENODEV) {
        return format!("cannot bind {}{at}: no such network interface", binding.address);
    }
    format!("cannot bind {}{at}: {meaning}", binding.address)
}
