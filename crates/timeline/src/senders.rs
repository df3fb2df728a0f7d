//! Whose transactions were taken up to which number, so that none is taken twice or left out.
//!
//! A **sender** is a program that keeps what it sends on a disk of its own until it is answered. It
//! numbers its transactions 1, 2, 3 … within an **epoch**; a later epoch has a greater number and
//! begins with 1 again. An epoch is the time at which it began, in microseconds, so that one that is
//! too old to be remembered can be told from one that is new.
//!
//! ```text
//! of the sender's epoch    the next number          taken
//!                          a number at or below     answered as a duplicate
//!                          beyond the next          refused: what is between would be lost
//! of a later epoch         1                        taken; the former epoch is over
//!                          another                  refused, as above
//! of an earlier epoch      any                      answered as a duplicate: it is over
//! of an unknown sender     1, of a recent epoch     taken
//!                          1, of an old epoch       refused: it may have been taken and forgotten
//!                          another                  refused, as above
//! ```
//!
//! Why it is so: docs/decisions/2026-11-25-numbers-of-senders.md.
//!
//! A sender is forgotten when nothing came of it for [`MEMORY_DAYS`]. Nothing can be taken twice by
//! that: its epoch began before it was silent, and one that began so long ago is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidings_event::{Index, Timestamp};

use crate::outcome::{Outcome, Refusal};

/// How long a silent sender is remembered, in days of command time: longer than a machine is away
/// that comes back with what it had taken.
pub const MEMORY_DAYS: i64 = 30;

/// How far an epoch may be ahead of the timeline's clock: more than clocks differ, far less than
/// [`MEMORY_DAYS`], which is what the refusal of old epochs rests on.
pub const EPOCH_AHEAD_DAYS: i64 = 1;

/// How many senders are remembered; one is an agent. With 64 runs of indexes each they take 100 MiB at most.
pub const SENDERS_MAX: usize = 65_536;

/// Runs of indexes that are remembered of each sender, so that what is sent again is answered with
/// the index that it had. Of what is older a repeat is answered without one.
const RUNS_MAX: usize = 64;

/// How often the forgotten are removed: being forgotten is decided by time, not by this.
const SWEEP_HOURS: i64 = 1;

const HOUR_MICROS: i64 = 3_600 * 1_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// Which transaction of which sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderNumber {
    /// Who.
    pub sender: u128,
    /// When its count began, in microseconds since 1970.
    pub epoch: u64,
    /// The transaction's place in the count, from 1 on.
    pub number: u64,
}

/// What is remembered of all senders.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    known: BTreeMap<u128, Sender>,
    swept_micros: i64,
}

/// The form in snapshots.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SendersRecord {
    known: Vec<(u128, Sender)>,
    swept_micros: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sender {
    epoch: u64,
    /// The last number that was taken.
    number: u64,
    /// When.
    micros: i64,
    /// Where the last ones are, oldest first.
    runs: Vec<Run>,
}

/// Numbers that follow each other on the timeline as they do in the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    number: u64,
    index: Index,
    count: u64,
}

impl Sender {
    fn is_forgotten(&self, now: i64) -> bool {
        now.saturating_sub(self.micros) > MEMORY_DAYS * DAY_MICROS
    }

    /// The index of a number, as long as it is remembered.
    fn index_of(&self, number: u64) -> Option<Index> {
        let run = self.runs.iter().rev().find(|run| run.number <= number)?;
        let beyond = number - run.number;
        (beyond < run.count).then(|| Index(run.index.get() + beyond))
    }

    fn remember(&mut self, number: u64, index: Index) {
        if let Some(run) = self.runs.last_mut()
            && run.number + run.count == number
            && run.index.get() + run.count == index.get()
        {
            run.count += 1;
            return;
        }
        if self.runs.len() >= RUNS_MAX {
            self.runs.remove(0);
        }
        self.runs.push(Run {
            number,
            index,
            count: 1,
        });
    }
}

