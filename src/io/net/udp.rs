//! UDP sockets for probes: kernel receive timestamps, batched reads, and ICMP errors of the path.
//!
//! The main type is [`Socket`]; [`Readiness`] waits for it.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::sockopt::{
    IpRecvTos, Ipv4PacketInfo, Ipv4RecvErr, Ipv4RecvTtl, Ipv6RecvErr, Ipv6RecvHopLimit, Ipv6RecvPacketInfo, RcvBuf,
    RcvBufForce, ReceiveTimestampns, RxqOvfl,
};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, sendmsg, sendto, setsockopt,
};
use nix::sys::time::TimeSpec;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::recv_batch::{Batch, DSCP_SHIFT, LONGEST, MAX_ERRORS};
use crate::pure::stamp::json_v1::JsonProbe;
use crate::pure::stamp::packet::Probe;
use crate::pure::test::id::TestId;

/// Size in octets of the receive buffer, enough for a burst of 3,000 probes while nothing is read. Without
/// CAP_NET_ADMIN the kernel grants at most `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;
/// UDP socket bound to a local address; senders and a listener may share one.
#[derive(Debug)]
pub struct Socket {
    inner: std::net::UdpSocket,
    local: SocketAddr,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Destination and header fields of a datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Address and port to which the datagram is sent.
    pub destination: SocketAddr,
    /// Source address, which replaces the socket's own where that is a wildcard.
    pub source: Option<IpAddr>,
    /// Differentiated services code point (DSCP) of the datagram.
    pub dscp: u8,
}

/// Error that the network reported for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    /// Test whose probe the error refers to.
    pub test_id: TestId,
    /// Description of the error, with the host that reported it.
    pub cause: String,
}

impl Socket {
    /// Opens a socket, binds it to `local`, and restricts it to an interface if one is named.
    pub fn open(local: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if local.is_ipv6() {
            // A wildcard address covers its own family only, as the documents define it.
            socket.set_only_v6(true)?;
            setsockopt(&socket, Ipv6RecvErr, &true)?;
            setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
            socket.set_recv_tclass_v6(true)?;
            // Long probes detect a path whose MTU is too small, so that no router may fragment them.
            sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
            if local.ip().is_unspecified() {
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
            }
        } else {
            setsockopt(&socket, Ipv4RecvErr, &true)?;
            setsockopt(&socket, Ipv4RecvTtl, &true)?;
            setsockopt(&socket, IpRecvTos, &true)?;
            sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
            if local.ip().is_unspecified() {
                setsockopt(&socket, Ipv4PacketInfo, &true)?;
            }
        }
        if let Some(interface) = interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        setsockopt(&socket, RxqOvfl, &1)?;
        socket.bind(&local.into())?;
        let inner: std::net::UdpSocket = socket.into();
        let local = inner.local_addr()?;
        Ok(Socket { inner, local })
    }

    /// Returns the bound address, with the port that the kernel chose if port 0 was requested.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram.
    ///
    /// The kernel reports the error of an earlier probe, possibly to another peer, once at the next send. A failed
    /// send is therefore tried again.
    pub fn send(&self, octets: &[u8], envelope: &Envelope) -> io::Result<()> {
        self.send_once(octets, envelope).or_else(|_| self.send_once(octets, envelope)).map_err(io::Error::from)
    }

