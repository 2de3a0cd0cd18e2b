//! Where documents come from: one seam for a directory and for etcd.
//!
//! The agent is a reflector: it lists at a revision, watches from there, and lists anew whenever
//! anything is in doubt. A list that fails changes nothing.

mod cache;
mod dir;
mod etcd;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::config::bootstrap::{StoreConfig, StoreKind};
use crate::config::load::Documents;
use crate::pure::backoff::Backoff;
pub use cache::{Cache, Kept};
pub use etcd::{announce, announced};

/// All documents that concern somebody, as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's counter of changes.
    pub revision: u64,
    /// The documents.
    pub documents: Documents,
    /// Which store it is, for telling one from another behind the same name.
    pub origin: String,
    /// What people should know of it.
    pub remark: Option<String>,
}

/// Whose documents are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// What an agent of this host needs: its tests, and what is about all hosts.
    Host(String),
    /// Everything.
    Fleet,
}

/// Why a store did not answer, or not as it should.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct StoreError {
    place: String,
    problem: String,
    /// How soon to try again.
    pace: Pace,
}

impl StoreError {
    fn new(place: &str, problem: String, pace: Pace) -> Self {
        StoreError { place: place.to_owned(), problem, pace }
    }
}

/// How soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// It may be there again any moment.
    Quick,
    /// A person has to do something first.
    Slow,
}

/// A document was changed by somebody else meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was changed by somebody else meanwhile")]
pub struct Conflict;

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

/// A store.
pub enum Store {
    /// A directory of files.
    Dir(dir::Dir),
    /// etcd.
    Etcd(Box<etcd::Etcd>),
}

/// What ended a watch.
enum Watched {
    /// These are the documents now, at this revision.
    Changed(u64, Documents),
    /// Something changed, or may have: list anew.
    Doubt,
    /// Nothing did, for the time that a watch lasts.
    Quiet,
}

/// Retries come after up to 0.8 s, and then ever later, up to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30));
/// An agent that has no documents yet waits no longer than 5 s: it has nothing else to do.
const RETRY_AT_FIRST: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(5));
/// A wrong password is wrong the next time too, and costs etcd dear.
const RETRY_REFUSED: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
/// A watch that was cut was cut for all agents at once: they come back spread over this.
const AFTER_A_CUT: Duration = Duration::from_secs(2);
/// So many watches that did not last in a row are told.
const CUT_AGAIN: u32 = 3;
/// A watch that lasted so long was a good one, and not one that took long to fail.
const LASTING: Duration = Duration::from_secs(15);
/// One write by an operator is often several changes: they are taken together once it is quiet for
/// this long.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// But no later than this.
const DEBOUNCE_MOST: Duration = Duration::from_secs(1);

impl Store {
    /// The store that `config` names.
    pub fn new(config: &StoreConfig, concern: Concern) -> Result<Store, StoreError> {
        Ok(match config.kind {
            StoreKind::Dir => Store::Dir(dir::Dir::new(config.path.clone(), concern)),
            StoreKind::Etcd => Store::Etcd(Box::new(etcd::Etcd::new(config, concern)?)),
        })
    }

    /// The store whose documents this agent had when it last ran, by its origin.
    pub fn expect(&mut self, origin: &str) {
        if let Store::Etcd(etcd) = self {
            etcd.expect(origin);
        }
    }

    /// Takes what one member of a cluster says by itself, as long as no documents are known at all.
    pub fn allow_reading_alone(&mut self) {
        if let Store::Etcd(etcd) = self {
            etcd.allow_reading_alone();
        }
    }

    /// All documents that are asked for.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        match self {
            Store::Dir(dir) => dir.list().await,
            Store::Etcd(etcd) => etcd.list().await,
        }
    }

    /// Waits until something changes after the last list.
    async fn watch(&mut self) -> Result<Watched, StoreError> {
        match self {
            Store::Dir(dir) => dir.watch().await,
            Store::Etcd(etcd) => etcd.watch().await,
        }
    }

    /// Writes a document, or removes it, if it is still as it was listed: of this `version`, 0 if it
    /// was not there. The store has to have been listed before.
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

/// Where the documents are, for people.
pub fn place(config: &StoreConfig) -> String {
    match config.kind {
        StoreKind::Dir => format!("dir {}", config.path.display()),
        StoreKind::Etcd => format!("etcd {}{}", config.endpoints.join(","), config.prefix),
    }
}

/// Each member of it as a store of its own.
pub fn members(config: &StoreConfig) -> Vec<StoreConfig> {
    let only = |endpoint: &String| StoreConfig { endpoints: vec![endpoint.clone()], ..config.clone() };
    config.endpoints.iter().map(only).collect()
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
                    // Cut by a proxy or by a restart, it says nothing yet: the next list does.
                    Err(error) => {
                        debug!(%error, "watch cut");
                        if begun.elapsed() >= LASTING {
                            cut.on_success();
                            AFTER_A_CUT.mul_f64(fastrand::f64())
                        } else {
                            if cut.failures() == CUT_AGAIN {
                                warn!(%error, "watches are cut at once: changes are found late, by listing");
                            }
                            cut.on_failure_spread(fastrand::f64())
                        }
                    }
                }
            }
            Err(error) => {
                let wait = match error.pace {
                    Pace::Quick => retry.on_failure_spread(fastrand::f64()),
                    Pace::Slow => refused.on_failure(fastrand::f64()),
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

/// Watches until the documents have to be listed anew.
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
    /// Whether nobody needs to hear of `newer` after this. A revision may grow by what concerns others; one
    /// that falls is news.
    fn is_same(&self, newer: &Snapshot) -> bool {
        self.documents == newer.documents
            && self.origin == newer.origin
            && self.remark == newer.remark
            && newer.revision >= self.revision
    }
}
