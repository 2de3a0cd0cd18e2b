//! SNTP client (RFC 4330) that gives a second opinion on the local clock.
//!
//! The clock actor calls [`query`] at intervals and compares the answer with the kernel's report.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rsntp::{AsyncSntpClient, Config};

use crate::config::document::endpoint::Endpoint;
use crate::config::plan::ResolveError;
use crate::io::net::dns::resolve_endpoint;
use crate::pure::clock::local::ServerMeasurement;

/// Timeout for an answer. The offset's error bound is half the round-trip time, so that a slower answer is of little
/// use.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Reason for which a time server gave no measurement.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NtpError {
    /// The name of the server cannot be resolved.
    #[error("time server {0}: {1}")]
    Unresolved(Endpoint, ResolveError),
    /// The server did not answer, or its answer is unusable.
    #[error("time server {0}: {1}")]
    NoMeasurement(Endpoint, String),
}

/// Requests the time from the server once, and returns the local clock's offset with its error bound.
pub async fn query(server: &Endpoint) -> Result<ServerMeasurement, NtpError> {
    let addr = resolve_endpoint(server).await.map_err(|error| NtpError::Unresolved(server.clone(), error))?.ip();
    let any = if addr.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let config = Config::default().bind_address(SocketAddr::new(any, 0)).timeout(ANSWER_WITHIN);
    let client = AsyncSntpClient::with_config(config);
    let answer = client.synchronize(SocketAddr::new(addr, server.port).to_string()).await;
    let answer = answer.map_err(|error| NtpError::NoMeasurement(server.clone(), error.to_string()))?;
    Ok(ServerMeasurement {
        server: server.to_string(),
        offset: (answer.clock_offset().as_secs_f64() * 1e9) as i64,
        error: Duration::try_from_secs_f64(answer.round_trip_delay().as_secs_f64().abs() / 2.0)
            .unwrap_or(ANSWER_WITHIN),
    })
}
