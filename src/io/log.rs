//! The log: to standard error, as text or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::bootstrap::{LogConfig, LogFormat, LogLevel};

/// Starts it. Libraries speak from `warn` on.
pub fn init(config: &LogConfig) {
    let level = match config.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::new(format!("warn,peerpair={level}"));
    // A log that cannot be written (a full disk, a pipe that nobody reads) must not end the agent.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // A second call in one process (tests do that) keeps the first log.
    let _already_set = match config.format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// For a command that has something to say before its end: to standard error, for people.
pub fn to_stderr() {
    init(&LogConfig::default());
}
