//! Entry point of the `peerpair` command. It parses the command line, executes the command and exits with its code; a
//! panic exits with [`EXIT_INTERNAL`](peerpair::exit::EXIT_INTERNAL).

use clap::Parser as _;
use peerpair::cli::Cli;
use peerpair::{commands, exit};

fn main() {
    let code = std::panic::catch_unwind(|| commands::execute(&Cli::parse()));
    std::process::exit(code.unwrap_or(exit::EXIT_INTERNAL));
}
