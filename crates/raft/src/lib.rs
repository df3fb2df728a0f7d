//! The timeline, made durable and kept alike on every server by Raft.
//!
//! ```text
//!            ┌──────── Replica (a handle; cheap to clone) ────────┐
//! propose ──▶│ queue ─▶ proposer ─▶ engine ─▶ Log ─▶ disk         │──▶ outcomes
//!            │                        │ committed                 │
//!            │                        └▶ Machine ─▶ History, view, Broker
//!            └────────────────────────────────────────────────────┘
//! ```
//!
//! [`Replica::open`] brings a data directory up to date and hands out what the API needs: a way to
//! [propose](Replica::propose) groups of commands, the [state](Replica::state), the
//! [broker](Replica::broker). Groups that wait together become one log entry, one write, one sync.
//! The consensus engine is openraft; none of its types leave this crate, and none of its forms
//! reach the disk (`codec` has ours).
//!
//! [`Replica::open_with_peers`] does the same as one of several servers that hold one timeline:
//! `peers` finds the others, replicates to them and brings commands to whoever leads.
//!
//! What decides are tasks on the caller's runtime: an event that comes alone passes from queue to
//! disk to answer without a change of threads.

mod archive;
mod batch_clock;
mod binding;
mod codec;
mod config;
mod error;
mod fault;
mod identity;
mod log;
mod machine;
mod members;
mod network;
mod peers;
mod pinned;
mod proposer;
mod queue;
mod rebuild;
mod record;
mod replica;
mod retention;
mod runtime;
mod space;
mod start;
mod status;
#[cfg(test)]
mod store_suite;
mod successor;
mod upkeep;

pub use archive::{
    RestoreScope, Restored, SaveHistory, SnapshotFileError, SnapshotInfo, found_from_snapshot,
    snapshot_inspect, snapshot_without_history,
};
pub use config::{
    Clock, DiskLimits, PeersConfig, PeersLimits, QueueLimits, ReplicaConfig, VerifyHistory,
};
pub use error::{OpenError, ProposeError};
pub use identity::stored_node_id;
pub use members::{ChangeError, ReadError};
pub use peers::{
    DiscoverError, PeerStream, PeersTls, ServerInfo, TcpTransport, TlsError, Transport, discover,
    discover_over,
};
pub use rebuild::{SetAside, set_aside};
pub use replica::{Replica, Submitted};
pub use space::FreeSpace;
pub use status::{Member, MemberRole, PeersStatus, ReplicaStatus, Role, WaitsFor};
