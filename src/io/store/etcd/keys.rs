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

    /// The scope as v3 writes it: from a key up to another; an empty end stands for the one key.
    pub fn v3_range(&self, scope: &Scope) -> (Vec<u8>, Vec<u8>) {
        match scope {
            Scope::Key(key) => (self.full(key).into_bytes(), Vec::new()),
            Scope::Directory(directory) => self.v3_start(directory),
        }
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
        let (from, to) = keys.v3_range(&keys.scopes()[3]);
        assert_eq!((from.as_slice(), to.as_slice()), (&b"/peerpair/tests/db1/"[..], &b"/peerpair/tests/db10"[..]));
        assert!(
            b"/peerpair/tests/db1/x".as_slice() < to.as_slice()
                && b"/peerpair/tests/db10/x".as_slice() >= to.as_slice()
        );
        assert_eq!(keys.below_prefix("/peerpair/config"), Some("config"));
        assert_eq!(keys.below_prefix("/peerpairs/config"), None);
    }
}
