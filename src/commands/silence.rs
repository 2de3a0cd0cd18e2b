//! The command `silence`: silences of a running agent, through its API.

use std::io::Write as _;
use std::time::SystemTime;

use anyhow::Context as _;

use crate::cli;
use crate::config::bootstrap::Overrides;
use crate::config::document::findings::Level;
use crate::config::document::secret::SecretSource;
use crate::exit::EXIT_GOOD;
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::secret;
use crate::pure::base::time::WallTime;
use crate::pure::status::api::NewSilence;
use crate::web::client::Agent;

/// Adds, lists or expires silences of a running agent through its API.
pub fn silence(arguments: &cli::SilenceCommand) -> anyhow::Result<i32> {
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    let mut stdout = std::io::stdout().lock();
    match arguments {
        cli::SilenceCommand::Add(add) => {
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
        cli::SilenceCommand::List(of) => {
            let silences = runtime.block_on(agent(of)?.silences())?;
            if silences.is_empty() {
                writeln!(stdout, "no silences")?;
            }
            for silence in silences {
                writeln!(stdout, "{silence}")?;
            }
        }
        cli::SilenceCommand::Expire(expire) => {
            let silence = runtime.block_on(agent(&expire.agent)?.expire_silence(&expire.id))?;
            writeln!(stdout, "silence {} expired", silence.id)?;
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
            let url = url.context("[web] listen of that file is empty: the agent has no API")?;
            (url, of.token_file.clone().or(bootstrap.web.token_file))
        }
    };
    let token = match &path {
        Some(path) => Some(secret::read(SecretSource::File(path))?),
        None => None,
    };
    Agent::new(&url, token)
}
