//! etcd with its v2 JSON API: three keys are listed, and each is watched by a long poll.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, select_all};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Snapshot, StoreError, Watched};
use crate::config::bootstrap::StoreConfig;
use crate::config::load::{Documents, GLOBAL_KEY, HOSTS_PREFIX, RawDocument, tests_prefix};
use crate::config::read::Format;
use crate::io::causes::describe;
use crate::io::tls;

/// etcd ends no long poll by itself; a server that hangs or a path that lost its state is found by
/// a small request that often, on a connection of its own.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
/// Everything is listed anew after a time in this range, whatever the watches say.
const RELIST: std::ops::Range<u64> = 300..600;
/// "Key not found".
const KEY_NOT_FOUND: u64 = 100;
/// "The event in requested index is outdated and cleared".
const INDEX_CLEARED: u64 = 401;

/// A client of one etcd cluster, for one host.
pub struct EtcdV2 {
    client: Client,
    endpoints: Vec<Url>,
    current: usize,
    prefix: String,
    host: String,
    request_timeout: Duration,
    /// What to watch, and from which index on.
    watches: Vec<(Scope, u64)>,
    polls: Vec<Poll>,
    relist_at: Instant,
}

/// Ends when the key changed, or when the index is too old to know.
type Poll = BoxFuture<'static, Result<(), String>>;

#[derive(Clone, Debug)]
struct Scope {
    key: String,
    recursive: bool,
}

/// A node of the tree, a file or a directory.
#[derive(Debug, Deserialize)]
struct Node {
    key: String,
    #[serde(default)]
    dir: bool,
    value: Option<String>,
    #[serde(default)]
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    node: Node,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refusal {
    error_code: u64,
    message: String,
    #[serde(default)]
    cause: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}), etcd error {}", self.message, self.cause, self.error_code)
    }
}

impl EtcdV2 {
    /// Endpoints are tried from a random one on, so that a fleet spreads over the members.
    pub fn new(config: &StoreConfig, host: &str) -> Result<Self, StoreError> {
        let refuse = |place: &str, problem: String| StoreError { place: place.to_owned(), problem };
        let mut endpoints = Vec::new();
        for endpoint in &config.endpoints {
            endpoints.push(Url::parse(endpoint).map_err(|error| refuse(endpoint, error.to_string()))?);
        }
        if endpoints.is_empty() {
            return Err(refuse("store.endpoints", "no endpoint".to_owned()));
        }
        let plain = tls::for_url("http:", None).map_err(|problem| refuse("HTTP client", problem))?;
        let client = Client::builder()
            .tls_backend_preconfigured(plain)
            .connect_timeout(config.request_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_keepalive(ALIVE_EVERY)
            .no_proxy()
            .build()
            .map_err(|error| refuse("HTTP client", describe(&error)))?;
        Ok(EtcdV2 {
            client,
            current: fastrand::usize(..endpoints.len()),
            endpoints,
            prefix: config.prefix.clone(),
            host: host.to_owned(),
            request_timeout: config.request_timeout,
            watches: Vec::new(),
            polls: Vec::new(),
            relist_at: Instant::now(),
        })
    }

    /// Lists the global document, those of all hosts and this one's tests, each with quorum: what is not there is
    /// not there.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        let mut listed = self.list_once().await;
        for _ in 1..self.endpoints.len() {
            if listed.is_ok() {
                break;
            }
            listed = self.list_once().await;
        }
        listed
    }

    /// From one member; if that fails, the next one is asked next time.
    async fn list_once(&mut self) -> Result<Snapshot, StoreError> {
        self.watches.clear();
        self.polls.clear();
        let mut documents = Documents::new();
        let mut revision = 0;
        let tests = tests_prefix(&self.host);
        let scopes = [
            Scope { key: GLOBAL_KEY.to_owned(), recursive: false },
            Scope { key: HOSTS_PREFIX.to_owned(), recursive: true },
            Scope { key: tests, recursive: true },
        ];
        for scope in scopes {
            match self.get(&scope).await {
                Ok((index, node)) => {
                    if let Some(node) = node {
                        self.collect(node, &mut documents);
                    }
                    revision = revision.max(index);
                    self.watches.push((scope, index + 1));
                }
                Err(problem) => return Err(self.failed(problem)),
            }
        }
        self.relist_at = Instant::now() + Duration::from_secs(fastrand::u64(RELIST));
        Ok(Snapshot { revision, documents })
    }

