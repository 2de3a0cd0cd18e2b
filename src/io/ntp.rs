//! SNTP client (RFC 4330) that gives a second opinion on the local clock.
//!
//! The clock actor calls [`query`] at intervals and compares the answer with the kernel's report.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rsntp::{AsyncSntpClient, Config};

use crate::config::document::endpoint::{Endpoint, EndpointHost};
use crate::io::net::dns::resolve;
use crate::pure::clock::local::ServerMeasurement;

/// Timeout for an answer. The offset's error bound is half the round-trip time, so that a slower answer is of little
/// use.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Requests the time from the server once, and returns the local clock's offset with its error bound.
pub async fn query(server: &Endpoint) -> Result<ServerMeasurement, String> {
    let failed = |problem: String| format!("time server {server}: {problem}");
    let addr = match &server.host {
        EndpointHost::Ip(addr) => *addr,
        EndpointHost::Any => return Err(failed("no address".to_owned())),
        EndpointHost::Name(name) => {
            let mut resolved = resolve([name.clone()].into()).await;
            let addresses = resolved.remove(name).unwrap_or(Err("not resolved".to_owned())).map_err(failed)?;
            addresses.into_iter().next().ok_or_else(|| failed("no address".to_owned()))?
        }
    };
    let any = if addr.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let config = Config::default().bind_address(SocketAddr::new(any, 0)).timeout(ANSWER_WITHIN);
    let client = AsyncSntpClient::with_config(config);
    let answer = client.synchronize(SocketAddr::new(addr, server.port).to_string()).await;
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    Ok(ServerMeasurement {
        server: server.to_string(),
        offset: (answer.clock_offset().as_secs_f64() * 1e9) as i64,
        error: Duration::try_from_secs_f64(answer.round_trip_delay().as_secs_f64().abs() / 2.0)
            .unwrap_or(ANSWER_WITHIN),
    })
}
