use bytes::Bytes;
use serde::de::DeserializeOwned;
use tidings_event::Index;
use tidings_store::{OFFER_SEGMENTS_MAX, SegmentDigest};
use tidings_timeline::StateMachine;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Head, STATE_BYTES_MAX, SnapshotFileError, SnapshotInfo, blocking,
    blocks::{BlockReader, BlockWriter, kind},
    save::encoded,
};
use crate::peers::SegmentRecord;

/// Tells what a file holds, and checks all of it.
///
/// # Errors
///
/// When it is no snapshot, is damaged or cut, or is of another version.
pub async fn snapshot_inspect<R>(reader: R) -> Result<SnapshotInfo, SnapshotFileError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut archive = Archive::open(reader, STATE_BYTES_MAX).await?;
    let state = archive.state().await?;
    archive.decode(state).await?;
    while archive.lines().await?.is_some() {}
    archive.info()
}

/// Copies a snapshot without its history: the state alone, which is all that a restore looks at. What is
/// left out is not looked at; [`snapshot_inspect`] checks it.
///
/// # Errors
///
/// When it is no snapshot, or damaged before its history, and when the writer fails.
pub async fn snapshot_without_history<R, W>(reader: R, writer: W) -> Result<(), SnapshotFileError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut archive = Archive::open(reader, STATE_BYTES_MAX).await?;
    let head = Head {
        oldest: archive.head.frame.saturating_add(1),
        segments: 0,
        history_bytes: 0,
        ..archive.head.clone()
    };
    let failed = SnapshotFileError::Write;
    let mut blocks = BlockWriter::begin(writer).await.map_err(failed)?;
    let body = encoded(&head)?;
    blocks.block(kind::HEAD, &body).await.map_err(failed)?;
    let mut left = head.state_bytes;
    while left > 0 {
        let (kind, piece) = archive.next().await?;
        if kind != kind::STATE || piece.is_empty() || piece.len() as u64 > left {
            return Err(archive.blocks.damaged("a part of the state is missing"));
        }
        left -= piece.len() as u64;
        blocks.block(kind, &piece).await.map_err(failed)?;
    }
    blocks.end().await.map_err(failed)?;
    Ok(())
}

/// A file that is read from one end to the other.
pub(super) struct Archive<R> {
    blocks: BlockReader<R>,
    pub head: Head,
    pub segments: Vec<SegmentDigest>,
    /// The first block of the state, which had to be looked at to know that there are no more
    /// segments.
    pending: Option<(u8, Bytes)>,
    /// Which segment the next lines belong to, and where in it.
    segment: usize,
    offset: u64,
}

/// Lines of a segment.
pub(super) struct Lines {
    pub first: Index,
    pub offset: u64,
    pub bytes: Bytes,
}

impl<R: AsyncRead + Unpin + Send> Archive<R> {
    /// Reads what the file holds, and the segments of its history. The state may have so many bytes.
    pub async fn open(reader: R, state_bytes_max: u64) -> Result<Archive<R>, SnapshotFileError> {
        let mut blocks = BlockReader::begin(reader).await?;
        let at = blocks.offset();
        let head: Head = match blocks.block().await? {
            (kind::HEAD, body) => decoded(at, &body)?,
            _ => return Err(blocks.damaged("it does not begin with its head")),
        };
        if head.segments > OFFER_SEGMENTS_MAX as u64 {
            return Err(blocks.damaged(format!(
                "it is said to have {} segments, {OFFER_SEGMENTS_MAX} are read",
                head.segments
            )));
        }
        if head.state_bytes > state_bytes_max {
            return Err(SnapshotFileError::TooLarge {
                bytes: head.state_bytes,
                bytes_max: state_bytes_max,
            });
        }
        let mut segments = Vec::new();
        let pending = loop {
            let at = blocks.offset();
            let (kind, body) = blocks.block().await?;
            if kind != kind::SEGMENTS {
                break Some((kind, body));
            }
            let some: Vec<SegmentRecord> = decoded(at, &body)?;
            segments.extend(some.into_iter().map(SegmentDigest::from));
            if segments.len() as u64 > head.segments {
                return Err(blocks.damaged("it has more segments than its head says"));
            }
        };
        let mut archive = Archive {
            blocks,
            head,
            segments,
            pending,
            segment: 0,
            offset: 0,
        };
        archive.check_head()?;
        Ok(archive)
    }

