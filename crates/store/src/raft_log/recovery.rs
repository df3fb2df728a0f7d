//! What is in a Raft log's folder after whatever happened to it.
//!
//! A write that was interrupted leaves a torn tail in the last segment; it was never acknowledged,
//! so it is cut off and reported. Everything else that does not fit is damage: nothing is changed
//! and the log is not opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;
use tidings_host::fs::{self, File, FileExt as _};
use tracing::{info, warn};

use super::record::{
    LogId, RECORD_HEAD_BYTES, RecordView, SEGMENT_HEAD_BYTES, decode_segment_head,
};
use crate::checked_file::{self, Kind};
use crate::disk;
use crate::error::StoreError;
use crate::layout::DiskName;

/// A segment as the open log knows it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Index of its first record.
    pub(crate) first: u64,
    /// What its records bear; see the format.
    pub(crate) generation: u32,
    /// Open for reading and writing.
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
    /// Where each record starts.
    pub(crate) offsets: Vec<u32>,
    /// Where the next record goes.
    pub(crate) end: u32,
}

impl Segment {
    /// One past the last index in it.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    /// The bytes of the records `from..to`, which must lie in this segment.
    pub(crate) fn span(&self, from: u64, to: u64) -> (u32, u32) {
        let start = (from - self.first) as usize;
        let stop = (to - self.first) as usize;
        let offset = |at: usize| self.offsets.get(at).copied().unwrap_or(self.end);
        (offset(start), offset(stop))
    }
}

/// Records that were cut off at start because their write was never finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// Where it was cut, in bytes.
    pub offset: u64,
    /// What was found there.
    pub what: String,
}

/// Everything that recovery found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Segment>,
    pub(crate) first: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) torn: Option<TornTail>,
    /// Files that may serve as spare segments, by place.
    pub(crate) spares: Vec<(u8, PathBuf)>,
}

/// What the bytes of one segment hold.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) generation: u32,
    pub(crate) offsets: Vec<u32>,
    pub(crate) end: usize,
    pub(crate) first: Option<LogId>,
    pub(crate) last: Option<LogId>,
    /// What stands at `end` when it is more than unused space.
    pub(crate) tail: Option<Tail>,
}

/// What follows the last good record of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) what: &'static str,
    /// A later record proves that the bytes at the cut were once on disk.
    pub(crate) damage: bool,
    /// Where the last readable remains end: up to here must be overwritten when cutting.
    pub(crate) remains_end: usize,
}

/// Scans a segment of a log: `name_first` is the index in its name.
///
/// # Errors
///
/// Offset and nature of a fault in the header, without which nothing can be said about the rest.
pub(crate) fn scan(bytes: &[u8], name_first: u64) -> Result<Scan, (u64, &'static str)> {
    let (generation, first) = decode_segment_head(bytes)?;
    if first != name_first {
        return Err((16, "the header bears another index than the file's name"));
    }
    let mut scan = Scan {
        generation,
        end: SEGMENT_HEAD_BYTES,
        ..Scan::default()
    };
    let fault = loop {
        match RecordView::parse(&bytes[scan.end..], generation) {
            Ok(record) if first.checked_add(scan.offsets.len() as u64) == Some(record.index) => {
                // Files of a log are smaller than 4 GiB; a foreign one that is not ends here.
                let Ok(offset) = u32::try_from(scan.end) else {
                    break "the segment is too large";
                };
                scan.offsets.push(offset);
                scan.end += record.size;
            }
            Ok(_) => break "a record bears an index that does not follow the one before it",
            Err(what) => break what,
        }
    };
    let id_at = |offset: &u32| {
        RecordView::parse(&bytes[*offset as usize..], generation)
            .ok()
            .map(|record| record.id())
    };
    scan.first = scan.offsets.first().and_then(id_at);
    scan.last = scan.offsets.last().and_then(id_at);
    scan.tail = examine_tail(bytes, &scan, fault);
    Ok(scan)
}

