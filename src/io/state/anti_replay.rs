//! Anti-replay state: which signed probes were accepted, so that none is accepted again after a restart.
//!
//! [`Replays`] holds the state in memory, and [`ReplayFile`] stores it. The file also holds the last epoch of this
//! host's own senders, so that the next epoch is later regardless of the wall clock.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::file::{Found, StateError, StateFile};
use crate::pure::test::id::TestId;

/// Newest accepted position of each signed test: the epoch and the sequence number.
#[derive(Debug, Default)]
pub struct Replays(Mutex<AcceptedEpochs>);

#[derive(Debug, Default)]
struct AcceptedEpochs {
    newest: HashMap<TestId, (u64, u32)>,
    is_changed: bool,
}

/// State as stored on disk.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredReplays {
    /// Last epoch that a sender of this host used; every later sender starts with a greater one.
    pub last_epoch: u64,
    /// Newest accepted epoch and sequence number of each signed test.
    pub newest: HashMap<TestId, (u64, u32)>,
}

impl Replays {
    /// Returns the newest accepted epoch and sequence number of a test, from an earlier listener or an earlier run.
    pub fn get(&self, id: TestId) -> Option<(u64, u32)> {
        self.taken().newest.get(&id).copied()
    }

    /// Records the newest accepted epoch and sequence number of a test.
    pub fn set(&self, id: TestId, newest: (u64, u32)) {
        let mut taken = self.taken();
        if taken.newest.insert(id, newest) != Some(newest) {
            taken.is_changed = true;
        }
    }

    /// Removes the tests for which `keyed` is false: they are no longer signed, or no longer end at this host.
    pub fn retain(&self, keyed: impl Fn(TestId) -> bool) {
        let mut taken = self.taken();
        let before = taken.newest.len();
        taken.newest.retain(|id, _| keyed(*id));
        taken.is_changed |= taken.newest.len() != before;
    }

    /// Returns a copy of the whole state if it changed since the previous call.
    pub fn take_if_changed(&self) -> Option<HashMap<TestId, (u64, u32)>> {
        let mut taken = self.taken();
        std::mem::take(&mut taken.is_changed).then(|| taken.newest.clone())
    }

    /// Returns a copy of the whole state.
    pub fn all(&self) -> HashMap<TestId, (u64, u32)> {
        self.taken().newest.clone()
    }

    /// Replaces the state with the one that an earlier run stored.
    pub fn restore(&self, newest: HashMap<TestId, (u64, u32)>) {
        self.taken().newest = newest;
    }

    fn taken(&self) -> MutexGuard<'_, AcceptedEpochs> {
        // A poisoned lock still holds complete entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle to the file that stores the anti-replay state. Clones share a lock, so that one of them writes at a time.
#[derive(Clone, Debug)]
pub struct ReplayFile(Arc<Mutex<StateFile>>);

impl ReplayFile {
    /// Creates the handle for the agent of this host; reads nothing yet.
    pub fn new(state_dir: &Path, host: &str) -> Self {
        ReplayFile(Arc::new(Mutex::new(StateFile::new(state_dir, "replays", host))))
    }

    /// Reads the state that an earlier run stored. Falls back to the previous copy, or to the empty state, and logs a
    /// problem.
    pub fn load(&self) -> StoredReplays {
        match self.file().load() {
            Ok(Found::State(kept)) => kept,
            Ok(Found::Previous(kept, damaged)) => {
                warn!(damaged = %damaged.display(), "the anti-replay state is damaged: the previous copy is used");
                kept.unwrap_or_default()
            }
            Ok(Found::Nothing) => StoredReplays::default(),
            Err(problem) => {
                error!(%problem, "the anti-replay state cannot be read");
                StoredReplays::default()
            }
        }
    }

    /// Writes the state atomically.
    pub fn save(&self, kept: &StoredReplays) -> Result<(), StateError> {
        self.file().save(kept)
    }

    fn file(&self) -> MutexGuard<'_, StateFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
