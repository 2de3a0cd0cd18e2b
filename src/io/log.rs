//! The agent's log, written to standard error as text or JSON.
//!
//! [`init`] starts it for the agent, and [`to_stderr`] for commands.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::bootstrap::{LogConfig, LogFormat, LogLevel};

/// Starts logging at the configured level; messages of libraries are logged from `warn` on.
pub fn init(config: &LogConfig) {
    let level = match config.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::new(format!("warn,peerpair={level}"));
    // A log that cannot be written (a full disk, a pipe without a reader) must not end the agent.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // A second call in one process, as in tests, keeps the first subscriber.
    let _already_set = match config.format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Starts logging to standard error with the default settings, for commands that log progress or warnings while they
/// run.
pub fn to_stderr() {
    init(&LogConfig::default());
}
