//! The history: frames on disk, as the very lines that are streamed.
//!
//! ```text
//! sealed, never changed (synced in the background)     active
//! ┌──────────────┐ ┌──────────────┐ ┌──────────────┐   ┌───────────┐
//! │ 1.ndjson     │ │ 4711.ndjson  │ │ 9302.ndjson  │   │ 15000.nd… │◀─ append, cut_after
//! │ 1.idx        │ │ 4711.idx     │ │ 9302.idx     │   │ 15000.idx │
//! └──────────────┘ └──────────────┘ └──────────────┘   └───────────┘
//!   ▲ retain unlinks from here            seal moves this border ▲
//! ```
//! Segments are contiguous; each is named by the index of its first frame. When to seal and what to
//! retain is decided by the timeline, alike on all servers, so that sealed segments are equal
//! everywhere. Readers ([`HistoryFiles`]) go on while all of this happens.

mod buffers;
pub(crate) mod index_file;
pub(crate) mod oldest;
pub(crate) mod pin;
mod reader;
pub(crate) mod recovery;
pub(crate) mod segments;
mod write_back;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tidings_event::{Index, Timestamp};
use tidings_host::Instant;
use tidings_host::fs::{self, File, FileExt as _};
use tidings_timeline::FrameBatch;
use tracing::info;

use self::index_file::{Footer, IndexEntry, index_bytes};
use self::pin::Pins;
pub use self::pin::{PinnedHistory, SegmentDigest};
pub use self::reader::HistoryFiles;
use self::reader::{Active, Sealed, Table};
use self::segments::{
    check_follows, create_segment, durable_count, find_segments, looks_sealed, open_active,
    open_sealed, short,
};
pub use self::write_back::WriteBack;
use self::write_back::{Lines, WRITE_BACK_BYTES};
use crate::disk;
use crate::error::StoreError;
use crate::layout::DiskName;

/// Sealed segments that may be on their way to the disk at the same time; who seals one more waits
/// for the oldest. With segments of 64 MiB, a disk that is this far behind needs the pause.
const PENDING_SEALS_MAX: usize = 4;
/// A segment is smaller than this: offsets in it are 32 bits wide.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// How much is checked when the history is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerifyOnStart {
    /// The newest segment, and of all others sizes, headers and footers.
    #[default]
    Tail,
    /// The checksum of every line and of every index.
    All,
}

/// How to open a [`History`].
#[derive(Debug, Clone, Default)]
pub struct HistoryConfig {
    /// How much is checked.
    pub verify: VerifyOnStart,
    /// Frames up to here were synced (the snapshot covers them): a history that ends before is
    /// refused, and nothing in it is changed. What follows can be made again from the Raft log, so
    /// segments that begin later are not read, and removed by [`History::cut_after`], or by
    /// what is appended or sealed before that. `None` when nothing is known: then all but the newest segment
    /// must be whole.
    pub durable_to: Option<Index>,
}

/// What opening has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryReport {
    /// The oldest frame; one above the newest when there is none.
    pub oldest: Index,
    /// The newest frame; [`Index::ZERO`] when there never was one.
    pub newest: Index,
    /// Segments, with the one that is being written.
    pub segments: usize,
    /// Bytes of all lines.
    pub bytes: u64,
    /// What was cut off the newest segment.
    pub cut: Option<HistoryCut>,
    /// Frames whose index entries were made anew from their lines.
    pub reindexed: usize,
}

/// The end of the newest segment that was not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryCut {
    /// The segment.
    pub path: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
    /// What was found there.
    pub what: String,
}

/// One segment of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first frame.
    pub first: Index,
    /// Its last frame; the one before `first` when it is empty.
    pub last: Index,
    /// Bytes of its lines.
    pub bytes: u64,
    /// When its first frame was made: the time of the batch; after a restart, for a segment that
    /// was not sealed yet, the time that the frame bears.
    pub first_time: Timestamp,
    /// When its last frame was made: the time of the batch; after a restart, for a segment that
    /// was not sealed yet, the time at which it was last written.
    pub last_time: Timestamp,
    /// Whether it is complete.
    pub sealed: bool,
    /// Its lines.
    pub path: PathBuf,
}

