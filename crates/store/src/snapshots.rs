//! Snapshots of the state: whole, checked, the newest two kept.
//!
//! ```text
//!  0        8          16         24          32         40         44        48      48+meta    +data
//!  ┌────────┬──────────┬──────────┬───────────┬──────────┬──────────┬─────────┬───────┬──────────┐
//!  │ magic  │ index    │ frame    │ meta size │ data size│ body crc │ head crc│ meta  │ data     │
//!  └────────┴──────────┴──────────┴───────────┴──────────┴──────────┴─────────┴───────┴──────────┘
//! ```
//! All numbers are little-endian; the body's CRC covers meta and data, the head's the 44 bytes
//! before it. The frame stands in the header so that the history can be checked against it without
//! knowing what meta and data are.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidings_event::Index;
use tidings_host::fs;
use tracing::{info, warn};

use crate::disk::{self, u32_at, u64_at};
use crate::error::StoreError;
use crate::layout::DiskName;

// Wire value: append only.
const MAGIC: &[u8; 8] = b"tdgsnap2";
const HEAD_BYTES: usize = 48;
/// Where the CRC over the header stands.
const HEAD_CRC_AT: usize = 44;
/// How many snapshots stay on disk: the newest, and one more in case that one cannot be read.
const SNAPSHOTS_KEPT: usize = 2;

/// A snapshot as it was written.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The index of the last Raft entry that it covers.
    pub index: u64,
    /// The last frame that it covers: the history up to here was on disk before it was written.
    pub frame: Index,
    /// What the caller needs to know of it; opaque here.
    pub meta: Bytes,
    /// The state; opaque here.
    pub data: Bytes,
    /// Where it lies.
    pub path: PathBuf,
}

/// The folder of the snapshots. Calls block; one caller writes at a time.
#[derive(Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
}

impl SnapshotStore {
    /// Opens the folder (and creates it); removes what an interrupted write has left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        disk::create_dir(dir)?;
        disk::list(dir, true)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Writes a snapshot that covers the Raft log up to `index` and the history up to `frame`,
    /// durable when this returns, and removes all but the newest two. The history must have been
    /// synced up to there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the snapshots that were there are untouched then.
    pub fn write(
        &self,
        index: u64,
        frame: Index,
        meta: &[u8],
        data: &[u8],
    ) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(DiskName::Snapshot(index).file_name());
        write_file(&path, index, frame, meta, data)?;
        info!(
            index,
            frame = frame.get(),
            bytes = data.len(),
            "snapshot written"
        );
        self.remove_old()?;
        Ok(path)
    }

    /// The newest snapshot that can be read; `None` when there never was one.
    ///
    /// A newer one that is damaged is passed over with a warning. The caller must then check that
    /// its Raft log still reaches back to the one it gets.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] when there are snapshots and none can be read.
    pub fn latest(&self) -> Result<Option<Snapshot>, StoreError> {
        let mut first_error = None;
        for (index, path) in self.list()?.into_iter().rev() {
            match read(&path, index) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => {
                    warn!(path = %path.display(), error = %error, "snapshot cannot be read, trying an older one");
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// The snapshots on disk, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>, StoreError> {
        list(&self.dir)
    }

    /// Removes all but the newest two.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn remove_old(&self) -> Result<(), StoreError> {
        let all = self.list()?;
        let surplus = all.len().saturating_sub(SNAPSHOTS_KEPT);
        for (_, path) in &all[..surplus] {
            disk::remove_file(path)?;
        }
        if surplus > 0 {
            disk::sync_dir(&self.dir)
        } else {
            Ok(())
        }
    }
}

/// The snapshots in `dir`, oldest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let names = disk::list(dir, false)?;
    let snapshots = names
        .into_iter()
        .filter_map(|(name, path)| match DiskName::parse(&name) {
            Some(DiskName::Snapshot(index)) => Some((index, path)),
            _ => None,
        });
    Ok(snapshots.collect())
}

