//! The `peerpair` command.

use clap::Parser as _;

fn main() {
    let code = std::panic::catch_unwind(|| peerpair::cli::Cli::parse().execute());
    std::process::exit(code.unwrap_or(peerpair::run::EXIT_INTERNAL));
}
