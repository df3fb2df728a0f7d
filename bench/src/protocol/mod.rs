//! The wire formats, without I/O: bytes in, bytes and facts out.

mod chunked;
mod grpc;
mod http2;
mod lines;
mod protobuf;
mod resp;

pub use chunked::{Chunked, Piece};
pub use grpc::GrpcMessages;
pub use http2::{Http2, Http2Event};
pub use lines::Lines;
pub use protobuf::{Field, Fields, put_bytes, put_varint};
pub use resp::{Resp, command, read_element};

use thiserror::Error;

/// At most so many bytes of what a server sent are shown in a message.
const SHOWN_BYTES_MAX: usize = 160;

/// A server said something that ends the measurement.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// The server answered with an error.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The bytes are not what the protocol prescribes at this place.
    #[error("expected {expected}, found {found:?}")]
    Unexpected {
        /// What would have been right.
        expected: &'static str,
        /// The beginning of what came.
        found: String,
    },
    /// An event was lost, repeated or overtaken.
    #[error("event {expected} was due, {found} arrived")]
    OutOfOrder {
        /// The sequence number or index that was due.
        expected: u64,
        /// The one that came.
        found: u64,
    },
}

impl ProtocolError {
    /// `found` is not `expected`.
    pub fn unexpected(expected: &'static str, found: &[u8]) -> Self {
        Self::Unexpected {
            expected,
            found: shown(found),
        }
    }

    /// The server's own words.
    pub fn refused(words: &[u8]) -> Self {
        Self::Refused(shown(words).trim_end().to_owned())
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

/// Reads an unsigned decimal number that fills `digits`.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}
