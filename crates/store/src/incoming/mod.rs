//! A state and a history that another server sends: gathered beside what is there, checked, and put
//! in its place as a whole.
//!
//! ```text
//!            begin(offer)            write(…) until nothing is missing           install
//! offer ──▶ what is missing ──▶ part ──▶ every line checked ──▶ segment + index ──▶ history
//!             │ equal here: linked, not copied                                    snapshots
//!             └ come before: kept, also over a restart
//! ```
//! The other server is not believed: a segment counts once each of its lines is a frame under the
//! index that follows, and all of them together are what was offered.

mod install;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidings_event::Index;
use tidings_host::fs::{self, File, FileExt as _, MetadataExt as _};
use tracing::{debug, warn};

use self::install::{Install, remove_dir};
pub(crate) use self::install::{finish, underway};
use crate::disk;
use crate::error::StoreError;
use crate::history::index_file::{self, Footer, IndexEntry, encode_head, index_bytes};
use crate::history::segments::read_footer;
use crate::history::{SegmentDigest, oldest, pin, recovery};
use crate::layout::{DiskName, HISTORY_FOLDER, INCOMING_FOLDER};
use crate::snapshots;

/// Segments in one offer: with segments of 64 MiB, 16 TiB of history.
pub const OFFER_SEGMENTS_MAX: usize = 256 * 1024;
/// Bytes of a state: what fits into memory twice on a server that holds it at all.
const STATE_BYTES_MAX: u64 = 16 << 30;
/// A segment is smaller than this: offsets in it are 32 bits wide.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;
/// Read at a time while a file is checked.
const SCAN_BUFFER_BYTES: usize = 256 * 1024;

/// What another server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// Bytes of the state.
    pub state_bytes: u64,
    /// Their CRC-32.
    pub state_crc: u32,
    /// The frame that state and history end at.
    pub frame: Index,
    /// The history, oldest first: contiguous, and ends at `frame`. Empty when nothing of it is kept.
    pub segments: Vec<SegmentDigest>,
}

/// One file of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IncomingFile {
    /// The state.
    State,
    /// The lines of the segment that begins at this frame.
    Segment(Index),
}

/// A file of which something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub file: IncomingFile,
    /// What is there already, from its beginning.
    pub from: u64,
}

