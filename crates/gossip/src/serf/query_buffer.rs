//! The queries of the last moments, and those that we asked.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use regex::bytes::RegexBuilder;

use super::event_buffer::{EVENT_SLOTS, Taken};
use crate::name::Name;
use crate::time::Time;
use crate::wire::serf::{Filter, LamportTime, Tags};

/// Queries of one moment. More than one comes about when several nodes ask at once.
const SLOT_QUERIES_MAX: usize = 1024;

/// What a filter's expression may take when it is compiled.
const EXPRESSION_BYTES_MAX: usize = 256 << 10;

/// Which queries have been here.
#[derive(Debug)]
pub(super) struct QueryBuffer {
    slots: Vec<(LamportTime, BTreeSet<u32>)>,
    begins: LamportTime,
}

impl Default for QueryBuffer {
    fn default() -> QueryBuffer {
        QueryBuffer {
            slots: vec![Default::default(); EVENT_SLOTS],
            begins: LamportTime(0),
        }
    }
}

impl QueryBuffer {
    /// Takes a query; `now` is the clock of queries after it has seen this one.
    pub(super) fn take(&mut self, ltime: LamportTime, id: u32, now: LamportTime) -> Taken {
        let window = EVENT_SLOTS as u64;
        if ltime < self.begins || (now.0 > window && ltime.0 < now.0 - window) {
            return Taken::TooOld;
        }
        let slot = &mut self.slots[(ltime.0 % window) as usize];
        if slot.0 > ltime {
            return Taken::TooOld;
        }
        if slot.0 < ltime {
            *slot = (ltime, BTreeSet::new());
        }
        if slot.1.contains(&id) {
            return Taken::Again;
        }
        if slot.1.len() >= SLOT_QUERIES_MAX {
            return Taken::Refused;
        }
        slot.1.insert(id);
        Taken::New
    }

    /// From now on what is earlier than this is not wanted.
    pub(super) fn begin_at(&mut self, begins: LamportTime) {
        self.begins = self.begins.max(begins);
    }
}

/// A query of ours that is running.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) id: u32,
    pub(super) ends: Time,
    acked: BTreeSet<Name>,
    answered: BTreeSet<Name>,
    /// When it asks whom others know by our name: how many answered, and how many of them know us.
    pub(super) about_our_name: Option<(usize, usize)>,
}

impl Running {
    pub(super) fn new(id: u32, ends: Time) -> Running {
        Running {
            id,
            ends,
            acked: BTreeSet::new(),
            answered: BTreeSet::new(),
            about_our_name: None,
        }
    }

    /// Takes an answer; whether it is the first of its kind from that member. What comes directly and
    /// through others comes several times. From more than `members` nobody can have been asked.
    pub(super) fn is_first(&mut self, from: &Name, is_ack: bool, members: usize) -> bool {
        let heard = if is_ack {
            &mut self.acked
        } else {
            &mut self.answered
        };
        heard.len() < members && heard.insert(from.detached())
    }
}

/// The queries that we asked, by their moments.
pub(super) type RunningQueries = BTreeMap<LamportTime, Running>;

/// Whether a query is for us: all filters must match. One that cannot be understood does not.
pub(super) fn is_for(filters: &[Bytes], own: &Name, tags: &Tags) -> bool {
    filters.iter().all(|filter| match Filter::decode(filter) {
        Ok(Filter::Nodes(nodes)) => nodes.contains(own),
        Ok(Filter::Tag { tag, expression }) => {
            let Ok(expression) = std::str::from_utf8(expression.as_ref()) else {
                return false;
            };
            let compiled = RegexBuilder::new(expression)
                .size_limit(EXPRESSION_BYTES_MAX)
                .build();
            let value = tags.get(&tag).map_or(&b""[..], |value| value.as_ref());
            compiled.is_ok_and(|expression| expression.is_match(value))
        }
        Err(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_new_once() {
        let (mut buffer, now) = (QueryBuffer::default(), LamportTime(600));
        let mut take = |ltime, id| buffer.take(LamportTime(ltime), id, now);
        assert_eq!(take(599, 1), Taken::New);
        assert_eq!(take(599, 1), Taken::Again);
        assert_eq!(take(599, 2), Taken::New);
        assert_eq!(take(87, 1), Taken::TooOld);
        assert_eq!(take(88, 1), Taken::New);
        let new = (0..2_000).filter(|id| take(300, *id) == Taken::New);
        assert_eq!(new.count(), 1024);
    }

    #[test]
    fn filters_are_unanchored_and_all_must_match() {
        let tags = Tags(BTreeMap::from([(Name::from("role"), Name::from("web-1"))]));
        let own = Name::from("a");
        let nodes = |names: &[&str]| {
            Filter::Nodes(names.iter().map(|name| Name::from(*name)).collect()).encode()
        };
        let tag = |tag: &str, expression: &str| {
            let (tag, expression) = (Name::from(tag), Name::from(expression));
            Filter::Tag { tag, expression }.encode()
        };
        let is_for = |filters: &[Bytes]| is_for(filters, &own, &tags);
        assert!(is_for(&[]));
        assert!(is_for(&[
            nodes(&["b", "a"]),
            tag("role", "eb"),
            tag("other", "^$")
        ]));
        assert!(!is_for(&[nodes(&["b"])]));
        assert!(!is_for(&[nodes(&["a"]), tag("role", "^eb")]));
        assert!(
            !is_for(&[tag("role", "(")]),
            "a broken expression matches nothing"
        );
        assert!(
            !is_for(&[tag("role", "((a{100}){100}){100}")]),
            "one too large does neither"
        );
        assert!(!is_for(&[Bytes::new()]));
        assert!(!is_for(&[Bytes::from_static(b"\x07\x90")]));
    }
}