    fn send_once(&self, octets: &[u8], envelope: &Envelope) -> nix::Result<()> {
        let fd = self.as_raw_fd();
        let destination = SockaddrStorage::from(envelope.destination);
        if envelope.source.is_none() && envelope.dscp == 0 {
            return sendto(fd, octets, &destination, MsgFlags::empty()).map(|_| ());
        }
        let (tos, info4, info6);
        let class = i32::from(envelope.dscp << DSCP_SHIFT);
        let mut messages = Vec::with_capacity(2);
        if envelope.dscp != 0 {
            messages.push(match envelope.destination.is_ipv4() {
                true => {
                    tos = envelope.dscp << DSCP_SHIFT;
                    ControlMessage::Ipv4Tos(&tos)
                }
                false => ControlMessage::Ipv6TClass(&class),
            });
        }
        match envelope.source {
            None => {}
            Some(IpAddr::V4(source)) => {
                info4 = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                messages.push(ControlMessage::Ipv4PacketInfo(&info4));
            }
            Some(IpAddr::V6(source)) => {
                info6 = libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: libc::in6_addr { s6_addr: source.octets() } };
                messages.push(ControlMessage::Ipv6PacketInfo(&info6));
            }
        }
        sendmsg(fd, &[IoSlice::new(octets)], &messages, MsgFlags::empty(), Some(&destination)).map(|_| ())
    }

    /// Removes the errors that the network reported from the socket's error queue, and returns those that belong to a
    /// test.
    pub fn take_path_errors(&self) -> Vec<PathError> {
        let mut found = Vec::new();
        for _ in 0..MAX_ERRORS {
            match self.take_path_error() {
                Ok(error) => found.extend(error),
                Err(_) => break,
            }
        }
        found
    }

    fn take_path_error(&self) -> io::Result<Option<PathError>> {
        let mut octets = [0; LONGEST];
        let mut slices = [IoSliceMut::new(&mut octets)];
        // The error queue delivers the same control messages as a normal receive, plus the error itself.
        let mut space =
            cmsg_space!(TimeSpec, u32, i32, i32, libc::in6_pktinfo, libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(self.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let destination = message.address.as_ref().and_then(std_address);
        let mut cause = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::Ipv4RecvErr(error, offender) = control {
                let offender = offender.map(|addr| IpAddr::from(u32::from_be(addr.sin_addr.s_addr).to_be_bytes()));
                cause = Some(describe(&error, destination, offender));
            } else if let ControlMessageOwned::Ipv6RecvErr(error, offender) = control {
                cause = Some(describe(&error, destination, offender.map(|addr| addr.sin6_addr.s6_addr.into())));
            }
        }
        let octets = message.iovs().next().unwrap_or_default();
        let test_id = Probe::quoted_test_id(octets).or_else(|| JsonProbe::decode(octets).map(|probe| probe.test_id));
        Ok(test_id.zip(cause).map(|(test_id, cause)| PathError { test_id, cause }))
    }
}

/// Waits for a socket to become readable. A socket is registered with the runtime only while this exists, so that a
/// busy socket, which is polled at intervals anyway, causes no wake-ups.
#[derive(Debug)]
pub struct Readiness(AsyncFd<Arc<Socket>>);

impl Readiness {
    /// Registers the socket. Must be called within the runtime, at most once at a time for each socket.
    #[expect(unsafe_code, reason = "tokio requires that the descriptor stays open")]
    pub fn of(socket: Arc<Socket>) -> io::Result<Self> {
        // SAFETY: a `Socket` never closes or replaces its descriptor, and lives as long as its registration.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        registered.map(Readiness).map_err(Into::into)
    }

    /// Waits like [`Readiness::readable`], but takes and returns the registration, for a task that must own it.
    pub async fn wait(self) -> io::Result<Self> {
        self.readable().await.map(|()| self)
    }

    /// Waits until the socket may be readable. The caller must then read until the socket is empty.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }
}

/// Describes an error of sending a probe, with its likely meaning.
pub fn describe_send_error(error: &io::Error, destination: SocketAddr) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EPERM) => "a local firewall refuses it (EPERM)",
        Some(libc::EACCES) => "not permitted, or a broadcast address (EACCES)",
        Some(libc::ENETUNREACH) => "no route (ENETUNREACH)",
        Some(libc::EHOSTUNREACH) => "host unreachable (EHOSTUNREACH)",
        Some(libc::ENETDOWN) => "the network interface is down (ENETDOWN)",
        Some(libc::EADDRNOTAVAIL) => "the source address is not on this host (EADDRNOTAVAIL)",
        Some(libc::EINVAL) => "the source address cannot reach it (EINVAL)",
        Some(libc::ECONNREFUSED) => "port unreachable (ECONNREFUSED)",
        Some(libc::EMSGSIZE) => "too long for the path (EMSGSIZE)",
        Some(libc::EAGAIN | libc::ENOBUFS) => "the local send queue is full",
        _ => return format!("send to {destination}: {error}"),
    };
    format!("send to {destination}: {meaning}")
}

