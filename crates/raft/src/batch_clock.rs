use std::time::Duration;

use tidings_event::Timestamp;
use tokio::time::Instant;

use crate::config::Clock;

/// A change of the clock beyond what has passed that somebody should know of.
const JUMP_MIN: Duration = Duration::from_secs(60);

/// The time that goes into the log with a batch: the leader's clock, but never before the batch that
/// came before.
///
/// Retention and the dedupe window count with these times; a clock that is set back must not make
/// old what is new.
pub(crate) struct BatchClock {
    clock: Clock,
    /// What the clock said last, and when that was.
    read: Option<(Timestamp, Instant)>,
    given: Timestamp,
}

impl BatchClock {
    pub fn new(clock: Clock) -> BatchClock {
        BatchClock {
            clock,
            read: None,
            given: Timestamp::MIN,
        }
    }

    /// The time of the next batch; `applied` is that of the newest one in the state.
    pub fn next(&mut self, applied: Timestamp) -> Timestamp {
        let now = (self.clock)();
        let instant = Instant::now();
        if let Some((before, at)) = self.read {
            let jump = jump(before, now, instant - at);
            if jump.unsigned_abs() > JUMP_MIN.as_micros() as u64 {
                tracing::warn!(
                    seconds = jump / 1_000_000,
                    "the clock of this server has jumped"
                );
            }
        }
        self.read = Some((now, instant));
        self.given = now.max(self.given).max(applied);
        self.given
    }
}

/// By how many microseconds a clock that showed `before`, and `now` after `passed`, has been set.
fn jump(before: Timestamp, now: Timestamp, passed: Duration) -> i64 {
    let passed = i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
    let shown = now.as_unix_micros().saturating_sub(before.as_unix_micros());
    shown.saturating_sub(passed)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_unix_micros(micros)
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_turn_back_the_log() {
        let shown = Arc::new(AtomicI64::new(1_000));
        let mut clock = BatchClock::new({
            let shown = shown.clone();
            Arc::new(move || at(shown.load(Ordering::SeqCst)))
        });
        assert_eq!(clock.next(Timestamp::MIN), at(1_000));
        shown.store(400, Ordering::SeqCst);
        assert_eq!(clock.next(Timestamp::MIN), at(1_000));
        assert_eq!(clock.next(at(1_200)), at(1_200), "another leader's batch");
        shown.store(2_000, Ordering::SeqCst);
        assert_eq!(clock.next(at(1_200)), at(2_000));
    }

    #[test]
    fn a_jump_is_what_the_clock_shows_beyond_what_has_passed() {
        let second = 1_000_000;
        let minute = Duration::from_secs(60);
        assert_eq!(jump(at(0), at(60 * second), minute), 0);
        assert_eq!(jump(at(0), at(-5 * second), minute), -65 * second);
        assert_eq!(jump(at(0), at(200 * second), minute), 140 * second);
    }
}
