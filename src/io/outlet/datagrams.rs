//! A connected UDP socket to a receiver that is known by name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use crate::config::endpoint::Endpoint;
use crate::io::resolve::resolve_endpoint;

/// A receiver's name is resolved again after so long.
const RESOLVE_EVERY: Duration = Duration::from_secs(300);
/// A host without a receiver says so within this, if it is near and says it at all.
const REFUSAL_WAIT: Duration = Duration::from_millis(50);

/// The way to one receiver.
pub struct Datagrams {
    target: Result<Endpoint, String>,
    /// The address of this host that the receiver sees, if that is not left to the routes.
    source: Option<IpAddr>,
    connected: Option<(UdpSocket, Instant)>,
}

impl Datagrams {
    pub fn new(target: Result<Endpoint, String>, source: Option<IpAddr>) -> Self {
        Datagrams { target, source, connected: None }
    }

    /// Its socket; connected, so that only the receiver is heard.
    pub async fn socket(&mut self) -> Result<&UdpSocket, String> {
        let fresh = self.connected.take().filter(|(_, since)| since.elapsed() < RESOLVE_EVERY);
        let connected = match fresh {
            Some(connected) => connected,
            None => {
                let target = self.target.as_ref().map_err(Clone::clone)?;
                let addr = resolve_endpoint(target).await.map_err(|problem| format!("{target}: {problem}"))?;
                (connect(addr, self.source).await?, Instant::now())
            }
        };
        Ok(&self.connected.insert(connected).0)
    }

    /// Sends all of these, and waits a moment for word that nobody takes them. A refusal cannot be
    /// told from the one before it, so they stand or fall as one.
    pub async fn send(&mut self, datagrams: &[Vec<u8>]) -> Result<(), String> {
        let socket = self.socket().await?;
        for datagram in datagrams {
            socket.send(datagram).await.map_err(|error| refused(&error))?;
        }
        let mut answer = [0; 1];
        match timeout(REFUSAL_WAIT, socket.recv(&mut answer)).await {
            Ok(Err(error)) => Err(refused(&error)),
            // What is not to be answered has no answer; whatever came is ignored.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Its address may be another now.
    pub fn forget(&mut self) {
        self.connected = None;
    }
}

async fn connect(target: SocketAddr, source: Option<IpAddr>) -> Result<UdpSocket, String> {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let own = source.unwrap_or(any);
    let socket = UdpSocket::bind((own, 0)).await.map_err(|error| format!("source {own}: {error}"))?;
    socket.connect(target).await.map_err(|error| format!("{target}: {error}"))?;
    Ok(socket)
}

/// What the operating system says, in words.
pub fn refused(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "no receiver listens there (port unreachable)".to_owned();
    }
    error.to_string()
}
