//! SNMP notifications: the session with a receiver, the octets of a notification, and the User-based Security Model.

pub mod ber;
mod legacy;
pub mod render;
pub mod session;
mod trap;
pub mod usm;
