//! Receives a batch of datagrams with one system call, with the metadata that the kernel attaches to each.
//!
//! The main type is [`Batch`], a reusable receive buffer. `recvmmsg` is called directly: the wrappers of nix and other
//! crates allocate its headers for every call and copy them for every datagram, which costs as much as the kernel's
//! own work.

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::pure::base::time::WallTime;
use crate::pure::stamp::packet::PADDED_LEN;

/// Largest number of datagrams that one system call receives.
const BATCH: usize = 64;
/// Receive buffer size in octets for each datagram. Longer datagrams are truncated; valid probes always fit.
pub(super) const LONGEST: usize = *PADDED_LEN.end() + 1;
/// Largest number of pending socket errors that one call skips before it stops until the next wake-up.
pub(super) const MAX_ERRORS: usize = 64;
/// Size in octets of `sockaddr_in6`, the longest address.
const NAME: usize = 28;
/// Room in octets for all control messages that the agent's sockets enable, with a margin.
const CONTROL: usize = 192;
/// Size of the kernel's `cmsghdr`: a length that includes this header, a level and a type.
const HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();
/// Number of bits below the code point in the former "type of service" octet; the DSCP is its upper six bits.
pub(super) const DSCP_SHIFT: u32 = 2;

/// Receive buffers and the result of the last call, reused by the next one. Memory is allocated at the first call.
#[derive(Default)]
pub struct Batch {
    octets: Box<[u8]>,
    slots: Box<[PacketSlot]>,
    taken: usize,
}

/// Metadata that the kernel writes for one datagram, beside the payload.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct PacketSlot {
    control: [u8; CONTROL],
    name: [u8; NAME],
    control_len: usize,
    len: usize,
}

/// Datagram as received from the kernel, with the metadata of its control messages.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Payload, truncated to the length of the receive buffer.
    pub octets: &'a [u8],
    /// Address and port from which the datagram was sent.
    pub source: SocketAddr,
    /// Wall-clock time at which the kernel received the datagram.
    pub received: Option<WallTime>,
    /// Total number of datagrams that the kernel had dropped at this socket by then, because its buffer was full.
    pub drops: Option<u32>,
    /// Time-to-live (IPv4) or hop limit (IPv6) with which the datagram arrived.
    pub ttl: Option<u8>,
    /// Differentiated services code point (DSCP) with which the datagram arrived.
    pub dscp: Option<u8>,
    /// Destination address of the datagram, present where the socket is bound to a wildcard address.
    pub sent_to: Option<IpAddr>,
}

impl Batch {
    /// Receives the queued datagrams and returns their number; returns zero if none is queued.
    ///
    /// The kernel reports an error of the path here once, before the datagrams queued behind it. Such errors are
    /// skipped, because the error queue holds each of them too, together with its probe.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.taken = 0;
        if self.slots.is_empty() {
            let slot = PacketSlot { control: [0; CONTROL], name: [0; NAME], control_len: 0, len: 0 };
            (self.octets, self.slots) = (vec![0; BATCH * LONGEST].into(), vec![slot; BATCH].into());
        }
        let mut taken = self.receive_once(socket);
        for _ in 0..MAX_ERRORS {
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(_) => taken = self.receive_once(socket),
                Ok(_) => break,
            }
        }
        self.taken = taken?;
        Ok(self.taken)
    }

    /// Iterates over the payloads of the last batch.
    pub fn octets(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.octets.chunks_exact(LONGEST).zip(&*self.slots);
        whole.take(self.taken).map(|(octets, slot)| &octets[..slot.len.min(LONGEST)])
    }

    /// Iterates over the datagrams of the last batch with their metadata.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.octets().zip(&*self.slots).filter_map(|(octets, slot)| slot.datagram(octets))
    }

    #[expect(unsafe_code, reason = "see the module documentation")]
    #[expect(clippy::unnecessary_cast, reason = "the C libraries differ in the widths of lengths and flags")]
    fn receive_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: `iovec` and `mmsghdr` are plain C structs, for which all zeros is a valid value.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { zeroed() };
        let room = self.slots.iter_mut().zip(self.octets.chunks_exact_mut(LONGEST));
        for ((header, vector), (slot, octets)) in headers.iter_mut().zip(&mut vectors).zip(room) {
            *vector = libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: LONGEST };
            let header = &mut header.msg_hdr;
            (header.msg_iov, header.msg_iovlen) = (vector, 1);
            (header.msg_name, header.msg_namelen) = (slot.name.as_mut_ptr().cast(), NAME as _);
            (header.msg_control, header.msg_controllen) = (slot.control.as_mut_ptr().cast(), CONTROL as _);
        }
        let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: there are `BATCH` headers; the buffers they point to have the stated lengths and outlive the call.
        let taken = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as _, flags as _, ptr::null_mut()) };
        let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
        for (slot, header) in self.slots.iter_mut().zip(&headers).take(taken) {
            (slot.len, slot.control_len) = (header.msg_len as usize, header.msg_hdr.msg_controllen as usize);
            if (header.msg_hdr.msg_namelen as usize) < size_of::<libc::sockaddr_in>() {
                slot.name = [0; NAME];
            }
        }
        Ok(taken)
    }
}

