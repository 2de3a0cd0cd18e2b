//! The notification log of a receiver in its file, and whether a file that is found at the start is the newest one.
//!
//! A file that was restored from a back-up lacks what was sent after the back-up was made. Such a file looks complete,
//! so it is recognised by its surroundings: it is too old, or the file system says that it was written long after the
//! agent saved it.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::config::document::sinks::SinkConfig;
use crate::config::sink_plan::SinkPlan;
use crate::io::error_chain::error_chain;
use crate::io::state::file::StateError;
use crate::io::state::file::{Found, Newest, StateFile, load_newest};
use crate::pure::base::time::WallTime;
use crate::pure::notify::log::{LostRecords, NotificationLog, NotifiedRecord, RecordState};

/// First part of the name of each file.
const KIND: &str = "notified";
/// Time after which a save counts as failed, since a slow disk must not hold up notifications.
pub const SAVE_WITHIN: Duration = Duration::from_secs(3);
/// Interval of saves while nothing is sent, so that a file that is older was restored, or its agent was killed.
pub const SAVE_EVERY: Duration = Duration::from_secs(300);
/// Age above which a file that no orderly stop wrote may lack what was sent after it.
const TRUSTED_FOR: Duration = Duration::from_secs(2 * SAVE_EVERY.as_secs());
/// Time between the start of a save and the last change of the file, above which something else wrote the file. Covers
/// a slow disk and a file server whose clock differs.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// Notification log of a receiver, in the form that is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptLog {
    saved: WallTime,
    /// The agent wrote the file when it stopped: nothing was sent after it.
    stopped: bool,
    lost_records: Option<LostRecords>,
    records: Vec<NotifiedRecord>,
}

