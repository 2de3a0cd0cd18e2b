//! Endpoints in the notation `address:port`. [`Endpoint`] accepts an IP address, a host name or a wildcard, and
//! resolves nothing itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Address and port of an end of a test. The address may be a host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address, host name or wildcard in front of the port.
    pub host: EndpointHost,
    /// UDP port. 0 leaves the choice to the system.
    pub port: u16,
}

/// Address part of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointHost {
    /// Unspecified: any local address of the appropriate family.
    Any,
    /// IP address, which may be a wildcard such as `0.0.0.0`.
    Ip(IpAddr),
    /// Host name in lower case that has to be resolved.
    Name(String),
}

impl fmt::Display for EndpointHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointHost::Any => f.write_str("*"),
            EndpointHost::Ip(addr) => addr.fmt(f),
            EndpointHost::Name(name) => f.write_str(name),
        }
    }
}

impl Endpoint {
    /// Endpoint without an address or a port, parsed from an empty text.
    pub const ANY: Endpoint = Endpoint { host: EndpointHost::Any, port: 0 };

    /// Returns the host name that has to be resolved, or `None` for an address or wildcard.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            EndpointHost::Name(name) => Some(name),
            EndpointHost::Any | EndpointHost::Ip(_) => None,
        }
    }

    /// Returns true if the endpoint stands for every local address.
    pub fn is_wildcard(&self) -> bool {
        match &self.host {
            EndpointHost::Any => true,
            EndpointHost::Ip(addr) => addr.is_unspecified(),
            EndpointHost::Name(_) => false,
        }
    }
}

/// Errors from parsing the text of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text has no colon followed by a port.
    #[error("`{0}` has no port")]
    NoPort(String),
    /// The text is an IPv6 address without brackets, so that its end cannot be separated from a port.
    #[error("`{0}` is an IPv6 address without brackets; write [{0}]:PORT")]
    NoBrackets(String),
    /// The port is not a number from 0 to 65535.
    #[error("`{0}` is no port")]
    BadPort(String),
    /// The port of a receiver is 0.
    #[error("port 0 is no receiver's")]
    PortZero,
    /// The address is neither an IPv6 address in brackets, an IPv4 address nor a host name.
    #[error("`{0}` is neither an address nor a name")]
    BadHost(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Endpoint::ANY);
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Endpoint { host: EndpointHost::Ip(addr.ip()), port: addr.port() });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(EndpointError::NoBrackets(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| EndpointError::NoPort(text.to_owned()))?;
        if port.is_empty() {
            return Err(EndpointError::NoPort(text.to_owned()));
        }
        let port = port.parse().map_err(|_| EndpointError::BadPort(port.to_owned()))?;
        let host = match host {
            "" | "*" => EndpointHost::Any,
            name if is_host_name(name) => EndpointHost::Name(name.to_ascii_lowercase()),
            other => return Err(EndpointError::BadHost(other.to_owned())),
        };
        Ok(Endpoint { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            EndpointHost::Any => write!(f, "*:{}", self.port),
            EndpointHost::Ip(addr) => SocketAddr::new(*addr, self.port).fmt(f),
            EndpointHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Checks a host name against RFC 1123, with underscores accepted in addition because they are in common use.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
            && !label.starts_with('-')
    };
    // A name of digits and dots that is not a valid IPv4 address is a typing error, not a host name.
    let numeric = name.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    name.len() <= 253 && !numeric && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

/// Returns the wildcard address of the family of `addr`.
pub fn wildcard_of(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_rejected_endpoint_notations() {
        let parse = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        assert_eq!(parse("127.0.0.1:8620").unwrap(), "127.0.0.1:8620");
        assert_eq!(parse("[::1]:8620").unwrap(), "[::1]:8620");
        assert_eq!(parse("DB1.example.:8620").unwrap(), "db1.example.:8620");
        assert_eq!(parse(":8620").unwrap(), "*:8620");
        assert_eq!(parse("").unwrap(), "*:0");
        assert_eq!(parse("db1"), Err(EndpointError::NoPort("db1".into())));
        assert_eq!(parse("db1:"), Err(EndpointError::NoPort("db1:".into())));
        assert_eq!(parse("db1:99999"), Err(EndpointError::BadPort("99999".into())));
        assert_eq!(parse("::1:8620"), Err(EndpointError::NoBrackets("::1:8620".into())));
        assert_eq!(parse("10.0.0.256:8620"), Err(EndpointError::BadHost("10.0.0.256".into())));
        assert_eq!(parse("a b:1"), Err(EndpointError::BadHost("a b".into())));
    }
}
