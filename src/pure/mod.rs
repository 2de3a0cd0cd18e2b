//! Pure code: decisions without a clock, a socket or an actor. Time is passed in as the argument `now`.
//!
//! State machines receive their inputs through `on_*` methods, publish `next_deadline()`, and return actions or a
//! named reason. Actors own them and execute the results.

pub mod alarm;
pub mod arrival;
pub mod backoff;
pub mod baseline;
pub mod bucket;
pub mod calendar;
pub mod clock_error;
pub mod clock_witness;
pub mod condition;
pub mod expectation;
pub mod explanations;
pub mod fault_group;
pub mod faults;
pub mod flows;
pub mod foreign;
pub mod groups;
pub mod key;
pub mod ledger;
pub mod local_clock;
pub mod loss_window;
pub mod notification;
pub mod order;
pub mod pace;
pub mod possible;
pub mod probe;
pub mod probe_v1;
pub mod reflection;
pub mod restart;
pub mod schedule;
pub mod sender_health;
pub mod sending;
pub mod sequence_window;
pub mod shelf;
pub mod situation;
pub mod spread;
pub mod statistics;
pub mod status;
pub mod test;
pub mod time;
pub mod truth;
