//! Reads the fleet's signing keys from the files or values that the key documents name.
//!
//! [`read`] returns the keys as a ring, with a problem for each key that cannot be used.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::secret::{self, SecretError};
use crate::config::document::fleet::KeyDocument;
use crate::config::document::secret::{Secret, SecretSource};
use crate::pure::stamp::key::{Key, KeyRing, read_key};

/// Permission bits of group and others, all of which must be clear on a key file.
const GROUP_OR_OTHERS: u32 = 0o077;

/// Reason for which a key cannot be used. The text never shows the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The document names no source of the key.
    #[error("it has neither secret_file nor secret")]
    NoSource,
    /// The text is not a key.
    #[error("it is not 32 octets in hex or base64 (peerpair key new makes one)")]
    Malformed,
    /// The file does not exist, or its permissions cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Users other than the owner can read the file.
    #[error("{path}: others can read it; chmod 600 {path}", path = .0.display())]
    Exposed(PathBuf),
    /// The secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Reads all keys. Returns the ring of those that could be read, and a problem by id for each of the others. A key
/// that cannot be read is taken from `before` if present, so that a file that is being replaced stops no test.
pub fn read(documents: &[KeyDocument], active: Option<u8>, before: &KeyRing) -> (KeyRing, Vec<(u8, KeyError)>) {
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    for document in documents {
        match read_one(document) {
            Ok(key) => keys.push(key),
            Err(problem) => {
                keys.extend(before.get(document.id).cloned());
                problems.push((document.id, problem));
            }
        }
    }
    (KeyRing::new(keys, active), problems)
}

fn read_one(document: &KeyDocument) -> Result<Key, KeyError> {
    let secret = match (&document.secret_file, &document.secret) {
        (Some(path), _) => read_file(path)?,
        (None, Some(secret)) => secret.clone(),
        (None, None) => return Err(KeyError::NoSource),
    };
    let octets = read_key(secret.reveal()).ok_or(KeyError::Malformed)?;
    Ok(Key::new(document.id, octets))
}

fn read_file(path: &Path) -> Result<Secret, KeyError> {
    let mode =
        fs::metadata(path).map_err(|error| KeyError::Unreadable { path: path.to_owned(), source: error })?.mode();
    if mode & GROUP_OR_OTHERS != 0 {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    Ok(secret::read(SecretSource::File(path))?)
}

/// Reads one key from a file, with the same checks as for the keys of documents.
pub fn read_key_file(id: u8, path: &Path) -> Result<Key, KeyError> {
    read_one(&KeyDocument { id, secret_file: Some(path.to_owned()), secret: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn key_file_is_refused_when_others_can_read_it_or_its_length_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "ab".repeat(32)).unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let document = [KeyDocument { id: 7, secret_file: Some(path.clone()), secret: None }];
        mode(0o640);
        let (_, problems) = read(&document, Some(7), &KeyRing::default());
        assert!(problems[0].1.to_string().ends_with(&format!("chmod 600 {}", path.display())), "{problems:?}");
        mode(0o600);
        let (ring, problems) = read(&document, Some(7), &KeyRing::default());
        assert_eq!((ring.ids().collect::<Vec<_>>(), problems.len()), (vec![7], 0));
        fs::write(&path, "ab".repeat(31)).unwrap();
        let (_, problems) = read(&document, Some(7), &KeyRing::default());
        let problem = problems[0].1.to_string();
        assert!(problem.contains("32 octets") && !problem.contains("abab"), "{problem}");
    }
}
