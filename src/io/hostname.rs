//! This host's own name.

/// The host name up to its first dot; empty if the system has none.
pub fn short_hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().split('.').next().unwrap_or_default().to_owned()
}
