use std::collections::VecDeque;
#[cfg(not(tidings_loom))]
use std::sync::{
    Arc, RwLock,
    atomic::{AtomicU64, Ordering},
};

#[cfg(tidings_loom)]
use loom::sync::{
    RwLock,
    atomic::{AtomicU64, Ordering},
};
#[cfg(tidings_loom)]
use std::sync::Arc;

use tidings_event::Index;

use crate::FrameBatch;

/// The newest batches of frames, bounded in bytes; one writer, many readers.
///
/// A reader holds the lock for as long as it takes to clone a few pointers. The newest index can be
/// read without the lock: after a reader has registered for wake-ups it looks there once more, and
/// so cannot sleep through an append.
pub(super) struct Ring {
    batches: RwLock<Batches>,
    newest: AtomicU64,
    bytes_max: usize,
}

struct Batches {
    queue: VecDeque<Arc<FrameBatch>>,
    memory: usize,
    /// The first frame in the queue; one above the newest when it is empty.
    oldest: Index,
}

/// What a reader finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Batches, the first of which holds the frame asked for.
    Batches(Vec<Arc<FrameBatch>>),
    /// The frame is older than what is in memory.
    Behind,
    /// The frame is not there yet.
    CaughtUp,
}

impl Ring {
    pub(super) fn new(newest: Index, bytes_max: usize) -> Ring {
        Ring {
            batches: RwLock::new(Batches {
                queue: VecDeque::new(),
                memory: 0,
                oldest: newest.next(),
            }),
            newest: AtomicU64::new(newest.get()),
            bytes_max,
        }
    }

    pub(super) fn newest(&self) -> Index {
        Index(self.newest.load(Ordering::SeqCst))
    }

    pub(super) fn oldest(&self) -> Index {
        self.read_lock().oldest
    }

    pub(super) fn memory(&self) -> usize {
        self.read_lock().memory
    }

    /// Adds a batch; the oldest go when there is no room, but the newest always stays.
    pub(super) fn push(&self, frames: Arc<FrameBatch>) {
        let last = frames.last();
        let mut dropped = Vec::new();
        {
            let mut batches = self.write_lock();
            debug_assert_eq!(frames.first.get(), self.newest().get() + 1);
            if batches.queue.is_empty() {
                batches.oldest = frames.first;
            }
            batches.memory += frames.memory();
            batches.queue.push_back(frames);
            while batches.memory > self.bytes_max && batches.queue.len() > 1 {
                let Some(oldest) = batches.queue.pop_front() else {
                    break;
                };
                batches.memory -= oldest.memory();
                batches.oldest = oldest.last().next();
                dropped.push(oldest);
            }
            self.newest.store(last.get(), Ordering::SeqCst);
        }
        // Freed outside the lock.
        drop(dropped);
    }

    /// Batches from the one with frame `from` on, until they hold `bytes_max` (at least one).
    pub(super) fn read(&self, from: Index, bytes_max: usize) -> Found {
        let batches = self.read_lock();
        if from.get() > self.newest.load(Ordering::SeqCst) {
            return Found::CaughtUp;
        }
        if from < batches.oldest {
            return Found::Behind;
        }
        let at = batches.queue.partition_point(|batch| batch.last() < from);
        let mut found = Vec::new();
        let mut bytes = 0;
        for batch in batches.queue.range(at..) {
            if bytes >= bytes_max && !found.is_empty() {
                break;
            }
            bytes += batch.bytes.len();
            found.push(Arc::clone(batch));
        }
        Found::Batches(found)
    }

    #[cfg(not(tidings_loom))]
    fn read_lock(&self) -> std::sync::RwLockReadGuard<'_, Batches> {
        // A writer that panicked has stopped the process: its lock is never seen poisoned.
        self.batches
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(not(tidings_loom))]
    fn write_lock(&self) -> std::sync::RwLockWriteGuard<'_, Batches> {
        self.batches
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(tidings_loom)]
    fn read_lock(&self) -> loom::sync::RwLockReadGuard<'_, Batches> {
        self.batches.read().expect("no panics in the model")
    }

    #[cfg(tidings_loom)]
    fn write_lock(&self) -> loom::sync::RwLockWriteGuard<'_, Batches> {
        self.batches.write().expect("no panics in the model")
    }
}

#[cfg(all(test, tidings_loom))]
mod loom_tests {
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    use super::*;
    use crate::broker::tests::frames;

    /// What an atomic waker does: whoever has registered is woken once, others are not remembered.
    #[derive(Default)]
    struct Waiter {
        state: Mutex<(bool, bool)>, // registered, woken
        changed: Condvar,
    }

    impl Waiter {
        fn register(&self) {
            *self.state.lock().unwrap() = (true, false);
        }
        fn wake(&self) {
            let mut state = self.state.lock().unwrap();
            if std::mem::take(&mut state.0) {
                state.1 = true;
                self.changed.notify_one();
            }
        }
        fn wait(&self) {
            let mut state = self.state.lock().unwrap();
            while !state.1 {
                state = self.changed.wait(state).unwrap();
            }
        }
    }

    /// A writer that appends and then wakes against a reader that registers and then looks once
    /// more: a wake-up that is lost would leave the reader waiting for ever, which the model finds.
    /// Every frame is seen once, in order.
    #[test]
    fn loom_a_reader_never_sleeps_through_an_append() {
        loom::model(|| {
            let ring = loom::sync::Arc::new(Ring::new(Index::ZERO, usize::MAX));
            let waiter = loom::sync::Arc::new(Waiter::default());
            let writer = {
                let (ring, waiter) = (ring.clone(), waiter.clone());
                thread::spawn(move || {
                    for first in [1, 2] {
                        ring.push(frames(first, 1));
                        waiter.wake();
                    }
                })
            };
            let mut cursor = Index::ZERO;
            while cursor < Index(2) {
                match ring.read(cursor.next(), usize::MAX) {
                    Found::Batches(batches) => {
                        for batch in batches {
                            assert_eq!(batch.first, cursor.next());
                            cursor = batch.last();
                        }
                        continue;
                    }
                    Found::Behind => panic!("nothing is dropped"),
                    Found::CaughtUp => {}
                }
                waiter.register();
                if ring.newest() == cursor {
                    waiter.wait();
                }
            }
            writer.join().unwrap();
        });
    }

    /// A ring with room for one batch: a reader gets the frame it asks for, or is told that it is
    /// behind or caught up; never a later frame in its place.
    #[test]
    fn loom_a_reader_of_a_full_ring_is_never_given_a_later_frame() {
        loom::model(|| {
            let ring = loom::sync::Arc::new(Ring::new(Index::ZERO, 1));
            let writer = {
                let ring = ring.clone();
                thread::spawn(move || {
                    for first in [1, 2, 3] {
                        ring.push(frames(first, 1));
                    }
                })
            };
            for wanted in [1, 2] {
                let before = ring.newest();
                match ring.read(Index(wanted), usize::MAX) {
                    Found::Batches(batches) => assert_eq!(batches[0].first, Index(wanted)),
                    Found::Behind => assert!(ring.newest() > Index(wanted)),
                    Found::CaughtUp => assert!(before < Index(wanted)),
                }
            }
            writer.join().expect("no panics in the model");
            assert_eq!((ring.oldest(), ring.newest()), (Index(3), Index(3)));
        });
    }
}
