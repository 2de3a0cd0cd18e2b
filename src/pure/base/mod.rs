//! Time, and the small mechanisms that are built on it: back-off, rate limits, queues by time, adaptive polling.

pub mod backoff;
pub mod calendar_queue;
pub mod polling;
pub mod restart;
pub mod time;
pub mod token_bucket;
