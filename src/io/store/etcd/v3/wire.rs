//! JSON messages of etcd's v3 gateway, which omits zeros and empty lists and writes 64-bit numbers as strings. The
//! types here hold only the fields that the agent uses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::io::store::etcd::fault::Fault;

/// Identity and revision of the store at the time of a response.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub revision: u64,
}

/// Key with its value, both encoded in base64.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    #[serde(deserialize_with = "number")]
    pub mod_revision: u64,
}

/// Response to `kv/range`: the keys, or one page of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
}

/// Response to `kv/txn`: true if the comparison held and the change was made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Txn {
    pub succeeded: bool,
}

/// Line of a watch stream, which carries either a result or an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchLine {
    pub result: Option<WatchResult>,
    pub error: Option<Value>,
}

/// Message about one of the watches on the stream: its confirmation, its cancellation, or its events.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchResult {
    pub header: Header,
    pub created: bool,
    pub canceled: bool,
    #[serde(deserialize_with = "number")]
    pub compact_revision: u64,
    pub cancel_reason: String,
    pub events: Vec<WatchEvent>,
}

/// Change of one key; `kind` is empty for a put, because the gateway omits defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchEvent {
    #[serde(rename = "type")]
    pub kind: String,
    pub kv: KeyValue,
}

/// Lease of etcd, whose id keys are attached to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: u64,
}

/// Response to `lease/keepalive`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LeaseTtl {
    pub result: KeepAlive,
}

/// Remaining lifetime of a lease in seconds; zero means that the lease has expired.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeepAlive {
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub time_to_live: u64,
}

/// Decodes a key or a value from base64.
pub fn decode(base64: &str) -> Result<Vec<u8>, Fault> {
    BASE64.decode(base64).map_err(|error| Fault::api(format!("unreadable base64: {error}")))
}

/// Deserializes a 64-bit number, which the gateway writes as a string; a plain number is accepted too.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| serde::de::Error::custom(format!("`{value}` is no number")))
}
