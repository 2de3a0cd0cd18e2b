//! Resolved names of the documents. [`KnownNames`] keeps the last addresses of a name in force when it no longer
//! resolves, and reports it as a problem.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::plan::{Names, ResolveError};

/// Names that the documents need, with their last known addresses.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    known: Names,
    needed: BTreeSet<String>,
    /// Names that no longer resolve although they did before, each with the resolver's error.
    lost: BTreeMap<String, ResolveError>,
}

impl KnownNames {
    /// Creates the state from the names that a predecessor had resolved.
    pub fn remembered(known: Names) -> Self {
        KnownNames { known, ..KnownNames::default() }
    }

    /// Returns the names with their addresses or errors, as last resolved.
    pub fn known(&self) -> &Names {
        &self.known
    }

    /// Sets the names that are needed, drops all others, and returns those that are not resolved yet.
    pub fn on_needed(&mut self, needed: BTreeSet<String>) -> BTreeSet<String> {
        self.known.retain(|name, _| needed.contains(name));
        self.lost.retain(|name, _| needed.contains(name));
        self.needed = needed;
        self.needed.iter().filter(|name| !self.known.contains_key(*name)).cloned().collect()
    }

    /// Returns all known names, to be resolved again.
    pub fn names(&self) -> BTreeSet<String> {
        self.known.keys().cloned().collect()
    }

    /// Records results of the resolver; an error does not replace known addresses.
    pub fn on_resolved(&mut self, resolved: Names) {
        let still_needed = resolved.into_iter().filter(|(name, _)| self.needed.contains(name));
        for (name, addresses) in still_needed {
            match (addresses, self.known.get(&name)) {
                (Err(error), Some(Ok(_))) => {
                    self.lost.insert(name, error);
                }
                (addresses, _) => {
                    self.lost.remove(&name);
                    self.known.insert(name, addresses);
                }
            }
        }
    }

    /// Returns the names whose last addresses are in force because they no longer resolve, with the reason.
    pub fn lost(&self) -> impl Iterator<Item = (&str, String)> {
        let describe = |name: &str, problem: &ResolveError| {
            format!("name `{name}` can no longer be resolved, its last address is in force: {problem}")
        };
        self.lost.iter().map(move |(name, problem)| (name.as_str(), describe(name, problem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_addresses_stay_in_force_when_resolution_fails() {
        let mut names = KnownNames::default();
        let db = || BTreeSet::from(["db".to_owned()]);
        assert_eq!(names.on_needed(db()), db());
        let good = Ok(vec!["10.0.0.5".parse().unwrap()]);
        names.on_resolved([("db".to_owned(), good.clone())].into());
        names.on_resolved([("db".to_owned(), Err(ResolveError::NoAddress))].into());
        assert_eq!(names.known()["db"], good);
        assert_eq!(names.lost().count(), 1);
        assert_eq!(names.on_needed(db()), BTreeSet::new());
        names.on_resolved([("db".to_owned(), good)].into());
        assert_eq!(names.lost().count(), 0);
        names.on_needed(BTreeSet::new());
        assert_eq!(names.names(), BTreeSet::new());
    }
}
