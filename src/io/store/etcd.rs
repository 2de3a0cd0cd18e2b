//! Documents in etcd, through either of its two JSON APIs. [`Etcd`] chooses the API whose store holds documents, lists
//! and watches through one member at a time, and turns to another member when one fails. The v2 and v3 stores of one
//! server are separate; documents in both are reported in the remark, and v3 takes precedence.

mod cluster;
mod fault;
mod keys;
mod presence;
mod v2;
mod v3;

use std::time::Duration;

use super::origin::{EtcdApi, Origin};
use super::{Conflict, ReadScope, RetryClass, Snapshot, StoreError, Watched};
use crate::config::bootstrap::{Api, StoreConfig};
use crate::config::document::raw::Documents;
use cluster::Cluster;
use fault::{Fault, FaultKind};
use keys::KeyPaths;
pub use presence::{announce, announced};
use v2::V2;
use v3::{Consistency, V3};

/// Interval of a small liveness request on a connection of its own: etcd never ends a watch by itself, so a hanging
/// server or a path that lost its connection state would otherwise go unnoticed.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
/// Range, in milliseconds, of the time after which the other API's store is examined again while there is nothing below
/// the prefix.
const LOOK_AGAIN: std::ops::Range<u64> = 5_000..10_000;

/// Reader and writer of the documents in one etcd cluster.
pub struct Etcd {
    cluster: Cluster,
    keys: KeyPaths,
    wanted: Api,
    client: Option<ApiClient>,
    /// Human-readable note on the choice between the two APIs, shown with the snapshot.
    remark: Option<String>,
    /// API whose store held documents when they were last listed; it is preferred while it answers.
    preferred_api: Option<Api>,
    /// True if the last listing found no documents at all.
    empty: bool,
    /// True if, as long as no documents are known, outdated ones are better than none.
    allow_single_member: bool,
}

enum ApiClient {
    V2(V2),
    V3(V3),
}

/// Result of a listing through either API.
struct KeyListing {
    revision: u64,
    documents: Documents,
    /// Id of the cluster, in the form that the API reports it.
    cluster: String,
}

/// Result of watching through either API.
enum Seen {
    /// Current documents, with the revision at which they are valid.
    Changed(u64, Documents),
    /// Possible or certain change: the documents have to be listed again.
    Doubt,
    /// End of a watch without any change, from a server that is alive.
    Nothing,
}

impl Etcd {
    /// Creates a reader of the documents of one concern; nothing is requested yet.
    pub fn new(config: &StoreConfig, concern: ReadScope) -> Result<Self, StoreError> {
        let refuse = |fault: Fault| StoreError::new("store.endpoints", fault.problem, RetryClass::Slow);
        let cluster = Cluster::new(config).map_err(refuse)?;
        let keys = KeyPaths::new(&config.prefix, concern);
        Ok(Etcd {
            cluster,
            keys,
            wanted: config.api,
            client: None,
            remark: None,
            preferred_api: None,
            empty: false,
            allow_single_member: false,
        })
    }

    /// Sets the API that held this agent's documents when it last ran, as recorded in the snapshot's origin.
    pub fn expect(&mut self, origin: &Origin) {
        self.preferred_api = match origin {
            Origin::Etcd { api: EtcdApi::V2, .. } => Some(Api::V2),
            Origin::Etcd { api: EtcdApi::V3, .. } => Some(Api::V3),
            Origin::Directory(_) => None,
        };
    }

    /// Allows a listing from a single member without a quorum, as long as no documents are known at all.
    pub fn allow_reading_alone(&mut self) {
        self.allow_single_member = true;
    }

    /// Returns true if either API may still turn out to hold the documents, because none are below the prefix yet.
    fn undecided(&self) -> bool {
        self.wanted == Api::Auto && (self.preferred_api.is_none() || self.empty)
    }

    /// Lists the documents from the first member that answers; at most one attempt for each member.
    pub async fn list(&mut self) -> Result<Snapshot, StoreError> {
        let mut listed = self.list_once().await;
        for _ in 1..self.cluster.len() {
            match &listed {
                Err(StoreError { pace: RetryClass::Quick, .. }) => listed = self.list_once().await,
                Ok(_) | Err(_) => break,
            }
        }
        match listed {
            Err(StoreError { pace: RetryClass::Quick, .. })
                if self.allow_single_member && self.preferred_api.is_none() =>
            {
                match self.list_alone().await {
                    Some(allow_single_member) => Ok(allow_single_member),
                    None => listed,
                }
            }
            other => other,
        }
    }

