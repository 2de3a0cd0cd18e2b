//! Name of this host as the operating system reports it.
//!
//! It is the default name of the agent where the bootstrap file names no host.

/// Returns the host name up to its first dot; an empty string if the system has none.
pub fn short_hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().split('.').next().unwrap_or_default().to_owned()
}
