//! Commands `peerpair export` and `peerpair import`: transfer documents between the store and a directory. Both show
//! the difference first and write only what differs; import checks the documents before it writes any.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use serde_json::Value;

use crate::cli::Transfer;
use crate::config::bootstrap::{StoreConfig, StoreKind};
use crate::config::check::document::{Document, read_document};
use crate::config::document::deserialize::{self, Format};
use crate::config::document::findings::{Finding, Findings, Level};
use crate::config::document::raw::{Documents, GLOBAL_KEY, HOSTS_PREFIX, RawDocument, SETS_PREFIX};
use crate::config::report::document_diff::{self, Difference, DocumentChange};
use crate::config::report::wording::counted;
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::store::origin::Origin;
use crate::io::store::{self, ReadScope, Snapshot, Store};

/// Limit of a document's length in octets; etcd does not accept a longer value.
const LONGEST: usize = 1 << 20;

/// Writes the documents of the store into a directory.
pub fn export(arguments: &Transfer) -> anyhow::Result<i32> {
    run(arguments, false)
}

/// Writes the documents of a directory into the store.
pub fn import(arguments: &Transfer) -> anyhow::Result<i32> {
    run(arguments, true)
}

fn run(arguments: &Transfer, into_store: bool) -> anyhow::Result<i32> {
    let (bootstrap, findings) = parse_bootstrap(&arguments.config, &arguments.overrides.to_overrides());
    if say_errors(&findings)? {
        return Ok(EXIT_CONFIG);
    }
    let directory = StoreConfig { kind: StoreKind::Dir, path: arguments.directory.clone(), ..StoreConfig::default() };
    let (from, to) = if into_store { (&directory, &bootstrap.store) } else { (&bootstrap.store, &directory) };
    if !into_store && !arguments.dry_run {
        std::fs::create_dir_all(&arguments.directory)
            .with_context(|| format!("create {}", arguments.directory.display()))?;
    }
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    runtime.block_on(transfer(from, to, arguments, into_store))
}

async fn transfer(from: &StoreConfig, to: &StoreConfig, arguments: &Transfer, into_store: bool) -> anyhow::Result<i32> {
    let source = Store::new(from, ReadScope::Fleet)?.list().await?;
    if into_store && say_errors(&findings(&source.documents))? {
        eprint("nothing was written");
        return Ok(EXIT_CONFIG);
    }
    anyhow::ensure!(
        !(into_store && source.documents.is_empty()),
        "{} has no documents (config.json, hosts/, sets/, tests/); nothing was written",
        arguments.directory.display()
    );
    let mut target = Store::new(to, ReadScope::Fleet)?;
    let there = match target.list().await {
        Ok(snapshot) => snapshot,
        // A directory that does not exist yet counts as empty in a dry run.
        Err(_) if arguments.dry_run && !into_store && !arguments.directory.exists() => Snapshot {
            revision: 0,
            documents: Documents::new(),
            origin: Origin::Directory(String::new()),
            remark: None,
        },
        Err(error) => return Err(error.into()),
    };
    let differences = document_diff::differences(&values(&there.documents), &values(&source.documents));
    let (removed, written): (Vec<Difference>, Vec<Difference>) =
        differences.into_iter().partition(|difference| difference.change == DocumentChange::Remove);
    let mut planned = written;
    let kept = if arguments.prune {
        planned.extend(removed);
        0
    } else {
        removed.len()
    };
    planned.sort_by_key(|difference| order(difference, &source.documents));

    let mut text = format!("from {} to {}\n", store::place(from), store::place(to));
    document_diff::write_differences(&mut text, &planned)?;
    let same =
        source.documents.len() - planned.iter().filter(|planned| planned.change != DocumentChange::Remove).count();
    text.push_str(&format!("  {same} unchanged"));
    if kept > 0 {
        text.push_str(&format!(", {kept} only in the destination, which are kept (--prune removes them)"));
    }
    for remark in [&source.remark, &there.remark].into_iter().flatten() {
        text.push_str(&format!("\n  warning: {remark}"));
    }
    print(&text)?;
    if planned.is_empty() || arguments.dry_run {
        return Ok(EXIT_GOOD);
    }
    let harmless = !into_store && planned.iter().all(|planned| planned.change == DocumentChange::Create);
    if !harmless && !arguments.yes && !consent()? {
        eprint("nothing was written; add --yes to write without confirmation");
        return Ok(EXIT_FAILURE);
    }
    let mut failed = 0;
    for difference in &planned {
        let key = &difference.what;
        let text = source.documents.get(key).map(|document| as_json(document));
        let version = there.documents.get(key).map_or(0, |document| document.version);
        let problem = match target.write(key, text.as_deref(), version).await {
            Ok(Ok(())) => continue,
            Ok(Err(conflict)) => conflict.to_string(),
            Err(error) => error.to_string(),
        };
        failed += 1;
        eprint(&format!("{key}: not written: {problem}"));
    }
    print(&format!("{} written, {failed} not written", counted(planned.len() - failed, "document")))?;
    Ok(if failed > 0 { EXIT_FAILURE } else { EXIT_GOOD })
}

