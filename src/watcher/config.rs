//! What the watcher knows of the documents: what the store says, and what of that is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tracing::{error, info, warn};

use crate::config::arrivals::Arrivals;
use crate::config::bootstrap::Bootstrap;
use crate::config::central::SCHEMA;
use crate::config::departed::Departed;
use crate::config::findings::Finding;
use crate::config::load::{GLOBAL_KEY, Loaded, Loader, digest, newer_schema};
use crate::io::store::{self, Cache, Kept, Snapshot};
use crate::pure::alarm::{AlarmKey, Cause, Kind, Subject};
use crate::pure::key::{KeyChoice, KeyRing};
use crate::pure::status::{RejectedDocument, StoreState, StoreStatus};
use crate::pure::time::{Moment, Now, WallTime, seconds};

/// What an agent says of itself in its store has no more octets than this.
const MOST_SAID: usize = 2048;

/// What is kept on disk says how old it is: it is written again this often though nothing changed.
const KEPT_AGAIN: Duration = Duration::from_secs(3600);

/// See the module.
pub struct Config {
    loader: Arc<Loader>,
    loaded: Option<Arc<Loaded>>,
    /// As the store listed it last, or as it was kept.
    snapshot: Option<Arc<Snapshot>>,
    departed: Departed,
    arrivals: Arrivals,
    /// What is wrong with the documents; only what is new is logged.
    findings: BTreeSet<Finding>,
    status: StoreStatus,
    /// What the store's reader says of it, and that it is not the one of before.
    remarked: Option<String>,
    /// The bootstrap file names another store, which has not answered yet.
    rebased: bool,
    moved: Option<String>,
    /// A newer form of the documents than this agent knows.
    newer_schema: Option<u64>,
    cache: Cache,
    kept: Option<Kept>,
    /// When the cache was written last.
    kept_at: Moment,
}

/// What a listing means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is in force; it has to be looked at again after this, if at all.
    InForce(Option<Duration>),
    /// It is for newer agents: what was in force stays.
    NotUnderstood,
}

