//! The document `agents/<host>`, which an agent writes about itself and commands read.

use serde::{Deserialize, Serialize};

/// State of an agent, published under a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentDocument {
    /// Version of the agent.
    pub version: String,
    /// URL of its status page; `None` if the page is disabled.
    pub web: Option<String>,
    /// Revision of the store that it has read.
    pub revision: u64,
    /// Hash of the documents that it has read, see [`digest`](super::raw::digest).
    pub digest: String,
    /// Ids of the keys that it accepts.
    pub keys: Vec<u8>,
    /// Id of the key that it signs with.
    pub active_key: Option<u8>,
    /// Documents that it rejected; the first ones if there are many.
    pub rejected: Vec<RejectedByAgent>,
    /// Number of all documents that it rejected.
    pub rejected_in_all: usize,
}

/// Document that an agent rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedByAgent {
    /// Key of the document.
    pub document: String,
    /// First reason.
    pub reason: Option<String>,
    /// True if an earlier version of the document is in force.
    pub last_good_in_force: bool,
}

impl AgentDocument {
    /// Reads the document. One that a newer agent wrote may have further fields, which are ignored.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Writes the document in at most `limit` octets, for which it leaves out rejected documents.
    pub fn write(mut self, limit: usize) -> String {
        loop {
            // A struct of numbers and texts can always be written as JSON.
            let text = serde_json::to_string(&self).unwrap_or_default();
            if text.len() <= limit || self.rejected.pop().is_none() {
                return text;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_read_as_it_was_written_and_keeps_its_limit() {
        let rejected = |n: usize| RejectedByAgent { document: format!("tests/b/{n}"), ..RejectedByAgent::default() };
        let document = AgentDocument {
            version: "2.0.0".to_owned(),
            active_key: Some(1),
            rejected: (0..100).map(rejected).collect(),
            rejected_in_all: 100,
            ..AgentDocument::default()
        };
        assert_eq!(AgentDocument::read(&document.clone().write(100_000)), Some(document.clone()));
        let text = document.write(1_000);
        let short = AgentDocument::read(&text).unwrap();
        assert!(text.len() <= 1_000 && !short.rejected.is_empty() && short.rejected.len() < 100, "{text}");
        assert_eq!(short.rejected_in_all, 100);
    }
}
