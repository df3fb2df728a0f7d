use std::{path::PathBuf, sync::Arc, time::Duration};

use tidings_event::Timestamp;
use tidings_timeline::{BrokerConfig, Settings};

use crate::{
    peers::{PeersTls, Transport},
    space::FreeSpace,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Reads the time that goes into the log with a batch.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a [`Replica`](crate::Replica) is set up.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// Where everything is kept. Made when it is not there; one process at a time may have it open.
    pub data_dir: PathBuf,
    /// The server's number, kept in the data directory from the first start on.
    ///
    /// A number belongs to one log for ever: giving it to an empty log could lose what was
    /// acknowledged.
    pub node_id: u64,
    /// The server's name, for people and for the events that the server makes itself.
    pub node_name: String,
    /// The settings of the timeline; proposed at start when they differ from the recorded ones.
    ///
    /// `None` keeps what is recorded.
    pub settings: Option<Settings>,
    /// How much may wait, and in what portions it goes to the log.
    pub queue: QueueLimits,
    /// When the log is cut and how much disk is left alone.
    pub disk: DiskLimits,
    /// How much of the history is kept in memory for subscribers.
    pub broker: BrokerConfig,
    /// What of the history is read and checked at start.
    pub verify: VerifyHistory,
    /// The clock; handed in so that tests and simulations have their own.
    pub clock: Clock,
}

/// How a server finds the others, and they it.
#[derive(Debug)]
pub struct PeersConfig {
    /// What carries connections: [`TcpTransport`](crate::TcpTransport) with a listener that is bound
    /// already.
    pub transport: Arc<dyn Transport>,
    /// Encryption and proof on both sides; without, whoever reaches the port may speak as a server.
    pub tls: Option<PeersTls>,
    /// The address under which the others reach this server, `HOST:PORT`.
    pub advertise: String,
    /// Where this server answers clients, `HOST:PORT`: the others tell it to whoever asks for
    /// servers. Empty: not told.
    pub http: String,
    /// How many servers without a past, that all see each other, form a cluster.
    ///
    /// The same on all of them. With 1, a server that meets nobody begins alone; with 0 it only
    /// joins others.
    pub bootstrap_expect: u32,
    /// Addresses of some of the others, `HOST:PORT`; these know the rest. Its own is no harm.
    pub join: Vec<String>,
    /// Whether this server gets no vote by itself when it joins: it holds a copy and takes part when
    /// a person promotes it. Looked at when it joins; it is not counted among those that form a
    /// cluster.
    pub standby: bool,
    /// The number of a server whose place this one takes when it joins: one whose disk is lost. The
    /// old one is removed when this one has caught up.
    pub replaces: Option<u64>,
    /// The newest version of the protocol between servers that is spoken; `None`: the newest there
    /// is. Lower, a server speaks as an older program would.
    pub version_max: Option<u8>,
    /// How much others may ask of this server.
    pub limits: PeersLimits,
}

/// How much other servers may ask of one, and how far their clocks may be off.
#[derive(Clone, Debug)]
pub struct PeersLimits {
    /// Connections from servers of the cluster; each of them has four, and one more now and then.
    pub connections_max: usize,
    /// Connections from servers that have introduced themselves and are not in the cluster, as far as
    /// this one knows: those that want to join, and all of them while it forms.
    pub newcomers_max: usize,
    /// Connections from whoever has not introduced itself yet. Beyond that the oldest is closed.
    pub strangers_max: usize,
    /// Bytes of messages that come in or are worked at, on all connections together, beside the 128 KiB
    /// that each of them has of its own. A larger message than that is taken alone.
    pub buffered_bytes_max: usize,
    /// By how much the clock of a server that wants to join may differ from the leader's: times in the
    /// log come from whoever leads, and never go back.
    pub clock_skew_max: Duration,
}

impl Default for PeersLimits {
    fn default() -> PeersLimits {
        PeersLimits {
            connections_max: 256,
            newcomers_max: 64,
            strangers_max: 64,
            // the largest record of the log, and as much again of smaller ones
            buffered_bytes_max: 512 * MIB,
            clock_skew_max: Duration::from_secs(60),
        }
    }
}

/// What of the history is read and checked before the server is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyHistory {
    /// Every segment: takes as long as reading all of the history.
    All,
    /// The segment that is written to; the others when they are read.
    #[default]
    Tail,
}

/// Limits of the queue in front of the log. Reaching one is answered, never waited out silently.
#[derive(Clone, Debug)]
pub struct QueueLimits {
    /// Groups that may wait.
    pub groups_max: usize,
    /// Bytes that may wait.
    pub bytes_max: usize,
    /// The largest group that is taken at all.
    pub group_bytes_max: usize,
    /// How long a caller waits for a place among the groups before it is told to come back.
    pub wait_max: Duration,
    /// How long recording may take before the caller is told that nobody knows what became of it: a
    /// leader that is cut off from the others may never find out. Far longer than a busy disk takes.
    pub answer_wait_max: Duration,
    /// What a caller that is sent away is told to wait.
    pub retry_after: Duration,
    /// Bytes of one log entry; a larger group is an entry of its own.
    pub batch_bytes_max: usize,
    /// Groups in one log entry.
    pub batch_groups_max: usize,
    /// Entries that are proposed and not yet answered.
    pub in_flight_max: usize,
    /// Entries that are proposed and not yet on disk.
    ///
    /// With 2, one is gathered for the next sync while the disk works on the other; more would cut
    /// the batches smaller without a sync less.
    pub unflushed_max: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits {
            groups_max: 8192,
            bytes_max: 64 * MIB,
            group_bytes_max: 8 * MIB,
            wait_max: Duration::from_secs(1),
            answer_wait_max: Duration::from_secs(30),
            retry_after: Duration::from_secs(1),
            batch_bytes_max: MIB,
            batch_groups_max: 4096,
            in_flight_max: 8,
            unflushed_max: 2,
        }
    }
}

/// When the log is cut, what retention looks at, and what is left free.
#[derive(Clone, Debug)]
pub struct DiskLimits {
    /// Free bytes below which only what frees space is taken any more.
    ///
    /// Enough for what is in flight, the snapshot and the next log segment to still be written.
    pub free_reserve: u64,
    /// Who tells how many bytes are free; handed in so that tests have a full disk. `None`: the file
    /// system of the data directory.
    pub free_space: Option<FreeSpace>,
    /// Log bytes after which a snapshot is made and the log before it let go.
    pub snapshot_log_bytes: u64,
    /// Bytes of a segment of the log, which is let go as a whole.
    pub log_segment_bytes: u64,
    /// Entries before a snapshot that stay in the log of a server that stands alone.
    pub log_entries_kept: u64,
    /// The same with peers: one that needs older entries is sent the snapshot and the history, which
    /// a restart should not come to.
    pub log_entries_kept_for_peers: u64,
    /// How often the leader looks at what retention allows.
    pub retention_interval: Duration,
}

impl Default for DiskLimits {
    fn default() -> DiskLimits {
        DiskLimits {
            free_reserve: 64 * MIB as u64,
            free_space: None,
            snapshot_log_bytes: 256 * MIB as u64,
            log_segment_bytes: 64 * MIB as u64,
            log_entries_kept: 64,
            log_entries_kept_for_peers: 4096,
            retention_interval: Duration::from_secs(10),
        }
    }
}