/// Why something was not taken. What was there before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The offer makes no sense.
    #[error("the offered snapshot makes no sense: {what}")]
    Offer {
        /// What is wrong with it.
        what: String,
    },
    /// A piece came that is not the one that is missing next.
    #[error("{bytes} bytes of {file:?} came for byte {offset}, which is not what is missing")]
    Piece {
        /// The file.
        file: IncomingFile,
        /// Where they were to go.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// A file came whole and is not what was offered. It is fetched again from its beginning.
    #[error("{file:?} was damaged on its way or where it came from: {what}")]
    Content {
        /// The file.
        file: IncomingFile,
        /// What is wrong with it.
        what: String,
    },
    /// Something has not come yet.
    #[error("{file:?} has not come yet")]
    Incomplete {
        /// The file.
        file: IncomingFile,
    },
    /// The disk failed.
    #[error("cannot keep what another server sends")]
    Store(#[from] StoreError),
}

/// What has come of one file.
#[derive(Debug)]
struct Part {
    bytes: u64,
    bytes_max: u64,
    file: Option<File>,
}

/// What another server sends, in the folder `incoming` of a data directory. Calls block.
#[derive(Debug)]
pub struct Incoming {
    data_dir: PathBuf,
    offer: Option<SnapshotOffer>,
    /// What is not whole yet.
    missing: BTreeMap<IncomingFile, Part>,
}

impl Incoming {
    /// What was begun in `data_dir` before, or nothing.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            offer: None,
            missing: BTreeMap::new(),
        }
    }

    /// Takes an offer in place of an earlier one. What has come already and what the own history has
    /// is not missing.
    ///
    /// # Errors
    ///
    /// [`IncomingError::Offer`] and [`IncomingError::Store`].
    pub fn begin(&mut self, offer: SnapshotOffer) -> Result<Vec<Missing>, IncomingError> {
        check_offer(&offer)?;
        self.offer = None;
        self.missing.clear();
        disk::create_dir(&self.staged())?;
        self.remove_others(&offer)?;
        for segment in &offer.segments {
            let file = IncomingFile::Segment(segment.first);
            if let Some(part) = self.look_for(segment)? {
                self.missing.insert(file, part);
            }
        }
        let state = self.state_path(&offer);
        let part = Part::open(&state, offer.state_bytes)?;
        if part.bytes < offer.state_bytes || check_state(&state, &offer).is_err() {
            self.missing.insert(IncomingFile::State, part);
        }
        self.offer = Some(offer);
        // What came whole before a crash and was not checked.
        let whole: Vec<IncomingFile> = self
            .missing
            .iter()
            .filter(|(_, part)| part.bytes == part.bytes_max)
            .map(|(file, _)| *file)
            .collect();
        for file in whole {
            if let Err(error) = self.complete(file) {
                debug!(error = %error, "fetched again");
            }
        }
        Ok(self
            .missing
            .iter()
            .map(|(file, part)| Missing {
                file: *file,
                from: part.bytes,
            })
            .collect())
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        let missing = self.missing.values();
        missing.map(|part| part.bytes_max - part.bytes).sum()
    }

    /// Writes what follows of a file. `true` when the file is whole by this, and was found to be what
    /// was offered.
    ///
    /// # Errors
    ///
    /// [`IncomingError`]; after [`IncomingError::Content`] the file is missing from its beginning.
    pub fn write(
        &mut self,
        file: IncomingFile,
        offset: u64,
        bytes: &[u8],
    ) -> Result<bool, IncomingError> {
        let refused = IncomingError::Piece {
            file,
            offset,
            bytes: bytes.len(),
        };
        let path = self.part_path(file)?;
        let Some(part) = self.missing.get_mut(&file) else {
            return Err(refused);
        };
        if part.bytes != offset || bytes.len() as u64 > part.bytes_max - part.bytes {
            return Err(refused);
        }
        let open = match part.file.take() {
            Some(open) => open,
            None => disk::open_or_create(&path)?,
        };
        open.write_all_at(bytes, offset)
            .map_err(StoreError::io("write", &path))?;
        part.file = Some(open);
        part.bytes += bytes.len() as u64;
        if part.bytes < part.bytes_max {
            return Ok(false);
        }
        self.complete(file)?;
        Ok(true)
    }

    /// The state, once it has come.
    ///
    /// # Errors
    ///
    /// [`IncomingError::Incomplete`], [`IncomingError::Content`] and [`IncomingError::Store`].
    pub fn state(&self) -> Result<Bytes, IncomingError> {
        let file = IncomingFile::State;
        let Some(offer) = &self.offer else {
            return Err(IncomingError::Incomplete { file });
        };
        if self.missing.contains_key(&file) {
            return Err(IncomingError::Incomplete { file });
        }
        let path = self.state_path(offer);
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        if crc32fast::hash(&bytes) != offer.state_crc {
            let what = "its checksum does not match".to_owned();
            return Err(IncomingError::Content { file, what });
        }
        Ok(bytes.into())
    }

    /// Makes everything ready to be installed. `active_bytes` is what the state says about the segment
    /// that is being written: so many bytes are in it, or none.
    ///
    /// # Errors
    ///
    /// [`IncomingError::Incomplete`] while something is missing, [`IncomingError::Offer`] when the
    /// history ends elsewhere than the state says, and [`IncomingError::Store`].
    pub fn prepare(&mut self, active_bytes: u64) -> Result<(), IncomingError> {
        if let Some(file) = self.missing.keys().next() {
            return Err(IncomingError::Incomplete { file: *file });
        }
        let Some(offer) = &self.offer else {
            let file = IncomingFile::State;
            return Err(IncomingError::Incomplete { file });
        };
        let staged = self.staged();
        let next = offer.frame.get() + 1;
        let first = offer.segments.first().map_or(next, |s| s.first.get());
        match offer.segments.last() {
            Some(last) if active_bytes > 0 && last.bytes != active_bytes => {
                return Err(IncomingError::Offer {
                    what: format!(
                        "its newest segment has {} bytes, and {active_bytes} by its state",
                        last.bytes
                    ),
                });
            }
            Some(last) => self.end_with(last, active_bytes == 0)?,
            // Nothing of the history is kept: it begins after the state.
            None => {
                let (lines, index) = self.segment_paths(next);
                disk::replace(&lines, &[])?;
                disk::replace(&index, &[&encode_head(next)])?;
            }
        }
        oldest::write(&staged, first)?;
        Ok(disk::sync_dir(&staged)?)
    }

    /// Puts everything in its place: the history, and the state as the snapshot that covers the log up
    /// to `index`. A crash leaves the old whole, or the next [`crate::DataDir::open`] goes on.
    ///
    /// # Errors
    ///
    /// [`IncomingError::Incomplete`] before [`Incoming::prepare`], and [`IncomingError::Store`]: then
    /// a start finds out which of the two it is.
    pub fn install(&mut self, index: u64, meta: &[u8], state: &[u8]) -> Result<(), IncomingError> {
        let Some(offer) = self.offer.take() else {
            let file = IncomingFile::State;
            return Err(IncomingError::Incomplete { file });
        };
        let folder = self.folder();
        let path = folder.join(DiskName::Snapshot(index).file_name());
        snapshots::write_file(&path, index, offer.frame, meta, state)?;
        let frame = offer.frame;
        install::decide(&self.data_dir, Install { index, frame })?;
        Ok(install::finish(&self.data_dir)?)
    }

    /// Whether anything was gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !fs::exists(&self.folder())
    }

    /// Removes all that was gathered.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn discard(&mut self) -> Result<(), StoreError> {
        self.offer = None;
        self.missing.clear();
        remove_dir(&self.folder())
    }

    /// Checks a file that has come whole, and makes it what it is to be.
    fn complete(&mut self, file: IncomingFile) -> Result<(), IncomingError> {
        let Some(offer) = &self.offer else {
            return Err(IncomingError::Incomplete { file });
        };
        let path = self.part_path(file)?;
        let checked = match file {
            IncomingFile::State => check_state(&path, offer),
            IncomingFile::Segment(first) => {
                match offer.segments.iter().find(|s| s.first == first) {
                    Some(segment) => self.complete_segment(segment, &path),
                    None => return Err(IncomingError::Incomplete { file }),
                }
            }
        };
        if checked.is_ok() {
            self.missing.remove(&file);
            return checked;
        }
        // Not what was offered; or what was read well may not be on the disk, and never will be: a flush
        // that failed is not made good by the next.
        if let Some(part) = self.missing.get_mut(&file) {
            part.bytes = 0;
            part.file = None;
        }
        match disk::remove_file(&path) {
            Err(error) if matches!(checked, Err(IncomingError::Content { .. })) => {
                Err(error.into())
            }
            _ => checked,
        }
    }

    /// Reads every line, makes the index of them, and compares it with what was offered.
    fn complete_segment(&self, segment: &SegmentDigest, part: &Path) -> Result<(), IncomingError> {
        let first = segment.first.get();
        let file = File::open(part).map_err(StoreError::io("open", part))?;
        file.sync_all().map_err(StoreError::io("sync", part))?;
        let mut reader = BufReader::with_capacity(SCAN_BUFFER_BYTES, file);
        let recovered = recovery::recover_lines(first, &[], &mut reader)
            .map_err(StoreError::io("read", part))?;
        let entries = &recovered.entries;
        let found = SegmentDigest {
            count: entries.len() as u64,
            bytes: recovered.bytes,
            index_crc: pin::index_crc(first, entries),
            ..*segment
        };
        if recovered.fault.is_some() || found != *segment {
            let what = recovered.fault.unwrap_or_else(|| {
                format!(
                    "it has {} frames in {} bytes and checksum {:08x}, offered were {} in {} and {:08x}",
                    found.count, found.bytes, found.index_crc,
                    segment.count, segment.bytes, segment.index_crc
                )
            });
            let file = IncomingFile::Segment(segment.first);
            return Err(IncomingError::Content { file, what });
        }
        let (lines, index) = self.segment_paths(first);
        fs::rename(part, &lines).map_err(StoreError::io("rename", part))?;
        // Last: whoever finds a footer may rely on the lines.
        write_index(&index, first, entries, Some(segment.footer()))?;
        Ok(())
    }

    /// What has come of a segment; `None` when it is there, whole.
    fn look_for(&self, segment: &SegmentDigest) -> Result<Option<Part>, StoreError> {
        let first = segment.first.get();
        let (lines, index) = self.segment_paths(first);
        let part = self.staged().join(DiskName::HistoryPart(first).file_name());
        if fs::metadata(&lines).is_ok_and(|found| found.nlink() > 1) {
            // A file of the own history, which a restart may have cut since: linked anew.
            disk::remove_file(&index)?;
            disk::remove_file(&lines)?;
        }
        if is_whole(segment, &lines, &index) {
            return Ok(None);
        }
        disk::remove_file(&index)?;
        if self.link_own(segment, &lines, &index) {
            disk::remove_file(&part)?;
            return Ok(None);
        }
        // One that was whole is the beginning of what it has become since.
        if fs::exists(&lines) {
            fs::rename(&lines, &part).map_err(StoreError::io("rename", &lines))?;
        }
        Part::open(&part, segment.bytes).map(Some)
    }

    /// Takes a sealed segment of the own history, if it is the same.
    fn link_own(&self, segment: &SegmentDigest, lines: &Path, index: &Path) -> bool {
        let history = self.data_dir.join(HISTORY_FOLDER);
        let own = |name: DiskName| history.join(name.file_name());
        let first = segment.first.get();
        let own_lines = own(DiskName::HistoryLines(first));
        let own_index = own(DiskName::HistoryIndex(first));
        if !is_whole(segment, &own_lines, &own_index) {
            return false;
        }
        let _ = disk::remove_file(lines);
        // Not every file system can; then it is copied like any other.
        let linked = fs::hard_link(&own_lines, lines).and_then(|()| {
            // An index of its own: a start may cut the other.
            fs::copy(&own_index, index)?;
            File::open(index)?.sync_all()
        });
        if let Err(error) = linked {
            debug!(%error, "a segment of the own history cannot be linked");
            let _ = disk::remove_file(lines);
            let _ = disk::remove_file(index);
            return false;
        }
        true
    }

    /// Makes the newest segment one that is sealed, or one that goes on.
    fn end_with(&self, last: &SegmentDigest, sealed: bool) -> Result<(), IncomingError> {
        let first = last.first.get();
        let (_, index) = self.segment_paths(first);
        let bytes = fs::read(&index).map_err(StoreError::io("read", &index))?;
        let (entries, footer) = index_file::decode_sealed(&bytes, first)
            .map_err(|(at, what)| StoreError::damaged(&index, at, what))?;
        if !sealed {
            write_index(&index, first, &entries, None)?;
        } else if footer != last.footer() {
            write_index(&index, first, &entries, Some(last.footer()))?;
        }
        Ok(())
    }

    /// Removes what does not belong to an offer.
    fn remove_others(&self, offer: &SnapshotOffer) -> Result<(), StoreError> {
        let wanted = |first: u64| {
            let found = offer
                .segments
                .binary_search_by_key(&first, |segment| segment.first.get());
            found.is_ok()
        };
        for (name, path) in disk::list(&self.staged(), true)? {
            match DiskName::parse(&name) {
                Some(
                    DiskName::HistoryLines(first)
                    | DiskName::HistoryIndex(first)
                    | DiskName::HistoryPart(first),
                ) if wanted(first) => {}
                _ => disk::remove_file(&path)?,
            }
        }
        let state = self.state_path(offer);
        for (name, path) in disk::list(&self.folder(), true)? {
            if path != state && name != HISTORY_FOLDER {
                match fs::is_dir(&path) {
                    true => remove_dir(&path)?,
                    false => disk::remove_file(&path)?,
                }
            }
        }
        Ok(())
    }

    fn part_path(&self, file: IncomingFile) -> Result<PathBuf, IncomingError> {
        match (file, &self.offer) {
            (IncomingFile::Segment(first), _) => Ok(self
                .staged()
                .join(DiskName::HistoryPart(first.get()).file_name())),
            (IncomingFile::State, Some(offer)) => Ok(self.state_path(offer)),
            (IncomingFile::State, None) => Err(IncomingError::Incomplete { file }),
        }
    }

    fn state_path(&self, offer: &SnapshotOffer) -> PathBuf {
        self.folder().join(format!(
            "{:08x}.{}.state",
            offer.state_crc, offer.state_bytes
        ))
    }

    fn segment_paths(&self, first: u64) -> (PathBuf, PathBuf) {
        let staged = self.staged();
        (
            staged.join(DiskName::HistoryLines(first).file_name()),
            staged.join(DiskName::HistoryIndex(first).file_name()),
        )
    }

    fn folder(&self) -> PathBuf {
        self.data_dir.join(INCOMING_FOLDER)
    }

    fn staged(&self) -> PathBuf {
        self.folder().join(HISTORY_FOLDER)
    }
}

