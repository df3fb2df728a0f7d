//! How what has come takes the place of what was there.
//!
//! ```text
//! incoming/history, incoming/N.snap   whole and on the disk
//! incoming/install                    written: from here on the new counts, whatever happens
//!   history           ─▶ incoming/replaced
//!   incoming/history  ─▶ history
//!   incoming/N.snap   ─▶ snapshots/N.snap
//! incoming                            removed, the note `install` first
//! ```
//! Each step can be done again. A start that finds the note goes on where it was interrupted, before
//! anything else is read; one that does not find it has the old, untouched.

use std::io::ErrorKind;
use std::path::Path;

use tidings_event::Index;
use tidings_host::fs;
use tracing::info;

use crate::checked_file::{self, Kind};
use crate::disk;
use crate::error::StoreError;
use crate::layout::{DiskName, HISTORY_FOLDER, INCOMING_FOLDER, SNAPSHOT_FOLDER};

/// Where the old history goes before it is removed.
const REPLACED_FOLDER: &str = "replaced";

/// What is being installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Install {
    /// The index of the snapshot.
    pub(crate) index: u64,
    /// The frame that it and the history end at.
    pub(crate) frame: Index,
}

/// Notes, durably, that what has come counts.
pub(super) fn decide(data_dir: &Path, install: Install) -> Result<(), StoreError> {
    let path = data_dir
        .join(INCOMING_FOLDER)
        .join(DiskName::Install.file_name());
    let mut body = install.index.to_le_bytes().to_vec();
    body.extend_from_slice(&install.frame.get().to_le_bytes());
    checked_file::write(&path, Kind::Install, &body)
}

/// What is being installed in a data directory, if anything is.
pub(crate) fn underway(data_dir: &Path) -> Result<Option<Install>, StoreError> {
    let path = data_dir
        .join(INCOMING_FOLDER)
        .join(DiskName::Install.file_name());
    let Some(body) = checked_file::read(&path, Kind::Install)? else {
        return Ok(None);
    };
    if body.len() != 16 {
        return Err(StoreError::damaged(&path, 16, "the note has another size"));
    }
    Ok(Some(Install {
        index: disk::u64_at(&body, 0),
        frame: Index(disk::u64_at(&body, 8)),
    }))
}

/// Puts what has come in its place, if that was decided.
pub(crate) fn finish(data_dir: &Path) -> Result<(), StoreError> {
    finish_stepwise(data_dir, &mut || Ok(()))
}

/// As [`finish`]; `step` is asked before each change whether it goes on, as if the machine could fail
/// there.
pub(super) fn finish_stepwise(
    data_dir: &Path,
    step: &mut dyn FnMut() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some(install) = underway(data_dir)? else {
        return Ok(());
    };
    let incoming = data_dir.join(INCOMING_FOLDER);
    let history = data_dir.join(HISTORY_FOLDER);
    let staged = incoming.join(HISTORY_FOLDER);
    if fs::is_dir(&staged) {
        let replaced = incoming.join(REPLACED_FOLDER);
        if fs::is_dir(&history) {
            step()?;
            remove_dir(&replaced)?;
            step()?;
            rename(&history, &replaced)?;
        }
        step()?;
        rename(&staged, &history)?;
        disk::sync_dir(data_dir)?;
    }
    let name = DiskName::Snapshot(install.index).file_name();
    let snapshot = incoming.join(&name);
    if fs::exists(&snapshot) {
        let folder = data_dir.join(SNAPSHOT_FOLDER);
        disk::create_dir(&folder)?;
        step()?;
        rename(&snapshot, &folder.join(&name))?;
        disk::sync_dir(&folder)?;
    }
    step()?;
    disk::remove_file(&incoming.join(DiskName::Install.file_name()))?;
    disk::sync_dir(&incoming)?;
    info!(
        index = install.index,
        frame = install.frame.get(),
        "snapshot and history installed"
    );
    step()?;
    remove_dir(&incoming)
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename", from))
}

/// Removes a folder with what is in it; one that is gone already is no error.
pub(super) fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("remove", dir)(source))
        }
        _ => Ok(()),
    }
}
