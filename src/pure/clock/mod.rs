//! Clocks: how wrong the local clock may be, and which host's clock is wrong when delays prove that one is.

pub mod attribution;
pub mod error_estimate;
pub mod local;
