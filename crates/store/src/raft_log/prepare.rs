//! Space ahead of need: zeros behind the last record, and spare segments.
//!
//! Writing into blocks that already hold zeros makes each `fdatasync` 1.45 to 1.8 times faster
//! than growing the file or using `fallocate`, because the file system has nothing of its own to
//! commit (measured on ext4). Filling a whole segment takes a while, so it happens on a thread of
//! its own, in steps that double: a small agent serves after the first one. Purged segments become
//! spare ones, up to [`SPARE_SEGMENTS_MAX`], so that a log that is purged as it grows soon fills
//! hardly anything.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tidings_host::fs::{self, File, FileExt as _};
use tracing::warn;

use super::record::{SEGMENT_HEAD_BYTES, decode_segment_head};
use crate::disk;
use crate::error::StoreError;
use crate::layout::{DiskName, SPARE_SEGMENTS_MAX, TEMPORARY_SUFFIX};

/// The first piece of a fresh segment that is filled with zeros, before anything is served.
pub(crate) const FIRST_FILL_BYTES: u64 = 4 * 1024 * 1024;

/// Work for the thread. At most one of each kind is under way.
enum Order {
    /// Fill a file from `from` up to `to`.
    Extend { path: PathBuf, from: u64, to: u64 },
    /// Make a spare segment of this size at this place.
    Spare { place: u8, bytes: u64 },
}

/// What became of an extension.
pub(crate) enum Extension {
    /// Zeros are on disk up to here.
    Filled(u64),
    /// They could not be written, for want of space as a rule; nothing is lost.
    NotWritten,
    /// They were written and the sync failed.
    Unsynced(io::Error),
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    extending: bool,
    extended: Option<Extension>,
    /// The place of the spare segment that is being made.
    sparing: Option<u8>,
    spares: Spares,
    /// Space is short: none are kept, none are made.
    without_spares: bool,
    closing: bool,
}

/// The spare segments: purged ones that keep their blocks, or made ahead of need.
///
/// What stands in one is never taken for records of the log: a segment's generation is above all
/// that a file here has borne, spare ones included.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// Size of the one at each place.
    ready: [Option<u64>; SPARE_SEGMENTS_MAX as usize],
    generation: u32,
}

impl Spares {
    /// Takes over those that an earlier run has left, and removes what cannot be used: files of a
    /// size that no segment of this configuration has, and ones whose header cannot be read, of
    /// which nobody knows what generations they hold.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] when one cannot be removed.
    pub(crate) fn take_over(
        found: Vec<(u8, PathBuf)>,
        segment_bytes: u64,
    ) -> Result<Self, StoreError> {
        let mut spares = Self::default();
        for (place, path) in found {
            let usable = fs::metadata(&path)
                .ok()
                .filter(|metadata| metadata.is_file() && fits(metadata.len(), segment_bytes))
                .zip(read_generation(&path));
            let slot = spares.ready.get_mut(usize::from(place));
            match (usable, slot) {
                (Some((metadata, generation)), Some(slot)) => {
                    *slot = Some(metadata.len());
                    spares.generation = spares.generation.max(generation);
                }
                _ => disk::remove_file(&path)?,
            }
        }
        Ok(spares)
    }

    /// The highest generation in any that was taken over; 0 when there is none.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    fn are_empty(&self) -> bool {
        self.ready.iter().all(Option::is_none)
    }

    /// The first place that is neither taken nor `reserved`.
    fn free_place(&self, reserved: Option<u8>) -> Option<u8> {
        (0..SPARE_SEGMENTS_MAX)
            .find(|&place| Some(place) != reserved && self.ready[usize::from(place)].is_none())
    }

    /// Takes the largest: place and size.
    fn take(&mut self) -> Option<(u8, u64)> {
        let (_, place) = (0..SPARE_SEGMENTS_MAX)
            .filter_map(|place| Some((self.ready[usize::from(place)]?, place)))
            .max()?;
        let bytes = self.ready[usize::from(place)].take()?;
        Some((place, bytes))
    }
}

