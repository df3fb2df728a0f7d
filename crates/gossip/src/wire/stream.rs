//! Streams: one message each way, compressed and encrypted as a whole.
//!
//! ```text
//! [0x0a │ length u32 BE │ encrypted …] ─▶ [0x09 │ {Algo, Buf}] ─▶ message
//! push/pull  0x06 │ header │ node … │ user state         user  0x08 │ {UserMsgLen} │ bytes
//! ping       0x00 │ ping       ack  0x02 │ ack           error 0x0d │ {Error}
//! ```

use bytes::{Bytes, BytesMut};

use super::WireError;
use super::compress;
use super::keyring::Keyring;
use super::message::{Ack, Ping, kind};
use super::msgpack::{Reader, Writer};
use super::push_pull::{Header, NodeState, PushPull};
use crate::chance::Chance;
use crate::name::Name;

/// An encrypted stream (memberlist: net.go `maxPushStateBytes`).
const ENCRYPTED_BYTES_MAX: usize = 20 << 20;

/// A plain stream, and what a compressed one expands to (memberlist: `maxDecompressedBytes`).
const STREAM_BYTES_MAX: usize = 40 << 20;

/// A message of the layer above on a stream (memberlist: net.go `maxUserMsgBytes`).
const USER_BYTES_MAX: usize = 20 << 20;

/// One value that is not a message as a whole: a header, a node. A node has up to 512 bytes of meta
/// and some 60 of its own beside its name.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// Compressed bytes say within so many bytes how many they are. What has not said it by then (a list,
/// a key that nobody knows) is not read again with each byte that trickles in, but when it has grown
/// by a quarter.
const PACKED_HEAD_BYTES_MAX: usize = 1024;

/// The bytes before what is encrypted; they are protected, too.
const ENCRYPTED_HEAD_BYTES: usize = 5;

/// What one side says on a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamMessage {
    /// All the nodes that it knows.
    PushPull(PushPull),
    /// Are you there? Asked on a stream where datagrams do not get through.
    Ping(Ping),
    /// The answer to it.
    Ack(Ack),
    /// A message of the layer above, its first byte included.
    User(Bytes),
    /// Why there is no answer.
    Error(Name),
}

/// How what is written on a stream is closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOptions<'a> {
    /// Compress, even when it gets longer: so do all peers that compress.
    pub compress: bool,
    /// Encrypt.
    pub keyring: Option<&'a Keyring>,
}

impl StreamMessage {
    /// The bytes that go on the stream.
    pub fn encode(&self, options: StreamOptions<'_>, chance: &mut Chance) -> Bytes {
        let mut writer = Writer::with_type(match self {
            StreamMessage::PushPull(_) => kind::PUSH_PULL,
            StreamMessage::Ping(_) => kind::PING,
            StreamMessage::Ack(_) => kind::ACK,
            StreamMessage::User(_) => kind::USER,
            StreamMessage::Error(_) => kind::ERROR,
        });
        match self {
            StreamMessage::PushPull(state) => state.write(&mut writer),
            StreamMessage::Ping(ping) => ping.write(&mut writer),
            StreamMessage::Ack(ack) => ack.write(&mut writer),
            StreamMessage::User(bytes) => {
                writer.map(1);
                writer.key("UserMsgLen").uint(bytes.len() as u64);
                writer.verbatim(bytes);
            }
            StreamMessage::Error(text) => {
                writer.map(1);
                writer.key("Error").raw(text.as_ref());
            }
        }
        let mut message = Bytes::from(writer.into_bytes());
        if options.compress {
            message = compress::compress(&message);
        }
        let Some(keyring) = options.keyring else {
            return message;
        };
        let length = message.len() + super::keyring::ENCRYPTION_OVERHEAD_BYTES;
        let mut head = [kind::ENCRYPT, 0, 0, 0, 0];
        head[1..].copy_from_slice(&(length as u32).to_be_bytes());
        let sealed = keyring.seal(&message, &head, chance);
        Bytes::from([&head[..], &sealed].concat())
    }
}

/// Reads one message from a stream whose bytes come in any pieces.
#[derive(Debug)]
pub struct StreamReader {
    /// What came in and was not worth a try yet.
    incoming: BytesMut,
    /// What is being read; begins where the next part begins.
    unread: Bytes,
    /// With less than this in both there is no use in trying.
    needed: usize,
    taken_bytes: usize,
    /// How far the stream has been unwrapped.
    wrapping: Wrapping,
    part: Part,
    /// What has been read of a push/pull, the only message that is read in parts.
    state: PushPull,
}

