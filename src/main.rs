//! Entry point of the `peerpair` command. It parses the command line, executes the command and exits with its code; a
//! panic exits with [`EXIT_INTERNAL`](peerpair::run::EXIT_INTERNAL).

use clap::Parser as _;

fn main() {
    let code = std::panic::catch_unwind(|| peerpair::cli::Cli::parse().execute());
    std::process::exit(code.unwrap_or(peerpair::run::EXIT_INTERNAL));
}
