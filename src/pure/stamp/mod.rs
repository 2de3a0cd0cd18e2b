//! STAMP (RFC 8762) at both ends: the packet and its signature, the schedule and the state of a session sender, what a
//! session reflector answers, and which packets belong to no test.

pub mod decode;
pub mod flows;
pub mod json_v1;
pub mod key;
pub mod packet;
pub mod replay_window;
pub mod schedule;
pub mod session_reflector;
pub mod session_sender;
pub mod unknown_packets;
