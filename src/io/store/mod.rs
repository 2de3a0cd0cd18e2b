//! Source of the documents: one interface to a directory of files and to etcd.
//!
//! The agent is a reflector: [`reflect`] lists the documents of a [`Store`] at a revision, watches from there, and
//! lists again whenever anything is in doubt. A listing that fails changes nothing. The task sends [`StoreEvent`]s and
//! ends when their receiver is dropped.

mod cache;
mod dir;
mod etcd;
pub mod origin;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::config::bootstrap::{StoreConfig, StoreKind};
use crate::config::document::raw::Documents;
use crate::pure::base::backoff::Backoff;
pub use cache::{Cache, CachedConfig};
pub use etcd::{announce, announced};
use origin::Origin;

/// Documents of one concern, as they were at one revision of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Store's revision, which grows with each change; a directory counts its own from each start.
    pub revision: u64,
    /// Documents of the concern, by key.
    pub documents: Documents,
    /// Identity of the store.
    pub origin: Origin,
    /// Human-readable note on the store or its contents, to be shown to an operator.
    pub remark: Option<String>,
}

/// Part of the store that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadScope {
    /// Documents that the agent of this host needs: its own tests, and the documents about all hosts.
    Host(String),
    /// Documents of all hosts, including all tests.
    Fleet,
}

/// Failure of a store to answer or to accept a request, with the store's location.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct StoreError {
    place: String,
    problem: String,
    /// Retry class of the failure.
    pace: RetryClass,
}

impl StoreError {
    fn new(place: &str, problem: String, pace: RetryClass) -> Self {
        StoreError { place: place.to_owned(), problem, pace }
    }
}

/// Retry class of a failure, which selects the back-off before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryClass {
    /// Failure that may end at any moment, such as a restart; retries come soon.
    Quick,
    /// Failure that an operator has to mend first, such as a wrong password; retries come slowly.
    Slow,
}

/// Refusal to write a document that was changed by another writer since it was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was changed by another writer meanwhile")]
pub struct Conflict;

/// Event that [`reflect`] reports to the owner of the store.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreEvent {
    /// Current documents, after the first listing and after each change.
    Listed(Snapshot),
    /// Store answered, and nothing changed.
    Confirmed,
    /// Store cannot be reached or read, for the given reason.
    Lost(String),
}

/// Store of documents: a directory or an etcd cluster.
pub enum Store {
    /// Directory of document files.
    Dir(dir::Dir),
    /// Cluster of etcd members.
    Etcd(Box<etcd::Etcd>),
}

/// Result of one watch on a store.
enum Watched {
    /// Current documents, with the revision at which they are valid.
    Changed(u64, Documents),
    /// Possible or certain change: the documents have to be listed again.
    Doubt,
    /// End of a watch during which nothing changed.
    Quiet,
}

/// Back-off after a failed listing: at first up to 0.8 s, growing up to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30));
/// Back-off of an agent that has no documents yet. It waits no longer than 5 s, because it has nothing else to do.
const RETRY_AT_FIRST: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(5));
/// Back-off after a refusal. A wrong password stays wrong, and checking it is expensive for etcd.
const RETRY_REFUSED: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
/// Range over which agents spread their return after a watch was cut, because a cut usually affects all agents at once.
const AFTER_A_CUT: Duration = Duration::from_secs(2);
/// Number of short-lived watches in a row after which a warning is logged.
const CUT_AGAIN: u32 = 3;
/// Duration after which a watch counts as a good one, rather than as one that was slow to fail.
const LASTING: Duration = Duration::from_secs(15);
/// Quiet time after a change before it is processed: one write by an operator often makes several changes.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// Limit on the total delay by [`DEBOUNCE`], for a store that keeps changing.
const DEBOUNCE_MOST: Duration = Duration::from_secs(1);

impl Store {
    /// Creates the store that `config` names; nothing is read yet.
    pub fn new(config: &StoreConfig, concern: ReadScope) -> Result<Store, StoreError> {
        Ok(match config.kind {
            StoreKind::Dir => Store::Dir(dir::Dir::new(config.path.clone(), concern)),
            StoreKind::Etcd => Store::Etcd(Box::new(etcd::Etcd::new(config, concern)?)),
        })
    }

    /// Sets the origin of the documents that this agent had when it last ran, so that the same etcd API is preferred.
    pub fn expect(&mut self, origin: &Origin) {
        if let Store::Etcd(etcd) = self {
            etcd.expect(origin);
        }
    }

    /// Allows a listing from a single etcd member without a quorum, as long as no documents are known at all.
    pub fn allow_reading_alone(&mut self) {
        if let Store::Etcd(etcd) = self {
            etcd.allow_reading_alone();
        }
    }

