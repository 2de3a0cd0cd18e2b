//! The addresses of this host, and word of their coming and going.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::stream::{self, Stream};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// Groups of rtnetlink(7): an address of either family came or went.
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// The addresses of this host's interfaces that can be used. One that duplicate address detection still examines, or
/// found to be another host's, cannot.
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

/// Flags of an address in `/proc/net/if_inet6`, as in if_addr.h.
const DAD_FAILED: u8 = 0x08;
const OPTIMISTIC: u8 = 0x04;
const TENTATIVE: u8 = 0x40;

/// The addresses in the text of `/proc/net/if_inet6` that cannot be bound: address, index, prefix, scope, flags and
/// name of the interface in each line.
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
