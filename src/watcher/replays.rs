//! Keeping what must survive a restart of this agent: what signed probes were taken, and the last epoch of
//! its own senders.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::FutureExt;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::debug;

use super::Watcher;
use crate::config::bootstrap::Bootstrap;
use crate::io::gauges::Gauges;
use crate::io::replays::{Kept, ReplayFile};
use crate::io::time;
use crate::pure::pace;
use crate::pure::test::TestId;

/// It is kept this often, if it changed and the disk is quick.
const KEEP_EVERY: Duration = pace::SECOND.saturating_mul(2);
/// Between two writes there is so many times as long as the first one took.
const REST: u32 = 20;

/// See the module.
pub struct ReplayKeeper {
    file: ReplayFile,
    kept_epoch: u64,
    /// The last write, and how long it took; nothing else waits for a disk that hangs.
    writing: Option<JoinHandle<Duration>>,
    not_before: Instant,
}

impl ReplayKeeper {
    /// For this host.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let file = ReplayFile::new(&bootstrap.state_dir, &bootstrap.host);
        ReplayKeeper { file, kept_epoch: 0, writing: None, not_before: Instant::now() }
    }

    /// What an earlier run of this agent kept.
    pub fn remember(&self, gauges: &Gauges) {
        let Kept { last_epoch, newest } = self.file.load();
        if gauges.last_epoch() == 0 {
            gauges.replays().remember(newest);
        }
        gauges.set_last_epoch(last_epoch);
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

    fn write(&mut self, kept: Kept) {
        self.kept_epoch = kept.last_epoch;
        let file = self.file.clone();
        self.writing = Some(spawn_blocking(move || {
            let began = Instant::now();
            if let Err(problem) = file.save(&kept) {
                debug!(%problem, "what signed probes were taken cannot be kept");
            }
            began.elapsed()
        }));
    }
}

impl Watcher {
    /// Keeps what changed, from now on.
    pub(super) fn keep_replays_later(ctx: &mut Context<Self>) {
        ctx.run_later(time::until_next(KEEP_EVERY), |watcher, ctx| {
            if watcher.replays.may_write() {
                watcher.write_replays();
            }
            Self::keep_replays_later(ctx);
        });
    }

    /// Keeps what changed, whatever it costs.
    pub(super) fn write_replays(&mut self) {
        let replays = self.gauges.replays();
        // Before all documents are known, nothing can be said to be gone.
        if let Some(loaded) = self.config.loaded().filter(|_| self.planned && self.config.is_whole()) {
            let expected = self.running.listeners.values().flat_map(|listener| listener.tests.values());
            let any_of = expected.filter_map(|expected| expected.any_of.as_deref());
            let one_of_many: BTreeSet<TestId> = any_of.flatten().copied().collect();
            replays.retain(|id| loaded.tests.contains_key(&id) || one_of_many.contains(&id));
        }
        let last_epoch = self.gauges.last_epoch();
        let news = replays.news();
        if news.is_some() || last_epoch != self.replays.kept_epoch {
            let newest = news.unwrap_or_else(|| replays.all());
            self.replays.write(Kept { last_epoch, newest });
        }
    }
}