/// Reason for which the log was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file cannot be written.
    #[error("{}", error_chain(.0))]
    State(#[from] StateError),
    /// The thread that writes it failed.
    #[error("{0}")]
    Thread(#[from] tokio::task::JoinError),
    /// The disk did not answer.
    #[error("no answer from state_dir within {}", humantime::format_duration(SAVE_WITHIN))]
    TimedOut,
}

impl KeptLog {
    /// Copies a log to save it. `stopped` is true for the last save of an orderly stop.
    pub fn new(log: &NotificationLog, stopped: bool, now: WallTime) -> Self {
        KeptLog { saved: now, stopped, lost_records: log.lost_records(now), records: log.records() }
    }

    /// Returns whether messages may have been sent after this was saved. `written` is the time at which the file system
    /// changed the file last.
    fn may_be_outdated(&self, written: Option<WallTime>, now: WallTime) -> bool {
        let is_older = |time: WallTime, than: Duration| time.nanos_since(self.saved) > than.as_nanos() as i64;
        (!self.stopped && is_older(now, TRUSTED_FOR)) || written.is_some_and(|time| is_older(time, WRITTEN_WITHIN))
    }

    /// Reads the records of the previous run from `file`, if there are any, and judges whether they are complete.
    pub fn load_list(file: &StateFile, now: WallTime) -> (Vec<NotifiedRecord>, RecordState) {
        let (kept, newest) = load_newest::<Vec<KeptLog>>(file, "notification log", "receivers may keep old alarms");
        let Some(kept) = kept.and_then(|kept| kept.into_iter().next()) else {
            return (Vec::new(), RecordState::Incomplete);
        };
        let is_complete = newest == Newest::Yes && !kept.may_be_outdated(file.written(), now);
        (kept.records, if is_complete { RecordState::Complete(kept.lost_records) } else { RecordState::Incomplete })
    }

    /// Saves the log, and gives up after [`SAVE_WITHIN`].
    pub async fn save(self, file: StateFile) -> Result<(), SaveError> {
        let saved = tokio::task::spawn_blocking(move || file.save(&[self]));
        match tokio::time::timeout(SAVE_WITHIN, saved).await {
            Ok(saved) => Ok(saved??),
            Err(_) => Err(SaveError::TimedOut),
        }
    }
}

/// Returns the file of a receiver. Agents of several hosts may share a directory: each has its own file.
pub fn log_file(directory: &Path, agent: &str, config: &SinkConfig) -> StateFile {
    StateFile::new(directory, KIND, &format!("{agent} {}", config.receiver()))
}

/// Returns whether a notification log of this receiver is kept for an agent of this name.
pub fn has_log(directory: &Path, agent: &str, config: &SinkConfig) -> bool {
    log_file(directory, agent, config).exists()
}

/// Warns of receivers that an earlier run notified of alarms and that are not configured any more, because no sink can
/// clear those alarms.
pub fn warn_of_unconfigured_receivers(directory: &Path, agent: &str, plans: &[SinkPlan]) {
    let known = plans.iter().map(|plan| log_file(directory, agent, &plan.config).path().to_owned()).collect();
    for forgotten in StateFile::others(directory, KIND, &format!("{agent} "), &known) {
        let Ok(Found::State(logs)) = forgotten.load::<Vec<KeptLog>>() else { continue };
        let raised = logs.iter().flat_map(|log| &log.records).filter(|record| record.notification.is_raised()).count();
        if raised > 0 {
            let path = forgotten.path().display().to_string();
            let help = "configure that sink again to have them cleared there, or remove the file";
            warn!(path, alarms = raised, help, "a receiver that is no longer configured was notified of alarms");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::plan::Plan;
    use crate::io::time;
    use crate::pure::notify::log::{DeliveryMode, InitialClear, NotificationPolicy};

    fn kept(saved: WallTime, stopped: bool) -> KeptLog {
        KeptLog { saved, stopped, lost_records: None, records: Vec::new() }
    }

    fn before(now: WallTime, seconds: u64) -> WallTime {
        WallTime::from_unix_nanos(now.unix_nanos() - seconds * 1_000_000_000)
    }

    fn recalled(file: &StateFile) -> RecordState {
        KeptLog::load_list(file, time::now().wall).1
    }

    #[test]
    fn log_of_the_last_run_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path(), KIND, "a noc");
        assert_eq!(recalled(&file), RecordState::Incomplete, "no file");
        for stopped in [false, true] {
            file.save(&[kept(time::now().wall, stopped)]).unwrap();
            assert_eq!(recalled(&file), RecordState::Complete(None));
        }
    }

    /// A minute is less than the age at which every file is in doubt.
    #[test]
    fn restored_file_is_doubtful_however_young_and_however_its_agent_stopped() {
        for stopped in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let file = StateFile::new(directory.path(), KIND, "a noc");
            file.save(&[kept(before(time::now().wall, 60), stopped)]).unwrap();
            // Written back now, as a back-up of a minute ago is.
            let octets = fs::read(file.path()).unwrap();
            fs::remove_file(file.path()).unwrap();
            fs::write(file.path(), octets).unwrap();
            assert_eq!(recalled(&file), RecordState::Incomplete, "stopped: {stopped}");
        }
    }

    #[test]
    fn file_of_a_killed_agent_is_doubtful_once_it_is_older_than_two_saves() {
        let now = time::now().wall;
        let written = Some(before(now, 3600));
        assert!(kept(before(now, 3600), false).may_be_outdated(written, now));
        assert!(!kept(before(now, 3600), true).may_be_outdated(written, now));
    }

    #[test]
    fn copy_before_a_damaged_file_is_doubtful() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path(), KIND, "a noc");
        for _ in 0..2 {
            file.save(&[kept(time::now().wall, true)]).unwrap();
        }
        fs::write(file.path(), "damaged").unwrap();
        assert_eq!(recalled(&file), RecordState::Incomplete);
    }

    #[test]
    fn lost_records_are_restored_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path(), KIND, "a noc");
        let (now, plan) = (time::now(), Plan::of_bootstrap(&[], "a").alarms);
        let policy = NotificationPolicy {
            initial_clear: InitialClear::Silent,
            delivery_mode: DeliveryMode::Acknowledged,
            ..plan.sinks[0].policy.clone()
        };
        let mut log = NotificationLog::new("a", policy, now.moment);
        log.load(Vec::new(), RecordState::Incomplete, plan.rules.hold_down, now);
        file.save(&[KeptLog::new(&log, true, now.wall)]).unwrap();
        assert!(matches!(recalled(&file), RecordState::Complete(Some(_))));
    }
}
