//! Writing a segment in whole blocks, past the page cache where the file system can.
//!
//! Nobody reads the log soon after it was written: its newest entries are in memory anyway. Through
//! the page cache each byte would be copied once more and take a fresh page, which for large batches
//! is half the cost of a flush.
//!
//! ```text
//!            end (before)        end (after)
//!               ▼                    ▼
//! ┌──────────┬──────────┬──────────┬──────────┐
//! │ records  │ kept│ what is appended │ zeros  │
//! └──────────┴──────────┴──────────┴──────────┘
//!            └──────── one write ──────────────┘
//! ```
//!
//! The block in which the records end is written again with the next ones, with the same bytes at its
//! beginning: a torn write cannot change what was acknowledged.

use std::io;
use std::path::Path;

use tidings_host::fs::{File, FileExt as _};

use crate::disk::{self, BLOCK_BYTES};

/// Memory that is kept for the next write; a larger batch gets its own.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

const BLOCK: usize = BLOCK_BYTES as usize;

/// The writer of one segment.
pub(crate) struct BlockWriter {
    file: File,
    /// Longer than what is used of it by a block: what is written begins where a block may lie.
    buffer: Vec<u8>,
    /// Bytes of the block in which the records end, at the beginning of what is used.
    kept: usize,
}

impl BlockWriter {
    /// For the segment at `path`, whose records end at `end`; `None` when the file system cannot.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub(crate) fn open(path: &Path, end: u64) -> io::Result<Option<Self>> {
        let file = match disk::open_past_cache(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            opened => opened?,
        };
        let mut writer = Self {
            file,
            buffer: Vec::new(),
            kept: 0,
        };
        let kept = (end % BLOCK_BYTES) as usize;
        let start = writer.reserve(BLOCK);
        let block = &mut writer.buffer[start..start + BLOCK];
        let offset = end - kept as u64;
        match File::open(path)?.read_exact_at(block, offset) {
            // Full: nothing more is written to it, unless it is extended.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        // The records once more, and nothing behind them: some file systems say only here that they
        // cannot.
        block[kept..].fill(0);
        match writer.file.write_all_at(block, offset) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            written => written?,
        }
        writer.kept = kept;
        Ok(Some(writer))
    }

    /// Writes `pieces`, `bytes` together, behind the records, which end at `end`. Up to the end of
    /// the block the file is filled.
    ///
    /// # Errors
    /// Those of the disk. The writer must not be used any more then.
    pub(crate) fn write<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
        bytes: usize,
        end: u64,
    ) -> io::Result<()> {
        let start = self.reserve(self.kept + bytes);
        let mut at = start + self.kept;
        for piece in pieces {
            self.buffer[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        let used = at - start;
        let written = used.next_multiple_of(BLOCK);
        self.buffer[at..start + written].fill(0);
        let offset = end - self.kept as u64;
        self.file
            .write_all_at(&self.buffer[start..start + written], offset)?;
        self.kept = used % BLOCK;
        let last_block = start + used - self.kept;
        self.buffer
            .copy_within(last_block..last_block + self.kept, start);
        if self.buffer.len() > BUFFER_BYTES_KEPT {
            let rest = self.buffer[start..start + self.kept].to_vec();
            (self.buffer, self.kept) = (Vec::new(), 0);
            let start = self.reserve(rest.len());
            self.buffer[start..start + rest.len()].copy_from_slice(&rest);
            self.kept = rest.len();
        }
        Ok(())
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes room for so many bytes and the rest of their last block; where they begin.
    fn reserve(&mut self, bytes: usize) -> usize {
        let needed = bytes.next_multiple_of(BLOCK) + BLOCK;
        if self.buffer.len() < needed {
            let old = std::mem::replace(&mut self.buffer, vec![0; needed.next_power_of_two()]);
            let from = start_of(&old);
            let to = start_of(&self.buffer);
            self.buffer[to..to + self.kept].copy_from_slice(&old[from..from + self.kept]);
        }
        start_of(&self.buffer)
    }
}

/// The first place in a buffer where a block may lie.
fn start_of(buffer: &[u8]) -> usize {
    match buffer.is_empty() {
        true => 0,
        false => buffer.as_ptr().align_offset(BLOCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Whatever the sizes, and over reopening: the file is what was written, and zeros to the end of
    /// the block.
    #[test]
    fn what_is_appended_follows_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        fs::write(&path, vec![9; 64 * BLOCK]).unwrap();
        let mut expected = b"head of the segment".to_vec();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(&expected, 0)
            .unwrap();
        let open = |end| BlockWriter::open(&path, end).unwrap();
        let Some(mut writer) = open(expected.len() as u64) else {
            panic!(
                "the file system of {} writes only through its cache",
                path.display()
            );
        };
        for (round, size) in [1, 500, BLOCK - 520, BLOCK, 3 * BLOCK + 7, 0, 2, 9 * BLOCK]
            .into_iter()
            .enumerate()
        {
            let piece = vec![round as u8 + 1; size];
            let (one, other) = piece.split_at(size / 3);
            writer
                .write([one, other].into_iter(), size, expected.len() as u64)
                .unwrap();
            writer.sync().unwrap();
            expected.extend(&piece);
            let found = fs::read(&path).unwrap();
            let whole = expected.len().next_multiple_of(BLOCK);
            assert_eq!(&found[..expected.len()], expected, "round {round}");
            assert!(found[expected.len()..whole].iter().all(|byte| *byte == 0));
            assert!(found[whole..].iter().all(|byte| *byte == 9));
            if round % 3 == 2 {
                writer = open(expected.len() as u64).unwrap();
            }
        }
    }

    #[test]
    fn a_large_batch_does_not_keep_its_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        fs::write(&path, vec![0; 4 * BUFFER_BYTES_KEPT]).unwrap();
        let mut writer = BlockWriter::open(&path, 0).unwrap().unwrap();
        let large = vec![1; 2 * BUFFER_BYTES_KEPT + 5];
        writer
            .write([&large[..]].into_iter(), large.len(), 0)
            .unwrap();
        assert!(writer.buffer.len() <= BUFFER_BYTES_KEPT);
        writer
            .write([&b"xy"[..]].into_iter(), 2, large.len() as u64)
            .unwrap();
        let found = fs::read(&path).unwrap();
        assert!(found[..large.len()].iter().all(|byte| *byte == 1));
        assert_eq!(found[large.len()..large.len() + 3], *b"xy\0");
    }
}