/// Whether a file of this size can be a segment: at least its first piece is filled, and no record
/// that was larger than a segment has made it grow.
fn fits(bytes: u64, segment_bytes: u64) -> bool {
    (FIRST_FILL_BYTES.min(segment_bytes)..=segment_bytes).contains(&bytes)
}

/// The generation in the header of a spare segment, above those of all records in it; 0 for one
/// that holds only zeros.
fn read_generation(path: &Path) -> Option<u32> {
    let mut head = [0; SEGMENT_HEAD_BYTES];
    File::open(path)
        .and_then(|file| file.read_exact_at(&mut head, 0))
        .ok()?;
    if head == [0; SEGMENT_HEAD_BYTES] {
        return Some(0);
    }
    decode_segment_head(&head)
        .ok()
        .map(|(generation, _)| generation)
}

struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    #[cfg(test)]
    injected: Arc<super::tests::Injected>,
}

/// The thread and what it has ready.
pub(crate) struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(crate) fn start(
        dir: &Path,
        spares: Spares,
        #[cfg(test)] injected: Arc<super::tests::Injected>,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            state: Mutex::new(State {
                spares,
                ..State::default()
            }),
            changed: Condvar::new(),
            #[cfg(test)]
            injected,
        });
        // A simulation has no threads: what is ordered is done at once.
        let thread = match cfg!(feature = "simulated") {
            true => None,
            false => {
                let worker = Arc::clone(&shared);
                let thread = std::thread::Builder::new()
                    .name("raft-log-prepare".to_owned())
                    .spawn(move || worker.run())
                    .map_err(StoreError::io("start a thread for", dir))?;
                Some(thread)
            }
        };
        Ok(Self { shared, thread })
    }

    pub(crate) fn spare_switch(&self) -> SpareSwitch {
        SpareSwitch {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Begins to fill the file with zeros up to `to`, unless a fill is under way.
    pub(crate) fn begin_extend(&self, path: &Path, from: u64, to: u64) {
        let mut state = self.shared.state.lock();
        if state.extending || state.extended.is_some() {
            return;
        }
        state.extending = true;
        state.orders.push_back(Order::Extend {
            path: path.to_owned(),
            from,
            to,
        });
        drop(state);
        self.shared.announce();
    }

    /// What became of a fill that has ended since the last call. With `wait`, a fill under way is
    /// awaited.
    pub(crate) fn take_extended(&self, wait: bool) -> Option<Extension> {
        let mut state = self.shared.state.lock();
        while wait && state.extending {
            self.shared.changed.wait(&mut state);
        }
        state.extended.take()
    }

    /// Begins to make a spare segment, unless there is one.
    pub(crate) fn begin_spare(&self, bytes: u64) {
        let mut state = self.shared.state.lock();
        if state.sparing.is_some() || !state.spares.are_empty() || state.without_spares {
            return;
        }
        let Some(place) = state.spares.free_place(None) else {
            return;
        };
        state.sparing = Some(place);
        state.orders.push_back(Order::Spare { place, bytes });
        drop(state);
        self.shared.announce();
    }

    /// Takes a spare segment: its path and size. When there is none but one is being made, that is
    /// awaited, because making another would take as long.
    pub(crate) fn take_spare(&self) -> Option<(PathBuf, u64)> {
        let mut state = self.shared.state.lock();
        while state.spares.are_empty() && state.sparing.is_some() {
            self.shared.changed.wait(&mut state);
        }
        let (place, bytes) = state.spares.take()?;
        Some((self.shared.spare_path(place), bytes))
    }

    /// Keeps a purged segment of this size as a spare one. Says whether it did: not when all places
    /// are taken, nor when its size is not that of a segment, nor when none are to be kept.
    pub(crate) fn recycle(
        &self,
        path: &Path,
        bytes: u64,
        segment_bytes: u64,
    ) -> Result<bool, StoreError> {
        let mut state = self.shared.state.lock();
        let place = state.spares.free_place(state.sparing);
        let keeps = fits(bytes, segment_bytes) && !state.without_spares;
        let Some(place) = place.filter(|_| keeps) else {
            return Ok(false);
        };
        fs::rename(path, self.shared.spare_path(place)).map_err(StoreError::io("rename", path))?;
        state.spares.ready[usize::from(place)] = Some(bytes);
        Ok(true)
    }
}

/// Tells a [`Preparer`] whether spare segments are to be kept.
pub(crate) struct SpareSwitch {
    shared: Arc<Shared>,
}

impl SpareSwitch {
    /// With `false`, removes those that there are and keeps none from now on.
    pub(crate) fn keep_spares(&self, keep: bool) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.without_spares = !keep;
        while !keep && let Some((place, _)) = state.spares.take() {
            disk::remove_file(&self.shared.spare_path(place))?;
        }
        Ok(())
    }
}

