//! Small files that are replaced as a whole and checked when they are read.
//!
//! ```text
//!  0        8         12       16       16 + length
//!  ┌────────┬─────────┬────────┬────────┐
//!  │ magic  │ crc32   │ length │ body   │   crc32 over magic, length and body; little-endian
//!  └────────┴─────────┴────────┴────────┘
//! ```

use std::path::Path;

use crate::disk;
use crate::error::StoreError;

const HEAD_BYTES: usize = 16;

/// What a checked file is; its first eight bytes.
// Wire value: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `raft/vote`
    Vote,
    /// `raft/purged`
    Purged,
    /// `raft/truncating`
    Truncating,
    /// `history/oldest`
    Oldest,
    /// `incoming/install`
    Install,
}

impl Kind {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Vote => b"tdgvote1",
            Self::Purged => b"tdgpurg1",
            Self::Truncating => b"tdgcut_1",
            Self::Oldest => b"tdgold_1",
            Self::Install => b"tdginst1",
        }
    }
}

/// Replaces the file atomically and durably.
pub(crate) fn write(path: &Path, kind: Kind, body: &[u8]) -> Result<(), StoreError> {
    let length = u32::try_from(body.len()).map_err(|_| StoreError::TooLarge {
        what: "a small file",
        bytes: body.len() as u64,
        limit: u64::from(u32::MAX),
    })?;
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(kind.magic());
    head[8..12].copy_from_slice(&checksum(kind, body).to_le_bytes());
    head[12..].copy_from_slice(&length.to_le_bytes());
    disk::replace(path, &[&head, body])
}

/// The body, or `None` when there is no such file.
pub(crate) fn read(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(mut bytes) = disk::read_optional(path)? else {
        return Ok(None);
    };
    let damaged = |offset, what: &str| Err(StoreError::damaged(path, offset, what));
    if bytes.len() < HEAD_BYTES {
        return damaged(bytes.len() as u64, "the file is shorter than its header");
    }
    if bytes[..8] != kind.magic()[..] {
        return damaged(0, "the file does not begin as it should");
    }
    let (crc, length) = (disk::u32_at(&bytes, 8), disk::u32_at(&bytes, 12) as usize);
    if bytes.len() - HEAD_BYTES != length {
        return damaged(12, "the file has another length than its header says");
    }
    let body = bytes.split_off(HEAD_BYTES);
    if checksum(kind, &body) != crc {
        return damaged(8, "the checksum does not match");
    }
    Ok(Some(body))
}

fn checksum(kind: Kind, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(kind.magic());
    crc.update(&(body.len() as u32).to_le_bytes());
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned_and_every_flip_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vote");
        assert_eq!(read(&path, Kind::Vote).unwrap(), None);
        write(&path, Kind::Vote, b"hello").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"tdgvote1");
        assert_eq!(&bytes[12..], b"\x05\0\0\0hello");
        assert_eq!(
            read(&path, Kind::Vote).unwrap().as_deref(),
            Some(&b"hello"[..])
        );
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            assert!(read(&path, Kind::Vote).is_err(), "flip at {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(read(&path, Kind::Vote).is_err(), "cut at {at}");
        }
        assert!(read(&path, Kind::Purged).is_err());
    }
}
