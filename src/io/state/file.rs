//! State that survives a restart: written atomically, verified when read, with the previous copy beside it.
//!
//! The main type is [`StateFile`]; [`load_list`] reads a list and logs problems, and [`lock`] prevents two agents from
//! using the same state.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::io::error_chain::error_chain;
use crate::pure::base::time::WallTime;

/// Start of the first line of each file; the SHA-256 of the remaining lines in hex follows it.
const HEADER: &str = "peerpair-state-1 ";

/// Handle to one file in the state directory.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Lock that permits one writer at a time.
    writing: Arc<Mutex<()>>,
}

/// Error of writing or reading state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An operation of the file system failed.
    #[error("{action} {path}")]
    Io {
        /// Operation that failed, as a verb for the message.
        action: &'static str,
        /// Path on which the operation was tried.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Another thread is still writing the file.
    #[error("{0} is still being written")]
    Busy(PathBuf),
    /// The state cannot be encoded as JSON.
    #[error("write state as JSON")]
    Encode(#[from] serde_json::Error),
}

/// Result of reading a state file.
#[derive(Debug, PartialEq)]
pub enum Found<T> {
    /// The state was read and its checksum is right.
    State(T),
    /// The newest copy is damaged and was moved to this path; the first value is the previous copy, if intact.
    Previous(Option<T>, PathBuf),
    /// Neither the file nor an intact previous copy exists.
    Nothing,
}

impl StateFile {
    /// Creates the handle for the state of `kind` that belongs to `owner`, in `directory`. The file name contains the
    /// owner as far as file names permit, and a hash that distinguishes similar owners.
    pub fn new(directory: &Path, kind: &str, owner: &str) -> Self {
        const READABLE: usize = 60;
        const DISTINCT: usize = 8;
        let readable: String = owner.chars().take(READABLE).map(plain).collect();
        let name = format!("{kind}-{readable}-{}", &checksum(owner.as_bytes())[..DISTINCT]);
        StateFile { path: directory.join(name), writing: Arc::default() }
    }

    /// Writes the state to a temporary file, syncs it, and renames it over the current file, which is kept as the
    /// previous copy. If another writer is still at work, for example on a hung disk, the call fails with
    /// `StateError::Busy` instead of waiting.
    pub fn save<T: Serialize>(&self, state: &T) -> Result<(), StateError> {
        let body = serde_json::to_vec(state)?;
        let _alone = match self.writing.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StateError::Busy(self.path.clone())),
        };
        let temporary = self.sibling("tmp");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { action, path, source }
        };
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
        }
        // The state contains communities and names of receivers, so that only the owner may read it.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(failed("create", &temporary))?;
        file.write_all(format!("{HEADER}{}\n", checksum(&body)).as_bytes())
            .and_then(|()| file.write_all(&body))
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &temporary))?;
        let previous = self.sibling("previous");
        match fs::rename(&self.path, &previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("keep", &previous)(error)),
            _ => {}
        }
        fs::rename(&temporary, &self.path).map_err(failed("replace", &self.path))?;
        if let Some(directory) = self.path.parent() {
            // Makes the renames durable. Some file systems do not support it; the state is in place in any case.
            let _best_effort = File::open(directory).and_then(|directory| directory.sync_all());
        }
        Ok(())
    }

    /// Reads the state. A damaged file is moved aside and the previous copy returned; it is never a fatal error.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Found<T>, StateError> {
        match read(&self.path)? {
            Content::Good(state) => return Ok(Found::State(state)),
            Content::Damaged => {}
            // Between the two renames of `save`, only the previous copy exists.
            Content::Absent => {
                return Ok(match read(&self.sibling("previous"))? {
                    Content::Good(state) => Found::State(state),
                    Content::Damaged | Content::Absent => Found::Nothing,
                });
            }
        }
        let excluded = self.sibling("damaged");
        fs::rename(&self.path, &excluded).map_err(|source| StateError::Io {
            action: "set aside",
            path: self.path.clone(),
            source,
        })?;
        let previous = match read(&self.sibling("previous"))? {
            Content::Good(state) => Some(state),
            Content::Damaged | Content::Absent => None,
        };
        Ok(Found::Previous(previous, excluded))
    }

    /// Removes the file and its previous and temporary copies.
    pub fn remove(&self) {
        for path in [self.path.clone(), self.sibling("previous"), self.sibling("tmp")] {
            // A file that does not exist counts as removed.
            let _ignored = fs::remove_file(path);
        }
    }

    /// Returns whether the file or its previous copy exists.
    pub fn exists(&self) -> bool {
        self.path.exists() || self.sibling("previous").exists()
    }

    /// Returns when the file system changed the file last. A file that is copied or restored gets the time of that.
    pub fn written(&self) -> Option<WallTime> {
        let changed = fs::metadata(&self.path).or_else(|_| fs::metadata(self.sibling("previous"))).ok()?;
        let seconds = u64::try_from(changed.ctime()).ok()?;
        let nanos = u64::try_from(changed.ctime_nsec()).ok()?;
        Some(WallTime::from_unix_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files of this kind in `directory` whose owner starts with `owner`, except those in `known`.
    pub fn others(directory: &Path, kind: &str, owner: &str, known: &BTreeSet<PathBuf>) -> Vec<StateFile> {
        let start = format!("{kind}-{}", owner.chars().map(plain).collect::<String>());
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let others = paths.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let copy = [".tmp", ".previous", ".damaged"].iter().any(|ending| name.ends_with(ending));
            name.starts_with(&start) && !copy && !known.contains(path)
        });
        others.map(|path| StateFile { path, writing: Arc::default() }).collect()
    }

    fn sibling(&self, ending: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(ending);
        name.into()
    }
}

