//! Why bytes were not read.

use thiserror::Error;

/// Why a datagram, a stream or a message could not be read, or not be opened.
///
/// Nothing has changed when one of these is returned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// More bytes are needed; on a stream they may still come.
    #[error("the message ends too early: at least {missing} more bytes are needed")]
    Truncated {
        /// How many more at least.
        missing: usize,
    },
    /// A length or a count beyond its limit.
    #[error("{what}: {length} is more than the {limit} allowed")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// What was said or counted.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// Another kind of value than the one that belongs there.
    #[error("{expected} was expected, but a value that begins with {found:#04x} stands there")]
    Unexpected {
        /// What belongs there.
        expected: &'static str,
        /// The first byte of what stands there.
        found: u8,
    },
    /// A number that its field cannot hold.
    #[error("the number in {field} is out of range")]
    OutOfRange {
        /// The field.
        field: &'static str,
    },
    /// Values, parts or layers inside each other beyond the limit.
    #[error("values are nested deeper than the {limit} levels allowed")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A message without a byte.
    #[error("the message is empty")]
    Empty,
    /// A type byte that stands for nothing here.
    #[error("{found} is no type of {what}")]
    UnknownType {
        /// Message, filter, compression …
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// The checksum of a packet is another one.
    #[error("the checksum is {expected:#010x} in the packet, but {found:#010x} over its bytes")]
    Checksum {
        /// What the packet says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// Compressed bytes that cannot be expanded.
    #[error("the compressed bytes cannot be expanded: they are not LZW, or have no end")]
    Compression,
    /// Bytes that begin with a label, which Serf's agents cannot have.
    #[error("the message bears a label, and this pool has none")]
    Labelled,
    /// No key of the keyring opens it.
    #[error("no key of the keyring opens the message")]
    NoKeyOpens,
    /// An encryption version that nobody speaks; plain bytes look like this, too.
    #[error("unsupported encryption version {0}: the sender may not encrypt at all")]
    EncryptionVersion(u8),
    /// An encrypted stream, and no keyring here.
    #[error("the stream is encrypted, and encryption is not configured here")]
    EncryptedStream,
    /// A plain stream, and a keyring here.
    #[error("the stream is not encrypted, and encryption is configured here")]
    PlainStream,
}
