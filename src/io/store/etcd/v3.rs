//! Reader and writer of etcd's v3 API through its JSON gateway. [`V3`] lists all documents at one revision, and one
//! stream carries the watches from that revision on. The stream is dropped after any doubt, and the documents are then
//! listed again.

mod stream;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tracing::trace;

use super::cluster::Cluster;
use super::fault::{Fault, FaultKind, classify_stream};
use super::keys::KeyPaths;
use super::{ALIVE_EVERY, KeyListing, Seen};
use crate::config::document::raw::{Documents, RawDocument};
use crate::io::store::{DEBOUNCE, DEBOUNCE_MOST};
use stream::WatchStream;
pub use wire::Lease;
use wire::{Header, KeyValue, LeaseTtl, Range, Txn, WatchEvent, WatchLine, decode};

/// Greatest number of keys in one response; further keys come in more pages.
const PAGE: u64 = 2000;
/// Longest time without any line on a watch: etcd reports its progress at least every ten minutes, so a stream that is
/// silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(700);
/// Greatest length in octets of the requests in one stream: over HTTP/1.1, etcd's gateway starts its response when it
/// has read the first request of a body, and loses what it has not read by then. It reads 512 octets at once.
const TAKEN_AT_ONCE: usize = 512;
/// Time within which etcd must confirm each watch; it does so at once, and a watch without confirmation was lost.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// Listed documents, and the stream that carries the changes after their revision.
pub struct V3 {
    /// First segment of the API's paths: `v3`, or `v3beta` and `v3alpha` on older servers.
    root: &'static str,
    documents: Documents,
    revision: u64,
    stream: Option<WatchStream>,
}

/// Consistency of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Linearizable read, which a member answers only in agreement with the others.
    Linearizable,
    /// Serializable read of one member alone, which may lag behind.
    Serializable,
}

/// Consequence of one line of the watch stream.
enum Meaning {
    Nothing,
    Changed,
    /// Listed documents are no longer reliable and have to be listed again.
    Doubt,
}

impl V3 {
    /// Creates a reader for the API paths that a server of this version offers.
    pub fn of_server(version: &str) -> Self {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let root = match (numbers.next(), numbers.next()) {
            (Some(3), Some(0..=2)) => "v3alpha",
            (Some(3), Some(3)) => "v3beta",
            _ => "v3",
        };
        V3 { root, documents: Documents::new(), revision: 0, stream: None }
    }

    /// Returns true if there is any document below the prefix.
    pub async fn holds_any(&self, cluster: &mut Cluster, keys: &KeyPaths) -> Result<bool, Fault> {
        let mut held = false;
        for (key, range_end) in keys.v3_ranges() {
            let body = json!({"key": BASE64.encode(key), "range_end": BASE64.encode(range_end), "limit": 1, "keys_only": true});
            let range: Range = self.query(cluster, "kv/range", &body).await?;
            held |= !range.kvs.is_empty();
        }
        Ok(held)
    }

    /// Lists all documents as they were at one revision. A linearizable read makes sure that a key missing from the
    /// answer does not exist.
    pub async fn list(&mut self, cluster: &mut Cluster, keys: &KeyPaths, by: Consistency) -> Result<KeyListing, Fault> {
        self.stream = None;
        let mut documents = Documents::new();
        // The ranges are separate requests, because a transaction of ranges only makes etcd 3.5.1 panic when its client
        // disconnects.
        let mut at: Option<Header> = None;
        for (mut key, range_end) in keys.v3_ranges() {
            loop {
                let mut body = range_body(&(key, range_end.clone()), at.map(|header| header.revision));
                body["serializable"] = json!(by == Consistency::Serializable);
                let page: Range = self.query(cluster, "kv/range", &body).await?;
                if page.header.revision == 0 {
                    return Err(Fault::api("an answer to kv/range without a revision".to_owned()));
                }
                at.get_or_insert(page.header);
                let (last, more) = (page.kvs.last().map(|last| decode(&last.key)).transpose()?, page.more);
                for entry in page.kvs {
                    self.apply(&mut documents, keys, entry)?;
                }
                let Some(mut next) = last.filter(|_| more) else { break };
                next.push(0);
                key = next;
            }
        }
        let header = at.unwrap_or_default();
        self.revision = header.revision;
        self.documents = documents;
        let cluster = format!("{:x}", header.cluster_id);
        Ok(KeyListing { revision: self.revision, documents: self.documents.clone(), cluster })
    }

