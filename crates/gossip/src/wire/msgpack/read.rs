//! Reads what any of their encoders writes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{
    ARRAY16, ARRAY32, BIN8, BIN16, BIN32, DEPTH_MAX, EXT8, EXT16, EXT32, FALSE, FIXEXT1, FIXEXT16,
    FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAP16, MAP32, NIL, RAW16, RAW32, STR8, TRUE,
    UINT8, UINT16, UINT32, UINT64,
};
use crate::name::Name;
use crate::wire::WireError;

/// Bytes that come as a list of numbers: versions and addresses do, from some peers.
const NUMBERS_MAX: usize = 1024;

type Result<T> = std::result::Result<T, WireError>;

/// Takes values from the front of shared bytes, and never more than there are.
pub(crate) struct Reader {
    rest: Bytes,
    depth: usize,
}

/// An integer as it stood there: it fits what its field is, or not.
#[derive(Clone, Copy)]
enum Integer {
    Unsigned(u64),
    Negative(i64),
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader {
            rest: bytes,
            depth: 0,
        }
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &Bytes {
        &self.rest
    }

    /// The fields of a structure: a map in any order, or a list in the order of `fields`; unknown
    /// ones are passed over, and what is missing keeps what it was. `nil` has no field.
    ///
    /// `field` must read exactly one value.
    pub(crate) fn structure(
        &mut self,
        fields: &[&'static str],
        mut field: impl FnMut(&mut Reader, &'static str) -> Result<()>,
    ) -> Result<()> {
        self.nested(|reader| {
            let first = reader.byte()?;
            match first {
                NIL => {}
                0x80..=0x8f | MAP16 | MAP32 => {
                    for _ in 0..reader.count(first)? {
                        let key = reader.raw()?;
                        match fields.iter().find(|known| known.as_bytes() == key) {
                            Some(known) => field(reader, known)?,
                            None => reader.skip()?,
                        }
                    }
                }
                0x90..=0x9f | ARRAY16 | ARRAY32 => {
                    for at in 0..reader.count(first)? {
                        match fields.get(at) {
                            Some(known) => field(reader, known)?,
                            None => reader.skip()?,
                        }
                    }
                }
                found => {
                    return Err(WireError::Unexpected {
                        expected: "a structure (map or list)",
                        found,
                    });
                }
            }
            Ok(())
        })
    }

    /// A list; `nil` is an empty one. `item` must read exactly one value.
    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        length_max: usize,
        mut item: impl FnMut(&mut Reader) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.nested(|reader| {
            let first = reader.byte()?;
            let count = match first {
                NIL => 0,
                0x90..=0x9f | ARRAY16 | ARRAY32 => reader.count(first)?,
                found => {
                    return Err(WireError::Unexpected {
                        expected: "a list",
                        found,
                    });
                }
            };
            check_length(what, count, length_max)?;
            // No room is reserved for what is only announced.
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(item(reader)?);
            }
            Ok(items)
        })
    }

    /// A map with names as keys; `nil` is an empty one. `value` must read exactly one value.
    pub(crate) fn pairs<T>(
        &mut self,
        what: &'static str,
        length_max: usize,
        mut value: impl FnMut(&mut Reader) -> Result<T>,
    ) -> Result<Vec<(Name, T)>> {
        self.nested(|reader| {
            let first = reader.byte()?;
            let count = match first {
                NIL => 0,
                0x80..=0x8f | MAP16 | MAP32 => reader.count(first)?,
                found => {
                    return Err(WireError::Unexpected {
                        expected: "a map",
                        found,
                    });
                }
            };
            check_length(what, count, length_max)?;
            let mut pairs = Vec::new();
            for _ in 0..count {
                pairs.push((reader.name()?, value(reader)?));
            }
            Ok(pairs)
        })
    }

    /// Whether `nil` is next; it is then taken.
    pub(crate) fn take_nil(&mut self) -> Result<bool> {
        let is_nil = *self
            .rest
            .first()
            .ok_or(WireError::Truncated { missing: 1 })?
            == NIL;
        if is_nil {
            self.byte()?;
        }
        Ok(is_nil)
    }

