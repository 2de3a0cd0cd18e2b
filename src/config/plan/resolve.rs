//! Selects the addresses that the two ends of a test use. [`Resolver`] applies the same rules on both hosts, so that
//! both ends arrive at the same addresses.

use std::net::{IpAddr, SocketAddr};

use super::{Names, ResolveError};
use crate::config::document::endpoint::{Endpoint, EndpointHost};
use crate::config::test::StampSpec;

/// Maps the endpoints of a test to socket addresses, using names resolved before.
pub(super) struct Resolver<'a> {
    pub names: &'a Names,
}

/// Names that cannot be resolved, each with the reason. An empty list means that resolution is still pending, which
/// is not a fault.
pub(super) struct Unresolved(pub Vec<(String, ResolveError)>);

/// Addresses selected for a test, in the families that both ends share where possible.
pub(super) struct Addresses {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub listen: SocketAddr,
}

impl Addresses {
    /// Returns the reason why packets cannot be sent between the ends, such as different address families.
    pub fn contradiction(&self) -> Option<String> {
        let (from, to) = (self.from.ip(), self.to.ip());
        (from.is_ipv4() != to.is_ipv4()).then(|| format!("{from} cannot send to {to}: another address family"))
    }
}

impl Resolver<'_> {
    /// Selects the address of a target: the lowest, IPv4 before IPv6.
    pub fn target(&self, target: &Endpoint) -> Result<SocketAddr, Unresolved> {
        let addr = match &target.host {
            EndpointHost::Any => None,
            EndpointHost::Ip(addr) => Some(*addr),
            EndpointHost::Name(name) => match self.names.get(name) {
                Some(Ok(addresses)) => addresses.iter().min().copied(),
                Some(Err(problem)) => return Err(Unresolved(vec![(name.clone(), problem.clone())])),
                None => None,
            },
        };
        addr.map(|addr| SocketAddr::new(addr, target.port)).ok_or(Unresolved(Vec::new()))
    }

    /// Selects the addresses of a test. Both ends choose by the same rule: IPv4 is preferred unless the other end has
    /// only IPv6 addresses, and the lowest address of the family is used.
    pub fn addresses(&self, test: &StampSpec) -> Result<Addresses, Unresolved> {
        let (mut unresolved, mut not_yet) = (Vec::new(), false);
        let mut candidates = |endpoint: &Endpoint| match &endpoint.host {
            EndpointHost::Any => Vec::new(),
            EndpointHost::Ip(addr) => vec![*addr],
            EndpointHost::Name(name) => match self.names.get(name) {
                Some(Ok(addresses)) => {
                    let mut addresses = addresses.clone();
                    addresses.sort();
                    addresses
                }
                Some(Err(problem)) => {
                    unresolved.push((name.clone(), problem.clone()));
                    Vec::new()
                }
                None => {
                    not_yet = true;
                    Vec::new()
                }
            },
        };
        let (from, to, listen) = (candidates(&test.from), candidates(&test.to), candidates(&test.listen));
        if not_yet || !unresolved.is_empty() {
            return Err(Unresolved(unresolved));
        }
        let ipv4_only = [&from, &to, &listen].into_iter().all(|addresses| fits(addresses, IpAddr::is_ipv4));
        let family: fn(&IpAddr) -> bool = if ipv4_only { IpAddr::is_ipv4 } else { IpAddr::is_ipv6 };
        let select = |addresses: &[IpAddr]| addresses.iter().find(|addr| family(addr)).or(addresses.first()).copied();
        let wildcard = if ipv4_only { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = |addresses: &[IpAddr], port| SocketAddr::new(select(addresses).unwrap_or(wildcard), port);
        Ok(Addresses {
            from: socket(&from, test.from.port),
            to: socket(&to, test.to.port),
            listen: socket(&listen, test.listen.port),
        })
    }
}

/// Returns true if an endpoint has an address of the family. An unspecified endpoint suits every family.
fn fits(addresses: &[IpAddr], family: fn(&IpAddr) -> bool) -> bool {
    addresses.is_empty() || addresses.iter().any(family)
}
