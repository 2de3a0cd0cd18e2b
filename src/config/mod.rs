//! From files and documents to a plan: parse, check, and say everything that is wrong at once.

pub mod arrivals;
pub mod bootstrap;
pub mod central;
pub mod check;
pub mod compare;
pub mod departed;
pub mod difference;
pub mod document;
pub mod duration;
pub mod endpoint;
pub mod expansion;
pub mod findings;
pub mod fleet;
pub mod legacy;
pub mod load;
pub mod maintenance;
pub mod plan;
pub mod read;
pub mod receivers;
pub mod secret;
pub mod set;
pub mod settings;
pub mod sinks;
pub mod test;
