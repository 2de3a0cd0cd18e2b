//! The last good config on disk, for an agent that starts while its store is away.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::config::bootstrap::{Bootstrap, StoreConfig, StoreKind};
use crate::config::load::Documents;
use crate::io::causes::describe;
use crate::io::state_file::{Found, StateFile};
use crate::pure::time::WallTime;

/// Writing takes no more than this share of the time.
const REST: u32 = 10;
/// Changes within this are written together.
const AT_LEAST: Duration = Duration::from_millis(500);

/// What is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Which store it is of.
    source: Source,
    /// The store's revision then.
    pub revision: u64,
    /// Which store answered then.
    pub origin: String,
    /// When the store last said that this is so.
    pub confirmed: WallTime,
    /// The last good version of each document.
    pub documents: Documents,
}

/// Where documents are configured to come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    kind: String,
    /// Endpoints, or the directory.
    places: Vec<String>,
    prefix: String,
}

impl Source {
    fn of(config: &StoreConfig) -> Self {
        let (places, prefix) = match config.kind {
            StoreKind::Dir => (vec![config.path.display().to_string()], String::new()),
            StoreKind::Etcd => (config.endpoints.clone(), config.prefix.clone()),
        };
        Source { kind: config.kind.as_str().to_owned(), places, prefix }
    }

    /// The same store, also when a member joined it or left.
    fn is_same(&self, other: &Source) -> bool {
        let shared = self.places.iter().any(|place| other.places.contains(place));
        shared && (&self.kind, &self.prefix) == (&other.kind, &other.prefix)
    }
}

/// The file, and the task that writes it.
#[derive(Debug)]
pub struct Cache {
    file: StateFile,
    source: Source,
    newest: watch::Sender<Option<Kept>>,
}

impl Cache {
    /// Of the agent of this bootstrap file.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        Cache {
            file: file(&bootstrap.state_dir, &bootstrap.host),
            source: Source::of(&bootstrap.store),
            newest: watch::Sender::new(None),
        }
    }

    /// What is kept from now on is of the store of this bootstrap file.
    pub fn rebase(&mut self, bootstrap: &Bootstrap) {
        self.source = Source::of(&bootstrap.store);
    }

    /// What was kept of this store, if anything was.
    pub fn recall(&self) -> Option<Kept> {
        let path = self.file.path().display().to_string();
        let kept: Option<Kept> = match self.file.load() {
            Ok(Found::State(kept)) => Some(kept),
            Ok(Found::Nothing) => None,
            Ok(Found::Previous(kept, aside)) => {
                let (aside, copy) = (aside.display().to_string(), kept.is_some());
                warn!(aside, copy, "the kept config was damaged and set aside");
                kept
            }
            Err(error) => {
                warn!(problem = describe(&error), "the kept config cannot be read");
                None
            }
        };
        let kept = kept?;
        if !kept.source.is_same(&self.source) {
            warn!(path, "the kept config is of another store, and is not used");
            return None;
        }
        Some(kept)
    }

    /// Keeps this from now on.
    pub fn keep(&self, revision: u64, origin: String, confirmed: WallTime, documents: Documents) {
        let source = self.source.clone();
        self.newest.send_replace(Some(Kept { source, revision, origin, confirmed, documents }));
    }

    /// Writes what is to be kept, for as long as the cache exists.
    pub fn writer(&self) -> impl Future<Output = ()> + use<> {
        write(self.file.clone(), self.newest.subscribe())
    }
}

fn file(state_dir: &Path, host: &str) -> StateFile {
    StateFile::new(state_dir, "config", host)
}

async fn write(file: StateFile, mut newest: watch::Receiver<Option<Kept>>) {
    let mut failed = false;
    while newest.changed().await.is_ok() {
        let Some(kept) = newest.borrow_and_update().clone() else { continue };
        let begun = Instant::now();
        let writer = file.clone();
        let written = tokio::task::spawn_blocking(move || writer.save(&kept)).await;
        let problem = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(describe(&error)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem.as_ref().filter(|_| !failed) {
            let loss = "an agent that starts while the store is away has older documents, or none";
            warn!(problem, loss, "the config cannot be kept on disk");
        }
        failed = problem.is_some();
        sleep(AT_LEAST.max(begun.elapsed() * REST)).await;
    }
}
