//! Result of a probe that its own sender judges: a request to a target that needs no agent.

use std::time::Duration;

/// Result of one probe of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The target answered within this time.
    Measured(Duration),
    /// The target did not answer, for this reason.
    Failed(String),
    /// This host could not send the probe, for this reason, which says nothing about the target.
    NotSent(String),
}