    /// A byte string, in any of its forms: raw, str, bin, a list of small numbers, or `nil`.
    pub(crate) fn raw(&mut self) -> Result<Bytes> {
        let first = self.byte()?;
        let length = match first {
            NIL => 0,
            0xa0..=0xbf => usize::from(first & 0x1f),
            STR8 | BIN8 => usize::from(self.byte()?),
            RAW16 | BIN16 => usize::from(u16::from_be_bytes(self.array()?)),
            RAW32 | BIN32 => u32::from_be_bytes(self.array()?) as usize,
            0x90..=0x9f | ARRAY16 | ARRAY32 => return self.numbers_as_bytes(first),
            found => {
                return Err(WireError::Unexpected {
                    expected: "a string",
                    found,
                });
            }
        };
        self.take(length)
    }

    fn numbers_as_bytes(&mut self, first: u8) -> Result<Bytes> {
        let count = self.count(first)?;
        check_length("a byte string as a list of numbers", count, NUMBERS_MAX)?;
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.push(self.uint("a list of bytes")?);
        }
        Ok(Bytes::from(bytes))
    }

    pub(crate) fn name(&mut self) -> Result<Name> {
        Ok(Name::new(self.raw()?))
    }

    /// An address: 4 bytes, 16 bytes, or none. One that maps IPv4 into IPv6 is the IPv4 address.
    pub(crate) fn address(&mut self) -> Result<Option<IpAddr>> {
        let raw = self.raw()?;
        if raw.is_empty() {
            return Ok(None);
        }
        if let Ok(four) = <[u8; 4]>::try_from(&raw[..]) {
            return Ok(Some(Ipv4Addr::from(four).into()));
        }
        match <[u8; 16]>::try_from(&raw[..]) {
            Ok(sixteen) => Ok(Some(Ipv6Addr::from(sixteen).to_canonical())),
            Err(_) => Err(WireError::OutOfRange {
                field: "an address (4 or 16 bytes)",
            }),
        }
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        match self.byte()? {
            TRUE => Ok(true),
            FALSE | NIL => Ok(false),
            found => Err(WireError::Unexpected {
                expected: "true or false",
                found,
            }),
        }
    }

    /// A number from 0 upwards, written signed or unsigned.
    pub(crate) fn uint<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T> {
        match self.integer()? {
            Integer::Unsigned(value) => {
                T::try_from(value).map_err(|_| WireError::OutOfRange { field })
            }
            Integer::Negative(_) => Err(WireError::OutOfRange { field }),
        }
    }

    /// A number that may be negative.
    pub(crate) fn int(&mut self, field: &'static str) -> Result<i64> {
        match self.integer()? {
            Integer::Unsigned(value) => {
                i64::try_from(value).map_err(|_| WireError::OutOfRange { field })
            }
            Integer::Negative(value) => Ok(value),
        }
    }

    fn integer(&mut self) -> Result<Integer> {
        let first = self.byte()?;
        let signed = match first {
            NIL => return Ok(Integer::Unsigned(0)),
            0..=0x7f => return Ok(Integer::Unsigned(first.into())),
            UINT8 => return Ok(Integer::Unsigned(self.byte()?.into())),
            UINT16 => return Ok(Integer::Unsigned(u16::from_be_bytes(self.array()?).into())),
            UINT32 => return Ok(Integer::Unsigned(u32::from_be_bytes(self.array()?).into())),
            UINT64 => return Ok(Integer::Unsigned(u64::from_be_bytes(self.array()?))),
            INT8 => i64::from(i8::from_be_bytes(self.array()?)),
            INT16 => i64::from(i16::from_be_bytes(self.array()?)),
            INT32 => i64::from(i32::from_be_bytes(self.array()?)),
            INT64 => i64::from_be_bytes(self.array()?),
            0xe0..=0xff => i64::from(first as i8),
            found => {
                return Err(WireError::Unexpected {
                    expected: "a whole number",
                    found,
                });
            }
        };
        Ok(u64::try_from(signed).map_or(Integer::Negative(signed), Integer::Unsigned))
    }

    pub(crate) fn float(&mut self) -> Result<f64> {
        match *self
            .rest
            .first()
            .ok_or(WireError::Truncated { missing: 1 })?
        {
            FLOAT64 => {
                self.byte()?;
                Ok(f64::from_be_bytes(self.array()?))
            }
            FLOAT32 => {
                self.byte()?;
                Ok(f32::from_be_bytes(self.array()?).into())
            }
            _ => Ok(self.int("a number with a fraction")? as f64),
        }
    }

    /// Passes over one value of any kind.
    pub(crate) fn skip(&mut self) -> Result<()> {
        self.nested(|reader| {
            let first = reader.byte()?;
            let length = match first {
                0x80..=0x8f | MAP16 | MAP32 => {
                    for _ in 0..reader.count(first)? {
                        reader.skip()?;
                        reader.skip()?;
                    }
                    return Ok(());
                }
                0x90..=0x9f | ARRAY16 | ARRAY32 => {
                    for _ in 0..reader.count(first)? {
                        reader.skip()?;
                    }
                    return Ok(());
                }
                0..=0x7f | 0xe0..=0xff | NIL | FALSE | TRUE => 0,
                0xa0..=0xbf => usize::from(first & 0x1f),
                UINT8 | INT8 => 1,
                UINT16 | INT16 => 2,
                UINT32 | INT32 | FLOAT32 => 4,
                UINT64 | INT64 | FLOAT64 => 8,
                STR8 | BIN8 => usize::from(reader.byte()?),
                RAW16 | BIN16 => usize::from(u16::from_be_bytes(reader.array()?)),
                RAW32 | BIN32 => u32::from_be_bytes(reader.array()?) as usize,
                // An extension has a byte for its kind before its bytes.
                FIXEXT1..=FIXEXT16 => 1 + (1 << (first - FIXEXT1)),
                EXT8 => 1 + usize::from(reader.byte()?),
                EXT16 => 1 + usize::from(u16::from_be_bytes(reader.array()?)),
                EXT32 => 1 + u32::from_be_bytes(reader.array()?) as usize,
                found => {
                    return Err(WireError::Unexpected {
                        expected: "a value",
                        found,
                    });
                }
            };
            reader.take(length).map(drop)
        })
    }

    /// The next bytes, shared.
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes> {
        if length > self.rest.len() {
            let missing = length - self.rest.len();
            return Err(WireError::Truncated { missing });
        }
        Ok(self.rest.split_to(length))
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Reader) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH_MAX {
            return Err(WireError::TooDeep { limit: DEPTH_MAX });
        }
        self.depth += 1;
        let outcome = read(self);
        self.depth -= 1;
        outcome
    }

    fn byte(&mut self) -> Result<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let missing = N.saturating_sub(self.rest.len());
        let bytes = *self
            .rest
            .first_chunk()
            .ok_or(WireError::Truncated { missing })?;
        self.rest = self.rest.slice(N..);
        Ok(bytes)
    }

    /// How many items a map or list has whose first byte is this.
    fn count(&mut self, first: u8) -> Result<usize> {
        match first {
            ARRAY16 | MAP16 => Ok(usize::from(u16::from_be_bytes(self.array()?))),
            ARRAY32 | MAP32 => Ok(u32::from_be_bytes(self.array()?) as usize),
            short => Ok(usize::from(short & 0x0f)),
        }
    }
}

