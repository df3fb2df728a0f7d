use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tidings_event::{Index, RouteKey};

use crate::FrameBatch;

/// How many frames a subscription is told of before it has to find out by itself.
pub(super) const HINTS_MAX: usize = 4_096;

/// Knows who wants what, tells them, and wakes them.
pub(super) struct Router {
    table: RwLock<Table>,
    /// Everything up to here has been routed.
    routed: AtomicU64,
    /// Routed subscriptions with news, to be woken.
    dirty: Mutex<Vec<Arc<Slot>>>,
    next_id: AtomicU64,
    /// Subscriptions; changed with the table.
    len: AtomicUsize,
}

#[derive(Default)]
struct Table {
    /// Subscriptions that any frame may concern.
    any: BTreeMap<u64, Arc<Slot>>,
    /// Looked up, never walked through: its order does not matter.
    #[allow(clippy::disallowed_types)]
    by_route: std::collections::HashMap<RouteKey, Vec<Arc<Slot>>>,
}

/// How many subscriptions were woken.
pub(super) struct Woken {
    /// Of those that any frame may concern.
    pub(super) any: u32,
    /// Of those to some topics or keys.
    pub(super) routed: u32,
}

/// A subscription as the router sees it.
pub(super) struct Slot {
    id: u64,
    waker: AtomicWaker,
    dirty: AtomicBool,
    hints: Mutex<Hints>,
}

/// Which frames a routed subscription has to look at.
struct Hints {
    frames: Vec<Index>,
    /// Too many: the list is empty and stays so until the subscription starts it anew.
    overflow: bool,
    /// Every matching frame after this one is in the list.
    complete_after: Index,
}

impl Slot {
    /// Asks to be woken at the next news. Look again afterwards: some may have come before.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Takes what the router has told; `None` after an overflow: the list is not complete.
    pub(super) fn take_hints(&self) -> Option<Vec<Index>> {
        let mut hints = self.hints();
        (!hints.overflow).then(|| std::mem::take(&mut hints.frames))
    }

    /// Whether there is something to take.
    pub(super) fn has_hints(&self) -> bool {
        let hints = self.hints();
        hints.overflow || !hints.frames.is_empty()
    }

    /// Puts back what was taken and could not be used yet, all of it older than what came since.
    /// Together they may be too many: that is an overflow as any other.
    pub(super) fn return_hints(&self, mut unused: Vec<Index>) {
        let mut hints = self.hints();
        if hints.overflow {
            return;
        }
        unused.append(&mut hints.frames);
        if unused.len() > HINTS_MAX {
            hints.overflow = true;
            hints.complete_after = unused.last().copied().unwrap_or_default();
        } else {
            hints.frames = unused;
        }
    }

    /// Whether all matching frames after `cursor` are in the list. After an overflow the list starts
    /// anew, behind the last frame that it had no place for.
    pub(super) fn is_complete_after(&self, cursor: Index) -> bool {
        let mut hints = self.hints();
        hints.overflow = false;
        if hints.complete_after > cursor {
            return false;
        }
        hints.frames.retain(|frame| *frame > cursor);
        true
    }

