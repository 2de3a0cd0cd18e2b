//! What the names in the documents resolve to; the last addresses stay in force when they do no longer.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::plan::Names;

/// Names and their addresses.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    known: Names,
    needed: BTreeSet<String>,
    /// Names that resolve no longer, and why.
    lost: BTreeMap<String, String>,
}

impl KnownNames {
    /// As a predecessor knew them.
    pub fn remembered(known: Names) -> Self {
        KnownNames { known, ..KnownNames::default() }
    }

    /// What is known now.
    pub fn known(&self) -> &Names {
        &self.known
    }

    /// These are needed: forgets the others, and tells which are not known yet.
    pub fn on_needed(&mut self, needed: BTreeSet<String>) -> BTreeSet<String> {
        self.known.retain(|name, _| needed.contains(name));
        self.lost.retain(|name, _| needed.contains(name));
        self.needed = needed;
        self.needed.iter().filter(|name| !self.known.contains_key(*name)).cloned().collect()
    }

    /// All of them, to be resolved again.
    pub fn names(&self) -> BTreeSet<String> {
        self.known.keys().cloned().collect()
    }

    /// What became of them.
    pub fn on_resolved(&mut self, resolved: Names) {
        let still_needed = resolved.into_iter().filter(|(name, _)| self.needed.contains(name));
        for (name, addresses) in still_needed {
            match (addresses, self.known.get(&name)) {
                (Err(problem), Some(Ok(_))) => {
                    self.lost.insert(name, problem);
                }
                (addresses, _) => {
                    self.lost.remove(&name);
                    self.known.insert(name, addresses);
                }
            }
        }
    }

    /// Names whose last addresses are in force for want of newer ones, and why.
    pub fn lost(&self) -> impl Iterator<Item = (&str, String)> {
        let describe = |name: &str, problem: &str| {
            format!("name `{name}` resolves no longer, its last address is in force: {problem}")
        };
        self.lost.iter().map(move |(name, problem)| (name.as_str(), describe(name, problem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_addresses_stay_in_force() {
        let mut names = KnownNames::default();
        let db = || BTreeSet::from(["db".to_owned()]);
        assert_eq!(names.on_needed(db()), db());
        let good: Result<_, String> = Ok(vec!["10.0.0.5".parse().unwrap()]);
        names.on_resolved([("db".to_owned(), good.clone())].into());
        names.on_resolved([("db".to_owned(), Err("away".to_owned()))].into());
        assert_eq!(names.known()["db"], good);
        assert_eq!(names.lost().count(), 1);
        assert_eq!(names.on_needed(db()), BTreeSet::new());
        names.on_resolved([("db".to_owned(), good)].into());
        assert_eq!(names.lost().count(), 0);
        names.on_needed(BTreeSet::new());
        assert_eq!(names.names(), BTreeSet::new());
    }
}