/// Writes one snapshot, durably.
pub(crate) fn write_file(
    path: &Path,
    index: u64,
    frame: Index,
    meta: &[u8],
    data: &[u8],
) -> Result<(), StoreError> {
    let mut body_crc = crc32fast::Hasher::new();
    body_crc.update(meta);
    body_crc.update(data);
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&index.to_le_bytes());
    head[16..24].copy_from_slice(&frame.get().to_le_bytes());
    head[24..32].copy_from_slice(&(meta.len() as u64).to_le_bytes());
    head[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
    head[40..HEAD_CRC_AT].copy_from_slice(&body_crc.finalize().to_le_bytes());
    let head_crc = crc32fast::hash(&head[..HEAD_CRC_AT]);
    head[HEAD_CRC_AT..].copy_from_slice(&head_crc.to_le_bytes());
    disk::replace(path, &[&head, meta, data])
}

/// Reads and checks one snapshot.
pub(crate) fn read(path: &Path, index: u64) -> Result<Snapshot, StoreError> {
    let bytes = Bytes::from(fs::read(path).map_err(StoreError::io("read", path))?);
    let damaged = |offset: usize, what: &str| Err(StoreError::damaged(path, offset as u64, what));
    if bytes.len() < HEAD_BYTES {
        return damaged(bytes.len(), "the file is shorter than its header");
    }
    if bytes[..8] != MAGIC[..] {
        return damaged(0, "the file does not begin as a snapshot does");
    }
    if crc32fast::hash(&bytes[..HEAD_CRC_AT]) != u32_at(&bytes, HEAD_CRC_AT) {
        return damaged(HEAD_CRC_AT, "the header's checksum does not match");
    }
    if u64_at(&bytes, 8) != index {
        return damaged(8, "the header bears another index than the file's name");
    }
    let (meta, data) = (u64_at(&bytes, 24), u64_at(&bytes, 32));
    let body = (bytes.len() - HEAD_BYTES) as u64;
    if meta.checked_add(data) != Some(body) {
        return damaged(
            bytes.len(),
            "the file has another length than its header says",
        );
    }
    if crc32fast::hash(&bytes[HEAD_BYTES..]) != u32_at(&bytes, 40) {
        return damaged(HEAD_BYTES, "the content's checksum does not match");
    }
    // Both lengths add up to the body's, which is in memory: they fit.
    let meta_end = HEAD_BYTES + meta as usize;
    Ok(Snapshot {
        index,
        frame: Index(u64_at(&bytes, 16)),
        meta: bytes.slice(HEAD_BYTES..meta_end),
        data: bytes.slice(meta_end..),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_two_are_kept_and_the_newest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path()).unwrap();
        assert!(store.latest().unwrap().is_none());
        for index in [5, 900, 70] {
            store
                .write(
                    index,
                    Index(index * 2),
                    b"meta",
                    format!("state {index}").as_bytes(),
                )
                .unwrap();
        }
        let latest = store.latest().unwrap().unwrap();
        assert_eq!(
            (
                latest.index,
                latest.frame,
                &latest.meta[..],
                &latest.data[..]
            ),
            (900, Index(1800), &b"meta"[..], &b"state 900"[..])
        );
        let left: Vec<u64> = store
            .list()
            .unwrap()
            .into_iter()
            .map(|(index, _)| index)
            .collect();
        assert_eq!(left, [70, 900]);
    }

    #[test]
    fn a_damaged_snapshot_is_passed_over_and_never_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path()).unwrap();
        let newest = store.write(2, Index(9), b"m", b"newer").unwrap();
        let whole = std::fs::read(&newest).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&newest, &flipped).unwrap();
            assert!(
                matches!(store.latest(), Err(StoreError::Damaged { .. })),
                "flip at {at}"
            );
            std::fs::write(&newest, &whole[..at]).unwrap();
            assert!(
                matches!(store.latest(), Err(StoreError::Damaged { .. })),
                "cut at {at}"
            );
        }
        store.write(1, Index(9), b"m", b"older").unwrap();
        assert_eq!(store.latest().unwrap().unwrap().index, 1);
    }

    #[test]
    fn the_head_is_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let path = SnapshotStore::open(dir.path())
            .unwrap()
            .write(3, Index(7), b"ab", b"cde")
            .unwrap();
        let bytes = std::fs::read(path).unwrap();
        let mut expected = b"tdgsnap2".to_vec();
        expected.extend([
            3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0,
            0, 0, 0,
        ]);
        assert_eq!(bytes[..40], expected[..]);
        assert_eq!(&bytes[48..], b"abcde");
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("00000000000000000009.snap.tmp");
        std::fs::write(&left, b"half").unwrap();
        let store = SnapshotStore::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(store.latest().unwrap().is_none());
    }
}
