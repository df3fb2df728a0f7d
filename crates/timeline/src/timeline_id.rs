use std::fmt;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Which timeline this is: given once, by the first command of its log, and never changed. Two
/// timelines that were begun apart differ in it, however alike their indexes are.
///
/// Shown as the 26 characters of a ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u128);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid(self.0).fmt(f)
    }
}
