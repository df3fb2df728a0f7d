//! Compressed messages: LZW as Go's `compress/lzw` writes it (least significant bit first, 8 bits).

use bytes::Bytes;
use weezl::BitOrder;
use weezl::LzwStatus;
use weezl::decode::Configuration;

use super::WireError;
use super::message::kind;
use super::msgpack::{Reader, Writer};

/// The only algorithm there is. Wire value: append only.
const ALGORITHM_LZW: u8 = 0;
const LITERAL_BITS: u8 = 8;
/// How much is expanded at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// `type │ {Algo, Buf}` with the message compressed in it.
pub(super) fn compress(message: &[u8]) -> Bytes {
    let packed = weezl::encode::Encoder::new(BitOrder::Lsb, LITERAL_BITS)
        .encode(message)
        .expect("every byte is a literal of 8 bits");
    let mut writer = Writer::with_type(kind::COMPRESS);
    writer.map(2);
    writer.key("Algo").uint(ALGORITHM_LZW);
    writer.key("Buf").raw(&packed);
    Bytes::from(writer.into_bytes())
}

/// The compressed bytes of what follows the type byte.
pub(super) fn read_compressed(reader: &mut Reader) -> Result<Bytes, WireError> {
    let (mut algorithm, mut packed) = (ALGORITHM_LZW, Bytes::new());
    reader.structure(&["Algo", "Buf"], |reader, field| {
        match field {
            "Algo" => algorithm = reader.uint("Algo")?,
            _ => packed = reader.raw()?,
        }
        Ok(())
    })?;
    if algorithm != ALGORITHM_LZW {
        return Err(WireError::UnknownType {
            what: "compression",
            found: algorithm,
        });
    }
    Ok(packed)
}

/// Expands to at most `limit` bytes; memory grows with what really comes out.
pub(super) fn expand(packed: &[u8], limit: usize) -> Result<Bytes, WireError> {
    let mut decoder = Configuration::new(BitOrder::Lsb, LITERAL_BITS).build();
    let (mut rest, mut out) = (packed, Vec::new());
    loop {
        let filled = out.len();
        // One byte more than allowed shows that there is more.
        let room = CHUNK_BYTES.min(limit + 1 - filled);
        out.resize(filled + room, 0);
        let step = decoder.decode_bytes(rest, &mut out[filled..]);
        out.truncate(filled + step.consumed_out);
        rest = &rest[step.consumed_in..];
        if out.len() > limit {
            return Err(WireError::TooLong {
                what: "expanded bytes",
                length: out.len() as u64,
                limit: limit as u64,
            });
        }
        match step.status {
            Ok(LzwStatus::Done) => return Ok(Bytes::from(out)),
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::NoProgress) | Err(_) => return Err(WireError::Compression),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_bytes_have_the_form_that_go_gives_them() {
        assert_eq!(
            compress(b"")[..],
            *b"\x09\x82\xa4Algo\x00\xa3Buf\xa3\x00\x03\x02"
        );
    }

    #[test]
    fn g9_a_bomb_is_refused_at_its_limit() {
        let bomb = compress(&vec![0; 4 << 20]);
        assert!(bomb.len() < 40_000);
        let packed = read_compressed(&mut Reader::new(bomb.slice(1..))).unwrap();
        assert_eq!(expand(&packed, 4 << 20).unwrap().len(), 4 << 20);
        let refused = expand(&packed, (4 << 20) - 1);
        assert!(
            matches!(refused, Err(WireError::TooLong { .. })),
            "{refused:?}"
        );
        assert_eq!(
            expand(&packed[..packed.len() - 40], 4 << 20),
            Err(WireError::Compression)
        );
        assert_eq!(expand(b"", 10), Err(WireError::Compression));
    }
}
