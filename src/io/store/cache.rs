//! The last good configuration on disk, for an agent that starts while its store cannot be reached. [`Cache`] owns the
//! state file and hands the newest configuration to the task of [`Cache::writer`], which ends when the cache is
//! dropped. A cached configuration is used only if it came from the store that is configured now.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::origin::Origin;
use crate::config::bootstrap::{Bootstrap, StoreConfig, StoreKind};
use crate::config::document::raw::Documents;
use crate::io::error_chain::error_chain;
use crate::io::state::file::{Found, StateFile};
use crate::pure::base::time::WallTime;

/// Rest after each write, as a multiple of the time that it took, so that writing takes at most about a tenth of the
/// time.
const REST: u32 = 10;
/// Least time between two writes; changes within it are written together.
const AT_LEAST: Duration = Duration::from_millis(500);

/// Configuration as it is kept on disk, with the store that it came from and its age.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedConfig {
    /// Configured store that the documents came from; [`Cache::load_list`] uses them only for the same store.
    source: CachedSource,
    /// Store's revision at the time of the listing.
    pub revision: u64,
    /// Identity of the store that answered, as in [`Snapshot::origin`](super::Snapshot::origin).
    pub origin: Origin,
    /// Wall-clock time at which the store last confirmed these documents.
    pub confirmed: WallTime,
    /// Last good version of each document, by key.
    pub documents: Documents,
}

/// Store that the bootstrap file names, in the form in which the cache records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CachedSource {
    kind: String,
    /// Endpoints of etcd, or the path of the directory.
    places: Vec<String>,
    prefix: String,
}

impl CachedSource {
    fn of(config: &StoreConfig) -> Self {
        let (places, prefix) = match config.kind {
            StoreKind::Dir => (vec![config.path.display().to_string()], String::new()),
            StoreKind::Etcd => (config.endpoints.clone(), config.prefix.clone()),
        };
        CachedSource { kind: config.kind.as_str().to_owned(), places, prefix }
    }

    /// Returns true if both sources name one store, even if members joined or left: one endpoint in common suffices.
    fn is_same(&self, other: &CachedSource) -> bool {
        let shared = self.places.iter().any(|place| other.places.contains(place));
        shared && (&self.kind, &self.prefix) == (&other.kind, &other.prefix)
    }
}

/// State file of the configuration, with the channel to the task that writes it.
#[derive(Debug)]
pub struct Cache {
    file: StateFile,
    source: CachedSource,
    newest: watch::Sender<Option<CachedConfig>>,
}

impl Cache {
    /// Creates the cache of the agent that this bootstrap file configures; nothing is read or written yet.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        Cache {
            file: file(&bootstrap.state_dir, &bootstrap.host),
            source: CachedSource::of(&bootstrap.store),
            newest: watch::Sender::new(None),
        }
    }

    /// Records documents that are kept from now on as those of the store in this bootstrap file.
    pub fn rebase(&mut self, bootstrap: &Bootstrap) {
        self.source = CachedSource::of(&bootstrap.store);
    }

    /// Loads the configuration from disk; returns `None` if there is none, it is unreadable, or it came from another
    /// store.
    pub fn load_list(&self) -> Option<CachedConfig> {
        let path = self.file.path().display().to_string();
        let kept: Option<CachedConfig> = match self.file.load() {
            Ok(Found::State(kept)) => Some(kept),
            Ok(Found::Nothing) => None,
            Ok(Found::Previous(kept, excluded)) => {
                let (excluded, copy) = (excluded.display().to_string(), kept.is_some());
                warn!(excluded, copy, "the kept config was damaged and set aside");
                kept
            }
            Err(error) => {
                warn!(problem = error_chain(&error), "the kept config cannot be read");
                None
            }
        };
        let kept = kept?;
        if !kept.source.is_same(&self.source) {
            warn!(path, "the kept config is from another store and is not used");
            return None;
        }
        Some(kept)
    }

    /// Hands a configuration to the writing task, in place of one that has not been written yet.
    pub fn store(&self, revision: u64, origin: Origin, confirmed: WallTime, documents: Documents) {
        let source = self.source.clone();
        self.newest.send_replace(Some(CachedConfig { source, revision, origin, confirmed, documents }));
    }

    /// Returns the task that writes each kept configuration to disk; it ends when the cache is dropped.
    pub fn writer(&self) -> impl Future<Output = ()> + use<> {
        write(self.file.clone(), self.newest.subscribe())
    }
}

fn file(state_dir: &Path, host: &str) -> StateFile {
    StateFile::new(state_dir, "config", host)
}

async fn write(file: StateFile, mut newest: watch::Receiver<Option<CachedConfig>>) {
    let mut failed = false;
    while newest.changed().await.is_ok() {
        let Some(kept) = newest.borrow_and_update().clone() else { continue };
        let begun = Instant::now();
        let writer = file.clone();
        let written = tokio::task::spawn_blocking(move || writer.save(&kept)).await;
        let problem = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error_chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem.as_ref().filter(|_| !failed) {
            let loss = "an agent that starts while the store is unreachable has older documents, or none";
            warn!(problem, loss, "the config cannot be saved");
        }
        failed = problem.is_some();
        sleep(AT_LEAST.max(begun.elapsed() * REST)).await;
    }
}
