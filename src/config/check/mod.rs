//! Checks: each document by itself when it is read, the settings of a receiver, and the documents of all hosts
//! together.

pub mod document;
pub mod fleet;
pub mod sinks;
