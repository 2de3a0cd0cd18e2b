//! Documents as the watcher knows them: those that the store listed last, and those that are in force. [`Config`] owns
//! the loader and the disk cache, puts listings in force, and derives the store's status and faults. Without an answer
//! from the store, the configuration kept on disk is used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::config::bootstrap::Bootstrap;
use crate::config::document::agent::{AgentDocument, RejectedByAgent};
use crate::config::document::findings::Finding;
use crate::config::document::fleet::SCHEMA;
use crate::config::document::raw::{GLOBAL_KEY, digest};
use crate::config::load::{Loaded, Loader, newer_schema};
use crate::config::plan::removal_grace::RemovalGrace;
use crate::config::recent_hosts::RecentHosts;
use crate::io::store::origin::Origin;
use crate::io::store::{self, Cache, CachedConfig, Snapshot};
use crate::pure::alarm::cause::Cause;
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::base::time::{Moment, Now, WallTime, seconds};
use crate::pure::stamp::key::{KeyChoice, KeyRing};
use crate::pure::status::snapshot::{RejectedDocument, StoreState, StoreStatus};

/// Limit in octets on the status that an agent publishes in its store.
const MAX_ANNOUNCED: usize = 2048;

/// Interval at which an unchanged configuration is written to disk again, because the file records its age.
const KEPT_AGAIN: Duration = Duration::from_secs(3600);

/// Documents in force with their origin, and the status of the store that they come from.
pub struct Config {
    loader: Arc<Loader>,
    loaded: Option<Arc<Loaded>>,
    /// Documents as the store listed them last, or as they were kept on disk.
    snapshot: Option<Arc<Snapshot>>,
    departed: RemovalGrace,
    arrivals: RecentHosts,
    /// Findings in the documents at the last load; only new ones are logged.
    findings: BTreeSet<Finding>,
    status: StoreStatus,
    /// Remark of the store's reader that was logged last, so that each is logged once.
    remarked: Option<String>,
    /// True if the bootstrap file names another store that has not answered yet.
    rebased: bool,
    moved: Option<String>,
    /// Schema of the documents, if it is newer than this agent supports.
    newer_schema: Option<u64>,
    cache: Cache,
    kept: Option<CachedConfig>,
    /// Monotonic time at which the cache was written last.
    kept_at: Moment,
}

/// Result of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedFaults {
    /// Documents are in force; they have to be processed again after this duration, if there is one.
    InForce(Option<Duration>),
    /// Documents need a newer agent; the configuration that was in force stays.
    NotUnderstood,
}