    /// Lists from one member without a quorum, for an agent that has no documents at all: outdated ones are better than
    /// none.
    async fn list_alone(&mut self) -> Option<Snapshot> {
        if self.wanted == Api::V2 {
            return None;
        }
        for _ in 0..self.cluster.len() {
            if let Ok(version) = self.cluster.version().await {
                let mut v3 = V3::of_server(&version.etcdserver);
                let listed = v3.list(&mut self.cluster, &self.keys, Consistency::Serializable).await;
                if let Ok(KeyListing { revision, documents, cluster }) = listed
                    && !documents.is_empty()
                {
                    (self.preferred_api, self.client) = (Some(Api::V3), Some(ApiClient::V3(v3)));
                    let remark = "read from one member without a quorum: it may be outdated";
                    let origin = Origin::Etcd { api: EtcdApi::V3, cluster };
                    return Some(Snapshot { revision, documents, origin, remark: Some(remark.to_owned()) });
                }
            }
            self.cluster.give_up_member();
        }
        None
    }

    /// Lists from the current member; after a failure of that member, the next attempt goes to another one.
    async fn list_once(&mut self) -> Result<Snapshot, StoreError> {
        if self.undecided() {
            self.client = None;
        }
        let mut listed = self.try_list().await;
        if matches!(listed, Err(Fault { kind: FaultKind::Compacted, .. })) {
            // A compaction between two pages is no fault; the listing starts over.
            listed = self.try_list().await;
        }
        match listed {
            Ok(listed) => {
                self.cluster.member_is_good();
                let (client, api) = match &self.client {
                    Some(ApiClient::V2(_)) => (Api::V2, EtcdApi::V2),
                    Some(ApiClient::V3(_)) | None => (Api::V3, EtcdApi::V3),
                };
                self.empty = listed.documents.is_empty();
                if !self.empty {
                    self.preferred_api = Some(client);
                }
                let origin = Origin::Etcd { api, cluster: listed.cluster };
                let (revision, documents, remark) = (listed.revision, listed.documents, self.remark.clone());
                Ok(Snapshot { revision, documents, origin, remark })
            }
            Err(fault) => Err(self.failed(fault)),
        }
    }

    async fn try_list(&mut self) -> Result<KeyListing, Fault> {
        self.cluster.refresh()?;
        if self.client.is_none() {
            self.client = Some(self.detect().await?);
        }
        match &mut self.client {
            Some(ApiClient::V2(v2)) => v2.list(&self.cluster, &self.keys).await,
            Some(ApiClient::V3(v3)) => v3.list(&mut self.cluster, &self.keys, Consistency::Linearizable).await,
            None => Err(Fault::api("no API was found".to_owned())),
        }
    }