/// Looks for records behind the place where reading stopped.
fn examine_tail(bytes: &[u8], scan: &Scan, what: &'static str) -> Option<Tail> {
    let end = scan.end;
    // Two fields: in a segment that is used again, one may be anything of its earlier life.
    let started = bytes.len() >= end + RECORD_HEAD_BYTES
        && disk::u32_at(bytes, end + 8) == scan.generation
        && (SEGMENT_HEAD_BYTES..=end).contains(&(disk::u32_at(bytes, end + 12) as usize));
    let mut tail = started.then_some(Tail {
        what,
        damage: false,
        remains_end: end + RECORD_HEAD_BYTES,
    });
    // Each record bears the generation eight bytes behind its start.
    let needle = scan.generation.to_le_bytes();
    for found in memmem::find_iter(&bytes[(end + 8).min(bytes.len())..], &needle) {
        let start = end + found;
        let Ok(record) = RecordView::parse(&bytes[start..], scan.generation) else {
            continue;
        };
        let follows = record.index >= scan.last.as_ref().map_or(0, |last| last.index);
        if (record.synced as usize) > start || !follows {
            continue;
        }
        let damage = record.synced as usize > end;
        let tail = tail.get_or_insert(Tail {
            what,
            damage: false,
            remains_end: 0,
        });
        tail.damage |= damage;
        tail.remains_end = tail.remains_end.max(start + record.size);
    }
    tail
}

/// Opens what is in `dir`, finishing what was interrupted and cutting a torn tail. Up to `committed`
/// the log was once on disk.
pub(crate) fn recover(dir: &Path, committed: Option<u64>) -> Result<Recovered, StoreError> {
    let purged = read_purged(dir)?;
    let mut found = Vec::new();
    let mut spares = Vec::new();
    for (name, path) in disk::list(dir, true)? {
        match DiskName::parse(&name) {
            Some(DiskName::RaftSegment(first)) => found.push((first, path)),
            Some(DiskName::RaftSpare(place)) => spares.push((place, path)),
            Some(
                DiskName::RaftVote
                | DiskName::RaftCommitted
                | DiskName::RaftPurged
                | DiskName::RaftTruncating,
            ) => {}
            _ => {
                warn!(path = %path.display(), "a file that is not ours lies in the raft log's folder")
            }
        }
    }
    finish_truncation(dir, &mut found)?;
    finish_purge(dir, &mut found, purged.as_ref())?;

    let mut recovered = Recovered {
        segments: Vec::new(),
        first: None,
        last: None,
        purged,
        torn: None,
        spares,
    };
    let count = found.len();
    let mut torn = None;
    for (position, (first, path)) in found.into_iter().enumerate() {
        torn = recover_segment(&mut recovered, first, path, position + 1 == count)?;
    }
    check_reaches(dir, &recovered, committed)?;
    write_again(&recovered)?;
    if let Some(torn) = torn {
        cut(&mut recovered, torn)?;
    }
    Ok(recovered)
}

/// Refuses a log that ends before an entry that was on disk: what is torn there, or gone, was
/// acknowledged.
fn check_reaches(
    dir: &Path,
    recovered: &Recovered,
    committed: Option<u64>,
) -> Result<(), StoreError> {
    let Some(committed) = committed else {
        return Ok(());
    };
    let purged_next = recovered.purged.as_ref().map_or(0, |id| id.index + 1);
    let (path, offset, next) = match recovered.segments.last() {
        Some(segment) => (
            segment.path.clone(),
            u64::from(segment.end),
            segment.next().max(purged_next),
        ),
        None => {
            let first = DiskName::RaftSegment(purged_next).file_name();
            (dir.join(first), 0, purged_next)
        }
    };
    if committed < next {
        return Ok(());
    }
    Err(StoreError::damaged(
        &path,
        offset,
        ends_early(next, committed),
    ))
}

/// What is wrong with a log whose next record would be `next`.
pub(crate) fn ends_early(next: u64, committed: u64) -> String {
    format!(
        "the log ends before record {next}, and the records up to {committed} were acknowledged"
    )
}

/// Brings once more to the disk what may not be there: the records of the last flush.
///
/// They were read just now, but perhaps from the page cache alone: of a flush that failed the system
/// forgets what it did not write, so that the next one proves nothing. From here on they count.
fn write_again(recovered: &Recovered) -> Result<(), StoreError> {
    let Some(segment) = recovered.segments.last() else {
        return Ok(());
    };
    let Some(&last) = segment.offsets.last() else {
        return Ok(());
    };
    let end = segment.end;
    let read = |from: u32| {
        let mut bytes = vec![0; (end - from) as usize];
        segment
            .file
            .read_exact_at(&mut bytes, u64::from(from))
            .map_err(StoreError::io("read", &segment.path))?;
        Ok(bytes)
    };
    let record = read(last)?;
    let synced = RecordView::parse(&record, segment.generation)
        .map_err(|what| StoreError::damaged(&segment.path, u64::from(last), what))?
        .synced;
    let from = synced.min(last);
    segment
        .file
        .write_all_at(&read(from)?, u64::from(from))
        .and_then(|()| segment.file.sync_data())
        .map_err(StoreError::io("write", &segment.path))
}

