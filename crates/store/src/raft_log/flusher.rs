//! The one thread that writes the Raft log: group commit.
//!
//! ```text
//! append ─▶ queue ─▶ take all ─▶ write (one call) ─▶ fdatasync ─▶ call all `done` in order
//!                       ▲                                                    │
//!                       └────────── what came in meanwhile is the next batch ┘
//! ```
//!
//! The first failed write or sync poisons the log. After a failed `fsync` the kernel may have
//! dropped the dirty pages and report success the next time, so there is no second try: callers
//! get the error, and the next start finds out what is on disk.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidings_host::Instant;
use tidings_host::fs::{self, File, FileExt as _};
use tracing::{debug, error};

use super::RaftLogConfig;
use super::block_writer::BlockWriter;
use super::prepare::{Extension, FIRST_FILL_BYTES, Preparer, fill};
use super::record::{LogId, LogRecord, SEGMENT_HEAD_BYTES, encode_segment_head};
use super::recovery::Segment;
use super::shared::{Done, Op, Shared, Update};
use crate::checked_file::{self, Kind};
use crate::disk::{self, BLOCK_BYTES};
use crate::error::StoreError;
use crate::layout::DiskName;

/// Pieces given to one `pwritev`. Linux: `UIO_MAXIOV` in `include/uapi/linux/uio.h`.
const IO_SLICES_MAX: usize = 1024;
/// A payload piece up to this size is copied beside its header: cheaper than a slice of its own.
const COPY_BYTES_MAX: usize = 1024;

/// The writing half of the log: held by the flusher thread while it works, or by a caller that
/// appends a little to an idle log and saves two changes of threads.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    dir: PathBuf,
    config: RaftLogConfig,
    preparer: Preparer,
    active: Option<Active>,
    /// The generation of the next segment: above all that any file here has borne.
    next_generation: u32,
}

/// The segment that is being written.
struct Active {
    file: Arc<File>,
    path: PathBuf,
    first: u64,
    generation: u32,
    /// Where the next record goes; all before it is on disk.
    end: u64,
    /// Up to here the file holds blocks that were written before. A whole number of them when there
    /// is a writer of blocks.
    filled: u64,
    /// Writes past the page cache; `None` where that cannot be done.
    blocks: Option<BlockWriter>,
}

/// Records of one segment, encoded and not yet written.
#[derive(Default)]
struct Staged {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    offsets: Vec<u32>,
    bytes: u64,
}

enum Piece {
    /// A range of `heads`.
    Head(Range<usize>),
    /// A part of a payload, shared.
    Part(Bytes),
}

/// The thread: works whenever something is queued, until the log is closed and its queue is empty.
pub(crate) fn run(flusher: &Mutex<Flusher>, shared: Arc<Shared>) {
    let ended = Ended(shared);
    while ended.0.wait_for_ops() {
        flusher.lock().work();
    }
}

/// What was taken from the queue and is not answered yet.
///
/// Dropped with something in it only when the work on it panicked: nobody knows then what is on the
/// disk, and nobody waits for an answer that does not come.
struct Taken {
    shared: Arc<Shared>,
    ops: VecDeque<Op>,
    /// Appends that go to the disk together.
    group: VecDeque<(Vec<Arc<LogRecord>>, Done)>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let ops = self.ops.drain(..).filter_map(|op| match op {
            Op::Append { done, .. } => Some(done),
            // Dropping the sender is the answer.
            Op::Truncate { .. } | Op::Purge { .. } => None,
        });
        let group = self.group.drain(..).map(|(_, done)| done);
        for done in group.chain(ops) {
            self.shared
                .set_poison("writing it ended with a panic".to_owned());
            done(Err(io::Error::other("writing the raft log panicked")));
        }
    }
}

/// Nobody waits for a thread that is gone, however it went.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.flusher_ended();
    }
}

