//! State that survives a restart: written atomically, checked on reading, with the copy before.

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

use super::causes::describe;
use crate::pure::time::WallTime;

/// The first line of each file, followed by the SHA-256 of the rest in hex.
const HEADER: &str = "peerpair-state-1 ";

/// One file in the state directory.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    /// One writer at a time.
    writing: Arc<Mutex<()>>,
}

/// Why state could not be kept or had again.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is still being written by somebody.
    #[error("{0} is still being written")]
    Busy(PathBuf),
    /// The state cannot be written as JSON.
    #[error("write state as JSON")]
    Encode(#[from] serde_json::Error),
}

/// What was found on reading.
#[derive(Debug, PartialEq)]
pub enum Found<T> {
    /// The state.
    State(T),
    /// The newest copy is damaged and was set aside at this path; this is the copy before it.
    Previous(Option<T>, PathBuf),
    /// There is none yet.
    Nothing,
}

impl StateFile {
    /// What is kept of `kind` for `owner`, in `directory`. The name is readable as far as a file's
    /// name can be, and different for different owners.
    pub fn new(directory: &Path, kind: &str, owner: &str) -> Self {
        const READABLE: usize = 60;
        const DISTINCT: usize = 8;
        let readable: String = owner.chars().take(READABLE).map(plain).collect();
        let name = format!("{kind}-{readable}-{}", &checksum(owner.as_bytes())[..DISTINCT]);
        StateFile { path: directory.join(name), writing: Arc::default() }
    }

    /// Writes the state: a temporary file, made durable, takes the place of the one before, which
    /// is kept beside it. Nobody waits for an earlier writer that hangs: what he writes is older.
    pub fn save<T: Serialize>(&self, state: &T) -> Result<(), StateError> {
        let body = serde_json::to_vec(state)?;
        let _alone = match self.writing.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StateError::Busy(self.path.clone())),
        };
        let temporary = self.beside("tmp");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { action, path, source }
        };
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
        }
        // What is kept names communities and receivers: nobody else's business.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(failed("create", &temporary))?;
        file.write_all(format!("{HEADER}{}\n", checksum(&body)).as_bytes())
            .and_then(|()| file.write_all(&body))
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &temporary))?;
        let previous = self.beside("previous");
        match fs::rename(&self.path, &previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("keep", &previous)(error)),
            _ => {}
        }
        fs::rename(&temporary, &self.path).map_err(failed("replace", &self.path))?;
        if let Some(directory) = self.path.parent() {
            // Makes the renames durable. Some file systems cannot; the state is in place all the same.
            let _best_effort = File::open(directory).and_then(|directory| directory.sync_all());
        }
        Ok(())
    }

    /// Reads the state. A damaged file is set aside, never fatal.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Found<T>, StateError> {
        match read(&self.path)? {
            Content::Good(state) => return Ok(Found::State(state)),
            Content::Damaged => {}
            // Between the two renames of `save` only the copy before exists.
            Content::Absent => {
                return Ok(match read(&self.beside("previous"))? {
                    Content::Good(state) => Found::State(state),
                    Content::Damaged | Content::Absent => Found::Nothing,
                });
            }
        }
        let aside = self.beside("damaged");
        fs::rename(&self.path, &aside).map_err(|source| StateError::Io {
            action: "set aside",
            path: self.path.clone(),
            source,
        })?;
        let previous = match read(&self.beside("previous"))? {
            Content::Good(state) => Some(state),
            Content::Damaged | Content::Absent => None,
        };
        Ok(Found::Previous(previous, aside))
    }

    /// Removes it, with the copies beside it.
    pub fn remove(&self) {
        for path in [self.path.clone(), self.beside("previous"), self.beside("tmp")] {
            // A file that does not exist counts as removed.
            let _gone_already = fs::remove_file(path);
        }
    }

    /// Returns whether the file exists.
    pub fn exists(&self) -> bool {
        self.path.exists() || self.beside("previous").exists()
    }

    /// Returns when the file system changed the file last. A file that is copied or restored gets the time of that.
    pub fn written(&self) -> Option<WallTime> {
        let changed = fs::metadata(&self.path).or_else(|_| fs::metadata(self.beside("previous"))).ok()?;
        let seconds = u64::try_from(changed.ctime()).ok()?;
        let nanos = u64::try_from(changed.ctime_nsec()).ok()?;
        Some(WallTime::from_unix_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files of this kind in `directory` whose owner begins so, beside those that are `known`.
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

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(ending);
        name.into()
    }
}

