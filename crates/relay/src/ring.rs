//! The newest frames of one filter, shared by all its readers.
//!
//! A reader is a position. The ring forgets its oldest lines when it is full, whoever has not read
//! them; such a reader catches up by a stream of its own.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use tidings_event::Index;

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Lines, and how far they go.
    Lines(Bytes, Index),
    /// Nothing: everything up to here is known.
    CaughtUp(Index),
    /// What comes next is forgotten.
    Behind,
    /// This is not the timeline any more that was read.
    Over,
}

/// See above.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes_max: usize,
    lines: VecDeque<(Index, Bytes)>,
    bytes: usize,
    /// Every line after this one is here.
    floor: Index,
    /// Everything up to here was looked at.
    position: Index,
    is_over: bool,
    wakers: BTreeMap<u64, Waker>,
}

impl Ring {
    pub(crate) fn new(position: Index, bytes_max: usize) -> Ring {
        Ring {
            bytes_max,
            lines: VecDeque::new(),
            bytes: 0,
            floor: position,
            position,
            is_over: false,
            wakers: BTreeMap::new(),
        }
    }

    pub(crate) fn push(&mut self, index: Index, line: Bytes) {
        self.bytes += line.len();
        self.lines.push_back((index, line));
        self.position = index;
        while self.bytes > self.bytes_max {
            let Some((index, line)) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= line.len();
            self.floor = index;
        }
        self.wake();
    }

    /// Everything up to here was looked at.
    pub(crate) fn advance(&mut self, position: Index) {
        self.position = self.position.max(position);
    }

    /// What is before this frame is missing.
    pub(crate) fn cut(&mut self, next: Index) {
        self.lines.clear();
        self.bytes = 0;
        self.floor = next.previous();
        self.position = self.position.max(self.floor);
        self.wake();
    }

    /// Its readers begin anew.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
        self.wake();
    }

    fn wake(&mut self) {
        for (_, waker) in std::mem::take(&mut self.wakers) {
            waker.wake();
        }
    }

    /// Wakes this reader when something comes.
    pub(crate) fn register(&mut self, reader: u64, waker: &Waker) {
        self.wakers.insert(reader, waker.clone());
    }

    pub(crate) fn forget(&mut self, reader: u64) {
        self.wakers.remove(&reader);
    }

    /// Whether a reader that has everything up to `cursor` can go on here.
    pub(crate) fn meets(&self, cursor: Index) -> bool {
        cursor >= self.floor
    }

    /// What comes after `cursor`, about so many bytes.
    pub(crate) fn read(&self, cursor: Index, chunk_bytes: usize) -> Found {
        if self.is_over {
            return Found::Over;
        }
        if !self.meets(cursor) {
            return Found::Behind;
        }
        let start = self.lines.partition_point(|(index, _)| *index <= cursor);
        let Some((first, line)) = self.lines.get(start) else {
            return Found::CaughtUp(cursor.max(self.position));
        };
        let (mut last, mut joined) = (*first, BytesMut::new());
        let mut end = start + 1;
        while let Some((index, more)) = self.lines.get(end) {
            if joined.len().max(line.len()) + more.len() > chunk_bytes {
                break;
            }
            if joined.is_empty() {
                joined.extend_from_slice(line);
            }
            joined.extend_from_slice(more);
            last = *index;
            end += 1;
        }
        if end == self.lines.len() {
            last = last.max(self.position);
        }
        let bytes = match joined.is_empty() {
            true => line.clone(),
            false => joined.freeze(),
        };
        Found::Lines(bytes, last)
    }

    pub(crate) fn position(&self) -> Index {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(index: u64) -> Bytes {
        Bytes::from(format!("{index:03}\n"))
    }

    #[test]
    fn readers_get_what_is_after_them_or_are_sent_away() {
        let mut ring = Ring::new(Index(10), 12);
        assert_eq!(ring.read(Index(10), 100), Found::CaughtUp(Index(10)));
        assert_eq!(ring.read(Index(9), 100), Found::Behind);
        for index in [12, 15, 16] {
            ring.push(Index(index), line(index));
        }
        ring.advance(Index(18));
        let all = Found::Lines(Bytes::from("012\n015\n016\n"), Index(18));
        assert_eq!(ring.read(Index(10), 100), all);
        let one = Found::Lines(line(12), Index(12));
        assert_eq!(ring.read(Index(11), 4), one);
        assert_eq!(ring.read(Index(16), 100), Found::CaughtUp(Index(18)));
        // It is ahead of the ring: nothing comes twice.
        assert_eq!(ring.read(Index(20), 100), Found::CaughtUp(Index(20)));
        ring.push(Index(19), line(19));
        assert_eq!(ring.read(Index(11), 100), Found::Behind);
        assert!(matches!(ring.read(Index(12), 100), Found::Lines(..)));
        assert_eq!(ring.read(Index(20), 100), Found::CaughtUp(Index(20)));
        ring.cut(Index(30));
        assert_eq!(ring.read(Index(19), 100), Found::Behind);
        assert_eq!(ring.read(Index(29), 100), Found::CaughtUp(Index(29)));
        ring.end();
        assert_eq!(ring.read(Index(29), 100), Found::Over);
    }
}
