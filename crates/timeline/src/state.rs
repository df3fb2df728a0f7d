use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};
use tidings_event::{Index, NamespaceSet, Timestamp};

use crate::{Settings, TimelineId};

/// Names an entry of the state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryName {
    /// What kind of thing.
    pub topic: Arc<str>,
    /// Whose; may be empty.
    pub namespace: Arc<str>,
    /// Which one.
    pub key: Arc<str>,
}

/// An entry of the state: the last event that told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: EntryName,
    /// The frame that made it.
    pub create_index: Index,
    /// The frame that changed it last.
    pub modify_index: Index,
    /// When that was.
    pub time: Timestamp,
    /// The body of that frame's event.
    pub(crate) body: Vec<u8>,
}

impl Entry {
    /// The entry as a frame: the event that changed it last, under the index that it had.
    pub fn line(&self) -> Bytes {
        let index = self.modify_index;
        let mut line = Vec::with_capacity(self.body.len() + 64);
        line.extend_from_slice(
            format!("{{\"Index\":{index},\"Events\":[{{\"Index\":{index},").as_bytes(),
        );
        line.extend_from_slice(&self.body);
        line.extend_from_slice(b"]}\n");
        line.into()
    }
}

/// The entries of all topics; a clone shares what it has in common with the original.
pub(crate) type Entries = RedBlackTreeMapSync<EntryName, Arc<Entry>>;
/// The last frame that changed each topic's entries.
pub(crate) type TopicIndexes = RedBlackTreeMapSync<Arc<str>, Index>;

/// The state as it was after one batch; later batches do not change it.
#[derive(Clone, Debug)]
pub struct StateView {
    /// The newest frame.
    pub index: Index,
    /// The oldest frame that is kept; one above `index` when none is.
    pub oldest: Index,
    /// Which timeline this is; `None` until its founding was applied.
    pub timeline: Option<TimelineId>,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// Ids in the dedupe window.
    pub dedupe_ids: usize,
    /// Senders whose numbers are remembered.
    pub senders: usize,
    pub(crate) entries: Entries,
    pub(crate) topics: TopicIndexes,
}

impl StateView {
    /// How many entries there are.
    pub fn entries_len(&self) -> usize {
        self.entries.size()
    }

    /// All entries, by topic, namespace and key.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// One entry.
    pub fn entry(&self, topic: &str, namespace: &str, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(&EntryName {
            topic: topic.into(),
            namespace: namespace.into(),
            key: key.into(),
        })
    }

    /// The entries of a topic whose keys begin with `prefix`, by namespace and key.
    pub fn list<'a>(
        &'a self,
        topic: &str,
        namespaces: &'a NamespaceSet,
        prefix: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let topic: Arc<str> = topic.into();
        let from = EntryName {
            topic: Arc::clone(&topic),
            namespace: "".into(),
            key: "".into(),
        };
        self.entries
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(name, _)| name.topic == topic)
            .filter(move |(name, _)| {
                namespaces.contains(&name.namespace) && name.key.starts_with(prefix)
            })
            .map(|(_, entry)| entry)
    }

    /// The entries of a topic at and after a name, by namespace and key: where a page begins.
    pub fn list_from(&self, from: EntryName) -> impl Iterator<Item = &Arc<Entry>> {
        let topic = Arc::clone(&from.topic);
        self.entries
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(name, _)| name.topic == topic)
            .map(|(_, entry)| entry)
    }

    /// All entries in the order in which they were changed last: the state as a stream of frames.
    pub fn entries_by_index(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.entries.values().cloned().collect();
        entries.sort_by_key(|entry| entry.modify_index);
        entries
    }

    /// The last frame that changed an entry of this topic, deletions included.
    pub fn topic_index(&self, topic: &str) -> Index {
        self.topics.get(topic).copied().unwrap_or_default()
    }
}
