//! What the files of a segment hold, whatever happened to them.
//!
//! The newest segment is written without syncing. After a power failure any part of what was not
//! synced may be missing, so it is cut to its last whole line; what is lost that way is applied
//! again from the Raft log. A sealed segment was synced: a fault in one is damage.

use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use tidings_event::{FrameView, Timestamp};
use tidings_host::fs::{self, File};

use super::index_file::{
    FOOTER_BYTES, Footer, IndexEntry, decode_active, decode_sealed, index_bytes,
};
use crate::disk;
use crate::error::StoreError;

/// A line is never longer: far above the largest transaction.
pub(crate) const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Read at a time while scanning.
const SCAN_BUFFER_BYTES: usize = 256 * 1024;
/// How often a scan reports how far it has come, in bytes.
const PROGRESS_BYTES: u64 = 16 * 1024 * 1024;

/// The good part of an unsealed segment.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) entries: Vec<IndexEntry>,
    /// Where the last whole line ends.
    pub(crate) bytes: u64,
    /// How many of the entries stood in the index; the others were made from their lines.
    pub(crate) indexed: usize,
    /// The time that the first frame bears.
    pub(crate) first_time: Option<Timestamp>,
    /// What stands behind the last good line.
    pub(crate) fault: Option<String>,
}

/// Reads an unsealed segment as far as it is whole. Lines that the index does not know count when
/// they are frames in the one form in which frames are written, under the index that follows.
pub(crate) fn recover_lines(
    first: u64,
    index: &[IndexEntry],
    lines: &mut impl BufRead,
) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut line = Vec::new();
    let fault = loop {
        line.clear();
        lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break None;
        }
        if line.last() != Some(&b'\n') {
            break Some("the last line is not whole".to_owned());
        }
        let Ok(offset) = u32::try_from(recovered.bytes) else {
            break Some("the segment is larger than 4 GiB".to_owned());
        };
        let crc = crc32fast::hash(&line);
        let ordinal = recovered.entries.len();
        let entry = match index.get(ordinal) {
            Some(entry) if entry.offset != offset => {
                break Some("a line does not begin where the index says".to_owned());
            }
            Some(entry) if entry.crc != crc => {
                break Some("a line's checksum does not match".to_owned());
            }
            Some(entry) => {
                recovered.indexed = ordinal + 1;
                *entry
            }
            None => match read_frame(&line, first + ordinal as u64) {
                Ok(frame) => IndexEntry {
                    offset,
                    crc,
                    digest: frame.digest(),
                },
                Err(what) => break Some(what),
            },
        };
        if ordinal == 0 {
            recovered.first_time = read_frame(&line, first).ok().as_ref().and_then(time_of);
        }
        recovered.entries.push(entry);
        recovered.bytes += line.len() as u64;
    };
    recovered.fault = fault;
    if recovered.fault.is_none() && index.len() > recovered.entries.len() {
        recovered.fault = Some("the index has frames that the segment has not".to_owned());
    }
    Ok(recovered)
}

/// Recovers the segment in these files; a missing index is made anew, and a footer is passed over:
/// of a segment that was sealed after the last snapshot, only the frames count.
pub(crate) fn recover_files(
    lines: &Path,
    index: &Path,
    first: u64,
) -> Result<(Recovered, u64), StoreError> {
    let mut stored = disk::read_optional(index)?.unwrap_or_default();
    if Footer::decode(&stored, stored.len() as u64).is_ok() {
        stored.truncate(stored.len() - FOOTER_BYTES);
    }
    let file = File::open(lines).map_err(StoreError::io("open", lines))?;
    let bytes = file
        .metadata()
        .map_err(StoreError::io("open", lines))?
        .len();
    let mut reader = BufReader::with_capacity(SCAN_BUFFER_BYTES, file);
    let mut recovered = recover_lines(first, &decode_active(&stored, first), &mut reader)
        .map_err(StoreError::io("read", lines))?;
    let index_end = index_bytes(recovered.indexed);
    if recovered.fault.is_none() && stored.len() as u64 > index_end {
        recovered.fault = Some("the index ends within an entry".to_owned());
    }
    Ok((recovered, bytes))
}

/// The frame in a line that must bear this index, or what is wrong with it.
fn read_frame(line: &[u8], index: u64) -> Result<FrameView<'_>, String> {
    let frame = FrameView::parse(line)
        .map_err(|error| format!("the line is no frame as tidings writes them ({error})"))?;
    if frame.index().get() != index {
        return Err(format!(
            "the frame bears index {} in place of {index}",
            frame.index()
        ));
    }
    Ok(frame)
}

fn time_of(frame: &FrameView<'_>) -> Option<Timestamp> {
    frame.events().first().map(|event| event.time())
}

/// Loads the checked index of a sealed segment.
pub(crate) fn load_index(path: &Path, first: u64) -> Result<(Vec<IndexEntry>, Footer), StoreError> {
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    decode_sealed(&bytes, first).map_err(|(at, what)| StoreError::damaged(path, at, what))
}

/// Checks every line of a segment against its index. With `parse`, also that each is a frame, bears
/// its index, and has the digest that the index says. `progress` is told of bytes as they are done.
pub(crate) fn check_lines(
    path: &Path,
    first: u64,
    entries: &[IndexEntry],
    bytes: u64,
    parse: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let found = file.metadata().map_err(StoreError::io("open", path))?.len();
    if found != bytes {
        return Err(StoreError::damaged(
            path,
            found.min(bytes),
            format!("the segment has {found} bytes and was sealed with {bytes}"),
        ));
    }
    let mut reader = BufReader::with_capacity(SCAN_BUFFER_BYTES, file);
    let mut line = Vec::new();
    let mut told = 0;
    for (ordinal, entry) in entries.iter().enumerate() {
        let start = u64::from(entry.offset);
        let end = entries
            .get(ordinal + 1)
            .map_or(bytes, |next| u64::from(next.offset));
        let index = first + ordinal as u64;
        line.resize((end - start) as usize, 0);
        reader
            .read_exact(&mut line)
            .map_err(StoreError::io("read", path))?;
        check_line(&line, entry, index, parse)
            .map_err(|what| StoreError::damaged(path, start, format!("frame {index}: {what}")))?;
        if end - told >= PROGRESS_BYTES {
            progress(end - told);
            told = end;
        }
    }
    progress(bytes - told);
    Ok(())
}

fn check_line(line: &[u8], entry: &IndexEntry, index: u64, parse: bool) -> Result<(), String> {
    if crc32fast::hash(line) != entry.crc {
        return Err("the checksum does not match".to_owned());
    }
    if !parse {
        return Ok(());
    }
    if memchr::memchr(b'\n', line) != Some(line.len() - 1) {
        return Err("it is not one line".to_owned());
    }
    if read_frame(line, index)?.digest() != entry.digest {
        return Err("the digest in the index is not that of the frame".to_owned());
    }
    Ok(())
}
