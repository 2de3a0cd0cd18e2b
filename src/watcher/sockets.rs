//! The sockets that a plan needs, and the addresses that cannot be bound.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::io::udp::Socket;
use crate::pure::backoff::Backoff;

/// An address that fails again and again is tried after 1 s and then ever later, up to 60 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The first failure is often a predecessor that is still closing its socket.
const AT_FIRST: Duration = Duration::from_millis(100);

/// A sender may hear of a test's end later than its receiver: a closed port would be an error to it.
pub const LINGER: Duration = Duration::from_secs(60);

/// Lent to listeners and senders; a socket is closed when its last user is gone.
#[derive(Default)]
pub struct Sockets {
    open: BTreeMap<SocketAddr, Arc<Socket>>,
    unbound: BTreeMap<SocketAddr, Unbound>,
    tickets: u64,
    /// Not needed any more, and until when they stay all the same.
    lingering: BTreeMap<SocketAddr, (Arc<Socket>, Instant)>,
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
    Socket(Arc<Socket>),
    /// It is not; to be tried again.
    Retry(Retry),
}

/// An address to be tried again.
#[derive(Clone, Copy)]
pub struct Retry {
    address: SocketAddr,
    ticket: u64,
    /// After so long.
    pub wait: Duration,
}

impl Sockets {
    /// The socket at an address, as the plan names it.
    pub fn get(&self, address: SocketAddr) -> Option<&Arc<Socket>> {
        self.open.get(&address)
    }

    /// Lets go of what is not needed, and tells what that was. It stays open for a while, as long as
    /// its port is not wanted.
    pub fn keep(&mut self, needed: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        self.unbound.retain(|address, _| needed.contains(address));
        let unneeded: Vec<SocketAddr> = self.open.keys().filter(|addr| !needed.contains(addr)).copied().collect();
        let until = Instant::now() + LINGER;
        for address in &unneeded {
            if let Some(socket) = self.open.remove(address).filter(|_| address.port() != 0) {
                self.lingering.insert(*address, (socket, until));
            }
        }
        let wanted: BTreeSet<u16> = needed.iter().map(SocketAddr::port).collect();
        self.lingering.retain(|address, (_, until)| *until > Instant::now() && !wanted.contains(&address.port()));
        unneeded
    }

    /// Tries everything that could not be bound, and soon again what still cannot.
    pub fn try_all(&mut self) -> Vec<(SocketAddr, Opened)> {
        self.unbound.values_mut().for_each(|unbound| unbound.backoff = RETRY);
        let waiting: Vec<SocketAddr> = self.unbound.keys().copied().collect();
        waiting.into_iter().map(|address| (address, self.bind(address))).collect()
    }

    /// Closes what has stayed long enough.
    pub fn close_lingering(&mut self) {
        self.lingering.retain(|_, (_, until)| *until > Instant::now());
    }

    /// Opens what is needed and neither open nor waiting for its retry.
    pub fn open(&mut self, needed: &BTreeSet<SocketAddr>) -> Vec<(SocketAddr, Opened)> {
        let missing = |addr: &&SocketAddr| !self.open.contains_key(addr) && !self.unbound.contains_key(addr);
        let missing: Vec<SocketAddr> = needed.iter().filter(missing).copied().collect();
        missing.into_iter().map(|address| (address, self.bind(address))).collect()
    }

    /// Tries an address again; nothing if it is not needed any more.
    pub fn retry(&mut self, retry: Retry) -> Option<(SocketAddr, Opened)> {
        let wanted = self.unbound.get(&retry.address).is_some_and(|unbound| unbound.ticket == retry.ticket);
        wanted.then(|| (retry.address, self.bind(retry.address)))
    }

    /// Addresses that cannot be bound, and why. The first failure is not yet one of them.
    pub fn problems(&self) -> impl Iterator<Item = (SocketAddr, &str)> {
        let lasting = self.unbound.iter().filter(|(_, unbound)| unbound.failures > 1);
        lasting.map(|(address, unbound)| (*address, unbound.problem.as_str()))
    }

    fn bind(&mut self, address: SocketAddr) -> Opened {
        match Socket::open(address) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                self.open.insert(address, socket.clone());
                if self.unbound.remove(&address).is_some_and(|unbound| unbound.failures > 1) {
                    info!(%address, "address bound at last");
                }
                Opened::Socket(socket)
            }
            Err(error) => {
                self.tickets += 1;
                let ticket = self.tickets;
                let fresh = || Unbound { problem: String::new(), backoff: RETRY, failures: 0, ticket };
                let unbound = self.unbound.entry(address).or_insert_with(fresh);
                unbound.ticket = ticket;
                unbound.failures += 1;
                unbound.problem = describe(address, &error);
                let wait = match unbound.failures {
                    1 => AT_FIRST,
                    _ => unbound.backoff.on_failure(fastrand::f64()),
                };
                Opened::Retry(Retry { address, ticket, wait })
            }
        }
    }
}

fn describe(address: SocketAddr, error: &io::Error) -> String {
    let meanings = [
        (ErrorKind::AddrInUse, "another program has it"),
        (ErrorKind::AddrNotAvailable, "the address is not on this host"),
        (ErrorKind::PermissionDenied, "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE"),
    ];
    let known = meanings.into_iter().find(|(kind, _)| *kind == error.kind());
    let meaning = known.map_or_else(|| error.to_string(), |(_, meaning)| meaning.to_owned());
    format!("cannot bind {address}: {meaning}")
}
