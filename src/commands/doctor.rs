//! Command `peerpair doctor`: examines the store, its certificates, the sinks, sockets, clock and state directory of an
//! agent on this host. Each problem is printed with its fix; nothing is changed.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::cli;
use crate::commands::sinks::known_sinks;
use crate::config::bootstrap::{Bootstrap, StoreKind};
use crate::config::document::findings::Level;
use crate::config::report::wording::counted;
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_GOOD};
use crate::io::bootstrap_file::parse_bootstrap;
use crate::io::net::udp;
use crate::io::receiver::reach;
use crate::io::state::{engine_boots, file};
use crate::io::store::{self, ReadScope, Store};
use crate::io::{adjtimex, tls};
use crate::pure::base::time::WallTime;

/// Remaining validity, in days, below which a certificate should be renewed.
const RENEW_WITHIN: i64 = 14;
/// Clock error above which usual delay limits cannot be judged.
const GOOD_CLOCK: std::time::Duration = std::time::Duration::from_millis(5);

/// Severity of one result of the examination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    Poor,
    Bad,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Health::Good => "ok",
            Health::Poor => "warning",
            Health::Bad => "error",
        })
    }
}

/// Results in the order of examination, each with its health, its description and its fix, which is empty if none is
/// needed.
#[derive(Default)]
struct Diagnosis(Vec<(Health, String, String)>);

impl Diagnosis {
    fn good(&mut self, what: impl Into<String>) {
        self.0.push((Health::Good, what.into(), String::new()));
    }

    fn poor(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.0.push((Health::Poor, what.into(), help.into()));
    }

    fn bad(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.0.push((Health::Bad, what.into(), help.into()));
    }

    fn count(&self, health: Health) -> usize {
        self.0.iter().filter(|(found, _, _)| *found == health).count()
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (health, what, help) in &self.0 {
            writeln!(f, "{health:7}  {what}")?;
            if !help.is_empty() {
                writeln!(f, "{:7}  → {help}", "")?;
            }
        }
        let (errors, warnings) = (self.count(Health::Bad), self.count(Health::Poor));
        writeln!(f, "\n{}, {}", counted(errors, "error"), counted(warnings, "warning"))
    }
}

/// Examines all that an agent on this host needs, and prints the diagnosis.
pub fn doctor(arguments: &cli::Doctor) -> anyhow::Result<i32> {
    let (bootstrap, findings) = parse_bootstrap(&arguments.config, &arguments.overrides.to_overrides());
    let mut stdout = std::io::stdout().lock();
    if findings.iter().any(|finding| finding.level == Level::Error) {
        for finding in findings {
            writeln!(stdout, "{}: {finding}", finding.level)?;
        }
        return Ok(EXIT_CONFIG);
    }
    let runtime = actix_rt::Runtime::new().context("start the runtime")?;
    let mut diagnosis = Diagnosis::default();
    runtime.block_on(async {
        store(&bootstrap, &mut diagnosis).await;
        certificates(&bootstrap, &mut diagnosis);
        sinks(&bootstrap, &mut diagnosis).await;
        sockets(&mut diagnosis).await;
    });
    clock(&mut diagnosis);
    disk(&bootstrap, &mut diagnosis);
    writeln!(stdout, "{}, {}\n", bootstrap.host, store::place(&bootstrap.store))?;
    write!(stdout, "{diagnosis}")?;
    writeln!(stdout, "To check that a receiver accepts notifications, run `peerpair send-test-notification`.")?;
    Ok(if diagnosis.count(Health::Bad) > 0 { EXIT_FAILURE } else { EXIT_GOOD })
}

async fn store(bootstrap: &Bootstrap, diagnosis: &mut Diagnosis) {
    let concern = ReadScope::Host(bootstrap.host.clone());
    let places = match bootstrap.store.kind {
        StoreKind::Dir => vec![bootstrap.store.clone()],
        StoreKind::Etcd => store::members(&bootstrap.store),
    };
    for config in places {
        let place = store::place(&config);
        let listed = match Store::new(&config, concern.clone()) {
            Ok(mut store) => store.list().await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(snapshot) if snapshot.documents.is_empty() => diagnosis.poor(
                format!("{place}: reached as {}; it has no documents for this host", snapshot.origin),
                "check [store] prefix and the host's name, or write documents",
            ),
            Ok(snapshot) => {
                let (documents, revision) = (snapshot.documents.len(), snapshot.revision);
                diagnosis.good(format!("{place}: {}, {documents} documents, revision {revision}", snapshot.origin));
                if let Some(remark) = snapshot.remark {
                    diagnosis.poor(remark, "remove the others, or set [store] api");
                }
            }
            Err(error) => {
                diagnosis.bad(
                    format!("store: {error}"),
                    "correct [store], or the files it names; tests continue \
                meanwhile",
                );
            }
        }
    }
}

