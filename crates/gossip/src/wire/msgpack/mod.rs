//! msgpack as the Go programs of this protocol write it.
//!
//! Writing keeps to one dialect, byte for byte: strings and byte strings both as "raw" (no `str8`, no
//! `bin`), keys of a structure in alphabetical order, the smallest form of an integer. Reading takes
//! whatever one of their decoders takes, and no more than the limits below.

mod read;
mod write;

pub(crate) use read::Reader;
pub(crate) use write::Writer;

/// How deep maps and lists may lie in each other. The deepest message has 4 levels.
pub(crate) const DEPTH_MAX: usize = 16;

// The first bytes of values. Wire values: fixed by the msgpack specification.
const NIL: u8 = 0xc0;
const FALSE: u8 = 0xc2;
const TRUE: u8 = 0xc3;
const BIN8: u8 = 0xc4;
const BIN16: u8 = 0xc5;
const BIN32: u8 = 0xc6;
const EXT8: u8 = 0xc7;
const EXT16: u8 = 0xc8;
const EXT32: u8 = 0xc9;
const FLOAT32: u8 = 0xca;
const FLOAT64: u8 = 0xcb;
const UINT8: u8 = 0xcc;
const UINT16: u8 = 0xcd;
const UINT32: u8 = 0xce;
const UINT64: u8 = 0xcf;
const INT8: u8 = 0xd0;
const INT16: u8 = 0xd1;
const INT32: u8 = 0xd2;
const INT64: u8 = 0xd3;
const FIXEXT1: u8 = 0xd4;
const FIXEXT16: u8 = 0xd8;
const STR8: u8 = 0xd9;
const RAW16: u8 = 0xda;
const RAW32: u8 = 0xdb;
const ARRAY16: u8 = 0xdc;
const ARRAY32: u8 = 0xdd;
const MAP16: u8 = 0xde;
const MAP32: u8 = 0xdf;
const FIXMAP: u8 = 0x80;
const FIXARRAY: u8 = 0x90;
const FIXRAW: u8 = 0xa0;
