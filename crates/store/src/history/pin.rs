//! The history as it is copied to another server: what its segments hold up to one frame, and their
//! files kept while somebody reads them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidings_event::{Index, Timestamp};
use tidings_host::fs::{File, FileExt as _};
use tracing::warn;

use super::index_file::{Footer, IndexEntry, encode_head};
use super::reader::{HistoryFiles, Sealed};
use super::segments::{Pair, read_footer};
use super::{PendingSeal, recovery, remove_segment_files};
use crate::disk;
use crate::error::StoreError;
use crate::layout::DiskName;

/// What one segment holds, from its first frame on.
///
/// Two segments of one timeline with equal numbers hold equal lines: the checksum covers where each
/// line begins, its own checksum and what it may match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentDigest {
    /// Its first frame.
    pub first: Index,
    /// Frames; at least one.
    pub count: u64,
    /// Bytes of its lines.
    pub bytes: u64,
    /// CRC-32 of the header and the entries of its index.
    pub index_crc: u32,
    /// When its first frame was made; may differ from server to server.
    pub first_time: Timestamp,
    /// When its last frame was made; may differ from server to server.
    pub last_time: Timestamp,
}

impl SegmentDigest {
    /// The frame that follows.
    #[must_use]
    pub fn next(&self) -> Index {
        Index(self.first.get().saturating_add(self.count))
    }

    /// The footer that a sealed segment of this content has.
    pub(crate) fn footer(&self) -> Footer {
        Footer {
            count: self.count,
            bytes: self.bytes,
            first_time: self.first_time,
            last_time: self.last_time,
            index_crc: self.index_crc,
        }
    }

    /// Whether a sealed segment with this footer holds the same lines.
    pub(crate) fn is_content_of(&self, footer: &Footer) -> bool {
        (self.count, self.bytes, self.index_crc) == (footer.count, footer.bytes, footer.index_crc)
    }
}

/// CRC-32 of the header and the entries of an index.
pub(crate) fn index_crc(first: u64, entries: &[IndexEntry]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&encode_head(first));
    let mut raw = Vec::with_capacity(super::index_file::ENTRY_BYTES);
    for entry in entries {
        raw.clear();
        entry.encode(&mut raw);
        crc.update(&raw);
    }
    crc.finalize()
}

/// Who reads files that retention would remove, and what waits for them to end.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    state: Mutex<PinState>,
}

#[derive(Debug, Default)]
struct PinState {
    readers: usize,
    /// Segments that are to go once nobody reads them.
    due: Vec<u64>,
    /// The folder has become another's: nothing in it is removed any more.
    abandoned: bool,
}

impl Pins {
    fn take(self: &Arc<Self>) -> Pin {
        self.state.lock().readers += 1;
        Pin {
            pins: Arc::clone(self),
        }
    }

    /// Whether the removal of a segment waits: then it is remembered.
    pub(crate) fn puts_off(&self, first: u64) -> bool {
        let mut state = self.state.lock();
        if state.readers > 0 {
            state.due.push(first);
        }
        state.readers > 0
    }

    /// What was put off stays: the folder does not belong to this history any more.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.due.clear();
    }
}

/// One reader.
#[derive(Debug)]
struct Pin {
    pins: Arc<Pins>,
}

impl Pin {
    /// Ends the reading; what is to be removed now.
    fn release(&self) -> Vec<u64> {
        let mut state = self.pins.state.lock();
        state.readers -= 1;
        if state.readers > 0 || state.abandoned {
            return Vec::new();
        }
        std::mem::take(&mut state.due)
    }
}

/// All segments up to one frame, whose files stay until this is dropped. Dropping it may remove
/// files.
#[derive(Debug)]
pub struct PinnedHistory {
    dir: PathBuf,
    to: u64,
    sealed: Vec<Sealed>,
    pending: Vec<Arc<PendingSeal>>,
    /// The beginning of the segment that was being written.
    active: Option<SegmentDigest>,
    /// The file that was read last.
    open: Mutex<Option<(Index, Arc<File>)>>,
    pin: Pin,
}

