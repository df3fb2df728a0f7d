//! One file for each promise: what must be true of the evidence.

mod g1_one_history;
mod g2_nothing_lost;
mod g3_contiguous;
mod g4_followers;
mod g5_taken_once;
mod linearizable;
mod reads;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::evidence::Evidence;

/// A promise that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub promise: &'static str,
    /// When it was noticed.
    pub at: Duration,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what: String = self.what.chars().take(2_000).collect();
        write!(f, "{} at {:?}: {what}", self.promise, self.at)
    }
}

/// Looks at everything.
pub(crate) fn check(evidence: &mut Evidence) {
    g1_one_history::check(evidence);
    let timeline = timeline(evidence);
    g2_nothing_lost::check(evidence, &timeline);
    g3_contiguous::check(evidence);
    g4_followers::check(evidence, &timeline);
    g5_taken_once::check(evidence, &timeline);
    linearizable::check(evidence, &timeline);
    reads::check(evidence);
}

/// Every line that is on a disk or was given to somebody.
fn timeline(evidence: &Evidence) -> BTreeMap<u64, Bytes> {
    let served = evidence.served.iter();
    let mut timeline: BTreeMap<u64, Bytes> = served
        .map(|(index, (line, _))| (*index, line.clone()))
        .collect();
    for (index, line) in evidence.histories.iter().flat_map(|h| h.lines()) {
        timeline.entry(index).or_insert(line);
    }
    timeline
}
