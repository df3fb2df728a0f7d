//! The time that the machines are told: they have no clock of their own.

use std::ops::Add;
use std::time::Duration;

/// A moment, counted from one that the driver chooses (as a rule, its start).
///
/// It never goes backwards: a driver that sees its clock jump hands in the greatest time so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Duration);

impl Time {
    /// The moment that others are counted from.
    pub const ZERO: Time = Time(Duration::ZERO);

    /// The moment that lies this long after [`Time::ZERO`].
    pub const fn after(since_zero: Duration) -> Time {
        Time(since_zero)
    }

    /// How long after [`Time::ZERO`] it lies.
    pub const fn since_zero(self) -> Duration {
        self.0
    }

    /// How long after `earlier` it lies; nothing when it lies before.
    pub fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(duration))
    }
}