impl PinnedHistory {
    pub(super) fn new(
        dir: &Path,
        files: &HistoryFiles,
        pending: &[Arc<PendingSeal>],
        pins: &Arc<Pins>,
        to: Index,
    ) -> Self {
        let pin = pins.take();
        let (sealed, active) = files.with_table(|table| {
            let within = table.sealed.iter().take_while(|s| s.first <= to.get());
            let active = &table.active;
            let count = active.entries.len().min(
                usize::try_from((to.get() + 1).saturating_sub(active.first)).unwrap_or(usize::MAX),
            );
            let digest = (count > 0).then(|| SegmentDigest {
                first: Index(active.first),
                count: count as u64,
                bytes: active
                    .entries
                    .get(count)
                    .map_or(active.bytes, |next| u64::from(next.offset)),
                index_crc: index_crc(active.first, &active.entries[..count]),
                first_time: active.first_time,
                last_time: active.last_time,
            });
            (within.copied().collect(), digest)
        });
        Self {
            dir: dir.to_owned(),
            to: to.get(),
            sealed,
            pending: pending.to_vec(),
            active,
            open: Mutex::default(),
            pin,
        }
    }

    /// What each segment holds, up to the frame. Reads a little of each index file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Missing`] and [`StoreError::Io`].
    pub fn digests(&self) -> Result<Vec<SegmentDigest>, StoreError> {
        let mut digests = Vec::with_capacity(self.sealed.len() + 1);
        for segment in &self.sealed {
            digests.push(self.digest(segment)?);
        }
        digests.extend(self.active);
        Ok(digests)
    }

    fn digest(&self, segment: &Sealed) -> Result<SegmentDigest, StoreError> {
        let path = self.path(DiskName::HistoryIndex(segment.first));
        // Its footer may still be on its way to the disk.
        if let Some(pending) = self.pending.iter().find(|p| p.first == segment.first) {
            pending.complete()?;
        }
        let mut digest = SegmentDigest {
            first: Index(segment.first),
            count: segment.count,
            bytes: segment.bytes,
            index_crc: 0,
            first_time: segment.first_time,
            last_time: segment.last_time,
        };
        if segment.next() <= self.to + 1 {
            digest.index_crc = read_footer(&path)?.index_crc;
            return Ok(digest);
        }
        let (entries, _) = recovery::load_index(&path, segment.first)?;
        let count = (self.to + 1 - segment.first) as usize;
        let Some(next) = entries.get(count) else {
            return Err(StoreError::damaged(
                &path,
                0,
                "the index has fewer frames than its segment",
            ));
        };
        digest.count = count as u64;
        digest.bytes = u64::from(next.offset);
        digest.index_crc = index_crc(segment.first, &entries[..count]);
        Ok(digest)
    }

    /// Checks the lines of a sealed segment against its index, before they are passed on: whoever
    /// gets them should not have to find out. What is being written was checked when it was.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`], [`StoreError::Missing`] and [`StoreError::Io`].
    pub fn check(&self, first: Index) -> Result<(), StoreError> {
        if !self.sealed.iter().any(|s| s.first == first.get()) {
            return Ok(());
        }
        let pair = Pair {
            first: first.get(),
            lines: self.path(DiskName::HistoryLines(first.get())),
            index: self.path(DiskName::HistoryIndex(first.get())),
        };
        let (entries, footer) = recovery::load_index(&pair.index, pair.first)?;
        let (lines, bytes) = (&pair.lines, footer.bytes);
        recovery::check_lines(lines, pair.first, &entries, bytes, false, &mut |_| {})
    }

    /// Bytes of the lines of a segment: `bytes` of them, or as many as the file has.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn read(&self, first: Index, offset: u64, bytes: usize) -> Result<Bytes, StoreError> {
        let path = self.path(DiskName::HistoryLines(first.get()));
        let known = self.open.lock().clone();
        let file = match known {
            Some((open, file)) if open == first => file,
            _ => {
                let file = Arc::new(File::open(&path).map_err(StoreError::io("open", &path))?);
                *self.open.lock() = Some((first, Arc::clone(&file)));
                file
            }
        };
        let mut buffer = vec![0; bytes];
        file.read_exact_at(&mut buffer, offset)
            .map_err(StoreError::io("read", &path))?;
        Ok(buffer.into())
    }

    fn path(&self, name: DiskName) -> PathBuf {
        self.dir.join(name.file_name())
    }
}

impl Drop for PinnedHistory {
    fn drop(&mut self) {
        let due = self.pin.release();
        let removed = due
            .iter()
            .try_for_each(|&first| remove_segment_files(&self.dir, first))
            .and_then(|()| match due.is_empty() {
                true => Ok(()),
                false => disk::sync_dir(&self.dir),
            });
        if let Err(error) = removed {
            // The next start finds them, and retention removes them then.
            warn!(%error, "history segments that nobody reads any more were not removed");
        }
    }
}
