use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidings_store::SegmentDigest;
use tidings_timeline::StateView;
use tokio::io::AsyncWrite;

use super::{
    Head, PIECE_BYTES, SEGMENTS_PER_BLOCK, SnapshotFileError, SnapshotInfo, blocking,
    blocks::{BlockWriter, kind},
};
use crate::{
    codec::{self, SnapshotHead},
    error::chain,
    machine::Machine,
    peers::SegmentRecord,
    pinned::Pinned,
    replica::Replica,
};

/// Whether the history goes along with the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveHistory {
    /// All of it that is kept.
    #[default]
    Included,
    /// The state alone.
    LeftOut,
}

/// The state at one entry, and the history up to there.
struct Captured {
    head: SnapshotHead,
    state: Vec<u8>,
    view: Arc<StateView>,
    history: Pinned,
}

impl Replica {
    /// Writes the state of this server, and the history, as one file: as of what it has applied now.
    /// The files of the history stay until it is done, whatever retention removes.
    ///
    /// # Errors
    ///
    /// When the writer fails, when the history is damaged, and when the server has stopped. What was
    /// written is then no snapshot: it has no end.
    pub async fn snapshot_save<W>(
        &self,
        writer: W,
        history: SaveHistory,
    ) -> Result<SnapshotInfo, SnapshotFileError>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let Captured {
            head,
            state,
            view,
            history: pinned,
        } = self.capture().await?;
        let digests = match history {
            SaveHistory::Included => pinned.with(|pinned| pinned.digests()).await?,
            SaveHistory::LeftOut => Vec::new(),
        };
        let frame = head.frame.get();
        let (state, state_crc) = blocking(move || {
            let crc = crc32fast::hash(&state);
            Ok((state, crc))
        })
        .await?;
        let head = Head {
            made: self.now().as_unix_micros(),
            node: self.node_name().to_owned(),
            timeline: view.timeline.map(|timeline| timeline.0),
            snapshot: codec::encode_snapshot_head(&head)?,
            frame,
            oldest: digests.first().map_or(frame + 1, |first| first.first.get()),
            entries: view.entries_len() as u64,
            state_bytes: state.len() as u64,
            state_crc,
            segments: digests.len() as u64,
            history_bytes: digests.iter().map(|segment| segment.bytes).sum(),
        };
        let bytes = write(writer, &head, &digests, &state, &pinned).await?;
        tracing::info!(frame, bytes, "snapshot saved");
        Ok(head.info(bytes)?)
    }

    async fn capture(&self) -> Result<Captured, SnapshotFileError> {
        let captured =
            self.raft()
                .with_state_machine(|machine: &mut Machine| -> BoxFuture<'_, Captured> {
                    let (head, state, view, history) = machine.capture();
                    let history = Pinned::new(history);
                    Box::pin(async move {
                        Captured {
                            head,
                            state,
                            view,
                            history,
                        }
                    })
                });
        captured.await.map_err(|error| SnapshotFileError::Stopped {
            reason: chain(&error),
        })
    }
}

async fn write<W: AsyncWrite + Unpin + Send>(
    writer: W,
    head: &Head,
    digests: &[SegmentDigest],
    state: &[u8],
    pinned: &Pinned,
) -> Result<u64, SnapshotFileError> {
    let failed = SnapshotFileError::Write;
    let mut blocks = BlockWriter::begin(writer).await.map_err(failed)?;
    blocks
        .block(kind::HEAD, &encoded(head)?)
        .await
        .map_err(failed)?;
    for some in digests.chunks(SEGMENTS_PER_BLOCK) {
        let records: Vec<SegmentRecord> = some.iter().map(Into::into).collect();
        let body = encoded(&records)?;
        blocks.block(kind::SEGMENTS, &body).await.map_err(failed)?;
    }
    for piece in state.chunks(PIECE_BYTES) {
        blocks.block(kind::STATE, piece).await.map_err(failed)?;
    }
    for segment in digests {
        let first = segment.first;
        pinned.with(move |pinned| pinned.check(first)).await?;
        let mut offset = 0;
        while offset < segment.bytes {
            let bytes = (segment.bytes - offset).min(PIECE_BYTES as u64);
            let read = pinned.with(move |pinned| pinned.read(first, offset, bytes as usize));
            let piece = read.await?;
            blocks.block(kind::LINES, &piece).await.map_err(failed)?;
            offset += bytes;
        }
    }
    blocks.end().await.map_err(failed)
}

pub(super) fn encoded<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, SnapshotFileError> {
    postcard::to_extend(value, Vec::new())
        .map_err(|error| SnapshotFileError::Write(std::io::Error::other(error)))
}
