//! Documents as a store has them: their keys and their text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::string::FromUtf8Error;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::deserialize::Format;

/// Key of the global document, relative to the store's prefix.
pub const GLOBAL_KEY: &str = "config";

/// Returns the key of a host's document, relative to the store's prefix.
pub fn host_key(host: &str) -> String {
    format!("{HOSTS_PREFIX}{host}")
}

/// Prefix of the keys of host documents.
pub const HOSTS_PREFIX: &str = "hosts/";

/// Prefix of the keys of set documents.
pub const SETS_PREFIX: &str = "sets/";

/// Prefix of the keys of test documents.
pub const TESTS_PREFIX: &str = "tests/";

/// Returns the prefix of the keys of the tests that are stored under a host.
pub fn tests_prefix(host: &str) -> String {
    format!("{TESTS_PREFIX}{host}/")
}

/// Document as read from its store, before parsing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawDocument {
    /// Text of the document. Empty when it could not be read.
    pub text: String,
    /// Language of the text: JSON or TOML.
    pub format: Format,
    /// Location of the document as shown in findings.
    pub place: String,
    /// Reason why the text could not be read, or `None`.
    pub unreadable: Option<String>,
    /// Directory against which relative paths in the document are resolved. `None` for a store without directories.
    pub directory: Option<PathBuf>,
    /// Version number that the store assigns with each change; 0 for a store without versions.
    pub version: u64,
}

impl RawDocument {
    /// Creates a document of a store without directories. Text that is not UTF-8 makes the document unreadable.
    pub fn of_store(key: &str, text: Result<String, FromUtf8Error>, version: u64) -> Self {
        let (text, unreadable) = match text {
            Ok(text) => (text, None),
            Err(_) => (String::new(), Some("not UTF-8 text".to_owned())),
        };
        RawDocument { text, format: Format::Json, place: key.to_owned(), unreadable, directory: None, version }
    }
}

/// Documents by their keys below the prefix. An unchanged document keeps its `Arc`, so that changes are found by
/// comparing pointers.
pub type Documents = BTreeMap<String, Arc<RawDocument>>;

/// Returns a short hash of the documents, by which sets of documents can be distinguished.
pub fn digest(documents: &Documents) -> String {
    let each = documents.iter().fold(Sha256::new(), |hash, (key, document)| {
        hash.chain_update(key).chain_update([0]).chain_update(&document.text).chain_update([0])
    });
    each.finalize().iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}
