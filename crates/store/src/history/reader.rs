//! Reading the history while it is being written and shortened.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tidings_event::{DigestFilter, Index, Timestamp};
use tidings_host::fs::{File, FileExt as _};
use tidings_timeline::{HistoryError, HistoryRead, HistoryReader};

use super::buffers::BufferPool;
use super::index_file::IndexEntry;
use super::recovery::load_index;
use crate::error::StoreError;
use crate::layout::DiskName;

/// Files that are kept open for reading.
const OPEN_FILES_MAX: usize = 128;
/// Entries of sealed indexes that are kept in memory (16 bytes each: 64 MiB).
const CACHED_ENTRIES_MAX: usize = 4 * 1024 * 1024;
/// Frames looked at in one read of the segment that is being written: its table is locked that long.
const ACTIVE_FRAMES_MAX: usize = 32 * 1024;
/// Unwanted bytes between two wanted lines that are read over rather than skipped by another call.
const GAP_BYTES_MAX: u32 = 8 * 1024;
/// Most bytes, wanted or not, that are read by one call.
const SPAN_BYTES_MAX: u32 = 1024 * 1024;

/// The history's files, for any number of concurrent readers. All calls block on the disk.
#[derive(Debug)]
pub struct HistoryFiles {
    dir: PathBuf,
    table: RwLock<Table>,
    files: Mutex<Recent<File>>,
    indexes: Mutex<Recent<[IndexEntry]>>,
    /// Indexes of sealed segments whose files are not complete yet.
    pinned: Mutex<Vec<(u64, Arc<[IndexEntry]>)>>,
    buffers: BufferPool,
    /// Who is told of damage.
    on_damage: OnceLock<OnDamage>,
}

/// Told, in words, of a file that was found damaged.
struct OnDamage(Box<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for OnDamage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDamage")
    }
}

/// Which segments there are.
#[derive(Debug)]
pub(crate) struct Table {
    /// Oldest first; each begins where the one before ends.
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) active: Active,
}

/// A segment that will not change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    pub(crate) first: u64,
    /// Frames; at least one.
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) first_time: Timestamp,
    pub(crate) last_time: Timestamp,
}

/// The segment that is being written: what of it may be read.
#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(crate) first: u64,
    pub(crate) entries: Vec<IndexEntry>,
    pub(crate) bytes: u64,
    pub(crate) first_time: Timestamp,
    pub(crate) last_time: Timestamp,
}

/// A line that was chosen.
#[derive(Debug, Clone, Copy)]
struct Line {
    offset: u32,
    end: u32,
    crc: u32,
    index: u64,
}

/// What one read takes from a segment.
struct Choice {
    segment: u64,
    lines: Vec<Line>,
    next: u64,
    other_namespaces: bool,
}

impl Sealed {
    pub(crate) fn next(&self) -> u64 {
        self.first + self.count
    }
}

impl Active {
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl Table {
    pub(crate) fn oldest(&self) -> u64 {
        self.sealed
            .front()
            .map_or(self.active.first, |segment| segment.first)
    }
}

impl HistoryReader for HistoryFiles {
    fn oldest(&self) -> Index {
        Index(self.table.read().oldest())
    }

    fn newest(&self) -> Index {
        Index(self.table.read().active.next() - 1)
    }

    fn read(
        &self,
        from: Index,
        bytes_max: usize,
        want: &DigestFilter,
    ) -> Result<HistoryRead, HistoryError> {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        match self.try_read(from.get(), bytes_max, want) {
            // A segment that retention has taken away meanwhile is a gap and nothing worse.
            Err(error) => Err(self.gap(from.get()).unwrap_or_else(|| {
                self.tell_of_damage(&error);
                error
            })),
            read => read,
        }
    }

    fn checksums(&self, from: Index, count_max: usize) -> Result<Vec<u32>, HistoryError> {
        match self.try_checksums(from.get(), count_max) {
            Err(error) => Err(self.gap(from.get()).unwrap_or(error)),
            read => read,
        }
    }
}

impl HistoryFiles {
    pub(crate) fn new(dir: &Path, table: Table) -> Self {
        Self {
            dir: dir.to_owned(),
            table: RwLock::new(table),
            files: Mutex::new(Recent::new(OPEN_FILES_MAX, |_| 1)),
            indexes: Mutex::new(Recent::new(CACHED_ENTRIES_MAX, <[IndexEntry]>::len)),
            pinned: Mutex::default(),
            buffers: BufferPool::default(),
            on_damage: OnceLock::new(),
        }
    }

