//! The command line: every subcommand and option of `peerpair`, declared with clap. [`Cli`] is the parsed
//! command line. Doc comments on its variants and fields are the text of
//! `--help`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::bootstrap::Overrides;
use crate::config::document::maintenance;
use crate::pure::base::time::WallTime;
use crate::pure::stamp::packet::PADDED_LEN;

/// Tests the network between the hosts of a fleet, one direction at a time: the receiver is the judge
#[derive(Debug, Parser)]
#[command(name = "peerpair", version, arg_required_else_help = true)]
pub struct Cli {
    /// Subcommand with its options.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommand of `peerpair`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent until SIGTERM or SIGINT; SIGHUP reads the bootstrap file again
    Run(RunArguments),
    /// Dry run: report every problem in the configuration and the work that this host would do; bind and send nothing
    ///
    /// Exit codes: 0 good, 78 findings, 1 the store could not be read.
    CheckConfig(CheckConfig),
    /// Mute the raises of matching alarms of a running agent for a limited time; their clears are still notified
    #[command(subcommand)]
    Silence(SilenceCommand),
    /// Report problems that keep an agent on this host from working, each with its fix: the store, the sinks, the
    /// clock, sockets and capabilities
    ///
    /// Exit codes: 0 no errors found, 1 errors found, 78 findings in the bootstrap file.
    Doctor(Doctor),
    /// List all agents with the revision that each runs, the documents that it rejected, and whether it is silent
    ///
    /// Exit codes: 0 all agents run the newest documents, 1 some do not.
    Rollout(Rollout),
    /// Write the documents of the store into a directory, which can also serve as a backup
    Export(Transfer),
    /// Write the documents of a directory into the store
    Import(Transfer),
    /// Send probes to a host that answers them (STAMP, RFC 8762) and print each answer
    ///
    /// An agent answers probes that are signed with one of its keys; it answers other probes only where its host's
    /// document sets reflect_foreign. Exit codes: 0 at least one answer came back, 1 none did.
    Ping(Ping),
    /// Create a key for signing probes, or replace the key in use
    #[command(subcommand)]
    Key(KeyCommand),
    /// Send one notification, marked as a test, to a sink and report whether it was acknowledged
    ///
    /// Exit codes: 0 it was sent, or acknowledged where the protocol acknowledges; 1 it was not; 78 findings.
    SendTestNotification(SendTestNotification),
}

/// Subcommands of `peerpair key`, which create a key or rotate the key in use.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Write a new key of 32 octets to a file that only its owner can read
    New(NewKey),
    /// Show the next step from the key in use to a new one; --yes carries it out
    ///
    /// A rotation has three steps: add a key, sign with it, remove the old one. The second and third are carried out
    /// only when all agents report that they are ready. Exit codes: 0 good, 1 not yet, 78 findings in the bootstrap
    /// file.
    Rotate(RotateKey),
}

/// Arguments of `peerpair key new`: the file that the new key is written to.
#[derive(Debug, Args)]
pub struct NewKey {
    /// File to write the key to; it must not exist yet
    pub file: PathBuf,
}

/// Arguments of `peerpair key rotate`, which carries out one step of a rotation at a time.
#[derive(Debug, Args)]
pub struct RotateKey {
    /// Carry out the step
    #[arg(long)]
    pub yes: bool,
    /// Carry out the step although some agents do not report that they are ready
    #[arg(long)]
    pub force: bool,
    /// Bootstrap file, which names the store
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// Sizes of a probe with padding, in octets.
const PADDED: std::ops::RangeInclusive<i64> = *PADDED_LEN.start() as i64..=*PADDED_LEN.end() as i64;

/// Arguments of `peerpair ping`: the target, the number and timing of the probes, and their form.
#[derive(Debug, Args)]
pub struct Ping {
    /// Host to send the probes to, with its port if that is not 862
    #[arg(value_name = "HOST[:PORT]")]
    pub target: String,
    /// Number of turns; each turn sends one probe of each flow
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Time from one turn to the next
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
    pub interval: std::time::Duration,
    /// Time to wait for answers after the last turn
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1s")]
    pub timeout: std::time::Duration,
    /// Number of source ports to send from; each port is one flow, so that equal-cost paths are tested separately
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub flows: u8,
    /// Octets of UDP payload, from 132 to 9000, sent without fragmentation; default: the smallest size that the probe needs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(PADDED))]
    pub size: Option<u16>,
    /// Differentiated services code point (DSCP) of the probes, from 0 to 63
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=63))]
    pub dscp: u8,
    /// Local address to send from
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<std::net::IpAddr>,
    /// File with the key to sign the probes with
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Id under which the other end knows the key
    #[arg(long, value_name = "ID", default_value_t = 1, requires = "key")]
    pub key_id: u8,
    /// Output format; json prints one object for each answer and one summary object
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
}

/// Subcommands of `peerpair silence`, which add, list and expire the silences of a running agent.
#[derive(Debug, Subcommand)]
pub enum SilenceCommand {
    /// Add a silence, which always has an end
    Add(AddSilence),
    /// List the silences that have not ended
    List(OfAgent),
    /// End a silence now
    Expire(ExpireSilence),
}

