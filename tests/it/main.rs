//! Integration tests of whole agents with the peers that users have: a real etcd, a real snmptrapd, a real
//! Alertmanager, and real sockets. A test whose peer is not installed fails and names the package to install.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
#![allow(missing_docs, reason = "nobody calls a test")]

mod alarms;
mod check_config;
mod cluster;
mod commands;
mod docs;
mod faults;
mod interop;
mod kept_config;
mod lifecycle;
mod listeners;
mod measurement;
mod mib;
mod quickstart;
mod round_trips;
mod senders;
mod sets;
mod sinks;
mod storage;
mod structure;
mod support;
mod suppression;
mod targets;
