//! Command `peerpair key`: creates keys, and rotates the key in use to a new one without causing an alarm. A rotation
//! adds a key, signs with it, and removes the old one; each step edits the document `config`, the second and third only
//! once all agents have published that they are ready.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{self, RotateKey};
use crate::config::bootstrap::Bootstrap;
use crate::config::document::agent::AgentDocument;
use crate::config::document::deserialize::Format;
use crate::config::document::raw::GLOBAL_KEY;
use crate::config::load::Loader;
use crate::config::report;
use crate::config::report::wording::counted;
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::keys;
use crate::io::store::{self, ReadScope, Snapshot, Store};
use crate::pure::stamp::key::KEY_LEN;

/// Creates a key, or carries out the next step of a rotation.
pub fn key(arguments: &cli::KeyCommand) -> anyhow::Result<i32> {
    match arguments {
        cli::KeyCommand::New(new) => {
            make(&new.file)?;
            let file = std::path::absolute(&new.file)?;
            let example = json!({"keys": [{"id": 1, "secret_file": file}], "active_key": 1});
            print(&format!("{} holds a new key; copy it to every host, mode 600", file.display()))?;
            print(&format!("then in the document config: {example}"))?;
            Ok(EXIT_GOOD)
        }
        cli::KeyCommand::Rotate(rotate) => {
            let runtime = actix_rt::Runtime::new().context("start the runtime")?;
            runtime.block_on(take_step(rotate))
        }
    }
}

/// Creates a file with a new random key, readable by its owner only; fails if the file exists.
fn make(path: &Path) -> anyhow::Result<()> {
    let mut octets = [0; KEY_LEN];
    getrandom::fill(&mut octets).map_err(|error| anyhow::anyhow!("random octets: {error}"))?;
    let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    writeln!(file, "{hex}").and_then(|()| file.sync_all()).with_context(|| format!("write {}", path.display()))
}

/// Keys in the document `config`, in the order in which they were added.
#[derive(Debug, PartialEq)]
struct Ring {
    /// Ids and files of the keys; a key without a file has its secret in the document.
    keys: Vec<(u8, Option<PathBuf>)>,
    active: Option<u8>,
}

/// Step of a key rotation. Before the second and third step, all agents must report that they are ready.
#[derive(Debug, PartialEq)]
enum RotationStep {
    /// Adds a key with this id and file, so that every agent accepts it before any agent signs with it.
    Add(u8, PathBuf),
    /// Makes this key the one that probes are signed with.
    Activate(u8),
    /// Removes keys that no agent signs with any more.
    Remove(Vec<u8>),
}

impl Ring {
    fn of(config: &Value) -> Option<Ring> {
        let id = |value: &Value| value.as_u64().and_then(|id| u8::try_from(id).ok());
        let keys = config.get("keys")?.as_array()?.iter().filter_map(|key| {
            let file = key.get("secret_file").and_then(Value::as_str).map(PathBuf::from);
            Some((id(key.get("id")?)?, file))
        });
        Some(Ring { keys: keys.collect(), active: config.get("active_key").and_then(id) })
    }

    fn next_step(&self) -> anyhow::Result<RotationStep> {
        let (newest, file) = self.keys.last().context("the document config has no keys: peerpair key new makes one")?;
        let active = self.active.context("the document config has no active_key")?;
        if *newest != active {
            return Ok(RotationStep::Activate(*newest));
        }
        let old: Vec<u8> = self.keys.iter().map(|(id, _)| *id).filter(|id| *id != active).collect();
        if !old.is_empty() {
            return Ok(RotationStep::Remove(old));
        }
        let next = active.checked_add(1).unwrap_or(1);
        let file = file.as_ref().context("the key is in the document itself: add the new one there by hand")?;
        Ok(RotationStep::Add(next, successor(file, active, next)))
    }
}

/// Returns the file name for the next key: `key-1` and `key` are both followed by `key-2`.
fn successor(file: &Path, active: u8, next: u8) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(&active.to_string()).map(|stem| stem.trim_end_matches('-')).unwrap_or(&name);
    file.with_file_name(format!("{stem}-{next}"))
}

