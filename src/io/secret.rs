//! Reads secrets from files and environment variables.
//!
//! Secrets are read when they are needed, so that a replaced file takes effect without a restart.

use std::env;
use std::fs;

use crate::config::document::secret::{Secret, SecretSource};

/// Reads a secret and removes surrounding white space. The error names the source, never the secret.
pub fn read(source: SecretSource<'_>) -> Result<Secret, String> {
    let failed = |problem: String| format!("secret in {source}: {problem}");
    let text = match source {
        SecretSource::File(path) => fs::read_to_string(path).map_err(|error| failed(error.to_string()))?,
        SecretSource::Env(name) => env::var(name).map_err(|_| failed("it is not set".to_owned()))?,
    };
    match text.trim() {
        "" => Err(failed("it is empty".to_owned())),
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
        assert!(read(SecretSource::File(&path)).unwrap_err().ends_with("it is empty"));
        let missing = read(SecretSource::Env("PEERPAIR_NOT_SET")).unwrap_err();
        assert_eq!(missing, "secret in the environment variable PEERPAIR_NOT_SET: it is not set");
    }
}
