//! Exit codes of the `peerpair` command.

/// Exit code of a command that succeeded.
pub const EXIT_GOOD: i32 = 0;
/// Exit code for a failure outside of the configuration, such as a store that cannot be reached.
pub const EXIT_FAILURE: i32 = 1;
/// Exit code for a fault of peerpair's own (sysexits' EX_SOFTWARE).
pub const EXIT_INTERNAL: i32 = 70;
/// Exit code for a configuration with findings (sysexits' EX_CONFIG).
pub const EXIT_CONFIG: i32 = 78;
