use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::digest::{Digest, DigestFilter, RouteHash, RouteKey};
use crate::frame_view::EventView;
use crate::json_text::escaped;

/// Which topics and keys a subscriber wants, by Nomad's rules, with two of its quirks mended: `*`
/// among several keys is a wildcard like everywhere else, and an event that matches twice is
/// delivered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSet {
    any_topic: Keys,
    by_topic: BTreeMap<Vec<u8>, Keys>,
}

/// Keys are kept escaped, as they stand in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    All,
    Some(BTreeSet<Vec<u8>>),
}

/// A `topic` parameter of another form than `Topic` or `Topic:key`. The text is Nomad's own.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: {raw}"
)]
pub struct TopicError {
    /// The parameter as given.
    pub raw: String,
}

impl Keys {
    fn none() -> Keys {
        Keys::Some(BTreeSet::new())
    }

    fn add(&mut self, key: &str) {
        match self {
            Keys::All => {}
            _ if key == "*" => *self = Keys::All,
            Keys::Some(keys) => {
                keys.insert(escaped(key));
            }
        }
    }

    fn matches(&self, event: &EventView<'_>) -> bool {
        match self {
            Keys::All => true,
            Keys::Some(keys) => {
                !keys.is_empty()
                    && (keys.contains(event.key_escaped().as_bytes())
                        || event
                            .filter_keys_escaped()
                            .any(|key| keys.contains(key.as_bytes())))
            }
        }
    }
}

impl TopicSet {
    /// Every topic and key.
    pub fn everything() -> TopicSet {
        TopicSet {
            any_topic: Keys::All,
            by_topic: BTreeMap::new(),
        }
    }

    /// Reads the values of the repeated `topic` parameter: `Topic`, `Topic:key`, `*`, `*:key`. None
    /// at all is everything.
    ///
    /// # Errors
    /// When a value has more than one colon.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<TopicSet, TopicError> {
        let mut set = TopicSet {
            any_topic: Keys::none(),
            by_topic: BTreeMap::new(),
        };
        let mut none = true;
        for raw in values {
            none = false;
            let mut parts = raw.split(':');
            let topic = parts.next().unwrap_or_default();
            let key = parts.next().unwrap_or("*");
            if parts.next().is_some() {
                return Err(TopicError {
                    raw: raw.to_owned(),
                });
            }
            if topic == "*" {
                set.any_topic.add(key);
            } else {
                set.by_topic
                    .entry(escaped(topic))
                    .or_insert_with(Keys::none)
                    .add(key);
            }
        }
        Ok(if none { TopicSet::everything() } else { set })
    }

    /// Whether nothing is filtered out.
    pub fn is_everything(&self) -> bool {
        self.any_topic == Keys::All
    }

    pub(crate) fn matches(&self, event: &EventView<'_>) -> bool {
        self.any_topic.matches(event)
            || self
                .by_topic
                .get(event.topic_escaped().as_bytes())
                .is_some_and(|keys| keys.matches(event))
    }

    /// Whether everything of this (escaped) topic is wanted, whatever its key.
    pub(crate) fn wants_whole_topic(&self, topic: &[u8]) -> bool {
        self.is_everything() || self.by_topic.get(topic) == Some(&Keys::All)
    }

    /// The routes by which matching events arrive; `None` when every event does.
    pub(crate) fn routes(&self) -> Option<Vec<RouteKey>> {
        let mut routes = Vec::new();
        match &self.any_topic {
            Keys::All => return None,
            Keys::Some(keys) => {
                routes.extend(
                    keys.iter()
                        .map(|key| RouteKey::key(RouteHash::of_escaped(key))),
                );
            }
        }
        for (topic, keys) in &self.by_topic {
            let topic = RouteHash::of_escaped(topic);
            match keys {
                Keys::All => routes.push(RouteKey::topic(topic)),
                Keys::Some(keys) => routes.extend(
                    keys.iter()
                        .map(|key| RouteKey::topic_key(topic, RouteHash::of_escaped(key))),
                ),
            }
        }
        Some(routes)
    }

    pub(crate) fn digests(&self) -> DigestFilter {
        let mut masks: Vec<Digest> = Vec::new();
        match &self.any_topic {
            Keys::All => return DigestFilter::All,
            Keys::Some(keys) => {
                masks.extend(keys.iter().map(|key| DigestFilter::mask(None, Some(key))));
            }
        }
        for (topic, keys) in &self.by_topic {
            match keys {
                Keys::All => masks.push(DigestFilter::mask(Some(topic), None)),
                Keys::Some(keys) => {
                    masks.extend(
                        keys.iter()
                            .map(|key| DigestFilter::mask(Some(topic), Some(key))),
                    );
                }
            }
        }
        DigestFilter::Any(masks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_strings_are_read_as_nomad_reads_them() {
        assert!(TopicSet::parse([]).unwrap().is_everything());
        assert!(TopicSet::parse(["*"]).unwrap().is_everything());
        assert!(TopicSet::parse(["*:*"]).unwrap().is_everything());
        assert!(TopicSet::parse(["Job", "*"]).unwrap().is_everything());
        assert_eq!(TopicSet::parse(["Job"]), TopicSet::parse(["Job:*"]));
        assert_eq!(
            TopicSet::parse(["Job:a", "Job:b"]),
            TopicSet::parse(["Job:b", "Job:a"])
        );
        assert_eq!(
            TopicSet::parse(["a:*:*"]).unwrap_err().to_string(),
            "Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: a:*:*"
        );
    }

    #[test]
    fn a_wildcard_among_keys_is_a_wildcard() {
        assert_eq!(
            TopicSet::parse(["Job", "Job:web"]),
            TopicSet::parse(["Job"])
        );
        assert_eq!(
            TopicSet::parse(["Job:web", "Job:*"]),
            TopicSet::parse(["Job"])
        );
    }
}