    /// Waits for a change after the last listing, or for the end of one watch interval without any.
    pub(super) async fn watch(&mut self) -> Result<Watched, StoreError> {
        let undecided = self.undecided();
        let watch = async {
            match &mut self.client {
                Some(ApiClient::V2(v2)) => v2.watch(&mut self.cluster, &self.keys).await,
                Some(ApiClient::V3(v3)) => v3.watch(&mut self.cluster, &self.keys).await,
                None => Ok(Seen::Doubt),
            }
        };
        let seen = match undecided {
            true => {
                let await_fresh_samples = Duration::from_millis(fastrand::u64(LOOK_AGAIN));
                tokio::time::timeout(await_fresh_samples, watch).await.unwrap_or(Ok(Seen::Doubt))
            }
            false => watch.await,
        };
        match seen {
            Ok(Seen::Changed(revision, documents)) => Ok(Watched::Changed(revision, documents)),
            Ok(Seen::Doubt) => Ok(Watched::Doubt),
            Ok(Seen::Nothing) => Ok(Watched::Quiet),
            // Revisions that etcd has compacted require a new listing; that is no fault.
            Err(Fault { kind: FaultKind::Compacted, .. }) => Ok(Watched::Doubt),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Writes a document, or removes it, if its version is still the given one; version 0 stands for a missing
    /// document.
    pub async fn write(
        &mut self,
        key: &str,
        text: Option<&str>,
        version: u64,
    ) -> Result<Result<(), Conflict>, StoreError> {
        let written = match &self.client {
            Some(ApiClient::V2(v2)) => v2.write(&self.cluster, &self.keys, key, text, version).await,
            Some(ApiClient::V3(v3)) => v3.write(&mut self.cluster, &self.keys, key, text, version).await,
            None => Err(Fault::api("the store was not read yet".to_owned())),
        };
        match written {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(Conflict)),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Determines the API whose store holds the documents; v3 if both hold some or neither does.
    async fn detect(&mut self) -> Result<ApiClient, Fault> {
        let version = self.cluster.version().await?.etcdserver;
        let (v2, v3) = (V2::new(), V3::of_server(&version));
        self.remark = None;
        let missing = |fault: Fault, problem: String| match fault.kind {
            FaultKind::Api => Fault::api(format!("{problem} ({})", fault.problem)),
            FaultKind::Member
            | FaultKind::Access
            | FaultKind::Token
            | FaultKind::NoAuthentication
            | FaultKind::Compacted => fault,
        };
        let no_v2 = || {
            format!("etcd {version} does not answer the v2 API; start it with --enable-v2=true, or set api = \"v3\"")
        };
        let no_v3 = || {
            format!(
                "etcd {version} does not answer the v3 API as JSON; start it without --enable-grpc-gateway=false, or \
                 set api = \"v2\" if its documents are there"
            )
        };
        match self.wanted {
            Api::V2 => {
                v2.holds_any(&self.cluster, &self.keys).await.map_err(|fault| missing(fault, no_v2()))?;
                return Ok(ApiClient::V2(v2));
            }
            Api::V3 => {
                v3.holds_any(&mut self.cluster, &self.keys).await.map_err(|fault| missing(fault, no_v3()))?;
                return Ok(ApiClient::V3(v3));
            }
            Api::Auto => {}
        }
        let in_v3 = v3.holds_any(&mut self.cluster, &self.keys).await;
        let in_v2 = v2.holds_any(&self.cluster, &self.keys).await;
        let both = "documents exist in both the v3 and the v2 store of etcd, which are separate: those of v3 are in \
                force; remove the others, or set api";
        match (in_v3, in_v2) {
            (Ok(true), Ok(true)) => {
                self.remark = Some(both.to_owned());
                Ok(ApiClient::V3(v3))
            }
            // A store that held documents is not given up for one that is empty or that holds leftovers.
            (Ok(false), _) if self.preferred_api == Some(Api::V3) => Ok(ApiClient::V3(v3)),
            (Err(fault), _) if self.preferred_api == Some(Api::V3) => Err(missing(fault, no_v3())),
            (Ok(true), _) => Ok(ApiClient::V3(v3)),
            (_, Ok(_)) if self.preferred_api == Some(Api::V2) => Ok(ApiClient::V2(v2)),
            (_, Err(fault)) if self.preferred_api == Some(Api::V2) => Err(missing(fault, no_v2())),
            (Ok(false) | Err(Fault { kind: FaultKind::Api, .. }), Ok(true)) => Ok(ApiClient::V2(v2)),
            (Err(Fault { kind: FaultKind::Api, .. }), Ok(false)) => Ok(ApiClient::V2(v2)),
            (Ok(false), Ok(false) | Err(Fault { kind: FaultKind::Api, .. })) => Ok(ApiClient::V3(v3)),
            (Err(Fault { kind: FaultKind::Api, problem }), Err(Fault { kind: FaultKind::Api, .. })) => {
                let help = "start it without --enable-grpc-gateway=false, or with --enable-v2=true";
                let both = format!("etcd {version} answers neither its v3 nor its v2 API as JSON");
                Err(Fault::api(format!("{both}; {help} ({problem})")))
            }
            (Err(fault), _) | (Ok(false), Err(fault)) => Err(fault),
        }
    }

    fn failed(&mut self, fault: Fault) -> StoreError {
        let place = self.cluster.place();
        let pace = match fault.kind {
            FaultKind::Member => {
                self.cluster.give_up_member();
                RetryClass::Quick
            }
            // Another member may run another version, for example behind a proxy.
            FaultKind::Api => {
                self.client = None;
                self.cluster.give_up_member();
                RetryClass::Quick
            }
            FaultKind::Compacted => RetryClass::Quick,
            FaultKind::Access | FaultKind::Token | FaultKind::NoAuthentication => RetryClass::Slow,
        };
        StoreError::new(&place, fault.problem, pace)
    }
}
