//! The bytes of a Raft log segment.
//!
//! ```text
//! segment   0        8            12         16       24         28        32
//! header    ┌────────┬────────────┬──────────┬────────┬──────────┬─────────┐
//!           │ magic  │ generation │ reserved │ first  │ reserved │ crc32   │  records follow
//!           └────────┴────────────┴──────────┴────────┴──────────┴─────────┘
//!
//! record    0      4       8            12       16      24     32     33          34
//!           ┌──────┬───────┬────────────┬────────┬───────┬──────┬──────┬───────────┬────────┬─────────┐
//!           │ size │ crc32 │ generation │ synced │ index │ term │ kind │ leader sz │ leader │ payload │
//!           └──────┴───────┴────────────┴────────┴───────┴──────┴──────┴───────────┴────────┴─────────┘
//! ```
//! All numbers are little-endian. `size` counts the whole record; the CRC covers everything but
//! itself. Behind the last record lie zeros, or what an earlier life of a recycled file has left.
//!
//! Two fields make recovery exact:
//!
//! - **generation**: each segment of a log bears a number that no file of this log has borne
//!   before. A record left over in a recycled file bears the number of its own time and is never
//!   taken for a live one.
//! - **synced**: up to which byte of the segment everything was known to be on disk when this
//!   record was written. A write that is cut short by a power failure may leave any of its sectors
//!   on disk: a bad record followed by good ones. That is a torn write when all of the good ones
//!   say that less than the bad one's place was on disk by then; it is damage when one of them
//!   says more.

use bytes::Bytes;

use crate::disk::{u32_at, u64_at};

/// Size of a segment's header.
pub(crate) const SEGMENT_HEAD_BYTES: usize = 32;
/// Size of a record without leader and payload.
pub(crate) const RECORD_HEAD_BYTES: usize = 34;
/// A record is never larger: one Raft entry, far above what the proposer puts into one.
pub(crate) const RECORD_BYTES_MAX: usize = 256 * 1024 * 1024;

// Wire value: append only.
const SEGMENT_MAGIC: &[u8; 8] = b"tdgraft1";

/// One entry of the Raft log. Payloads are opaque to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Position in the log; each record's is one more than the one before it.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// The rest of the log id as the consensus engine writes it, at most 255 bytes.
    pub leader: Vec<u8>,
    /// What the payload is, by the caller's numbering.
    pub kind: u8,
    /// The payload, in as many pieces as it came in; read back it is one piece (none when empty).
    pub parts: Vec<Bytes>,
}

impl LogRecord {
    /// Which entry this is.
    #[must_use]
    pub fn id(&self) -> LogId {
        LogId {
            index: self.index,
            term: self.term,
            leader: self.leader.clone(),
        }
    }

    /// Bytes of the payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Bytes of the record on disk.
    pub(crate) fn encoded_bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.leader.len() + self.payload_bytes()
    }

    /// Appends the record's head and leader to `out`; the payload follows in the file.
    ///
    /// The caller has checked the sizes when it took the record in.
    pub(crate) fn encode_head(&self, generation: u32, synced: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&(self.encoded_bytes() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&generation.to_le_bytes());
        out.extend_from_slice(&synced.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.push(self.kind);
        out.push(self.leader.len() as u8);
        out.extend_from_slice(&self.leader);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out[start..start + 4]);
        crc.update(&out[start + 8..]);
        for part in &self.parts {
            crc.update(part);
        }
        out[start + 4..start + 8].copy_from_slice(&crc.finalize().to_le_bytes());
    }
}

/// Which entry of the Raft log: the caller's log id, with the parts that the store looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogId {
    /// Position in the log.
    pub index: u64,
    /// Term of the leader that made the entry.
    pub term: u64,
    /// The rest of the log id as the consensus engine writes it, at most 255 bytes.
    pub leader: Vec<u8>,
}

impl LogId {
    /// `index u64 | term u64 | leader`, little-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.leader.len());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.leader);
        out
    }

    /// The inverse of [`LogId::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 16).then(|| Self {
            index: u64_at(bytes, 0),
            term: u64_at(bytes, 8),
            leader: bytes[16..].to_vec(),
        })
    }
}