/// Whether the copy that was read is the newest that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// The newest copy was read.
    Yes,
    /// The newest copy was damaged, or no copy could be read.
    No,
}

/// Reads a stored list, and logs a warning if it is damaged or unreadable. `what` names the list in the log, and
/// `loss` is the consequence of losing it.
pub fn load_list<T: DeserializeOwned>(file: &StateFile, what: &str, loss: &str) -> Vec<T> {
    load_newest(file, what, loss).0.unwrap_or_default()
}

/// Reads state that was kept, and returns whether it is the newest. Damage is logged: `what` names the state, `loss`
/// what follows if it is lost.
pub fn load_newest<T: DeserializeOwned>(file: &StateFile, what: &str, loss: &str) -> (Option<T>, Newest) {
    match file.load() {
        Ok(Found::State(state)) => (Some(state), Newest::Yes),
        Ok(Found::Nothing) => (None, Newest::No),
        Ok(Found::Previous(Some(state), excluded)) => {
            let excluded = excluded.display().to_string();
            warn!(what, excluded, "kept state was damaged and set aside; the previous copy is used");
            (Some(state), Newest::No)
        }
        Ok(Found::Previous(None, excluded)) => {
            let excluded = excluded.display().to_string();
            warn!(what, excluded, loss, "kept state was damaged and set aside");
            (None, Newest::No)
        }
        Err(error) => {
            warn!(what, problem = error_chain(&error), loss, "kept state cannot be read");
            (None, Newest::No)
        }
    }
}

/// Checks that files can be written and removed in `directory`.
pub fn check_writable(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!("examined-{}", std::process::id()));
    File::create(&path).and_then(|file| file.sync_all())?;
    fs::remove_file(path)
}

/// Replaces a character that is unsuitable for file names with an underscore.
fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }
}

/// Locks `directory` for `owner` while the returned file is open. Returns `None` if another process holds the lock.
pub fn lock(directory: &Path, owner: &str) -> io::Result<Option<File>> {
    fs::create_dir_all(directory)?;
    let name = format!("lock-{}", owner.chars().map(plain).collect::<String>());
    let file = File::options().create(true).append(true).open(directory.join(name))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

enum Content<T> {
    Good(T),
    Damaged,
    Absent,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Content<T>, StateError> {
    let octets = match fs::read(path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
        Err(source) => return Err(StateError::Io { action: "read", path: path.to_owned(), source }),
    };
    let parts = octets.strip_prefix(HEADER.as_bytes()).and_then(|rest| {
        let newline = rest.iter().position(|&octet| octet == b'\n')?;
        Some((&rest[..newline], &rest[newline + 1..]))
    });
    let Some((sum, body)) = parts else { return Ok(Content::Damaged) };
    if sum != checksum(body).as_bytes() {
        return Ok(Content::Damaged);
    }
    Ok(serde_json::from_slice(body).map_or(Content::Damaged, Content::Good))
}

fn checksum(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, StateFile) {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(&directory.path().join("not/yet"), "told", "noc/1");
        (directory, file)
    }

    #[test]
    fn last_saved_state_is_loaded() {
        let (_directory, file) = file();
        assert_eq!(file.load::<u32>().unwrap(), Found::Nothing);
        file.save(&1u32).unwrap();
        file.save(&2u32).unwrap();
        assert_eq!(file.load::<u32>().unwrap(), Found::State(2));
    }

    #[test]
    fn damage_at_any_octet_is_detected_and_the_file_set_aside() {
        let (_directory, file) = file();
        file.save(&vec![1u32]).unwrap();
        file.save(&vec![2u32]).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for octet in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[octet] ^= 1;
            fs::write(&file.path, &damaged).unwrap();
            let excluded = file.sibling("damaged");
            assert_eq!(file.load::<Vec<u32>>().unwrap(), Found::Previous(Some(vec![1]), excluded));
        }
        fs::write(&file.path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(file.load::<Vec<u32>>().unwrap(), Found::Previous(Some(_), _)));
    }

    #[test]
    fn others_returns_files_of_unknown_owners() {
        let directory = tempfile::tempdir().unwrap();
        let file = |owner: &str| StateFile::new(directory.path(), "told", owner);
        for owner in ["a noc", "a old", "b noc"] {
            file(owner).save(&1u32).unwrap();
            file(owner).save(&2u32).unwrap();
        }
        let known = BTreeSet::from([file("a noc").path().to_owned()]);
        let others = StateFile::others(directory.path(), "told", "a ", &known);
        assert_eq!(others.iter().map(StateFile::path).collect::<Vec<_>>(), [file("a old").path()]);
    }

    #[test]
    fn lock_is_refused_while_another_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path(), "a").unwrap();
        assert!(first.is_some());
        assert!(lock(directory.path(), "a").unwrap().is_none());
        assert!(lock(directory.path(), "b").unwrap().is_some());
        drop(first);
        assert!(lock(directory.path(), "a").unwrap().is_some());
    }

    #[test]
    fn state_is_loaded_after_a_crash_between_the_renames() {
        let (_directory, file) = file();
        file.save(&1u32).unwrap();
        fs::rename(&file.path, file.sibling("previous")).unwrap();
        assert_eq!(file.load::<u32>().unwrap(), Found::State(1));
    }
}
