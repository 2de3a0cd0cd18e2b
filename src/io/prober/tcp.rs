//! TCP: a probe is a connection, which is closed as soon as it is established.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::pure::judge::probe_result::ProbeResult;

/// Connects to an address and measures how long that takes.
pub async fn probe(addr: SocketAddr, within: Duration) -> ProbeResult {
    let begun = Instant::now();
    match timeout(within, TcpStream::connect(addr)).await {
        Ok(Ok(_)) => ProbeResult::Measured(begun.elapsed()),
        Ok(Err(error)) if is_local(&error) => ProbeResult::NotSent(format!("connect to {addr}: {error}")),
        Ok(Err(error)) => ProbeResult::Failed(format!("connect to {addr}: {}", describe(&error))),
        Err(_) => {
            ProbeResult::Failed(format!("connect to {addr}: no answer within {}", humantime::format_duration(within)))
        }
    }
}

/// Returns whether a connection failed for a reason on this host: no descriptors, memory, local ports or permission.
fn is_local(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    use Errno::{EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
    errno.is_some_and(|errno| {
        [EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM].contains(&errno)
    })
}

fn describe(error: &io::Error) -> String {
    let known = [
        (ErrorKind::ConnectionRefused, "connection refused, nothing listens there"),
        (ErrorKind::HostUnreachable, "host unreachable"),
        (ErrorKind::NetworkUnreachable, "no route"),
    ];
    let known = known.into_iter().find(|(kind, _)| *kind == error.kind());
    known.map_or_else(|| error.to_string(), |(_, text)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn open_port_is_measured_and_closed_port_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(matches!(probe(addr, Duration::from_secs(5)).await, ProbeResult::Measured(_)));
        drop(listener);
        let refused = format!("connect to {addr}: connection refused, nothing listens there");
        assert_eq!(probe(addr, Duration::from_secs(5)).await, ProbeResult::Failed(refused));
    }
}
