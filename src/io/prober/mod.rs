//! Probes of targets that need no agent: one file per kind. A probe always ends, with a result or as failed.

mod tcp;

use std::time::Duration;

use crate::config::plan::Target;
use crate::pure::judge::probe_result::ProbeResult;

/// Sends one probe to a target and waits for its result, at most for `timeout`.
pub async fn probe(target: Target, timeout: Duration) -> ProbeResult {
    match target {
        Target::Tcp(addr) => tcp::probe(addr, timeout).await,
    }
}