    /// Waits for changes after the listing and returns the documents that result.
    pub async fn watch(&mut self, cluster: &mut Cluster, keys: &KeyPaths) -> Result<Seen, Fault> {
        if self.stream.is_none() {
            self.stream = Some(self.open(cluster, keys).await?);
        }
        match self.first_change(cluster, keys).await? {
            Some(Meaning::Changed) => {}
            Some(Meaning::Doubt) => return Ok(Seen::Doubt),
            Some(Meaning::Nothing) | None => return Ok(Seen::Nothing),
        }
        // A single write by an operator often makes several changes, which are collected.
        let most = Instant::now() + DEBOUNCE_MOST;
        loop {
            let until = (Instant::now() + DEBOUNCE).min(most);
            match timeout_at(until, self.next(cluster, keys)).await {
                Ok(Ok(Meaning::Nothing | Meaning::Changed)) => {}
                Ok(Ok(Meaning::Doubt)) => return Ok(Seen::Doubt),
                // A change that covers several watches may have arrived only in part.
                Ok(Err(_)) => {
                    self.stream = None;
                    return Ok(Seen::Doubt);
                }
                Err(_) => break,
            }
        }
        Ok(Seen::Changed(self.revision, self.documents.clone()))
    }

    /// Returns the first meaningful line, or `None` after `ALIVE_EVERY` if the server still answers.
    async fn first_change(&mut self, cluster: &mut Cluster, keys: &KeyPaths) -> Result<Option<Meaning>, Fault> {
        let look = Instant::now() + ALIVE_EVERY;
        loop {
            let unconfirmed = self.stream.as_ref().filter(|stream| stream.awaited > 0);
            let until = unconfirmed.map_or(look, |stream| stream.opened + CONFIRMED_WITHIN).min(look);
            match timeout_at(until, self.next(cluster, keys)).await {
                Ok(Ok(Meaning::Nothing)) => {}
                Ok(Ok(meaning)) => return Ok(Some(meaning)),
                Ok(Err(fault)) => {
                    self.stream = None;
                    return Err(fault);
                }
                Err(_) if until < look => {
                    self.stream = None;
                    let problem = "etcd did not confirm all watches".to_owned();
                    return Err(Fault { kind: FaultKind::Member, problem });
                }
                Err(_) => break,
            }
        }
        // A hanging server, or a path that lost its connection state, is found by a small request.
        cluster.version().await?;
        if self.stream.as_ref().is_some_and(|stream| stream.heard.elapsed() > SILENCE) {
            self.stream = None;
            let problem = format!("the watch was silent for {}", humantime::format_duration(SILENCE));
            return Err(Fault { kind: FaultKind::Member, problem });
        }
        Ok(None)
    }