/// The one writer of the history. Calls block on the disk, but append does not wait for it.
#[derive(Debug)]
pub struct History {
    dir: PathBuf,
    files: Arc<HistoryFiles>,
    lines: Arc<Lines>,
    index: Arc<File>,
    /// Where the next line goes.
    bytes: u64,
    /// Up to where somebody brings or has brought the lines to the disk.
    written_back: u64,
    /// The index that the next frame must bear.
    next: u64,
    first: u64,
    scratch: Vec<u8>,
    /// Segments that are complete and not yet synced, oldest first.
    pending: Vec<Arc<PendingSeal>>,
    /// Segments on disk that begin after what is durable, to be removed by the cut that follows.
    leftover: Vec<u64>,
    /// Indexes of segments whose lines are gone: of ones that retention was removing, once that is
    /// known.
    orphans: Vec<PathBuf>,
    /// Whether the file says where the history begins, and was right when it was opened.
    noted: bool,
    pins: Arc<Pins>,
}

impl History {
    /// Opens the history in `dir` (and creates it, beginning at index 1).
    ///
    /// The end of the newest segment is cut where it is not whole; its index is made anew where
    /// entries are missing. Both happen after everything was checked.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] and [`StoreError::Missing`] for faults that a crash cannot explain,
    /// [`StoreError::HistoryShort`] when frames that were synced are gone; nothing is changed then.
    /// [`StoreError::Io`] for the rest.
    pub fn open(dir: &Path, config: HistoryConfig) -> Result<(Self, HistoryReport), StoreError> {
        disk::create_dir(dir)?;
        let (mut found, mut orphans) = find_segments(dir, true, config.durable_to)?;
        let noted = oldest::check(dir, &found, config.durable_to)?;
        let durable_to = config.durable_to.unwrap_or_default();
        let leftover: Vec<u64> = found
            .split_off(durable_count(&found, config.durable_to))
            .iter()
            .map(|pair| pair.first)
            .collect();
        let started = Instant::now();
        let mut sealed: Vec<Sealed> = Vec::new();
        let mut active = None;
        let newest = found.len().saturating_sub(1);
        for (position, pair) in found.iter().enumerate() {
            check_follows(pair, sealed.last(), dir)?;
            if position == newest && (!leftover.is_empty() || !looks_sealed(pair)) {
                active = Some(pair);
            } else {
                sealed.push(open_sealed(pair, config.verify)?);
                if config.verify == VerifyOnStart::All {
                    info!(segment = position + 1, of = found.len(), elapsed = ?started.elapsed(), "history segment checked");
                }
            }
        }
        let first = match active {
            Some(pair) => pair.first,
            None => sealed.last().map_or(1, Sealed::next),
        };
        let mut opened = match active {
            Some(pair) => open_active(pair, durable_to, dir)?,
            None if durable_to.get() >= first => {
                return Err(short(dir, first - 1, durable_to));
            }
            None => create_segment(dir, first)?,
        };
        // A crash may have left the index of a segment that was just begun, and not its lines: it
        // belongs to the segment that was begun anew under this name.
        let of_active = dir.join(DiskName::HistoryIndex(first).file_name());
        orphans.retain(|path| *path != of_active);
        if noted.is_none() {
            let oldest = sealed.first().map_or(first, |segment| segment.first);
            oldest::write(dir, oldest)?;
        }
        let bytes = opened.active.bytes;
        let next = opened.active.next();
        let table = Table {
            sealed: sealed.into(),
            active: std::mem::take(&mut opened.active),
        };
        let mut history = Self {
            dir: dir.to_owned(),
            files: Arc::new(HistoryFiles::new(dir, table)),
            lines: Arc::new(Lines::new(opened.lines)),
            index: Arc::new(opened.index),
            bytes,
            written_back: bytes,
            next,
            first,
            scratch: Vec::new(),
            pending: Vec::new(),
            leftover,
            orphans,
            noted: noted.is_some(),
            pins: Arc::default(),
        };
        if noted.is_some() {
            history.remove_orphans()?;
        }
        let segments = history.segments();
        let report = HistoryReport {
            oldest: segments
                .first()
                .map_or(Index(first), |segment| segment.first),
            newest: Index(next - 1),
            segments: segments.len(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            cut: opened.cut,
            reindexed: opened.reindexed,
        };
        Ok((history, report))
    }

    /// What readers use; they see appended frames as soon as [`History::append`] returns.
    #[must_use]
    pub fn reader(&self) -> Arc<HistoryFiles> {
        Arc::clone(&self.files)
    }

    /// The newest frame; [`Index::ZERO`] when there never was one.
    #[must_use]
    pub fn newest(&self) -> Index {
        Index(self.next - 1)
    }

    /// Appends frames that follow the newest one. They are in the page cache when this returns:
    /// they survive the process, and a power failure once [`History::sync`] or [`History::seal`]
    /// has returned.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfOrder`], [`StoreError::TooLarge`] when the segment would reach 4 GiB,
    /// [`StoreError::Io`]; the history is what it was before then.
    pub fn append(&mut self, batch: &FrameBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        if batch.first.get() != self.next {
            return Err(StoreError::OutOfOrder {
                expected: self.next,
                got: batch.first.get(),
            });
        }
        let bytes_after = self.bytes + batch.bytes.len() as u64;
        if bytes_after > SEGMENT_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "a history segment",
                bytes: bytes_after,
                limit: SEGMENT_BYTES_MAX,
            });
        }
        self.remove_leftover()?;
        let entries: Vec<IndexEntry> = (0..batch.len())
            .map(|at| IndexEntry {
                offset: (self.bytes + batch.start(at) as u64) as u32,
                crc: batch.crcs[at],
                digest: batch.digests[at],
            })
            .collect();
        self.scratch.clear();
        entries
            .iter()
            .for_each(|entry| entry.encode(&mut self.scratch));
        let index_end = index_bytes((self.next - self.first) as usize);
        let failed = |source, file: DiskName| {
            let path = self.files.path(file);
            StoreError::io("write", &path)(source)
        };
        let first = self.first;
        let written = self
            .lines
            .file()
            .write_all_at(&batch.bytes, self.bytes)
            .map_err(|source| failed(source, DiskName::HistoryLines(first)))
            .and_then(|()| {
                self.index
                    .write_all_at(&self.scratch, index_end)
                    .map_err(|source| failed(source, DiskName::HistoryIndex(first)))
            });
        if let Err(error) = written {
            // A full disk leaves part of a line. Nobody reads it and the next append writes over
            // it; cutting it off only keeps the file clean should there be no next one.
            let _ = self.lines.file().set_len(self.bytes);
            let _ = self.index.set_len(index_end);
            return Err(error);
        }
        self.bytes = bytes_after;
        self.next += batch.len() as u64;
        self.files.change_table(|table| {
            let active = &mut table.active;
            if active.entries.is_empty() {
                active.first_time = batch.time;
            }
            active.last_time = batch.time;
            active.entries.extend_from_slice(&entries);
            active.bytes = bytes_after;
        });
        Ok(())
    }

    /// Lines that have gathered and are to be brought to the disk now, on another thread while
    /// appending goes on: so they do not come there all at once when the segment is sealed. `None`
    /// while there are few, or others are on their way.
    pub fn write_back(&mut self) -> Option<WriteBack> {
        if self.bytes < self.written_back + WRITE_BACK_BYTES {
            return None;
        }
        let path = self.files.path(DiskName::HistoryLines(self.first));
        let write_back = self.lines.begin_write_back(path)?;
        self.written_back = self.bytes;
        Some(write_back)
    }

    /// Brings everything appended to the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]: what was appended since the last sync may be lost in a power failure,
    /// and calling again proves nothing.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.unsynced().sync()?;
        self.pending.clear();
        Ok(())
    }

    /// All that was written and may not be on the disk yet, to be synced on another thread while
    /// appending goes on.
    #[must_use]
    pub fn unsynced(&self) -> UnsyncedFiles {
        UnsyncedFiles {
            dir: self.dir.clone(),
            sealed: self.pending.clone(),
            lines: Arc::clone(&self.lines),
            index: Arc::clone(&self.index),
            path: self.files.path(DiskName::HistoryLines(self.first)),
        }
    }

    /// Completes the segment that is being written and begins the next; whoever appends does not
    /// wait for the disk. What is left to do, to be done on another thread, is returned; a sync that
    /// comes first does it too. An empty segment stays as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn seal(&mut self) -> Result<Option<Arc<PendingSeal>>, StoreError> {
        let count = self.next - self.first;
        if count == 0 {
            return Ok(None);
        }
        self.remove_leftover()?;
        self.limit_pending()?;
        let index_path = self.files.path(DiskName::HistoryIndex(self.first));
        let (first_time, last_time, index_crc) = self.files.with_table(|table| {
            (
                table.active.first_time,
                table.active.last_time,
                pin::index_crc(self.first, &table.active.entries),
            )
        });
        let footer = Footer {
            count,
            bytes: self.bytes,
            first_time,
            last_time,
            index_crc,
        };
        let next = create_segment(&self.dir, self.next).inspect_err(|_| {
            // As if it had not been tried.
            let _ = self.remove_segment(self.next);
        })?;
        let pending = Arc::new(PendingSeal {
            dir: self.dir.clone(),
            files: Arc::clone(&self.files),
            first: self.first,
            lines: Arc::clone(&self.lines),
            index: Arc::clone(&self.index),
            index_path,
            index_end: index_bytes(count as usize),
            footer,
            done: AtomicBool::new(false),
            outcome: Mutex::new(None),
            #[cfg(test)]
            fails: AtomicBool::new(false),
        });
        let sealed = Sealed {
            first: self.first,
            count,
            bytes: self.bytes,
            first_time,
            last_time,
        };
        self.files.seal_active(sealed, next.active);
        info!(
            first = self.first,
            last = self.next - 1,
            bytes = self.bytes,
            "history segment sealed"
        );
        self.use_segment(next.lines, next.index, self.next, 0);
        self.pending.push(Arc::clone(&pending));
        Ok(Some(pending))
    }

    /// Forgets seals that have got to the disk, and waits for the oldest when there are too many.
    fn limit_pending(&mut self) -> Result<(), StoreError> {
        self.pending.retain(|pending| !pending.is_done());
        if self.pending.len() >= PENDING_SEALS_MAX {
            self.pending[0].complete()?;
            self.pending.remove(0);
        }
        Ok(())
    }

    fn remove_orphans(&mut self) -> Result<(), StoreError> {
        for path in std::mem::take(&mut self.orphans) {
            disk::remove_file(&path)?;
        }
        Ok(())
    }

    /// Checks that the history goes back to `oldest`, the oldest frame that the state says is kept.
    ///
    /// Where a file says where the history begins, that was checked when it was opened, and holds: the
    /// state may not have come to what retention has removed already.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] when it begins later. [`StoreError::Io`] when what removed segments
    /// have left cannot be removed.
    pub fn check_oldest(&mut self, oldest: Index) -> Result<(), StoreError> {
        let first = self.files.with_table(Table::oldest);
        if self.noted || first <= oldest.get() {
            self.remove_orphans()?;
            // What a removal that was interrupted has left.
            return self.retain(oldest);
        }
        Err(oldest::begins_late(&self.dir, oldest.get(), first))
    }

    /// All segments up to `to`, whose files stay while the value is there, whatever retention removes.
    #[must_use]
    pub fn pin(&self, to: Index) -> PinnedHistory {
        PinnedHistory::new(&self.dir, &self.files, &self.pending, &self.pins, to)
    }

    /// Takes leave of the folder, which another history has taken over: nothing in it is changed any
    /// more.
    pub fn abandon(&self) {
        self.pins.abandon();
    }

    /// Removes segments that hold only frames before `oldest`; never the one that is being written.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; readers do not see the frames any more in any case.
    pub fn retain(&mut self, oldest: Index) -> Result<(), StoreError> {
        let gone = self.files.change_table(|table| {
            let count = table
                .sealed
                .iter()
                .take_while(|s| s.next() <= oldest.get())
                .count();
            table.sealed.drain(..count).collect::<Vec<_>>()
        });
        if !gone.is_empty() {
            oldest::write(&self.dir, self.files.with_table(Table::oldest))?;
        }
        for segment in &gone {
            if self.pins.puts_off(segment.first) {
                // Somebody copies it: it goes afterwards.
                self.files.forget(segment.first);
            } else {
                self.remove_segment(segment.first)?;
            }
            info!(
                first = segment.first,
                bytes = segment.bytes,
                "history segment dropped by retention"
            );
        }
        Ok(())
    }

    /// Takes the history back to `last`: what follows is removed, to be applied again. When even
    /// the oldest frame is younger, the history begins anew, empty, after `last`.
    ///
    /// # Errors
    ///
    /// [`StoreError::HistoryShort`] when the history ends before `last`; nothing is changed then.
    /// [`StoreError::Io`] and [`StoreError::Damaged`].
    pub fn cut_after(&mut self, last: Index) -> Result<(), StoreError> {
        let keep_to = last.get().checked_add(1).ok_or(StoreError::OutOfOrder {
            expected: self.next,
            got: last.get(),
        })?;
        if keep_to > self.next {
            return Err(short(&self.dir, self.next - 1, last));
        }
        self.remove_leftover()?;
        if keep_to == self.next {
            return Ok(());
        }
        // Sealed segments are about to be opened again.
        for pending in std::mem::take(&mut self.pending) {
            pending.complete()?;
        }
        info!(
            from = self.next - 1,
            to = last.get(),
            "history goes back to the snapshot"
        );
        if keep_to >= self.first {
            return self.cut_active(keep_to);
        }
        // The newest first, each removal durable, so that a crash leaves no hole.
        let mut newest = self.first;
        loop {
            let before = self.files.with_table(|table| table.sealed.back().copied());
            let Some(before) = before else {
                return self.begin_anew(newest, keep_to);
            };
            self.remove_segment(newest)?;
            if before.next() == keep_to {
                return self.begin_at(keep_to);
            }
            if before.first < keep_to {
                return self.reopen(before, keep_to);
            }
            self.files.change_table(|table| table.sealed.pop_back());
            newest = before.first;
        }
    }

    /// All segments, oldest first; the last one is being written.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.files.with_table(|table| {
            let mut segments: Vec<SegmentInfo> = table
                .sealed
                .iter()
                .map(|segment| SegmentInfo {
                    first: Index(segment.first),
                    last: Index(segment.next() - 1),
                    bytes: segment.bytes,
                    first_time: segment.first_time,
                    last_time: segment.last_time,
                    sealed: true,
                    path: self.files.path(DiskName::HistoryLines(segment.first)),
                })
                .collect();
            let active = &table.active;
            segments.push(SegmentInfo {
                first: Index(active.first),
                last: Index(active.next() - 1),
                bytes: active.bytes,
                first_time: active.first_time,
                last_time: active.last_time,
                sealed: false,
                path: self.files.path(DiskName::HistoryLines(active.first)),
            });
            segments
        })
    }

    /// Removes what lies after the durable part, the newest first, so that a crash leaves no hole.
    fn remove_leftover(&mut self) -> Result<(), StoreError> {
        while let Some(&first) = self.leftover.last() {
            self.remove_segment(first)?;
            self.leftover.pop();
        }
        Ok(())
    }

    /// Cuts the segment that is being written, so that its next frame is `next`.
    fn cut_active(&mut self, next: u64) -> Result<(), StoreError> {
        let keep = (next - self.first) as usize;
        let bytes = self.files.change_table(|table| {
            let active = &mut table.active;
            if let Some(entry) = active.entries.get(keep) {
                active.bytes = u64::from(entry.offset);
            }
            active.entries.truncate(keep);
            active.bytes
        });
        let path = self.files.path(DiskName::HistoryLines(self.first));
        self.index
            .set_len(index_bytes(keep))
            .and_then(|()| self.lines.file().set_len(bytes))
            .map_err(StoreError::io("cut", &path))?;
        self.bytes = bytes;
        self.written_back = self.written_back.min(bytes);
        self.next = next;
        Ok(())
    }

    /// Makes a sealed segment, of which only frames before `next` stay, the one that is written.
    fn reopen(&mut self, segment: Sealed, next: u64) -> Result<(), StoreError> {
        let lines_path = self.files.path(DiskName::HistoryLines(segment.first));
        let index_path = self.files.path(DiskName::HistoryIndex(segment.first));
        let (entries, _) = recovery::load_index(&index_path, segment.first)?;
        let lines = disk::open_existing(&lines_path)?;
        let index = disk::open_existing(&index_path)?;
        // Without a footer first: a sealed segment is never shorter than its footer says.
        index
            .set_len(index_bytes(entries.len()))
            .and_then(|()| index.sync_all())
            .map_err(StoreError::io("cut", &index_path))?;
        self.files.forget(segment.first);
        self.files.change_table(|table| {
            table.sealed.pop_back();
            table.active = Active {
                first: segment.first,
                entries,
                bytes: segment.bytes,
                first_time: segment.first_time,
                last_time: segment.last_time,
            };
        });
        self.use_segment(lines, index, segment.first, segment.bytes);
        self.cut_active(next)
    }

    /// Turns the only segment that is left, `only`, into an empty one that begins at `first`.
    ///
    /// Its lines are renamed and then emptied: a crash between leaves a segment whose lines do not
    /// bear the indexes that its name promises, which is cut to nothing at the next start. Were it
    /// removed, a crash would leave an empty folder, which could as well be a lost history.
    fn begin_anew(&mut self, only: u64, first: u64) -> Result<(), StoreError> {
        self.files.forget(only);
        disk::remove_file(&self.files.path(DiskName::HistoryIndex(only)))?;
        disk::sync_dir(&self.dir)?;
        let lines = self.files.path(DiskName::HistoryLines(only));
        fs::rename(&lines, self.files.path(DiskName::HistoryLines(first)))
            .map_err(StoreError::io("rename", &lines))?;
        self.begin_at(first)
    }

    /// Begins an empty segment; the ones after it are gone already.
    fn begin_at(&mut self, first: u64) -> Result<(), StoreError> {
        let opened = create_segment(&self.dir, first)?;
        self.files.forget(first);
        self.files
            .change_table(|table| table.active = opened.active);
        self.use_segment(opened.lines, opened.index, first, 0);
        self.next = first;
        Ok(())
    }

    fn use_segment(&mut self, lines: File, index: File, first: u64, bytes: u64) {
        // What a segment had left that never was is part of this one now.
        let path = self.files.path(DiskName::HistoryIndex(first));
        self.orphans.retain(|orphan| *orphan != path);
        self.lines = Arc::new(Lines::new(lines));
        self.index = Arc::new(index);
        self.first = first;
        self.bytes = bytes;
        self.written_back = bytes;
    }

    fn remove_segment(&self, first: u64) -> Result<(), StoreError> {
        self.files.forget(first);
        remove_segment_files(&self.dir, first)?;
        disk::sync_dir(&self.dir)
    }
}

