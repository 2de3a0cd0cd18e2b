//! Whole agents against the peers that users have: a real etcd, a real snmptrapd, real sockets.

mod alarms;
mod check_config;
mod lifecycle;
mod listeners;
mod mib;
mod quickstart;
mod senders;
mod storage;
mod structure;
mod support;