fn check_length(what: &'static str, length: usize, limit: usize) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;
    use proptest::prelude::*;

    fn reader(bytes: &[u8]) -> Reader {
        Reader::new(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn every_form_of_a_string_is_read() {
        for bytes in [
            &[0xa2, 0xff, b'b'][..],
            &[0xd9, 2, 0xff, b'b'],
            &[0xc4, 2, 0xff, b'b'],
            &[0xda, 0, 2, 0xff, b'b'],
            &[0xc5, 0, 2, 0xff, b'b'],
            &[0xdb, 0, 0, 0, 2, 0xff, b'b'],
            &[0xc6, 0, 0, 0, 2, 0xff, b'b'],
            &[0x92, 0xcc, 0xff, b'b'],
            &[0xdc, 0, 2, 0xd1, 0, 0xff, b'b'],
        ] {
            assert_eq!(
                reader(bytes).raw(),
                Ok(Bytes::from_static(b"\xffb")),
                "{bytes:x?}"
            );
        }
        assert_eq!(reader(&[0xc0]).raw(), Ok(Bytes::new()));
    }

    #[test]
    fn numbers_are_read_signed_or_unsigned_and_must_fit() {
        for bytes in [
            &[0xcd, 0x02, 0x4c][..],
            &[0xd1, 0x02, 0x4c],
            &[0xd2, 0, 0, 2, 0x4c],
        ] {
            assert_eq!(reader(bytes).uint::<u16>("x"), Ok(588));
            assert_eq!(reader(bytes).int("x"), Ok(588));
            let out = WireError::OutOfRange { field: "x" };
            assert_eq!(reader(bytes).uint::<u8>("x"), Err(out));
        }
        assert_eq!(reader(&[0xff]).int("x"), Ok(-1));
        assert!(reader(&[0xff]).uint::<u64>("x").is_err());
        assert!(
            reader(&[0xcf, 255, 255, 255, 255, 255, 255, 255, 255])
                .int("x")
                .is_err()
        );
    }

    #[test]
    fn g9_depth_and_announced_lengths_are_bounded() {
        let deep = vec![0x91; 100_000];
        assert_eq!(
            reader(&deep).skip(),
            Err(WireError::TooDeep { limit: DEPTH_MAX })
        );
        let wide = [0xdd, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(
            reader(&wide).skip(),
            Err(WireError::Truncated { .. })
        ));
        let listed = reader(&wide).list("things", 7, |reader| reader.skip());
        assert!(matches!(listed, Err(WireError::TooLong { limit: 7, .. })));
        let raw = [0xdb, 0xff, 0xff, 0xff, 0xff, 1];
        let missing = 0xffff_fffe;
        assert_eq!(reader(&raw).raw(), Err(WireError::Truncated { missing }));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(uint: u64, int: i64, float: f64, raw: Vec<u8>, flag: bool) {
            let mut writer = Writer::default();
            writer.map(5);
            writer.key("bool").bool(flag);
            writer.key("float").float(float);
            writer.key("int").int(int);
            writer.key("raw").raw(&raw);
            writer.key("uint").uint(uint);
            let bytes = Bytes::from(writer.into_bytes());
            let mut reader = Reader::new(bytes.clone());
            let fields = ["uint", "raw", "int", "float", "bool"];
            let mut seen = 0;
            reader.structure(&fields, |reader, field| {
                seen += 1;
                match field {
                    "uint" => assert_eq!(reader.uint::<u64>("uint")?, uint),
                    "raw" => assert_eq!(reader.raw()?, raw),
                    "int" => assert_eq!(reader.int("int")?, int),
                    "float" => assert_eq!(reader.float()?.to_bits(), float.to_bits()),
                    _ => assert_eq!(reader.bool()?, flag),
                }
                Ok(())
            }).unwrap();
            assert_eq!((seen, reader.rest().len()), (5, 0));
            let mut skipping = Reader::new(bytes);
            skipping.skip().unwrap();
            assert!(skipping.rest().is_empty());
        }

        #[test]
        fn g9_any_bytes_are_skipped_or_refused(bytes: Vec<u8>) {
            let _ = reader(&bytes).skip();
            let _ = reader(&bytes).raw();
            let _ = reader(&bytes).pairs("pairs", 9, |reader| reader.float());
        }
    }
}
