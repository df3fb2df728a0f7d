//! Who syncs: the thread that appends, or the flusher.
//!
//! ```text
//!            an append finds the log idle, ALONE_MIN times in a row
//!   flusher ───────────────────────────────────────────────────────▶ direct
//!      ▲                                                               │
//!      └── an append finds another under way; a probe every PROBE_EVERY┘
//! ```
//!
//! Syncing where one appends saves two changes of threads, half a sync on a good disk. It costs the
//! others: while the thread waits for the disk it takes in nothing that could share the next sync.
//! With one publisher there is nothing to take in; with sixteen there are fifteen events, and the
//! flusher wins. What appends would have come cannot be seen while one syncs directly: the thread
//! that would bring them is the one that waits. So now and then an append is given to the flusher
//! though the log is idle, as a probe: another that comes before it is on disk tells of a crowd.
//!
//! No direct sync on a slow disk either: a worker that waits serves nobody.

use std::time::Duration;

/// Appends in a row that must have been alone before one is synced directly.
const ALONE_MIN: u32 = 4;
/// One of so many goes to the flusher, to see whether others come meanwhile.
const PROBE_EVERY: u32 = 16;
/// Above this average, syncing is left to the flusher: longer than a worker may be held up.
const SYNC_AVERAGE_MAX: Duration = Duration::from_millis(1);
/// How much a sync counts in the average: an eighth.
const AVERAGE_WEIGHT: u32 = 8;

/// What decides who syncs, and what it is decided by.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Appends in a row that the flusher had on disk before the next one came.
    alone: u32,
    /// Direct syncs since the last probe.
    direct: u32,
    /// Whether the append before went to the flusher.
    was_queued: bool,
    /// Moving average of how long syncs take; `None` before the first.
    sync_average: Option<Duration>,
}

impl Pace {
    /// Takes note of a sync, whoever made it.
    pub(crate) fn note_sync(&mut self, took: Duration) {
        self.sync_average = Some(match self.sync_average {
            None => took,
            Some(average) => (average * (AVERAGE_WEIGHT - 1) + took) / AVERAGE_WEIGHT,
        });
    }

    /// Whether the next append is synced by the thread that appends. `idle`: all before it is on
    /// disk; `small`: it is one that may be.
    pub(crate) fn is_direct(&mut self, idle: bool, small: bool) -> bool {
        match (idle, self.was_queued) {
            (false, _) => self.alone = 0,
            (true, true) => self.alone = self.alone.saturating_add(1),
            // Nobody could have come: it tells nothing.
            (true, false) => {}
        }
        let quick = self
            .sync_average
            .is_some_and(|average| average < SYNC_AVERAGE_MAX);
        let probe = self.direct + 1 >= PROBE_EVERY;
        let direct = idle && small && quick && self.alone >= ALONE_MIN && !probe;
        self.direct = if direct { self.direct + 1 } else { 0 };
        self.was_queued = !direct;
        direct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Pace {
        let mut pace = Pace::default();
        pace.note_sync(Duration::from_micros(100));
        pace
    }

    /// How many of so many appends are direct, of publishers that have one in flight each and share
    /// one thread: while it syncs none of the others gets in.
    fn direct_of(pace: &mut Pace, publishers: u32, appends: u32) -> u32 {
        let mut direct = 0;
        let mut in_flusher = 0;
        for _ in 0..appends {
            if pace.is_direct(in_flusher == 0, true) {
                direct += 1;
                continue;
            }
            in_flusher += 1;
            if in_flusher == publishers {
                // All wait; the flusher has them on disk before the next comes.
                in_flusher = 0;
            }
        }
        direct
    }

    #[test]
    fn who_comes_alone_is_synced_directly() {
        let direct = direct_of(&mut quick(), 1, 1_000);
        assert!((900..1_000).contains(&direct), "{direct}");
    }

    #[test]
    fn a_crowd_shares_the_flusher_and_is_noticed_soon() {
        for publishers in [2, 3, 16] {
            assert_eq!(direct_of(&mut quick(), publishers, 1_000), 0);
            let mut pace = quick();
            direct_of(&mut pace, 1, 100);
            let direct = direct_of(&mut pace, publishers, 1_000);
            assert!(direct < PROBE_EVERY, "{direct} before the first probe");
            let direct = direct_of(&mut pace, 1, 100);
            assert!(direct > 80, "{direct} once it is gone");
        }
    }

    #[test]
    fn a_slow_disk_stops_no_worker() {
        let mut pace = quick();
        direct_of(&mut pace, 1, 10);
        assert!(pace.is_direct(true, true));
        pace.note_sync(Duration::from_millis(50));
        assert_eq!(direct_of(&mut pace, 1, 100), 0);
        for _ in 0..40 {
            pace.note_sync(Duration::from_micros(100));
        }
        assert!(direct_of(&mut pace, 1, 100) > 80);
        assert!(!pace.is_direct(true, false), "a large one");
    }

    #[test]
    fn nothing_is_direct_before_a_sync_was_measured() {
        assert_eq!(direct_of(&mut Pace::default(), 1, 100), 0);
    }
}
