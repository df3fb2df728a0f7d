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
//!
//! ```text
//! body    "cid1" | index u64 | term u64 | leader
//! ```

use std::path::{Path, PathBuf};

use tidings_host::fs::{File, FileExt as _};
use tracing::warn;

use super::record::LogId;
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
    current: Option<LogId>,
}

// Wire value: append only.
const BODY_MAGIC: &[u8; 4] = b"cid1";

impl CommittedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let bytes = disk::read_optional(path)?.unwrap_or_default();
        let file = disk::open_or_create(path)?;
        let (sequence, body) = newest(&bytes).unwrap_or_default();
        let current = decode(&body);
        if current.is_none() && !is_unused(&bytes) {
            // It only saves work at start: without it the log is applied again as far as the leader
            // says it is committed.
            warn!(path = %path.display(), "the committed log id cannot be read, going on without it");
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            sequence,
            current,
        })
    }

    pub(crate) fn save(&mut self, committed: &LogId) -> Result<(), StoreError> {
        let mut body = BODY_MAGIC.to_vec();
        body.extend_from_slice(&committed.encode());
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
        slot[SLOT_HEAD_BYTES..SLOT_HEAD_BYTES + body.len()].copy_from_slice(&body);
        let crc = crc32fast::hash(&slot[4..SLOT_HEAD_BYTES + body.len()]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        let offset = (sequence % 2) * SLOT_BYTES as u64;
        self.file
            .write_all_at(&slot, offset)
            .map_err(StoreError::io("write", &self.path))?;
        self.sequence = sequence;
        self.current = Some(committed.clone());
        Ok(())
    }

    pub(crate) fn current(&self) -> Option<LogId> {
        self.current.clone()
    }
}

/// The committed log id in a file that is left as it is.
pub(crate) fn read(path: &Path) -> Result<Option<LogId>, StoreError> {
    let bytes = disk::read_optional(path)?.unwrap_or_default();
    Ok(newest(&bytes).and_then(|(_, body)| decode(&body)))
}

fn decode(body: &[u8]) -> Option<LogId> {
    // What an earlier format has noted may lie beyond the log: it is not taken for proof.
    LogId::decode(body.strip_prefix(BODY_MAGIC)?)
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

    fn id(index: u64) -> LogId {
        LogId {
            index,
            term: 2,
            leader: vec![index as u8],
        }
    }

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("committed");
        let mut file = CommittedFile::open(&path).unwrap();
        assert_eq!(file.current(), None);
        file.save(&id(1)).unwrap();
        file.save(&id(2)).unwrap();
        let before = std::fs::read(&path).unwrap();
        file.save(&id(3)).unwrap();
        let after = std::fs::read(&path).unwrap();
        drop(file);
        for cut in 0..=SLOT_BYTES {
            // The third write went to the second slot and got `cut` bytes far.
            let mut torn = before.clone();
            torn[SLOT_BYTES..SLOT_BYTES + cut]
                .copy_from_slice(&after[SLOT_BYTES..SLOT_BYTES + cut]);
            std::fs::write(&path, &torn).unwrap();
            let current = CommittedFile::open(&path).unwrap().current().unwrap();
            let complete = cut >= SLOT_HEAD_BYTES + 21;
            assert_eq!(current, id(if complete { 3 } else { 2 }), "cut at {cut}");
        }
    }

    #[test]
    fn bytes_are_pinned_and_a_large_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("committed");
        let mut file = CommittedFile::open(&path).unwrap();
        file.save(&id(3)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            &bytes[SLOT_BYTES + 4..SLOT_BYTES + 37],
            b"\x01\0\0\0\0\0\0\0\x15\0\0\0cid1\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"
        );
        let long = LogId {
            leader: vec![0; COMMITTED_BYTES_MAX],
            ..id(4)
        };
        assert!(file.save(&long).is_err());
        assert_eq!(read(&path).unwrap(), Some(id(3)));
        // As it was before: term, node, index.
        assert_eq!(decode(&[1; 24]), None);
    }
}
