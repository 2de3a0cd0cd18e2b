//! `agents/<host>`: what each agent says of itself, under a lease, so that it goes when the agent does.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::cluster::Cluster;
use super::fault::{Fault, FaultKind};
use super::keys::Keys;
use super::v3::{Lease, V3};
use crate::config::bootstrap::{Api, StoreConfig, StoreKind};
use crate::io::store::{Concern, Pace, StoreError};
use crate::pure::backoff::Backoff;

/// What the keys of agents start with.
const AGENTS_PREFIX: &str = "agents/";
/// An agent of which nothing is heard for so long is silent.
const TIME_TO_LIVE: Duration = Duration::from_secs(180);
/// The lease is prolonged after 60 s, give or take a fifth.
const KEEP_AFTER: std::ops::Range<u64> = 48_000..72_000;
/// Each write is one of a whole fleet's, and stays in etcd until it is compacted.
const APART: Duration = Duration::from_secs(30);
const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));

/// Writes what this agent says of itself whenever that changes, for as long as anybody says it.
/// Does nothing where the store has no leases.
pub async fn announce(config: StoreConfig, host: String, mut said: watch::Receiver<Option<String>>) {
    if config.kind != StoreKind::Etcd || config.api == Api::V2 {
        return;
    }
    let mut retry = RETRY;
    let mut troubled = false;
    loop {
        let ended = follow(&config, &host, &mut said).await;
        let Err(fault) = ended else { return };
        if !std::mem::replace(&mut troubled, true) && fault.kind != FaultKind::Member {
            warn!(problem = fault.problem, "this agent's state cannot be written to agents/<host>");
        }
        sleep(retry.on_failure_spread(fastrand::f64())).await;
    }
}

/// Until something fails, or nobody says anything any more.
async fn follow(config: &StoreConfig, host: &str, said: &mut watch::Receiver<Option<String>>) -> Result<(), Fault> {
    let keys = Keys::new(&config.prefix, Concern::Fleet);
    let key = format!("{AGENTS_PREFIX}{host}");
    // Nothing is written before something is known.
    if said.wait_for(Option::is_some).await.is_err() {
        return Ok(());
    }
    let (mut cluster, v3) = connect(config).await?;
    let mut lease: Option<Lease> = None;
    let mut written: Option<String> = None;
    let mut not_before = Instant::now();
    let mut keep_at = Instant::now();
    loop {
        let now = Instant::now();
        if lease.is_some() && keep_at <= now {
            let kept = match &lease {
                Some(lease) => v3.keep_lease(&mut cluster, lease).await?,
                None => false,
            };
            keep_at = now + Duration::from_millis(fastrand::u64(KEEP_AFTER));
            if !kept {
                (lease, written, not_before) = (None, None, now);
            }
        }
        let newest = said.borrow_and_update().clone();
        if let Some(text) = newest.filter(|text| written.as_ref() != Some(text) && not_before <= now) {
            if lease.is_none() {
                lease = Some(v3.grant_lease(&mut cluster, TIME_TO_LIVE).await?);
                keep_at = now + Duration::from_millis(fastrand::u64(KEEP_AFTER));
            }
            if let Some(lease) = &lease {
                v3.write_leased(&mut cluster, &keys, &key, &text, lease).await?;
            }
            written = Some(text);
            not_before = now + APART;
        }
        let wake = if not_before > now { not_before.min(keep_at) } else { keep_at };
        tokio::select! {
            changed = said.changed() => if changed.is_err() {
                // It stops on purpose.
                if let Some(lease) = &lease {
                    v3.end_lease(&mut cluster, lease).await?;
                }
                return Ok(());
            },
            () = sleep_until(wake) => {}
        }
    }
}

/// What all agents say of themselves, by host.
pub async fn announced(config: &StoreConfig) -> Result<BTreeMap<String, String>, StoreError> {
    let place = config.endpoints.join(",");
    let failed = |fault: Fault| StoreError::new(&place, fault.problem, Pace::Quick);
    let (mut cluster, v3) = connect(config).await.map_err(failed)?;
    let keys = Keys::new(&config.prefix, Concern::Fleet);
    v3.read(&mut cluster, &keys, AGENTS_PREFIX).await.map_err(failed)
}

async fn connect(config: &StoreConfig) -> Result<(Cluster, V3), Fault> {
    let mut cluster = Cluster::new(config)?;
    cluster.refresh()?;
    let mut version = cluster.version().await;
    for _ in 1..cluster.len() {
        if version.is_ok() {
            break;
        }
        cluster.give_up_member();
        version = cluster.version().await;
    }
    Ok((cluster, V3::of_server(&version?.etcdserver)))
}