    /// Lists all documents of the concern.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        match self {
            Store::Dir(dir) => dir.list().await,
            Store::Etcd(etcd) => etcd.list().await,
        }
    }

    /// Waits until something changes after the last listing, or one watch interval has passed.
    async fn watch(&mut self) -> Result<Watched, StoreError> {
        match self {
            Store::Dir(dir) => dir.watch().await,
            Store::Etcd(etcd) => etcd.watch().await,
        }
    }

    /// Writes a document, or removes it, if it is unchanged since it was listed: `version` is the listed version, 0 for
    /// a missing document. The store must have been listed before.
    pub async fn write(
        &mut self,
        key: &str,
        text: Option<&str>,
        version: u64,
    ) -> Result<Result<(), Conflict>, StoreError> {
        match self {
            Store::Dir(dir) => dir.write(key, text),
            Store::Etcd(etcd) => etcd.write(key, text, version).await,
        }
    }
}

/// Returns the human-readable location of the documents.
pub fn place(config: &StoreConfig) -> String {
    match config.kind {
        StoreKind::Dir => format!("dir {}", config.path.display()),
        StoreKind::Etcd => format!("etcd {}{}", config.endpoints.join(","), config.prefix),
    }
}

/// Returns the store's configuration once for each endpoint, so that each member can be examined separately.
pub fn members(config: &StoreConfig) -> Vec<StoreConfig> {
    let only = |endpoint: &String| StoreConfig { endpoints: vec![endpoint.clone()], ..config.clone() };
    config.endpoints.iter().map(only).collect()
}

/// Returns the location of the store as the original program shows it: `host:port`, without a scheme.
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

/// Follows the store and sends an event for each result; returns when the receiver of the events is dropped.
pub async fn reflect(mut store: Store, events: mpsc::Sender<StoreEvent>) {
    let (mut retry, mut refused, mut cut) = (RETRY_AT_FIRST, RETRY_REFUSED, RETRY);
    let mut last: Option<Snapshot> = None;
    loop {
        let wait = match store.list().await {
            Ok(snapshot) => {
                let same = last.as_ref().is_some_and(|last| last.is_same(&snapshot));
                if last.replace(snapshot.clone()).is_none() {
                    retry = RETRY;
                }
                let event = if same { StoreEvent::Confirmed } else { StoreEvent::Listed(snapshot) };
                if events.send(event).await.is_err() {
                    return;
                }
                refused.on_success();
                retry.on_success();
                let begun = Instant::now();
                match follow(&mut store, &mut last, &events).await {
                    Ok(()) => Duration::ZERO,
                    // A watch that a proxy or a restart cut is no failure yet; the next listing decides.
                    Err(error) => {
                        debug!(%error, "watch interrupted");
                        if begun.elapsed() >= LASTING {
                            cut.on_success();
                            AFTER_A_CUT.mul_f64(fastrand::f64())
                        } else {
                            if cut.failures() == CUT_AGAIN {
                                warn!(%error, "watches are interrupted at once: changes are found late, by listing");
                            }
                            cut.on_failure_spread(fastrand::f64())
                        }
                    }
                }
            }
            Err(error) => {
                let wait = match error.pace {
                    RetryClass::Quick => retry.on_failure_spread(fastrand::f64()),
                    RetryClass::Slow => refused.on_failure(fastrand::f64()),
                };
                if events.send(StoreEvent::Lost(error.to_string())).await.is_err() {
                    return;
                }
                wait
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = events.closed() => return,
        }
    }
}

/// Watches the store until the documents have to be listed again or the receiver is dropped.
async fn follow(
    store: &mut Store,
    last: &mut Option<Snapshot>,
    events: &mpsc::Sender<StoreEvent>,
) -> Result<(), StoreError> {
    loop {
        let watched = tokio::select! {
            watched = store.watch() => watched?,
            () = events.closed() => return Ok(()),
        };
        let event = match (watched, last.as_mut()) {
            (Watched::Doubt, _) | (Watched::Changed(..), None) => return Ok(()),
            (Watched::Quiet, _) => StoreEvent::Confirmed,
            (Watched::Changed(revision, documents), Some(last)) => {
                last.revision = revision;
                last.documents = documents;
                StoreEvent::Listed(last.clone())
            }
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

impl Snapshot {
    /// Returns true if `newer` needs no event after this snapshot. A revision may grow by changes to other documents; a
    /// revision that falls is reported.
    fn is_same(&self, newer: &Snapshot) -> bool {
        self.documents == newer.documents
            && self.origin == newer.origin
            && self.remark == newer.remark
            && newer.revision >= self.revision
    }
}
