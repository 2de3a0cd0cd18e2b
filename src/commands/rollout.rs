//! Command `peerpair rollout`: lists for each agent the revision that it runs, the documents that it rejected, and
//! whether it is silent. It compares the digest that each agent publishes under `agents/<host>` with that of the
//! documents in the store, so it needs a store with leases.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::{self, OutputFormat};
use crate::config::document::agent::AgentDocument;
use crate::config::document::findings::Level;
use crate::config::document::raw::{Documents, TESTS_PREFIX, digest, tests_prefix};
use crate::config::load::Loader;
use crate::config::report;
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::store::{self, ReadScope, Store};

/// Rollout state of an agent, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum AgentState {
    /// Agent has no status in the store: its lease of three minutes has expired, or it never ran.
    Silent,
    /// Agent runs the newest documents but rejects some of them.
    Rejected,
    /// Agent runs older documents than those in the store.
    Behind,
    /// Agent runs the newest documents and rejects none.
    Current,
}

#[derive(Serialize)]
struct RolloutLine {
    host: String,
    state: AgentState,
    version: Option<String>,
    revision: Option<u64>,
    web: Option<String>,
    rejected: Vec<String>,
}

/// Lists all agents, the worst first, and returns success if all run the newest documents.
pub fn rollout(arguments: &cli::Rollout) -> anyhow::Result<i32> {
    let (bootstrap, findings) = parse_bootstrap(&arguments.config, &arguments.overrides.to_overrides());
    if let Some(finding) = findings.iter().find(|finding| finding.level == Level::Error) {
        writeln!(std::io::stderr().lock(), "{finding}")?;
        return Ok(EXIT_CONFIG);
    }
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    let (snapshot, announced) = runtime.block_on(async {
        let snapshot = Store::new(&bootstrap.store, ReadScope::Fleet)?.list().await?;
        anyhow::ensure!(
            snapshot.origin.has_leases(),
            "{} ({}) has no leases, so agents do not report there: see /status.json of each agent",
            store::place(&bootstrap.store),
            snapshot.origin,
        );
        Ok((snapshot, store::announced(&bootstrap.store).await?))
    })?;
    let mut loader = Loader::of(&bootstrap);
    loader.read(&snapshot.documents);
    let hosts: BTreeSet<String> = report::fleet::hosts(&loader).into_iter().chain(announced.keys().cloned()).collect();
    let mut lines: Vec<RolloutLine> = hosts
        .into_iter()
        .map(|host| {
            let announced = announced.get(&host).map(|text| AgentDocument::read(text).unwrap_or_default());
            let wanted = digest(&of_host(&snapshot.documents, &host));
            line(host, announced, &wanted)
        })
        .collect();
    lines.sort_by(|a, b| (a.state, &a.host).cmp(&(b.state, &b.host)));
    let mut stdout = std::io::stdout().lock();
    match arguments.format {
        OutputFormat::Text => {
            let newest = snapshot.documents.values().map(|document| document.version).max().unwrap_or(0);
            write!(stdout, "{}", table(&lines, newest))?;
        }
        OutputFormat::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&lines)?)?,
    }
    let all = lines.iter().all(|line| line.state == AgentState::Current);
    Ok(if all { EXIT_GOOD } else { EXIT_FAILURE })
}

/// Selects the documents that an agent of this host reads.
fn of_host(documents: &Documents, host: &str) -> Documents {
    let own = tests_prefix(host);
    let concerns = |key: &str| !key.starts_with(TESTS_PREFIX) || key.starts_with(&own);
    documents.iter().filter(|(key, _)| concerns(key)).map(|(key, raw)| (key.clone(), raw.clone())).collect()
}

fn line(host: String, announced: Option<AgentDocument>, wanted: &str) -> RolloutLine {
    let Some(announced) = announced else {
        return RolloutLine {
            host,
            state: AgentState::Silent,
            version: None,
            revision: None,
            web: None,
            rejected: Vec::new(),
        };
    };
    let state = match announced.digest == wanted {
        false => AgentState::Behind,
        true if announced.rejected_in_all > 0 => AgentState::Rejected,
        true => AgentState::Current,
    };
    let mut rejected: Vec<String> =
        announced.rejected.into_iter().map(|rejected| rejected.reason.unwrap_or(rejected.document)).collect();
    if announced.rejected_in_all > rejected.len() {
        rejected.push(format!("and {} more", announced.rejected_in_all - rejected.len()));
    }
    RolloutLine {
        host,
        state,
        version: Some(announced.version),
        revision: Some(announced.revision),
        web: announced.web,
        rejected,
    }
}

fn table(lines: &[RolloutLine], revision: u64) -> String {
    let mut text = String::new();
    let widest = lines.iter().map(|line| line.host.chars().count()).max().unwrap_or(0).max(4);
    let _ignored = writeln!(text, "{:widest$}  {:8}  {:>10}  {:8}  page", "host", "state", "revision", "version");
    for line in lines {
        let name = match line.state {
            AgentState::Silent => "silent",
            AgentState::Rejected => "rejected",
            AgentState::Behind => "behind",
            AgentState::Current => "current",
        };
        let revision = line.revision.map_or("-".to_owned(), |revision| revision.to_string());
        let (version, web) = (line.version.as_deref().unwrap_or("-"), line.web.as_deref().unwrap_or("-"));
        let _ignored = writeln!(text, "{:widest$}  {name:8}  {revision:>10}  {version:8}  {web}", line.host);
        for reason in &line.rejected {
            let _ignored = writeln!(text, "{:widest$}    {reason}", "");
        }
    }
    let count = |state| lines.iter().filter(|line| line.state == state).count();
    let _ignored = writeln!(
        text,
        "\nnewest document of revision {revision}: {} current, {} behind, {} with rejected documents, {} silent",
        count(AgentState::Current),
        count(AgentState::Behind),
        count(AgentState::Rejected),
        count(AgentState::Silent)
    );
    text
}
