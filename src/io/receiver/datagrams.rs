//! Connected UDP socket to a receiver that is configured by name or address.
//!
//! The main type is [`Datagrams`], which the SNMP and syslog receivers use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use crate::config::document::endpoint::{Endpoint, EndpointError};
use crate::io::net::dns::resolve_endpoint;
use crate::io::receiver::delivery::DeliveryError;

/// Interval after which a receiver's name is resolved again and the socket reconnected.
const RESOLVE_EVERY: Duration = Duration::from_secs(300);
/// Time to wait for an ICMP error after sending: a nearby host without a receiver reports it within this time, if at
/// all.
const REFUSAL_WAIT: Duration = Duration::from_millis(50);

/// UDP connection to one receiver, opened when it is first used.
pub struct Datagrams {
    target: Result<Endpoint, EndpointError>,
    /// Local address to send from; `None` leaves the choice to the routing table.
    source: Option<IpAddr>,
    connected: Option<(UdpSocket, Instant)>,
}

impl Datagrams {
    pub fn new(target: Result<Endpoint, EndpointError>, source: Option<IpAddr>) -> Self {
        Datagrams { target, source, connected: None }
    }

    /// Returns the socket, connected so that only datagrams of the receiver are accepted.
    pub async fn socket(&mut self) -> Result<&UdpSocket, DeliveryError> {
        let fresh = self.connected.take().filter(|(_, since)| since.elapsed() < RESOLVE_EVERY);
        let connected = match fresh {
            Some(connected) => connected,
            None => {
                let target = self.target.as_ref().map_err(Clone::clone)?;
                let addr = resolve_endpoint(target).await;
                let addr = addr.map_err(|error| DeliveryError::Unresolved(target.clone(), error))?;
                (connect(addr, self.source).await?, Instant::now())
            }
        };
        Ok(&self.connected.insert(connected).0)
    }

    /// Sends all datagrams, then waits `REFUSAL_WAIT` for an ICMP error. An error cannot be attributed to one
    /// datagram, so the result applies to the whole batch.
    pub async fn send(&mut self, datagrams: &[Vec<u8>]) -> Result<(), DeliveryError> {
        let socket = self.socket().await?;
        for datagram in datagrams {
            socket.send(datagram).await?;
        }
        let mut answer = [0; 1];
        match timeout(REFUSAL_WAIT, socket.recv(&mut answer)).await {
            Ok(Err(error)) => Err(error.into()),
            // Datagrams sent this way have no reply; data that arrived is ignored.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Closes the socket, so that the next use resolves the name again.
    pub fn disconnect(&mut self) {
        self.connected = None;
    }
}

async fn connect(target: SocketAddr, source: Option<IpAddr>) -> Result<UdpSocket, DeliveryError> {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let own = source.unwrap_or(any);
    let socket = UdpSocket::bind((own, 0)).await;
    let socket = socket.map_err(|error| DeliveryError::Io(format!("source {own}"), error))?;
    socket.connect(target).await.map_err(|error| DeliveryError::Io(target.to_string(), error))?;
    Ok(socket)
}
