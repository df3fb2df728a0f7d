use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::config::DataDir;

/// The data directory of a running agent. A temporary one goes when this is dropped.
#[derive(Debug)]
pub(crate) enum DataHome {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl DataHome {
    /// Makes the directory when it is absent, for its owner and group alone: events may hold what
    /// not everybody should read.
    pub(crate) fn make(wanted: &DataDir) -> io::Result<DataHome> {
        match wanted {
            DataDir::At(path) => {
                DirBuilder::new().recursive(true).mode(0o750).create(path)?;
                Ok(DataHome::Kept(path.clone()))
            }
            DataDir::Temporary => Ok(DataHome::Temporary(
                tempfile::Builder::new().prefix("tidings-dev-").tempdir()?,
            )),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            DataHome::Kept(path) => path,
            DataHome::Temporary(dir) => dir.path(),
        }
    }

    /// Leaves a temporary directory where it is: after a fault somebody will want to look.
    pub(crate) fn keep(self) -> PathBuf {
        match self {
            DataHome::Kept(path) => path,
            DataHome::Temporary(dir) => dir.keep(),
        }
    }
}
