//! Command `peerpair check-config`: reports every finding in the configuration, and the plan that follows from it. The
//! checks are those that the agent itself makes; the store is only read. With `--running` or `--against`, the report
//! also shows the difference to another plan.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use crate::cli::{CheckConfig, OutputFormat};
use crate::config::bootstrap::{Bootstrap, Overrides, StoreConfig, StoreKind};
use crate::config::check::fleet;
use crate::config::document::findings::{Finding, Findings, Level};
use crate::config::document::raw::GLOBAL_KEY;
use crate::config::document::secret::SecretSource;
use crate::config::document::sinks::SinkConfig;
use crate::config::load::{Loaded, Loader};
use crate::config::plan::{self, PlanInputs};
use crate::config::report;
use crate::config::report::host::{self, HostReport};
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::net::dns::resolve;
use crate::io::receiver::reach;
use crate::io::state::engine_boots;
use crate::io::store::StoreError;
use crate::io::store::{self, ReadScope, Snapshot, Store};
use crate::io::{adjtimex, keys};
use crate::pure::stamp::key::KeyRing;
use crate::web::client::Agent;

/// Prints all findings in the configuration, and the plan of one host or the state of the whole fleet.
pub fn check_config(arguments: &CheckConfig) -> anyhow::Result<i32> {
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    runtime.block_on(checked(arguments))
}

async fn checked(arguments: &CheckConfig) -> anyhow::Result<i32> {
    let path = &arguments.config;
    let mut overrides = arguments.overrides.to_overrides();
    overrides.local_name = arguments.host.clone().or(overrides.local_name);
    let (bootstrap, findings) = parse_bootstrap(path, &overrides);
    let place = store::place(&bootstrap.store);
    let broken = findings.iter().any(|finding| finding.level == Level::Error);
    let report = HostReport::of_findings(&bootstrap.host, place.clone(), findings);
    if broken {
        let store = format!("{place}, which were not read because of these errors");
        return show(&HostReport { store, ..report }, arguments, true);
    }
    let snapshot = match list(&bootstrap.store).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let found = unreadable(path, &bootstrap.store, &place, &error.to_string());
            let found = report.findings.into_iter().chain(found).collect();
            return show(&HostReport::of_findings(&bootstrap.host, place, found), arguments, false);
        }
    };
    if arguments.all_hosts {
        return all_hosts(&bootstrap, snapshot, report.findings, arguments).await;
    }

    let mut loader = Loader::of(&bootstrap);
    let (planned, sinks) = plan_host(&bootstrap, &mut loader, &snapshot, report).await;
    // Files and keys can be checked only if the configuration is that of the local host.
    let here = bootstrap.host == parse_bootstrap(path, &Overrides::default()).0.host;
    let mut found = misplaced_documents(&snapshot);
    found.extend(fleet::contradictions(&loader).into_iter().filter(|finding| concerns(finding, &bootstrap.host)));
    if here {
        found.extend(missing_prerequisites(&sinks));
        found.extend(exposed(&bootstrap, &sinks));
        let loaded = loader.load_for(&bootstrap.host);
        let error = bootstrap.clock.error.unwrap_or_else(|| adjtimex::clock_quality().error);
        found.extend(fleet::undecidable(&loaded, &bootstrap.host, error));
        found.extend(unusable_keys(&loaded));
    }
    let machine = if here { engine_boots::known_machine(&bootstrap.state_dir) } else { None };
    let mut report = planned.with_findings(found);
    if let Some(machine) = machine {
        report = report.on_machine(&sinks, &machine);
    }
    if let Some((place, before, found)) = before(&bootstrap, arguments).await? {
        report = report.against(place, &before).with_findings(found);
    }
    show(&report, arguments, true)
}

/// Returns a finding for each key that this host cannot use.
fn unusable_keys(loaded: &Loaded) -> Vec<Finding> {
    let (_, problems) = keys::read(&loaded.keys, loaded.active_key, &KeyRing::default());
    let mut findings = Findings::about(GLOBAL_KEY);
    for (id, problem) in problems {
        let help = "until it can be used, tests that are signed with it do not run on this host";
        findings.error(&format!("keys: {id}"), format!("cannot be used on this host: {problem}"), help);
    }
    findings.into_vec()
}

/// Loads and plans the documents as the agent does, and returns the report with the sinks of the plan.
async fn plan_host(
    bootstrap: &Bootstrap,
    loader: &mut Loader,
    snapshot: &Snapshot,
    report: HostReport,
) -> (HostReport, Vec<SinkConfig>) {
    loader.read(&snapshot.documents);
    let loaded = loader.load_for(&bootstrap.host);
    let names = resolve(plan::names_to_resolve(&loaded, &bootstrap.host)).await;
    let around = PlanInputs { names: &names, addresses: None };
    let plan = plan::plan(&loaded, around, &bootstrap.host, &bootstrap.sink);
    let sinks = plan.alarms.sinks.iter().map(|sink| sink.config.clone()).collect();
    (report.with_plan(snapshot.revision, &loaded, &names, &plan), sinks)
}

