//! Identity of the store that documents came from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identity of a store, which distinguishes two stores behind the same address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Directory at this path.
    Directory(String),
    /// Cluster of etcd.
    Etcd {
        /// API, and thereby the store, that the documents were read by; etcd's two stores are separate.
        api: EtcdApi,
        /// Id of the cluster.
        cluster: String,
    },
}

/// API of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdApi {
    /// API of the older store, without leases for agents.
    V2,
    /// Current API, as JSON.
    V3,
}

impl Origin {
    /// Returns whether agents can publish their state in the store, for which it needs leases.
    pub fn has_leases(&self) -> bool {
        matches!(self, Origin::Etcd { api: EtcdApi::V3, .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Directory(path) => write!(f, "dir {path}"),
            Origin::Etcd { api: EtcdApi::V2, cluster } => write!(f, "etcd v2, cluster {cluster}"),
            Origin::Etcd { api: EtcdApi::V3, cluster } => write!(f, "etcd v3, cluster {cluster}"),
        }
    }
}
