//! How far a node trusts itself: when its own probes fail without reason, it waits longer.

use std::time::Duration;

/// The score of our own health: 0 is healthy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awareness {
    score: u32,
    /// It stays below.
    bound: u32,
}

impl Awareness {
    pub(super) fn new(bound: u32) -> Awareness {
        Awareness {
            score: 0,
            bound: bound.max(1),
        }
    }

    pub(super) fn score(self) -> u32 {
        self.score
    }

    pub(super) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    pub(super) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(self.bound - 1);
    }

    /// A time, the longer the worse the score.
    pub(super) fn scale(self, time: Duration) -> Duration {
        time * (self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_within_its_bounds_and_scales() {
        let mut awareness = Awareness::new(8);
        awareness.improve();
        assert_eq!(
            awareness.scale(Duration::from_secs(1)),
            Duration::from_secs(1)
        );
        awareness.worsen(3);
        assert_eq!(
            awareness.scale(Duration::from_secs(1)),
            Duration::from_secs(4)
        );
        awareness.worsen(u32::MAX);
        assert_eq!(awareness.score(), 7);
        awareness.improve();
        assert_eq!(awareness.score(), 6);
    }
}
