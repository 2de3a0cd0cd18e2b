//! Sockets, files, clocks and the network: operations that can fail for external reasons.
//!
//! Code in this module calls the operating system; decisions belong in `pure`.

pub mod adjtimex;
pub mod bootstrap_file;
pub mod error_chain;
pub mod hostname;
pub mod keys;
pub mod log;
pub mod net;
pub mod ntp;
pub mod prober;
pub mod receiver;
pub mod secret;
pub mod shared;
pub mod state;
pub mod store;
pub mod time;
pub mod tls;
