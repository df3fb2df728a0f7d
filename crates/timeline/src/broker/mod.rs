//! Hands frames to subscribers: from memory as long as they keep up, from disk when they do not.
//!
//! ```text
//!                      ┌── ring: newest frames, shared bytes ──┐
//! append(frames) ──────┤                                       ├──▶ Subscription::next
//!        │             └── history on disk, when fallen behind ┘
//!        └─ router: which subscriptions want these topics and keys ──▶ hints, wake-ups
//! ```
//!
//! Nobody slows anybody: a subscription holds a position, not a queue. The ring forgets its oldest
//! batches when it is full, whoever has not read them; those readers go on from disk. A subscription
//! to some topics or keys is told which frames to look at, so that it costs what it matches.

mod ring;
mod router;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tidings_event::{Filter, Index};
use tokio::sync::Notify;

use crate::{FrameBatch, HistoryReader};
use ring::Ring;
use router::{Router, Slot};
pub use subscription::{Slice, Subscription, SubscriptionEnd};

/// Up to this many subscriptions are woken by whoever appends: sooner than by another task, and
/// done in a few microseconds.
const WAKE_AT_ONCE_MAX: usize = 32;

/// Limits of the broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// How much memory the newest frames may take. Default 64 MiB.
    pub ring_bytes: usize,
    /// About how much a subscription takes from memory at once. Default 256 KiB.
    pub chunk_bytes: usize,
    /// How much a subscription that has fallen behind reads from disk at once. Default 480 KiB:
    /// with the line by which a read may be longer it fits into half a MiB, the size of the store's
    /// buffers, and what was read is still in the processor's cache when it is checked and sent.
    pub read_bytes: usize,
    /// What all subscriptions together may hold of what was read for them. Beyond it nothing is
    /// read ahead, and less at once: readers that stall cost little each, however many there are.
    /// Default 256 MiB.
    pub held_bytes: usize,
    /// Waking one subscription costs a few microseconds; for each one woken, the next wake-up waits
    /// this long, so that under load each of them finds more to do. Default 4 µs.
    pub wake_pause_each: Duration,
    /// The same for a subscription to some topics or keys. Each event wakes others of these, so
    /// that it takes longer until one of them has several. Default 30 µs.
    pub wake_pause_each_routed: Duration,
    /// The longest such wait. Default 30 ms.
    pub wake_pause_max: Duration,
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            ring_bytes: 64 << 20,
            chunk_bytes: 256 << 10,
            read_bytes: 480 << 10,
            held_bytes: 256 << 20,
            wake_pause_each: Duration::from_micros(4),
            wake_pause_each_routed: Duration::from_micros(30),
            wake_pause_max: Duration::from_millis(30),
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct BrokerStats {
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Bytes in the ring now.
    pub ring_bytes: u64,
    /// Oldest frame in the ring now.
    pub ring_oldest: Index,
    /// Reads from disk for subscriptions that had fallen behind.
    pub history_reads: u64,
    /// Bytes of those reads that somebody still holds.
    pub held_bytes: u64,
}

/// The one place where frames are announced.
pub struct Broker {
    ring: Ring,
    router: Router,
    history: Arc<dyn HistoryReader>,
    config: BrokerConfig,
    /// Told once for each append; [`Broker::run_wakeups`] turns it into wake-ups.
    appended: Notify,
    closed: AtomicBool,
    history_reads: AtomicU64,
    /// Bytes read from disk that somebody still has.
    held: Arc<AtomicUsize>,
}

impl Broker {
    /// A broker whose first frame will be the one after `newest`; older ones are in `history`.
    pub fn new(
        history: Arc<dyn HistoryReader>,
        newest: Index,
        config: BrokerConfig,
    ) -> Arc<Broker> {
        Arc::new(Broker {
            ring: Ring::new(newest, config.ring_bytes),
            router: Router::new(newest),
            history,
            config,
            appended: Notify::new(),
            closed: AtomicBool::new(false),
            history_reads: AtomicU64::new(0),
            held: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Announces frames. They must follow the newest and be readable in the history already.
    pub fn append(&self, frames: Arc<FrameBatch>) {
        self.ring.push(Arc::clone(&frames));
        self.router.route(&frames);
        // Whoever subscribes from here on finds the frames in the ring.
        match self.router.len() {
            0 => {}
            few if few <= WAKE_AT_ONCE_MAX => {
                self.router.wake();
            }
            _ => self.appended.notify_one(),
        }
    }

    /// Wakes subscriptions after appends, until the broker is closed. Run it as one task: waking
    /// thousands takes time that whoever appends does not have.
    ///
    /// `sleep` waits for a duration; time is none of this crate's business.
    pub async fn run_wakeups<S, F>(self: Arc<Self>, sleep: S)
    where
        S: Fn(Duration) -> F,
        F: Future<Output = ()>,
    {
        while !self.is_closed() {
            self.appended.notified().await;
            let woken = self.router.wake();
            let config = &self.config;
            let pause = config.wake_pause_each.saturating_mul(woken.any)
                + config.wake_pause_each_routed.saturating_mul(woken.routed);
            // A timer's resolution is a millisecond: shorter waits would become longer ones.
            if pause >= Duration::from_millis(1) {
                sleep(pause.min(self.config.wake_pause_max)).await;
            }
        }
        self.router.wake_all();
    }

    /// The newest frame.
    pub fn newest(&self) -> Index {
        self.ring.newest()
    }

    /// Where frames that are no longer in memory are read.
    pub fn history(&self) -> Arc<dyn HistoryReader> {
        Arc::clone(&self.history)
    }

    /// Everything from `from` on that the filter lets through.
    pub fn subscribe(self: &Arc<Self>, filter: Filter, from: Index) -> Subscription {
        Subscription::new(Arc::clone(self), filter, from)
    }

    /// Ends every subscription, once it is asked for more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.appended.notify_one();
        self.router.wake_all();
    }

    /// Whether [`Broker::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether readers hold more than they should.
    fn is_pressed(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.config.held_bytes
    }

    /// Counts.
    pub fn stats(&self) -> BrokerStats {
        BrokerStats {
            subscriptions: self.router.len() as u64,
            ring_bytes: self.ring.memory() as u64,
            ring_oldest: self.ring.oldest(),
            history_reads: self.history_reads.load(Ordering::Relaxed),
            held_bytes: self.held.load(Ordering::Relaxed) as u64,
        }
    }
}

#[cfg(test)]
mod tests;
