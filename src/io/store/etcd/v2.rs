//! Reader and writer of etcd's v2 JSON API. [`V2`] lists the keys of each scope with a quorum and watches each scope by
//! a long poll. All documents are listed again every five to ten minutes, whatever the polls report.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, select_all};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::Cluster;
use super::fault::{Fault, FaultKind};
use super::keys::{KeyPaths, KeyScope};
use super::{ALIVE_EVERY, KeyListing, Seen};
use crate::config::document::raw::{Documents, GLOBAL_KEY, RawDocument};
use crate::io::error_chain::error_chain;
use crate::io::store::DEBOUNCE;

/// Range, in seconds, of the time after which all documents are listed again, whatever the watches report.
const RELIST: std::ops::Range<u64> = 300..600;
/// etcd error "Key not found".
const KEY_NOT_FOUND: u64 = 100;
/// etcd error "Compare failed": the document has another version than expected.
const COMPARE_FAILED: u64 = 101;
/// etcd error "Key already exists": the document was expected to be missing.
const ALREADY_EXISTS: u64 = 105;
/// etcd error "The request requires user authentication".
const UNAUTHORIZED: u64 = 110;
/// Range of error codes that concern the cluster's Raft state and not the request.
const RAFT_ERRORS: std::ops::Range<u64> = 300..400;
/// etcd error "The event in requested index is outdated and cleared".
const INDEX_CLEARED: u64 = 401;

/// Listed documents, and the long polls that continue from there.
pub struct V2 {
    documents: Documents,
    /// Scopes to watch, each with the index to continue from.
    watches: Vec<(KeyScope, u64)>,
    polls: Vec<Poll>,
    relist_at: Instant,
}

/// Long poll of one scope; completes when a key changed, or when the index is too old for etcd to compare.
type Poll = BoxFuture<'static, Result<(), Fault>>;

