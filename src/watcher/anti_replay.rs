//! Periodic saving of the state that must survive a restart of the agent: the anti-replay state of signed probes, and
//! the last epoch of its own senders. `AntiReplayStore` limits the writes to a small share of the disk's time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::FutureExt;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::debug;

use super::Watcher;
use crate::config::bootstrap::Bootstrap;
use crate::io::shared::SharedState;
use crate::io::state::anti_replay::{ReplayFile, StoredReplays};
use crate::io::time;
use crate::pure::base::polling;
use crate::pure::test::id::TestId;

/// Interval at which changed state is saved, if the disk is fast enough.
const KEEP_EVERY: Duration = polling::SECOND.saturating_mul(2);
/// Rest after each write, as a multiple of the time that it took.
const REST: u32 = 20;

/// Writer of the anti-replay file, with at most one write at a time.
pub struct AntiReplayStore {
    file: ReplayFile,
    kept_epoch: u64,
    /// Current or last write, which returns its duration; it runs on its own thread, so a hanging disk blocks nothing
    /// else.
    writing: Option<JoinHandle<Duration>>,
    not_before: Instant,
}

impl AntiReplayStore {
    /// Creates the keeper of the file of this host; nothing is read or written yet.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let file = ReplayFile::new(&bootstrap.state_dir, &bootstrap.host);
        AntiReplayStore { file, kept_epoch: 0, writing: None, not_before: Instant::now() }
    }

    /// Loads the state that an earlier run of this agent saved.
    pub fn remember(&self, shared: &SharedState) {
        let StoredReplays { last_epoch, newest } = self.file.load();
        if shared.last_epoch() == 0 {
            shared.replays().restore(newest);
        }
        shared.set_last_epoch(last_epoch);
    }

    fn may_write(&mut self) -> bool {
        match self.writing.take().map(|mut writing| ((&mut writing).now_or_never(), writing)) {
            Some((None, writing)) => {
                self.writing = Some(writing);
                return false;
            }
            Some((Some(took), _)) => self.not_before = Instant::now() + took.unwrap_or_default() * REST,
            None => {}
        }
        self.not_before <= Instant::now()
    }

    fn write(&mut self, kept: StoredReplays) {
        self.kept_epoch = kept.last_epoch;
        let file = self.file.clone();
        self.writing = Some(spawn_blocking(move || {
            let began = Instant::now();
            if let Err(problem) = file.save(&kept) {
                debug!(%problem, "the anti-replay state cannot be saved");
            }
            began.elapsed()
        }));
    }
}

impl Watcher {
    /// Schedules the periodic saving of changed state.
    pub(super) fn keep_replays_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(KEEP_EVERY), |watcher, ctx| {
            if watcher.replays.may_write() {
                watcher.write_replays();
            }
            Self::keep_replays_later(ctx);
        });
    }

    /// Saves changed state regardless of the disk's speed, and drops that of removed tests.
    pub(super) fn write_replays(&mut self) {
        let replays = self.shared.replays();
        // Unless all documents are known, a test without a document cannot be called removed.
        if let Some(loaded) = self.config.loaded().filter(|_| self.planned && self.config.is_whole()) {
            let expected = self.running.listeners.values().flat_map(|listener| listener.tests.values());
            let any_of = expected.filter_map(|expected| expected.any_of.as_deref());
            let one_of_many: BTreeSet<TestId> = any_of.flatten().copied().collect();
            replays.retain(|id| loaded.tests.contains_key(&id) || one_of_many.contains(&id));
        }
        let last_epoch = self.shared.last_epoch();
        let news = replays.take_if_changed();
        if news.is_some() || last_epoch != self.replays.kept_epoch {
            let newest = news.unwrap_or_else(|| replays.all());
            self.replays.write(StoredReplays { last_epoch, newest });
        }
    }
}
