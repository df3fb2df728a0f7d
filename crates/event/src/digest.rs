//! Hashes of topics and keys: the routes by which a frame finds its subscribers, and the 64-bit
//! digest by which a stored frame tells that it cannot match.

use std::sync::LazyLock;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::DEFAULT_NAMESPACE;
#[cfg(test)]
use crate::json_text::escaped;
use crate::json_text::{is_plain, push_escaped};

/// The hash of one topic, key or filter key.
///
/// Always taken over the escaped text, so that a stored line and a request give the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteHash(pub u64);

impl RouteHash {
    /// Of a text as it stands in a line: escaped, without quotes.
    pub fn of_escaped(text: &[u8]) -> RouteHash {
        RouteHash(xxh3_64(text))
    }

    /// Of a text as it came in.
    pub fn of_text(text: &str) -> RouteHash {
        if is_plain(text) {
            return RouteHash::of_escaped(text.as_bytes());
        }
        let mut out = Vec::with_capacity(text.len() + 8);
        push_escaped(text, &mut out);
        RouteHash::of_escaped(&out)
    }
}

/// What a filter asks for, as one number: a topic, a topic and key, or a key in any topic.
///
/// A route is a hint: two texts can share one. Whoever follows it checks the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey(pub u64);

impl RouteKey {
    /// Everything in a topic.
    pub fn topic(topic: RouteHash) -> RouteKey {
        RouteKey(topic.0)
    }

    /// One key in a topic.
    pub fn topic_key(topic: RouteHash, key: RouteHash) -> RouteKey {
        RouteKey(xxh3_64_with_seed(&key.0.to_le_bytes(), topic.0))
    }

    /// One key in any topic.
    pub fn key(key: RouteHash) -> RouteKey {
        RouteKey(xxh3_64_with_seed(&key.0.to_le_bytes(), 0))
    }
}

/// A small set of topics and keys in 64 bits: what is in the set is always found, what is not is
/// seldom found.
///
/// Bits 0–15 tell topics (one bit each), bits 16–62 tell keys and filter keys (two bits each). With
/// one event a frame, one key in about 1,100 looks like another. Bit 63 tells that an event belongs
/// to a namespace other than `default`: most subscribers want only that one, and where the bit is
/// not set they need not look. Stored in segment indexes: never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// The digest of nothing.
    pub const EMPTY: Digest = Digest(0);

    const OTHER_NAMESPACE: u64 = 1 << 63;

    fn topic_bit(topic: RouteHash) -> u64 {
        1 << (topic.0 & 15)
    }

    fn key_bits(key: RouteHash) -> u64 {
        (1 << (16 + (key.0 & 0xffff_ffff) % 47)) | (1 << (16 + (key.0 >> 32) % 47))
    }

    /// Adds an event's topic.
    pub fn add_topic(&mut self, topic: RouteHash) {
        self.0 |= Digest::topic_bit(topic);
    }

    /// Adds an event's namespace.
    pub fn add_namespace(&mut self, namespace: RouteHash) {
        if namespace != *DEFAULT_NAMESPACE_HASH && namespace != *NO_NAMESPACE_HASH {
            self.0 |= Digest::OTHER_NAMESPACE;
        }
    }

    /// Whether an event may belong to a namespace other than `default`. Events that belong to none
    /// do not.
    pub fn has_other_namespace(self) -> bool {
        self.0 & Digest::OTHER_NAMESPACE != 0
    }

    /// Adds an event's key or filter key.
    pub fn add_key(&mut self, key: RouteHash) {
        self.0 |= Digest::key_bits(key);
    }
}

static DEFAULT_NAMESPACE_HASH: LazyLock<RouteHash> =
    LazyLock::new(|| RouteHash::of_text(DEFAULT_NAMESPACE));
static NO_NAMESPACE_HASH: LazyLock<RouteHash> = LazyLock::new(|| RouteHash::of_text(""));

/// Which digests may belong to a frame that a filter wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestFilter {
    /// Every frame may match.
    All,
    /// A frame may match when its digest has all bits of one of these.
    Any(Vec<Digest>),
}

impl DigestFilter {
    /// Whether a frame with this digest has to be looked at.
    pub fn may_match(&self, digest: Digest) -> bool {
        match self {
            DigestFilter::All => true,
            DigestFilter::Any(masks) => masks.iter().any(|mask| digest.0 & mask.0 == mask.0),
        }
    }

    /// The mask of a topic, a key, or both.
    pub(crate) fn mask(topic: Option<&[u8]>, key: Option<&[u8]>) -> Digest {
        let mut mask = Digest::EMPTY;
        if let Some(topic) = topic {
            mask.add_topic(RouteHash::of_escaped(topic));
        }
        if let Some(key) = key {
            mask.add_key(RouteHash::of_escaped(key));
        }
        mask
    }
}

/// The hash of an escaped text, from a text that came in; shared with tests.
#[cfg(test)]
pub(crate) fn hash_of_escaped(text: &str) -> RouteHash {
    RouteHash::of_escaped(&escaped(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stored_values_do_not_change() {
        let mut digest = Digest::EMPTY;
        digest.add_topic(RouteHash::of_text("Job"));
        digest.add_key(RouteHash::of_text("web"));
        assert_eq!(digest.0.count_ones(), 3);
        assert_eq!(RouteHash::of_text("Job").0, 0xad45_3287_d07a_711c);
    }

    proptest! {
        #[test]
        fn escaped_and_given_texts_hash_alike(text in any::<String>()) {
            prop_assert_eq!(RouteHash::of_text(&text), hash_of_escaped(&text));
        }

        #[test]
        fn what_was_added_is_found(topic in ".*", key in ".*", other in ".*") {
            let mut digest = Digest::EMPTY;
            digest.add_topic(RouteHash::of_text(&topic));
            digest.add_key(RouteHash::of_text(&key));
            digest.add_key(RouteHash::of_text(&other));
            let mask = DigestFilter::mask(Some(&escaped(&topic)), Some(&escaped(&key)));
            prop_assert!(DigestFilter::Any(vec![mask]).may_match(digest));
        }
    }
}