fn certificates(bootstrap: &Bootstrap, diagnosis: &mut Diagnosis) {
    let tls = &bootstrap.store.tls;
    let files = [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file)];
    for (field, path) in files.into_iter().filter_map(|(field, path)| Some((field, path.as_deref()?))) {
        let what = format!("store.tls.{field} {}", path.display());
        match tls::valid_until(path) {
            Err(problem) => diagnosis.bad(format!("{what}: {problem}"), "write it as PEM"),
            Ok(until) => {
                let day_nanos = 86_400 * 1_000_000_000;
                let days = until.nanos_since(WallTime::from(std::time::SystemTime::now())) / day_nanos;
                match days {
                    ..0 if field == "ca_file" => {
                        diagnosis.poor(format!("{what}: one of its certificates expired at {until}"), "remove it");
                    }
                    ..0 => diagnosis
                        .bad(format!("{what}: expired at {until}"), "issue a new one; the agent reads the file again"),
                    0..RENEW_WITHIN => diagnosis.poor(
                        format!("{what}: valid until {until}"),
                        "issue a new one \
                before that",
                    ),
                    _ => diagnosis.good(format!("{what}: valid until {until}")),
                }
            }
        }
    }
}

async fn sinks(bootstrap: &Bootstrap, diagnosis: &mut Diagnosis) {
    let (plans, _) = known_sinks(bootstrap).await;
    for plan in plans {
        let what = format!(
            "sink {}: {}",
            plan.config.name,
            plan.config.describe(&bootstrap.host, engine_boots::known_machine(&bootstrap.state_dir).as_deref())
        );
        let missing_prerequisites = reach::missing_prerequisites(&plan.config);
        for problem in &missing_prerequisites {
            diagnosis.bad(format!("{what}: {problem}"), "create it, or correct its path");
        }
        match reach::check_reachable(&plan.config).await {
            Err(problem) => diagnosis.bad(
                format!("{what}: {problem}"),
                "correct its target, or the network path to \
                it",
            ),
            Ok(()) if missing_prerequisites.is_empty() => diagnosis.good(what),
            Ok(()) => {}
        }
    }
}

async fn sockets(diagnosis: &mut Diagnosis) {
    let found = match udp::check_writable().await {
        Ok(found) => found,
        Err(error) => {
            diagnosis.bad(format!("UDP: {error}"), "an agent needs sockets with IP_RECVERR and SO_TIMESTAMPNS");
            return;
        }
    };
    match found.kernel_stamps {
        true => diagnosis.good("UDP: the kernel timestamps received datagrams"),
        false => diagnosis.bad(
            "UDP: the kernel does not timestamp received datagrams",
            "delays would include the \
                scheduling delay of this host",
        ),
    }
    let (got, wanted) = (found.receive_buffer >> 10, found.wanted_buffer >> 10);
    match found.receive_buffer >= found.wanted_buffer {
        true => diagnosis.good(format!("UDP: receive buffer of {got} KiB")),
        false => diagnosis.poor(
            format!("UDP: receive buffer of {got} KiB instead of {wanted}"),
            format!("sysctl net.core.rmem_max={}, or give it CAP_NET_ADMIN", found.wanted_buffer),
        ),
    }
    match found.low_ports {
        true => diagnosis.good("ports below 1024 can be bound"),
        false => diagnosis.good("ports below 1024 cannot be bound (no CAP_NET_BIND_SERVICE); others can"),
    }
}

fn clock(diagnosis: &mut Diagnosis) {
    let quality = adjtimex::clock_quality();
    let error = humantime::format_duration(std::time::Duration::from_micros(
        u64::try_from(quality.error.as_micros()).unwrap_or(u64::MAX),
    ));
    let help = "run chrony or ntpd-rs; until then latency between hosts is not judged, only loss";
    match quality.synchronized {
        false => diagnosis.poor("clock: not synchronized", help),
        true if quality.error > GOOD_CLOCK => {
            diagnosis.poor(
                format!("clock: synchronized, error at most {error}"),
                "latency limits below that cannot be \
                judged",
            );
        }
        true => diagnosis.good(format!("clock: synchronized, error at most {error}")),
    }
}

fn disk(bootstrap: &Bootstrap, diagnosis: &mut Diagnosis) {
    let directory: &Path = &bootstrap.state_dir;
    let what = format!("state_dir {}", directory.display());
    if !directory.exists() {
        diagnosis.poor(
            format!("{what}: does not exist"),
            "the agent creates it if permitted; otherwise create it, owned by the agent's user",
        );
        return;
    }
    match file::check_writable(directory) {
        Ok(()) => diagnosis.good(format!("{what}: is writable")),
        Err(error) => diagnosis.bad(
            format!("{what}: {error}"),
            "make it owned by this user: notification logs and the last good config are kept there",
        ),
    }
}