    async fn next(&mut self, cluster: &mut Cluster, keys: &KeyPaths) -> Result<Meaning, Fault> {
        let Some(stream) = &mut self.stream else {
            return Err(Fault { kind: FaultKind::Member, problem: "the watch has ended".to_owned() });
        };
        let line = stream.next_line(cluster).await?;
        trace!(line = %String::from_utf8_lossy(&line).trim_end(), "watch");
        let line: WatchLine = serde_json::from_slice(&line)
            .map_err(|error| Fault::api(format!("unreadable line in a watch: {error}")))?;
        if let Some(error) = line.error {
            return Err(classify_stream(&error));
        }
        let Some(result) = line.result else { return Ok(Meaning::Nothing) };
        if result.canceled {
            // The stream stays open after a cancellation, but this watch delivers nothing more.
            return match result.compact_revision {
                0 => Err(Fault::access(format!("etcd ended the watch: {}", result.cancel_reason))),
                _ => Ok(Meaning::Doubt),
            };
        }
        if result.created {
            stream.awaited = stream.awaited.saturating_sub(1);
            return self.on_created(cluster, keys, result.header).await;
        }
        self.revision = self.revision.max(result.header.revision);
        if result.events.is_empty() {
            return Ok(Meaning::Nothing);
        }
        for event in result.events {
            self.on_event(keys, event)?;
        }
        Ok(Meaning::Changed)
    }

    /// Handles the confirmation of a watch. A server whose revision is behind the listing either lags or was restored
    /// from an older state; in the latter case the watch would skip changes that reuse the listed revisions.
    async fn on_created(&self, cluster: &mut Cluster, keys: &KeyPaths, header: Header) -> Result<Meaning, Fault> {
        if header.revision >= self.revision {
            return Ok(Meaning::Nothing);
        }
        let (key, _) = keys.v3_start("");
        let range: Range =
            self.query(cluster, "kv/range", &json!({"key": BASE64.encode(key), "count_only": true})).await?;
        Ok(if range.header.revision < self.revision { Meaning::Doubt } else { Meaning::Nothing })
    }

    fn on_event(&mut self, keys: &KeyPaths, event: WatchEvent) -> Result<(), Fault> {
        if event.kind != "DELETE" {
            let mut documents = std::mem::take(&mut self.documents);
            let taken = self.apply(&mut documents, keys, event.kv);
            self.documents = documents;
            return taken;
        }
        let key = decode(&event.kv.key)?;
        if let Some(key) = keys.below_prefix(&String::from_utf8_lossy(&key)) {
            self.documents.remove(key);
        }
        Ok(())
    }

    /// Adds one entry to the documents; an unchanged document keeps its `Arc`.
    fn apply(&self, documents: &mut Documents, keys: &KeyPaths, entry: KeyValue) -> Result<(), Fault> {
        let key = decode(&entry.key)?;
        let key = String::from_utf8_lossy(&key).into_owned();
        let Some(key) = keys.below_prefix(&key).filter(|key| keys.concerns(key)) else { return Ok(()) };
        let value = String::from_utf8(decode(&entry.value)?);
        let document = RawDocument::of_store(key, value, entry.mod_revision);
        let document = match self.documents.get(key) {
            Some(known) if **known == document => known.clone(),
            Some(_) | None => Arc::new(document),
        };
        documents.insert(key.to_owned(), document);
        Ok(())
    }

    async fn open(&self, cluster: &mut Cluster, keys: &KeyPaths) -> Result<WatchStream, Fault> {
        let request = |(n, (key, range_end)): (usize, (Vec<u8>, Vec<u8>))| {
            let request = json!({"create_request": {
                "key": BASE64.encode(key),
                "range_end": BASE64.encode(range_end),
                "start_revision": (self.revision + 1).to_string(),
                "progress_notify": true,
                "watch_id": (n + 1).to_string(),
            }});
            request.to_string()
        };
        // Several watches share one stream: their requests follow one another in one body.
        let mut ranges = keys.v3_ranges();
        let mut body: String = ranges.iter().cloned().enumerate().map(request).collect();
        if body.len() > TAKEN_AT_ONCE {
            ranges = keys.v3_whole();
            body = ranges.iter().cloned().enumerate().map(request).collect();
        }
        let response = cluster.v3_stream(&format!("/{}/watch", self.root), body).await?;
        Ok(WatchStream::new(response, ranges.len()))
    }

