//! Role of a host in a test.

use serde::Serialize;

/// Role of a host in a test; each role has its own status entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Receiver of the test's probes, which judges them.
    Receiver,
    /// Sender of the test's probes, which also judges the replies if there are any.
    Sender,
}