    fn check_head(&mut self) -> Result<(), SnapshotFileError> {
        let bytes = self
            .segments
            .iter()
            .try_fold(0_u64, |sum, segment| sum.checked_add(segment.bytes));
        let agrees = self.segments.len() as u64 == self.head.segments
            && bytes == Some(self.head.history_bytes)
            && self.head.covered()?.frame.get() == self.head.frame;
        match agrees {
            true => Ok(()),
            false => Err(self.blocks.damaged("its head contradicts what follows")),
        }
    }

    async fn next(&mut self) -> Result<(u8, Bytes), SnapshotFileError> {
        match self.pending.take() {
            Some(block) => Ok(block),
            None => self.blocks.block().await,
        }
    }

    /// The state. To be asked for once, before the lines.
    pub async fn state(&mut self) -> Result<Bytes, SnapshotFileError> {
        // Not set aside before any of it has come.
        let mut state = Vec::new();
        while (state.len() as u64) < self.head.state_bytes {
            match self.next().await? {
                (kind::STATE, piece) if !piece.is_empty() => state.extend_from_slice(&piece),
                _ => return Err(self.blocks.damaged("a part of the state is missing")),
            }
        }
        let is_whole = state.len() as u64 == self.head.state_bytes
            && crc32fast::hash(&state) == self.head.state_crc;
        match is_whole {
            true => Ok(state.into()),
            false => Err(self.blocks.damaged("the state is not what its head says")),
        }
    }

    /// The state, decoded, if it is the one that the head tells of.
    pub async fn decode(&mut self, state: Bytes) -> Result<StateMachine, SnapshotFileError> {
        // A large one takes seconds.
        let timeline = blocking(move || Ok(StateMachine::restore(&state)?)).await?;
        let view = timeline.view();
        let agrees = view.index.get() == self.head.frame
            && view.timeline.map(|id| id.0) == self.head.timeline
            && view.entries_len() as u64 == self.head.entries;
        match agrees {
            true => Ok(timeline),
            false => Err(self
                .blocks
                .damaged("the state is not the one that its head tells of")),
        }
    }

    /// The next lines of the history; `None` after the last, when the end of the file was there and
    /// right.
    pub async fn lines(&mut self) -> Result<Option<Lines>, SnapshotFileError> {
        let (kind, bytes) = self.next().await?;
        let Some(segment) = self.segments.get(self.segment) else {
            return match kind {
                kind::END => Ok(None),
                _ => Err(self.blocks.damaged("more follows than its head says")),
            };
        };
        let left = segment.bytes - self.offset;
        if kind != kind::LINES || bytes.is_empty() || bytes.len() as u64 > left {
            return Err(self.blocks.damaged(format!(
                "{left} bytes of the segment at frame {} are missing",
                segment.first
            )));
        }
        let lines = Lines {
            first: segment.first,
            offset: self.offset,
            bytes,
        };
        self.offset += lines.bytes.len() as u64;
        if self.offset == segment.bytes {
            self.segment += 1;
            self.offset = 0;
        }
        Ok(Some(lines))
    }

    /// What the file holds, once it was read to its end.
    pub fn info(&self) -> Result<SnapshotInfo, SnapshotFileError> {
        Ok(self.head.info(self.blocks.offset())?)
    }
}

fn decoded<T: DeserializeOwned>(offset: u64, body: &[u8]) -> Result<T, SnapshotFileError> {
    postcard::from_bytes(body).map_err(|error| SnapshotFileError::Damaged {
        offset,
        what: format!("a block cannot be decoded ({error})"),
    })
}
