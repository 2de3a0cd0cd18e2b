//! Reads secrets from where they are kept.

use std::env;
use std::fs;

use crate::config::secret::{Secret, SecretSource};

/// Reads it; blanks and newlines around it do not count. The error names the place, never the secret.
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
    fn blanks_around_it_do_not_count_and_nothing_is_no_secret() {
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
