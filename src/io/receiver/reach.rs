//! Checks whether this host could deliver to a receiver, without sending it a message.

use std::fs::Metadata;
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::document::sinks::{SinkConfig, SinkKind, Transport};
use crate::io::net::dns::resolve_endpoint;
use crate::io::receiver::delivery::DeliveryError;
use crate::io::{secret, tls};

/// Timeout for the TCP connection of a reachability check.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// Returns the problems that prevent this host from using a receiver: missing secrets, certificates or the program.
/// Used by a dry run.
pub fn missing_prerequisites(config: &SinkConfig) -> Vec<String> {
    let mut missing_prerequisites: Vec<String> =
        config.secrets().filter_map(|source| Some(secret::read(source).err()?.to_string())).collect();
    if config.ca_file.is_some() || config.cert_file.is_some() {
        let client = tls::client_with(config.ca_file.as_deref(), config.client_certificate());
        missing_prerequisites.extend(client.err().map(|error| error.to_string()));
    }
    if let Some(program) = config.command.first().filter(|_| config.kind == SinkKind::Exec) {
        let executable = |metadata: &Metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        match std::fs::metadata(program) {
            Ok(metadata) if executable(&metadata) => {}
            Ok(_) => missing_prerequisites.push(format!("program {program}: not an executable file")),
            Err(error) => missing_prerequisites.push(format!("program {program}: {error}")),
        }
    }
    missing_prerequisites
}

/// Checks that a receiver can be reached, as far as possible without sending it a message.
pub async fn check_reachable(config: &SinkConfig) -> Result<(), DeliveryError> {
    let target = match config.kind {
        SinkKind::Log | SinkKind::Exec => return Ok(()),
        SinkKind::Snmp | SinkKind::Syslog | SinkKind::Email => config.endpoint()?,
        SinkKind::Alertmanager | SinkKind::Webhook => {
            let url = reqwest::Url::parse(&config.url);
            let url = url.map_err(|error| DeliveryError::Unusable(config.url.clone(), error.to_string()))?;
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or(0);
            format!("{host}:{port}").parse()?
        }
    };
    let addr = resolve_endpoint(&target).await.map_err(|error| DeliveryError::Unresolved(target, error))?;
    let failed = |error| DeliveryError::Io(addr.to_string(), error);
    let datagrams =
        config.kind == SinkKind::Snmp || config.kind == SinkKind::Syslog && config.transport() == Transport::Udp;
    if datagrams {
        let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let connected = UdpSocket::bind(any).and_then(|socket| socket.connect(addr));
        return connected.map_err(failed);
    }
    match timeout(REACHED_WITHIN, TcpStream::connect(addr)).await {
        Ok(connected) => connected.map(|_| ()).map_err(failed),
        Err(_) => Err(failed(io::Error::from(io::ErrorKind::TimedOut))),
    }
}