/// Options that select the running agent that a command talks to.
#[derive(Debug, Args)]
pub struct OfAgent {
    /// Bootstrap file of the agent; its `web` section gives the agent's address and token
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// URL of the agent's status page, instead of the one from the bootstrap file
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// File with the agent's token, instead of the one that the bootstrap file names
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Arguments of `peerpair silence add`: the alarms to match, the end, the reason and the author.
#[derive(Debug, Args)]
pub struct AddSilence {
    /// Match alarms about this host, at either end of a test; * matches any text; may be repeated
    #[arg(long = "host", value_name = "NAME", required_unless_present_any = ["tags", "tests", "sets"])]
    pub hosts: Vec<String>,
    /// Match tests with this tag
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Match the test with this id or description
    #[arg(long = "test", value_name = "ID|DESCRIPTION")]
    pub tests: Vec<String>,
    /// Match tests of this set
    #[arg(long = "set", value_name = "NAME")]
    pub sets: Vec<String>,
    /// Duration of the silence, from now on
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, required_unless_present = "until")]
    pub duration: Option<std::time::Duration>,
    /// Time at which the silence ends, instead of --for: 2026-11-23T06:00 in UTC, or with an offset as in
    /// 2026-11-23T06:00+01:00
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "duration")]
    pub until: Option<WallTime>,
    /// Reason for the silence
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub comment: String,
    /// Person who wants the silence; default: the user who runs the command
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
    /// Options that select the agent whose alarms are silenced.
    #[command(flatten)]
    pub agent: OfAgent,
}

/// Arguments of `peerpair silence expire`: the silence to end, and the agent that has it.
#[derive(Debug, Args)]
pub struct ExpireSilence {
    /// Id of the silence, as `list` shows it
    pub id: String,
    /// Options that select the agent that has the silence.
    #[command(flatten)]
    pub agent: OfAgent,
}

/// Arguments of `peerpair doctor`: the bootstrap file of the agent to examine, and its overrides.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Bootstrap file of the agent
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// Arguments of `peerpair rollout`: the bootstrap file, which names the store, and the output format.
#[derive(Debug, Args)]
pub struct Rollout {
    /// Bootstrap file, which names the store
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// Arguments of `peerpair export` and `peerpair import`, which differ only in the direction of the transfer.
#[derive(Debug, Args)]
pub struct Transfer {
    /// Directory of documents
    pub directory: PathBuf,
    /// Show the difference and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write without asking for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Remove documents that exist only on the side that is written to; by default they stay
    #[arg(long)]
    pub prune: bool,
    /// Bootstrap file, which names the store
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// Arguments of `peerpair send-test-notification`: the sink, and the bootstrap file that leads to it.
#[derive(Debug, Args)]
pub struct SendTestNotification {
    /// Name of the sink, from the bootstrap file or from the documents
    #[arg(long, value_name = "NAME")]
    pub sink: String,
    /// Bootstrap file of the agent
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// Arguments of `peerpair run`: the bootstrap file, and options that take precedence over it.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Bootstrap file of the agent
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// Arguments of `peerpair check-config`: the host to check for, the comparison, and the output format.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// Bootstrap file to check
    #[arg(long, value_name = "FILE", default_value = "/etc/peerpair/peerpair.toml")]
    pub config: PathBuf,
    /// Check for this host instead of the one that the bootstrap file names
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Check every host of the fleet, and conflicts between their documents
    #[arg(long, conflicts_with = "host")]
    pub all_hosts: bool,
    /// Show the changes against the plan of the running agent whose status page has this URL
    #[arg(long, value_name = "URL")]
    pub running: Option<String>,
    /// Show the changes against the documents in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "running")]
    pub against: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub format: OutputFormat,
    /// Exit with 78 for warnings too
    #[arg(long)]
    pub deny_warnings: bool,
    /// Options that take precedence over the bootstrap file.
    #[command(flatten)]
    pub overrides: OverrideArguments,
}

fn parse_time(text: &str) -> Result<WallTime, &'static str> {
    maintenance::moment_in_utc(text).ok_or("write a date and a time, such as 2026-11-23T06:00")
}

/// Output format of commands that can print their result either as text or as JSON.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OutputFormat {
    /// Human-readable text
    Text,
    /// JSON for programs
    Json,
}

/// Options that take precedence over the bootstrap file; they are the options of the original program.
#[derive(Debug, Args)]
pub struct OverrideArguments {
    /// etcd server to read the documents from, instead of the store in the bootstrap file
    #[arg(long, value_name = "HOST[:PORT]")]
    config_server: Option<String>,
    /// Receiver of the original's traps, used until the documents name others
    #[arg(long, value_name = "HOST[:PORT]")]
    snmp_server: Option<String>,
    /// Host name under which this host's documents are stored, instead of the one in the bootstrap file
    #[arg(long, value_name = "NAME")]
    local_name: Option<String>,
}

impl OverrideArguments {
    /// Converts the options to the [`Overrides`] that the parser of the bootstrap file takes.
    pub fn to_overrides(&self) -> Overrides {
        Overrides {
            local_name: self.local_name.clone(),
            config_server: self.config_server.clone(),
            snmp_server: self.snmp_server.clone(),
        }
    }
}