impl PacketSlot {
    fn datagram<'a>(&self, octets: &'a [u8]) -> Option<Datagram<'a>> {
        let source = source(&self.name)?;
        let mut datagram =
            Datagram { octets, source, received: None, drops: None, ttl: None, dscp: None, sent_to: None };
        let mut rest = &self.control[..self.control_len.min(CONTROL)];
        while let Some((level, kind, value, behind)) = next_control(rest) {
            apply_control(level, kind, value, &mut datagram);
            rest = behind;
        }
        Some(datagram)
    }
}

/// Splits off the first control message. Returns its level, type and value, and the octets that follow it.
fn next_control(octets: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (header, _) = octets.split_at_checked(HEADER)?;
    let (len, kinds) = header.split_at(size_of::<usize>());
    let (level, kind) = kinds.split_at(size_of::<i32>());
    let len = usize::from_ne_bytes(len.try_into().ok()?);
    let value = octets.get(HEADER..len)?;
    let behind = octets.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    Some((int(level)?, int(kind)?, value, behind))
}

/// Stores the value of one control message in the matching field of `datagram`; unknown messages are ignored.
fn apply_control(level: i32, kind: i32, value: &[u8], datagram: &mut Datagram<'_>) {
    match (level, kind) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => datagram.received = wall_time(value),
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => datagram.drops = int(value).map(|drops| drops as u32),
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            datagram.ttl = int(value).and_then(|ttl| u8::try_from(ttl).ok());
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => datagram.dscp = value.first().map(|tos| tos >> DSCP_SHIFT),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            datagram.dscp = int(value).and_then(|class| u8::try_from(class >> DSCP_SHIFT).ok());
        }
        // `in_pktinfo` holds the interface index, the local address, and the destination address of the header.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            datagram.sent_to = value.get(8..).and_then(<[u8]>::first_chunk::<4>).map(|addr| IpAddr::from(*addr));
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            datagram.sent_to = value.first_chunk::<16>().map(|addr| IpAddr::from(*addr));
        }
        _ => {}
    }
}

fn int(value: &[u8]) -> Option<i32> {
    value.first_chunk().map(|octets| i32::from_ne_bytes(*octets))
}

/// Decodes a `timespec` of two 32-bit or two 64-bit numbers, whichever the platform uses.
fn wall_time(value: &[u8]) -> Option<WallTime> {
    let (seconds, nanos) = value.split_at(value.len() / 2);
    let number = |octets: &[u8]| match octets.len() {
        4 => int(octets).and_then(|number| u64::try_from(number).ok()),
        _ => octets.first_chunk().and_then(|octets| u64::try_from(i64::from_ne_bytes(*octets)).ok()),
    };
    Some(WallTime::from_unix_nanos(number(seconds)?.checked_mul(1_000_000_000)?.checked_add(number(nanos)?)?))
}

/// Decodes a `sockaddr_in` or `sockaddr_in6`, with the scope id that a link-local address needs.
fn source(name: &[u8; NAME]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes([name[0], name[1]]));
    let port = u16::from_be_bytes([name[2], name[3]]);
    match family {
        libc::AF_INET => {
            let addr: Ipv4Addr = (*name[4..].first_chunk::<4>()?).into();
            Some(SocketAddr::from((addr, port)))
        }
        libc::AF_INET6 => {
            let addr: Ipv6Addr = (*name[8..].first_chunk::<16>()?).into();
            let scope = u32::from_ne_bytes(*name[24..].first_chunk::<4>()?);
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(addr, port, 0, scope)))
        }
        _ => None,
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch of {}", self.taken)
    }
}