impl Preparer {
    /// Ends the thread, after what it is at.
    pub(crate) fn end(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that prepares raft log segments panicked");
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Shared ===

impl Shared {
    /// Has what was ordered done.
    fn announce(&self) {
        if !cfg!(feature = "simulated") {
            self.changed.notify_all();
            return;
        }
        loop {
            let order = self.state.lock().orders.pop_front();
            match order {
                Some(order) => self.carry_out(order),
                None => return,
            }
        }
    }

    fn run(&self) {
        loop {
            let order = {
                let mut state = self.state.lock();
                loop {
                    if state.closing {
                        return;
                    }
                    match state.orders.pop_front() {
                        Some(order) => break order,
                        None => self.changed.wait(&mut state),
                    }
                }
            };
            self.carry_out(order);
            self.changed.notify_all();
        }
    }

    fn carry_out(&self, order: Order) {
        match order {
            Order::Extend { path, from, to } => {
                let result = self.extend(&path, from, to);
                let mut state = self.state.lock();
                state.extending = false;
                state.extended = Some(result);
            }
            Order::Spare { place, bytes } => {
                let made = self.make_spare(place, bytes);
                if let Err(error) = &made {
                    // Not fatal yet: the flusher tries again when it needs the space.
                    warn!(error = %error, "cannot prepare a raft log segment");
                }
                let mut state = self.state.lock();
                state.sparing = None;
                state.spares.ready[usize::from(place)] = made.is_ok().then_some(bytes);
            }
        }
    }

    fn spare_path(&self, place: u8) -> PathBuf {
        self.dir.join(DiskName::RaftSpare(place).file_name())
    }

    /// Fills through a descriptor of its own: Linux tells each open file description once that
    /// writing back has failed, and the flusher's must not be told here.
    fn extend(&self, path: &Path, from: u64, to: u64) -> Extension {
        let written = disk::open_existing(path)
            .map_err(io::Error::other)
            .and_then(|file| {
                disk::write_zeros_past_cache(path, &file, from, to.max(from))?;
                Ok(file)
            });
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                warn!(path = %path.display(), error = %error, "cannot prepare space for the raft log");
                return Extension::NotWritten;
            }
        };
        #[cfg(test)]
        if let Err(error) = self.injected.check_fill_sync() {
            return Extension::Unsynced(error);
        }
        match file.sync_data() {
            Ok(()) => Extension::Filled(to),
            Err(error) => Extension::Unsynced(error),
        }
    }

    fn make_spare(&self, place: u8, bytes: u64) -> io::Result<()> {
        let path = self.spare_path(place);
        let temporary = path.with_extension(&TEMPORARY_SUFFIX[1..]);
        let made = disk::open_or_create(&temporary)
            .map_err(io::Error::other)
            .and_then(|file| {
                disk::write_zeros_past_cache(&temporary, &file, 0, bytes)?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&temporary, &path));
        if made.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        made
    }
}

/// Writes zeros over `from..to` of a file and brings them to the disk.
pub(crate) fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    disk::write_zeros(file, from, to.saturating_sub(from))?;
    file.sync_data()
}
