//! Where the history begins: the frame by which its oldest segment is named, in a file of its own.
//!
//! Without it, a folder whose first segments are gone would look like one that retention has
//! shortened. It is written before segments are removed, so that after a crash the history begins at
//! that frame or before.

use std::path::Path;

use tidings_event::Index;

use super::segments::Pair;
use crate::checked_file::{self, Kind};
use crate::disk;
use crate::error::StoreError;
use crate::layout::DiskName;

/// The frame; `None` when nobody has noted it.
pub(crate) fn read(dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(DiskName::HistoryOldest.file_name());
    let Some(body) = checked_file::read(&path, Kind::Oldest)? else {
        return Ok(None);
    };
    match body.try_into() {
        Ok(raw) => Ok(Some(u64::from_le_bytes(raw))),
        Err(_) => Err(StoreError::damaged(&path, 16, "the file holds no index")),
    }
}

/// Notes the frame, durably.
///
/// On a full disk the note is taken away instead: segments must be able to go for there to be room
/// again, and no note is better than one that is wrong.
pub(crate) fn write(dir: &Path, oldest: u64) -> Result<(), StoreError> {
    let path = dir.join(DiskName::HistoryOldest.file_name());
    match checked_file::write(&path, Kind::Oldest, &oldest.to_le_bytes()) {
        Err(error) if error.is_disk_full() => {
            disk::remove_file(&path)?;
            disk::sync_dir(dir)
        }
        written => written,
    }
}

/// Checks that the segments begin where they should. What lies after `durable_to` (when it is
/// known) is made again and need not be there.
pub(crate) fn check(
    dir: &Path,
    pairs: &[Pair],
    durable_to: Option<Index>,
) -> Result<Option<u64>, StoreError> {
    let Some(oldest) = read(dir)? else {
        return Ok(None);
    };
    let durable = durable_to.is_none_or(|durable_to| oldest <= durable_to.get());
    match pairs.first() {
        Some(pair) if durable && pair.first > oldest => Err(begins_late(dir, oldest, pair.first)),
        _ => Ok(Some(oldest)),
    }
}

/// The error for a history that begins after a frame that is kept.
pub(super) fn begins_late(dir: &Path, oldest: u64, first: u64) -> StoreError {
    StoreError::missing(
        &dir.join(DiskName::HistoryLines(oldest).file_name()),
        format!("frames from {oldest} on are kept, and the oldest segment begins at {first}"),
    )
}
