//! Bringing the lines of a segment to the disk, bit by bit while it is written.
//!
//! Left to the end, the lines of all servers come to the disk at once, when they seal their segments:
//! every flush of the log waits behind tens of mebibytes then.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tidings_host::fs::File;

use crate::error::StoreError;

/// Bytes of lines that gather before they are written back: a good disk has them in two
/// milliseconds, for as long as which a flush of the log may have to wait.
pub(crate) const WRITE_BACK_BYTES: u64 = 2 << 20;

/// The lines of a segment that is being written, or was until it was sealed.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    /// How the first sync that failed did. The system tells of a failure once and forgets it; a sync
    /// that succeeds afterwards proves nothing, so each later one gets the same answer.
    failed: Mutex<Option<(ErrorKind, String)>>,
    /// Whether a [`WriteBack`] is there.
    writing_back: AtomicBool,
}

impl Lines {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            failed: Mutex::default(),
            writing_back: AtomicBool::new(false),
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Brings what was written to the disk. Blocks, also on a sync that is under way.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.sync(File::sync_data)
    }

    /// As [`Lines::sync_data`], with all that the file system knows of the file.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.sync(File::sync_all)
    }

    fn sync(&self, sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if let Some((kind, text)) = &*failed {
            return Err(io::Error::new(*kind, text.clone()));
        }
        sync(&self.file).inspect_err(|error| *failed = Some((error.kind(), error.to_string())))
    }

    /// What brings them to the disk, unless somebody does it already.
    pub(crate) fn begin_write_back(self: &Arc<Self>, path: PathBuf) -> Option<WriteBack> {
        let busy = self.writing_back.swap(true, Ordering::AcqRel);
        (!busy).then(|| WriteBack {
            lines: Arc::clone(self),
            path,
        })
    }
}

/// Lines that have gathered and are to be brought to the disk; see
/// [`History::write_back`](super::History::write_back).
#[derive(Debug)]
pub struct WriteBack {
    lines: Arc<Lines>,
    path: PathBuf,
}

impl WriteBack {
    /// Brings them to the disk. Blocks, while others append.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; every later sync of the segment fails as well.
    pub fn complete(self) -> Result<(), StoreError> {
        self.lines
            .sync_data()
            .map_err(StoreError::io("sync", &self.path))
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.lines.writing_back.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_failed_is_never_believed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, b"{}\n").unwrap();
        let lines = Arc::new(Lines::new(File::open(&path).unwrap()));
        lines
            .sync(|_| Err(io::Error::other("medium error")))
            .unwrap_err();
        assert_eq!(lines.sync_data().unwrap_err().to_string(), "medium error");
        assert!(lines.sync_all().is_err());
        let write_back = lines.begin_write_back(path).unwrap();
        let error = write_back.complete().unwrap_err();
        assert!(matches!(error, StoreError::Io { action: "sync", .. }));
    }

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, b"{}\n").unwrap();
        let lines = Arc::new(Lines::new(File::open(&path).unwrap()));
        let first = lines.begin_write_back(path.clone()).unwrap();
        assert!(lines.begin_write_back(path.clone()).is_none());
        first.complete().unwrap();
        assert!(lines.begin_write_back(path).is_some());
    }
}
