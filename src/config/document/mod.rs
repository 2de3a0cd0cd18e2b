//! Documents: the types of everything that the store and the bootstrap file hold, and how text becomes one of them.

pub mod agent;
pub mod deserialize;
pub mod duration;
pub mod endpoint;
pub mod findings;
pub mod fleet;
pub mod host;
pub mod legacy;
pub mod maintenance;
pub mod notation;
pub mod raw;
pub mod secret;
pub mod set;
pub mod settings;
pub mod sinks;
pub mod test;
