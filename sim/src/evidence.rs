//! What was seen from outside while a cluster ran.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidings_event::FrameView;
use tidings_host::simulated::world;

use crate::checkers::Violation;

/// A transaction that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    /// The Ids of its events.
    pub ids: Vec<String>,
    pub index: u64,
    pub invoked: Duration,
    pub answered: Duration,
}

/// What became of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetResult {
    Stored {
        index: u64,
    },
    Mismatch {
        current: u64,
    },
    /// It may have happened.
    Unknown,
}

/// A compare-and-set.
#[derive(Debug, Clone)]
pub(crate) struct SetCall {
    pub key: String,
    /// As it stands in the payload.
    pub operation: String,
    pub invoked: Duration,
    pub answered: Duration,
    pub result: SetResult,
}

/// A read that was to see everything acknowledged before it.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub name: String,
    pub server: String,
    pub asked: Duration,
    /// The newest index that anybody had been told when it was asked for.
    pub told: u64,
    /// The newest index that it saw.
    pub seen: u64,
}

/// What an agent said of a transaction that was handed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandedAnswer {
    /// The timeline has it, here; 0 where that is not remembered.
    Taken { index: u64 },
    /// It is on the agent's disk.
    Spooled,
    /// It was taken, and then nothing was said.
    Unknown,
    /// Nothing was taken.
    NotTaken,
    /// The timeline refused it.
    Refused,
}

/// A transaction that was handed to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Handed {
    pub agent: String,
    /// As it stands in the payload.
    pub token: String,
    pub answer: HandedAnswer,
}

/// What a follower was given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followed {
    pub name: String,
    /// `None`: everything.
    pub topic: Option<String>,
    /// The first frame that it asked for.
    pub from: u64,
    pub lines: Vec<(u64, Bytes)>,
    /// Whether its server was removed: it gets nothing more.
    pub ends_early: bool,
    /// Frames that it was told it does not get: from, to before.
    pub gaps: Vec<(u64, u64)>,
}

impl Handed {
    /// Whether it must be on the timeline.
    pub fn is_taken(&self) -> bool {
        let answer = self.answer;
        matches!(answer, HandedAnswer::Taken { .. } | HandedAnswer::Spooled)
    }
}

/// The history of one server, as it lies on its disk in the end.
#[derive(Debug, Clone)]
pub(crate) struct DiskHistory {
    pub server: String,
    /// Name and bytes of each segment, in order.
    pub segments: Vec<(String, Bytes)>,
}

impl DiskHistory {
    /// The lines and the indexes that they bear.
    pub fn lines(&self) -> Vec<(u64, Bytes)> {
        let mut lines = Vec::new();
        for (_, bytes) in &self.segments {
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                if let Ok(frame) = FrameView::parse(line) {
                    lines.push((frame.index().get(), bytes.slice_ref(line)));
                }
            }
        }
        lines
    }
}

/// All that the checkers look at.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Each line that anybody was given under an index, and by whom first.
    pub served: BTreeMap<u64, (Bytes, String)>,
    pub acknowledged: Vec<Acknowledged>,
    pub sets: Vec<SetCall>,
    pub reads: Vec<Read>,
    /// In the order in which the agents took it.
    pub handed: Vec<Handed>,
    pub followed: BTreeMap<String, Followed>,
    pub histories: Vec<DiskHistory>,
    /// The newest frame in the end, and the oldest that is kept.
    pub newest: u64,
    pub oldest: u64,
    /// What is wrong without a checker having to look for it.
    pub violations: Vec<Violation>,
}

impl Evidence {
    /// The newest index that anybody was told.
    pub fn newest_told(&self) -> u64 {
        let published = self.acknowledged.iter().map(|told| told.index);
        let set = self.sets.iter().filter_map(|call| match call.result {
            SetResult::Stored { index } => Some(index),
            SetResult::Mismatch { .. } | SetResult::Unknown => None,
        });
        published.chain(set).max().unwrap_or_default()
    }

    /// A whole line was given to somebody.
    pub fn serve(&mut self, index: u64, line: &Bytes, by: &str) {
        match self.served.get(&index) {
            None => {
                self.served.insert(index, (line.clone(), by.to_owned()));
            }
            Some((known, first)) if known != line => {
                let what = format!(
                    "frame {index} was {:?} at {first} and is {:?} at {by}",
                    String::from_utf8_lossy(known),
                    String::from_utf8_lossy(line)
                );
                self.violate("G1", what);
            }
            Some(_) => {}
        }
    }

    pub fn violate(&mut self, promise: &'static str, what: String) {
        self.violations.push(Violation {
            promise,
            at: world::elapsed(),
            what,
        });
    }
}
