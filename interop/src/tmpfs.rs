//! A small file system in memory, which a test can fill.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::statvfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// How the folders are named that are mounted on; the process id of the test follows.
const TMPFS_PREFIX: &str = "tidings-disk-test-";

/// Undo the mounts of tests that were killed, which no destructor could.
fn unmount_stale() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let Some(path) = line.split(' ').nth(1).map(Path::new) else {
            continue;
        };
        let owner = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(TMPFS_PREFIX)?.split('-').next());
        let Some(owner) = owner else { continue };
        if !Path::new("/proc").join(owner).exists() {
            // Best effort: the next run tries again.
            let _ = unmount(path, UnmountFlags::DETACH);
            let _ = fs::remove_dir(path);
        }
    }
}

/// A small file system of its own, gone with this value.
pub struct Tmpfs {
    folder: TempDir,
}

impl Tmpfs {
    /// Mount one.
    ///
    /// # Errors
    /// When this process may not: a sentence says what it needs.
    pub fn mount(mebibytes: u32) -> Result<Self> {
        unmount_stale();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{TMPFS_PREFIX}{}-", std::process::id()))
            .tempdir()?;
        let size = CString::new(format!("size={mebibytes}m"))?;
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), size.as_c_str()).context(
            "cannot mount a tmpfs, which this test needs to fill a disk: run it as root, outside of a sandbox that forbids mount",
        )?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn free_bytes(&self) -> Result<u64> {
        let stat = statvfs(self.path())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Leave only this much free.
    pub fn fill_up_to(&self, leave: u64) -> Result<()> {
        let mut ballast = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        let block = vec![1_u8; 64 << 10];
        loop {
            let free = self.free_bytes()?;
            if free <= leave {
                return Ok(());
            }
            let length = usize::try_from((free - leave).min(block.len() as u64))?;
            // Whoever else writes there may take the last of it first.
            if ballast.write_all(&block[..length]).is_err() {
                return Ok(());
            }
        }
    }

    /// Undo [`Tmpfs::fill_up_to`].
    pub fn give_back(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("cannot remove the ballast")
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A mount that cannot be undone is left to the operating system.
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}
