//! Commands of the program, one function for each subcommand. Each function takes the parsed arguments and returns the
//! exit code; errors that are no findings are returned as `anyhow::Error`. [`run`] starts the agent, the other commands
//! inspect or change its surroundings.

mod check;
mod doctor;
mod key;
mod ping;
mod rollout;
mod transfer;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use actix::Actor;
use anyhow::Context as _;

use crate::cli::{self, Run, SendTestNotification};
use crate::config::bootstrap::{Bootstrap, Overrides};
use crate::config::findings::{Finding, Findings, Level};
use crate::config::load::{Documents, Loader};
use crate::config::receivers::{self, SinkPlan};
use crate::config::secret::SecretSource;
use crate::io::engine::Role;
use crate::io::hostname::short_hostname;
use crate::io::outlet::{Identity, Outcome, Outlet};
use crate::io::store::{self, Concern, Store};
use crate::io::{log, secret, state_file, time};
use crate::pure::alarm::{AlarmKey, Kind, Subject};
use crate::pure::ledger::{Assurance, Due, Occasion};
use crate::pure::notification::Notification;
use crate::pure::order::NewSilence;
use crate::pure::time::{Now, WallTime};
use crate::pure::truth;
use crate::supervisor::{Source, Supervisor};
use crate::web::client::Agent;

pub use check::check_config;
pub use doctor::doctor;
pub use key::key;
pub use ping::ping;
pub use rollout::rollout;
pub use transfer::{export, import};

/// Exit code of a command that succeeded.
pub const EXIT_GOOD: i32 = 0;
/// Exit code for a failure outside of the configuration, such as a store that cannot be reached.
pub const EXIT_FAILURE: i32 = 1;
/// Exit code for a fault of peerpair's own (sysexits' EX_SOFTWARE).
pub const EXIT_INTERNAL: i32 = 70;
/// Exit code for a configuration with findings (sysexits' EX_CONFIG).
pub const EXIT_CONFIG: i32 = 78;

/// Runs the agent until it is stopped by a signal, and returns its exit code.
pub fn run(arguments: &Run) -> anyhow::Result<i32> {
    let source = Source { path: arguments.config.clone(), overrides: arguments.overrides.to_overrides() };
    let bootstrap = match read_bootstrap(&source) {
        Ok(bootstrap) => bootstrap,
        Err(findings) => {
            let mut stderr = std::io::stderr().lock();
            for finding in findings {
                writeln!(stderr, "{}: {finding}", finding.level)?;
            }
            return Ok(EXIT_CONFIG);
        }
    };
    log::init(&bootstrap.log);
    tracing::info!(
        host = bootstrap.host,
        store = store::place(&bootstrap.store),
        version = env!("CARGO_PKG_VERSION"),
        "peerpair"
    );
    let _in_use = match state_file::lock(&bootstrap.state_dir, &bootstrap.host) {
        Ok(Some(lock)) => Some(lock),
        // Two agents would notify the same receivers, and each would mistake the other's notification log for its own.
        Ok(None) => {
            let state_dir = bootstrap.state_dir.display().to_string();
            let way_out = "stop it, or give each its own host or state_dir";
            tracing::error!(state_dir, way_out, "another agent of this host name runs here");
            return Ok(EXIT_FAILURE);
        }
        // Notification logs cannot be kept there; the sinks report it when they try.
        Err(_) => None,
    };
    // The time base starts just before the runtime's clock, so that timers end with its slots (see `pace`).
    time::start();
    let system = actix::System::new();
    let code = system.block_on(async {
        let (supervisor, exit_code) = Supervisor::new(source, bootstrap);
        let _supervisor = supervisor.start();
        exit_code.await
    });
    // Dropping the runtime would block on name look-ups and file systems that hang.
    std::mem::forget(system);
    Ok(code.unwrap_or(EXIT_INTERNAL))
}

/// Adds, lists or expires silences of a running agent through its API.
pub fn silence(arguments: &cli::Silence) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let mut stdout = std::io::stdout().lock();
    match arguments {
        cli::Silence::Add(add) => {
            let until = match (add.duration, add.until) {
                (Some(duration), _) => WallTime::from(SystemTime::now()) + duration,
                (None, Some(until)) => until,
                (None, None) => anyhow::bail!("a silence needs an end: --for or --until"),
            };
            let user = || std::env::var("USER").unwrap_or_default();
            let new = NewSilence {
                hosts: add.hosts.clone(),
                tags: add.tags.clone(),
                tests: add.tests.clone(),
                sets: add.sets.clone(),
                until,
                comment: add.comment.clone(),
                author: add.author.clone().unwrap_or_else(user),
            };
            let silence = runtime.block_on(agent(&add.agent)?.add_silence(&new))?;
            writeln!(stdout, "silence {} until {}", silence.id, silence.until)?;
        }
        cli::Silence::List(of) => {
            let silences = runtime.block_on(agent(of)?.silences())?;
            if silences.is_empty() {
                writeln!(stdout, "no silences")?;
            }
            for silence in silences {
                writeln!(stdout, "{silence}")?;
            }
        }
        cli::Silence::Expire(expire) => {
            let silence = runtime.block_on(agent(&expire.agent)?.expire_silence(&expire.id))?;
            writeln!(stdout, "silence {} is over", silence.id)?;
        }
    }
    Ok(EXIT_GOOD)
}