    /// Has `tell` called, in words, when a read finds a damaged file. Set once.
    pub fn watch_damage(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        // The first one stays.
        let _ = self.on_damage.set(OnDamage(Box::new(tell)));
    }

    fn tell_of_damage(&self, error: &HistoryError) {
        if let (HistoryError::Damaged { .. }, Some(tell)) = (error, self.on_damage.get()) {
            (tell.0)(&error.to_string());
        }
    }

    /// Looks at the table.
    pub(crate) fn with_table<T>(&self, work: impl FnOnce(&Table) -> T) -> T {
        work(&self.table.read())
    }

    /// Changes the table; readers see all of the change or nothing.
    pub(crate) fn change_table<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        work(&mut self.table.write())
    }

    /// Forgets what is known of the files of a segment that is gone or will be changed.
    pub(crate) fn forget(&self, first: u64) {
        self.files.lock().remove(first);
        self.indexes.lock().remove(first);
        self.pinned.lock().retain(|(pinned, _)| *pinned != first);
    }

    /// Turns the segment that is written into a sealed one and begins `next`. The index is kept
    /// until its file is complete: whoever sees the segment finds it.
    pub(crate) fn seal_active(&self, sealed: Sealed, next: Active) {
        let mut table = self.table.write();
        let entries = std::mem::replace(&mut table.active, next).entries;
        self.pinned.lock().push((sealed.first, entries.into()));
        table.sealed.push_back(sealed);
    }

    /// The index file is complete: the index can be forgotten like any other.
    pub(crate) fn unpin_index(&self, first: u64) {
        let mut pinned = self.pinned.lock();
        if let Some(at) = pinned.iter().position(|(pinned, _)| *pinned == first) {
            let (_, entries) = pinned.swap_remove(at);
            self.indexes.lock().insert(first, entries);
        }
    }

    fn gap(&self, from: u64) -> Option<HistoryError> {
        let oldest = self.table.read().oldest();
        (from < oldest).then_some(HistoryError::Gap {
            oldest: Index(oldest),
        })
    }

    fn try_read(
        &self,
        from: u64,
        bytes_max: u32,
        want: &DigestFilter,
    ) -> Result<HistoryRead, HistoryError> {
        let choice = {
            let table = self.table.read();
            let oldest = table.oldest();
            if from < oldest {
                return Err(HistoryError::Gap {
                    oldest: Index(oldest),
                });
            }
            let active = &table.active;
            if from >= active.next() {
                return Ok(HistoryRead {
                    bytes: Bytes::new(),
                    next: Index(from),
                    other_namespaces: false,
                });
            }
            if from >= active.first {
                Ok(choose(
                    active.first,
                    &active.entries,
                    active.bytes,
                    from,
                    bytes_max,
                    want,
                    ACTIVE_FRAMES_MAX,
                ))
            } else {
                let at = table
                    .sealed
                    .partition_point(|segment| segment.next() <= from);
                table
                    .sealed
                    .get(at)
                    .copied()
                    .ok_or(HistoryError::Gap {
                        oldest: Index(oldest),
                    })
                    .map(Err)?
            }
        };
        let choice = match choice {
            Ok(choice) => choice,
            Err(segment) => {
                let entries = self.index(&segment, from)?;
                choose(
                    segment.first,
                    &entries,
                    segment.bytes,
                    from,
                    bytes_max,
                    want,
                    usize::MAX,
                )
            }
        };
        let bytes = self.read_lines(&choice)?;
        Ok(HistoryRead {
            bytes,
            next: Index(choice.next),
            other_namespaces: choice.other_namespaces,
        })
    }

    /// The checksums in the index of the segment that holds `from`.
    fn try_checksums(&self, from: u64, count_max: usize) -> Result<Vec<u32>, HistoryError> {
        let crcs = |first: u64, entries: &[IndexEntry]| {
            let entries = entries.iter().skip((from - first) as usize);
            entries.take(count_max).map(|entry| entry.crc).collect()
        };
        let segment = {
            let table = self.table.read();
            let active = &table.active;
            let oldest = table.oldest();
            if from < oldest {
                return Err(HistoryError::Gap {
                    oldest: Index(oldest),
                });
            }
            if from >= active.first {
                return Ok(crcs(active.first, &active.entries));
            }
            let at = table
                .sealed
                .partition_point(|segment| segment.next() <= from);
            table.sealed.get(at).copied().ok_or(HistoryError::Gap {
                oldest: Index(oldest),
            })?
        };
        let entries = self.index(&segment, from)?;
        Ok(crcs(segment.first, &entries))
    }