impl Flusher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        config: RaftLogConfig,
        preparer: Preparer,
        spares_generation: u32,
    ) -> Result<Self, StoreError> {
        let (active, next_generation) = {
            let state = shared.state.lock();
            let generation = state
                .segments
                .iter()
                .map(|segment| segment.generation)
                .max()
                .unwrap_or_default();
            (
                state
                    .segments
                    .back()
                    .map(|segment| Active::reopen(segment, whole_blocks(&config)))
                    .transpose()?,
                generation.max(spares_generation).saturating_add(1),
            )
        };
        Ok(Self {
            shared,
            dir,
            config,
            preparer,
            active,
            next_generation,
        })
    }

    /// Brings everything queued to the disk. Whoever holds the flusher may call this: operations
    /// leave the queue in order, and only here.
    pub(crate) fn work(&mut self) {
        let mut taken = Taken {
            shared: Arc::clone(&self.shared),
            ops: self.shared.take_ops(),
            group: VecDeque::new(),
        };
        while let Some(op) = taken.ops.pop_front() {
            match op {
                Op::Append { records, done } => taken.group.push_back((records, done)),
                Op::Truncate { from, reply } => {
                    self.commit(&mut taken);
                    let result = self.guard(|this| this.truncate(from));
                    // A caller that is gone needs no answer.
                    let _ = reply.send(result);
                }
                Op::Purge { upto, reply } => {
                    self.commit(&mut taken);
                    let result = self.guard(|this| this.purge(upto));
                    let _ = reply.send(result);
                }
            }
        }
        self.commit(&mut taken);
    }

    /// Ends the thread that prepares space; called when nothing is to be written any more.
    pub(crate) fn end(&mut self) {
        self.preparer.end();
    }

    /// Refuses when poisoned, and poisons on failure.
    fn guard<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(reason) = self.shared.poison() {
            return Err(StoreError::Poisoned { reason });
        }
        let result = work(self);
        if let Err(failure) = &result {
            let reason = as_io_error(failure).to_string();
            error!(reason, "the raft log cannot be written any more");
            self.shared.set_poison(reason);
        }
        result
    }

    /// Brings everything gathered to the disk and answers, in order.
    fn commit(&mut self, taken: &mut Taken) {
        if taken.group.is_empty() {
            return;
        }
        let result = self.guard(|this| {
            this.write(taken.group.iter().flat_map(|(records, _)| records))?;
            this.look_ahead()
        });
        while let Some((_, done)) = taken.group.pop_front() {
            done(match &result {
                Ok(()) => Ok(()),
                Err(failure) => Err(as_io_error(failure)),
            });
        }
    }

    fn write<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Arc<LogRecord>>,
    ) -> Result<(), StoreError> {
        let mut staged = Staged::default();
        for record in records {
            let size = record.encoded_bytes() as u64;
            let full = self.active.as_ref().is_none_or(|active| {
                let at = active.end + staged.bytes;
                at + size > self.config.segment_bytes && at > SEGMENT_HEAD_BYTES as u64
            });
            if full {
                self.flush(&mut staged)?;
                self.roll(record.index, size)?;
            }
            if let Some(active) = &self.active {
                staged.push(record, active);
            }
        }
        self.flush(&mut staged)
    }

    /// Writes what is staged, syncs it, and tells readers.
    fn flush(&mut self, staged: &mut Staged) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if staged.bytes == 0 {
            return Ok(());
        }
        active.reserve(staged.bytes, &self.preparer, &self.config)?;
        let started = Instant::now();
        #[cfg(test)]
        self.shared
            .injected
            .check_write()
            .map_err(StoreError::io("write", &active.path))?;
        match &mut active.blocks {
            Some(blocks) => blocks.write(staged.slices(), staged.bytes as usize, active.end),
            None => staged.write_to(&active.file, active.end, active.filled),
        }
        .map_err(StoreError::io("write", &active.path))?;
        #[cfg(test)]
        self.shared
            .injected
            .check_sync()
            .map_err(StoreError::io("sync", &active.path))?;
        match &active.blocks {
            Some(blocks) => blocks.sync(),
            None => active.file.sync_data(),
        }
        .map_err(StoreError::io("sync", &active.path))?;
        let took = started.elapsed();
        #[cfg(test)]
        let took = self.shared.injected.sync_took(took);
        self.shared.state.lock().pace.note_sync(took);
        active.end += staged.bytes;
        self.shared.update(Update::Flushed {
            offsets: std::mem::take(&mut staged.offsets),
            end: active.end as u32,
        });
        *staged = Staged::default();
        Ok(())
    }

    /// Ends the active segment (all of it is on disk) and begins one at `first`.
    ///
    /// The header is on disk before the name is, and the name before any record: a segment with a
    /// bad header is therefore always damage, and only the last one can have a torn tail.
    fn roll(&mut self, first: u64, record_bytes: u64) -> Result<(), StoreError> {
        self.settle()?;
        let path = self.dir.join(DiskName::RaftSegment(first).file_name());
        let (temporary, filled) = match self.preparer.take_spare() {
            Some(spare) => spare,
            None => (path.with_extension("tmp"), 0),
        };
        let file = disk::open_or_create(&temporary)?;
        let generation = self.next_generation;
        self.next_generation = generation.checked_add(1).ok_or(StoreError::TooLarge {
            what: "the number of segments",
            bytes: u64::from(generation),
            limit: u64::from(u32::MAX),
        })?;
        let whole_blocks = whole_blocks(&self.config);
        let mut wanted = (SEGMENT_HEAD_BYTES as u64 + record_bytes)
            .max(FIRST_FILL_BYTES.min(self.config.segment_bytes))
            .max(filled);
        if whole_blocks {
            wanted = wanted.next_multiple_of(BLOCK_BYTES);
        }
        let create = || -> io::Result<()> {
            if filled < wanted {
                fill(&file, filled, wanted)?;
            }
            file.write_all_at(&encode_segment_head(generation, first), 0)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        create().map_err(StoreError::io("create", &path))?;
        disk::sync_dir(&self.dir)?;
        debug!(path = %path.display(), "raft log segment begun");
        let file = Arc::new(file);
        let end = SEGMENT_HEAD_BYTES as u64;
        self.active = Some(Active {
            blocks: Active::block_writer(whole_blocks, &path, end)?,
            file: Arc::clone(&file),
            path: path.clone(),
            first,
            generation,
            end,
            filled: wanted,
        });
        self.shared.update(Update::Rolled(Segment {
            first,
            generation,
            file,
            path,
            offsets: Vec::new(),
            end: SEGMENT_HEAD_BYTES as u32,
        }));
        Ok(())
    }

    /// Has space prepared when half of what there is has been used.
    fn look_ahead(&mut self) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        active.note_extension(&self.preparer, false)?;
        let full = self.config.segment_bytes;
        if active.filled < full && active.end > active.filled / 2 {
            let to = (active.filled * 2).min(full);
            self.preparer.begin_extend(&active.path, active.filled, to);
        } else if active.filled >= full && active.end > full / 2 {
            self.preparer.begin_spare(full);
        }
        Ok(())
    }

    /// Waits until nobody else writes to the active segment.
    fn settle(&mut self) -> Result<(), StoreError> {
        match &mut self.active {
            Some(active) => active.note_extension(&self.preparer, true),
            None => Ok(()),
        }
    }

    /// Cuts off all records from `from` on, so that they never come back.
    ///
    /// What is to be done is written down first and crossed out last; a crash between is finished
    /// at the next start.
    fn truncate(&mut self, from: u64) -> Result<(), StoreError> {
        self.settle()?;
        let marker = self.dir.join(DiskName::RaftTruncating.file_name());
        checked_file::write(&marker, Kind::Truncating, &from.to_le_bytes())?;
        let beyond = |segment: &Segment| (segment.first >= from).then(|| segment.path.clone());
        while let Some(path) = self.shared.with_last_segment(beyond).flatten() {
            disk::remove_file(&path)?;
            disk::sync_dir(&self.dir)?;
            self.shared.update(Update::DroppedLast);
        }
        let whole_blocks = whole_blocks(&self.config);
        self.active = self
            .shared
            .with_last_segment(|segment| Active::reopen(segment, whole_blocks))
            .transpose()?;
        let cut = |segment: &Segment| (segment.next() > from).then(|| segment.span(from, from).0);
        if let Some(cut) = self.shared.with_last_segment(cut).flatten()
            && let Some(active) = &mut self.active
        {
            let end = u64::from(cut);
            disk::write_zeros(&active.file, end, active.end - end)
                .and_then(|()| active.file.sync_data())
                .map_err(StoreError::io("cut", &active.path))?;
            active.end = end;
            active.blocks = Active::block_writer(whole_blocks, &active.path, end)?;
            self.shared.update(Update::Cut { from, end: cut });
        }
        disk::remove_file(&marker)?;
        disk::sync_dir(&self.dir)
    }

    /// Forgets all records up to `upto`; removes or recycles segments that hold no others.
    fn purge(&mut self, upto: LogId) -> Result<(), StoreError> {
        self.settle()?;
        let marker = self.dir.join(DiskName::RaftPurged.file_name());
        checked_file::write(&marker, Kind::Purged, &upto.encode())?;
        let index = upto.index;
        let gone = self.shared.take_purged(upto);
        if gone.is_empty() {
            return Ok(());
        }
        for segment in &gone {
            if self
                .active
                .as_ref()
                .is_some_and(|active| active.first == segment.first)
            {
                self.active = None;
            }
            let bytes = segment.file.metadata().map_or(0, |metadata| metadata.len());
            if !self
                .preparer
                .recycle(&segment.path, bytes, self.config.segment_bytes)?
            {
                disk::remove_file(&segment.path)?;
            }
        }
        debug!(index, segments = gone.len(), "raft log purged");
        disk::sync_dir(&self.dir)
    }
}

