//! Documents as files: `config.json`, `hosts/<host>.toml`, `tests/<host>/<id>.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Snapshot, StoreError, Watched};
use crate::config::load::{Documents, GLOBAL_KEY, HOSTS_PREFIX, RawDocument, tests_prefix};
use crate::config::read::Format;

/// The directory is read this often even if nothing was notified: a directory that was replaced as
/// a whole, or a linked one, notifies nothing.
const RESCAN: Duration = Duration::from_secs(15);

/// A file system that takes longer hangs.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// A directory of documents.
pub struct Dir {
    root: PathBuf,
    host: String,
    revision: u64,
    documents: Option<Documents>,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl Dir {
    /// The directory at `root`, for `host`.
    pub fn new(root: PathBuf, host: &str) -> Self {
        Dir { root, host: host.to_owned(), revision: 0, documents: None, changed: Arc::default(), watcher: None }
    }

    /// Reads all files. The revision counts the times that they were found changed.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        // Watched before it is read, so that nothing falls between.
        self.watch_files();
        let (root, host) = (self.root.clone(), self.host.clone());
        let place = root.display().to_string();
        let read = timeout(READ_WITHIN, tokio::task::spawn_blocking(move || read_tree(&root, &host))).await;
        let documents = match read {
            Ok(Ok(Ok(documents))) => documents,
            Ok(Ok(Err(error))) => return Err(StoreError { place, problem: error.to_string() }),
            Ok(Err(error)) => return Err(StoreError { place, problem: error.to_string() }),
            Err(_) => {
                let problem = format!("no answer within {}", humantime::format_duration(READ_WITHIN));
                return Err(StoreError { place, problem });
            }
        };
        if self.documents.as_ref() != Some(&documents) {
            self.revision += 1;
            self.documents = Some(documents.clone());
        }
        Ok(Snapshot { revision: self.revision, documents })
    }

    pub(super) async fn watch(&mut self) -> Result<Watched, StoreError> {
        // Either way the tree is read again and compared.
        let _notified_or_due = timeout(RESCAN, self.changed.notified()).await;
        Ok(Watched::Changed)
    }

    /// Begins anew each time: the directory may have been replaced by another of its name.
    fn watch_files(&mut self) {
        let changed = self.changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an access.
            if event.map_or(true, |event| !event.kind.is_access()) {
                changed.notify_one();
            }
        });
        // Without notifications there is still the rescan.
        self.watcher = watcher.ok().and_then(|mut watcher| {
            watcher.watch(&self.root, RecursiveMode::Recursive).ok()?;
            Some(watcher)
        });
    }
}

/// Only what concerns the host: its tests, and what all hosts say of themselves. The directory itself must be readable; a file that is not rejects
/// itself.
fn read_tree(root: &Path, host: &str) -> io::Result<Documents> {
    fs::read_dir(root)?;
    let mut documents = Documents::new();
    read_document(root, GLOBAL_KEY, &mut documents);
    for prefix in [HOSTS_PREFIX.to_owned(), tests_prefix(host)] {
        read_directory(root, &prefix, &mut documents)?;
    }
    Ok(documents)
}

fn read_directory(root: &Path, prefix: &str, documents: &mut Documents) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(prefix)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let (Some(stem), Some(ending)) = (path.file_stem(), path.extension()) else { continue };
        let (stem, ending) = (stem.to_string_lossy(), ending.to_string_lossy());
        let key = format!("{prefix}{stem}");
        match ending.as_ref() {
            _ if stem.starts_with('.') => {}
            "json" | "toml" => read_document(root, &key, documents),
            "yaml" | "yml" => {
                let problem = "documents are .json or .toml".to_owned();
                let place = format!("{key}.{ending}");
                documents.insert(place.clone(), unreadable(place, Format::Json, problem));
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_document(root: &Path, key: &str, documents: &mut Documents) {
    let files = [(format!("{key}.json"), Format::Json), (format!("{key}.toml"), Format::Toml)];
    let found: Vec<RawDocument> =
        files.into_iter().filter_map(|(place, format)| read_file(&root.join(&place), place, format)).collect();
    let document = match found.as_slice() {
        [] => return,
        [document] => document.clone(),
        [first, second, ..] => {
            let problem = format!("{} and {} are the same document", first.place, second.place);
            unreadable(first.place.clone(), first.format, problem)
        }
    };
    documents.insert(key.to_owned(), document);
}

/// Nothing only if there is no file: one that cannot be read is there.
fn read_file(path: &Path, place: String, format: Format) -> Option<RawDocument> {
    // Reading anything else, a pipe or a device, may never end.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Some(unreadable(place, format, "not a regular file".to_owned()));
    }
    match fs::read_to_string(path) {
        Ok(text) => {
            Some(RawDocument { text, format, place, unreadable: None, directory: path.parent().map(Path::to_owned) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => None,
        Err(error) => Some(unreadable(place, format, error.to_string())),
    }
}

fn unreadable(place: String, format: Format, problem: String) -> RawDocument {
    RawDocument { text: String::new(), format, place, unreadable: Some(problem), directory: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn only_what_concerns_the_host() {
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
        let documents = read_tree(root.path(), "a").unwrap();
        assert_eq!(documents.keys().collect::<Vec<_>>(), ["config", "hosts/a", "hosts/b", "tests/a/x", "tests/a/y"]);
        assert_eq!(documents["tests/a/y"].place, "tests/a/y.toml");
    }

    #[test]
    fn a_missing_directory_is_no_empty_one() {
        let root = tree(&[]);
        assert!(read_tree(&root.path().join("gone"), "a").is_err());
        assert_eq!(read_tree(root.path(), "a").unwrap().len(), 0);
    }

    #[test]
    fn one_document_in_two_files_is_named() {
        let root = tree(&[("config.json", "{}"), ("config.toml", "")]);
        let documents = read_tree(root.path(), "a").unwrap();
        let problem = documents["config"].unreadable.as_deref();
        assert_eq!(problem, Some("config.json and config.toml are the same document"));
    }

    #[test]
    fn a_file_that_is_no_text_rejects_itself() {
        let root = tree(&[("hosts/a.json", "{}")]);
        fs::write(root.path().join("config.json"), [0xff, 0xfe]).unwrap();
        let documents = read_tree(root.path(), "a").unwrap();
        assert!(documents["config"].unreadable.is_some());
        assert_eq!(documents.len(), 2);
    }
}
