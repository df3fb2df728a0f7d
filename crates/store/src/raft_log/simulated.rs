//! The flusher of a simulation: tasks, each after the while that the disk takes, instead of a thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tidings_host::simulated::world;

use super::flusher::Flusher;

/// Who works when there is something to do. At most one task is under way: what comes meanwhile goes
/// to the disk with it.
#[derive(Default)]
pub(crate) struct Turn {
    flusher: OnceLock<(Weak<Mutex<Flusher>>, PathBuf)>,
    is_due: Arc<AtomicBool>,
}

impl Turn {
    pub(crate) fn belongs_to(&self, flusher: &Arc<Mutex<Flusher>>, dir: &Path) {
        // Once, by who opens the log.
        let _ = self.flusher.set((Arc::downgrade(flusher), dir.to_owned()));
    }

    pub(crate) fn take(&self) {
        let Some((flusher, dir)) = self.flusher.get() else {
            return;
        };
        if self.is_due.swap(true, Ordering::Relaxed) {
            return;
        }
        let (flusher, is_due) = (flusher.clone(), Arc::clone(&self.is_due));
        world::later(world::flush_pause(dir), move || {
            is_due.store(false, Ordering::Relaxed);
            if let Some(flusher) = flusher.upgrade() {
                flusher.lock().work();
            }
        });
    }
}
