//! Reads secrets from files and environment variables.
//!
//! Secrets are read when they are needed, so that a replaced file takes effect without a restart.

use std::env;
use std::fs;
use std::io;

use crate::config::document::secret::{Secret, SecretSource};

/// Reason for which a secret cannot be read. The text names its source, never the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("secret in {0}: {1}")]
    Unreadable(String, io::Error),
    /// The environment variable is not set.
    #[error("secret in {0}: it is not set")]
    NotSet(String),
    /// The source holds nothing but white space.
    #[error("secret in {0}: it is empty")]
    Empty(String),
}

/// Reads a secret and removes surrounding white space.
pub fn read(source: SecretSource<'_>) -> Result<Secret, SecretError> {
    let named = source.to_string();
    let text = match source {
        SecretSource::File(path) => {
            fs::read_to_string(path).map_err(|error| SecretError::Unreadable(named.clone(), error))?
        }
        SecretSource::Env(name) => env::var(name).map_err(|_| SecretError::NotSet(named.clone()))?,
    };
    match text.trim() {
        "" => Err(SecretError::Empty(named)),
        secret => Ok(Secret::new(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_trimmed_and_an_empty_or_missing_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, " word \n").unwrap();
        assert_eq!(read(SecretSource::File(&path)).unwrap().reveal(), "word");
        fs::write(&path, "\n").unwrap();
        assert!(read(SecretSource::File(&path)).unwrap_err().to_string().ends_with("it is empty"));
        let missing = read(SecretSource::Env("PEERPAIR_NOT_SET")).unwrap_err().to_string();
        assert_eq!(missing, "secret in the environment variable PEERPAIR_NOT_SET: it is not set");
    }
}