impl Senders {
    /// Whether the transaction is the sender's next.
    ///
    /// # Errors
    /// With the outcome when it is not: it was taken before, or cannot be taken.
    pub(crate) fn admit(&self, of: SenderNumber, now: Timestamp) -> Result<(), Outcome> {
        let refused = |refusal| Err(Outcome::Refused(Box::new(refusal)));
        let now = now.as_unix_micros();
        let known = self.known.get(&of.sender);
        let known = known.filter(|sender| !sender.is_forgotten(now));
        let is_of = |epoch| known.is_some_and(|sender| sender.epoch == epoch);
        if let Some(sender) = known
            && (of.epoch < sender.epoch || is_of(of.epoch) && of.number <= sender.number)
        {
            let index = is_of(of.epoch)
                .then(|| sender.index_of(of.number))
                .flatten()
                .unwrap_or(Index::ZERO);
            return Err(Outcome::Duplicate { index });
        }
        let expected = match known {
            Some(sender) if is_of(of.epoch) => sender.number + 1,
            _ => 1,
        };
        if of.number != expected {
            return refused(Refusal::SenderGap {
                expected,
                number: of.number,
            });
        }
        if is_of(of.epoch) {
            return Ok(());
        }
        let epoch = i64::try_from(of.epoch).unwrap_or(i64::MAX);
        if epoch > now.saturating_add(EPOCH_AHEAD_DAYS * DAY_MICROS) {
            return refused(Refusal::SenderAhead { epoch: of.epoch });
        }
        if known.is_none() {
            // Whoever was forgotten was silent for so long, and had begun its epoch before, by a
            // clock that was at most so far ahead.
            let oldest = now.saturating_sub((MEMORY_DAYS - EPOCH_AHEAD_DAYS) * DAY_MICROS);
            if epoch < oldest {
                return refused(Refusal::SenderForgotten { epoch: of.epoch });
            }
            if self.known.len() >= SENDERS_MAX && !self.known.contains_key(&of.sender) {
                return refused(Refusal::TooManySenders {
                    limit: SENDERS_MAX as u64,
                });
            }
        }
        Ok(())
    }

    /// Remembers a transaction that was [admitted](Senders::admit): it is decided about, at an index
    /// when it has one.
    pub(crate) fn take(&mut self, of: SenderNumber, index: Option<Index>, now: Timestamp) {
        let sender = self.known.entry(of.sender).or_insert_with(|| Sender {
            epoch: of.epoch,
            number: 0,
            micros: 0,
            runs: Vec::new(),
        });
        if sender.epoch != of.epoch {
            sender.epoch = of.epoch;
            sender.runs.clear();
        }
        sender.number = of.number;
        sender.micros = now.as_unix_micros();
        if let Some(index) = index {
            sender.remember(of.number, index);
        }
    }

    /// Removes those that are forgotten, once in a while.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        let now = now.as_unix_micros();
        if now.saturating_sub(self.swept_micros) < SWEEP_HOURS * HOUR_MICROS {
            return;
        }
        self.swept_micros = now;
        self.known.retain(|_, sender| !sender.is_forgotten(now));
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn record(&self) -> SendersRecord {
        SendersRecord {
            known: self
                .known
                .iter()
                .map(|(id, sender)| (*id, sender.clone()))
                .collect(),
            swept_micros: self.swept_micros,
        }
    }
}

