//! What was taken, what is sent and what the timeline has: the deciding half of the spool. It knows no
//! files, no clock and no network.
//!
//! ```text
//!  position   1 ─────────── acknowledged ──────────── last
//!             the timeline  │  not yet the timeline's │ next to be taken
//!             has these     │                         │
//!                     on disk only ──┬── window ──────┤ the newest, also in memory
//!                                    └ window_first   │
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::answer::{Answer, NotTaken};
use crate::files::Found;
use crate::record::RECORD_HEAD_BYTES;
use crate::sender::Sender;

/// Bytes of the newest records that are kept in memory, so that they need not be read again to be
/// sent. What does not fit is read from the files.
const WINDOW_BYTES: usize = 16 << 20;

/// Bytes that may wait for the disk beside them; beyond it publishers wait.
const UNWRITTEN_BYTES: usize = 16 << 20;

/// Where the next record to send is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Here.
    Line(Bytes),
    /// On disk only.
    OnDisk,
    /// Nothing was taken that far.
    Nothing,
}

/// Whoever waits for the outcomes of what it handed in.
#[derive(Debug)]
struct Waiter {
    last: u64,
    answers: Vec<Answer>,
    done: Option<oneshot::Sender<Vec<Answer>>>,
}

/// See above.
#[derive(Debug)]
pub(crate) struct Queue {
    bytes_max: u64,
    window: VecDeque<Bytes>,
    window_first: u64,
    window_bytes: usize,
    /// The last position that is in a file.
    written: u64,
    last: u64,
    acknowledged: u64,
    /// Bytes of what the timeline does not have.
    bytes: u64,
    holes: VecDeque<(u64, u64)>,
    waiters: BTreeMap<u64, Waiter>,
    sender: Sender,
}

impl Queue {
    pub(crate) fn new(found: &Found, sender: Sender, bytes_max: u64) -> Queue {
        Queue {
            bytes_max,
            window: VecDeque::new(),
            window_first: found.last + 1,
            window_bytes: 0,
            written: found.last,
            last: found.last,
            acknowledged: found.acknowledged,
            bytes: found.bytes,
            holes: found.holes.iter().copied().collect(),
            waiters: BTreeMap::new(),
            sender,
        }
    }

    /// Takes transactions; they have the positions from the one that is given upwards.
    pub(crate) fn take(
        &mut self,
        lines: &[Bytes],
    ) -> Result<(u64, oneshot::Receiver<Vec<Answer>>), NotTaken> {
        let size = |line: &Bytes| (line.len() + RECORD_HEAD_BYTES) as u64;
        let more: u64 = lines.iter().map(size).sum();
        if self.bytes + more > self.bytes_max {
            return Err(NotTaken::Full {
                bytes: self.bytes,
                limit: self.bytes_max,
            });
        }
        if self.window_bytes >= WINDOW_BYTES + UNWRITTEN_BYTES {
            return Err(NotTaken::Busy);
        }
        let first = self.last + 1;
        for line in lines {
            self.window_bytes += line.len();
            self.window.push_back(line.clone());
        }
        self.bytes += more;
        self.last += lines.len() as u64;
        let (done, answers) = oneshot::channel();
        let waiter = Waiter {
            last: self.last,
            answers: Vec::with_capacity(lines.len()),
            done: Some(done),
        };
        self.waiters.insert(first, waiter);
        self.trim();
        Ok((first, answers))
    }

    /// Everything up to here is in files.
    pub(crate) fn written(&mut self, position: u64) {
        self.written = self.written.max(position);
        self.trim();
    }

    /// Lets go of what need not be in memory.
    fn trim(&mut self) {
        while self.window_first <= self.acknowledged
            || self.window_bytes > WINDOW_BYTES && self.window_first <= self.written
        {
            let Some(line) = self.window.pop_front() else {
                break;
            };
            self.window_bytes -= line.len();
            self.window_first += 1;
        }
    }

    /// What stands at a position.
    pub(crate) fn at(&self, position: u64) -> Next {
        if position > self.last {
            return Next::Nothing;
        }
        let Some(ordinal) = position.checked_sub(self.window_first) else {
            return Next::OnDisk;
        };
        match self.window.get(ordinal as usize) {
            Some(line) => Next::Line(line.clone()),
            None => Next::OnDisk,
        }
    }

    /// The timeline has decided about the oldest record, which has so many bytes.
    pub(crate) fn acknowledge(&mut self, line_bytes: usize, answer: Answer) {
        if self.acknowledged >= self.last {
            return;
        }
        self.acknowledged += 1;
        let position = self.acknowledged;
        self.bytes = self
            .bytes
            .saturating_sub((line_bytes + RECORD_HEAD_BYTES) as u64);
        if let Some(waiter) = self.waiters.range_mut(..=position).next_back()
            && position <= waiter.1.last
        {
            let first = *waiter.0;
            waiter.1.answers.push(answer);
            if position == waiter.1.last
                && let Some(waiter) = self.waiters.remove(&first)
                && let Some(done) = waiter.done
            {
                // Whoever is gone is not told.
                let _ = done.send(waiter.answers);
            }
        }
        self.skip_holes();
        self.trim();
    }

    /// Positions whose file is gone are not waited for.
    pub(crate) fn skip_holes(&mut self) {
        while let Some((from, to)) = self.holes.front().copied() {
            if from > self.acknowledged + 1 {
                break;
            }
            self.acknowledged = self.acknowledged.max(to);
            self.holes.pop_front();
        }
    }

    /// The caller that handed in what begins at a position waits no longer: what was decided by now.
    pub(crate) fn give_up(&mut self, first: u64) -> Vec<Answer> {
        self.waiters
            .remove(&first)
            .map(|waiter| waiter.answers)
            .unwrap_or_default()
    }