    /// The lines that were chosen, checked.
    fn read_lines(&self, choice: &Choice) -> Result<Bytes, HistoryError> {
        let (Some(first), Some(last)) = (choice.lines.first(), choice.lines.last()) else {
            return Ok(Bytes::new());
        };
        let path = self.path(DiskName::HistoryLines(choice.segment));
        let file = self.file(choice.segment, &path)?;
        let wanted: u64 = choice
            .lines
            .iter()
            .map(|line| u64::from(line.end - line.offset))
            .sum();
        if wanted == u64::from(last.end - first.offset) {
            return self
                .read_span(&file, &path, &choice.lines)
                .map(|buffer| buffer.into_bytes());
        }
        let mut bytes = Vec::with_capacity(wanted as usize);
        let mut rest = &choice.lines[..];
        while let Some(first) = rest.first() {
            let together = rest
                .windows(2)
                .take_while(|pair| {
                    pair[1].offset - pair[0].end <= GAP_BYTES_MAX
                        && pair[1].end - first.offset <= SPAN_BYTES_MAX
                })
                .count();
            let (span, behind) = rest.split_at(together + 1);
            let buffer = self.read_span(&file, &path, span)?;
            for line in span {
                let start = (line.offset - first.offset) as usize;
                let end = (line.end - first.offset) as usize;
                bytes.extend_from_slice(&buffer.as_ref()[start..end]);
            }
            rest = behind;
        }
        Ok(bytes.into())
    }

    /// The bytes from the first of these lines to the end of the last; the lines are checked.
    fn read_span(
        &self,
        file: &File,
        path: &Path,
        lines: &[Line],
    ) -> Result<super::buffers::Buffer, HistoryError> {
        let (start, end) = match (lines.first(), lines.last()) {
            (Some(first), Some(last)) => (first.offset, last.end),
            _ => (0, 0),
        };
        let damaged = |line: &Line| HistoryError::Damaged {
            path: path.to_owned(),
            offset: u64::from(line.offset),
            index: Index(line.index),
        };
        let mut buffer = self.buffers.take((end - start) as usize);
        match file.read_exact_at(buffer.as_mut(), u64::from(start)) {
            Ok(()) => {}
            // Shorter than when it was written.
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof && !lines.is_empty() => {
                return Err(damaged(&lines[lines.len() - 1]));
            }
            Err(source) => return Err(read_error(path, source)),
        }
        for line in lines {
            let bytes =
                &buffer.as_ref()[(line.offset - start) as usize..(line.end - start) as usize];
            if crc32fast::hash(bytes) != line.crc {
                return Err(damaged(line));
            }
        }
        Ok(buffer)
    }

    /// The file of a segment, opened once.
    fn file(&self, first: u64, path: &Path) -> Result<Arc<File>, HistoryError> {
        if let Some(file) = self.files.lock().get(first) {
            return Ok(file);
        }
        let file = Arc::new(File::open(path).map_err(|source| read_error(path, source))?);
        self.files.lock().insert(first, Arc::clone(&file));
        Ok(file)
    }

    /// The index of a sealed segment, loaded when it is first needed.
    fn index(&self, segment: &Sealed, from: u64) -> Result<Arc<[IndexEntry]>, HistoryError> {
        if let Some(entries) = self.indexes.lock().get(segment.first) {
            return Ok(entries);
        }
        let pinned = {
            let pinned = self.pinned.lock();
            pinned
                .iter()
                .find(|(first, _)| *first == segment.first)
                .map(|(_, entries)| Arc::clone(entries))
        };
        if let Some(entries) = pinned {
            return Ok(entries);
        }
        let path = self.path(DiskName::HistoryIndex(segment.first));
        let damaged = |offset| HistoryError::Damaged {
            path: path.clone(),
            offset,
            index: Index(from),
        };
        match load_index(&path, segment.first) {
            Ok((entries, footer))
                if footer.count == segment.count && footer.bytes == segment.bytes =>
            {
                let entries: Arc<[IndexEntry]> = entries.into();
                self.indexes
                    .lock()
                    .insert(segment.first, Arc::clone(&entries));
                Ok(entries)
            }
            Ok(_) => Err(damaged(0)),
            Err(StoreError::Io { source, .. }) => Err(read_error(&path, source)),
            Err(StoreError::Damaged { offset, .. }) => Err(damaged(offset)),
            Err(_) => Err(damaged(0)),
        }
    }