impl From<SendersRecord> for Senders {
    fn from(record: SendersRecord) -> Senders {
        Senders {
            known: record.known.into_iter().collect(),
            swept_micros: record.swept_micros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = DAY_MICROS;
    const NOW: i64 = 1_000 * DAY;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_unix_micros(micros)
    }

    fn of(epoch: i64, number: u64) -> SenderNumber {
        SenderNumber {
            sender: 7,
            epoch: epoch as u64,
            number,
        }
    }

    /// Takes it if it is the next.
    fn send(senders: &mut Senders, of: SenderNumber, index: u64, now: i64) -> Result<(), Outcome> {
        senders.admit(of, at(now))?;
        senders.take(of, Some(Index(index)), at(now));
        Ok(())
    }

    fn refused(refusal: Refusal) -> Result<(), Outcome> {
        Err(Outcome::Refused(Box::new(refusal)))
    }

    fn duplicate(index: u64) -> Result<(), Outcome> {
        Err(Outcome::Duplicate {
            index: Index(index),
        })
    }

    #[test]
    fn repeats_have_the_index_that_they_had_and_holes_are_refused() {
        let mut senders = Senders::default();
        assert_eq!(
            send(&mut senders, of(NOW, 2), 1, NOW),
            refused(Refusal::SenderGap {
                expected: 1,
                number: 2
            })
        );
        for (number, index) in [(1, 10), (2, 11), (3, 20), (4, 21)] {
            assert_eq!(send(&mut senders, of(NOW, number), index, NOW), Ok(()));
        }
        for (number, index) in [(1, 10), (2, 11), (3, 20), (4, 21)] {
            assert_eq!(
                send(&mut senders, of(NOW, number), 99, NOW),
                duplicate(index)
            );
        }
        let gap = Refusal::SenderGap {
            expected: 5,
            number: 6,
        };
        assert_eq!(send(&mut senders, of(NOW, 6), 99, NOW), refused(gap));
    }

    #[test]
    fn a_later_epoch_begins_with_one_and_ends_the_former() {
        let mut senders = Senders::default();
        send(&mut senders, of(NOW, 1), 10, NOW).unwrap();
        let later = NOW + 5;
        assert_eq!(
            send(&mut senders, of(later, 2), 11, NOW),
            refused(Refusal::SenderGap {
                expected: 1,
                number: 2
            })
        );
        assert_eq!(send(&mut senders, of(later, 1), 11, NOW), Ok(()));
        assert_eq!(send(&mut senders, of(NOW, 2), 99, NOW), duplicate(0));
        assert_eq!(send(&mut senders, of(later, 1), 99, NOW), duplicate(11));
    }

    #[test]
    fn whoever_was_forgotten_cannot_repeat_anything() {
        // Also with a clock that is as far ahead as is borne.
        for epoch in [NOW, NOW + EPOCH_AHEAD_DAYS * DAY] {
            let mut senders = Senders::default();
            send(&mut senders, of(epoch, 1), 10, NOW).unwrap();
            let day_before = NOW + (MEMORY_DAYS - 1) * DAY;
            assert_eq!(
                send(&mut senders, of(epoch, 1), 99, day_before),
                duplicate(10)
            );
            let forgotten = NOW + MEMORY_DAYS * DAY + 1;
            for swept in [false, true] {
                if swept {
                    senders.sweep(at(forgotten));
                    assert_eq!(senders.len(), 0);
                }
                assert_eq!(
                    send(&mut senders, of(epoch, 1), 99, forgotten),
                    refused(Refusal::SenderForgotten {
                        epoch: epoch as u64
                    })
                );
            }
            assert_eq!(send(&mut senders, of(forgotten, 1), 20, forgotten), Ok(()));
        }
        let mut senders = Senders::default();
        let ahead = NOW + EPOCH_AHEAD_DAYS * DAY + 1;
        assert_eq!(
            send(&mut senders, of(ahead, 1), 1, NOW),
            refused(Refusal::SenderAhead {
                epoch: ahead as u64
            })
        );
    }

    #[test]
    fn memory_of_a_sender_and_of_all_is_bounded() {
        let mut senders = Senders::default();
        for number in 1..=200 {
            send(&mut senders, of(NOW, number), number * 2, NOW).unwrap();
        }
        assert_eq!(senders.known[&7].runs.len(), RUNS_MAX);
        assert_eq!(send(&mut senders, of(NOW, 200), 1, NOW), duplicate(400));
        assert_eq!(send(&mut senders, of(NOW, 1), 1, NOW), duplicate(0));
        for sender in 0..SENDERS_MAX as u128 + 1 {
            let of = SenderNumber {
                sender,
                ..of(NOW, 1)
            };
            let _ = send(&mut senders, of, 1, NOW);
        }
        assert_eq!(senders.len(), SENDERS_MAX);
        let one_more = SenderNumber {
            sender: u128::MAX,
            ..of(NOW, 1)
        };
        assert_eq!(
            send(&mut senders, one_more, 1, NOW),
            refused(Refusal::TooManySenders {
                limit: SENDERS_MAX as u64
            })
        );
    }
}
