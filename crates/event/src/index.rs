use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of a frame in the timeline: 1, 2, 3 … without gaps, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    /// Before the first frame.
    pub const ZERO: Index = Index(0);
    /// The first frame of every timeline.
    pub const FIRST: Index = Index(1);

    /// The index that follows.
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before, or [`Index::ZERO`].
    pub const fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Index {
    fn from(value: u64) -> Index {
        Index(value)
    }
}