impl Part {
    /// What there is of a file; what is more than it will have is cut off.
    fn open(path: &Path, bytes_max: u64) -> Result<Part, StoreError> {
        let mut bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if bytes > bytes_max {
            disk::open_existing(path)?
                .set_len(bytes_max)
                .map_err(StoreError::io("cut", path))?;
            bytes = bytes_max;
        }
        Ok(Part {
            bytes,
            bytes_max,
            file: None,
        })
    }
}

fn check_offer(offer: &SnapshotOffer) -> Result<(), IncomingError> {
    let refused = |what: String| Err(IncomingError::Offer { what });
    if offer.segments.len() > OFFER_SEGMENTS_MAX {
        let found = offer.segments.len();
        return refused(format!("{found} segments, {OFFER_SEGMENTS_MAX} are taken"));
    }
    if offer.state_bytes == 0 || offer.state_bytes > STATE_BYTES_MAX {
        let bytes = offer.state_bytes;
        return refused(format!(
            "a state of {bytes} bytes, 1 to {STATE_BYTES_MAX} are taken"
        ));
    }
    let Some(end) = offer.frame.get().checked_add(1) else {
        return refused("it ends at the last index that there is".to_owned());
    };
    let mut next = offer.segments.first().map_or(end, |s| s.first.get());
    if next == 0 {
        return refused("it begins at frame 0, which there is none of".to_owned());
    }
    for segment in &offer.segments {
        let first = segment.first;
        if first.get() != next {
            return refused(format!(
                "a segment begins at frame {first}, the one before ends before {next}"
            ));
        }
        if segment.count == 0 || segment.bytes < segment.count || segment.bytes > SEGMENT_BYTES_MAX
        {
            return refused(format!(
                "the segment at frame {first} has {} frames in {} bytes",
                segment.count, segment.bytes
            ));
        }
        next = segment.next().get();
    }
    if next != end {
        return refused(format!(
            "its history ends before frame {next}, its state at {}",
            offer.frame
        ));
    }
    Ok(())
}

