//! What can go wrong between the data directory and its callers.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of the store.
///
/// Variants are named by what failed and carry the facts; the cause, where there is one, is the
/// source and never part of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `open`, `write`, `sync`, …
        action: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Bytes on disk are not what was written. Nothing was changed.
    #[error("{} is damaged at byte {offset}: {what}; {help}", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What was found there.
        what: String,
        /// What a person can do about it.
        help: String,
    },
    /// A file that others need is not there. Nothing was changed.
    #[error("{} is missing: {what}; {help}", path.display())]
    Missing {
        /// The file that should exist.
        path: PathBuf,
        /// How its absence was noticed.
        what: String,
        /// What a person can do about it.
        help: String,
    },
    /// Another process works on this data directory.
    #[error("the data directory {} is in use by {holder}; stop that process or choose another --data-dir", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who holds it, as far as the lock file tells.
        holder: String,
    },
    /// The data directory was written in a format that this program does not read.
    #[error("{} says {found:?}, and this program reads {expected:?}; use the version of tidings that wrote it", path.display())]
    Format {
        /// The file that tells the format.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// An earlier write or sync failed. What reached the disk is unknown until the next start, so
    /// nothing more is written.
    #[error(
        "the raft log stopped after a failed write: {reason}; restart the agent once the disk is well"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// Something was appended that does not follow what is there. A bug of the caller.
    #[error("expected index {expected} next and got {got}")]
    OutOfOrder {
        /// The index that would have been right.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// The records asked for are no longer, or not yet, in the log.
    #[error("the raft log holds {first}..{end}, and {wanted} was asked for")]
    NotInLog {
        /// The index asked for.
        wanted: u64,
        /// The first index that the log holds.
        first: u64,
        /// One past the last index that the log holds.
        end: u64,
    },
    /// A record, a file or a segment would be larger than its format allows.
    #[error("{what} of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The history on disk ends before the snapshot that was taken of it.
    #[error("the history in {} ends at index {newest}, and the snapshot was taken at {wanted}; {help}", path.display())]
    HistoryShort {
        /// The history's folder.
        path: PathBuf,
        /// The newest index in it.
        newest: u64,
        /// The index that must be there.
        wanted: u64,
        /// What a person can do about it.
        help: String,
    },
}

impl StoreError {
    /// Wraps an I/O error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Damage in `path` at `offset`, with the command that tells more.
    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            offset,
            what: what.into(),
            help: verify_help(path),
        }
    }

    /// A file that should be there, with the command that tells more.
    pub(crate) fn missing(path: &Path, what: impl Into<String>) -> Self {
        Self::Missing {
            path: path.to_owned(),
            what: what.into(),
            help: verify_help(path),
        }
    }

    /// Whether the disk (or quota) was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            _ => false,
        }
    }
}

/// The sentence that tells a person what to do about a fault in `path`, a file two levels below
/// the data directory.
pub(crate) fn verify_help(path: &Path) -> String {
    let data_dir = path
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    format!(
        "run `tidings verify --data-dir {}` for the whole picture, then restore the file from a backup, or, when there are other servers, get everything from them with `tidings rebuild --data-dir {}`",
        data_dir.display(),
        data_dir.display()
    )
}
