//! Names as they travel: bytes.

use std::fmt;

use bytes::Bytes;

/// A name of a node, an event, a query or a tag.
///
/// Others may send bytes that are no UTF-8 and expect them back unchanged, so a name is bytes; it is
/// shown as text with the odd bytes replaced.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

impl Name {
    /// A name of these bytes, which are shared.
    pub const fn new(bytes: Bytes) -> Name {
        Name(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same name in memory of its own: what is kept must not hold the datagram it came in.
    pub fn detached(&self) -> Name {
        Name(Bytes::copy_from_slice(&self.0))
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        Name(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Name {
    fn from(text: String) -> Name {
        Name(Bytes::from(text))
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