/// The unfinished end of the last segment.
struct TornEnd {
    /// Up to here it must be overwritten.
    stop: u64,
    what: &'static str,
}

/// Overwrites the unfinished end of the last segment.
fn cut(recovered: &mut Recovered, torn: TornEnd) -> Result<(), StoreError> {
    let Some(segment) = recovered.segments.last() else {
        return Ok(());
    };
    let (path, offset) = (&segment.path, u64::from(segment.end));
    disk::write_zeros(&segment.file, offset, torn.stop - offset)
        .and_then(|()| segment.file.sync_data())
        .map_err(StoreError::io("cut", path))?;
    warn!(path = %path.display(), offset, what = torn.what, "an unfinished write was cut off the raft log");
    recovered.torn = Some(TornTail {
        path: path.clone(),
        offset,
        what: torn.what.to_owned(),
    });
    Ok(())
}

/// The log id up to which the log was purged.
pub(crate) fn read_purged(dir: &Path) -> Result<Option<LogId>, StoreError> {
    let path = dir.join(DiskName::RaftPurged.file_name());
    let Some(body) = checked_file::read(&path, Kind::Purged)? else {
        return Ok(None);
    };
    match LogId::decode(&body) {
        Some(id) => Ok(Some(id)),
        None => Err(StoreError::damaged(&path, 16, "the file holds no log id")),
    }
}

/// The truncation that was interrupted, if one was: records from this index on go.
pub(crate) fn read_truncating(dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(DiskName::RaftTruncating.file_name());
    let Some(body) = checked_file::read(&path, Kind::Truncating)? else {
        return Ok(None);
    };
    match body.try_into() {
        Ok(raw) => Ok(Some(u64::from_le_bytes(raw))),
        Err(_) => Err(StoreError::damaged(&path, 16, "the file holds no index")),
    }
}

/// Checks that segment `first` follows the one before it, or the purged part.
pub(crate) fn check_follows(
    path: &Path,
    first: u64,
    before: Option<&Segment>,
    purged: Option<&LogId>,
) -> Result<(), StoreError> {
    let sibling = |index| path.with_file_name(DiskName::RaftSegment(index).file_name());
    match (before, purged) {
        (Some(before), _) if before.next() > first => Err(StoreError::damaged(
            &before.path,
            u64::from(
                before
                    .span(first.max(before.first), first.max(before.first))
                    .0,
            ),
            format!("records from {first} on are in two segments"),
        )),
        (Some(before), _) if before.next() < first => {
            // A record that does not read ends a segment early; a whole file may also be gone.
            Err(StoreError::damaged(
                &before.path,
                u64::from(before.end),
                format!(
                    "records {} to {} cannot be read here, and the next segment begins at {first}",
                    before.next(),
                    first - 1
                ),
            ))
        }
        (Some(_), _) => Ok(()),
        (None, Some(purged)) if first > purged.index.saturating_add(1) => Err(StoreError::missing(
            &sibling(purged.index + 1),
            format!(
                "the log was purged up to {} and its first segment begins at {first}",
                purged.index
            ),
        )),
        (None, None) if first > FIRST_INDEX_MAX => Err(StoreError::missing(
            &sibling(FIRST_INDEX_MAX),
            format!("the log was never purged and its first segment begins at {first}"),
        )),
        (None, _) => Ok(()),
    }
}

/// A log that was never purged begins at 0 or 1, by the consensus engine's choice.
pub(crate) const FIRST_INDEX_MAX: u64 = 1;

