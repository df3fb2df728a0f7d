//! Writes the old dialect.

use super::{
    ARRAY16, ARRAY32, FALSE, FIXARRAY, FIXMAP, FIXRAW, FLOAT64, INT8, INT16, INT32, INT64, MAP16,
    MAP32, NIL, RAW16, RAW32, TRUE, UINT8, UINT16, UINT32, UINT64,
};

/// Appends values to bytes.
#[derive(Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Begins with a type byte.
    pub(crate) fn with_type(byte: u8) -> Writer {
        Writer { out: vec![byte] }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Bytes that are encoded already.
    pub(crate) fn verbatim(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn nil(&mut self) {
        self.out.push(NIL);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.out.push(if value { TRUE } else { FALSE });
    }

    pub(crate) fn uint(&mut self, value: impl Into<u64>) {
        let value = value.into();
        let wide = value.to_be_bytes();
        match value {
            0..=0x7f => self.out.push(value as u8),
            0x80..=0xff => self.tagged(UINT8, &wide[7..]),
            0x100..=0xffff => self.tagged(UINT16, &wide[6..]),
            0x1_0000..=0xffff_ffff => self.tagged(UINT32, &wide[4..]),
            _ => self.tagged(UINT64, &wide),
        }
    }

    /// A signed number; from 0 upwards it is written as an unsigned one.
    pub(crate) fn int(&mut self, value: i64) {
        let wide = value.to_be_bytes();
        match value {
            0.. => self.uint(value.unsigned_abs()),
            -0x20..0 => self.out.push(value as u8),
            -0x80..-0x20 => self.tagged(INT8, &wide[7..]),
            -0x8000..-0x80 => self.tagged(INT16, &wide[6..]),
            -0x8000_0000..-0x8000 => self.tagged(INT32, &wide[4..]),
            _ => self.tagged(INT64, &wide),
        }
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.tagged(FLOAT64, &value.to_be_bytes());
    }

    /// A string or a byte string: on this wire they are one.
    pub(crate) fn raw(&mut self, value: &[u8]) {
        match value.len() {
            short @ 0..32 => self.out.push(FIXRAW | short as u8),
            long @ 32..=0xffff => self.tagged(RAW16, &(long as u16).to_be_bytes()),
            // Nothing of 4 GiB is ever written: all that comes in is limited far below.
            longer => self.tagged(RAW32, &(longer as u32).to_be_bytes()),
        }
        self.out.extend_from_slice(value);
    }

    /// A byte string for which none and empty are the same, as Go's `nil` slice is written.
    pub(crate) fn raw_or_nil(&mut self, value: &[u8]) {
        if value.is_empty() {
            self.nil();
        } else {
            self.raw(value);
        }
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.container(length, FIXARRAY, ARRAY16, ARRAY32);
    }

    pub(crate) fn map(&mut self, length: usize) {
        self.container(length, FIXMAP, MAP16, MAP32);
    }

    /// The key of a field. The caller writes them in alphabetical order.
    pub(crate) fn key(&mut self, key: &'static str) -> &mut Writer {
        self.raw(key.as_bytes());
        self
    }

    fn container(&mut self, length: usize, fix: u8, short: u8, long: u8) {
        match length {
            tiny @ 0..16 => self.out.push(fix | tiny as u8),
            16..=0xffff => self.tagged(short, &(length as u16).to_be_bytes()),
            _ => self.tagged(long, &(length as u32).to_be_bytes()),
        }
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        self.out.extend_from_slice(bytes);
    }
}
