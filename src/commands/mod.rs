//! Commands of `peerpair`, one file each. Every function takes the parsed arguments and returns the exit code; errors
//! that are no findings are returned as `anyhow::Error`.

mod check_config;
mod doctor;
mod key;
mod ping;
mod rollout;
mod run;
mod send_test_notification;
mod silence;
mod sinks;
mod transfer;

use crate::cli::{Cli, Command};
use crate::exit::EXIT_FAILURE;
use crate::io::log;

/// Executes the command and returns the process's exit code; an error is logged to standard error.
pub fn execute(cli: &Cli) -> i32 {
    let outcome = match &cli.command {
        Command::Run(arguments) => run::run(arguments),
        Command::CheckConfig(arguments) => check_config::check_config(arguments),
        Command::Silence(arguments) => silence::silence(arguments),
        Command::Doctor(arguments) => doctor::doctor(arguments),
        Command::Rollout(arguments) => rollout::rollout(arguments),
        Command::Export(arguments) => transfer::export(arguments),
        Command::Import(arguments) => transfer::import(arguments),
        Command::Ping(arguments) => ping::ping(arguments),
        Command::Key(arguments) => key::key(arguments),
        Command::SendTestNotification(arguments) => send_test_notification::send_test_notification(arguments),
    };
    outcome.unwrap_or_else(|error| {
        log::to_stderr();
        tracing::error!("{error:#}");
        EXIT_FAILURE
    })
}
