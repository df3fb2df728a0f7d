//! How long to wait before the next try.

use std::time::Duration;

use ulid::Ulid;

/// Capped exponential back-off with jitter.
///
/// The n-th wait is drawn evenly from the upper half of `first × 2ⁿ`, capped at `max`: tries never
/// come faster than half the schedule, and clients that lost the same server do not come back in
/// step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    tries: u32,
}

/// Doublings after which the wait is at its cap whatever the first wait was.
const DOUBLINGS_MAX: u32 = 24;

impl Backoff {
    /// A schedule that starts at `first` and never waits longer than `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            tries: 0,
        }
    }

    /// The next wait.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1u32 << self.tries.min(DOUBLINGS_MAX);
        self.tries = self.tries.saturating_add(1);
        let full = self.first.saturating_mul(factor).min(self.max);
        full / 2 + (full / 2).mul_f64(fraction())
    }

    /// Something worked: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// A wait of up to this long: clients that lost the same server do not come to the next in step.
pub(crate) fn up_to(most: Duration) -> Duration {
    most.mul_f64(fraction())
}

/// A number in 0..1. The random half of a fresh ULID is all the randomness this crate needs.
fn fraction() -> f64 {
    let bits = (Ulid::generate().random() as u64) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut full = Duration::from_millis(100);
        for _ in 0..40 {
            let delay = backoff.next_delay();
            assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
            full = (full * 2).min(Duration::from_secs(2));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