/// Whether these are the files of a sealed segment with the content that is wanted. Its lines were
/// checked before its footer was written.
fn is_whole(segment: &SegmentDigest, lines: &Path, index: &Path) -> bool {
    let has_lines = fs::metadata(lines).is_ok_and(|found| found.len() == segment.bytes);
    has_lines && read_footer(index).is_ok_and(|footer| segment.is_content_of(&footer))
}

fn check_state(path: &Path, offer: &SnapshotOffer) -> Result<(), IncomingError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; SCAN_BUFFER_BYTES];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer);
        match read.map_err(StoreError::io("read", path))? {
            0 => break,
            read => crc.update(&buffer[..read]),
        }
    }
    if crc.finalize() == offer.state_crc {
        return Ok(());
    }
    warn!(path = %path.display(), "a state came that is not the one that was offered");
    Err(IncomingError::Content {
        file: IncomingFile::State,
        what: "its checksum does not match".to_owned(),
    })
}

fn write_index(
    path: &Path,
    first: u64,
    entries: &[IndexEntry],
    footer: Option<Footer>,
) -> Result<(), StoreError> {
    let mut bytes = Vec::with_capacity(index_bytes(entries.len()) as usize);
    bytes.extend_from_slice(&encode_head(first));
    entries.iter().for_each(|entry| entry.encode(&mut bytes));
    let tail = footer.map(|footer| footer.encode());
    disk::replace(path, &[&bytes, tail.as_ref().map_or(&[], |tail| &tail[..])])
}