    /// Sends a request that is answered at once and parses the response.
    pub async fn query<T: serde::de::DeserializeOwned>(
        &self,
        cluster: &mut Cluster,
        rpc: &str,
        body: &Value,
    ) -> Result<T, Fault> {
        let answer = cluster.v3(&format!("/{}/{rpc}", self.root), body).await?;
        serde_json::from_slice(&answer.body).map_err(|error| Fault::api(format!("unreadable answer to {rpc}: {error}")))
    }

    /// Writes a document, or removes it, if its version is still the given one; version 0 stands for a missing
    /// document. Returns false if the version differs.
    pub async fn write(
        &self,
        cluster: &mut Cluster,
        keys: &KeyPaths,
        key: &str,
        text: Option<&str>,
        version: u64,
    ) -> Result<bool, Fault> {
        let key = BASE64.encode(keys.full(key));
        let change = match text {
            Some(text) => json!({"request_put": {"key": key, "value": BASE64.encode(text)}}),
            None => json!({"request_delete_range": {"key": key}}),
        };
        let unchanged = json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": version.to_string()});
        let txn: Txn = self.query(cluster, "kv/txn", &json!({"compare": [unchanged], "success": [change]})).await?;
        Ok(txn.succeeded)
    }

    /// Requests a lease that expires after `time_to_live` unless it is renewed.
    pub async fn grant_lease(&self, cluster: &mut Cluster, time_to_live: Duration) -> Result<Lease, Fault> {
        self.query(cluster, "lease/grant", &json!({"TTL": time_to_live.as_secs()})).await
    }

    /// Renews a lease; returns false if it has already expired.
    pub async fn keep_lease(&self, cluster: &mut Cluster, lease: &Lease) -> Result<bool, Fault> {
        let kept: LeaseTtl = self.query(cluster, "lease/keepalive", &json!({"ID": lease.id.to_string()})).await?;
        Ok(kept.result.time_to_live > 0)
    }

    /// Revokes a lease, which also removes the keys that were written under it.
    pub async fn end_lease(&self, cluster: &mut Cluster, lease: &Lease) -> Result<(), Fault> {
        self.query::<Value>(cluster, "lease/revoke", &json!({"ID": lease.id.to_string()})).await.map(|_| ())
    }

    /// Writes a key that is removed when its lease ends.
    pub async fn write_leased(
        &self,
        cluster: &mut Cluster,
        keys: &KeyPaths,
        key: &str,
        text: &str,
        lease: &Lease,
    ) -> Result<(), Fault> {
        let (key, value) = (BASE64.encode(keys.full(key)), BASE64.encode(text));
        self.query::<Value>(cluster, "kv/put", &json!({"key": key, "value": value, "lease": lease.id.to_string()}))
            .await?;
        Ok(())
    }

    /// Reads all keys that begin with `start`, with their text, page by page and not at one revision; used for keys
    /// that agents do not watch.
    pub async fn read(
        &self,
        cluster: &mut Cluster,
        keys: &KeyPaths,
        start: &str,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let mut found = BTreeMap::new();
        let (mut key, range_end) = keys.v3_start(start);
        loop {
            let range: Range = self.query(cluster, "kv/range", &range_body(&(key, range_end.clone()), None)).await?;
            let more = range.more && !range.kvs.is_empty();
            key = Vec::new();
            for entry in range.kvs {
                key = decode(&entry.key)?;
                let name = String::from_utf8_lossy(&key).into_owned();
                if let Some(name) = name.strip_prefix(&keys.full(start)) {
                    found.insert(name.to_owned(), String::from_utf8_lossy(&decode(&entry.value)?).into_owned());
                }
            }
            if !more {
                return Ok(found);
            }
            key.push(0);
        }
    }
}

fn range_body(range: &(Vec<u8>, Vec<u8>), revision: Option<u64>) -> Value {
    let mut body = json!({"key": BASE64.encode(&range.0), "limit": PAGE});
    if !range.1.is_empty() {
        body["range_end"] = json!(BASE64.encode(&range.1));
    }
    if let Some(revision) = revision {
        body["revision"] = json!(revision.to_string());
    }
    body
}
