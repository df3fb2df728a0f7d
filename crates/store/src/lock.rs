//! The data directory as a whole: who works on it, and in which format it was written.

use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use tidings_host::fs::{self, File};

use crate::disk;
use crate::error::StoreError;
use crate::incoming;
use crate::layout::{DiskName, HISTORY_FOLDER, RAFT_FOLDER, SNAPSHOT_FOLDER};

/// The one line of the file `format`.
// Wire value: append only (a new format is a new line, old ones stay readable or are refused).
const FORMAT: &str = "tidings data 1\n";

/// A data directory that this process alone works on, until the value is dropped.
///
/// The lock is `flock(2)`'s: it ends with the process, however that ends, and leaves nothing to
/// be cleaned up by hand.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Held for its lock; `None` when only reading and no agent has ever locked it.
    _lock: Option<File>,
}

impl DataDir {
    /// Creates the directory where needed, locks it, and checks (or writes) its format.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Format`] when another
    /// version of tidings wrote it, [`StoreError::Io`] for the rest.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        disk::create_dir(path)?;
        let lock = Some(take_lock(path)?);
        let format = path.join(DiskName::Format.file_name());
        match disk::read_optional(&format)? {
            // New, or left by a crash between the creation of the directory and this line.
            None => {
                // Whoever made the directory may not have synced its name, and what is acknowledged
                // later is no more durable than that.
                match disk::sync_name(path) {
                    // A folder that is another user's; who made the directory in it had to sync it.
                    Err(StoreError::Io { source, .. })
                        if source.kind() == io::ErrorKind::PermissionDenied => {}
                    synced => synced?,
                }
                disk::replace(&format, &[FORMAT.as_bytes()])?;
            }
            Some(found) => check_format(&format, &found)?,
        }
        // Before anybody reads: what was decided counts.
        incoming::finish(path)?;
        for folder in [HISTORY_FOLDER, RAFT_FOLDER, SNAPSHOT_FOLDER] {
            disk::create_dir(&path.join(folder))?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Locks an existing directory and changes nothing in it: for checking.
    ///
    /// # Errors
    ///
    /// As [`DataDir::open`], and [`StoreError::Missing`] when it is no data directory.
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        let format = path.join(DiskName::Format.file_name());
        let Some(found) = disk::read_optional(&format)? else {
            return Err(StoreError::Missing {
                path: format,
                what: "this is not a data directory of tidings".to_owned(),
                help: "name the directory that the agent was given as --data-dir".to_owned(),
            });
        };
        let lock_path = path.join(DiskName::Lock.file_name());
        let lock = match File::open(&lock_path) {
            Ok(mut file) => {
                lock_or_tell(&mut file, path)?;
                Some(file)
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StoreError::io("open", &lock_path)(source)),
        };
        check_format(&format, &found)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder for [`crate::History::open`].
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.path.join(HISTORY_FOLDER)
    }

    /// The folder for [`crate::RaftLog::open`].
    #[must_use]
    pub fn raft(&self) -> PathBuf {
        self.path.join(RAFT_FOLDER)
    }

    /// The folder for [`crate::SnapshotStore::open`].
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOT_FOLDER)
    }
}

/// Takes the lock and writes our process id into it for the one who finds it taken.
fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(DiskName::Lock.file_name());
    let mut file = disk::open_or_create(&path)?;
    lock_or_tell(&mut file, dir)?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", tidings_host::process_id()))
        .map_err(StoreError::io("write", &path))?;
    Ok(file)
}

/// Locks the file or tells who has it.
fn lock_or_tell(file: &mut File, dir: &Path) -> Result<(), StoreError> {
    match fs::try_lock(file) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let mut text = String::new();
            // Only to say who it is; nothing depends on it.
            let _ = file.take(32).read_to_string(&mut text);
            let holder = match text.trim().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".to_owned(),
            };
            Err(StoreError::Locked {
                path: dir.to_owned(),
                holder,
            })
        }
        Err(source) => Err(StoreError::io("lock", dir)(source)),
    }
}

fn check_format(path: &Path, found: &[u8]) -> Result<(), StoreError> {
    if found == FORMAT.as_bytes() {
        return Ok(());
    }
    let shown = &found[..found.len().min(64)];
    Err(StoreError::Format {
        path: path.to_owned(),
        found: String::from_utf8_lossy(shown).trim_end().to_owned(),
        expected: FORMAT.trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        assert!(matches!(
            DataDir::open_existing(dir.path()),
            Err(StoreError::Locked { .. })
        ));
        drop(first);
        DataDir::open(dir.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("format")).unwrap(),
            "tidings data 1\n"
        );
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("format"), "tidings data 2\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Format { .. }), "{error}");
    }

    #[test]
    fn checking_needs_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            DataDir::open_existing(dir.path()),
            Err(StoreError::Missing { .. })
        ));
    }
}
