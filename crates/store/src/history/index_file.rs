//! The index beside a segment of the history.
//!
//! ```text
//!  0        8         16         28      32
//!  ┌────────┬─────────┬──────────┬───────┐
//!  │ magic  │ first   │ reserved │ crc32 │   header; crc32 over the 28 bytes before it
//!  ├────────┴──┬──────┴────┬─────┴───────┤
//!  │ offset 4  │ crc32 4   │ digest 8    │   one entry a frame: where its line begins, the CRC of
//!  ├───────────┴───────────┴─────────────┤   the line with its newline, what it may match
//!  │ …                                   │
//!  ├─────────────────────────────────────┤
//!  │ magic 8 │ count 8 │ bytes 8 │ first time 8 │ last time 8 │ index crc32 4 │ 0 (8) │ crc32 4 │
//!  └─────────────────────────────────────┘   footer, once sealed: 56 bytes
//! ```
//! All numbers are little-endian; times are microseconds since the epoch. `bytes` is the size of
//! the segment, `index crc32` covers header and entries, the last CRC the 52 bytes before it. The
//! footer is eight bytes longer than a number of entries, so the file's size alone tells whether
//! one is there.

use tidings_event::{Digest, Timestamp};

use crate::disk::{u32_at, u64_at};

pub(crate) const INDEX_HEAD_BYTES: usize = 32;
pub(crate) const ENTRY_BYTES: usize = 16;
pub(crate) const FOOTER_BYTES: usize = 56;

// Wire value: append only.
const HEAD_MAGIC: &[u8; 8] = b"tdgindx1";
const FOOTER_MAGIC: &[u8; 8] = b"tdgseal1";

/// What is known of one frame without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Where its line begins.
    pub(crate) offset: u32,
    /// CRC-32 of the line with its newline.
    pub(crate) crc: u32,
    /// What it may match.
    pub(crate) digest: Digest,
}

/// What is known of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) first_time: Timestamp,
    pub(crate) last_time: Timestamp,
    pub(crate) index_crc: u32,
}

/// Offset and nature of a fault in an index file.
pub(crate) type IndexFault = (u64, &'static str);

impl IndexEntry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.digest.0.to_le_bytes());
    }

    /// The caller has checked the length.
    fn decode(bytes: &[u8]) -> Self {
        Self {
            offset: u32_at(bytes, 0),
            crc: u32_at(bytes, 4),
            digest: Digest(u64_at(bytes, 8)),
        }
    }
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[..8].copy_from_slice(FOOTER_MAGIC);
        out[8..16].copy_from_slice(&self.count.to_le_bytes());
        out[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_time.as_unix_micros().to_le_bytes());
        out[32..40].copy_from_slice(&self.last_time.as_unix_micros().to_le_bytes());
        out[40..44].copy_from_slice(&self.index_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..52]);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The footer at the end of an index file of this size that ends with these bytes.
    pub(crate) fn decode(tail: &[u8], file_bytes: u64) -> Result<Self, IndexFault> {
        let at = file_bytes.saturating_sub(FOOTER_BYTES as u64);
        if tail.len() < FOOTER_BYTES || !has_footer(file_bytes) {
            return Err((
                file_bytes,
                "the index has no footer, so the segment was never sealed",
            ));
        }
        let tail = &tail[tail.len() - FOOTER_BYTES..];
        if tail[..8] != FOOTER_MAGIC[..] {
            return Err((
                at,
                "the index does not end as that of a sealed segment does",
            ));
        }
        if crc32fast::hash(&tail[..52]) != u32_at(tail, 52) {
            return Err((at + 52, "the footer's checksum does not match"));
        }
        let footer = Self {
            count: u64_at(tail, 8),
            bytes: u64_at(tail, 16),
            first_time: Timestamp::from_unix_micros(u64_at(tail, 24) as i64),
            last_time: Timestamp::from_unix_micros(u64_at(tail, 32) as i64),
            index_crc: u32_at(tail, 40),
        };
        let entries = file_bytes - (INDEX_HEAD_BYTES + FOOTER_BYTES) as u64;
        if footer.count.checked_mul(ENTRY_BYTES as u64) != Some(entries) {
            return Err((at + 8, "the footer counts other frames than the index has"));
        }
        Ok(footer)
    }
}

/// Where the entries of an index with this many frames end.
pub(crate) fn index_bytes(frames: usize) -> u64 {
    INDEX_HEAD_BYTES as u64 + frames as u64 * ENTRY_BYTES as u64
}

