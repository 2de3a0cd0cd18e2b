//! UDP sockets for probes: kernel receive times, batched reads, and the errors that the path sends back.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr, RcvBuf, RcvBufForce, ReceiveTimestampns, RxqOvfl};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg, recvmsg,
    sendmsg, setsockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;

use crate::pure::probe::Probe;
use crate::pure::probe_v1::ProbeV1;
use crate::pure::test::TestId;
use crate::pure::time::WallTime;

/// A burst of 3,000 probes fits even if nobody reads for a while. Without CAP_NET_ADMIN the kernel
/// grants `net.core.rmem_max` at most.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Datagrams per system call.
const BATCH: usize = 64;
/// Errors that one read may meet before it gives up until the next wake-up.
const MOST_ERRORS: usize = 64;
/// Longer datagrams are cut; no probe is.
const LONGEST: usize = 2048;

/// A bound socket. Senders and a listener may share one.
#[derive(Debug)]
pub struct Socket {
    inner: tokio::net::UdpSocket,
    local: SocketAddr,
}

/// A datagram as the kernel took it in.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Its payload.
    pub octets: &'a [u8],
    /// Who sent it.
    pub source: SocketAddr,
    /// When the kernel took it in.
    pub received: Option<WallTime>,
    /// How many datagrams the kernel had dropped at this socket by then.
    pub drops: Option<u32>,
}

/// An error that came back for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    /// The test whose probe met it.
    pub test_id: TestId,
    /// What happened and who says so.
    pub cause: String,
}

impl Socket {
    /// Opens and binds. Must be called within the runtime.
    pub fn open(local: SocketAddr) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if local.is_ipv6() {
            // A wildcard covers its own family only, as the documents say it.
            socket.set_only_v6(true)?;
            setsockopt(&socket, Ipv6RecvErr, &true)?;
        } else {
            setsockopt(&socket, Ipv4RecvErr, &true)?;
        }
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        setsockopt(&socket, RxqOvfl, &1)?;
        socket.bind(&local.into())?;
        let inner = tokio::net::UdpSocket::from_std(socket.into())?;
        let local = inner.local_addr()?;
        Ok(Socket { inner, local })
    }

    /// The bound address, with the port that the kernel chose where 0 was asked for.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        self.inner.readable().await
    }

    /// Waits until the path has sent an error back.
    pub async fn error_ready(&self) -> io::Result<()> {
        self.inner.ready(Interest::ERROR).await.map(|_| ())
    }

    /// Sends one datagram; `source` goes over the socket's own address where that is a wildcard.
    ///
    /// An earlier probe's error, which may be another peer's, is reported by the kernel once on the
    /// next send: that send is tried again.
    pub fn send(&self, octets: &[u8], destination: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        self.send_once(octets, destination, source).or_else(|_| self.send_once(octets, destination, source))
    }

    fn send_once(&self, octets: &[u8], destination: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        let slices = [IoSlice::new(octets)];
        let destination = SockaddrStorage::from(destination);
        let send = |messages: &[ControlMessage]| {
            sendmsg(self.fd(), &slices, messages, MsgFlags::empty(), Some(&destination)).map(|_| ())
        };
        let sent = match source {
            None => send(&[]),
            Some(IpAddr::V4(source)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            Some(IpAddr::V6(source)) => {
                let info =
                    libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: libc::in6_addr { s6_addr: source.octets() } };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
        };
        sent.map_err(io::Error::from)
    }

    /// Takes in at most one batch; zero if there is nothing.
    ///
    /// The kernel reports a path's error here once, before the datagrams that wait behind it; the
    /// error itself is in the error queue too, with its probe.
    pub fn receive(&self, buffer: &mut Buffer, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let mut received = self.receive_once(buffer, &mut each);
        for _ in 0..MOST_ERRORS {
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(_) => received = self.receive_once(buffer, &mut each),
                Ok(_) => break,
            }
        }
        received
    }

    fn receive_once(&self, buffer: &mut Buffer, each: &mut impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        self.inner.try_io(Interest::READABLE, || {
            // The kernel writes into the headers how much it used of them, so they are made anew.
            let space = cmsg_space!(TimeSpec, u32);
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(space));
            let mut slices: Vec<[IoSliceMut; 1]> =
                buffer.0.chunks_exact_mut(LONGEST).map(|chunk| [IoSliceMut::new(chunk)]).collect();
            let messages = recvmmsg(self.fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
            let mut count = 0;
            for message in messages {
                count += 1;
                let Some(source) = message.address.as_ref().and_then(std_address) else { continue };
                let (mut received, mut drops) = (None, None);
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmTimestampns(time) = control {
                        received = Some(wall_time(time));
                    } else if let ControlMessageOwned::RxqOvfl(total) = control {
                        drops = Some(total);
                    }
                }
                let octets = message.iovs().next().unwrap_or_default();
                each(Datagram { octets, source, received, drops });
            }
            Ok(count)
        })
    }

    /// Takes what the path sent back out of the error queue.
    pub fn take_path_errors(&self) -> Vec<PathError> {
        let mut found = Vec::new();
        let _drained = self.inner.try_io(Interest::ERROR, || {
            loop {
                found.extend(self.take_path_error()?);
            }
            #[expect(unreachable_code, reason = "gives the closure its type")]
            Ok(())
        });
        found
    }

    fn take_path_error(&self) -> io::Result<Option<PathError>> {
        let mut octets = [0; LONGEST];
        let mut slices = [IoSliceMut::new(&mut octets)];
        let mut space = cmsg_space!(TimeSpec, u32, libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(self.fd(), &mut slices, Some(&mut space), flags)?;
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
        let test_id = Probe::quoted_test_id(octets).or_else(|| ProbeV1::decode(octets).map(|probe| probe.test_id));
        Ok(test_id.zip(cause).map(|(test_id, cause)| PathError { test_id, cause }))
    }

    fn fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// Where batches are read into; one per reader.
pub struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Buffer(vec![0; BATCH * LONGEST])
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffer")
    }
}

