//! The addresses of this host, and word of their coming and going.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::stream::{self, Stream};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// Groups of rtnetlink(7): an address of either family came or went.
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// The addresses of this host's interfaces.
pub fn local_addresses() -> io::Result<HashSet<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|addr| IpAddr::from(addr.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|addr| IpAddr::from(addr.ip())))
        })
        .collect();
    Ok(addresses)
}

/// Yields whenever an address may have come or gone.
pub fn changes() -> io::Result<impl Stream<Item = AddressesChanged>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))?;
    // SAFETY: the descriptor is owned by what registers it, and nobody closes or exchanges it before.
    #[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays the same")]
    let netlink = unsafe { AsyncFd::register(netlink)? };
    Ok(stream::unfold(netlink, |netlink| async move {
        let mut ready = netlink.readable().await.ok()?;
        drain(netlink.get_ref());
        ready.clear_ready();
        drop(ready);
        Some((AddressesChanged, netlink))
    }))
}

/// An address came or went.
#[derive(Clone, Copy, Debug)]
pub struct AddressesChanged;

/// What it was is asked anew: a message may have been lost.
fn drain(netlink: &OwnedFd) {
    let mut buffer = [0; 8192];
    while recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok_and(|octets| octets > 0) {}
}
