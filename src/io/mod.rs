//! Sockets, files, clocks and the network: operations that can fail for external reasons.
//!
//! Code in this module calls the operating system; decisions belong in `pure`.

pub mod addresses;
pub mod adjtimex;
pub mod batch;
pub mod causes;
pub mod engine;
pub mod former_names;
pub mod gauges;
pub mod hostname;
pub mod keys;
pub mod log;
pub mod ntp;
pub mod outgoing;
pub mod outlet;
pub mod prefetch;
pub mod replays;
pub mod resolve;
pub mod secret;
pub mod snmp;
pub mod state_file;
pub mod store;
pub mod time;
pub mod tls;
pub mod udp;
