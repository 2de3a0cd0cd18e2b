//! Secrets: where they are kept, and how they never show themselves.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::findings::Findings;

/// A secret: it never shows itself.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// From a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretSource<'a> {
    /// In this file; blanks and newlines around it do not count.
    File(&'a Path),
    /// In this variable of the agent's environment.
    Env(&'a str),
}

impl<'a> SecretSource<'a> {
    /// The one of two fields that is set.
    pub fn of(file: Option<&'a PathBuf>, env: Option<&'a String>) -> Option<Self> {
        match (file, env) {
            (Some(file), _) => Some(SecretSource::File(file)),
            (None, Some(env)) => Some(SecretSource::Env(env)),
            (None, None) => None,
        }
    }
}

impl SecretSource<'_> {
    /// Whether it names a place, and is not the secret itself by mistake.
    pub fn is_named_well(self) -> bool {
        match self {
            SecretSource::File(_) => true,
            SecretSource::Env(name) => {
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                plain && name.starts_with(|c: char| !c.is_ascii_digit())
            }
        }
    }
}

impl fmt::Display for SecretSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "{}", path.display()),
            SecretSource::Env(name) if self.is_named_well() => write!(f, "the environment variable {name}"),
            SecretSource::Env(_) => f.write_str("an environment variable with an impossible name"),
        }
    }
}

/// Makes a path that a document names relative to the document. One from a store that has no
/// directory has to be absolute.
pub fn place_path(path: &mut PathBuf, directory: Option<&Path>, field: &str, findings: &mut Findings) {
    match directory {
        Some(directory) => *path = directory.join(&path),
        None if path.is_absolute() => {}
        None => {
            let problem = format!("`{}` is relative, and a document in etcd has no directory", path.display());
            findings.error(field, problem, "write the absolute path on the host that reads it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        assert_eq!(format!("{:?}", Secret::new("hidden")), "***");
    }
}
