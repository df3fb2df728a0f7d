//! What is to be done later.

use std::collections::BTreeMap;

use super::io::StreamId;
use crate::name::Name;
use crate::time::Time;

/// Something that a time has come for. One that has lost its reason meanwhile finds nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Probe the next member.
    Probe,
    /// Pass on news.
    Gossip,
    /// Exchange the whole state with a member.
    PushPull,
    /// No direct answer has come: ask others.
    ProbeTimeout { seq: u32 },
    /// No answer at all has come.
    ProbeEnd { seq: u32 },
    /// The one whom we asked for another has not answered.
    Helping { seq: u32 },
    /// A suspicion becomes a death.
    Suspicion { node: Name, timer: u64 },
    /// A stream has taken too long.
    Stream(StreamId),
    /// Leaving has taken too long.
    Leave,
}

/// Timers in the order of their times, and of their making within one moment.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<(Time, u64), Timer>,
    made: u64,
}

impl Timers {
    /// Sets a timer; the number tells it from all others.
    pub(super) fn set(&mut self, at: Time, timer: impl FnOnce(u64) -> Timer) -> u64 {
        self.made += 1;
        self.due.insert((at, self.made), timer(self.made));
        self.made
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first one whose time has come.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Timer> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
