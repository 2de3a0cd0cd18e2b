//! Resolves host names to addresses.
//!
//! Lookups use the resolver of the operating system, with a timeout.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;

use crate::config::document::endpoint::{Endpoint, EndpointHost};
use crate::config::plan::{Names, ResolveError};

/// Timeout for one lookup, after which the name service counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Resolves all names concurrently. The addresses of each name are sorted.
pub async fn resolve(names: BTreeSet<String>) -> Names {
    let lookups = names.into_iter().map(|name| async {
        let addresses = lookup(&name).await;
        (name, addresses)
    });
    join_all(lookups).await.into_iter().collect()
}

async fn lookup(name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => {
            let addresses: BTreeSet<IpAddr> = found.map(|addr| addr.ip()).collect();
            if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses.into_iter().collect()) }
        }
        Ok(Err(error)) => Err(ResolveError::Refused(error.to_string())),
        Err(_) => Err(ResolveError::TimedOut(TIMEOUT)),
    }
}

/// Resolves an endpoint to a socket address. Of several addresses the lowest is used, IPv4 before IPv6.
pub async fn resolve_endpoint(target: &Endpoint) -> Result<SocketAddr, ResolveError> {
    let addresses = match &target.host {
        EndpointHost::Ip(addr) => vec![*addr],
        EndpointHost::Any => Vec::new(),
        EndpointHost::Name(name) => {
            let mut names = resolve([name.clone()].into()).await;
            names.remove(name).unwrap_or(Err(ResolveError::NoAddress))?
        }
    };
    let lowest = addresses.into_iter().min().ok_or(ResolveError::NoAddress)?;
    Ok(SocketAddr::new(lowest, target.port))
}