/// The header of a segment whose first record bears the index `first`.
pub(crate) fn encode_segment_head(generation: u32, first: u64) -> [u8; SEGMENT_HEAD_BYTES] {
    let mut head = [0; SEGMENT_HEAD_BYTES];
    head[..8].copy_from_slice(SEGMENT_MAGIC);
    head[8..12].copy_from_slice(&generation.to_le_bytes());
    head[16..24].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&head[..28]);
    head[28..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Generation and first index of a segment, or the offset and nature of what is wrong.
pub(crate) fn decode_segment_head(bytes: &[u8]) -> Result<(u32, u64), (u64, &'static str)> {
    if bytes.len() < SEGMENT_HEAD_BYTES {
        return Err((
            bytes.len() as u64,
            "the file is shorter than a segment's header",
        ));
    }
    if bytes[..8] != SEGMENT_MAGIC[..] {
        return Err((
            0,
            "the file does not begin as a segment of the raft log does",
        ));
    }
    if crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
        return Err((28, "the header's checksum does not match"));
    }
    Ok((u32_at(bytes, 8), u64_at(bytes, 16)))
}

/// A record in the bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordView<'a> {
    pub(crate) size: usize,
    pub(crate) synced: u32,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) kind: u8,
    pub(crate) leader: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The record of this generation at the start of `bytes`, or what is wrong with it.
    pub(crate) fn parse(bytes: &'a [u8], generation: u32) -> Result<Self, &'static str> {
        if bytes.len() < RECORD_HEAD_BYTES {
            return Err("the segment ends within a record's header");
        }
        let size = u32_at(bytes, 0) as usize;
        let leader_bytes = usize::from(bytes[33]);
        if u32_at(bytes, 8) != generation {
            return Err("no record of this segment is here");
        }
        if size < RECORD_HEAD_BYTES + leader_bytes || size > RECORD_BYTES_MAX {
            return Err("a record has an impossible size");
        }
        if size > bytes.len() {
            return Err("a record reaches beyond the end of the segment");
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..4]);
        crc.update(&bytes[8..size]);
        if crc.finalize() != u32_at(bytes, 4) {
            return Err("a record's checksum does not match");
        }
        Ok(Self {
            size,
            synced: u32_at(bytes, 12),
            index: u64_at(bytes, 16),
            term: u64_at(bytes, 24),
            kind: bytes[32],
            leader: &bytes[RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + leader_bytes],
        })
    }

    /// Which entry this is.
    pub(crate) fn id(&self) -> LogId {
        LogId {
            index: self.index,
            term: self.term,
            leader: self.leader.to_vec(),
        }
    }

    /// The record as callers see it; `bytes` is what was parsed, shared and not copied.
    pub(crate) fn to_record(self, bytes: &Bytes) -> LogRecord {
        let payload = bytes.slice(RECORD_HEAD_BYTES + self.leader.len()..self.size);
        LogRecord {
            index: self.index,
            term: self.term,
            leader: self.leader.to_vec(),
            kind: self.kind,
            parts: if payload.is_empty() {
                Vec::new()
            } else {
                vec![payload]
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let head = encode_segment_head(2, 5);
        assert_eq!(
            &head[..28],
            b"tdgraft1\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(decode_segment_head(&head), Ok((2, 5)));

        let record = LogRecord {
            index: 9,
            term: 3,
            leader: vec![7],
            kind: 1,
            parts: vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")],
        };
        let mut bytes = Vec::new();
        record.encode_head(2, 32, &mut bytes);
        bytes.extend_from_slice(b"abc");
        assert_eq!(&bytes[..4], b"\x26\0\0\0");
        assert_eq!(
            &bytes[8..],
            b"\x02\0\0\0\x20\0\0\0\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\x01\x07abc"
        );
        let bytes = Bytes::from(bytes);
        let view = RecordView::parse(&bytes, 2).unwrap();
        assert_eq!(view.synced, 32);
        let read = view.to_record(&bytes);
        assert_eq!(read.parts, [Bytes::from_static(b"abc")]);
        assert_eq!(read.id(), record.id());
        assert_eq!(LogId::decode(&record.id().encode()), Some(record.id()));
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 0x40;
            assert!(RecordView::parse(&flipped, 2).is_err(), "flip at {at}");
        }
        assert!(RecordView::parse(&bytes, 3).is_err(), "another generation");
    }
}
