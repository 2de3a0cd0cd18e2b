//! What the v3 gateway writes: zeros and empty lists are left out, 64-bit numbers are texts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::io::store::etcd::fault::Fault;

/// Where the store was when it answered.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub revision: u64,
}

/// A key with its value, both in base64.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    #[serde(deserialize_with = "number")]
    pub mod_revision: u64,
}

/// Keys, or one page of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
}

/// What became of a transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Txn {
    pub succeeded: bool,
}

/// A line of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Line {
    pub result: Option<WatchResult>,
    pub error: Option<Value>,
}

/// What a line says of one of the watches.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchResult {
    pub header: Header,
    pub created: bool,
    pub canceled: bool,
    #[serde(deserialize_with = "number")]
    pub compact_revision: u64,
    pub cancel_reason: String,
    pub events: Vec<Event>,
}

/// A change of a key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub kv: KeyValue,
}

/// A lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: u64,
}

/// What became of a lease that was to be kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Kept {
    pub result: Alive,
}

/// How long it lives on; nothing: it is over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Alive {
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub time_to_live: u64,
}

/// A key or a value.
pub fn decode(base64: &str) -> Result<Vec<u8>, Fault> {
    BASE64.decode(base64).map_err(|error| Fault::api(format!("unreadable base64: {error}")))
}

/// The gateway writes 64-bit numbers as texts, and leaves out zeros.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| serde::de::Error::custom(format!("`{value}` is no number")))
}
