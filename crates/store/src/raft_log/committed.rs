//! The committed log id: written often, never waited for, and never torn.
//!
//! ```text
//! slot (256 bytes; two of them)
//!  0       4          12      16
//!  ┌───────┬──────────┬───────┬──────┐
//!  │ crc32 │ sequence │ size  │ body │   crc32 over sequence, size and body; little-endian
//!  └───────┴──────────┴───────┴──────┘
//! ```
//! Slots are written in turn; the readable one with the higher sequence counts. A write that is cut
//! short spoils one slot and leaves the other.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::disk::{self, u32_at, u64_at};
use crate::error::StoreError;

const SLOT_BYTES: usize = 256;
const SLOT_HEAD_BYTES: usize = 16;
/// The largest log id that fits.
pub(crate) const COMMITTED_BYTES_MAX: usize = SLOT_BYTES - SLOT_HEAD_BYTES;

/// The open file.
#[derive(Debug)]
pub(crate) struct CommittedFile {
    file: File,
    path: PathBuf,
    sequence: u64,
    body: Option<Vec<u8>>,
}

impl CommittedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let bytes = disk::read_optional(path)?.unwrap_or_default();
        let file = disk::open_or_create(path)?;
        let (sequence, body) = match newest(&bytes) {
            Some((sequence, body)) => (sequence, Some(body)),
            None => {
                if !is_unused(&bytes) {
                    // It only saves work at start: without it the log is applied again as far as
                    // the leader says it is committed.
                    warn!(path = %path.display(), "the committed log id cannot be read, going on without it");
                }
                (0, None)
            }
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            sequence,
            body,
        })
    }

    pub(crate) fn save(&mut self, body: &[u8]) -> Result<(), StoreError> {
        if body.len() > COMMITTED_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "a committed log id",
                bytes: body.len() as u64,
                limit: COMMITTED_BYTES_MAX as u64,
            });
        }
        let sequence = self.sequence + 1;
        let mut slot = [0; SLOT_BYTES];
        slot[4..12].copy_from_slice(&sequence.to_le_bytes());
        slot[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
        slot[SLOT_HEAD_BYTES..SLOT_HEAD_BYTES + body.len()].copy_from_slice(body);
        let crc = crc32fast::hash(&slot[4..SLOT_HEAD_BYTES + body.len()]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        let offset = (sequence % 2) * SLOT_BYTES as u64;
        self.file
            .write_all_at(&slot, offset)
            .map_err(StoreError::io("write", &self.path))?;
        self.sequence = sequence;
        self.body = Some(body.to_vec());
        Ok(())
    }

    pub(crate) fn current(&self) -> Option<Vec<u8>> {
        self.body.clone()
    }
}

/// Whether nothing was ever written.
pub(crate) fn is_unused(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Sequence and body of the slot that counts.
pub(crate) fn newest(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    bytes
        .chunks(SLOT_BYTES)
        .take(2)
        .filter_map(read_slot)
        .max_by_key(|(sequence, _)| *sequence)
}

fn read_slot(slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    if slot.len() < SLOT_HEAD_BYTES {
        return None;
    }
    let end = SLOT_HEAD_BYTES.checked_add(u32_at(slot, 12) as usize)?;
    let checked = slot.get(4..end)?;
    // Sequences begin at 1, so that zeros are no slot.
    let sequence = u64_at(slot, 4);
    (sequence > 0 && crc32fast::hash(checked) == u32_at(slot, 0))
        .then(|| (sequence, slot[SLOT_HEAD_BYTES..end].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("committed");
        let mut file = CommittedFile::open(&path).unwrap();
        assert_eq!(file.current(), None);
        file.save(b"one").unwrap();
        file.save(b"two").unwrap();
        let before = std::fs::read(&path).unwrap();
        file.save(b"three").unwrap();
        let after = std::fs::read(&path).unwrap();
        drop(file);
        for cut in 0..=SLOT_BYTES {
            // The third write went to the second slot and got `cut` bytes far.
            let mut torn = before.clone();
            torn[SLOT_BYTES..SLOT_BYTES + cut]
                .copy_from_slice(&after[SLOT_BYTES..SLOT_BYTES + cut]);
            std::fs::write(&path, &torn).unwrap();
            let current = CommittedFile::open(&path).unwrap().current().unwrap();
            let complete = cut >= SLOT_HEAD_BYTES + 5;
            assert_eq!(
                current,
                if complete { &b"three"[..] } else { b"two" },
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn bytes_are_pinned_and_a_large_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("committed");
        let mut file = CommittedFile::open(&path).unwrap();
        file.save(b"x").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            &bytes[SLOT_BYTES + 4..SLOT_BYTES + 17],
            b"\x01\0\0\0\0\0\0\0\x01\0\0\0x"
        );
        assert!(file.save(&[0; COMMITTED_BYTES_MAX + 1]).is_err());
        assert_eq!(
            CommittedFile::open(&path).unwrap().current().as_deref(),
            Some(&b"x"[..])
        );
    }
}
