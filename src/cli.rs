//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::bootstrap::Overrides;
use crate::config::maintenance;
use crate::io::log;
use crate::pure::time::WallTime;
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
    /// Keep alarms of a running agent from being raised for a while; their clears are told all the same
    #[command(subcommand)]
    Silence(Silence),
    /// Say what keeps an agent on this host from working, and what to do: the store, the sinks, the
    /// clock, sockets and capabilities
    ///
    /// Exit codes: 0 nothing does, 1 something does, 78 findings in the bootstrap file.
    Doctor(Doctor),
    /// List which agent runs which revision, which rejected what, and which is silent
    ///
    /// Exit codes: 0 all run the newest documents, 1 some do not.
    Rollout(Rollout),
    /// Write the documents of the store into a directory, which is also the form of a back-up
    Export(Transfer),
    /// Write the documents of a directory into the store
    Import(Transfer),
    /// Send one marked notification to a sink and say whether it was acknowledged
    ///
    /// Exit codes: 0 it left, or was acknowledged where the protocol does that; 1 it did not; 78 findings.
    SendTestNotification(SendTestNotification),
}

/// `peerpair silence`
#[derive(Debug, Subcommand)]
pub enum Silence {
    /// Make a silence; it always ends
    Add(AddSilence),
    /// List the silences that have not ended
    List(OfAgent),
    /// End a silence now
    Expire(ExpireSilence),
}

/// Which running agent.
#[derive(Debug, Args)]
pub struct OfAgent {
    /// The bootstrap file of the agent: its `web` section says where it is and what token it wants
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// The agent's page, instead of the file's
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The file with its token, instead of the file's
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `peerpair silence add`
#[derive(Debug, Args)]
pub struct AddSilence {
    /// Only alarms about this host, at either end of a test; * stands for anything; may be repeated
    #[arg(long = "host", value_name = "NAME", required_unless_present_any = ["tags", "tests", "sets"])]
    pub hosts: Vec<String>,
    /// Only tests with this tag
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Only the test of this id or description
    #[arg(long = "test", value_name = "ID|DESCRIPTION")]
    pub tests: Vec<String>,
    /// Only tests of this set
    #[arg(long = "set", value_name = "NAME")]
    pub sets: Vec<String>,
    /// How long
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, required_unless_present = "until")]
    pub duration: Option<std::time::Duration>,
    /// Until when, instead: 2026-11-23T06:00 in UTC, or with an offset as in 2026-11-23T06:00+01:00
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "duration")]
    pub until: Option<WallTime>,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub comment: String,
    /// Who; left out: the user who runs this
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
    /// Of which agent.
    #[command(flatten)]
    pub agent: OfAgent,
}

/// `peerpair silence expire`
#[derive(Debug, Args)]
pub struct ExpireSilence {
    /// Its id, as `list` shows it
    pub id: String,
    /// Of which agent.
    #[command(flatten)]
    pub agent: OfAgent,
}

/// `peerpair doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// The bootstrap file
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// `peerpair rollout`
#[derive(Debug, Args)]
pub struct Rollout {
    /// The bootstrap file
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// `peerpair export` and `peerpair import`
#[derive(Debug, Args)]
pub struct Transfer {
    /// The directory
    pub directory: PathBuf,
    /// Show the difference and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Remove what is only on the side that is written to; left out, it stays
    #[arg(long)]
    pub prune: bool,
    /// The bootstrap file, which names the store
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// `peerpair send-test-notification`
#[derive(Debug, Args)]
pub struct SendTestNotification {
    /// The sink, in the bootstrap file or in the documents
    #[arg(long, value_name = "NAME")]
    pub sink: String,
    /// The bootstrap file
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
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
    /// Check every host of the fleet, and what does not fit together
    #[arg(long, conflicts_with = "host")]
    pub all_hosts: bool,
    /// Show what would change for the running agent whose page this is
    #[arg(long, value_name = "URL")]
    pub running: Option<String>,
    /// Show what would change against the documents in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "running")]
    pub against: Option<PathBuf>,
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

fn parse_time(text: &str) -> Result<WallTime, &'static str> {
    maintenance::moment_in_utc(text).ok_or("write a date and a time, such as 2026-11-23T06:00")
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
            Command::Silence(arguments) => run::silence(arguments),
            Command::Doctor(arguments) => run::doctor(arguments),
            Command::Rollout(arguments) => run::rollout(arguments),
            Command::Export(arguments) => run::export(arguments),
            Command::Import(arguments) => run::import(arguments),
            Command::SendTestNotification(arguments) => run::send_test_notification(arguments),
        };
        outcome.unwrap_or_else(|error| {
            log::to_stderr();
            tracing::error!("{error:#}");
            EXIT_FAILURE
        })
    }
}