/// Whether the copy that was read is the newest that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// The newest.
    Yes,
    /// The newest was damaged, or nothing could be read.
    No,
}

/// Reads a list that was kept; an empty one where there is none. Damage is logged: `what` names the list, `loss` what
/// follows if it is lost.
pub fn recall<T: DeserializeOwned>(file: &StateFile, what: &str, loss: &str) -> Vec<T> {
    recall_newest(file, what, loss).0.unwrap_or_default()
}

/// Reads state that was kept, and returns whether it is the newest. Damage is logged: `what` names the state, `loss`
/// what follows if it is lost.
pub fn recall_newest<T: DeserializeOwned>(file: &StateFile, what: &str, loss: &str) -> (Option<T>, Newest) {
    match file.load() {
        Ok(Found::State(state)) => (Some(state), Newest::Yes),
        Ok(Found::Nothing) => (None, Newest::No),
        Ok(Found::Previous(Some(state), aside)) => {
            let aside = aside.display().to_string();
            warn!(what, aside, "kept state was damaged and set aside; going on with the copy before");
            (Some(state), Newest::No)
        }
        Ok(Found::Previous(None, aside)) => {
            let aside = aside.display().to_string();
            warn!(what, aside, loss, "kept state was damaged and set aside");
            (None, Newest::No)
        }
        Err(error) => {
            warn!(what, problem = describe(&error), loss, "kept state cannot be read");
            (None, Newest::No)
        }
    }
}

/// Whether state can be kept in `directory`.
pub fn examine(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!("examined-{}", std::process::id()));
    File::create(&path).and_then(|file| file.sync_all())?;
    fs::remove_file(path)
}

/// What a file's name can bear.
fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }
}

/// Marks `directory` as in use by `owner` while the file is open. Nothing if another process has
/// marked it already.
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
    fn comes_back() {
        let (_directory, file) = file();
        assert_eq!(file.load::<u32>().unwrap(), Found::Nothing);
        file.save(&1u32).unwrap();
        file.save(&2u32).unwrap();
        assert_eq!(file.load::<u32>().unwrap(), Found::State(2));
    }

    #[test]
    fn every_damage_is_found_and_set_aside() {
        let (_directory, file) = file();
        file.save(&vec![1u32]).unwrap();
        file.save(&vec![2u32]).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for octet in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[octet] ^= 1;
            fs::write(&file.path, &damaged).unwrap();
            let aside = file.beside("damaged");
            assert_eq!(file.load::<Vec<u32>>().unwrap(), Found::Previous(Some(vec![1]), aside));
        }
        fs::write(&file.path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(file.load::<Vec<u32>>().unwrap(), Found::Previous(Some(_), _)));
    }

    #[test]
    fn what_no_owner_is_left_for_is_found() {
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
    fn one_owner_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path(), "a").unwrap();
        assert!(first.is_some());
        assert!(lock(directory.path(), "a").unwrap().is_none());
        assert!(lock(directory.path(), "b").unwrap().is_some());
        drop(first);
        assert!(lock(directory.path(), "a").unwrap().is_some());
    }

    #[test]
    fn a_crash_between_the_renames_loses_nothing() {
        let (_directory, file) = file();
        file.save(&1u32).unwrap();
        fs::rename(&file.path, file.beside("previous")).unwrap();
        assert_eq!(file.load::<u32>().unwrap(), Found::State(1));
    }
}
