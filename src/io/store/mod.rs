//! Where documents come from: one seam for a directory and for etcd.
//!
//! The agent is a reflector: it lists at a revision, watches from there, and lists anew whenever
//! anything is in doubt. A list that fails changes nothing.

mod dir;
mod etcd_v2;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::config::bootstrap::{StoreConfig, StoreKind};
use crate::config::load::Documents;
use crate::pure::backoff::Backoff;

/// All documents of a host as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's counter of changes.
    pub revision: u64,
    /// The documents.
    pub documents: Documents,
}

/// Why a store did not answer, or not as it should.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct StoreError {
    place: String,
    problem: String,
}

/// What happens at a store.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreEvent {
    /// These are the documents now.
    Listed(Snapshot),
    /// It is there, and nothing changed.
    Confirmed,
    /// It cannot be reached or read.
    Lost(String),
}

/// A store, for one host.
pub enum Store {
    /// A directory of files.
    Dir(dir::Dir),
    /// etcd with its v2 API.
    EtcdV2(etcd_v2::EtcdV2),
}

/// What ended a watch.
enum Watched {
    /// Something changed, or may have: list anew.
    Changed,
    /// Nothing did, for the time that a watch lasts.
    Quiet,
}

/// Retries come after 0.8 s and then ever later, up to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30));
/// An agent that has no documents yet waits no longer than 5 s: it has nothing else to do.
const RETRY_AT_FIRST: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(5));
/// One write by an operator is often several changes: they are taken together.
const DEBOUNCE: Duration = Duration::from_millis(100);

impl Store {
    /// The store that `config` names.
    pub fn new(config: &StoreConfig, host: &str) -> Result<Store, StoreError> {
        Ok(match config.kind {
            StoreKind::Dir => Store::Dir(dir::Dir::new(config.path.clone(), host)),
            StoreKind::Etcd => Store::EtcdV2(etcd_v2::EtcdV2::new(config, host)?),
        })
    }

    /// All documents of this host.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        match self {
            Store::Dir(dir) => dir.list().await,
            Store::EtcdV2(etcd) => etcd.list().await,
        }
    }

    /// Waits until something changes after the last list.
    async fn watch(&mut self) -> Result<Watched, StoreError> {
        match self {
            Store::Dir(dir) => dir.watch().await,
            Store::EtcdV2(etcd) => etcd.watch().await,
        }
    }
}

/// Where the documents are, for people.
pub fn place(config: &StoreConfig) -> String {
    match config.kind {
        StoreKind::Dir => format!("dir {}", config.path.display()),
        StoreKind::Etcd => format!("etcd {}{}", config.endpoints.join(","), config.prefix),
    }
}

/// The same as the original named it: `host:port`.
pub fn config_server(config: &StoreConfig) -> String {
    match config.kind {
        StoreKind::Dir => config.path.display().to_string(),
        StoreKind::Etcd => {
            let servers =
                config.endpoints.iter().map(|url| url.split_once("://").map_or(url.as_str(), |(_, rest)| rest));
            servers.collect::<Vec<_>>().join(",")
        }
    }
}

/// Follows the store for ever and tells what happens. Ends when nobody listens any more.
pub async fn reflect(mut store: Store, events: mpsc::Sender<StoreEvent>) {
    let mut retry = RETRY_AT_FIRST;
    let mut last: Option<Snapshot> = None;
    loop {
        let event = match store.list().await {
            Ok(snapshot) => {
                let same = last.as_ref().is_some_and(|last| last.documents == snapshot.documents);
                if last.replace(snapshot.clone()).is_none() {
                    retry = RETRY;
                }
                if same { StoreEvent::Confirmed } else { StoreEvent::Listed(snapshot) }
            }
            Err(error) => StoreEvent::Lost(error.to_string()),
        };
        let listed = !matches!(event, StoreEvent::Lost(_));
        if events.send(event).await.is_err() {
            return;
        }
        // A watch that is cut, by a proxy or by a restart, says nothing yet: the next list does.
        if listed && follow(&mut store, &events).await.is_ok() {
            retry.on_success();
        } else {
            sleep(retry.on_failure(fastrand::f64())).await;
        }
        if events.is_closed() {
            return;
        }
    }
}

/// Watches until the documents have to be listed anew.
async fn follow(store: &mut Store, events: &mpsc::Sender<StoreEvent>) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            watched = store.watch() => match watched? {
                Watched::Changed => {
                    sleep(DEBOUNCE).await;
                    return Ok(());
                }
                Watched::Quiet => {
                    if events.send(StoreEvent::Confirmed).await.is_err() {
                        return Ok(());
                    }
                }
            },
            () = events.closed() => return Ok(()),
        }
    }
}
