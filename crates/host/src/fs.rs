//! Files, as `std` has them, and the few calls that it lacks.

use std::io::{self, IoSlice};
use std::path::Path;

pub use std::fs::{
    File, Metadata, OpenOptions, copy, create_dir_all, hard_link, metadata, read, read_dir,
    read_to_string, remove_dir_all, remove_file, rename, write,
};
pub use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

/// Whether there is a folder of this name.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Whether there is anything of this name.
#[must_use]
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Bytes that may still be written to the file system of `dir` by an ordinary user.
///
/// # Errors
///
/// Those of `statvfs`.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes pieces, one after the other, at an offset; how many bytes were written.
///
/// # Errors
///
/// Those of `pwritev`; an interrupted call is made again.
pub fn write_vectored_at(file: &File, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev(file, pieces, offset) {
            Err(rustix::io::Errno::INTR) => {}
            written => return Ok(written?),
        }
    }
}

/// Names the place of a folder: this machine, its disk, and which folder it is there. A copy of it
/// elsewhere has another name.
///
/// # Errors
///
/// Those of `stat` and `realpath`.
pub fn place_of(dir: &Path) -> io::Result<String> {
    let metadata = metadata(dir)?;
    // Machines without one are told apart by the folder alone.
    let machine = read_to_string("/etc/machine-id").unwrap_or_default();
    Ok(format!(
        "{} {} {} {}",
        machine.trim(),
        metadata.dev(),
        metadata.ino(),
        dir.canonicalize()?.display()
    ))
}

/// Locks a file for this process until it is closed, however the process ends. `false` when another
/// has it.
///
/// # Errors
///
/// Those of `flock`.
pub fn try_lock(file: &mut File) -> io::Result<bool> {
    match rustix::fs::flock(&*file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