fn recover_segment(
    recovered: &mut Recovered,
    first: u64,
    path: PathBuf,
    is_last: bool,
) -> Result<Option<TornEnd>, StoreError> {
    check_follows(
        &path,
        first,
        recovered.segments.last(),
        recovered.purged.as_ref(),
    )?;
    let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
    let scan = scan(&bytes, first).map_err(|(at, what)| StoreError::damaged(&path, at, what))?;
    let file = disk::open_existing(&path)?;
    let mut torn = None;
    if let Some(tail) = scan.tail {
        if !is_last || tail.damage {
            return Err(StoreError::damaged(&path, scan.end as u64, tail.what));
        }
        torn = Some(TornEnd {
            stop: tail.remains_end.min(bytes.len()) as u64,
            what: tail.what,
        });
    }
    let end = u32::try_from(scan.end)
        .map_err(|_| StoreError::damaged(&path, u64::from(u32::MAX), "the segment is too large"))?;
    let purged_index = recovered.purged.as_ref().map(|purged| purged.index);
    if recovered.first.is_none() {
        recovered.first = match purged_index {
            // The first segment may begin with records that are purged but not yet unlinked.
            Some(purged) => first_after(&bytes, &scan.offsets, scan.generation, first, purged),
            None => scan.first,
        };
    }
    if scan.last.is_some() {
        recovered.last = scan.last;
    }
    recovered.segments.push(Segment {
        first,
        generation: scan.generation,
        file: Arc::new(file),
        path,
        offsets: scan.offsets,
        end,
    });
    Ok(torn)
}

fn first_after(
    bytes: &[u8],
    offsets: &[u32],
    generation: u32,
    first: u64,
    purged: u64,
) -> Option<LogId> {
    let skip = usize::try_from((purged + 1).saturating_sub(first)).ok()?;
    let offset = *offsets.get(skip)? as usize;
    RecordView::parse(&bytes[offset..], generation)
        .ok()
        .map(|record| record.id())
}

/// Carries out a truncation that was begun before a crash.
fn finish_truncation(dir: &Path, found: &mut Vec<(u64, PathBuf)>) -> Result<(), StoreError> {
    let Some(from) = read_truncating(dir)? else {
        return Ok(());
    };
    info!(from, "finishing an interrupted truncation of the raft log");
    while let Some((_, path)) = found.pop_if(|(first, _)| *first >= from) {
        disk::remove_file(&path)?;
        disk::sync_dir(dir)?;
    }
    if let Some((first, path)) = found.last() {
        let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
        // A suffix that is half overwritten looks damaged behind the cut; only what is before
        // the cut has to be whole.
        let scan =
            scan(&bytes, *first).map_err(|(at, what)| StoreError::damaged(path, at, what))?;
        let keep = usize::try_from(from - first).unwrap_or(usize::MAX);
        let cut = match scan.offsets.get(keep) {
            Some(offset) => *offset as usize,
            None if scan.offsets.len() == keep => scan.end,
            None => {
                return Err(StoreError::damaged(
                    path,
                    scan.end as u64,
                    scan.tail.map_or(
                        "the segment ends before the record that a truncation should have kept",
                        |tail| tail.what,
                    ),
                ));
            }
        };
        let file = disk::open_existing(path)?;
        disk::write_zeros(&file, cut as u64, (bytes.len() - cut) as u64)
            .and_then(|()| file.sync_data())
            .map_err(StoreError::io("cut", path))?;
    }
    disk::remove_file(&dir.join(DiskName::RaftTruncating.file_name()))?;
    disk::sync_dir(dir)
}

/// Removes segments that were purged but still there when the process ended: all whose records
/// end at or before the purged index, known by where the next one begins.
fn finish_purge(
    dir: &Path,
    found: &mut Vec<(u64, PathBuf)>,
    purged: Option<&LogId>,
) -> Result<(), StoreError> {
    let Some(purged) = purged else { return Ok(()) };
    let mut surplus = found
        .windows(2)
        .take_while(|pair| pair[1].0 <= purged.index.saturating_add(1))
        .count();
    // The last one has no successor: it is wholly purged when its records say so. One that cannot
    // be read is left for recovery to judge.
    if surplus + 1 == found.len() {
        let (first, path) = &found[surplus];
        let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
        if let Ok(scan) = scan(&bytes, *first)
            && scan.tail.as_ref().is_none_or(|tail| !tail.damage)
            && first.saturating_add(scan.offsets.len() as u64) <= purged.index.saturating_add(1)
        {
            surplus += 1;
        }
    }
    for (_, path) in found.drain(..surplus) {
        disk::remove_file(&path)?;
    }
    if surplus > 0 {
        disk::sync_dir(dir)
    } else {
        Ok(())
    }
}
