use bytes::Bytes;
use thiserror::Error;
use tidings_event::Timestamp;

use crate::codec::Reader;

/// What one log entry holds: commands of many callers, and the time that the leader gave them.
///
/// ```text
/// version u8 = 1 │ time i64, microseconds │ commands …
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    /// The leader's time when it gathered the batch.
    pub time: Timestamp,
    /// Encoded commands, each group as its caller made it.
    pub groups: Vec<Bytes>,
}

/// Bytes that are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// They end too early.
    #[error("the batch ends within its header")]
    Truncated,
    /// They were written by another version.
    #[error("the batch has version {found}, this program reads version 1")]
    Version {
        /// The version found.
        found: u8,
    },
}

impl Batch {
    /// Wire value: append only.
    const VERSION: u8 = 1;
    /// Version and time.
    pub const HEADER_BYTES: usize = 9;

    /// The encoded batch, in parts that are written one after the other.
    pub fn parts(&self) -> Vec<Bytes> {
        let mut header = Vec::with_capacity(Batch::HEADER_BYTES);
        header.push(Batch::VERSION);
        header.extend_from_slice(&self.time.as_unix_micros().to_le_bytes());
        let mut parts = Vec::with_capacity(self.groups.len() + 1);
        parts.push(Bytes::from(header));
        parts.extend(self.groups.iter().cloned());
        parts
    }

    /// How many bytes the parts have together.
    pub fn encoded_len(&self) -> usize {
        Batch::HEADER_BYTES + self.groups.iter().map(Bytes::len).sum::<usize>()
    }

    /// Reads what [`Batch::parts`] gave, joined.
    ///
    /// # Errors
    /// When the header is cut or of another version. Commands are read when they are applied.
    pub fn decode(bytes: Bytes) -> Result<Batch, BatchError> {
        let mut reader = Reader::new(&bytes);
        let version = reader.u8().map_err(|_| BatchError::Truncated)?;
        if version != Batch::VERSION {
            return Err(BatchError::Version { found: version });
        }
        let micros = reader.i64().map_err(|_| BatchError::Truncated)?;
        let commands = bytes.slice(Batch::HEADER_BYTES..);
        Ok(Batch {
            time: Timestamp::from_unix_micros(micros),
            groups: if commands.is_empty() {
                Vec::new()
            } else {
                vec![commands]
            },
        })
    }
}