    fn push(&self, frame: Index) -> bool {
        let mut hints = self.hints();
        if hints.overflow {
            hints.complete_after = frame;
            return false;
        }
        if hints.frames.last() == Some(&frame) {
            return false;
        }
        if hints.frames.len() >= HINTS_MAX {
            hints.frames = Vec::new();
            hints.overflow = true;
            hints.complete_after = frame;
        } else {
            hints.frames.push(frame);
        }
        !self.dirty.swap(true, Ordering::SeqCst)
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Router {
    pub(super) fn new(newest: Index) -> Router {
        Router {
            table: RwLock::new(Table::default()),
            routed: AtomicU64::new(newest.get()),
            dirty: Mutex::new(Vec::new()),
            next_id: AtomicU64::new(0),
            len: AtomicUsize::new(0),
        }
    }

    /// Everything up to here has been routed: what a subscription was not told of by now, it does
    /// not want.
    pub(super) fn routed(&self) -> Index {
        Index(self.routed.load(Ordering::SeqCst))
    }

    pub(super) fn register(&self, routes: Option<&[RouteKey]>) -> Arc<Slot> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        self.len.fetch_add(1, Ordering::SeqCst);
        let slot = Arc::new(Slot {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            waker: AtomicWaker::new(),
            dirty: AtomicBool::new(false),
            hints: Mutex::new(Hints {
                frames: Vec::new(),
                overflow: false,
                complete_after: self.routed(),
            }),
        });
        match routes {
            None => {
                table.any.insert(slot.id, Arc::clone(&slot));
            }
            Some(routes) => {
                for route in routes {
                    table
                        .by_route
                        .entry(*route)
                        .or_default()
                        .push(Arc::clone(&slot));
                }
            }
        }
        slot
    }

    pub(super) fn unregister(&self, slot: &Arc<Slot>, routes: Option<&[RouteKey]>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        self.len.fetch_sub(1, Ordering::SeqCst);
        let Some(routes) = routes else {
            table.any.remove(&slot.id);
            return;
        };
        for route in routes {
            if let Some(slots) = table.by_route.get_mut(route) {
                slots.retain(|other| other.id != slot.id);
                if slots.is_empty() {
                    table.by_route.remove(route);
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }

    /// Tells the subscriptions that want them of these frames.
    pub(super) fn route(&self, frames: &FrameBatch) {
        // Held to the end, so that whoever registers sees all of a batch routed, or none of it.
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if !table.by_route.is_empty() {
            let mut dirty = Vec::new();
            let mut tell = |route: RouteKey, frame: Index| {
                for slot in table.by_route.get(&route).into_iter().flatten() {
                    if slot.push(frame) {
                        dirty.push(Arc::clone(slot));
                    }
                }
            };
            for (ordinal, topic, keys) in frames.routes.iter() {
                let frame = Index(frames.first.get() + ordinal as u64);
                tell(RouteKey::topic(topic), frame);
                for key in keys {
                    tell(RouteKey::topic_key(topic, *key), frame);
                    tell(RouteKey::key(*key), frame);
                }
            }
            if !dirty.is_empty() {
                self.dirty
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .append(&mut dirty);
            }
        }
        self.routed.store(frames.last().get(), Ordering::SeqCst);
    }

    /// Wakes whoever has news; how many that were.
    pub(super) fn wake(&self) -> Woken {
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in &dirty {
            // Cleared first: what is told from here on wakes again.
            slot.dirty.store(false, Ordering::SeqCst);
            slot.waker.wake();
        }
        let any: Vec<Waker> = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table
                .any
                .values()
                .filter_map(|slot| slot.waker.take())
                .collect()
        };
        let woken = Woken {
            any: any.len() as u32,
            routed: dirty.len() as u32,
        };
        any.into_iter().for_each(Waker::wake);
        woken
    }

    /// Wakes everybody.
    pub(super) fn wake_all(&self) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for slot in table.any.values().chain(table.by_route.values().flatten()) {
            slot.waker.wake();
        }
    }
}

#[cfg(all(test, not(tidings_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Take,
        Return,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..3_000_usize).prop_map(Step::Push),
            Just(Step::Take),
            Just(Step::Return),
            Just(Step::Restart),
        ]
    }

    proptest! {
        /// Whatever is pushed, taken and put back, the list is bounded, and a subscription that
        /// trusts it misses nothing: what is not in it is before `complete_after`, or taken.
        #[test]
        fn the_list_of_hints_is_bounded_and_loses_nothing(steps in proptest::collection::vec(step(), 1..40)) {
            let router = Router::new(Index::ZERO);
            let slot = router.register(Some(&[]));
            let mut newest = 0_u64;
            let mut taken: Vec<Index> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        newest += 1;
                        slot.push(Index(newest));
                    },
                    Step::Take => match slot.take_hints() {
                        Some(hints) => taken.extend(hints),
                        None => taken.clear(),
                    },
                    Step::Return => slot.return_hints(std::mem::take(&mut taken)),
                    // As a subscription does that has looked at everything itself.
                    Step::Restart => {
                        taken.clear();
                        prop_assert!(slot.is_complete_after(Index(newest)));
                    }
                }
                let hints = slot.hints();
                prop_assert!(hints.frames.len() <= HINTS_MAX);
                prop_assert!(!hints.overflow || hints.frames.is_empty());
                if !hints.overflow {
                    let known: Vec<u64> = taken.iter().chain(&hints.frames).map(|frame| frame.get()).collect();
                    prop_assert!(known.windows(2).all(|pair| pair[0] < pair[1]));
                    if let Some(first) = known.first() {
                        prop_assert_eq!(known.len() as u64, newest - first + 1);
                    }
                }
            }
        }
    }
}
