//! As much of protocol buffers as etcd's messages need.

use super::ProtocolError;

/// Wire types of the format.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Appends a field that holds bytes, a string or a message.
pub fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_raw_varint(out, field << 3 | BYTES);
    put_raw_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field that holds a number.
pub fn put_varint(out: &mut Vec<u8>, field: u64, number: u64) {
    put_raw_varint(out, field << 3 | VARINT);
    put_raw_varint(out, number);
}

fn put_raw_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// One field of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A number, with the field's number first.
    Number(u64, u64),
    /// Bytes, a string or a message, with the field's number first.
    Bytes(u64, &'a [u8]),
}

/// Walks over the fields of a message.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of this message.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let tag = self.varint()?;
        let number = tag >> 3;
        match tag & 7 {
            VARINT => Some(Field::Number(number, self.varint()?)),
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(Field::Bytes(number, self.take(length)?))
            }
            FIXED64 => Some(Field::Bytes(number, self.take(8)?)),
            FIXED32 => Some(Field::Bytes(number, self.take(4)?)),
            _ => None,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let before = self.rest;
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| ProtocolError::unexpected("a protobuf field", before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_written() {
        let mut message = Vec::new();
        put_varint(&mut message, 3, 300);
        put_bytes(&mut message, 11, b"inner");
        let fields: Vec<_> = Fields::new(&message).map(Result::unwrap).collect();
        assert_eq!(
            fields,
            vec![Field::Number(3, 300), Field::Bytes(11, b"inner")]
        );
        assert_eq!(&message[..3], &[0x18, 0xac, 0x02]);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"inner");
        message.pop();
        assert!(Fields::new(&message).any(|field| field.is_err()));
    }
}
