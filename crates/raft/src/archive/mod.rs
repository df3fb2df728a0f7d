//! A timeline as one file: to keep it elsewhere, to look at it, to bring a state back, to begin anew
//! when all servers are lost.
//!
//! ```text
//! magic "tdgarch1"
//! block …            kind u8 │ length u32 LE │ crc32 u32 LE │ body     the checksum covers all others
//!   1 head           postcard Head                                     once, first
//!   2 segments       postcard Vec<SegmentRecord>                       what the history consists of
//!   3 state          a piece of the state, as in a snapshot on disk
//!   4 lines          a piece of a segment; none belongs to two
//!   5 end            postcard End                                      once, last
//! ```
//! The blocks of a kind follow one another, in this order. It is written and read from one end to the
//! other, with a piece in memory at a time, but for the state. Whoever reads it has nothing changed
//! before the end block was there and everything was as it said.

mod blocks;
mod found;
mod read;
mod restore;
mod save;

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use tidings_event::{EventError, Index, Timestamp};
use tidings_store::{IncomingError, StoreError};
use tidings_timeline::{RestoreError, TimelineId};

pub use self::{
    found::found_from_snapshot,
    read::{snapshot_inspect, snapshot_without_history},
    restore::{RestoreScope, Restored},
    save::SaveHistory,
};
use crate::{
    codec::{self, CodecError, SnapshotHead},
    error::{OpenError, ProposeError},
    members::ReadError,
    pinned::PinnedError,
};

/// What is written or read at once, and the largest block.
const PIECE_BYTES: usize = 1 << 20;
/// Segments that a block of them tells of: each takes 40 bytes and some.
const SEGMENTS_PER_BLOCK: usize = 16 * 1024;
/// Bytes of a state that is read into memory, unless less is said: as between servers.
const STATE_BYTES_MAX: u64 = 16 << 30;

/// What the file is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// When it was made, in microseconds since the epoch, and where.
    made: i64,
    node: String,
    timeline: Option<u128>,
    /// Entry, members and frame, as in the head of a snapshot on disk.
    snapshot: Vec<u8>,
    frame: u64,
    /// The oldest frame in the file; one above `frame` when there is none.
    oldest: u64,
    entries: u64,
    state_bytes: u64,
    state_crc: u32,
    segments: u64,
    history_bytes: u64,
}

/// What came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    blocks: u64,
    bytes: u64,
    /// CRC-32 of the checksums of all blocks before.
    crc: u32,
}

/// What a file with a snapshot holds. Written as JSON, names are those of the HTTP surface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapshotInfo {
    /// When it was made, by the clock of the server that made it.
    #[serde(serialize_with = "as_text")]
    pub made: Timestamp,
    /// The node that made it.
    pub node: String,
    /// The timeline it is of.
    #[serde(serialize_with = "as_text_or_null")]
    pub timeline: Option<TimelineId>,
    /// The last log entry that is in it.
    pub entry: Option<u64>,
    /// The names of the servers of the cluster then.
    pub servers: Vec<String>,
    /// The newest frame that is in it.
    pub newest: Index,
    /// The oldest frame in it; one above the newest when the history was left out.
    pub oldest: Index,
    /// Entries of the state.
    pub entries: u64,
    /// Bytes of the state.
    pub state_bytes: u64,
    /// Segments of the history.
    pub segments: u64,
    /// Bytes of the history.
    pub history_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