/// Whether an index file of this size ends with a footer.
pub(crate) fn has_footer(file_bytes: u64) -> bool {
    let fixed = (INDEX_HEAD_BYTES + FOOTER_BYTES) as u64;
    file_bytes >= fixed && (file_bytes - fixed).is_multiple_of(ENTRY_BYTES as u64)
}

/// The header of the index of a segment that begins at `first`.
pub(crate) fn encode_head(first: u64) -> [u8; INDEX_HEAD_BYTES] {
    let mut out = [0; INDEX_HEAD_BYTES];
    out[..8].copy_from_slice(HEAD_MAGIC);
    out[8..16].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&out[..28]);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks a header against the index in the file's name.
pub(crate) fn check_head(bytes: &[u8], first: u64) -> Result<(), IndexFault> {
    if bytes.len() < INDEX_HEAD_BYTES {
        return Err((bytes.len() as u64, "the index is shorter than its header"));
    }
    if bytes[..8] != HEAD_MAGIC[..] {
        return Err((0, "the file does not begin as an index does"));
    }
    if crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
        return Err((28, "the header's checksum does not match"));
    }
    if u64_at(bytes, 8) != first {
        return Err((8, "the header bears another index than the file's name"));
    }
    Ok(())
}

/// The entries of an unsealed index, as many as are whole; none when the header does not hold. The
/// lines decide which of them count.
pub(crate) fn decode_active(bytes: &[u8], first: u64) -> Vec<IndexEntry> {
    if check_head(bytes, first).is_err() {
        return Vec::new();
    }
    bytes[INDEX_HEAD_BYTES..]
        .chunks_exact(ENTRY_BYTES)
        .map(IndexEntry::decode)
        .collect()
}

/// The checked entries of a sealed index, and its footer.
pub(crate) fn decode_sealed(
    bytes: &[u8],
    first: u64,
) -> Result<(Vec<IndexEntry>, Footer), IndexFault> {
    check_head(bytes, first)?;
    let footer = Footer::decode(bytes, bytes.len() as u64)?;
    let covered = &bytes[..bytes.len() - FOOTER_BYTES];
    if crc32fast::hash(covered) != footer.index_crc {
        return Err((
            INDEX_HEAD_BYTES as u64,
            "the checksum over the index does not match",
        ));
    }
    let entries: Vec<IndexEntry> = covered[INDEX_HEAD_BYTES..]
        .chunks_exact(ENTRY_BYTES)
        .map(IndexEntry::decode)
        .collect();
    // What the checksum covers was written by us; a foreign file must still not lead astray.
    let starts_at_zero = entries.first().is_none_or(|entry| entry.offset == 0);
    let ascends = entries
        .windows(2)
        .all(|pair| pair[0].offset < pair[1].offset);
    let fits = entries
        .last()
        .is_none_or(|entry| u64::from(entry.offset) < footer.bytes);
    if !(starts_at_zero && ascends && fits && footer.bytes <= u64::from(u32::MAX)) {
        return Err((
            INDEX_HEAD_BYTES as u64,
            "the offsets in the index do not ascend",
        ));
    }
    Ok((entries, footer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let mut bytes = encode_head(258).to_vec();
        assert_eq!(&bytes[..16], b"tdgindx1\x02\x01\0\0\0\0\0\0");
        assert_eq!(&bytes[16..28], [0; 12]);
        let entry = IndexEntry {
            offset: 0,
            crc: 2,
            digest: Digest(3),
        };
        entry.encode(&mut bytes);
        assert_eq!(&bytes[32..], b"\0\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0");
        assert!(!has_footer(bytes.len() as u64));
        let footer = Footer {
            count: 1,
            bytes: 9,
            first_time: Timestamp::from_unix_micros(1),
            last_time: Timestamp::from_unix_micros(2),
            index_crc: crc32fast::hash(&bytes),
        };
        bytes.extend(footer.encode());
        assert_eq!(
            &bytes[48..88],
            b"tdgseal1\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
        );
        assert!(has_footer(bytes.len() as u64));
        assert_eq!(decode_sealed(&bytes, 258).unwrap(), (vec![entry], footer));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(decode_sealed(&flipped, 258).is_err(), "flip at {at}");
            assert!(decode_sealed(&bytes[..at], 258).is_err(), "cut at {at}");
        }
        assert!(decode_sealed(&bytes, 259).is_err());
    }
}