/// Unlinks a segment, its lines first: an index without lines is known for a leftover. Lines without
/// an index would be damage, so their end is on the disk before.
fn remove_segment_files(dir: &Path, first: u64) -> Result<(), StoreError> {
    disk::remove_file(&dir.join(DiskName::HistoryLines(first).file_name()))?;
    disk::sync_dir(dir)?;
    disk::remove_file(&dir.join(DiskName::HistoryIndex(first).file_name()))
}

/// The files of the segment that was being written at some moment; see [`History::unsynced`].
#[derive(Debug, Clone)]
pub struct UnsyncedFiles {
    dir: PathBuf,
    sealed: Vec<Arc<PendingSeal>>,
    lines: Arc<Lines>,
    index: Arc<File>,
    path: PathBuf,
}

impl UnsyncedFiles {
    /// Brings all that was appended to them before this call to the disk. Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`], as [`History::sync`].
    pub fn sync(&self) -> Result<(), StoreError> {
        for sealed in &self.sealed {
            sealed.complete()?;
        }
        self.lines
            .sync_data()
            .and_then(|()| self.index.sync_data())
            .map_err(StoreError::io("sync", &self.path))?;
        disk::sync_dir(&self.dir)
    }
}

/// A segment that is complete but for its way to the disk; see [`History::seal`].
///
/// Its footer is written last: whoever finds a footer may rely on the lines and on their index. A segment without one
/// that is not the newest is a seal that was interrupted; it lies after the last snapshot, and is
/// made again from the Raft log.
#[derive(Debug)]
pub struct PendingSeal {
    dir: PathBuf,
    files: Arc<HistoryFiles>,
    first: u64,
    lines: Arc<Lines>,
    index: Arc<File>,
    index_path: PathBuf,
    index_end: u64,
    footer: Footer,
    /// Whether it is on the disk; told without waiting for a sync that is under way.
    done: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    #[cfg(test)]
    fails: AtomicBool,
}