fn as_text<S: Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_text_or_null<S: Serializer>(
    value: &Option<TimelineId>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Why a file with a snapshot was not written, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFileError {
    /// Reading failed.
    #[error("the snapshot cannot be read")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("the snapshot cannot be written")]
    Write(#[source] io::Error),
    /// It is something else.
    #[error(
        "this is no snapshot of a timeline: it begins with {found:02x?}; give the file that `tidings \
         snapshot save` has written"
    )]
    NotASnapshot {
        /// What it begins with.
        found: Vec<u8>,
    },
    /// It is not what was written. Nothing was changed.
    #[error("the snapshot is damaged at byte {offset}: {what}; use another copy of it")]
    Damaged {
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// There is more of it than is read into memory.
    #[error("the state in the snapshot has {bytes} bytes, at most {bytes_max} are read")]
    TooLarge {
        /// What it has.
        bytes: u64,
        /// What it may have.
        bytes_max: u64,
    },
    /// Something in it is of another version.
    #[error(
        "the snapshot cannot be decoded: use the version of tidings that made it, or a newer one"
    )]
    Codec(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its state is of another version, or makes no sense.
    #[error(
        "the state in the snapshot cannot be decoded: use the version of tidings that made it, or a \
         newer one"
    )]
    State(#[from] RestoreError),
    /// It is of another timeline. Nothing was changed.
    #[error(
        "the snapshot is of timeline {found}, this one is {ours}: ask for it in so many words to have \
         its entries here, or begin a cluster with it in an empty data directory"
    )]
    OtherTimeline {
        /// The file's.
        found: TimelineId,
        /// The one that is here.
        ours: TimelineId,
    },
    /// What is newest is not known, so neither is what would have to be changed.
    #[error("the state is not restored")]
    Behind(#[from] ReadError),
    /// An entry cannot be written as it was.
    #[error("the entry {topic}:{key} cannot be written again")]
    Entry {
        /// Its topic.
        topic: String,
        /// Its key.
        key: String,
        /// The rule that it breaks.
        #[source]
        source: EventError,
    },
    /// Not all changes were recorded. What was, is; the same again does the rest.
    #[error("{done} of {of} changes were recorded; restore again to have the rest")]
    Propose {
        /// Changes that were recorded.
        done: u64,
        /// Changes in all.
        of: u64,
        /// Why it ended.
        #[source]
        source: ProposeError,
    },
    /// The own history cannot be read.
    #[error("the history of this server cannot be read")]
    History(#[source] StoreError),
    /// There is no state here to be saved or restored.
    #[error("no timeline is held here: ask one of the servers that hold it")]
    Elsewhere,
    /// The server has stopped.
    #[error("the server has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// A cluster is only founded where there is nothing.
    #[error(
        "{} is there already: a cluster is founded in an empty data directory only; move the old one \
         away, or empty it if founding was interrupted",
        path.display()
    )]
    NotEmpty {
        /// What is there.
        path: PathBuf,
    },
    /// Nothing was ever recorded in it.
    #[error("the snapshot is of a timeline in which nothing was recorded yet: just start a server")]
    Nothing,
    /// The files cannot be written.
    #[error("the data directory {} cannot be filled", path.display())]
    Fill {
        /// The data directory.
        path: PathBuf,
        /// What failed.
        #[source]
        source: StoreError,
    },
    /// The history in it is not what the file says it is.
    #[error("the history in the snapshot is not taken")]
    Incoming(#[from] IncomingError),
    /// The server's number cannot be noted.
    #[error("the new server cannot be noted")]
    Identity(#[from] OpenError),
}

impl SnapshotFileError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            SnapshotFileError::Read(_) => "snapshot_unread",
            SnapshotFileError::Write(_) => "snapshot_unwritten",
            SnapshotFileError::NotASnapshot { .. } => "not_a_snapshot",
            SnapshotFileError::Damaged { .. }
            | SnapshotFileError::Codec(_)
            | SnapshotFileError::State(_)
            | SnapshotFileError::Incoming(_) => "snapshot_damaged",
            SnapshotFileError::TooLarge { .. } => "snapshot_too_large",
            SnapshotFileError::OtherTimeline { .. } => "other_timeline",
            SnapshotFileError::Behind(_) => "no_leader",
            SnapshotFileError::Entry { .. } => "snapshot_entry",
            SnapshotFileError::Propose { source, .. } => source.code(),
            SnapshotFileError::Elsewhere => "no_timeline",
            SnapshotFileError::Stopped { .. } => "stopped",
            SnapshotFileError::NotEmpty { .. } => "not_empty",
            SnapshotFileError::Nothing => "snapshot_empty",
            SnapshotFileError::History(_)
            | SnapshotFileError::Fill { .. }
            | SnapshotFileError::Identity(_) => "disk",
        }
    }
}

