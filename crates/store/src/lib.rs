//! tidings on disk: the history that is streamed, the Raft log, snapshots of the state.
//!
//! Files and threads only: no network, no clock but for caching, nothing of the consensus engine.
//! Three stores share one data directory ([`DataDir`]):
//!
//! - [`RaftLog`] makes proposals durable: group commit on one flusher thread.
//! - [`History`] keeps the frames as the very lines that are streamed. It is written without
//!   syncing; what a power failure takes is applied again from the Raft log.
//! - [`SnapshotStore`] keeps the newest states of the state machine.
//!
//! What another server sends in place of all of this is gathered by [`Incoming`].
//!
//! What a crash can leave behind is repaired when a store is opened. What it cannot leave behind
//! is damage: the store is not opened and nothing is changed; [`verify()`] tells what is wrong.

mod checked_file;
mod disk;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod incoming;
mod layout;
mod lock;
mod raft_log;
mod snapshots;
mod verify;

pub use self::error::StoreError;
pub use self::history::{
    History, HistoryConfig, HistoryCut, HistoryFiles, HistoryReport, PendingSeal, PinnedHistory,
    SegmentDigest, SegmentInfo, UnsyncedFiles, VerifyOnStart, WriteBack,
};
pub use self::incoming::{
    Incoming, IncomingError, IncomingFile, Missing, OFFER_SEGMENTS_MAX, SnapshotOffer,
};
pub use self::lock::DataDir;
pub use self::raft_log::{
    Done, LogId, LogRecord, RaftLog, RaftLogConfig, RaftLogState, RaftLogStats, TornTail,
};
pub use self::snapshots::{Snapshot, SnapshotStore};
pub use self::verify::{Fault, VerifyProgress, VerifyReport, verify};