impl Config {
    /// Knows what was kept on disk, but nothing of it is in force yet.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let cache = Cache::of(bootstrap);
        let kept = cache.recall();
        let mut loader = Loader::of(bootstrap);
        if let Some(kept) = &kept {
            // The last good versions of documents that have gone bad since.
            loader.load(&kept.documents);
        }
        Config {
            loader: Arc::new(loader),
            loaded: None,
            snapshot: None,
            departed: Departed::default(),
            arrivals: Arrivals::default(),
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

    /// Another bootstrap file: what is in force stays until its store has answered.
    pub fn on_rebased(&mut self, bootstrap: &Bootstrap, now: Now) {
        (self.rebased, self.moved, self.kept_at) = (true, None, now.moment);
        let rejected = std::mem::take(&mut self.status.rejected);
        self.status = StoreStatus { rejected, revision: self.status.revision, ..status(bootstrap) };
        self.cache.rebase(bootstrap);
    }

    /// Which store's documents were kept on disk.
    pub fn origin(&self) -> Option<&str> {
        if self.rebased {
            return None;
        }
        let known = self.snapshot.as_ref().map(|snapshot| snapshot.origin.as_str());
        known.or(self.kept.as_ref().map(|kept| kept.origin.as_str()))
    }

    /// What a predecessor knew.
    pub fn remember(&mut self, loader: Arc<Loader>) {
        self.loader = loader;
        self.kept = None;
    }

    /// The task that keeps on disk what is in force.
    pub fn writer(&self) -> impl Future<Output = ()> + use<> {
        self.cache.writer()
    }

    /// What is in force, once anything is.
    pub fn loaded(&self) -> Option<&Arc<Loaded>> {
        self.loaded.as_ref()
    }

    /// For a successor.
    pub fn memory(&self) -> Option<(Arc<Snapshot>, Arc<Loader>)> {
        Some((self.snapshot.clone()?, self.loader.clone()))
    }

    /// The store listed these.
    pub fn on_listed(&mut self, snapshot: Arc<Snapshot>, now: Now) -> Listed {
        self.compare(&snapshot);
        self.newer_schema = newer_schema(&snapshot.documents);
        if let Some(schema) = self.newer_schema {
            error!(schema, known = SCHEMA, "the documents are for newer agents: what was in force stays");
            return Listed::NotUnderstood;
        }
        self.kept = None;
        let again = self.take_in(snapshot, now);
        self.keep(now);
        Listed::InForce(again)
    }

    /// Keeps on disk what is in force.
    fn keep(&mut self, now: Now) {
        if let Some(snapshot) = &self.snapshot {
            self.cache.keep(snapshot.revision, snapshot.origin.clone(), now.wall, self.loader.in_force());
            self.kept_at = now.moment;
        }
    }

    /// The same documents once more: a grace is over.
    pub fn on_grace_over(&mut self, now: Now) -> Option<Listed> {
        let snapshot = self.snapshot.clone()?;
        let again = self.take_in(snapshot, now);
        self.keep(now);
        Some(Listed::InForce(again))
    }

    /// The store did not answer for so long that what was kept comes into force, if anything was.
    pub fn fall_back(&mut self, now: Now) -> Option<Listed> {
        if self.loaded.is_some() {
            return None;
        }
        let kept = self.kept.take()?;
        warn!(
            kept = %kept.confirmed,
            revision = kept.revision,
            documents = kept.documents.len(),
            "the store does not answer: going on with the config that was kept"
        );
        self.status.confirmed = Some(kept.confirmed);
        self.status.remark = Some(format!("the config of {} is in force, kept on this host", kept.confirmed));
        let Kept { revision, origin, documents, .. } = kept;
        let again = self.take_in(Arc::new(Snapshot { revision, documents, origin, remark: None }), now);
        Some(Listed::InForce(again))
    }

    /// Puts documents in force; they have to be looked at again after what this tells.
    fn take_in(&mut self, snapshot: Arc<Snapshot>, now: Now) -> Option<Duration> {
        let mut documents = snapshot.documents.clone();
        let until = self.departed.on_listed(&mut documents, now.moment);
        let mut loaded = Arc::make_mut(&mut self.loader).load(&documents);
        let until = until.into_iter().chain(self.arrivals.on_loaded(&mut loaded, now.moment)).min();
        let findings: BTreeSet<Finding> = loaded.findings.iter().cloned().collect();
        for finding in findings.difference(&self.findings) {
            warn!(place = finding.place, way_out = finding.way_out, "{}", finding.problem);
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

    /// A store that is not the one of before, or that has forgotten, is obeyed, and named.
    fn compare(&mut self, snapshot: &Snapshot) {
        let kept = self.kept.as_ref().map(|kept| (&kept.origin, kept.revision));
        let before = self.snapshot.as_ref().map(|before| (&before.origin, before.revision)).or(kept);
        let meant = std::mem::take(&mut self.rebased);
        match before.filter(|_| !meant) {
            Some((origin, before)) if *origin == snapshot.origin && snapshot.revision < before => {
                // A directory counts its changes from each start on.
                if !origin.starts_with("dir ") {
                    warn!(
                        before,
                        revision = snapshot.revision,
                        "store_rolled_back: the store is at an earlier revision"
                    );
                    self.status.rollbacks += 1;
                }
            }
            Some((before, _)) if *before != snapshot.origin => {
                warn!(before, now = snapshot.origin, "another store answers in the place of the one before");
                self.moved = Some(format!("another store answers in the place of the one before, which was {before}"));
            }
            Some(_) | None => {}
        }
        if let Some(remark) = snapshot.remark.as_ref().filter(|remark| self.remarked.as_ref() != Some(remark)) {
            warn!(place = self.status.place, "{remark}");
        }
        self.remarked.clone_from(&snapshot.remark);
        let remarks: Vec<&str> = self.remarked.iter().chain(&self.moved).map(String::as_str).collect();
        self.status.remark = (!remarks.is_empty()).then(|| remarks.join("; "));
        self.status.origin = Some(snapshot.origin.clone());
    }

    /// The store is there.
    pub fn on_answered(&mut self, now: Now) {
        if !self.status.connected {
            info!(place = self.status.place, "store connected");
        }
        self.status.connected = true;
        self.status.error = None;
        self.status.confirmed = Some(now.wall);
        if now.moment.since(self.kept_at) > KEPT_AGAIN {
            self.keep(now);
        }
    }

    /// The store is away.
    pub fn on_lost(&mut self, problem: String) {
        if self.status.error.is_none() {
            match self.loaded {
                Some(_) => warn!(place = self.status.place, problem, "store lost, tests go on"),
                None => warn!(place = self.status.place, problem, "store not reached, waiting for it"),
            }
        }
        self.status.connected = false;
        self.status.error = Some(problem);
    }

    /// What is wrong with the store and with what it says as a whole.
    pub fn faults(&self) -> BTreeMap<AlarmKey, Cause> {
        let mut faults = BTreeMap::new();
        let mut add =
            |subject, problem: String| faults.insert(AlarmKey::new(Kind::Config, subject), Cause::Config(problem));
        if let Some(problem) = &self.status.error {
            add(Subject::Store, format!("store {} cannot be read: {problem}", self.status.place));
        }
        if let Some(reason) = self.unsupported() {
            add(Subject::Document(GLOBAL_KEY.to_owned()), reason);
        }
        faults
    }

    fn unsupported(&self) -> Option<String> {
        let schema = self.newer_schema?;
        Some(format!(
            "config: schema: the documents are of schema {schema}, this agent knows {SCHEMA}: what was in force stays; \
             install a newer agent"
        ))
    }

    /// Whether all that there is to test is known.
    pub fn is_whole(&self) -> bool {
        self.newer_schema.is_none() && self.status.rejected.iter().all(|document| document.last_good_in_force)
    }

    /// For the snapshot.
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

    /// What is said of this agent in the store, if that is one where agents say something.
    pub fn announcement(&self, web: Option<String>, keys: &KeyRing) -> Option<String> {
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.origin.starts_with("etcd v3"))?;
        let rejected = self.status(WallTime::default()).rejected;
        let mut shown: Vec<_> = rejected
            .iter()
            .map(|document| {
                json!({"document": document.document, "reason": document.reasons.first(),
                       "last_good_in_force": document.last_good_in_force})
            })
            .collect();
        loop {
            let said = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "web": web,
                "revision": snapshot.revision,
                "digest": digest(&snapshot.documents),
                "keys": keys.ids().collect::<Vec<_>>(),
                "active_key": keys.signing(&KeyChoice::Fleet).map(|key| key.id()),
                "rejected": shown,
                "rejected_in_all": rejected.len(),
            });
            let said = said.to_string();
            if said.len() <= MOST_SAID || shown.pop().is_none() {
                return Some(said);
            }
        }
    }
}

fn status(bootstrap: &Bootstrap) -> StoreStatus {
    let kind = bootstrap.store.kind.as_str();
    StoreStatus { kind, place: store::place(&bootstrap.store), ..StoreStatus::default() }
}
