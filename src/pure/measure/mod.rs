//! Measurement: statistics of delay, delay variation and loss over several periods, and the windows that limits are
//! checked against.

pub mod baseline;
pub mod histogram;
pub mod loss_window;
pub mod statistics;
