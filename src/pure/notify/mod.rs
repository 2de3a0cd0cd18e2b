//! Notification: what a receiver was notified of, and what it must be notified of next.

pub mod log;
