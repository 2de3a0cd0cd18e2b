//! Reads the fleet's signing keys from the files or values that the key documents name.
//!
//! [`read`] returns the keys as a ring, with a problem for each key that cannot be used.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::secret;
use crate::config::document::fleet::KeyDocument;
use crate::config::document::secret::{Secret, SecretSource};
use crate::pure::stamp::key::{Key, KeyRing, read_key};

/// Permission bits of group and others, all of which must be clear on a key file.
const GROUP_OR_OTHERS: u32 = 0o077;

/// Reads all keys. Returns the ring of those that could be read, and a problem by id for each of the others. A key
/// that cannot be read is taken from `before` if present, so that a file that is being replaced stops no test.
pub fn read(documents: &[KeyDocument], active: Option<u8>, before: &KeyRing) -> (KeyRing, Vec<(u8, String)>) {
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

fn read_one(document: &KeyDocument) -> Result<Key, String> {
    let secret = match (&document.secret_file, &document.secret) {
        (Some(path), _) => read_file(path)?,
        (None, Some(secret)) => secret.clone(),
        (None, None) => return Err("it has neither secret_file nor secret".to_owned()),
    };
    let octets =
        read_key(secret.reveal()).ok_or("it is not 32 octets in hex or base64 (peerpair key new makes one)")?;
    Ok(Key::new(document.id, octets))
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let mode = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.mode();
    if mode & GROUP_OR_OTHERS != 0 {
        return Err(format!("{0}: others can read it; chmod 600 {0}", path.display()));
    }
    secret::read(SecretSource::File(path))
}

/// Reads one key from a file, with the same checks as for the keys of documents.
pub fn read_key_file(id: u8, path: &Path) -> Result<Key, String> {
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
        assert!(problems[0].1.ends_with(&format!("chmod 600 {}", path.display())), "{problems:?}");
        mode(0o600);
        let (ring, problems) = read(&document, Some(7), &KeyRing::default());
        assert_eq!((ring.ids().collect::<Vec<_>>(), problems.len()), (vec![7], 0));
        fs::write(&path, "ab".repeat(31)).unwrap();
        let (_, problems) = read(&document, Some(7), &KeyRing::default());
        assert!(problems[0].1.contains("32 octets") && !problems[0].1.contains("abab"));
    }
}
