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
    /// Send probes to a host that answers them (STAMP, RFC 8762) and say what comes back
    ///
    /// An agent answers probes that are signed with one of its keys; others it answers only where its
    /// host's document says reflect_foreign. Exit codes: 0 something came back, 1 nothing did.
    Ping(Ping),
    /// Make a key that probes are signed with, or replace the one in use
    #[command(subcommand)]
    Key(Key),
    /// Send one marked notification to a sink and say whether it was acknowledged
    ///
    /// Exit codes: 0 it left, or was acknowledged where the protocol does that; 1 it did not; 78 findings.
    SendTestNotification(SendTestNotification),
}

/// `peerpair key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Write a new key of 32 octets to a file that only its owner can read
    New(NewKey),
    /// Say the next step from the key in use to a new one; --yes takes it
    ///
    /// There are three: add a key, sign with it, remove the old one. Each is taken only when all agents
    /// say that they are ready for it. Exit codes: 0 good, 1 not yet, 78 findings in the bootstrap file.
    Rotate(RotateKey),
}

/// `peerpair key new`
#[derive(Debug, Args)]
pub struct NewKey {
    /// The file; it must not be there yet
    pub file: PathBuf,
}

/// `peerpair key rotate`
#[derive(Debug, Args)]
pub struct RotateKey {
    /// Take the step
    #[arg(long)]
    pub yes: bool,
    /// Take it although some agents do not say that they are ready
    #[arg(long)]
    pub force: bool,
    /// The bootstrap file, which names the store
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// What goes over the file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// `peerpair ping`
#[derive(Debug, Args)]
pub struct Ping {
    /// The host, and its port if that is not 862
    #[arg(value_name = "HOST[:PORT]")]
    pub target: String,
    /// Turns; each sends one probe of each flow
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub count: u32,
    /// From one turn to the next
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
    pub interval: std::time::Duration,
    /// How long to wait for answers after the last turn
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
    pub timeout: std::time::Duration,
    /// From so many source ports: equal paths are told apart by them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub flows: u8,
    /// Octets of UDP payload, not to be fragmented; left out: as few as it takes
    #[arg(long, value_name = "N")]
    pub size: Option<u16>,
    /// Differentiated services code point
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..64))]
    pub dscp: u8,
    /// The address to send from
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<std::net::IpAddr>,
    /// The file with the key to sign with
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The id under which the other end knows it
    #[arg(long, value_name = "ID", default_value_t = 1, requires = "key")]
    pub key_id: u8,
    /// How to print; json is one object for each answer and one for all
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
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
            Command::Ping(arguments) => run::ping(arguments),
            Command::Key(arguments) => run::key(arguments),
            Command::SendTestNotification(arguments) => run::send_test_notification(arguments),
        };
        outcome.unwrap_or_else(|error| {
            log::to_stderr();
            tracing::error!("{error:#}");
            EXIT_FAILURE
        })
    }
}