impl Config {
    /// Creates the state from the configuration kept on disk, of which nothing is in force yet.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let cache = Cache::of(bootstrap);
        let kept = cache.load_list();
        let mut loader = Loader::of(bootstrap);
        if let Some(kept) = &kept {
            // Loading provides the last good versions of documents that have become bad since.
            loader.load(&kept.documents);
        }
        Config {
            loader: Arc::new(loader),
            loaded: None,
            snapshot: None,
            departed: RemovalGrace::default(),
            arrivals: RecentHosts::default(),
            findings: BTreeSet::new(),
            status: status(bootstrap),
            remarked: None,
            rebased: false,
            moved: None,
            newer_schema: None,
            cache,
            kept,
            kept_at: Moment::ZERO,
        }
    }

    /// Handles a change of the store in the bootstrap file: the configuration in force stays until the new store has
    /// answered.
    pub fn on_rebased(&mut self, bootstrap: &Bootstrap, now: Now) {
        (self.rebased, self.moved, self.kept_at) = (true, None, now.moment);
        let rejected = std::mem::take(&mut self.status.rejected);
        self.status = StoreStatus { rejected, revision: self.status.revision, ..status(bootstrap) };
        self.cache.rebase(bootstrap);
    }

    /// Returns the origin of the last listed documents, or of those kept on disk; `None` after a change of store.
    pub fn origin(&self) -> Option<&Origin> {
        if self.rebased {
            return None;
        }
        let known = self.snapshot.as_ref().map(|snapshot| &snapshot.origin);
        known.or(self.kept.as_ref().map(|kept| &kept.origin))
    }

    /// Takes over the loader of a predecessor, which is newer than the configuration kept on disk.
    pub fn restore(&mut self, loader: Arc<Loader>) {
        self.loader = loader;
        self.kept = None;
    }

    /// Returns the task that writes the configuration in force to disk.
    pub fn writer(&self) -> impl Future<Output = ()> + use<> {
        self.cache.writer()
    }

    /// Returns the configuration in force, if there is one.
    pub fn loaded(&self) -> Option<&Arc<Loaded>> {
        self.loaded.as_ref()
    }

    /// Returns the state that a successor of the watcher continues from.
    pub fn memory(&self) -> Option<(Arc<Snapshot>, Arc<Loader>)> {
        Some((self.snapshot.clone()?, self.loader.clone()))
    }

    /// Puts listed documents in force, unless their schema is newer than this agent supports.
    pub fn on_listed(&mut self, snapshot: Arc<Snapshot>, now: Now) -> ListedFaults {
        self.compare(&snapshot);
        self.newer_schema = newer_schema(&snapshot.documents);
        if let Some(schema) = self.newer_schema {
            error!(schema, known = SCHEMA, "the documents require a newer agent: the previous ones remain in force");
            return ListedFaults::NotUnderstood;
        }
        self.kept = None;
        let again = self.load(snapshot, now);
        self.keep(now);
        ListedFaults::InForce(again)
    }

    /// Hands the configuration in force to the disk cache.
    fn keep(&mut self, now: Now) {
        if let Some(snapshot) = &self.snapshot {
            self.cache.store(snapshot.revision, snapshot.origin.clone(), now.wall, self.loader.in_force());
            self.kept_at = now.moment;
        }
    }

    /// Processes the same documents again at the end of a grace period.
    pub fn on_grace_over(&mut self, now: Now) -> Option<ListedFaults> {
        let snapshot = self.snapshot.clone()?;
        let again = self.load(snapshot, now);
        self.keep(now);
        Some(ListedFaults::InForce(again))
    }

    /// Puts the configuration kept on disk in force if the store has not answered yet and there is one.
    pub fn use_cached(&mut self, now: Now) -> Option<ListedFaults> {
        if self.loaded.is_some() {
            return None;
        }
        let kept = self.kept.take()?;
        warn!(
            kept = %kept.confirmed,
            revision = kept.revision,
            documents = kept.documents.len(),
            "the store does not answer: the saved config is used"
        );
        self.status.confirmed = Some(kept.confirmed);
        self.status.remark = Some(format!("the config saved on this host at {} is in force", kept.confirmed));
        let CachedConfig { revision, origin, documents, .. } = kept;
        let again = self.load(Arc::new(Snapshot { revision, documents, origin, remark: None }), now);
        Some(ListedFaults::InForce(again))
    }

    /// Puts documents in force; returns the time after which they have to be processed again.
    fn load(&mut self, snapshot: Arc<Snapshot>, now: Now) -> Option<Duration> {
        let mut documents = snapshot.documents.clone();
        let until = self.departed.on_listed(&mut documents, now.moment);
        let mut loaded = Arc::make_mut(&mut self.loader).load(&documents);
        let until = until.into_iter().chain(self.arrivals.on_loaded(&mut loaded, now.moment)).min();
        let findings: BTreeSet<Finding> = loaded.findings.iter().cloned().collect();
        for finding in findings.difference(&self.findings) {
            warn!(place = finding.location, help = finding.help, "{}", finding.problem);
        }
        self.findings = findings;
        let before = self.loaded.as_ref().map_or(0, |loaded| loaded.tests.len());
        info!(
            revision = snapshot.revision,
            documents = documents.len(),
            rejected = loaded.rejected.len(),
            tests = loaded.tests.len(),
            before,
            "documents read"
        );
        self.status.revision = Some(snapshot.revision);
        self.status.rejected.clone_from(&loaded.rejected);
        self.loaded = Some(Arc::new(loaded));
        self.snapshot = Some(snapshot);
        until.map(|until| until.since(now.moment))
    }

    /// Compares the listing's store with the previous one. Another store, or one at an earlier revision, is accepted,
    /// but logged and shown in the status.
    fn compare(&mut self, snapshot: &Snapshot) {
        let kept = self.kept.as_ref().map(|kept| (&kept.origin, kept.revision));
        let before = self.snapshot.as_ref().map(|before| (&before.origin, before.revision)).or(kept);
        let meant = std::mem::take(&mut self.rebased);
        match before.filter(|_| !meant) {
            Some((origin, before)) if *origin == snapshot.origin && snapshot.revision < before => {
                // The revision of a directory restarts at zero with each start of the agent.
                if !matches!(origin, Origin::Directory(_)) {
                    warn!(
                        before,
                        revision = snapshot.revision,
                        "store_rolled_back: the store is at an earlier revision"
                    );
                    self.status.rollbacks += 1;
                }
            }
            Some((before, _)) if *before != snapshot.origin => {
                warn!(%before, now = %snapshot.origin, "another store answers in place of the previous one");
                self.moved = Some(format!("another store answers in place of the previous one, {before}"));
            }
            Some(_) | None => {}
        }
        if let Some(remark) = snapshot.remark.as_ref().filter(|remark| self.remarked.as_ref() != Some(remark)) {
            warn!(place = self.status.location, "{remark}");
        }
        self.remarked.clone_from(&snapshot.remark);
        let remarks: Vec<&str> = self.remarked.iter().chain(&self.moved).map(String::as_str).collect();
        self.status.remark = (!remarks.is_empty()).then(|| remarks.join("; "));
        self.status.origin = Some(snapshot.origin.to_string());
    }

    /// Records that the store has answered.
    pub fn on_answered(&mut self, now: Now) {
        if !self.status.connected {
            info!(place = self.status.location, "store connected");
        }
        self.status.connected = true;
        self.status.error = None;
        self.status.confirmed = Some(now.wall);
        if now.moment.since(self.kept_at) > KEPT_AGAIN {
            self.keep(now);
        }
    }

    /// Records that the store cannot be reached or read.
    pub fn on_lost(&mut self, problem: String) {
        if self.status.error.is_none() {
            match self.loaded {
                Some(_) => warn!(place = self.status.location, problem, "store lost, tests continue"),
                None => warn!(place = self.status.location, problem, "store not reached yet"),
            }
        }
        self.status.connected = false;
        self.status.error = Some(problem);
    }

    /// Returns the faults of the store, and of the documents as a whole.
    pub fn faults(&self) -> BTreeMap<AlarmKey, Cause> {
        let mut faults = BTreeMap::new();
        let mut add =
            |subject, problem: String| faults.insert(AlarmKey::new(Kind::Config, subject), Cause::Config(problem));
        if let Some(problem) = &self.status.error {
            add(Subject::Store, format!("store {} cannot be read: {problem}", self.status.location));
        }
        if let Some(reason) = self.unsupported() {
            add(Subject::Document(GLOBAL_KEY.to_owned()), reason);
        }
        faults
    }

    fn unsupported(&self) -> Option<String> {
        let schema = self.newer_schema?;
        Some(format!(
            "config: schema: the documents have schema {schema}, this agent supports {SCHEMA}: the previous \
                documents remain in force; install a newer agent"
        ))
    }

    /// Returns true if every document has a good version in force and a supported schema, so that all tests are known.
    pub fn is_whole(&self) -> bool {
        self.newer_schema.is_none() && self.status.rejected.iter().all(|document| document.last_good_in_force)
    }

    /// Returns the store's status for the snapshot.
    pub fn status(&self, now: WallTime) -> StoreStatus {
        let mut status = self.status.clone();
        let age = status.confirmed.map(|confirmed| now.nanos_since(confirmed));
        status.config_age_seconds = age.map(|age| seconds(age.max(0)));
        status.state = match (self.newer_schema, &self.loaded, status.connected) {
            (Some(_), _, _) => StoreState::UnsupportedSchema,
            (None, Some(_), true) => StoreState::Current,
            (None, Some(_), false) => StoreState::Stale,
            (None, None, _) => StoreState::Waiting,
        };
        status.rejected.extend(self.unsupported().map(|reason| RejectedDocument {
            document: GLOBAL_KEY.to_owned(),
            reasons: vec![reason],
            last_good_in_force: self.loaded.is_some(),
        }));
        status
    }

    /// Returns the status to publish in the store, or `None` if the store has no leases for it.
    pub fn announcement(&self, web: Option<String>, keys: &KeyRing) -> Option<String> {
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.origin.has_leases())?;
        let rejected = self.status(WallTime::default()).rejected;
        let document = AgentDocument {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            web,
            revision: snapshot.revision,
            digest: digest(&snapshot.documents),
            keys: keys.ids().collect(),
            active_key: keys.signing(&KeyChoice::Fleet).map(|key| key.id()),
            rejected_in_all: rejected.len(),
            rejected: rejected
                .into_iter()
                .map(|rejected| RejectedByAgent {
                    document: rejected.document,
                    reason: rejected.reasons.into_iter().next(),
                    last_good_in_force: rejected.last_good_in_force,
                })
                .collect(),
        };
        Some(document.write(MAX_ANNOUNCED))
    }
}

fn status(bootstrap: &Bootstrap) -> StoreStatus {
    let kind = bootstrap.store.kind.as_str();
    StoreStatus { kind, location: store::place(&bootstrap.store), ..StoreStatus::default() }
}
