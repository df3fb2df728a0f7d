//! Datagrams: several messages in one, compressed, with a checksum, encrypted.
//!
//! ```text
//! [encrypted: whole datagram] ─▶ [0x0c │ crc32 u32 BE │ …] ─▶ message
//! message  = compound │ compressed │ one of `Message`
//! compound = 0x07 │ parts u8 │ length u16 BE … │ message …
//! ```

use bytes::Bytes;

use super::WireError;
use super::compress;
use super::keyring::Keyring;
use super::message::{Message, kind};
use super::msgpack::Reader;
use crate::chance::Chance;

/// Parts of a compound that we make. Older peers compute the size of the table of lengths in a byte,
/// and fail from 128 parts upwards.
pub const COMPOUND_PARTS_MAX: usize = 127;

/// Bytes before the parts of a compound, beside their lengths.
pub const COMPOUND_HEAD_BYTES: usize = 2;

/// What each part of a compound costs beside its bytes.
pub const COMPOUND_PART_BYTES: usize = 2;

/// How often a compound or compressed message may lie in another. Peers make at most two levels.
const LAYERS_MAX: usize = 4;

/// What all compressed messages of one datagram may expand to. Peers pack 1,400 bytes into one.
const EXPANDED_BYTES_MAX: usize = 256 << 10;

const CRC_HEAD_BYTES: usize = 5;

/// How a datagram is closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketOptions<'a> {
    /// Compress when that makes it shorter.
    pub compress: bool,
    /// Add a checksum; the receiver must be known to understand it.
    pub crc: bool,
    /// Encrypt.
    pub keyring: Option<&'a Keyring>,
}

/// What was in a datagram.
#[derive(Debug, Default)]
pub struct OpenedPacket {
    /// The messages, in their order.
    pub messages: Vec<Message>,
    /// How many parts could not be read.
    pub dropped: usize,
    /// Why the first of them could not.
    pub first_error: Option<WireError>,
}

/// Puts messages into as few datagrams as their number allows (as a rule, one).
pub fn seal_packet(
    messages: &[Bytes],
    options: PacketOptions<'_>,
    chance: &mut Chance,
) -> Vec<Bytes> {
    let mut packets = Vec::new();
    for parts in messages.chunks(COMPOUND_PARTS_MAX) {
        match parts {
            [single] => packets.push(single.clone()),
            // A length has 16 bits; what is longer than a datagram cannot be sent together.
            parts if parts.iter().any(|part| part.len() > usize::from(u16::MAX)) => {
                packets.extend(parts.iter().cloned());
            }
            parts => packets.push(compound(parts)),
        }
    }
    for packet in &mut packets {
        *packet = close(packet.clone(), options, chance);
    }
    packets
}