/// Returns a client for the agent that the options select.
fn agent(of: &cli::OfAgent) -> anyhow::Result<Agent> {
    let (url, path) = match &of.url {
        // A token is sent only to the agent that it belongs to, so the bootstrap file's token is not used here.
        Some(url) => (url.clone(), of.token_file.clone()),
        None => {
            let (bootstrap, findings) = parse_bootstrap(&of.config, &Overrides::default());
            if let Some(finding) = findings.iter().find(|finding| finding.level == Level::Error) {
                anyhow::bail!("{finding}; or name the agent's page with --url");
            }
            // A page that is served at every address is reachable at the loopback address.
            let url = bootstrap.web.url("127.0.0.1");
            let url = url.context("[web] listen of that file is empty: the agent cannot be asked")?;
            (url, of.token_file.clone().or(bootstrap.web.token_file))
        }
    };
    let token = match &path {
        Some(path) => Some(secret::read(SecretSource::File(path)).map_err(anyhow::Error::msg)?),
        None => None,
    };
    Agent::new(&url, token)
}

/// Sends one notification, marked as a test, to a sink and prints the result.
pub fn send_test_notification(arguments: &SendTestNotification) -> anyhow::Result<i32> {
    time::start();
    let overrides = arguments.overrides.to_overrides();
    let (bootstrap, findings) = parse_bootstrap(&arguments.config, &overrides);
    let mut stdout = std::io::stdout().lock();
    if findings.iter().any(|finding| finding.level == Level::Error) {
        for finding in findings {
            writeln!(stdout, "{}: {finding}", finding.level)?;
        }
        return Ok(EXIT_CONFIG);
    }
    log::to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let (plans, unread) = runtime.block_on(known_sinks(&bootstrap));
    let Some(plan) = plans.iter().find(|plan| plan.config.name == arguments.sink) else {
        let names = plans.iter().map(|plan| plan.config.name.as_str()).collect::<Vec<_>>().join(", ");
        let unread = unread.map_or(String::new(), |problem| format!("; the documents cannot be read: {problem}"));
        anyhow::bail!("there is no sink `{}`; there are: {names}{unread}", arguments.sink);
    };
    let identity = Identity::of(&bootstrap, Role::Guest);
    let due = test_notification(&bootstrap.host, time::now());
    let mut outlet = Outlet::new(&plan.config, &identity);
    let delivered = runtime.block_on(outlet.deliver(vec![due]));
    let target = plan.config.describe(&bootstrap.host, Some(&identity.machine));
    for (_, outcome) in delivered.outcomes {
        match (outcome, &plan.manner.assurance) {
            (Outcome::Nothing, _) => {
                writeln!(stdout, "{target} has no words for a test notification: nothing was sent")?
            }
            (Outcome::Delivered, Assurance::Repeated(_)) => {
                writeln!(stdout, "sent by {target}; nobody acknowledges that: look whether it arrived")?;
            }
            (Outcome::Delivered, Assurance::Acknowledged | Assurance::Refreshed { .. }) => {
                writeln!(stdout, "sent by {target}, and acknowledged")?;
            }
            (Outcome::Refused(problem) | Outcome::Unreachable(problem), _) => {
                writeln!(stdout, "not delivered by {target}: {problem}")?;
                return Ok(EXIT_FAILURE);
            }
            (Outcome::NotTried, _) => return Ok(EXIT_FAILURE),
        }
    }
    Ok(EXIT_GOOD)
}

/// Returns the sinks of the bootstrap file and of the documents; if the documents cannot be read, the reason too.
async fn known_sinks(bootstrap: &Bootstrap) -> (Vec<SinkPlan>, Option<String>) {
    let listed = match Store::new(&bootstrap.store, Concern::Host(bootstrap.host.clone())) {
        Ok(mut store) => store.list().await,
        Err(error) => Err(error),
    };
    let (documents, unread) = match listed {
        Ok(snapshot) => (snapshot.documents, None),
        Err(error) => (Documents::new(), Some(error.to_string())),
    };
    let loaded = Loader::of(bootstrap).load(&documents);
    (receivers::choose(&loaded.sinks, &bootstrap.sink, &loaded.telling), unread)
}

fn test_notification(host: &str, now: Now) -> Due {
    let key = AlarmKey::new(Kind::Test, Subject::Agent);
    let text = "a test notification of peerpair: nothing is wrong".to_owned();
    let notification = Notification { legacy_text: text.clone(), text, ..truth::blank(host, &key, now) };
    Due::Alarm { notification: Arc::new(notification), occasion: Occasion::First, still_raised: None }
}

/// Reads the bootstrap file; returns all its findings if one of them is an error.
pub fn read_bootstrap(source: &Source) -> Result<Bootstrap, BTreeSet<Finding>> {
    let (bootstrap, findings) = parse_bootstrap(&source.path, &source.overrides);
    if findings.iter().any(|finding| finding.level == Level::Error) {
        return Err(findings.into_iter().collect());
    }
    Ok(bootstrap)
}

fn parse_bootstrap(path: &Path, overrides: &Overrides) -> (Bootstrap, Vec<Finding>) {
    let mut findings = Findings::about(path.display().to_string());
    let bootstrap = match std::fs::read_to_string(path) {
        Ok(text) => Bootstrap::read(&text, path, overrides, &short_hostname(), &mut findings),
        Err(error) => {
            findings.error("", format!("cannot be read: {error}"), "put it there, or name another with --config");
            Bootstrap { host: short_hostname(), ..Bootstrap::default() }
        }
    };
    (bootstrap, findings.into_vec())
}