/// What completing a segment came to: the failure by kind and text, to be told again.
type Outcome = Result<(), (ErrorKind, String)>;

impl PendingSeal {
    /// Brings the segment to the disk. Blocks; does nothing the second time, and gives the same
    /// answer: a sync that succeeds after one that failed proves nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]: the segment may be lost in a power failure, and no snapshot may rely on
    /// it.
    pub fn complete(&self) -> Result<(), StoreError> {
        let mut outcome = self.outcome.lock();
        let outcome = outcome.get_or_insert_with(|| {
            let written = self.write();
            if written.is_ok() {
                self.files.unpin_index(self.first);
                self.done.store(true, Ordering::Release);
            }
            written.map_err(|error| (error.kind(), error.to_string()))
        });
        outcome.clone().map_err(|(kind, text)| {
            StoreError::io("sync", &self.index_path)(std::io::Error::new(kind, text))
        })
    }

    fn write(&self) -> std::io::Result<()> {
        #[cfg(test)]
        if self.fails.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("medium error"));
        }
        self.lines.sync_all()?;
        // Apart from the footer: of what one sync brings to the disk a power failure may leave the end
        // without the beginning.
        self.index.sync_all()?;
        self.index
            .write_all_at(&self.footer.encode(), self.index_end)?;
        self.index.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use tidings_event::{Limits, NewEvent};
    use tidings_timeline::{Batch, CommandGroup, Settings, Stamper, StateMachine};

    use super::*;

    /// A history in which each frame is sealed by itself, and how its seals went.
    fn sealed(dir: &Path, frames: u64) -> (History, Vec<Arc<PendingSeal>>) {
        let (mut history, _) = History::open(dir, HistoryConfig::default()).unwrap();
        let mut timeline = StateMachine::new(Settings::default());
        let mut stamper = Stamper::new("n1", "test", 1);
        let seals = (0..frames).map(|_| {
            let event = br#"{"Topic":"Job","Type":"T","Key":"k"}"#;
            let mut group = CommandGroup::new();
            group
                .publish(
                    &[NewEvent::parse(event).unwrap()],
                    &mut stamper,
                    &Limits::default(),
                )
                .unwrap();
            let batch = Batch {
                time: Timestamp::from_unix_micros(0),
                groups: vec![group.into_bytes()],
            };
            let applied = timeline.apply(&batch).unwrap();
            history.append(&applied.frames.unwrap()).unwrap();
            history.seal().unwrap().unwrap()
        });
        let seals = seals.collect();
        (history, seals)
    }

    #[test]
    fn a_seal_that_failed_is_never_believed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut history, seals) = sealed(dir.path(), 1);
        seals[0].fails.store(true, Ordering::SeqCst);
        let error = seals[0].complete().unwrap_err();
        assert!(matches!(error, StoreError::Io { action: "sync", .. }));
        seals[0].fails.store(false, Ordering::SeqCst);
        assert!(seals[0].complete().is_err());
        assert!(history.sync().is_err());
        assert!(history.unsynced().sync().is_err());
    }

    #[test]
    fn lines_are_written_back_as_they_gather() {
        let dir = tempfile::tempdir().unwrap();
        let (mut history, _) = History::open(dir.path(), HistoryConfig::default()).unwrap();
        let mut timeline = StateMachine::new(Settings::default());
        let mut stamper = Stamper::new("n1", "test", 1);
        let payload = "x".repeat(100_000);
        let event =
            format!(r#"{{"Topic":"Job","Type":"T","Key":"k","Payload":{{"Text":"{payload}"}}}}"#);
        let mut append = |history: &mut History| {
            let mut group = CommandGroup::new();
            let events = [NewEvent::parse(event.as_bytes()).unwrap()];
            group
                .publish(&events, &mut stamper, &Limits::default())
                .unwrap();
            let batch = Batch {
                time: Timestamp::from_unix_micros(0),
                groups: vec![group.into_bytes()],
            };
            let frames = timeline.apply(&batch).unwrap().frames.unwrap();
            history.append(&frames).unwrap();
        };
        let mut gathered = |history: &mut History| {
            let from = history.bytes;
            loop {
                append(history);
                let due = history.bytes - from >= WRITE_BACK_BYTES;
                match (history.write_back(), due) {
                    (None, false) => {}
                    (found, _) => return found.filter(|_| due),
                }
            }
        };
        let first = gathered(&mut history).unwrap();
        assert!(history.write_back().is_none(), "nothing has gathered");
        assert!(gathered(&mut history).is_none(), "the first is under way");
        first.complete().unwrap();
        history.write_back().unwrap().complete().unwrap();
        let last = gathered(&mut history).unwrap();
        let sealed = history.seal().unwrap().unwrap();
        assert!(gathered(&mut history).is_some(), "of another segment");
        last.complete().unwrap();
        sealed.complete().unwrap();
    }

    #[test]
    fn seals_are_pending_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (history, seals) = sealed(dir.path(), PENDING_SEALS_MAX as u64 + 2);
        let done: Vec<bool> = seals.iter().map(|seal| seal.is_done()).collect();
        assert_eq!(done[..3], [true, true, false]);
        assert_eq!(history.pending.len(), PENDING_SEALS_MAX);
        // One that is being completed can be asked all the same.
        let _under_way = seals[3].outcome.lock();
        assert!(!seals[3].is_done());
    }
}
