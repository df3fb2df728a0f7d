//! What stands in a spool file.
//!
//! ```text
//! file    magic 8 │ first position u64 │ crc32 u32 of both │ record or mark …
//! record  length u32 │ crc32 u32 of length and line │ line
//! mark    a record whose line is empty: everything before it was on the disk when it was written
//! ```
//!
//! All numbers are little-endian. The records of a file have the positions from `first` upwards; marks
//! have none. A power cut tears what was not flushed, anywhere in it, and leaves no mark behind it.

/// Wire value: append only.
pub(crate) const MAGIC: &[u8; 8] = b"tdgspol1";

/// Bytes before the first record.
pub(crate) const HEAD_BYTES: usize = 20;

/// Bytes of a record beside its line.
pub(crate) const RECORD_HEAD_BYTES: usize = 8;

/// Longest line that is believed; what is taken is far below.
const LINE_BYTES_MAX: usize = 1 << 30;

/// The beginning of a file.
pub(crate) fn head(first: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&head[..16]);
    head[16..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The first position of a file that begins so.
pub(crate) fn read_head(bytes: &[u8]) -> Option<u64> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    let crc = u32::from_le_bytes(head[16..].try_into().ok()?);
    let is_ours = head[..8] == MAGIC[..] && crc32fast::hash(&head[..16]) == crc;
    is_ours.then(|| {
        u64::from_le_bytes([
            head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
        ])
    })
}

fn checksum(length: u32, line: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(line);
    crc.finalize()
}

/// What stands behind everything that was flushed.
pub(crate) fn mark() -> [u8; RECORD_HEAD_BYTES] {
    let mut mark = [0; RECORD_HEAD_BYTES];
    mark[4..].copy_from_slice(&checksum(0, &[]).to_le_bytes());
    mark
}

/// Appends a record. An empty line would be a mark.
pub(crate) fn push(line: &[u8], out: &mut Vec<u8>) {
    debug_assert!(!line.is_empty(), "a transaction is never empty");
    // What is taken is limited far below 4 GiB.
    let length = line.len() as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(length, line).to_le_bytes());
    out.extend_from_slice(line);
}

/// What stands at the beginning of some bytes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    /// A record: its line, and how long it is in all.
    Record(&'a [u8], usize),
    /// Everything before it was on the disk.
    Mark,
    /// Nothing more.
    End,
    /// The beginning of a record, or one that is not as it was written.
    Broken,
}

/// Reads one record.
pub(crate) fn read(bytes: &[u8]) -> Read<'_> {
    if bytes.is_empty() {
        return Read::End;
    }
    let Some((&[l0, l1, l2, l3, c0, c1, c2, c3], rest)) =
        bytes.split_first_chunk::<RECORD_HEAD_BYTES>()
    else {
        return Read::Broken;
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let crc = u32::from_le_bytes([c0, c1, c2, c3]);
    match rest.get(..length as usize) {
        Some([]) if checksum(0, &[]) == crc => Read::Mark,
        Some(line) if length as usize <= LINE_BYTES_MAX && checksum(length, line) == crc => {
            Read::Record(line, RECORD_HEAD_BYTES + line.len())
        }
        _ => Read::Broken,
    }
}

/// Whether there is a mark anywhere in the bytes behind a broken record: then it was on the disk, and
/// was not torn but damaged. Lines are JSON, in which the bytes of a mark cannot stand.
pub(crate) fn any_mark_in(bytes: &[u8]) -> bool {
    let mark = mark();
    bytes.windows(mark.len()).any(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_pinned() {
        let mut bytes = head(7).to_vec();
        push(b"{}", &mut bytes);
        assert_eq!(
            bytes,
            [
                &b"tdgspol1\x07\0\0\0\0\0\0\0"[..],
                &crc32fast::hash(b"tdgspol1\x07\0\0\0\0\0\0\0").to_le_bytes(),
                b"\x02\0\0\0",
                &crc32fast::hash(b"\x02\0\0\0{}").to_le_bytes(),
                b"{}"
            ]
            .concat()
        );
        assert_eq!(read_head(&bytes), Some(7));
        assert_eq!(read(&bytes[HEAD_BYTES..]), Read::Record(b"{}", 10));
        assert_eq!(mark(), *b"\0\0\0\0\x1c\xdf\x44\x21");
        assert_eq!(read(&mark()), Read::Mark);
        assert!(any_mark_in(&[&b"torn"[..], &mark(), b"more"].concat()));
        assert!(!any_mark_in(&bytes));
    }

    proptest! {
        /// Any cut and any flipped bit is noticed.
        #[test]
        fn g9_records_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 1..64), at in any::<u16>(), bit in 0..8_u8) {
            let mut bytes = Vec::new();
            push(&line, &mut bytes);
            let at = usize::from(at) % bytes.len();
            prop_assert_eq!(read(&bytes), Read::Record(&line, bytes.len()));
            if at > 0 {
                prop_assert_eq!(read(&bytes[..at]), Read::Broken);
            }
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(read(&bytes), Read::Broken);
            let _ = read_head(&bytes);
        }
    }
}
