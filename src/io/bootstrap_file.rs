//! The bootstrap file of an agent or a command, read from disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::bootstrap::{Bootstrap, Overrides};
use crate::config::document::findings::{Finding, Findings, Level};
use crate::io::hostname::short_hostname;

/// Location of the bootstrap file, and the options of the command line that override its fields.
pub struct BootstrapFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Options of the command line.
    pub overrides: Overrides,
}

impl BootstrapFile {
    /// Reads the file; returns all its findings if one of them is an error.
    pub fn read(&self) -> Result<Bootstrap, BTreeSet<Finding>> {
        let (bootstrap, findings) = parse_bootstrap(&self.path, &self.overrides);
        if findings.iter().any(|finding| finding.level == Level::Error) {
            return Err(findings.into_iter().collect());
        }
        Ok(bootstrap)
    }
}

/// Reads a bootstrap file as far as it can be read, with its findings.
pub fn parse_bootstrap(path: &Path, overrides: &Overrides) -> (Bootstrap, Vec<Finding>) {
    let mut findings = Findings::about(path.display().to_string());
    let bootstrap = match std::fs::read_to_string(path) {
        Ok(text) => Bootstrap::read(&text, path, overrides, &short_hostname(), &mut findings),
        Err(error) => {
            findings.error("", format!("cannot be read: {error}"), "create it, or name another with --config");
            Bootstrap { host: short_hostname(), ..Bootstrap::default() }
        }
    };
    (bootstrap, findings.into_vec())
}
