//! What signed probes were taken, so that they are not taken again after a restart; and the last epoch
//! of this host's own senders, so that the next one is later whatever the clock says.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::state_file::{Found, StateError, StateFile};
use crate::pure::test::TestId;

/// The epoch and the newest sequence number that were taken of each signed test.
#[derive(Debug, Default)]
pub struct Replays(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    newest: HashMap<TestId, (u64, u32)>,
    is_changed: bool,
}

/// What is kept on disk.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// No sender begins with this epoch or an earlier one.
    pub last_epoch: u64,
    /// The epoch and the newest sequence number that were taken of each signed test.
    pub newest: HashMap<TestId, (u64, u32)>,
}

impl Replays {
    /// What was taken of a test before this process began, or by a listener before.
    pub fn get(&self, id: TestId) -> Option<(u64, u32)> {
        self.taken().newest.get(&id).copied()
    }

    /// This was taken.
    pub fn set(&self, id: TestId, newest: (u64, u32)) {
        let mut taken = self.taken();
        if taken.newest.insert(id, newest) != Some(newest) {
            taken.is_changed = true;
        }
    }

    /// Only these tests are signed and end here still.
    pub fn retain(&self, keyed: impl Fn(TestId) -> bool) {
        let mut taken = self.taken();
        let before = taken.newest.len();
        taken.newest.retain(|id, _| keyed(*id));
        taken.is_changed |= taken.newest.len() != before;
    }

    /// All of it, if it changed since it was asked for last.
    pub fn news(&self) -> Option<HashMap<TestId, (u64, u32)>> {
        let mut taken = self.taken();
        std::mem::take(&mut taken.is_changed).then(|| taken.newest.clone())
    }

    /// All of it.
    pub fn all(&self) -> HashMap<TestId, (u64, u32)> {
        self.taken().newest.clone()
    }

    /// What an earlier run took.
    pub fn remember(&self, newest: HashMap<TestId, (u64, u32)>) {
        self.taken().newest = newest;
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // A poisoned lock still holds whole entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where it is kept.
/// Written by one at a time, whoever else began to.
#[derive(Clone, Debug)]
pub struct ReplayFile(Arc<Mutex<StateFile>>);

impl ReplayFile {
    /// For this host.
    pub fn new(state_dir: &Path, host: &str) -> Self {
        ReplayFile(Arc::new(Mutex::new(StateFile::new(state_dir, "replays", host))))
    }

    /// What an earlier run kept.
    pub fn load(&self) -> Kept {
        match self.file().load() {
            Ok(Found::State(kept)) => kept,
            Ok(Found::Previous(kept, damaged)) => {
                warn!(damaged = %damaged.display(), "what signed probes were taken is damaged: the copy before it is used");
                kept.unwrap_or_default()
            }
            Ok(Found::Nothing) => Kept::default(),
            Err(problem) => {
                error!(%problem, "what signed probes were taken cannot be read");
                Kept::default()
            }
        }
    }

    /// Keeps it.
    pub fn save(&self, kept: &Kept) -> Result<(), StateError> {
        self.file().save(kept)
    }

    fn file(&self) -> MutexGuard<'_, StateFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
