use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tidings_event::Index;
use tidings_raft::{RestoreScope, Restored, SaveHistory, SnapshotFileError, SnapshotInfo};
use tidings_timeline::{Broker, Commands, Outcome, StateView};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::upstream::Upstream;

/// Commands on their way: done when they are durable and applied, with one answer for each. It goes
/// on whether it is polled or not.
pub type Submitted = BoxFuture<'static, Result<Vec<Answer>, ProposeFailure>>;

/// Where a snapshot goes.
pub type SnapshotWriter = Box<dyn AsyncWrite + Unpin + Send>;
/// Where one comes from.
pub type SnapshotReader = Box<dyn AsyncRead + Unpin + Send>;

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The timeline has applied it.
    Outcome(Outcome),
    /// An agent has it on its disk, and hands it to the timeline when a server can be reached.
    Spooled,
    /// A server refused it for what it is.
    Refused {
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Answer {
        Answer::Outcome(outcome)
    }
}

/// What the HTTP surface needs of a timeline. A replica is one; so is anything that applies
/// commands in one order and hands the frames to a broker.
pub trait Timeline: Send + Sync + 'static {
    /// Proposes commands. What is handed out has its place in the order: it comes after everything
    /// that was handed out before. This may wait for room for a while.
    fn submit(&self, group: Commands) -> BoxFuture<'static, Result<Submitted, ProposeFailure>>;

    /// The state as of now; later changes do not touch it.
    fn state(&self) -> Arc<StateView>;

    /// Where frames are followed.
    fn broker(&self) -> Arc<Broker>;

    /// Changes whenever something was applied.
    fn applied(&self) -> watch::Receiver<Index>;

    /// Whether somebody can take changes now. Asked often.
    fn has_leader(&self) -> bool;

    /// How long ago the leader was last heard of: zero on the leader itself, `None` when it never was.
    fn last_contact(&self) -> Option<Duration>;

    /// Waits until the state has everything that was acknowledged anywhere before the call. At once
    /// where nobody else acknowledges anything.
    fn read_barrier(&self) -> BoxFuture<'static, Result<(), ReadFailure>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Changes which servers hold the timeline, or which of them leads.
    fn change_servers(
        &self,
        change: ServerChange,
    ) -> BoxFuture<'static, Result<(), ServersFailure>>;

    /// Writes state and history as one file, to its end.
    fn snapshot_save(
        &self,
        writer: SnapshotWriter,
        history: SaveHistory,
    ) -> BoxFuture<'static, Result<SnapshotInfo, SnapshotFileError>> {
        let _ = (writer, history);
        Box::pin(std::future::ready(Err(SnapshotFileError::Elsewhere)))
    }

    /// Brings the entries back to what they are in such a file. Nothing is changed before all of it
    /// was read; its state may have so many bytes.
    fn snapshot_restore(
        &self,
        reader: SnapshotReader,
        scope: RestoreScope,
        state_bytes_max: u64,
    ) -> BoxFuture<'static, Result<Restored, SnapshotFileError>> {
        let _ = (reader, scope, state_bytes_max);
        Box::pin(std::future::ready(Err(SnapshotFileError::Elsewhere)))
    }

    /// How things are.
    fn status(&self) -> TimelineStatus;

    /// The servers, with what the leader knows of them where that is another one.
    fn servers(&self) -> BoxFuture<'_, Vec<ServerStatus>> {
        Box::pin(std::future::ready(self.status().servers))
    }

    /// Those that hold the timeline, when this is an agent that does not.
    fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        None
    }
}

