//! Logical clocks that no message can stop.

use crate::wire::serf::LamportTime;

/// A moment up to here is believed wherever the clock stands. No pool gets here by counting.
const JUMP_MAX: LamportTime = LamportTime(1 << 62);

/// Beyond it a moment must be this near. So whoever drives all clocks as far as they jump leaves them
/// going on from there; to drive one to its end takes more messages than can be sent.
const STEP_MAX: u64 = 1 << 16;

/// A Lamport clock: it is after everything that it has seen.
#[derive(Clone, Copy, Debug)]
pub struct LamportClock {
    now: LamportTime,
}

impl Default for LamportClock {
    /// It begins at 1: 0 is before everything.
    fn default() -> LamportClock {
        LamportClock {
            now: LamportTime(1),
        }
    }
}

impl LamportClock {
    /// The moment that what is sent next bears.
    pub fn now(self) -> LamportTime {
        self.now
    }

    /// The moment of something that is sent now; the next one is later.
    pub fn tick(&mut self) -> LamportTime {
        let now = self.now;
        self.now.0 = self.now.0.saturating_add(1);
        now
    }

    /// Sees a moment; whether it can be one. What cannot be would make the clock run over, and begin
    /// anew at 0 with all that it orders.
    pub fn witness(&mut self, seen: LamportTime) -> bool {
        if seen >= JUMP_MAX && seen.0 > self.now.0.saturating_add(STEP_MAX) {
            return false;
        }
        self.now.0 = self.now.0.max(seen.0.saturating_add(1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_after_all_that_it_has_seen() {
        let mut clock = LamportClock::default();
        assert_eq!(clock.tick(), LamportTime(1));
        assert!(clock.witness(LamportTime(1)));
        assert_eq!(clock.now(), LamportTime(2));
        assert!(clock.witness(LamportTime(9)));
        assert_eq!(clock.tick(), LamportTime(10));
    }

    #[test]
    fn g9_no_moment_makes_it_begin_anew_or_stand_still() {
        let mut clock = LamportClock::default();
        for absurd in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62] {
            assert!(!clock.witness(LamportTime(absurd)));
            assert_eq!(clock.now(), LamportTime(1));
        }
        // As far as it jumps; and from there others are still understood, and we by them.
        assert!(clock.witness(LamportTime((1 << 62) - 1)));
        let mut other = clock;
        for _ in 0..3 {
            let sent = clock.tick();
            assert!(other.witness(sent));
            assert_eq!(other.now(), clock.now());
        }
        assert!(!clock.witness(LamportTime(u64::MAX)));
    }
}
