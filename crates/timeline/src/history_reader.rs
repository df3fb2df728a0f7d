use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tidings_event::{DigestFilter, Index};

/// Reads frames that are no longer in memory. Implemented over files by the store.
pub trait HistoryReader: Send + Sync + 'static {
    /// The oldest frame that is kept; one above the newest when none is.
    fn oldest(&self) -> Index;

    /// The newest frame that is kept; [`Index::ZERO`] when there never was one.
    fn newest(&self) -> Index;

    /// Whole lines from `from` on, at least one unless all that was looked at cannot match, and not
    /// much more than `bytes_max`. Frames whose digest cannot match may be left out. Blocks.
    ///
    /// # Errors
    /// [`HistoryError::Gap`] when `from` is older than what is kept, [`HistoryError::Damaged`] when
    /// what is on disk is not what was written.
    fn read(
        &self,
        from: Index,
        bytes_max: usize,
        want: &DigestFilter,
    ) -> Result<HistoryRead, HistoryError>;

    /// The CRC-32 of the lines from `from` on, each with its newline: at most `count_max` of them, and
    /// at least one unless there is no such frame. Blocks.
    ///
    /// Whoever has noted them when the lines were written gives those, and does not look at the lines.
    ///
    /// # Errors
    /// As [`read`](HistoryReader::read).
    fn checksums(&self, from: Index, count_max: usize) -> Result<Vec<u32>, HistoryError> {
        let mut checksums = Vec::new();
        let mut next = from;
        while checksums.len() < count_max {
            let read = self.read(next, CHECKSUM_READ_BYTES, &DigestFilter::All)?;
            if read.bytes.is_empty() {
                break;
            }
            let lines = read.bytes.split_inclusive(|&byte| byte == b'\n');
            checksums.extend(lines.map(crc32fast::hash));
            next = read.next;
        }
        checksums.truncate(count_max);
        Ok(checksums)
    }
}

/// Read at once for the checksums of lines.
const CHECKSUM_READ_BYTES: usize = 256 << 10;

/// Frames as they were read.
#[derive(Clone, Debug)]
pub struct HistoryRead {
    /// Whole lines; may be empty when everything was left out.
    pub bytes: Bytes,
    /// The first frame that was not looked at.
    pub next: Index,
    /// Whether an event in these lines may belong to a namespace other than `default`, as their
    /// digests tell.
    pub other_namespaces: bool,
}

/// Why history could not be read.
#[derive(Clone, Debug, Error)]
pub enum HistoryError {
    /// What was asked for is no longer kept.
    #[error("frames before index {oldest} are no longer kept")]
    Gap {
        /// The oldest that is.
        oldest: Index,
    },
    /// A stored frame is not what was written.
    #[error("{} is damaged at byte {offset} (frame {index})", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Which frame.
        index: Index,
    },
    /// The file system refused.
    #[error("{} could not be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
}