impl RotationStep {
    /// Changes the document as this step requires.
    fn apply(&self, config: &mut Value) {
        match self {
            RotationStep::Add(id, file) => {
                if let Some(keys) = config.get_mut("keys").and_then(Value::as_array_mut) {
                    keys.push(json!({"id": id, "secret_file": file}));
                }
            }
            RotationStep::Activate(id) => config["active_key"] = json!(id),
            RotationStep::Remove(old) => {
                if let Some(keys) = config.get_mut("keys").and_then(Value::as_array_mut) {
                    keys.retain(|key| !old.iter().any(|id| key.get("id") == Some(&json!(id))));
                }
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            RotationStep::Add(id, file) => {
                format!("1 of 3: every agent accepts key {id} from {} in addition to the others", file.display())
            }
            RotationStep::Activate(id) => format!("2 of 3: probes are signed with key {id}"),
            RotationStep::Remove(old) => format!("3 of 3: keys {old:?} are no longer accepted"),
        }
    }
}

async fn take_step(arguments: &RotateKey) -> anyhow::Result<i32> {
    let (bootstrap, findings) = parse_bootstrap(&arguments.config, &arguments.overrides.to_overrides());
    if super::transfer::say_errors(&findings)? {
        return Ok(EXIT_CONFIG);
    }
    let mut store = Store::new(&bootstrap.store, ReadScope::Fleet)?;
    let snapshot = store.list().await?;
    let documents = &snapshot.documents;
    let document = documents.get(GLOBAL_KEY).context("there is no document config")?;
    anyhow::ensure!(document.format == Format::Json, "{} is not JSON: edit it by hand", document.place);
    let mut config: Value = serde_json::from_str(&document.text).context("the document config")?;
    let ring = Ring::of(&config).unwrap_or(Ring { keys: Vec::new(), active: None });
    let step = ring.next_step()?;
    print(&format!("{}: step {}", store::place(&bootstrap.store), step.describe()))?;
    if let RotationStep::Add(id, file) = &step {
        if !file.exists() && arguments.yes {
            make(file)?;
            print(&format!("  {} was created; copy it to every host, mode 600, before the next step", file.display()))?;
        }
        if file.exists() {
            keys::read_key_file(*id, file).map_err(anyhow::Error::msg)?;
        }
    }
    let behind = behind(&step, &config, &bootstrap, &snapshot).await?;
    if !behind.is_empty() {
        let named = behind.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
        eprint(&format!("not yet: waiting for {} to be ready: {named}", counted(behind.len(), "agent")));
        if !arguments.force {
            eprint(
                "an agent reports it within half a minute; check one that does not (peerpair rollout), or use \
                --force",
            );
            return Ok(EXIT_FAILURE);
        }
    }
    if !arguments.yes {
        eprint("nothing was written; add --yes to write");
        return Ok(EXIT_GOOD);
    }
    step.apply(&mut config);
    let text = serde_json::to_string_pretty(&config)?;
    store.write(GLOBAL_KEY, Some(&text), document.version).await?.map_err(|conflict| anyhow::anyhow!("{conflict}"))?;
    print("written")?;
    Ok(EXIT_GOOD)
}

/// Returns the hosts whose agents do not report that they are ready for a step. Without leases in the store, agents
/// publish no status, and the list is empty.
async fn behind(
    step: &RotationStep,
    config: &Value,
    bootstrap: &Bootstrap,
    snapshot: &Snapshot,
) -> anyhow::Result<Vec<String>> {
    if matches!(step, RotationStep::Add(..)) {
        return Ok(Vec::new());
    }
    if !snapshot.origin.has_leases() {
        eprint("agents do not report their state in this store: make sure that all are ready");
        return Ok(Vec::new());
    }
    let announced = store::announced(&bootstrap.store).await?;
    let mut loader = Loader::of(bootstrap);
    loader.read(&snapshot.documents);
    let hosts: BTreeSet<String> = report::fleet::hosts(&loader).into_iter().chain(announced.keys().cloned()).collect();
    let is_ready = |host: &String| {
        let agent = announced.get(host).and_then(|text| AgentDocument::read(text)).unwrap_or_default();
        match step {
            RotationStep::Add(..) => true,
            RotationStep::Activate(id) => agent.keys.contains(id),
            RotationStep::Remove(_) => json!(agent.active_key) == config["active_key"],
        }
    };
    Ok(hosts.into_iter().filter(|host| !is_ready(host)).collect())
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

fn eprint(text: &str) {
    let _ignored = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_takes_three_steps_and_then_starts_over() {
        let mut config =
            json!({"keys": [{"id": 1, "secret_file": "/etc/peerpair/key-1"}], "active_key": 1, "version": 7});
        let mut steps = Vec::new();
        for _ in 0..4 {
            let step = Ring::of(&config).unwrap().next_step().unwrap();
            step.apply(&mut config);
            steps.push(step);
        }
        let (two, three) = (PathBuf::from("/etc/peerpair/key-2"), PathBuf::from("/etc/peerpair/key-3"));
        assert_eq!(
            steps,
            [
                RotationStep::Add(2, two),
                RotationStep::Activate(2),
                RotationStep::Remove(vec![1]),
                RotationStep::Add(3, three)
            ]
        );
        assert_eq!((&config["active_key"], &config["version"]), (&json!(2), &json!(7)));
        assert!(Ring { keys: vec![], active: None }.next_step().is_err());
        assert!(Ring { keys: vec![(1, None)], active: Some(1) }.next_step().is_err());
    }

    #[test]
    fn key_file_names_are_numbered() {
        let next = |file: &str| successor(Path::new(file), 1, 2).display().to_string();
        assert_eq!(next("/k/key-1"), "/k/key-2");
        assert_eq!(next("/k/key"), "/k/key-2");
        assert_eq!(next("/k/probe1"), "/k/probe-2");
    }
}
