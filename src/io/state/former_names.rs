//! Former names of this host's agent, recorded for each bootstrap file.
//!
//! Alarms that were notified under a former name have to be cleared under that name. Containers often have a new name
//! with each start.

use std::path::Path;

use tracing::warn;

use super::file::{StateFile, load_list, lock};
use crate::io::error_chain::error_chain;

/// Largest number of names that are kept; the oldest are dropped first.
const MOST: usize = 32;

/// Records the current name of the agent with this bootstrap file, and returns its former names. Names under which
/// another agent runs on this machine now are left out.
pub fn record(state_dir: &Path, bootstrap: &Path, host: &str) -> Vec<String> {
    let whole = bootstrap.canonicalize().unwrap_or_else(|_| bootstrap.to_owned());
    let file = StateFile::new(state_dir, "names", &whole.to_string_lossy());
    let mut names: Vec<String> = load_list(&file, "former names", "alarms under former names are not cleared");
    if names.last().is_none_or(|last| last != host) {
        names.retain(|name| name != host);
        names.push(host.to_owned());
        let first = names.len().saturating_sub(MOST);
        if let Err(error) = file.save(&&names[first..]) {
            warn!(problem = error_chain(&error), "the host name cannot be saved");
        }
    }
    names.retain(|name| name != host && matches!(lock(state_dir, name), Ok(Some(_))));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_names_are_returned_per_bootstrap_file_without_running_agents() {
        let directory = tempfile::tempdir().unwrap();
        let (state, file, other) = (directory.path(), directory.path().join("a.toml"), directory.path().join("b.toml"));
        assert_eq!(record(state, &file, "one"), [""; 0]);
        assert_eq!(record(state, &other, "other"), [""; 0]);
        assert_eq!(record(state, &file, "two"), ["one"]);
        assert_eq!(record(state, &file, "two"), ["one"]);
        let running = lock(state, "one").unwrap();
        assert_eq!(record(state, &file, "three"), ["two"]);
        drop(running);
        assert_eq!(record(state, &file, "one"), ["two", "three"]);
    }
}
