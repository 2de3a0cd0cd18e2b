//! Where the documents stand in etcd.

use crate::config::load::{GLOBAL_KEY, HOSTS_PREFIX, SETS_PREFIX, TESTS_PREFIX, tests_prefix};
use crate::io::store::Concern;

/// The keys that concern somebody, below a prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
    concern: Concern,
}

/// One key, or all that begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One document.
    Key(&'static str),
    /// All below a directory, which ends in a slash.
    Directory(String),
}

impl Keys {
    /// The keys below `prefix`.
    pub fn new(prefix: &str, concern: Concern) -> Self {
        Keys { prefix: prefix.to_owned(), concern }
    }

    /// What to list and to watch.
    pub fn scopes(&self) -> Vec<Scope> {
        let tests = match &self.concern {
            Concern::Host(host) => tests_prefix(host),
            Concern::Fleet => TESTS_PREFIX.to_owned(),
        };
        vec![
            Scope::Key(GLOBAL_KEY),
            Scope::Directory(HOSTS_PREFIX.to_owned()),
            Scope::Directory(SETS_PREFIX.to_owned()),
            Scope::Directory(tests),
        ]
    }

    /// The whole key.
    pub fn full(&self, key: &str) -> String {
        format!("{}/{key}", self.prefix)
    }

    /// The key without the prefix.
    pub fn below_prefix<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix('/')
    }

    /// What to list and to watch as v3 writes it: from a key up to another. In the order of keys the
    /// tests come last, and what agents say of themselves first.
    pub fn v3_ranges(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        match &self.concern {
            Concern::Fleet => self.v3_whole(),
            Concern::Host(host) => {
                let begin = self.full(GLOBAL_KEY).into_bytes();
                vec![(begin, self.full(TESTS_PREFIX).into_bytes()), self.v3_start(&tests_prefix(host))]
            }
        }
    }

    /// The same in one range, with the tests of other hosts between.
    pub fn v3_whole(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (_, end) = self.v3_start(TESTS_PREFIX);
        vec![(self.full(GLOBAL_KEY).into_bytes(), end)]
    }

    /// Whether a document of this key is asked for, of those in the ranges.
    pub fn concerns(&self, key: &str) -> bool {
        let tests = match &self.concern {
            Concern::Host(host) => tests_prefix(host),
            Concern::Fleet => TESTS_PREFIX.to_owned(),
        };
        key == GLOBAL_KEY || [HOSTS_PREFIX, SETS_PREFIX, &tests].iter().any(|prefix| key.starts_with(prefix))
    }

    /// All that begins so, likewise.
    pub fn v3_start(&self, start: &str) -> (Vec<u8>, Vec<u8>) {
        let key = self.full(start).into_bytes();
        let mut end = key.clone();
        // A prefix ends in a slash, so there is always a next octet.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (key, end)
    }

    /// The scope's path as v2 writes it, by its segments.
    pub fn v2_path<'a>(&'a self, scope: &'a Scope) -> Vec<&'a str> {
        let key = match scope {
            Scope::Key(key) => key,
            // The slash at the end matters to etcd's access rights.
            Scope::Directory(directory) => directory.as_str(),
        };
        self.v2_key(key)
    }

    /// A key's path, likewise.
    pub fn v2_key<'a>(&'a self, key: &'a str) -> Vec<&'a str> {
        let prefix = self.prefix.split('/').filter(|segment| !segment.is_empty());
        ["v2", "keys"].into_iter().chain(prefix).chain(key.split('/')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_no_prefix_of_another() {
        let keys = Keys::new("/peerpair", Concern::Host("db1".to_owned()));
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