/// Describes an error from the error queue, by the ICMP destination unreachable codes (RFC 792, RFC 1812, RFC 4443).
fn describe(error: &libc::sock_extended_err, destination: Option<SocketAddr>, offender: Option<IpAddr>) -> String {
    const ICMP_UNREACHABLE: u8 = 3;
    const ICMP6_UNREACHABLE: u8 = 1;
    const ICMP6_TOO_BIG: u8 = 2;
    let meaning = match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP, ICMP_UNREACHABLE, 0) => "network unreachable".to_owned(),
        (libc::SO_EE_ORIGIN_ICMP, ICMP_UNREACHABLE, 1) => "host unreachable".to_owned(),
        (libc::SO_EE_ORIGIN_ICMP, ICMP_UNREACHABLE, 3) | (libc::SO_EE_ORIGIN_ICMP6, ICMP6_UNREACHABLE, 4) => {
            "port unreachable, nothing listens there".to_owned()
        }
        (libc::SO_EE_ORIGIN_ICMP, ICMP_UNREACHABLE, 4) | (libc::SO_EE_ORIGIN_ICMP6, ICMP6_TOO_BIG, _) => {
            format!("too long for the path, which takes {} octets", error.ee_info)
        }
        (libc::SO_EE_ORIGIN_ICMP, ICMP_UNREACHABLE, 9 | 10 | 13) | (libc::SO_EE_ORIGIN_ICMP6, ICMP6_UNREACHABLE, 1) => {
            "administratively prohibited".to_owned()
        }
        (libc::SO_EE_ORIGIN_ICMP6, ICMP6_UNREACHABLE, 0) => "no route".to_owned(),
        (libc::SO_EE_ORIGIN_ICMP6, ICMP6_UNREACHABLE, 3) => "address unreachable".to_owned(),
        _ => io::Error::from_raw_os_error(i32::try_from(error.ee_errno).unwrap_or_default()).to_string(),
    };
    let to = destination.map(|destination| format!("send to {destination}: ")).unwrap_or_default();
    let by =
        offender.filter(|addr| !addr.is_unspecified()).map(|addr| format!(" (reported by {addr})")).unwrap_or_default();
    format!("{to}{meaning}{by}")
}

fn std_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|addr| SocketAddr::from((addr.ip(), addr.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|addr| SocketAddr::from((addr.ip(), addr.port()))))
}

/// Capabilities of this host's sockets, as `doctor` reports them.
#[derive(Clone, Copy, Debug)]
pub struct SocketCapabilities {
    /// True if the kernel reports the receive time of datagrams.
    pub kernel_stamps: bool,
    /// Size of the receive buffer that the kernel granted, in octets.
    pub receive_buffer: usize,
    /// Size of the receive buffer that was requested, in octets.
    pub wanted_buffer: usize,
    /// True if ports below 1024 can be bound.
    pub low_ports: bool,
}

/// Examines this host's sockets by sending a datagram over loopback to the sending socket itself.
pub async fn check_writable() -> io::Result<SocketCapabilities> {
    const ARRIVES_WITHIN: Duration = Duration::from_secs(2);
    let socket = Arc::new(Socket::open(SocketAddr::from(([127, 0, 0, 1], 0)), None)?);
    socket.send(b"peerpair doctor", &Envelope { destination: socket.local(), source: None, dscp: 0 })?;
    let readiness = Readiness::of(socket.clone())?;
    let mut batch = Batch::default();
    let received = async {
        while batch.receive(socket.as_fd())? == 0 {
            readiness.readable().await?;
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(ARRIVES_WITHIN, received).await??;
    let kernel_stamps = batch.datagrams().any(|datagram| datagram.received.is_some());
    // The kernel doubles the requested size for its own bookkeeping.
    let receive_buffer = getsockopt(&socket.inner, RcvBuf)? / 2;
    // Port 1 is unused on a usual host, so that binding to it shows the privilege alone.
    let low = std::net::UdpSocket::bind(("127.0.0.1", 1));
    let low_ports = !low.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    Ok(SocketCapabilities { kernel_stamps, receive_buffer, wanted_buffer: RECEIVE_BUFFER, low_ports })
}
