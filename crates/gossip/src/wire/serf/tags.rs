//! Tags: what a node's meta holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use crate::name::Name;
use crate::wire::WireError;
use crate::wire::msgpack::{Reader, Writer};

/// Bytes of meta (memberlist: `MetaMaxSize`).
pub const META_BYTES_MAX: usize = 512;

/// The first byte of meta that holds tags. Wire value.
const MAGIC: u8 = 0xff;

/// The tag that meta without tags stands for.
const ROLE: &str = "role";

/// Tags that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("Encoded length of tags exceeds limit of {META_BYTES_MAX} bytes")]
pub struct TagsError;

/// The tags of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub BTreeMap<Name, Name>);

impl Tags {
    /// The value of a tag.
    pub fn get(&self, tag: &Name) -> Option<&Name> {
        self.0.get(tag)
    }

    /// Reads a node's meta. Meta of old protocols is the role alone.
    ///
    /// # Errors
    ///
    /// It says that it holds tags, and does not. The node is still one.
    pub fn decode(meta: &Bytes) -> Result<Tags, WireError> {
        if meta.first() != Some(&MAGIC) {
            let role = Name::new(meta.clone());
            return Ok(Tags(BTreeMap::from([(Name::from(ROLE), role)])));
        }
        Tags::read(&mut Reader::new(meta.slice(1..)))
    }

    /// The meta that holds them.
    ///
    /// # Errors
    ///
    /// They are too long.
    pub fn encode(&self) -> Result<Bytes, TagsError> {
        let mut writer = Writer::with_type(MAGIC);
        self.write(&mut writer);
        let meta = writer.into_bytes();
        if meta.len() > META_BYTES_MAX {
            return Err(TagsError);
        }
        Ok(Bytes::from(meta))
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Tags, WireError> {
        let tags = reader.pairs("tags", META_BYTES_MAX, Reader::name)?;
        Ok(Tags(tags.into_iter().collect()))
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(self.0.len());
        for (tag, value) in &self.0 {
            writer.raw(tag.as_ref());
            writer.raw(value.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_from_any_meta() {
        let tags =
            Tags::decode(&Bytes::from_static(b"\xff\x82\xa4role\xa3web\xa2dc\xa1x")).unwrap();
        assert_eq!(tags.get(&Name::from("role")), Some(&Name::from("web")));
        let role = Tags::decode(&Bytes::from_static(b"database")).unwrap();
        assert_eq!(role.get(&Name::from("role")), Some(&Name::from("database")));
        assert!(Tags::decode(&Bytes::from_static(b"\xff\x81")).is_err());
        assert!(Tags::decode(&Bytes::from_static(b"\xff")).is_err());
    }

    #[test]
    fn tags_have_a_limit() {
        let tags = |length| {
            Tags(BTreeMap::from([(
                Name::from("t"),
                Name::from("x".repeat(length)),
            )]))
        };
        // ff, 81, a1 't', da and two bytes of length
        assert_eq!(tags(505).encode().unwrap().len(), 512);
        let refused = tags(506).encode().unwrap_err().to_string();
        assert_eq!(refused, "Encoded length of tags exceeds limit of 512 bytes");
    }
}
