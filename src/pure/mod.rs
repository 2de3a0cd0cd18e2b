//! Decisions without a clock, a socket or an actor: time is the argument `now`.
//!
//! Machines take inputs by `on_*`, tell `next_deadline()`, and return actions or a named reason.

pub mod alarm;
pub mod arrival;
pub mod backoff;
pub mod bucket;
pub mod clock_error;
pub mod condition;
pub mod expectation;
pub mod faults;
pub mod foreign;
pub mod groups;
pub mod ledger;
pub mod notification;
pub mod order;
pub mod probe;
pub mod probe_v1;
pub mod restart;
pub mod schedule;
pub mod sender_health;
pub mod sequence_window;
pub mod shelf;
pub mod situation;
pub mod status;
pub mod test;
pub mod time;
pub mod truth;