impl Active {
    fn reopen(segment: &Segment, whole_blocks: bool) -> Result<Self, StoreError> {
        let metadata = segment
            .file
            .metadata()
            .map_err(StoreError::io("open", &segment.path))?;
        let mut filled = metadata.len();
        if whole_blocks && filled % BLOCK_BYTES > 0 {
            let to = filled.next_multiple_of(BLOCK_BYTES);
            fill(&segment.file, filled, to).map_err(StoreError::io("extend", &segment.path))?;
            filled = to;
        }
        let end = u64::from(segment.end);
        Ok(Self {
            blocks: Self::block_writer(whole_blocks, &segment.path, end)?,
            file: Arc::clone(&segment.file),
            path: segment.path.clone(),
            first: segment.first,
            generation: segment.generation,
            end,
            filled,
        })
    }

    fn block_writer(
        whole_blocks: bool,
        path: &Path,
        end: u64,
    ) -> Result<Option<BlockWriter>, StoreError> {
        if !whole_blocks {
            return Ok(None);
        }
        BlockWriter::open(path, end).map_err(StoreError::io("open", path))
    }

    /// Takes note of space that was prepared. What found no room is tried again at need.
    ///
    /// # Errors
    ///
    /// When it was written and not synced: it is the file of our records, and what the disk has lost
    /// of it nobody knows.
    fn note_extension(&mut self, preparer: &Preparer, wait: bool) -> Result<(), StoreError> {
        match preparer.take_extended(wait) {
            Some(Extension::Filled(filled)) => {
                self.filled = self.filled.max(filled);
                Ok(())
            }
            Some(Extension::Unsynced(source)) => Err(StoreError::io("sync", &self.path)(source)),
            Some(Extension::NotWritten) | None => Ok(()),
        }
    }

