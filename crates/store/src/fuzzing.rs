//! Entry points for fuzz targets: arbitrary bytes in place of files.

use std::io::Cursor;

use crate::history::index_file::{decode_active, decode_sealed};
use crate::history::recovery::recover_lines;
use crate::raft_log::recovery::scan;

/// Reads arbitrary bytes as a segment of the history and as its index, as opening would.
///
/// # Panics
///
/// When what recovery keeps is not what it promises: whole lines, one for each entry.
pub fn open_history_segment(first: u64, lines: &[u8], index: &[u8]) {
    // Opening refuses segments without room for another frame, as it does segment 0.
    let first = first.clamp(1, u64::MAX / 2);
    let entries = decode_active(index, first);
    if let Ok(recovered) = recover_lines(first, &entries, &mut Cursor::new(lines)) {
        let kept = &lines[..recovered.bytes as usize];
        assert_eq!(
            memchr::memchr_iter(b'\n', kept).count(),
            recovered.entries.len()
        );
        assert!(kept.is_empty() || kept.ends_with(b"\n"));
        assert!(recovered.indexed <= entries.len());
    }
    if let Ok((entries, footer)) = decode_sealed(index, first) {
        assert_eq!(entries.len() as u64, footer.count);
    }
}

/// Reads arbitrary bytes as a segment of the Raft log, as opening would.
///
/// # Panics
///
/// When what recovery keeps reaches beyond the bytes, or is not in order.
pub fn open_raft_segment(first: u64, bytes: &[u8]) {
    if let Ok(scan) = scan(bytes, first) {
        assert!(scan.end <= bytes.len());
        assert!(scan.offsets.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(scan.tail.is_none_or(|tail| tail.remains_end >= scan.end));
    }
}
