//! How far clocks may be apart. Times in the log come from whoever leads, and never go back: a leader
//! whose clock is an hour ahead takes the timeline there for good.

use std::time::Duration;

/// What to do about it.
pub(crate) const REMEDY: &str = "set the clocks of all servers (with NTP, say)";

/// In words how a clock that is `ahead_micros` ahead of another stands to it; `None` when that is within
/// `skew_max`.
pub(crate) fn apart(ahead_micros: i64, skew_max: Duration) -> Option<String> {
    let skew = Duration::from_micros(ahead_micros.unsigned_abs());
    let way = match ahead_micros > 0 {
        true => "ahead of",
        false => "behind",
    };
    (skew > skew_max).then(|| format!("{} s {way}", skew.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_apart_beyond_the_limit() {
        let minute = Duration::from_secs(60);
        for ahead in [0, 60_000_000, -60_000_000] {
            assert_eq!(apart(ahead, minute), None);
        }
        assert_eq!(apart(60_000_001, minute).unwrap(), "60 s ahead of");
        assert_eq!(apart(-3_600_000_000, minute).unwrap(), "3600 s behind");
        assert!(apart(i64::MIN, minute).is_some());
    }
}
