//! Secrets in the configuration and the places they are kept. [`Secret`] hides its text in debug output;
//! [`SecretSource`] names the file or environment variable that contains a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::findings::Findings;

/// Secret text. The `Debug` output is `***`, so that logs and findings never contain it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text as a secret, which hides it in debug output.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Returns the secret text. Call this only where the secret is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Place where a secret is kept outside of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretSource<'a> {
    /// File that contains the secret. Leading and trailing white space is ignored.
    File(&'a Path),
    /// Environment variable of the agent that contains the secret.
    Env(&'a str),
}

impl<'a> SecretSource<'a> {
    /// Returns the source from the fields of a configuration. The file takes precedence over the environment
    /// variable.
    pub fn of(file: Option<&'a PathBuf>, env: Option<&'a String>) -> Option<Self> {
        match (file, env) {
            (Some(file), _) => Some(SecretSource::File(file)),
            (None, Some(env)) => Some(SecretSource::Env(env)),
            (None, None) => None,
        }
    }
}

impl SecretSource<'_> {
    /// Returns true if the source has a valid name. An invalid variable name is probably the secret itself, written
    /// there by mistake.
    pub fn has_valid_name(self) -> bool {
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
            SecretSource::Env(name) if self.has_valid_name() => write!(f, "the environment variable {name}"),
            SecretSource::Env(_) => f.write_str("an environment variable with an impossible name"),
        }
    }
}

/// Resolves a path in a document against `directory`. A document from a store without directories must use an
/// absolute path; a relative one is a finding at `field`.
pub fn resolve_path(path: &mut PathBuf, directory: Option<&Path>, field: &str, findings: &mut Findings) {
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
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", Secret::new("hidden")), "***");
    }
}
