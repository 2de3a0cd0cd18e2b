//! UDP sockets, the addresses of this host, and names.

pub mod addresses;
pub mod dns;
pub mod prefetch;
pub mod recv_batch;
pub mod transmit;
pub mod udp;