/// Node of the v2 key tree: a key with its value, or a directory with its children.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    key: String,
    #[serde(default)]
    dir: bool,
    value: Option<String>,
    #[serde(default)]
    modified_index: u64,
    #[serde(default)]
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Answered {
    node: Node,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct V2Refusal {
    error_code: u64,
    message: String,
    #[serde(default)]
    cause: String,
}

impl V2Refusal {
    fn fault(&self) -> Fault {
        let V2Refusal { error_code, message, cause } = self;
        let (kind, help) = match *error_code {
            UNAUTHORIZED => (FaultKind::Access, "; set [store.auth] user and password_file, or grant it more"),
            code if RAFT_ERRORS.contains(&code) => (FaultKind::Member, ""),
            _ => (FaultKind::Access, ""),
        };
        Fault { kind, problem: format!("{message} ({cause}), etcd error {error_code}{help}") }
    }
}

impl V2 {
    /// Creates a reader that has listed nothing yet.
    pub fn new() -> Self {
        V2 { documents: Documents::new(), watches: Vec::new(), polls: Vec::new(), relist_at: Instant::now() }
    }

    /// Returns true if there is any document below the prefix.
    pub async fn holds_any(&self, cluster: &Cluster, keys: &KeyPaths) -> Result<bool, Fault> {
        for scope in keys.scopes() {
            if self.get(cluster, keys, &scope).await?.node.is_some_and(|node| !node.dir || !node.nodes.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists all documents, each scope with a quorum, so that a key missing from the answer does not exist.
    pub async fn list(&mut self, cluster: &Cluster, keys: &KeyPaths) -> Result<KeyListing, Fault> {
        self.watches.clear();
        self.polls.clear();
        let mut documents = Documents::new();
        let mut watches = Vec::new();
        let (mut revision, mut id) = (0, String::new());
        for scope in keys.scopes() {
            let got = self.get(cluster, keys, &scope).await?;
            if let Some(node) = got.node {
                self.collect(node, keys, &mut documents);
            }
            revision = revision.max(got.index);
            id = got.cluster;
            watches.push((scope, got.index + 1));
        }
        self.watches = watches;
        self.documents.clone_from(&documents);
        self.relist_at = Instant::now() + Duration::from_secs(fastrand::u64(RELIST));
        Ok(KeyListing { revision, documents, cluster: id })
    }

    /// Waits until a watched key changes, the listing is due again, or the server has proved that it is alive.
    pub async fn watch(&mut self, cluster: &mut Cluster, keys: &KeyPaths) -> Result<Seen, Fault> {
        if self.polls.is_empty() {
            let watches = std::mem::take(&mut self.watches);
            for (scope, index) in watches {
                self.polls.push(poll(cluster, keys, &scope, index)?);
            }
        }
        tokio::select! {
            (polled, _, _) = select_all(self.polls.iter_mut()) => {
                polled?;
                sleep(DEBOUNCE).await;
                Ok(Seen::Doubt)
            }
            () = sleep_until(self.relist_at) => Ok(Seen::Doubt),
            () = sleep(ALIVE_EVERY) => {
                // The read uses a quorum: a member that is cut off from the others would answer for itself alone.
                self.get(cluster, keys, &KeyScope::Key(GLOBAL_KEY)).await?;
                Ok(Seen::Nothing)
            }
        }
    }

    async fn get(&self, cluster: &Cluster, keys: &KeyPaths, scope: &KeyScope) -> Result<Got, Fault> {
        let query: &[(&str, &str)] = match scope {
            KeyScope::Key(_) => &[("quorum", "true")],
            KeyScope::Directory(_) => &[("quorum", "true"), ("recursive", "true")],
        };
        let answer = cluster.answer(cluster.v2(Method::GET, &keys.v2_path(scope), query)?).await?;
        // A 404 without etcd's index is no statement about a key: the API itself is missing.
        let Some(index) = answer.index else {
            let problem = format!("HTTP status {} without X-Etcd-Index", answer.status);
            let kind = if answer.status.is_server_error() { FaultKind::Member } else { FaultKind::Api };
            return Err(Fault { kind, problem });
        };
        let cluster = answer.cluster_id.unwrap_or_default();
        if answer.status.is_success() {
            let answered: Answered = serde_json::from_slice(&answer.body)
                .map_err(|error| Fault::api(format!("unreadable answer: {error}")))?;
            return Ok(Got { index, cluster, node: Some(answered.node) });
        }
        match serde_json::from_slice::<V2Refusal>(&answer.body) {
            Ok(refusal) if refusal.error_code == KEY_NOT_FOUND && answer.status == StatusCode::NOT_FOUND => {
                Ok(Got { index, cluster, node: None })
            }
            Ok(refusal) => Err(refusal.fault()),
            Err(_) => Err(Fault { kind: FaultKind::Member, problem: format!("HTTP status {}", answer.status) }),
        }
    }

    /// Writes a document, or removes it, if its version is still the given one; version 0 stands for a missing
    /// document. Returns false if the version differs.
    pub async fn write(
        &self,
        cluster: &Cluster,
        keys: &KeyPaths,
        key: &str,
        text: Option<&str>,
        version: u64,
    ) -> Result<bool, Fault> {
        let seen = version.to_string();
        let condition = if version == 0 { ("prevExist", "false") } else { ("prevIndex", seen.as_str()) };
        let request = match text {
            Some(text) => cluster
                .v2(Method::PUT, &keys.v2_key(key), &[condition])?
                .header(CONTENT_TYPE, FORM)
                .body(form("value", text)),
            None => cluster.v2(Method::DELETE, &keys.v2_key(key), &[condition])?,
        };
        let answer = cluster.answer(request).await?;
        if answer.status.is_success() {
            return Ok(true);
        }
        match serde_json::from_slice::<V2Refusal>(&answer.body) {
            Ok(V2Refusal { error_code: COMPARE_FAILED | ALREADY_EXISTS | KEY_NOT_FOUND, .. }) => Ok(false),
            Ok(refusal) => Err(refusal.fault()),
            Err(_) => Err(Fault { kind: FaultKind::Member, problem: format!("HTTP status {}", answer.status) }),
        }
    }

    fn collect(&self, node: Node, keys: &KeyPaths, documents: &mut Documents) {
        if node.dir {
            for child in node.nodes {
                self.collect(child, keys, documents);
            }
            return;
        }
        let Some(key) = keys.below_prefix(&node.key) else { return };
        let document = RawDocument::of_store(key, Ok(node.value.unwrap_or_default()), node.modified_index);
        let document = match self.documents.get(key) {
            Some(known) if **known == document => known.clone(),
            Some(_) | None => Arc::new(document),
        };
        documents.insert(key.to_owned(), document);
    }
}

struct Got {
    index: u64,
    cluster: String,
    node: Option<Node>,
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Encodes one field of an HTML form, which uses the same encoding as the query of a URL.
fn form(name: &str, value: &str) -> String {
    let url = Url::parse_with_params("http://form/", [(name, value)]);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

/// Starts one long poll. It has no timeout of its own: `ALIVE_EVERY` and `relist_at` bound it.
fn poll(cluster: &Cluster, keys: &KeyPaths, scope: &KeyScope, index: u64) -> Result<Poll, Fault> {
    let index = index.to_string();
    let mut query = vec![("wait", "true"), ("waitIndex", index.as_str())];
    if let KeyScope::Directory(_) = scope {
        query.push(("recursive", "true"));
    }
    let request = cluster.v2(Method::GET, &keys.v2_path(scope), &query)?;
    let failed = |problem| Fault { kind: FaultKind::Member, problem };
    let poll = async move {
        let response = request.send().await.map_err(|error| failed(error_chain(&error)))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| failed(error_chain(&error)))?;
        if status.is_success() && !body.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<V2Refusal>(&body) {
            Ok(refusal) if refusal.error_code == INDEX_CLEARED => Ok(()),
            Ok(refusal) => Err(refusal.fault()),
            Err(_) => Err(failed(format!("the watch ended with HTTP status {status}"))),
        }
    };
    Ok(poll.boxed())
}