/// Returns the sort key that orders writes: hosts before the tests and sets that name them, and a test at its receiver
/// before its sender, so that the receiver expects the test before the first probe arrives.
fn order(difference: &Difference, documents: &Documents) -> (u8, bool, String) {
    let key = &difference.what;
    let removes = difference.change == DocumentChange::Remove;
    let rank = match key.as_str() {
        GLOBAL_KEY => 0,
        key if key.starts_with(HOSTS_PREFIX) => 1,
        key if key.starts_with(SETS_PREFIX) => 3,
        _ => 2,
    };
    let at_sender = documents.get(key).is_some_and(|raw| match read_document(key, raw).0 {
        Some(Document::Test(test)) => key.split('/').nth(1) == Some(&test.from_host),
        Some(_) | None => false,
    });
    // Removals go in the opposite order of kinds. A removed document is absent from `documents`, so that its two ends
    // are ordered by key alone.
    (if removes { 4 - rank } else { rank }, at_sender != removes, key.clone())
}

fn values(documents: &Documents) -> BTreeMap<String, Value> {
    documents.iter().map(|(key, document)| (key.clone(), value(document))).collect()
}

/// Parses a document; returns its text as a JSON string if it cannot be parsed.
fn value(document: &RawDocument) -> Value {
    let parsed = deserialize::parse(&document.text, document.format, &mut Findings::about(""));
    parsed.unwrap_or_else(|| Value::String(document.text.clone()))
}

fn as_json(document: &RawDocument) -> String {
    match document.format {
        Format::Json => document.text.clone(),
        Format::Toml => serde_json::to_string_pretty(&value(document)).unwrap_or_default(),
    }
}

/// Returns all findings that would keep documents from taking effect.
fn findings(documents: &Documents) -> Vec<Finding> {
    let mut found = Vec::new();
    for (key, raw) in documents {
        found.extend(read_document(key, raw).1);
        let mut findings = Findings::about(&raw.place);
        if raw.text.len() > LONGEST {
            findings.error("", "longer than 1 MiB", "make it shorter: a set defines many tests in few lines");
        }
        if key.split('/').any(|segment| segment.is_empty() || segment.starts_with('.') || segment.starts_with('_')) {
            findings.error(
                "",
                "not a valid document name",
                "use a name that does not start with a dot or an \
                underscore",
            );
        }
        found.extend(findings.into_vec());
    }
    found
}

/// Prints the findings that are errors; returns true if there are any.
pub(super) fn say_errors(findings: &[Finding]) -> anyhow::Result<bool> {
    let mut text = String::new();
    let errors = findings.iter().filter(|finding| finding.level == Level::Error);
    for finding in errors {
        finding.write_long(&mut text)?;
    }
    if !text.is_empty() {
        eprint(text.trim_end());
    }
    Ok(!text.is_empty())
}

fn consent() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "write these changes? [y/N] ")?;
    stdout.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

fn eprint(text: &str) {
    let _ignored = writeln!(std::io::stderr().lock(), "{text}");
}