/// What may still be around the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapping {
    /// It may be encrypted and compressed.
    Any,
    /// It may be compressed. Nothing more comes from the stream.
    Compressed,
    /// It is the message itself, and is all here.
    None,
    /// It is the message itself, and comes from the stream.
    Plain,
}

/// What comes next.
#[derive(Debug)]
enum Part {
    Kind,
    Packed,
    Ping,
    Ack,
    Error,
    UserHeader,
    User { length: usize },
    Header,
    Nodes { left: usize, user_state: usize },
    UserState { length: usize },
}

impl Default for StreamReader {
    fn default() -> StreamReader {
        StreamReader {
            incoming: BytesMut::new(),
            unread: Bytes::new(),
            needed: 1,
            taken_bytes: 0,
            wrapping: Wrapping::Any,
            part: Part::Kind,
            state: PushPull::default(),
        }
    }
}

impl StreamReader {
    /// Takes more bytes; gives the message when it is complete, `None` when more are needed.
    ///
    /// # Errors
    ///
    /// No message can come of it. The stream is to be closed.
    pub fn push(
        &mut self,
        bytes: &[u8],
        keyring: Option<&Keyring>,
    ) -> Result<Option<StreamMessage>, WireError> {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes.len());
        within("bytes on a stream", self.taken_bytes, STREAM_BYTES_MAX)?;
        self.incoming.extend_from_slice(bytes);
        while self.unread.len() + self.incoming.len() >= self.needed {
            self.gather();
            match self.step(keyring) {
                Ok(None) => self.needed = 0,
                Ok(message) => return Ok(message),
                Err(WireError::Truncated { missing }) if self.may_grow() => {
                    let length = self.unread.len();
                    self.needed = length + missing;
                    if matches!(self.part, Part::Packed) && length > PACKED_HEAD_BYTES_MAX {
                        self.needed = self.needed.max(length + length / 4);
                    }
                    within("a value on a stream", self.needed, self.part_bytes_max())?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Moves what came in behind what is being read.
    fn gather(&mut self) {
        if self.unread.is_empty() {
            self.unread = self.incoming.split().freeze();
        } else if !self.incoming.is_empty() {
            self.unread = Bytes::from([&self.unread[..], &self.incoming.split()].concat());
        }
    }

    /// Whether more bytes from the stream make what is being read longer.
    fn may_grow(&self) -> bool {
        matches!(self.wrapping, Wrapping::Any | Wrapping::Plain)
    }

    /// How much may be gathered for what comes next.
    fn part_bytes_max(&self) -> usize {
        match self.part {
            Part::Kind => ENCRYPTED_HEAD_BYTES + ENCRYPTED_BYTES_MAX,
            Part::Packed => STREAM_BYTES_MAX,
            Part::User { length } | Part::UserState { length } => length,
            _ => VALUE_BYTES_MAX,
        }
    }

    /// Reads the next part. When that fails, nothing of it has been taken.
    fn step(&mut self, keyring: Option<&Keyring>) -> Result<Option<StreamMessage>, WireError> {
        match self.part {
            Part::Kind => self.kind(keyring)?,
            Part::Packed => {
                let packed = self.value(compress::read_compressed)?;
                self.unread = compress::expand(&packed, STREAM_BYTES_MAX)?;
                self.wrapping = Wrapping::None;
                self.part = Part::Kind;
            }
            Part::Ping => return Ok(Some(StreamMessage::Ping(self.value(Ping::read)?))),
            Part::Ack => return Ok(Some(StreamMessage::Ack(self.value(Ack::read)?))),
            Part::Error => return Ok(Some(StreamMessage::Error(self.value(read_error)?))),
            Part::UserHeader => {
                let length = self.value(read_user_header)?;
                self.part = Part::User { length };
            }
            Part::User { length } => {
                return Ok(Some(StreamMessage::User(
                    self.value(|rest| rest.take(length))?,
                )));
            }
            Part::Header => {
                let header = self.value(Header::read)?;
                self.state.join = header.join;
                self.part = Part::Nodes {
                    left: header.nodes,
                    user_state: header.user_state_bytes,
                };
            }
            Part::Nodes {
                left: 0,
                user_state,
            } => {
                self.part = Part::UserState { length: user_state };
            }
            Part::Nodes { left, user_state } => {
                let node = self.value(NodeState::read)?;
                self.state.nodes.push(node);
                let left = left - 1;
                self.part = Part::Nodes { left, user_state };
            }
            Part::UserState { length } => {
                self.state.user_state = self.value(|rest| rest.take(length))?;
                return Ok(Some(StreamMessage::PushPull(std::mem::take(
                    &mut self.state,
                ))));
            }
        }
        Ok(None)
    }

    /// The type byte, and what the message may be wrapped in.
    fn kind(&mut self, keyring: Option<&Keyring>) -> Result<(), WireError> {
        let first = *self
            .unread
            .first()
            .ok_or(WireError::Truncated { missing: 1 })?;
        if self.wrapping == Wrapping::Any {
            match (first, keyring) {
                (kind::HAS_LABEL, _) => return Err(WireError::Labelled),
                (kind::ENCRYPT, Some(keyring)) => return self.decrypt(keyring),
                (kind::ENCRYPT, None) => return Err(WireError::EncryptedStream),
                (_, Some(_)) => return Err(WireError::PlainStream),
                (_, None) => {}
            }
        }
        self.part = match first {
            kind::COMPRESS if matches!(self.wrapping, Wrapping::Any | Wrapping::Compressed) => {
                Part::Packed
            }
            kind::PUSH_PULL => Part::Header,
            kind::PING => Part::Ping,
            kind::ACK => Part::Ack,
            kind::USER => Part::UserHeader,
            kind::ERROR => Part::Error,
            found => {
                let what = "a message on a stream";
                return Err(WireError::UnknownType { what, found });
            }
        };
        if self.wrapping == Wrapping::Any {
            self.wrapping = Wrapping::Plain;
        }
        self.unread = self.unread.slice(1..);
        Ok(())
    }

    fn decrypt(&mut self, keyring: &Keyring) -> Result<(), WireError> {
        let mut reader = Reader::new(self.unread.clone());
        let head = reader.take(ENCRYPTED_HEAD_BYTES)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        within("encrypted bytes", length, ENCRYPTED_BYTES_MAX)?;
        let sealed = reader.take(length)?;
        // What follows when something is missing is not to be taken for bytes that may still come.
        self.wrapping = Wrapping::Compressed;
        self.unread = keyring.open(&sealed, &head)?;
        Ok(())
    }

    fn value<T>(
        &mut self,
        read: impl FnOnce(&mut Reader) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let mut reader = Reader::new(self.unread.clone());
        let value = read(&mut reader)?;
        self.unread = reader.rest().clone();
        Ok(value)
    }
}

fn within(what: &'static str, length: usize, limit: usize) -> Result<(), WireError> {
    if length > limit {
        let (length, limit) = (length as u64, limit as u64);
        return Err(WireError::TooLong {
            what,
            length,
            limit,
        });
    }
    Ok(())
}

fn read_user_header(reader: &mut Reader) -> Result<usize, WireError> {
    let mut length = 0;
    reader.structure(&["UserMsgLen"], |reader, _| {
        length = reader.uint("UserMsgLen")?;
        Ok(())
    })?;
    within("bytes of a user message", length, USER_BYTES_MAX)?;
    Ok(length)
}

fn read_error(reader: &mut Reader) -> Result<Name, WireError> {
    let mut text = Name::default();
    reader.structure(&["Error"], |reader, _| {
        text = reader.name()?;
        Ok(())
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{Source, Versions};
    use proptest::prelude::*;

    fn state(nodes: usize) -> StreamMessage {
        let node = |number| NodeState {
            name: Name::from(format!("n{number}")),
            addr: Some([127, 0, 0, 1].into()),
            port: 7946,
            meta: Bytes::from_static(b"\xff\x80"),
            incarnation: number,
            versions: Versions::SERF,
            ..NodeState::default()
        };
        StreamMessage::PushPull(PushPull {
            join: true,
            nodes: (0..nodes as u32).map(node).collect(),
            user_state: Bytes::from_static(b"user state"),
        })
    }

    fn every_message() -> [StreamMessage; 5] {
        let source = Source {
            port: 1,
            ..Source::default()
        };
        [
            state(3),
            StreamMessage::Ping(Ping {
                seq: 9,
                node: Name::from("b"),
                source,
            }),
            StreamMessage::Ack(Ack {
                seq: 9,
                payload: None,
            }),
            StreamMessage::User(Bytes::from_static(b"\x03hello")),
            StreamMessage::Error(Name::from("no")),
        ]
    }

    #[test]
    fn messages_come_whole_out_of_any_pieces() {
        let ring = Keyring::new([[5; 32]]).unwrap();
        let mut chance = Chance::from_number(1);
        for message in every_message() {
            for bits in 0..4 {
                let keyring = (bits & 2 > 0).then_some(&ring);
                let options = StreamOptions {
                    compress: bits & 1 > 0,
                    keyring,
                };
                let bytes = message.encode(options, &mut chance);
                for piece in [1, 2, 7, bytes.len()] {
                    let mut reader = StreamReader::default();
                    let mut came = None;
                    for piece in bytes.chunks(piece) {
                        assert_eq!(came, None, "it is complete with its last byte");
                        came = reader.push(piece, keyring).unwrap();
                    }
                    assert_eq!(came.as_ref(), Some(&message), "{bits} {piece}");
                }
                let cut = StreamReader::default().push(&bytes[..bytes.len() - 1], keyring);
                assert_eq!(cut, Ok(None));
            }
        }
    }

    #[test]
    fn encryption_is_demanded_and_its_lack_is_told() {
        let ring = Keyring::new([[5; 16]]).unwrap();
        let mut chance = Chance::from_number(1);
        let plain = state(1).encode(StreamOptions::default(), &mut chance);
        let options = StreamOptions {
            compress: false,
            keyring: Some(&ring),
        };
        let sealed = state(1).encode(options, &mut chance);
        let push = |bytes, keyring| StreamReader::default().push(bytes, keyring);
        assert_eq!(push(&plain, Some(&ring)), Err(WireError::PlainStream));
        assert_eq!(push(&sealed, None), Err(WireError::EncryptedStream));
        assert_eq!(push(b"\xf4\x01a", None), Err(WireError::Labelled));
        let mut flipped = sealed.to_vec();
        flipped[4] ^= 1; // the length is protected as well
        flipped.push(0);
        assert!(push(&flipped, Some(&ring)).is_err());
    }

    #[test]
    fn g9_lengths_are_bounded_before_anything_is_gathered() {
        let ring = Keyring::new([[5; 16]]).unwrap();
        let push = |bytes: &[u8], keyring| StreamReader::default().push(bytes, keyring);
        assert!(push(&[10, 0xff, 0xff, 0xff, 0xff], Some(&ring)).is_err());
        assert!(push(b"\x08\x81\xaaUserMsgLen\xce\xff\xff\xff\xff", None).is_err());
        assert!(push(b"\x06\x81\xa5Nodes\xce\xff\xff\xff\xff", None).is_err());
        assert!(push(b"\x06\x81\xa5Nodes\xd0\xff", None).is_err());
        assert!(push(b"\x06\x81\xacUserStateLen\xce\xff\xff\xff\xff", None).is_err());
        assert!(push(b"\x09\x81\xa3Buf\xdb\xff\xff\xff\xff", None).is_err());
        assert!(push(b"\x00\x81\xa4Node\xda\xff\xff", None).is_err());
    }

    #[test]
    fn g9_wrappings_do_not_nest_and_end_where_they_end() {
        let bomb = compress::compress(&compress::compress(b"\x00\x80"));
        let what = "a message on a stream";
        let refused = StreamReader::default().push(&bomb, None);
        assert_eq!(
            refused,
            Err(WireError::UnknownType {
                what,
                found: kind::COMPRESS
            })
        );
        // What is missing inside does not come from outside.
        let cut = compress::compress(b"\x08\x81\xaaUserMsgLen\x09short");
        let refused = StreamReader::default().push(&cut, None);
        assert!(
            matches!(refused, Err(WireError::Truncated { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn g9_bytes_that_trickle_are_not_read_again_each_time() {
        let mut reader = StreamReader::default();
        let begin = b"\x09\x82\xa1x\xdd\xff\xff\xff\xff";
        assert_eq!(reader.push(begin, None), Ok(None));
        let mut merged = 0;
        for _ in 0..100_000 {
            assert_eq!(reader.push(&[1], None), Ok(None));
            merged += usize::from(reader.incoming.is_empty());
        }
        assert!(merged < PACKED_HEAD_BYTES_MAX + 40, "{merged} times");
    }

    proptest! {
        #[test]
        fn g9_any_stream_is_read_or_refused(mut bytes: Vec<u8>, kind in 0_u8..14, piece in 1_usize..9) {
            bytes.insert(0, kind);
            let mut reader = StreamReader::default();
            for piece in bytes.chunks(piece) {
                if reader.push(piece, None).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn g9_a_flipped_byte_is_read_or_refused(at: prop::sample::Index, bit in 0..8_u8, which in 0..5_usize) {
            let mut chance = Chance::from_number(1);
            let bytes = every_message()[which].encode(StreamOptions::default(), &mut chance);
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = StreamReader::default().push(&bytes, None);
        }
    }
}