async fn all_hosts(
    bootstrap: &Bootstrap,
    snapshot: Snapshot,
    found: Vec<Finding>,
    arguments: &CheckConfig,
) -> anyhow::Result<i32> {
    anyhow::ensure!(
        arguments.running.is_none() && arguments.against.is_none(),
        "--all-hosts cannot be compared; remove --running and --against, or name one --host"
    );
    let mut loader = Loader::of(bootstrap);
    loader.read(&snapshot.documents);
    let mut names = std::collections::BTreeSet::new();
    for host in report::fleet::hosts(&loader) {
        names.extend(plan::names_to_resolve(&loader.load_for(&host), &host));
    }
    let names = resolve(names).await;
    let mut report = report::fleet::report(&mut loader, store::place(&bootstrap.store), snapshot.revision, &names);
    report
        .findings
        .extend(found.into_iter().chain(exposed(bootstrap, &bootstrap.sink)).chain(misplaced_documents(&snapshot)));
    report.findings.sort();
    let mut stdout = std::io::stdout().lock();
    match arguments.format {
        OutputFormat::Text => write!(stdout, "{report}")?,
        OutputFormat::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(exit_code(report.count(Level::Error), report.count(Level::Warning), arguments))
}

/// Returns the plan to compare with, from a running agent or a directory, with its name and findings.
async fn before(
    bootstrap: &Bootstrap,
    arguments: &CheckConfig,
) -> anyhow::Result<Option<(String, BTreeMap<String, Value>, Vec<Finding>)>> {
    if let Some(url) = &arguments.running {
        let url = &if url.contains("://") { url.clone() } else { format!("http://{url}") };
        let running = Agent::new(url, None)?.plan().await?;
        let host = running["host"].as_str().unwrap_or_default();
        anyhow::ensure!(host == bootstrap.host, "{url} is the agent of `{host}`, not of `{}`", bootstrap.host);
        return Ok(Some((format!("the running agent at {url}"), host::parts(&running), Vec::new())));
    }
    let Some(directory) = &arguments.against else { return Ok(None) };
    let config = StoreConfig { kind: StoreKind::Dir, path: directory.clone(), ..StoreConfig::default() };
    let snapshot = list(&config).await?;
    let report = HostReport::of_findings(&bootstrap.host, String::new(), Vec::new());
    let (report, _) = plan_host(bootstrap, &mut Loader::of(bootstrap), &snapshot, report).await;
    let place = directory.display().to_string();
    let mut found = report.findings.clone();
    for finding in &mut found {
        // Findings in the directory are reported as warnings, because it is not the configuration under check.
        (finding.level, finding.location) = (Level::Warning, format!("{place}/{}", finding.location));
    }
    Ok(Some((place, report.parts(), found)))
}

async fn list(config: &StoreConfig) -> Result<Snapshot, StoreError> {
    Store::new(config, ReadScope::Fleet)?.list().await
}

fn show(report: &HostReport, arguments: &CheckConfig, readable: bool) -> anyhow::Result<i32> {
    let mut stdout = std::io::stdout().lock();
    match arguments.format {
        OutputFormat::Text => write!(stdout, "{report}")?,
        OutputFormat::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    if !readable {
        return Ok(EXIT_FAILURE);
    }
    Ok(exit_code(report.count(Level::Error), report.count(Level::Warning), arguments))
}

fn exit_code(errors: usize, warnings: usize, arguments: &CheckConfig) -> i32 {
    if errors > 0 || arguments.deny_warnings && warnings > 0 { EXIT_CONFIG } else { EXIT_GOOD }
}

fn unreadable(path: &Path, config: &StoreConfig, place: &str, error: &str) -> Vec<Finding> {
    let mut findings = Findings::about(path.display().to_string());
    let help = match config.kind {
        StoreKind::Etcd => {
            "start the store, or correct [store] (see `peerpair doctor`); its documents were not \
                checked"
        }
        StoreKind::Dir => "create it, or correct [store]; its documents were not checked",
    };
    findings.error("store", format!("{place} cannot be read: {error}"), help);
    findings.into_vec()
}

/// Converts the snapshot's remark, such as documents at unknown paths, to a warning.
fn misplaced_documents(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Findings::about("store");
    if let Some(remark) = &snapshot.remark {
        findings.warning("", remark, "move it to a place that agents read, or remove it");
    }
    findings.into_vec()
}

/// Returns true if a finding about the fleet concerns this host.
fn concerns(finding: &Finding, host: &str) -> bool {
    let near = |text: &str| text.split([' ', ';', ':', '/', ',']).any(|word| word == host);
    near(&finding.location) || near(&finding.problem) || finding.location.starts_with("sets/")
}

fn missing_prerequisites(sinks: &[SinkConfig]) -> Vec<Finding> {
    let missing_prerequisites = sinks.iter().flat_map(|sink| {
        let mut findings = Findings::about(format!("sink {}", sink.name));
        for problem in reach::missing_prerequisites(sink) {
            findings.warning("", problem, "create it before the sink is needed");
        }
        findings.into_vec()
    });
    missing_prerequisites.collect()
}

/// Returns a warning for each secret file that every user of this host can read.
fn exposed(bootstrap: &Bootstrap, sinks: &[SinkConfig]) -> Vec<Finding> {
    let of_sinks = sinks.iter().flat_map(|sink| sink.secrets().map(|source| (format!("sink {}", sink.name), source)));
    let of_store = bootstrap.store.auth.password().map(|source| ("store.auth".to_owned(), source));
    let in_file = |(place, source): (String, SecretSource<'_>)| match source {
        SecretSource::File(path) => Some((place, path.to_owned())),
        SecretSource::Env(_) => None,
    };
    let mut files: Vec<(String, PathBuf)> = of_sinks.chain(of_store).filter_map(in_file).collect();
    files.extend(bootstrap.store.tls.key_file.clone().map(|path| ("store.tls.key_file".to_owned(), path)));
    files.extend(bootstrap.web.token_file.clone().map(|path| ("web.token_file".to_owned(), path)));
    let exposed = files
        .into_iter()
        .filter(|(_, path)| std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0));
    exposed
        .flat_map(|(place, path)| {
            let mut findings = Findings::about(place);
            let problem = format!("every user of this host can read {}", path.display());
            findings.warning("", problem, format!("chmod o-r {}", path.display()));
            findings.into_vec()
        })
        .collect()
}