    /// Makes sure that `bytes` more are filled: records never go where zeros may still be written.
    fn reserve(
        &mut self,
        bytes: u64,
        preparer: &Preparer,
        config: &RaftLogConfig,
    ) -> Result<(), StoreError> {
        let mut needed = self.end + bytes;
        if self.blocks.is_some() {
            needed = needed.next_multiple_of(BLOCK_BYTES);
        }
        if needed <= self.filled {
            return Ok(());
        }
        self.note_extension(preparer, true)?;
        if needed > self.filled {
            let to = (self.filled * 2).min(config.segment_bytes).max(needed);
            fill(&self.file, self.filled, to).map_err(StoreError::io("extend", &self.path))?;
            self.filled = to;
        }
        Ok(())
    }
}

impl Staged {
    fn push(&mut self, record: &LogRecord, active: &Active) {
        // A segment ends below 4 GiB: the configuration is checked, a record's size as well.
        self.offsets.push((active.end + self.bytes) as u32);
        self.bytes += record.encoded_bytes() as u64;
        let start = self.heads.len();
        record.encode_head(active.generation, active.end as u32, &mut self.heads);
        self.note_head(start);
        for part in &record.parts {
            if part.len() <= COPY_BYTES_MAX {
                let start = self.heads.len();
                self.heads.extend_from_slice(part);
                self.note_head(start);
            } else {
                self.pieces.push(Piece::Part(part.clone()));
            }
        }
    }

    /// Adds what was written to `heads` since `start`, to the last piece when they touch.
    fn note_head(&mut self, start: usize) {
        let end = self.heads.len();
        match self.pieces.last_mut() {
            Some(Piece::Head(range)) if range.end == start => range.end = end,
            _ => self.pieces.push(Piece::Head(start..end)),
        }
    }

    /// What is staged, in order.
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Head(range) => &self.heads[range.clone()],
            Piece::Part(part) => &part[..],
        })
    }

    /// Writes at `offset`, and zeros behind up to the end of the block, as far as the file is
    /// filled: of a block that is written in part and not in memory, the rest would be read first.
    fn write_to(&self, file: &File, mut offset: u64, filled: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.slices().map(IoSlice::new).collect();
        let end = offset + self.bytes;
        let rest_of_block = end.next_multiple_of(BLOCK_BYTES).min(filled) - end;
        slices.push(IoSlice::new(
            &disk::block_of_zeros()[..rest_of_block as usize],
        ));
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(IO_SLICES_MAX);
            let written = match fs::write_vectored_at(file, &rest[..count], offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => written,
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }
}

/// Whether segments end with a block, as those of any sensible size do.
fn whole_blocks(config: &RaftLogConfig) -> bool {
    config.segment_bytes.is_multiple_of(BLOCK_BYTES)
}

/// The failure for one of several callers: kind and text are kept.
fn as_io_error(failure: &StoreError) -> io::Error {
    let (kind, text) = match failure {
        StoreError::Io { source, .. } => (source.kind(), format!("{failure}: {source}")),
        other => (io::ErrorKind::Other, other.to_string()),
    };
    io::Error::new(kind, text)
}
