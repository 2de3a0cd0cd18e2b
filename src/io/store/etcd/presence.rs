//! Key `agents/<host>`, where each agent publishes its status under a lease, so that the key disappears with the agent.
//! [`announce`] is the task that writes it until its sender is dropped; [`announced`] reads the status of all agents.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::cluster::Cluster;
use super::fault::{Fault, FaultKind};
use super::keys::KeyPaths;
use super::v3::{Lease, V3};
use crate::config::bootstrap::{Api, StoreConfig, StoreKind};
use crate::io::store::{ReadScope, RetryClass, StoreError};
use crate::pure::base::backoff::Backoff;

/// Prefix of the keys under which agents publish their status.
const AGENTS_PREFIX: &str = "agents/";
/// Lifetime of the lease: an agent that has not renewed it for this long is silent, and its key disappears.
const TIME_TO_LIVE: Duration = Duration::from_secs(180);
/// Range, in milliseconds, of the time after which the lease is renewed: 60 s, plus or minus a fifth.
const KEEP_AFTER: std::ops::Range<u64> = 48_000..72_000;
/// Least time between two writes: the whole fleet writes such keys, and each revision stays in etcd until a compaction.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));

/// Publishes this agent's status whenever it changes, until the sender of `announced` is dropped; then the lease is revoked.
/// Does nothing where the store has no leases.
pub async fn announce(config: StoreConfig, host: String, mut announced: watch::Receiver<Option<String>>) {
    if config.kind != StoreKind::Etcd || config.api == Api::V2 {
        return;
    }
    let mut presence = Presence::new(&config, &host);
    let (mut retry, mut troubled) = (RETRY, false);
    // The key is not written before there is a status.
    while announced.wait_for(Option::is_some).await.is_ok() {
        let begun = Instant::now();
        let Err(fault) = presence.follow(&config, &mut announced).await else { break };
        if begun.elapsed() > MIN_WRITE_INTERVAL {
            (retry, troubled) = (RETRY, false);
        }
        if fault.kind != FaultKind::Member && !std::mem::replace(&mut troubled, true) {
            warn!(problem = fault.problem, "the report of this agent cannot be written to agents/<host>");
        }
        tokio::select! {
            () = sleep(retry.on_failure_spread(fastrand::f64())) => {}
            () = closed(&mut announced) => break,
        }
    }
    presence.end(&config).await;
}

/// Completes when the sender of the status is dropped.
async fn closed(announced: &mut watch::Receiver<Option<String>>) {
    while announced.changed().await.is_ok() {}
}

/// Published status and the lease that it is under; both outlive a connection.
struct Presence {
    keys: KeyPaths,
    key: String,
    lease: Option<Lease>,
    written: Option<String>,
    not_before: Instant,
    keep_at: Instant,
}

impl Presence {
    fn new(config: &StoreConfig, host: &str) -> Self {
        let now = Instant::now();
        Presence {
            keys: KeyPaths::new(&config.prefix, ReadScope::Fleet),
            key: format!("{AGENTS_PREFIX}{host}"),
            lease: None,
            written: None,
            not_before: now,
            keep_at: now,
        }
    }

    /// Renews the lease and writes each new status, until a request fails or the sender is dropped.
    async fn follow(
        &mut self,
        config: &StoreConfig,
        announced: &mut watch::Receiver<Option<String>>,
    ) -> Result<(), Fault> {
        let (mut cluster, v3) = connect(config).await?;
        loop {
            let now = Instant::now();
            if self.keep_at <= now {
                self.keep_at = now + Duration::from_millis(fastrand::u64(KEEP_AFTER));
                let kept = match &self.lease {
                    Some(lease) => v3.keep_lease(&mut cluster, lease).await?,
                    None => false,
                };
                if !kept {
                    (self.lease, self.written) = (None, None);
                }
            }
            let newest = announced.borrow_and_update().clone();
            if let Some(text) = newest.filter(|text| self.written.as_ref() != Some(text) && self.not_before <= now) {
                self.write(&mut cluster, &v3, text).await?;
            }
            let wake = if self.not_before > now { self.not_before.min(self.keep_at) } else { self.keep_at };
            tokio::select! {
                changed = announced.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    async fn write(&mut self, cluster: &mut Cluster, v3: &V3, text: String) -> Result<(), Fault> {
        let lease = match &self.lease {
            Some(lease) => lease.clone(),
            None => v3.grant_lease(cluster, TIME_TO_LIVE).await?,
        };
        self.lease = Some(lease.clone());
        let written = v3.write_leased(cluster, &self.keys, &self.key, &text, &lease).await;
        if written.is_err() {
            // The lease may have expired; the next write requests a new one.
            self.lease = None;
            let _runs_out_by_itself = v3.end_lease(cluster, &lease).await;
        }
        written?;
        self.written = Some(text);
        self.not_before = Instant::now() + MIN_WRITE_INTERVAL;
        Ok(())
    }

    /// Revokes the lease when the agent stops on purpose, which removes its key at once.
    async fn end(self, config: &StoreConfig) {
        let (Some(lease), Ok((mut cluster, v3))) = (&self.lease, connect(config).await) else { return };
        let _runs_out_by_itself = v3.end_lease(&mut cluster, lease).await;
    }
}

/// Returns the published status of all agents, by host.
pub async fn announced(config: &StoreConfig) -> Result<BTreeMap<String, String>, StoreError> {
    let place = config.endpoints.join(",");
    let failed = |fault: Fault| StoreError::new(&place, fault.problem, RetryClass::Quick);
    let (mut cluster, v3) = connect(config).await.map_err(failed)?;
    let keys = KeyPaths::new(&config.prefix, ReadScope::Fleet);
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