fn compound(parts: &[Bytes]) -> Bytes {
    let mut out = vec![kind::COMPOUND, parts.len() as u8];
    for part in parts {
        out.extend_from_slice(&(part.len() as u16).to_be_bytes());
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    Bytes::from(out)
}

fn close(mut packet: Bytes, options: PacketOptions<'_>, chance: &mut Chance) -> Bytes {
    if options.compress {
        let compressed = compress::compress(&packet);
        if compressed.len() < packet.len() {
            packet = compressed;
        }
    }
    if options.crc {
        let crc = crc32fast::hash(&packet).to_be_bytes();
        packet = Bytes::from([&[kind::HAS_CRC], &crc[..], &packet].concat());
    }
    match options.keyring {
        Some(keyring) => keyring.seal(&packet, b"", chance),
        None => packet,
    }
}

/// Opens a datagram and reads all that can be read in it.
///
/// # Errors
///
/// Nothing of it can be believed: it is not encrypted as it must be, or its checksum is wrong.
pub fn open_packet(datagram: Bytes, keyring: Option<&Keyring>) -> Result<OpenedPacket, WireError> {
    let mut packet = match keyring {
        Some(keyring) => keyring.open(&datagram, b"")?,
        None => datagram,
    };
    if packet.first() == Some(&kind::HAS_CRC) {
        let Some((head, body)) = packet.split_first_chunk::<CRC_HEAD_BYTES>() else {
            let missing = CRC_HEAD_BYTES - packet.len();
            return Err(WireError::Truncated { missing });
        };
        let expected = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let found = crc32fast::hash(body);
        if expected != found {
            return Err(WireError::Checksum { expected, found });
        }
        packet = packet.slice(CRC_HEAD_BYTES..);
    }
    let mut opening = Opening {
        packet: OpenedPacket::default(),
        expandable_bytes: EXPANDED_BYTES_MAX,
    };
    opening.message(packet, LAYERS_MAX);
    Ok(opening.packet)
}

struct Opening {
    packet: OpenedPacket,
    expandable_bytes: usize,
}

impl Opening {
    fn message(&mut self, bytes: Bytes, layers_left: usize) {
        let read = match bytes.first() {
            Some(&(kind::COMPOUND | kind::COMPRESS)) if layers_left == 0 => {
                Err(WireError::TooDeep { limit: LAYERS_MAX })
            }
            Some(&kind::COMPOUND) => self.compound(&bytes, layers_left - 1),
            Some(&kind::COMPRESS) => self.compressed(&bytes, layers_left - 1),
            _ => Message::decode(&bytes).map(|message| self.packet.messages.push(message)),
        };
        if let Err(error) = read {
            self.drop_part(error);
        }
    }

    fn drop_part(&mut self, error: WireError) {
        self.packet.dropped += 1;
        self.packet.first_error.get_or_insert(error);
    }

    fn compound(&mut self, bytes: &Bytes, layers_left: usize) -> Result<(), WireError> {
        let &[_, parts, ..] = &bytes[..] else {
            return Err(WireError::Truncated { missing: 1 });
        };
        let parts = usize::from(parts);
        let begin = COMPOUND_HEAD_BYTES + parts * COMPOUND_PART_BYTES;
        if bytes.len() < begin {
            let missing = begin - bytes.len();
            return Err(WireError::Truncated { missing });
        }
        let (lengths, mut rest) = (&bytes[COMPOUND_HEAD_BYTES..begin], bytes.slice(begin..));
        for (at, length) in lengths.chunks_exact(COMPOUND_PART_BYTES).enumerate() {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            if length > rest.len() {
                // The parts before it have arrived; it and all that follow have not.
                self.packet.dropped += parts - at - 1;
                let missing = length - rest.len();
                return Err(WireError::Truncated { missing });
            }
            self.message(rest.split_to(length), layers_left);
        }
        Ok(())
    }

    fn compressed(&mut self, bytes: &Bytes, layers_left: usize) -> Result<(), WireError> {
        let packed = compress::read_compressed(&mut Reader::new(bytes.slice(1..)))?;
        let expanded = compress::expand(&packed, self.expandable_bytes)?;
        self.expandable_bytes -= expanded.len();
        self.message(expanded, layers_left);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(byte: u8, length: usize) -> Bytes {
        Message::User(Bytes::from(vec![byte; length])).encode()
    }

    fn open(packet: &[u8]) -> OpenedPacket {
        open_packet(Bytes::copy_from_slice(packet), None).unwrap()
    }

    #[test]
    fn every_combination_of_layers_opens_again() {
        let ring = Keyring::new([[1; 16]]).unwrap();
        let mut chance = Chance::from_number(1);
        let messages = [user(1, 3), user(2, 900), user(3, 0)];
        for bits in 0..8 {
            let options = PacketOptions {
                compress: bits & 1 > 0,
                crc: bits & 2 > 0,
                keyring: (bits & 4 > 0).then_some(&ring),
            };
            let packets = seal_packet(&messages, options, &mut chance);
            assert_eq!(packets.len(), 1);
            assert_eq!(options.compress, packets[0].len() < 900);
            let opened = open_packet(packets[0].clone(), options.keyring).unwrap();
            let again: Vec<_> = opened.messages.iter().map(Message::encode).collect();
            assert_eq!((again, opened.dropped), (messages.to_vec(), 0));
        }
    }

    #[test]
    fn more_parts_than_older_peers_bear_go_in_several_datagrams() {
        let messages = vec![user(1, 1); 300];
        let packets = seal_packet(
            &messages,
            PacketOptions::default(),
            &mut Chance::from_number(1),
        );
        let parts: Vec<_> = packets
            .iter()
            .map(|packet| open(packet).messages.len())
            .collect();
        assert_eq!(parts, [127, 127, 46]);
        let huge = [user(1, 70_000), user(2, 1)];
        let packets = seal_packet(&huge, PacketOptions::default(), &mut Chance::from_number(1));
        assert_eq!(packets, huge);
    }

    #[test]
    fn a_compound_that_is_cut_off_gives_the_parts_that_arrived() {
        let parts = [user(1, 3), user(2, 3), user(3, 3)];
        let packet = seal_packet(
            &parts,
            PacketOptions::default(),
            &mut Chance::from_number(1),
        );
        for cut in 8..packet[0].len() {
            let opened = open(&packet[0][..cut]);
            assert_eq!(opened.messages.len(), (cut - 8) / 4);
            assert_eq!(opened.dropped, 3 - opened.messages.len());
        }
        assert_eq!(open(b"\x07").dropped, 1);
        assert_eq!(open(b"\x07\xff\x00").dropped, 1);
    }

    #[test]
    fn what_must_not_be_believed_is_refused_whole() {
        let ring = Keyring::new([[1; 16]]).unwrap();
        let options = PacketOptions {
            crc: true,
            ..PacketOptions::default()
        };
        let packet = &seal_packet(&[user(1, 3)], options, &mut Chance::from_number(1))[0];
        let mut flipped = packet.to_vec();
        flipped[7] ^= 1;
        let refused = open_packet(Bytes::from(flipped), None);
        assert!(matches!(refused, Err(WireError::Checksum { .. })));
        assert!(open_packet(packet.slice(..4), None).is_err());
        let refused = open_packet(user(1, 3), Some(&ring));
        assert_eq!(refused.unwrap_err(), WireError::EncryptionVersion(8));
        let labelled = open(b"\xf4\x03abc");
        assert_eq!(labelled.first_error, Some(WireError::Labelled));
    }

    #[test]
    fn g9_layers_and_expansion_are_bounded() {
        let mut packet = user(1, 3);
        for _ in 0..LAYERS_MAX {
            packet = compound(&[packet.clone()]);
        }
        assert_eq!(open(&packet).messages.len(), 1);
        packet = compound(&[packet.clone()]);
        let limit = LAYERS_MAX;
        assert_eq!(
            open(&packet).first_error,
            Some(WireError::TooDeep { limit })
        );

        let bomb = compress::compress(&user(0, EXPANDED_BYTES_MAX / 2));
        let opened = open(&compound(&[bomb.clone(), bomb]));
        assert_eq!((opened.messages.len(), opened.dropped), (1, 1));
    }

    proptest! {
        #[test]
        fn g9_any_datagram_is_read_or_dropped(mut bytes: Vec<u8>, kind in 0_u8..14) {
            let _ = open_packet(Bytes::from(bytes.clone()), None);
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = open_packet(Bytes::from(bytes), None);
        }
    }
}
