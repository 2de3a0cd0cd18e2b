//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::bootstrap::Overrides;
use crate::run::{self, EXIT_FAILURE};

/// Tests the network between the hosts of a fleet, one way at a time: the receiver is the judge.
#[derive(Debug, Parser)]
#[command(name = "peerpair", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM or SIGINT; SIGHUP reads the bootstrap file again
    Run(Run),
    /// Dry run: say everything that is wrong and what this host would do; bind and send nothing
    ///
    /// Exit codes: 0 good, 78 findings, 1 the store could not be read.
    CheckConfig(CheckConfig),
}

/// `peerpair run`
#[derive(Debug, Args)]
pub struct Run {
    /// The bootstrap file
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// `peerpair check-config`
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The bootstrap file
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Check for this host instead of the file's
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
    /// Exit with 78 for warnings too
    #[arg(long)]
    pub deny_warnings: bool,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// How `check-config` prints.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What goes over the bootstrap file, as the original had it.
#[derive(Debug, Args)]
pub struct OverrideArguments {
    /// etcd to read the documents from, instead of the file's store
    #[arg(long, value_name = "HOST[:PORT]")]
    config_server: Option<String>,
    /// Receiver of the original's traps until the documents name others
    #[arg(long, value_name = "HOST[:PORT]")]
    snmp_server: Option<String>,
    /// The name under which this host's documents stand, instead of the file's
    #[arg(long, value_name = "NAME")]
    local_name: Option<String>,
}

impl OverrideArguments {
    /// As the bootstrap takes them.
    pub fn to_overrides(&self) -> Overrides {
        Overrides {
            local_name: self.local_name.clone(),
            config_server: self.config_server.clone(),
            snmp_server: self.snmp_server.clone(),
        }
    }
}

impl Cli {
    /// Carries the command out and gives the exit code.
    pub fn execute(&self) -> i32 {
        let outcome = match &self.command {
            Command::Run(arguments) => run::run(arguments),
            Command::CheckConfig(arguments) => run::check_config(arguments),
        };
        outcome.unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            EXIT_FAILURE
        })
    }
}
