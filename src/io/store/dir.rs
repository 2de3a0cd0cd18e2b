//! Documents as files in a directory: `config.json`, `hosts/<host>.toml`, `sets/<name>.json`, `tests/<host>/<id>.json`.
//! [`Dir`] lists them, watches the directory by file system notifications and a periodic rescan, and writes single
//! documents. A file that cannot be read rejects only itself; an unreadable directory is an error. Files whose metadata
//! did not change are not read again.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::origin::Origin;
use super::{Conflict, DEBOUNCE, ReadScope, RetryClass, Snapshot, StoreError, Watched};
use crate::config::document::deserialize::Format;
use crate::config::document::raw::{
    Documents, GLOBAL_KEY, HOSTS_PREFIX, RawDocument, SETS_PREFIX, TESTS_PREFIX, tests_prefix,
};

/// Interval after which the directory is read even without a notification: a directory that was replaced as a whole, or
/// one behind a symbolic link, sends none.
const RESCAN_INTERVAL: Duration = Duration::from_secs(15);

/// Time without progress to the next file after which a file system counts as hanging.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Age that a change must have before a file's metadata identifies its content: file system times are coarse, so a
/// second change soon after the first could have the same time.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Directory of documents as a store, with the state that lets a later listing skip unchanged files.
pub struct Dir {
    root: PathBuf,
    concern: ReadScope,
    revision: u64,
    documents: Option<Documents>,
    /// Content of the files that were read, by path, reused while their metadata stays the same.
    files: Files,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Blocking read that has not ended yet; a later listing waits for it instead of starting another.
    reading: Option<JoinHandle<Read>>,
    /// Number of files read so far, by which a slow read is distinguished from a hanging one.
    progress: Arc<AtomicU64>,
}

struct Read {
    watcher: Option<RecommendedWatcher>,
    documents: io::Result<Documents>,
    files: Files,
}

/// Files with known content, by their path below the root.
type Files = HashMap<String, (Stamp, Arc<RawDocument>)>;

/// Metadata that identifies a file's content: as long as it stays the same, the content is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    octets: u64,
    changed: (i64, i64),
}

impl Dir {
    /// Creates a reader of the directory at `root` for the given concern; nothing is read yet.
    pub fn new(root: PathBuf, concern: ReadScope) -> Self {
        let changed = Arc::default();
        Dir {
            root,
            concern,
            revision: 0,
            documents: None,
            files: Files::new(),
            changed,
            watcher: None,
            reading: None,
            progress: Arc::default(),
        }
    }