    /// Ends when a watched key changed, or to say that the server is alive.
    pub(super) async fn watch(&mut self) -> Result<Watched, StoreError> {
        if self.polls.is_empty() {
            let watches = std::mem::take(&mut self.watches);
            self.polls = watches.into_iter().map(|(scope, index)| self.poll(scope, index)).collect();
        }
        tokio::select! {
            (polled, _, _) = select_all(self.polls.iter_mut()) => {
                polled.map(|()| Watched::Changed).map_err(|problem| self.failed(problem))
            }
            () = sleep_until(self.relist_at) => Ok(Watched::Changed),
            () = sleep(ALIVE_EVERY) => {
                self.ask_version().await.map(|_| Watched::Quiet).map_err(|problem| self.failed(problem))
            }
        }
    }

    async fn get(&self, scope: &Scope) -> Result<(u64, Option<Node>), String> {
        let mut url = self.url(scope)?;
        url.query_pairs_mut().append_pair("quorum", "true");
        if scope.recursive {
            url.query_pairs_mut().append_pair("recursive", "true");
        }
        let request = self.client.get(url).timeout(self.request_timeout).send();
        let response = request.await.map_err(|error| describe(&error))?;
        let status = response.status();
        let Some(index) = index(&response) else { return Err(self.no_v2(response).await) };
        let body = response.bytes().await.map_err(|error| describe(&error))?;
        if status.is_success() {
            let answer: Answer =
                serde_json::from_slice(&body).map_err(|error| format!("unreadable answer: {error}"))?;
            return Ok((index, Some(answer.node)));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if refusal.error_code == KEY_NOT_FOUND && status == StatusCode::NOT_FOUND => Ok((index, None)),
            Ok(refusal) => Err(refusal.to_string()),
            Err(_) => Err(format!("HTTP status {status}")),
        }
    }

    /// A 404 without etcd's index is no word about a key: the API itself is missing.
    async fn no_v2(&self, response: Response) -> String {
        let status = response.status();
        match self.ask_version().await {
            Ok(version) => format!(
                "etcd {version} does not answer the v2 API (HTTP status {status}); start it with --enable-v2=true"
            ),
            Err(_) => format!("HTTP status {status} without X-Etcd-Index: not an etcd with the v2 API"),
        }
    }

    async fn ask_version(&self) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Version {
            etcdserver: String,
        }
        let mut url = self.endpoints[self.current].clone();
        url.set_path("/version");
        let request = self.client.get(url).timeout(self.request_timeout).send();
        let response = request.await.map_err(|error| describe(&error))?;
        let version: Version = response.json().await.map_err(|error| describe(&error))?;
        Ok(version.etcdserver)
    }

    /// One long poll. It has no timeout of its own: `ALIVE_EVERY` and `relist_at` bound it.
    fn poll(&self, scope: Scope, index: u64) -> Poll {
        let url = self.url(&scope);
        let client = self.client.clone();
        async move {
            let mut url = url?;
            url.query_pairs_mut().append_pair("wait", "true").append_pair("waitIndex", &index.to_string());
            if scope.recursive {
                url.query_pairs_mut().append_pair("recursive", "true");
            }
            let response = client.get(url).send().await.map_err(|error| describe(&error))?;
            let status = response.status();
            let body = response.bytes().await.map_err(|error| describe(&error))?;
            if status.is_success() && !body.is_empty() {
                return Ok(());
            }
            match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) if refusal.error_code == INDEX_CLEARED => Ok(()),
                Ok(refusal) => Err(refusal.to_string()),
                Err(_) => Err(format!("the watch ended with HTTP status {status}")),
            }
        }
        .boxed()
    }

    fn url(&self, scope: &Scope) -> Result<Url, String> {
        let mut url = self.endpoints[self.current].clone();
        let mut segments = url.path_segments_mut().map_err(|()| "not a base URL".to_owned())?;
        segments.clear().extend(["v2", "keys"]);
        segments.extend(self.prefix.split('/').filter(|segment| !segment.is_empty()));
        // The slash at the end of a directory matters to etcd's access rights.
        segments.extend(scope.key.split('/'));
        drop(segments);
        Ok(url)
    }

    fn failed(&mut self, problem: String) -> StoreError {
        let error = StoreError { place: self.endpoints[self.current].to_string(), problem };
        self.current = (self.current + 1) % self.endpoints.len();
        error
    }

    fn collect(&self, node: Node, documents: &mut Documents) {
        if node.dir {
            for child in node.nodes {
                self.collect(child, documents);
            }
            return;
        }
        let key = node.key.strip_prefix(&self.prefix).unwrap_or(&node.key).trim_start_matches('/').to_owned();
        let text = node.value.unwrap_or_default();
        let document =
            RawDocument { text, format: Format::Json, place: key.clone(), unreadable: None, directory: None };
        documents.insert(key, document);
    }
}

fn index(response: &Response) -> Option<u64> {
    response.headers().get("X-Etcd-Index")?.to_str().ok()?.parse().ok()
}
