//! The way out to one receiver of alarms.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::{snmp, time};
use crate::config::endpoint::Endpoint;
use crate::config::sinks::{SinkConfig, SinkKind};
use crate::pure::alarm::Severity;
use crate::pure::ledger::Due;
use crate::pure::notification::Notification;

/// A receiver's name is resolved again after so long.
const RESOLVE_EVERY: Duration = Duration::from_secs(300);
/// A host without an SNMP receiver says so within this, if it is near and says it at all.
const REFUSAL_WAIT: Duration = Duration::from_millis(50);

/// One kind of sink, with what it needs to deliver.
#[derive(Debug)]
pub enum Outlet {
    /// This agent's own log.
    Log,
    /// SNMP traps.
    Snmp(Box<Snmp>),
}

/// An SNMP receiver.
#[derive(Debug)]
pub struct Snmp {
    target: Result<Endpoint, String>,
    renderer: snmp::Renderer,
    connected: Option<(UdpSocket, Instant)>,
}

impl Outlet {
    /// The way out that `config` describes. `agent` is this host, `config_server` the store's place.
    pub fn new(config: &SinkConfig, agent: &str, config_server: &str) -> Self {
        match config.kind {
            SinkKind::Log => Outlet::Log,
            SinkKind::Snmp => Outlet::Snmp(Box::new(Snmp {
                target: config.snmp_target(),
                renderer: snmp::Renderer {
                    profile: config.profile,
                    community: config.community.clone(),
                    agent: agent.to_owned(),
                    config_server: config_server.to_owned(),
                },
                connected: None,
            })),
        }
    }

    /// Tries to deliver all of these, and says of each what became of it.
    pub async fn deliver(&mut self, batch: Vec<Due>) -> Vec<(Due, Result<(), String>)> {
        match self {
            Outlet::Log => batch
                .into_iter()
                .map(|due| {
                    log(&due);
                    (due, Ok(()))
                })
                .collect(),
            Outlet::Snmp(snmp) => {
                let outcome = snmp.send_all(&batch).await;
                if outcome.is_err() {
                    snmp.connected = None;
                }
                batch.into_iter().map(|due| (due, outcome.clone())).collect()
            }
        }
    }
}

impl Snmp {
    /// A refusal cannot be told from the one before it, so the batch stands or falls as one.
    async fn send_all(&mut self, batch: &[Due]) -> Result<(), String> {
        let uptime = time::now().moment;
        let mut datagrams = Vec::new();
        for due in batch {
            datagrams.extend(self.renderer.render(due, uptime).map_err(|error| error.to_string())?);
        }
        if datagrams.is_empty() {
            return Ok(());
        }
        let socket = self.connect().await?;
        for datagram in datagrams {
            socket.send(&datagram).await.map_err(|error| refused(&error))?;
        }
        let mut answer = [0; 1];
        match timeout(REFUSAL_WAIT, socket.recv(&mut answer)).await {
            Ok(Err(error)) => Err(refused(&error)),
            // A trap has no answer; whatever came is ignored.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn connect(&mut self) -> Result<&UdpSocket, String> {
        let fresh = self.connected.take().filter(|(_, since)| since.elapsed() < RESOLVE_EVERY);
        let connected = match fresh {
            Some(connected) => connected,
            None => {
                let target = self.target.as_ref().map_err(Clone::clone)?;
                let addr = snmp::resolve(target).await.map_err(|problem| format!("{target}: {problem}"))?;
                let socket = connect(addr).await.map_err(|error| format!("{addr}: {error}"))?;
                (socket, Instant::now())
            }
        };
        Ok(&self.connected.insert(connected).0)
    }
}

async fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

fn refused(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "no SNMP receiver listens there (port unreachable)".to_owned();
    }
    error.to_string()
}

fn log(due: &Due) {
    let Due::Alarm { notification, .. } = due else { return };
    let Notification { key, text, since, count, suppressed, .. } = notification.as_ref();
    let kind = key.kind.as_str();
    let Some(test) = &notification.test else {
        let subject = key.subject.to_string();
        match (notification.is_raised(), notification.severity) {
            (true, Severity::Critical | Severity::Major) => {
                error!(kind, subject, cause = text, %since, suppressed, "alarm raised");
            }
            (true, Severity::Minor | Severity::Warning) => {
                warn!(kind, subject, cause = text, %since, suppressed, "alarm raised");
            }
            (false, _) => info!(kind, subject, cause = text, %since, suppressed, "alarm cleared"),
        }
        return;
    };
    let (id, description) = (test.id, &test.description);
    let path = format!("{} {} → {} {}", test.from_host, test.from, test.to_host, test.to);
    match (notification.is_raised(), *count) {
        (true, _) => error!(kind, description, cause = text, path, %since, suppressed, %id, "alarm raised"),
        (false, 0) => info!(kind, description, path, %since, %id, "test up"),
        (false, _) => info!(kind, description, cause = text, path, %since, suppressed, %id, "alarm cleared"),
    }
}
