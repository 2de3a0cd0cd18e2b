//! Configuration: the bootstrap file and the documents are parsed, checked and turned into a [`plan::Plan`]. Every
//! problem becomes a finding with location and recommended fix, and all findings are reported at once. The `watcher`
//! actor and the commands call these functions.

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