impl From<CodecError> for SnapshotFileError {
    fn from(error: CodecError) -> SnapshotFileError {
        SnapshotFileError::Codec(error.into())
    }
}

impl From<PinnedError> for SnapshotFileError {
    fn from(error: PinnedError) -> SnapshotFileError {
        match error {
            PinnedError::Store(source) => SnapshotFileError::History(source),
            PinnedError::Panic => SnapshotFileError::Stopped {
                reason: error.to_string(),
            },
        }
    }
}

/// Works on a thread that may wait, or take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotFileError> + Send + 'static,
) -> Result<T, SnapshotFileError> {
    let worked = tidings_host::spawn_blocking(work).await;
    worked.unwrap_or_else(|error| {
        Err(SnapshotFileError::Stopped {
            reason: error.to_string(),
        })
    })
}

impl Head {
    /// What the head of a snapshot on disk says.
    fn covered(&self) -> Result<SnapshotHead, CodecError> {
        codec::decode_snapshot_head(&self.snapshot)
    }

    fn info(&self, file_bytes: u64) -> Result<SnapshotInfo, CodecError> {
        let covered = self.covered()?;
        let servers = covered.members.membership().nodes();
        Ok(SnapshotInfo {
            made: Timestamp::from_unix_micros(self.made),
            node: self.node.clone(),
            timeline: self.timeline.map(TimelineId),
            entry: covered.last.map(|last| last.index),
            servers: servers.map(|(_, peer)| peer.name.clone()).collect(),
            newest: Index(self.frame),
            oldest: Index(self.oldest),
            entries: self.entries,
            state_bytes: self.state_bytes,
            segments: self.segments,
            history_bytes: self.history_bytes,
            file_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_timeline::{Settings, StateMachine};

    use super::{
        blocks::{BlockReader, BlockWriter, MAGIC, kind},
        *,
    };

    /// These bytes are in files that people keep: they may not change.
    #[tokio::test]
    async fn the_form_is_pinned() {
        let head = Head {
            made: -1,
            node: "n".to_owned(),
            timeline: Some(2),
            snapshot: vec![3],
            frame: 4,
            oldest: 1,
            entries: 5,
            state_bytes: 6,
            state_crc: 7,
            segments: 8,
            history_bytes: 9,
        };
        let head = save::encoded(&head).unwrap();
        assert_eq!(head, [1, 1, b'n', 1, 2, 1, 3, 4, 1, 5, 6, 7, 8, 9]);
        let mut file = Vec::new();
        let mut blocks = BlockWriter::begin(&mut file).await.unwrap();
        blocks.block(kind::HEAD, &head).await.unwrap();
        blocks.block(kind::LINES, b"x").await.unwrap();
        let bytes = blocks.end().await.unwrap();
        assert_eq!(bytes, file.len() as u64);
        assert_eq!(&file[..8], MAGIC);
        assert_eq!(file[8..13], [1, 14, 0, 0, 0]);
        let crc = crc32fast::hash(&[&file[8..13], &head[..]].concat());
        assert_eq!(file[13..17], crc.to_le_bytes());
        assert_eq!(file[31..36], [4, 1, 0, 0, 0]);
        // the end: two blocks, 41 bytes
        assert_eq!((file[41], file[50], file[51]), (5, 2, 41));

        let mut blocks = BlockReader::begin(&file[..]).await.unwrap();
        assert_eq!(blocks.block().await.unwrap().0, kind::HEAD);
        assert_eq!(&blocks.block().await.unwrap().1[..], b"x");
        assert_eq!(blocks.block().await.unwrap().0, kind::END);
        // a block that is left out is missed at the end
        let without = [&file[..31], &file[41..]].concat();
        let mut blocks = BlockReader::begin(&without[..]).await.unwrap();
        blocks.block().await.unwrap();
        assert!(blocks.block().await.is_err());
    }

    /// What stands in a file that is whole by its checksums, and says anything at all.
    #[derive(Debug, Clone)]
    enum Said {
        Segments(Vec<(u64, u64, u64, u32, i64, i64)>),
        Other(u8, Vec<u8>),
    }

    fn said() -> impl Strategy<Value = Said> {
        let number = || prop_oneof![0..3_u64, any::<u64>()];
        let segment = (
            number(),
            number(),
            number(),
            any::<u32>(),
            0..9_i64,
            0..9_i64,
        );
        prop_oneof![
            prop::collection::vec(segment, 0..4).prop_map(Said::Segments),
            (0..7_u8, prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(kind, body)| Said::Other(kind, body)),
        ]
    }

    async fn file(head: &Head, said: &[Said]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut blocks = BlockWriter::begin(&mut file).await.unwrap();
        let head = save::encoded(head).unwrap();
        blocks.block(kind::HEAD, &head).await.unwrap();
        for said in said {
            match said {
                // the same on disk as records of segments
                Said::Segments(some) => {
                    let body = save::encoded(some).unwrap();
                    blocks.block(kind::SEGMENTS, &body).await.unwrap();
                }
                Said::Other(kind, body) => blocks.block(*kind, body).await.unwrap(),
            }
        }
        blocks.end().await.unwrap();
        file
    }

    proptest! {
        #[test]
        fn a_file_that_is_whole_may_say_anything(
            (frame, oldest, entries) in (0..3_u64, any::<u64>(), 0..2_u64),
            (segments, history_bytes) in (any::<u64>(), any::<u64>()),
            (is_state, is_head, counts_right) in any::<(bool, bool, bool)>(),
            noise in prop::collection::vec(any::<u8>(), 0..40),
            said_before in prop::collection::vec(said(), 0..3),
            said_after in prop::collection::vec(said(), 0..3),
        ) {
            let state = match is_state {
                true => StateMachine::new(Settings::default()).snapshot(),
                false => noise.clone(),
            };
            let covered = SnapshotHead {
                last: Some(crate::binding::EntryId {
                    leader_id: crate::binding::LeaderId { term: 1, node_id: 1 },
                    index: 1,
                }),
                members: crate::binding::StoredMembers::default(),
                frame: Index(frame),
            };
            let snapshot = match is_head {
                true => codec::encode_snapshot_head(&covered).unwrap(),
                false => noise,
            };
            let listed = said_before.iter().flat_map(|said| match said {
                Said::Segments(some) => some.clone(),
                Said::Other(..) => Vec::new(),
            });
            let (listed, bytes) = listed
                .fold((0, 0_u64), |(n, sum), segment| (n + 1, sum.wrapping_add(segment.2)));
            let head = Head {
                made: 0,
                node: String::new(),
                timeline: None,
                snapshot,
                frame,
                oldest,
                entries,
                state_bytes: state.len() as u64,
                state_crc: crc32fast::hash(&state),
                segments: if counts_right { listed } else { segments },
                history_bytes: if counts_right { bytes } else { history_bytes },
            };
            let mut all = said_before;
            all.push(Said::Other(kind::STATE, state));
            all.extend(said_after);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let dir = tempfile::tempdir().unwrap();
            runtime.block_on(async {
                let file = file(&head, &all).await;
                let inspected = snapshot_inspect(&file[..]).await;
                let founded = found_from_snapshot(dir.path(), "n", &file[..]).await;
                // what founds a cluster is at least what can be looked at
                prop_assert!(inspected.is_ok() || founded.is_err());
                prop_assert_eq!(dir.path().join("node").exists(), founded.is_ok());
                Ok(())
            })?;
        }
    }
}
