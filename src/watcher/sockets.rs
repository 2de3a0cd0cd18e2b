//! The sockets that a plan needs, and the addresses that cannot be bound.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::config::plan::Binding;
use crate::io::outgoing::Outlet;
use crate::io::udp::Socket;
use crate::pure::backoff::Backoff;
use crate::pure::sending::Source;

/// An address that fails again and again is tried after 1 s and then ever later, up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The first failure is often a predecessor that is still closing its socket.
const AT_FIRST: Duration = Duration::from_millis(100);

/// A sender may hear of a test's end later than its receiver: a closed port would be an error to it.
pub const LINGER: Duration = Duration::from_secs(60);

/// Lent to listeners and senders; a socket is closed when its last user is gone.
#[derive(Default)]
pub struct Sockets {
    open: BTreeMap<Binding, Arc<Socket>>,
    unbound: BTreeMap<Binding, Unbound>,
    tickets: u64,
    /// Not needed any more, and until when they stay all the same.
    lingering: BTreeMap<Binding, (Arc<Socket>, Instant)>,
}

struct Unbound {
    problem: String,
    backoff: Backoff,
    failures: u32,
    /// Which retry is meant: an address may leave the plan and come back.
    ticket: u64,
}

/// What became of an address.
pub enum Opened {
    /// It is bound.
    Bound,
    /// It is not; to be tried again.
    Retry(Retry),
}

/// An address to be tried again.
#[derive(Clone)]
pub struct Retry {
    binding: Binding,
    ticket: u64,
    /// After so long.
    pub wait: Duration,
}

impl Sockets {
    /// The socket at an address, as the plan names it.
    pub fn get(&self, binding: &Binding) -> Option<&Arc<Socket>> {
        self.open.get(binding)
    }

    /// The sockets of a source, one for each of its ports; nothing before all of them are open.
    pub fn outlet(&self, source: &Source, ports: u8) -> Option<Outlet> {
        (0..ports).map(|port| self.get(&Binding::of(source, port)).cloned()).collect()
    }

    /// Lets go of what is not needed, and tells whether there was any. It stays open for a while, as
    /// long as its port is not wanted.
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

    /// Tries everything that could not be bound, and soon again what still cannot.
    pub fn try_all(&mut self) -> Vec<Opened> {
        self.unbound.values_mut().for_each(|unbound| unbound.backoff = RETRY);
        let waiting: Vec<Binding> = self.unbound.keys().cloned().collect();
        waiting.into_iter().map(|binding| self.bind(&binding)).collect()
    }

    /// Closes what has stayed long enough.
    pub fn close_lingering(&mut self) {
        self.lingering.retain(|_, (_, until)| *until > Instant::now());
    }

    /// Opens what is needed and neither open nor waiting for its retry.
    pub fn open(&mut self, needed: &BTreeSet<Binding>) -> Vec<Opened> {
        let missing = |binding: &&Binding| !self.open.contains_key(*binding) && !self.unbound.contains_key(*binding);
        let missing: Vec<Binding> = needed.iter().filter(missing).cloned().collect();
        missing.into_iter().map(|binding| self.bind(&binding)).collect()
    }

    /// Tries an address again; nothing if it is not needed any more.
    pub fn retry(&mut self, retry: &Retry) -> Option<Opened> {
        let wanted = self.unbound.get(&retry.binding).is_some_and(|unbound| unbound.ticket == retry.ticket);
        wanted.then(|| self.bind(&retry.binding))
    }

    /// Addresses that cannot be bound, and why. The first failure is not yet one of them.
    pub fn problems(&self) -> impl Iterator<Item = (&Binding, &str)> {
        let lasting = self.unbound.iter().filter(|(_, unbound)| unbound.failures > 1);
        lasting.map(|(binding, unbound)| (binding, unbound.problem.as_str()))
    }

    fn bind(&mut self, binding: &Binding) -> Opened {
        match Socket::open(binding.address, binding.interface.as_deref()) {
            Ok(socket) => {
                self.open.insert(binding.clone(), Arc::new(socket));
                if self.unbound.remove(binding).is_some_and(|unbound| unbound.failures > 1) {
                    info!(address = %binding.address, "address bound at last");
                }
                Opened::Bound
            }
            Err(error) => {
                self.tickets += 1;
                let ticket = self.tickets;
                let fresh = || Unbound { problem: String::new(), backoff: RETRY, failures: 0, ticket };
                let unbound = self.unbound.entry(binding.clone()).or_insert_with(fresh);
                unbound.ticket = ticket;
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
        (ErrorKind::AddrInUse, "another program has it"),
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
