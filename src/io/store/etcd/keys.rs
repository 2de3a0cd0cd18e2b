//! Layout of the documents in etcd. [`KeyPaths`] computes the keys, ranges and v2 paths below the configured prefix
//! that concern one host or the whole fleet.

use crate::config::document::raw::{GLOBAL_KEY, HOSTS_PREFIX, SETS_PREFIX, TESTS_PREFIX, tests_prefix};
use crate::io::store::ReadScope;

/// Keys below a prefix that concern one host or the whole fleet.
#[derive(Clone, Debug)]
pub struct KeyPaths {
    prefix: String,
    concern: ReadScope,
}

/// Unit of listing and watching: a single key or all keys of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// Key of a single document, relative to the prefix.
    Key(&'static str),
    /// Directory with all keys below it, relative to the prefix; its name ends in a slash.
    Directory(String),
}

impl KeyPaths {
    /// Creates the layout of the keys below `prefix` for one concern.
    pub fn new(prefix: &str, concern: ReadScope) -> Self {
        KeyPaths { prefix: prefix.to_owned(), concern }
    }

    /// Returns the keys and directories to list and to watch.
    pub fn scopes(&self) -> Vec<KeyScope> {
        let tests = match &self.concern {
            ReadScope::Host(host) => tests_prefix(host),
            ReadScope::Fleet => TESTS_PREFIX.to_owned(),
        };
        vec![
            KeyScope::Key(GLOBAL_KEY),
            KeyScope::Directory(HOSTS_PREFIX.to_owned()),
            KeyScope::Directory(SETS_PREFIX.to_owned()),
            KeyScope::Directory(tests),
        ]
    }

    /// Returns the full key in etcd of a key relative to the prefix.
    pub fn full(&self, key: &str) -> String {
        format!("{}/{key}", self.prefix)
    }

    /// Strips the prefix from a full key; returns `None` if the key is not below the prefix.
    pub fn below_prefix<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix('/')
    }

    /// Returns the ranges to list and to watch in v3, each from its first key up to an excluded end. In the order of
    /// keys, `agents/` comes before all documents and `tests/` after them.
    pub fn v3_ranges(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        match &self.concern {
            ReadScope::Fleet => self.v3_whole(),
            ReadScope::Host(host) => {
                let begin = self.full(GLOBAL_KEY).into_bytes();
                vec![(begin, self.full(TESTS_PREFIX).into_bytes()), self.v3_start(&tests_prefix(host))]
            }
        }
    }

    /// Returns one range that covers all documents; for a host it also includes the tests of other hosts.
    pub fn v3_whole(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (_, end) = self.v3_start(TESTS_PREFIX);
        vec![(self.full(GLOBAL_KEY).into_bytes(), end)]
    }

    /// Returns true if the document of this relative key concerns the host or fleet; the ranges can include others.
    pub fn concerns(&self, key: &str) -> bool {
        let tests = match &self.concern {
            ReadScope::Host(host) => tests_prefix(host),
            ReadScope::Fleet => TESTS_PREFIX.to_owned(),
        };
        key == GLOBAL_KEY || [HOSTS_PREFIX, SETS_PREFIX, &tests].iter().any(|prefix| key.starts_with(prefix))
    }

    /// Returns the v3 range of all keys that begin with `start`, from its first key up to an excluded end.
    pub fn v3_start(&self, start: &str) -> (Vec<u8>, Vec<u8>) {
        let key = self.full(start).into_bytes();
        let mut end = key.clone();
        // A prefix ends in a slash, so its last octet can always be incremented.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (key, end)
    }

    /// Returns the path segments of a scope in the v2 API.
    pub fn v2_path<'a>(&'a self, scope: &'a KeyScope) -> Vec<&'a str> {
        let key = match scope {
            KeyScope::Key(key) => key,
            // The trailing slash stays, because etcd's access rights distinguish a directory by it.
            KeyScope::Directory(directory) => directory.as_str(),
        };
        self.v2_key(key)
    }

    /// Returns the path segments of a relative key in the v2 API.
    pub fn v2_key<'a>(&'a self, key: &'a str) -> Vec<&'a str> {
        let prefix = self.prefix.split('/').filter(|segment| !segment.is_empty());
        ["v2", "keys"].into_iter().chain(prefix).chain(key.split('/')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_of_a_host_excludes_hosts_with_the_same_prefix() {
        let keys = KeyPaths::new("/peerpair", ReadScope::Host("db1".to_owned()));
        let [(first, last), (from, to)] = keys.v3_ranges().try_into().unwrap();
        let within = |key: &str| first.as_slice() <= key.as_bytes() && key.as_bytes() < last.as_slice();
        assert!(within("/peerpair/config") && within("/peerpair/hosts/db1") && within("/peerpair/sets/x"));
        assert!(!within("/peerpair/agents/db1") && !within("/peerpair/tests/db1/x"));
        assert_eq!((from.as_slice(), to.as_slice()), (&b"/peerpair/tests/db1/"[..], &b"/peerpair/tests/db10"[..]));
        assert!(
            b"/peerpair/tests/db1/x".as_slice() < to.as_slice()
                && b"/peerpair/tests/db10/x".as_slice() >= to.as_slice()
        );
        assert_eq!(keys.below_prefix("/peerpair/config"), Some("config"));
        assert_eq!(keys.below_prefix("/peerpairs/config"), None);
    }
}