    /// Reads all files. The snapshot's revision counts the listings that found a change.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        let place = self.root.display().to_string();
        let failed = |problem: String| StoreError::new(&place, problem, RetryClass::Quick);
        // A file system that hangs blocks one thread, however often it is listed.
        let mut reading = self.reading.take().unwrap_or_else(|| {
            let (root, concern, changed) = (self.root.clone(), self.concern.clone(), self.changed.clone());
            let (known, progress) = (std::mem::take(&mut self.files), self.progress.clone());
            tokio::task::spawn_blocking(move || {
                // The watch starts before the read, so that no change between them is missed.
                let watcher = watch_files(&root, changed);
                let mut tree = Tree { progress, ..Tree::new(&root, known, SystemTime::now()) };
                let read = tree.read(&concern);
                Read { watcher, documents: read.map(|()| tree.documents), files: tree.files }
            })
        });
        let Read { watcher, documents, files } = loop {
            let before = self.progress.load(Ordering::Relaxed);
            match timeout(READ_TIMEOUT, &mut reading).await {
                Ok(Ok(read)) => break read,
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(_) if self.progress.load(Ordering::Relaxed) != before => {}
                Err(_) => {
                    self.reading = Some(reading);
                    return Err(failed(format!("no answer within {}", humantime::format_duration(READ_TIMEOUT))));
                }
            }
        };
        (self.watcher, self.files) = (watcher, files);
        let mut documents = documents.map_err(|error| failed(error.to_string()))?;
        if self.documents.as_ref() != Some(&documents) {
            self.revision += 1;
            // Unchanged documents keep their `Arc`, so that later comparisons are by pointer.
            for (key, document) in &mut documents {
                let before = self.documents.as_ref().and_then(|before| before.get(key));
                if let Some(before) = before.filter(|before| *before == document) {
                    document.clone_from(before);
                }
            }
            self.documents = Some(documents.clone());
        }
        let misplaced_documents = match self.concern {
            ReadScope::Fleet => misplaced_documents(&self.root),
            ReadScope::Host(_) => Vec::new(),
        };
        let remark = (!misplaced_documents.is_empty())
            .then(|| format!("no valid key for a document: {}", misplaced_documents.join(", ")));
        let origin = Origin::Directory(place.clone());
        Ok(Snapshot { revision: self.revision, documents, origin, remark })
    }

    pub(super) async fn watch(&mut self) -> Result<Watched, StoreError> {
        // After a notification as after the interval, the tree is read again and compared.
        if timeout(RESCAN_INTERVAL, self.changed.notified()).await.is_ok() {
            sleep(DEBOUNCE).await;
        }
        Ok(Watched::Doubt)
    }

    /// Writes a document by an atomic rename, or removes it if `text` is `None`, at the path of its present file;
    /// returns a conflict if that file has changed since the last listing. A TOML file is replaced by a JSON file.
    pub(super) fn write(&self, key: &str, text: Option<&str>) -> Result<Result<(), Conflict>, StoreError> {
        let plain = |segment: &str| !segment.is_empty() && !segment.starts_with('.') && !segment.contains('\0');
        if !key.split('/').all(plain) {
            let problem = format!("`{key}` is not a name for a file");
            return Err(StoreError::new(&self.root.display().to_string(), problem, RetryClass::Slow));
        }
        let known = self.documents.as_ref().and_then(|documents| documents.get(key));
        let path = self.root.join(known.map_or_else(|| format!("{key}.json"), |known| known.place.clone()));
        let failed =
            |error: io::Error| StoreError::new(&path.display().to_string(), error.to_string(), RetryClass::Quick);
        let there = match fs::read_to_string(&path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if there.as_deref() != known.map(|known| known.text.as_str()) {
            return Ok(Err(Conflict));
        }
        let Some(text) = text else {
            fs::remove_file(&path).map_err(failed)?;
            return Ok(Ok(()));
        };
        // JSON that replaces TOML goes to a file with another extension.
        let written = path.with_extension("json");
        if let Some(directory) = written.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut temporary = written.clone().into_os_string();
        temporary.push(".tmp");
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &written)).map_err(failed)?;
        if path != written && there.is_some() {
            fs::remove_file(&path).map_err(failed)?;
        }
        Ok(Ok(()))
    }
}

/// Starts to watch the directory. Each listing starts a new watch, since the directory may have been replaced by
/// another of the same name. Without notifications, the periodic rescan still finds changes.
fn watch_files(root: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Access events are skipped, because the agent's own reads cause them.
        if event.map_or(true, |event| !event.kind.is_access()) {
            changed.notify_one();
        }
    });
    let mut watcher = watcher.ok()?;
    watcher.watch(root, RecursiveMode::Recursive).ok()?;
    Some(watcher)
}

/// Single pass over the directory; it reads changed files and reuses the known content of the others.
struct Tree<'a> {
    root: &'a Path,
    now: SystemTime,
    known: Files,
    files: Files,
    documents: Documents,
    progress: Arc<AtomicU64>,
}

impl<'a> Tree<'a> {
    fn new(root: &'a Path, known: Files, now: SystemTime) -> Self {
        Tree { root, now, known, files: Files::new(), documents: Documents::new(), progress: Arc::default() }
    }

    /// Reads the documents of the concern. The root must be readable; a file that is not readable rejects only itself.
    fn read(&mut self, concern: &ReadScope) -> io::Result<()> {
        fs::read_dir(self.root)?;
        self.read_document(GLOBAL_KEY);
        let mut directories = vec![HOSTS_PREFIX.to_owned(), SETS_PREFIX.to_owned()];
        match concern {
            ReadScope::Host(host) => directories.push(tests_prefix(host)),
            ReadScope::Fleet => {
                for entry in fs::read_dir(self.root.join(TESTS_PREFIX)).into_iter().flatten() {
                    let host = entry?.file_name();
                    if !host.to_string_lossy().starts_with('.') {
                        directories.push(tests_prefix(&host.to_string_lossy()));
                    }
                }
            }
        }
        directories.iter().try_for_each(|prefix| self.read_directory(prefix))
    }

