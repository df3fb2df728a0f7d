//! News that is passed on: a bounded number of times, the least often told first.
//!
//! ```text
//! push ─▶ ordered by (times told ↑, length ↓, age ↑) ─▶ take: what fits, each once a packet
//! ```
//!
//! News about one name replaces older news about it. News without a name stands for itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::name::Name;

/// Whoever pushed news learns by this that it has been told often enough, or was replaced.
pub type BroadcastToken = u64;

type Key = (u32, Reverse<usize>, Reverse<u64>);

#[derive(Debug)]
struct Item {
    bytes: Bytes,
    name: Option<Name>,
    token: Option<BroadcastToken>,
}

/// A queue of news.
#[derive(Debug, Default)]
pub struct BroadcastQueue {
    items: BTreeMap<Key, Item>,
    named: BTreeMap<Name, Key>,
    made: u64,
    finished: Vec<BroadcastToken>,
}

impl BroadcastQueue {
    /// How many pieces of news wait to be told.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no news.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds news. When it bears a name, it replaces the news of that name.
    pub fn push(&mut self, bytes: Bytes, name: Option<Name>, token: Option<BroadcastToken>) {
        if let Some(key) = name.as_ref().and_then(|name| self.named.remove(name)) {
            self.finish(key);
        }
        // Numbers are never given twice, also not after the queue was empty: an item would replace
        // another of the same length.
        self.made += 1;
        let key = (0, Reverse(bytes.len()), Reverse(self.made));
        self.insert(key, Item { bytes, name, token });
    }

    /// Takes what fits into `limit` bytes when each piece costs `overhead` more than its length.
    pub fn take(&mut self, overhead: usize, limit: usize, transmits_max: u32) -> Vec<Bytes> {
        let (mut taken, mut told, mut left) = (Vec::new(), Vec::new(), limit);
        let mut from = None;
        while let Some(&(transmits, ..)) = self.next_tier(from) {
            // The longest that fits, the newest of these, until nothing of this tier fits.
            while left > overhead {
                let fits = Reverse(left - overhead);
                let tier =
                    (transmits, fits, Reverse(u64::MAX))..=(transmits, Reverse(0), Reverse(0));
                let Some((&key, _)) = self.items.range(tier).next() else {
                    break;
                };
                let Some(item) = self.remove(key) else { break };
                left -= overhead + item.bytes.len();
                taken.push(item.bytes.clone());
                told.push((key, item));
            }
            from = Some(transmits);
        }
        for ((transmits, length, id), item) in told {
            if transmits + 1 >= transmits_max {
                self.finished.extend(item.token);
            } else {
                self.insert((transmits + 1, length, id), item);
            }
        }
        taken
    }

    /// Drops all but `keep` pieces, those told most often first; how many were dropped.
    pub fn prune(&mut self, keep: usize) -> usize {
        let mut dropped = 0;
        while self.items.len() > keep {
            let Some((&key, _)) = self.items.last_key_value() else {
                break;
            };
            self.finish(key);
            dropped += 1;
        }
        dropped
    }

    /// The tokens of news that need not be told any more.
    pub fn take_finished(&mut self) -> Vec<BroadcastToken> {
        std::mem::take(&mut self.finished)
    }

    /// The first key of the tier after `tier`, or of the first one.
    fn next_tier(&self, tier: Option<u32>) -> Option<&Key> {
        let from = match tier {
            None => 0,
            Some(tier) => tier.checked_add(1)?,
        };
        let begin = (from, Reverse(usize::MAX), Reverse(u64::MAX));
        self.items.range(begin..).next().map(|(key, _)| key)
    }

    fn insert(&mut self, key: Key, item: Item) {
        if let Some(name) = &item.name {
            self.named.insert(name.clone(), key);
        }
        self.items.insert(key, item);
    }

    fn remove(&mut self, key: Key) -> Option<Item> {
        let item = self.items.remove(&key)?;
        if let Some(name) = &item.name {
            self.named.remove(name);
        }
        Some(item)
    }

    fn finish(&mut self, key: Key) {
        if let Some(item) = self.remove(key) {
            self.finished.extend(item.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn queue(texts: &[&str]) -> BroadcastQueue {
        let mut queue = BroadcastQueue::default();
        for text in texts {
            queue.push(bytes(text), None, None);
        }
        queue
    }

    #[test]
    fn the_least_told_come_first_then_the_longest_then_the_newest() {
        let mut queue = queue(&["aa", "b", "cc"]);
        assert_eq!(queue.take(0, 100, 9), ["cc", "aa", "b"]);
        queue.push(bytes("d"), None, None);
        assert_eq!(queue.take(0, 5, 9), ["d", "cc", "aa"]);
        assert_eq!(queue.take(0, 100, 9), ["d", "b", "cc", "aa"]);
    }

    #[test]
    fn what_fits_is_taken_with_what_it_costs() {
        let mut queue = queue(&["1234567890", "12345", "12"]);
        assert_eq!(queue.take(3, 13, 9), ["1234567890"]);
        assert_eq!(queue.take(3, 14, 9), ["12345", "12"]);
        assert_eq!(queue.take(3, 3, 9), [""; 0]);
        assert_eq!(queue.take(3, 5, 9), ["12"]);
    }

    #[test]
    fn news_is_told_as_often_as_it_should_be_and_the_teller_learns_it() {
        let mut queue = BroadcastQueue::default();
        queue.push(bytes("x"), None, Some(7));
        for _ in 0..3 {
            assert_eq!(queue.take(0, 10, 4), ["x"]);
            assert!(queue.take_finished().is_empty());
        }
        assert_eq!(queue.take(0, 10, 4), ["x"]);
        assert_eq!(queue.take_finished(), [7]);
        assert!(queue.is_empty());
    }

    #[test]
    fn newer_news_of_a_name_replaces_the_older_also_when_it_was_the_last() {
        let mut queue = BroadcastQueue::default();
        queue.push(bytes("old"), Some(Name::from("n")), Some(1));
        queue.push(bytes("new"), Some(Name::from("n")), Some(2));
        assert_eq!(queue.take_finished(), [1]);
        queue.push(bytes("two"), Some(Name::from("m")), None);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.take(0, 10, 9), ["two", "new"]);
        queue.push(bytes("newest"), Some(Name::from("n")), None);
        assert_eq!(queue.take(0, 100, 9), ["newest", "two"]);
    }

    #[test]
    fn pruning_drops_what_was_told_most() {
        let mut queue = queue(&["aaa", "bb"]);
        queue.take(0, 3, 9);
        queue.push(bytes("c"), None, Some(3));
        assert_eq!(queue.prune(1), 2);
        assert_eq!(queue.take(0, 100, 9), ["bb"]);
        assert_eq!(queue.take_finished(), [3]);
    }

    proptest! {
        #[test]
        fn nothing_is_told_too_often_or_lost(lengths in prop::collection::vec(0..60_usize, 1..40), limit in 62..200_usize) {
            let mut queue = BroadcastQueue::default();
            for (at, length) in lengths.iter().enumerate() {
                queue.push(Bytes::from(vec![at as u8; *length]), None, Some(at as u64));
            }
            let mut told = 0;
            while !queue.is_empty() {
                let taken = queue.take(2, limit, 3);
                prop_assert!(!taken.is_empty());
                prop_assert!(taken.iter().map(|bytes| bytes.len() + 2).sum::<usize>() <= limit);
                told += taken.len();
            }
            prop_assert_eq!(told, 3 * lengths.len());
            prop_assert_eq!(queue.take_finished().len(), lengths.len());
        }
    }
}
