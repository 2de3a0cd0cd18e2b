//! Addresses of this host's interfaces, and notifications from the kernel when they change.
//!
//! [`local_addresses`] returns the current set, and [`changes`] is a stream that yields after every change.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::stream::{self, Stream};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// Multicast groups of rtnetlink(7) that report added and removed addresses, one for each address family.
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// Returns the usable addresses of this host's interfaces. An address is left out while duplicate address detection
/// examines it, or when another host was found to use it.
pub fn local_addresses() -> io::Result<HashSet<IpAddr>> {
    let unusable = fs::read_to_string("/proc/net/if_inet6").map(|text| unusable(&text)).unwrap_or_default();
    let addresses = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|addr| IpAddr::from(addr.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|addr| IpAddr::from(addr.ip())))
        })
        .filter(|address| !unusable.contains(address))
        .collect();
    Ok(addresses)
}

/// Flags of an address in `/proc/net/if_inet6`, with the values of the kernel's `if_addr.h`.
const DAD_FAILED: u8 = 0x08;
const OPTIMISTIC: u8 = 0x04;
const TENTATIVE: u8 = 0x40;

/// Returns the addresses in the text of `/proc/net/if_inet6` that cannot be bound. Each line holds the address,
/// interface index, prefix length, scope, flags and interface name.
fn unusable(text: &str) -> HashSet<IpAddr> {
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u8::from_str_radix(fields.nth(3)?, 16).ok()?;
        let unusable = flags & DAD_FAILED != 0 || flags & TENTATIVE != 0 && flags & OPTIMISTIC == 0;
        unusable.then(|| IpAddr::from(address.to_be_bytes()))
    };
    text.lines().filter_map(of_line).collect()
}

/// Returns a stream that yields an item whenever an address may have been added or removed.
pub fn changes() -> io::Result<impl Stream<Item = AddressesChanged>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))?;
    // SAFETY: the `AsyncFd` owns the descriptor, and no other code closes or replaces it before the `AsyncFd` is
    // dropped.
    #[expect(unsafe_code, reason = "tokio requires that the descriptor stays the same")]
    let netlink = unsafe { AsyncFd::register(netlink)? };
    Ok(stream::unfold(netlink, |netlink| async move {
        let mut ready = netlink.readable().await.ok()?;
        drain(netlink.get_ref());
        ready.clear_ready();
        drop(ready);
        Some((AddressesChanged, netlink))
    }))
}

/// Event that an address of this host was added or removed; the new set is read with [`local_addresses`].
#[derive(Clone, Copy, Debug)]
pub struct AddressesChanged;

/// Reads and discards all queued netlink messages. The set of addresses is read again instead, because the kernel may
/// have dropped messages.
fn drain(netlink: &OwnedFd) {
    let mut buffer = [0; 8192];
    while recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok_and(|octets| octets > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tentative_address_counts_as_absent() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe800000000000000000000000000002 02 40 20 80     eth0\n\
                    fd000000000000000000000000000003 02 40 00 c0     eth0\n\
                    fd000000000000000000000000000004 02 40 00 44     eth0\n\
                    fd000000000000000000000000000005 02 40 00 88     eth0\n";
        let expected: HashSet<IpAddr> = ["fd00::3", "fd00::5"].map(|address| address.parse().unwrap()).into();
        assert_eq!(unusable(text), expected);
    }
}
