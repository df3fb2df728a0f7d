//! One server of each system, or a cluster of them.

use serde::Serialize;

use crate::peers::Peer;
use crate::workloads::Workload;

/// How the systems are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deployment {
    /// One server.
    Single,
    /// So many servers that hold the same data.
    Cluster {
        /// How many.
        servers: usize,
    },
}

/// Servers of a cluster when nobody says how many.
pub const SERVERS: usize = 3;

impl Deployment {
    /// Whether there are several servers.
    pub fn is_cluster(self) -> bool {
        matches!(self, Self::Cluster { .. })
    }

    /// As it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "a single server",
            Self::Cluster { .. } => "a cluster",
        }
    }

    /// How many servers a system has.
    pub fn servers(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Cluster { servers } => servers,
        }
    }

    /// The systems that are run so, in the order of the tables.
    pub fn peers(self) -> &'static [Peer] {
        match self {
            Self::Single => &Peer::ALL,
            Self::Cluster { .. } => &[Peer::Tidings, Peer::Nats, Peer::NatsAlways, Peer::Etcd],
        }
    }

    /// What is measured, in the order in which it runs.
    pub fn workloads(self) -> &'static [Workload] {
        match self {
            Self::Single => &[
                Workload::Publish,
                Workload::Fanout,
                Workload::Latency,
                Workload::Replay,
                Workload::Memory,
                Workload::Filtered,
            ],
            Self::Cluster { .. } => &[
                Workload::Publish,
                Workload::Failover,
                Workload::CatchUp,
                Workload::Relay,
            ],
        }
    }
}
