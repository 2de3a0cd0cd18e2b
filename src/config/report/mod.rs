//! Reports of `peerpair check-config`: the plan of a host, and the differences between two sets of documents.

pub mod document_diff;
pub mod fleet;
pub mod host;
pub mod traffic;
pub mod wording;