    /// Whether somebody waits for the outcome of a position.
    pub(crate) fn is_awaited(&self, position: u64) -> bool {
        let before = self.waiters.range(..=position).next_back();
        before.is_some_and(|(_, waiter)| {
            let waits = waiter.done.as_ref().is_some_and(|done| !done.is_closed());
            position <= waiter.last && waits
        })
    }

    /// The last position that is sent in the same count as this one, when there is an end.
    pub(crate) fn end_of_run(&self, position: u64) -> Option<u64> {
        let hole = self.holes.iter().find(|(from, _)| *from > position);
        let hole = hole.map(|(from, _)| from - 1);
        let epoch = self.sender.end_of(position);
        match (hole, epoch) {
            (Some(hole), Some(epoch)) => Some(hole.min(epoch)),
            (hole, epoch) => hole.or(epoch),
        }
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(crate) fn set_sender(&mut self, sender: Sender) {
        self.sender = sender;
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidings_event::Index;
    use tidings_timeline::Outcome;

    fn queue(bytes_max: u64) -> Queue {
        let found = Found {
            sender: None,
            acknowledged: 0,
            bytes: 0,
            last: 0,
            holes: Vec::new(),
            cut: 0,
        };
        let mut sender = Sender {
            id: "01K0000000000000000000000A".to_owned(),
            home: "here".to_owned(),
            epochs: Vec::new(),
        };
        sender.begin(1, 100);
        Queue::new(&found, sender, bytes_max)
    }

    fn line(position: u64) -> Bytes {
        Bytes::from(format!("line {position}"))
    }

    fn published(index: u64) -> Answer {
        Answer::Outcome(Outcome::Published {
            index: Index(index),
        })
    }

    #[test]
    fn a_full_spool_takes_nothing_until_something_is_acknowledged() {
        let mut queue = queue(40);
        let (first, _) = queue.take(&[line(1), line(2)]).unwrap();
        assert_eq!((first, queue.bytes()), (1, 28));
        let full = NotTaken::Full {
            bytes: 28,
            limit: 40,
        };
        assert_eq!(queue.take(&[line(3)]).unwrap_err(), full);
        queue.acknowledge(6, published(1));
        assert_eq!(queue.take(&[line(3)]).unwrap().0, 3);
        assert_eq!(queue.at(1), Next::OnDisk);
        assert_eq!(queue.at(3), Next::Line(line(3)));
        assert_eq!(queue.at(4), Next::Nothing);
    }

    #[test]
    fn whoever_gives_up_is_told_what_was_decided() {
        let mut queue = queue(1_000);
        let (one, mut first) = queue.take(&[line(1)]).unwrap();
        let (two, second) = queue.take(&[line(2), line(3)]).unwrap();
        queue.acknowledge(6, published(7));
        queue.acknowledge(6, published(8));
        assert_eq!(first.try_recv().unwrap(), [published(7)]);
        assert!(queue.is_awaited(3) && !queue.is_awaited(1));
        drop(second);
        assert!(!queue.is_awaited(3));
        assert_eq!(queue.give_up(two), [published(8)]);
        assert_eq!(queue.give_up(one), []);
        queue.acknowledge(6, published(9));
        queue.acknowledge(6, published(9));
        assert_eq!((queue.acknowledged(), queue.bytes()), (3, 0));
    }

    #[test]
    fn holes_are_passed_over_and_end_a_run() {
        let mut queue = queue(1_000);
        queue.last = 9;
        queue.holes = [(3, 5)].into();
        queue.sender.begin(8, 200);
        assert_eq!(queue.end_of_run(1), Some(2));
        assert_eq!(queue.end_of_run(6), Some(7));
        assert_eq!(queue.end_of_run(8), None);
        queue.acknowledge(6, published(1));
        assert_eq!(queue.acknowledged(), 1);
        queue.acknowledge(6, published(2));
        assert_eq!(queue.acknowledged(), 5);
    }

    proptest! {
        /// Whoever waits is answered for each of its transactions with the outcome of that one, and
        /// what memory holds is bounded.
        #[test]
        fn g5_each_waiter_gets_its_own_answers(steps in proptest::collection::vec((0..4_u8, 1..5_usize), 1..60)) {
            let mut queue = queue(100_000);
            let mut waiting: Vec<(u64, usize, oneshot::Receiver<Vec<Answer>>)> = Vec::new();
            for (step, count) in steps {
                match step {
                    0 | 1 => {
                        let first = queue.last() + 1;
                        let lines: Vec<Bytes> = (0..count as u64).map(|more| line(first + more)).collect();
                        let (taken, done) = queue.take(&lines).unwrap();
                        prop_assert_eq!(taken, first);
                        waiting.push((first, count, done));
                    }
                    2 => for _ in 0..count {
                        let next = queue.acknowledged() + 1;
                        queue.acknowledge(line(next).len(), published(next));
                    },
                    _ => {
                        let last = queue.last();
                        queue.written(last);
                    }
                }
                for position in queue.acknowledged() + 1..=queue.last() {
                    prop_assert_eq!(queue.at(position), Next::Line(line(position)));
                }
                for (first, count, done) in &mut waiting {
                    let expected: Vec<Answer> = (*first..*first + *count as u64).map(published).collect();
                    if let Ok(answers) = done.try_recv() {
                        prop_assert_eq!(answers, expected);
                    }
                }
            }
            while queue.acknowledged() < queue.last() {
                let next = queue.acknowledged() + 1;
                queue.acknowledge(line(next).len(), published(next));
            }
            prop_assert_eq!((queue.bytes(), queue.window_bytes), (0, 0));
            prop_assert!(queue.waiters.is_empty());
        }
    }
}