    fn read_directory(&mut self, prefix: &str) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(prefix)) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let (Some(stem), Some(ending)) = (path.file_stem(), path.extension()) else { continue };
            let (stem, ending) = (stem.to_string_lossy(), ending.to_string_lossy());
            let key = format!("{prefix}{stem}");
            match ending.as_ref() {
                _ if stem.starts_with('.') => {}
                "json" | "toml" => self.read_document(&key),
                "yaml" | "yml" => {
                    let problem = "document files end in .json or .toml".to_owned();
                    let place = format!("{key}.{ending}");
                    self.documents.insert(place.clone(), Arc::new(unreadable(place, Format::Json, problem)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_document(&mut self, key: &str) {
        let files = [(format!("{key}.json"), Format::Json), (format!("{key}.toml"), Format::Toml)];
        let found: Vec<_> = files.into_iter().filter_map(|(place, format)| self.read_file(place, format)).collect();
        let document = match found.as_slice() {
            [] => return,
            [document] => document.clone(),
            [first, second, ..] => {
                let problem = format!("{} and {} have the same document key", first.place, second.place);
                Arc::new(unreadable(first.place.clone(), first.format, problem))
            }
        };
        self.documents.insert(key.to_owned(), document);
    }

    /// Reads one file; returns `None` only if it does not exist. A file that cannot be read gives an unreadable
    /// document.
    fn read_file(&mut self, place: String, format: Format) -> Option<Arc<RawDocument>> {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(&place);
        let metadata = path.metadata();
        // Reading anything else, such as a pipe or a device, may block for ever.
        if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file()) {
            return Some(Arc::new(unreadable(place, format, "not a regular file".to_owned())));
        }
        let stamp = metadata.ok().and_then(|metadata| Stamp::of(&metadata, self.now));
        if let Some((known, document)) = self.known.remove(&place)
            && Some(known) == stamp
        {
            self.files.insert(place, (known, document.clone()));
            return Some(document);
        }
        match fs::read_to_string(&path) {
            Ok(text) => {
                let directory = path.parent().map(Path::to_owned);
                let document = RawDocument { text, format, place, unreadable: None, directory, version: 0 };
                let document = Arc::new(document);
                let kept = stamp.map(|stamp| (document.place.clone(), (stamp, document.clone())));
                self.files.extend(kept);
                Some(document)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => None,
            Err(error) => Some(Arc::new(unreadable(place, format, error.to_string()))),
        }
    }
}

impl Stamp {
    /// Returns the stamp of a file, or `None` if the file changed so recently that the stamp would be ambiguous.
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).ok()?);
        let has_settled = now.duration_since(changed).is_ok_and(|age| age > SETTLE_TIME);
        has_settled.then(|| Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            octets: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Lists documents and directories at paths that no agent reads, such as a misspelt directory; only for the whole
/// fleet.
fn misplaced_documents(root: &Path) -> Vec<String> {
    let document = |path: &Path| path.extension().is_some_and(|ending| ending == "json" || ending == "toml");
    let entries = |path: &Path| -> Vec<(String, PathBuf)> {
        let found = fs::read_dir(path).into_iter().flatten().flatten();
        let named = found.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        named.filter(|(name, _)| !name.starts_with('.')).collect()
    };
    let mut misplaced_documents = Vec::new();
    for (name, path) in entries(root) {
        let known = [HOSTS_PREFIX, SETS_PREFIX, TESTS_PREFIX].iter().any(|prefix| prefix.trim_end_matches('/') == name);
        match path.is_dir() {
            false if document(&path) && path.file_stem().is_none_or(|stem| stem != GLOBAL_KEY) => {
                misplaced_documents.push(name)
            }
            false => {}
            true if !known => {
                if entries(&path).iter().any(|(_, path)| path.is_dir() || document(path)) {
                    misplaced_documents.push(format!("{name}/"));
                }
            }
            true => {
                let within = entries(&path).into_iter().filter(|(_, path)| path.is_dir());
                // Tests are stored one directory deeper than hosts and sets.
                let deeper = within.flat_map(|(below, path)| match format!("{name}/") == TESTS_PREFIX {
                    true => entries(&path)
                        .into_iter()
                        .filter(|(_, path)| path.is_dir())
                        .map(|(file, _)| format!("{name}/{below}/{file}/"))
                        .collect(),
                    false => vec![format!("{name}/{below}/")],
                });
                misplaced_documents.extend(deeper);
            }
        }
    }
    misplaced_documents.sort();
    misplaced_documents
}

fn unreadable(place: String, format: Format, problem: String) -> RawDocument {
    RawDocument { text: String::new(), format, place, unreadable: Some(problem), directory: None, version: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_a() -> ReadScope {
        ReadScope::Host("a".to_owned())
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read_tree(root: &Path, concern: &ReadScope) -> io::Result<Documents> {
        let mut tree = Tree::new(root, Files::new(), SystemTime::now());
        tree.read(concern).map(|()| tree.documents)
    }

    #[test]
    fn a_file_is_read_again_only_if_it_may_have_changed() {
        let root = tree(&[("hosts/a.json", "[1]")]);
        let read = |known: Files, later: u64| {
            let mut tree = Tree::new(root.path(), known, SystemTime::now() + Duration::from_secs(later));
            tree.read(&host_a()).unwrap();
            (tree.documents["hosts/a"].text.clone(), tree.files)
        };
        let (_, just_changed) = read(Files::new(), 0);
        assert_eq!(just_changed.len(), 0);

        // The reused content is altered, so that reuse can be distinguished from a new read.
        let (_, mut known) = read(Files::new(), 10);
        let (stamp, document) = known.remove("hosts/a.json").unwrap();
        let document = Arc::new(RawDocument { text: "known".to_owned(), ..document.as_ref().clone() });
        known.insert("hosts/a.json".to_owned(), (stamp, document));
        let (text, known) = read(known, 10);
        assert_eq!(text, "known");

        fs::write(root.path().join("hosts/a.new"), "[2]").unwrap();
        fs::rename(root.path().join("hosts/a.new"), root.path().join("hosts/a.json")).unwrap();
        assert_eq!(read(known, 10).0, "[2]");
    }

    #[test]
    fn only_documents_of_own_host_are_read() {
        let root = tree(&[
            ("config.toml", "enabled = true"),
            ("hosts/a.json", "{}"),
            ("hosts/b.json", "{}"),
            ("tests/a/x.json", "{}"),
            ("tests/a/y.toml", ""),
            ("tests/a/.x.json", "{}"),
            ("tests/a/x.json~", "{}"),
            ("tests/a/x.json.tmp", "{}"),
            ("tests/b/z.json", "{}"),
        ]);
        let documents = read_tree(root.path(), &host_a()).unwrap();
        assert_eq!(documents.keys().collect::<Vec<_>>(), ["config", "hosts/a", "hosts/b", "tests/a/x", "tests/a/y"]);
        assert_eq!(documents["tests/a/y"].place, "tests/a/y.toml");
    }

    #[test]
    fn missing_directory_is_an_error_but_empty_one_is_not() {
        let root = tree(&[]);
        assert!(read_tree(&root.path().join("gone"), &host_a()).is_err());
        assert_eq!(read_tree(root.path(), &host_a()).unwrap().len(), 0);
    }

    #[test]
    fn document_in_two_files_is_rejected_with_both_paths() {
        let root = tree(&[("config.json", "{}"), ("config.toml", "")]);
        let documents = read_tree(root.path(), &host_a()).unwrap();
        let problem = documents["config"].unreadable.as_deref();
        assert_eq!(problem, Some("config.json and config.toml have the same document key"));
    }

    #[test]
    fn file_that_is_not_utf8_rejects_only_itself() {
        let root = tree(&[("hosts/a.json", "{}")]);
        fs::write(root.path().join("config.json"), [0xff, 0xfe]).unwrap();
        let documents = read_tree(root.path(), &host_a()).unwrap();
        assert!(documents["config"].unreadable.is_some());
        assert_eq!(documents.len(), 2);
    }
}