    pub(crate) fn path(&self, name: DiskName) -> PathBuf {
        self.dir.join(name.file_name())
    }
}

/// Chooses lines from `from` on: those that may match, up to `bytes_max` but at least one, after
/// looking at `frames_max` frames at most.
fn choose(
    segment: u64,
    entries: &[IndexEntry],
    segment_bytes: u64,
    from: u64,
    bytes_max: u32,
    want: &DigestFilter,
    frames_max: usize,
) -> Choice {
    let start = (from - segment) as usize;
    // A segment is smaller than 4 GiB.
    let end_of = |at: usize| {
        entries
            .get(at + 1)
            .map_or(segment_bytes as u32, |next| next.offset)
    };
    let stop = entries.len().min(start.saturating_add(frames_max));
    let (candidates, everything) = match want {
        DigestFilter::All => {
            let limit = entries[start].offset.saturating_add(bytes_max);
            let fits = entries[start..stop]
                .partition_point(|entry| entry.offset < limit)
                .max(1);
            // The last one begins within the limit; it counts only when it ends there as well.
            let fits = if fits > 1 && end_of(start + fits - 1) > limit {
                fits - 1
            } else {
                fits
            };
            (start..start + fits, true)
        }
        DigestFilter::Any(_) => (start..stop, false),
    };
    let mut choice = Choice {
        segment,
        lines: Vec::with_capacity(if everything { candidates.len() } else { 0 }),
        next: segment + candidates.end as u64,
        other_namespaces: false,
    };
    let mut bytes = 0_u32;
    for at in candidates {
        let entry = entries[at];
        if !everything && !want.may_match(entry.digest) {
            continue;
        }
        let end = end_of(at);
        let index = segment + at as u64;
        bytes = bytes.saturating_add(end - entry.offset);
        if bytes > bytes_max && !choice.lines.is_empty() {
            choice.next = index;
            break;
        }
        choice.other_namespaces |= entry.digest.has_other_namespace();
        choice.lines.push(Line {
            offset: entry.offset,
            end,
            crc: entry.crc,
            index,
        });
    }
    choice
}

fn read_error(path: &Path, source: io::Error) -> HistoryError {
    HistoryError::Read {
        path: path.to_owned(),
        source: Arc::new(source),
    }
}

/// Values by segment, the most recently used ones up to a total weight.
#[derive(Debug)]
struct Recent<T: ?Sized> {
    values: HashMap<u64, (Arc<T>, u64)>,
    weight_of: fn(&T) -> usize,
    weight: usize,
    weight_max: usize,
    clock: u64,
}

impl<T: ?Sized> Recent<T> {
    fn new(weight_max: usize, weight_of: fn(&T) -> usize) -> Self {
        Self {
            values: HashMap::new(),
            weight_of,
            weight: 0,
            weight_max,
            clock: 0,
        }
    }

    fn get(&mut self, key: u64) -> Option<Arc<T>> {
        self.clock += 1;
        let (value, used) = self.values.get_mut(&key)?;
        *used = self.clock;
        Some(Arc::clone(value))
    }

    /// Adds a value and lets go of the longest unused ones. One that is too heavy alone is kept
    /// until the next comes.
    fn insert(&mut self, key: u64, value: Arc<T>) {
        self.remove(key);
        let weight = (self.weight_of)(&value);
        while self.weight + weight > self.weight_max {
            // Few enough values to look at all of them, seldom enough not to matter.
            let oldest = self
                .values
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.remove(oldest);
        }
        self.clock += 1;
        self.weight += weight;
        self.values.insert(key, (value, self.clock));
    }

    fn remove(&mut self, key: u64) {
        if let Some((value, _)) = self.values.remove(&key) {
            self.weight -= (self.weight_of)(&value);
        }
    }
}
