//! Configuration: the bootstrap file and the documents are parsed, checked and turned into a [`plan::Plan`]. Every
//! problem becomes a finding with location and recommended fix, and all findings are reported at once. The `watcher`
//! actor and the commands call these functions.

pub mod bootstrap;
pub mod check;
pub mod document;
pub mod expand;
pub mod load;
pub mod plan;
pub mod recent_hosts;
pub mod report;
pub mod sink_plan;
pub mod test;