/// Says what an error of a system call means for a probe.
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

/// ICMP destination unreachable codes (RFC 792, RFC 1812, RFC 4443).
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
    let by = offender.filter(|addr| !addr.is_unspecified()).map(|addr| format!(" (says {addr})")).unwrap_or_default();
    format!("{to}{meaning}{by}")
}

fn wall_time(time: TimeSpec) -> WallTime {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    WallTime::from_unix_nanos(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0))
}

fn std_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|addr| SocketAddr::from((addr.ip(), addr.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|addr| SocketAddr::from((addr.ip(), addr.port()))))
}

/// What this host's sockets can do.
#[derive(Clone, Copy, Debug)]
pub struct Examined {
    /// Whether the kernel says when a datagram came.
    pub kernel_stamps: bool,
    /// The receive buffer that is had, in octets.
    pub receive_buffer: usize,
    /// And that is wanted.
    pub wanted_buffer: usize,
    /// Whether ports below 1024 can be bound.
    pub low_ports: bool,
}

/// Sends a datagram to itself, over loopback.
pub async fn examine() -> io::Result<Examined> {
    const ARRIVES_WITHIN: Duration = Duration::from_secs(2);
    let socket = Socket::open(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.send(b"peerpair doctor", socket.local(), None)?;
    let mut kernel_stamps = false;
    let mut buffer = Buffer::default();
    let received = async {
        while socket.receive(&mut buffer, |datagram| kernel_stamps = datagram.received.is_some())? == 0 {
            socket.readable().await?;
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(ARRIVES_WITHIN, received).await??;
    // The kernel doubles what it is asked for, for its own bookkeeping.
    let receive_buffer = getsockopt(&socket.inner, RcvBuf)? / 2;
    // Nobody listens at this port over TCP or UDP on a usual host.
    let low = std::net::UdpSocket::bind(("127.0.0.1", 1));
    let low_ports = !low.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    Ok(Examined { kernel_stamps, receive_buffer, wanted_buffer: RECEIVE_BUFFER, low_ports })
}