/// Why commands were not taken.
#[derive(Debug, Error)]
pub enum ProposeFailure {
    /// Too much waits already.
    #[error("too many changes wait to be written: send again later")]
    Overloaded {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The disk has less room than is kept in reserve.
    #[error(
        "the disk is full ({free} bytes are free, {reserve} are kept in reserve): make room, or shorten retention"
    )]
    DiskFull {
        /// What is free.
        free: u64,
        /// What is not given away.
        reserve: u64,
    },
    /// The commands can never fit.
    #[error("the request has {bytes} bytes of changes: at most {limit} are allowed, split it")]
    TooLarge {
        /// What they have.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Nobody can take them now.
    #[error("the timeline has no leader: send again later")]
    NoLeader,
    /// An agent keeps as much as it may until servers take it.
    #[error(
        "no server takes what this agent keeps, and its spool is full ({bytes} bytes, at most {limit}): send again later, or raise spool.bytes_max"
    )]
    SpoolFull {
        /// What it keeps.
        bytes: u64,
        /// What it may.
        limit: u64,
    },
    /// An agent cannot keep anything.
    #[error("this agent cannot write its spool ({reason}): nothing was taken, send again later")]
    SpoolFailed {
        /// Why.
        reason: String,
    },
    /// The timeline is shut down.
    #[error("the timeline is stopping: send again later")]
    Stopped,
    /// It may have been recorded, or not.
    #[error(
        "the leader changed before the outcome was known: send again with the same Ids, so that a repeat is recognised"
    )]
    Unknown,
}

/// Why the state could not be brought up to date.
#[derive(Clone, Debug, Error)]
#[error("{sentence}")]
pub struct ReadFailure {
    /// What is wrong and what would be right.
    pub sentence: String,
}

/// A change of the servers that hold a timeline. They are named by their name or their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerChange {
    /// Gives a vote to a server that has none.
    Promote(String),
    /// Takes a server out, for good.
    Remove(String),
    /// Lets another server lead: this one, or the one that is best suited.
    TransferLeader(Option<String>),
}

/// Why the servers were not changed; each with what is wrong and what would be right.
#[derive(Clone, Debug, Error)]
pub enum ServersFailure {
    /// It cannot be done as things are; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Nobody can do it now; nothing was changed.
    #[error("{0}")]
    NoLeader(String),
    /// It was begun, and its end has not been seen.
    #[error("{0}")]
    Unfinished(String),
}

/// One of the servers that hold a timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where the other servers reach it.
    pub peer: String,
    /// Where clients reach it; empty when it does not say.
    pub http: String,
    /// `voter`, `learner` or `standby`.
    pub role: String,
    /// Whether it leads.
    pub leads: bool,
    /// How long ago it was last heard of, as far as this server knows.
    pub last_contact: Option<Duration>,
    /// The last log entry that it is known to have, as far as this server knows.
    pub matched: Option<u64>,
    /// By how many milliseconds its clock is ahead of this server's.
    pub clock_ahead_ms: Option<i64>,
}

/// How a timeline is, for `/v1/status`, `/v1/health/ready` and `/v1/metrics`.
#[derive(Clone, Debug, Default)]
pub struct TimelineStatus {
    /// `leader`, `follower` …
    pub role: String,
    /// The term of the consensus.
    pub term: u64,
    /// Who leads, when that is known.
    pub leader: Option<String>,
    /// All servers that hold it.
    pub servers: Vec<ServerStatus>,
    /// How long ago the leader was last heard of.
    pub last_contact: Option<Duration>,
    /// The oldest frame that is retained.
    pub oldest: Index,
    /// The newest frame.
    pub newest: Index,
    /// The consensus log: first and last entry, and how far it is committed and applied.
    pub log_first: u64,
    /// See [`log_first`](TimelineStatus::log_first).
    pub log_last: u64,
    /// See [`log_first`](TimelineStatus::log_first).
    pub log_committed: u64,
    /// See [`log_first`](TimelineStatus::log_first).
    pub log_applied: u64,
    /// The log entry at which the newest snapshot was taken.
    pub snapshot: u64,
    /// Segments of the history.
    pub segments: u64,
    /// Bytes of the history.
    pub history_bytes: u64,
    /// Free bytes on the disk, when that is known.
    pub disk_free_bytes: Option<u64>,
    /// Groups of commands that wait to be written.
    pub queued_groups: u64,
    /// Bytes of those.
    pub queued_bytes: u64,
    /// Why it cannot serve, as one sentence.
    pub not_ready: Option<String>,
    /// What other servers have open here; `None` where there are no others.
    pub peers: Option<PeersStatus>,
}

/// What other servers have open at one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeersStatus {
    /// Connections from them.
    pub connections: u64,
    /// Connections that were refused because there were too many.
    pub connections_refused: u64,
    /// Bytes of messages that come in or are worked at.
    pub buffered_bytes: u64,
    /// How many that may be.
    pub buffered_bytes_max: u64,
    /// Messages that were refused because there was no memory for them.
    pub messages_refused: u64,
}
