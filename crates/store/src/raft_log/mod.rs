//! The Raft log on disk.
//!
//! [`RaftLog`] is a handle; one flusher thread does all writing (see `flusher`), any thread may
//! read. The newest records stay in memory, so that applying what was just appended does not
//! touch the disk. File format: `record`. What a crash may leave, and what is done about it:
//! `recovery`.

mod block_writer;
pub(crate) mod committed;
mod flusher;
mod pace;
mod prepare;
pub(crate) mod record;
pub(crate) mod recovery;
mod shared;
#[cfg(feature = "simulated")]
mod simulated;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidings_host::Instant;
use tracing::warn;

use self::committed::CommittedFile;
use self::flusher::Flusher;
use self::prepare::{Preparer, SpareSwitch, Spares};
use self::record::SEGMENT_HEAD_BYTES;
pub use self::record::{LogId, LogRecord};
pub use self::recovery::TornTail;
pub use self::shared::Done;
use self::shared::{Op, Shared};
use crate::checked_file::{self, Kind};
use crate::disk;
use crate::error::StoreError;
use crate::layout::DiskName;

/// For how long a reading of the free space is taken for current.
const FREE_SPACE_AGE_MAX: Duration = Duration::from_millis(100);
/// The largest segment: offsets in it are 32 bits wide, and the last record may reach beyond.
const SEGMENT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// The smallest segment that makes sense, for tests.
const SEGMENT_BYTES_MIN: u64 = 256;
/// Sizes of a [`RaftLog`].
#[derive(Debug, Clone)]
pub struct RaftLogConfig {
    /// A segment is ended before a record that would make it larger. Default 64 MiB; between
    /// 256 bytes and 2 GiB. Up to four purged segments stay on disk to be used again.
    pub segment_bytes: u64,
    /// The newest records are kept in memory up to this many bytes. Default 32 MiB.
    pub cache_bytes: usize,
    /// Appending waits while more than this is queued for the flusher. Default 256 MiB.
    pub queue_bytes: usize,
    /// Records of up to this many bytes are written and synced by the thread that appends them, as
    /// long as they come one by one and the disk is quick: handing them over and back costs two
    /// changes of threads, as much as half a sync. Default 0: never.
    pub direct_bytes_max: usize,
}

impl Default for RaftLogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            queue_bytes: 256 * 1024 * 1024,
            direct_bytes_max: 0,
        }
    }
}

/// What the log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftLogState {
    /// The oldest entry that can be read.
    pub first: Option<LogId>,
    /// The newest entry that was appended, whether or not it is on disk yet; when the log is
    /// empty, the last one that was purged.
    pub last: Option<LogId>,
    /// The newest entry that was purged.
    pub purged: Option<LogId>,
    /// Number of segment files.
    pub segments: usize,
    /// Bytes of all records on disk.
    pub bytes: u64,
    /// What was cut off when the log was opened.
    pub torn: Option<TornTail>,
}

/// What a log has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RaftLogStats {
    /// How often records were brought to the disk: one `fdatasync` each, for as many records as had
    /// come in meanwhile.
    pub flushes: u64,
}

/// A handle to the log; clones are cheap and all are the same log.
///
/// The last handle to be dropped waits for the flusher to finish what is queued.
#[derive(Clone)]
pub struct RaftLog {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    config: RaftLogConfig,
    shared: Arc<Shared>,
    flusher: Arc<Mutex<Flusher>>,
    spare_switch: SpareSwitch,
    /// Held by whoever changes the log's extent, so that changes keep their order.
    writer: Mutex<()>,
    vote: Mutex<Option<Vec<u8>>>,
    committed: Mutex<CommittedFile>,
    free: Mutex<Option<(Instant, u64)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RaftLog {
    /// A record is never larger, its head included: one entry, far above what is usually in one.
    pub const RECORD_BYTES_MAX: usize = record::RECORD_BYTES_MAX;

    /// Opens the log in `dir` (and creates it), finishes what a crash has interrupted, and starts
    /// the flusher thread.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] or [`StoreError::Missing`] when records that were once on disk
    /// cannot be read; nothing is changed then. [`StoreError::Io`] for the rest.
    pub fn open(dir: &Path, config: RaftLogConfig) -> Result<(Self, RaftLogState), StoreError> {
        let config = RaftLogConfig {
            segment_bytes: config
                .segment_bytes
                .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            ..config
        };
        disk::create_dir(dir)?;
        let vote = checked_file::read(&dir.join(DiskName::RaftVote.file_name()), Kind::Vote)?;
        let path = dir.join(DiskName::RaftCommitted.file_name());
        let known = committed::read(&path)?;
        let mut recovered = recovery::recover(dir, known.as_ref().map(|known| known.index))?;
        let committed = CommittedFile::open(&path)?;
        let found = std::mem::take(&mut recovered.spares);
        let spares = Spares::take_over(found, config.segment_bytes)?;
        let spares_generation = spares.generation();
        let shared = Arc::new(Shared::new(recovered, config.cache_bytes));
        #[cfg(test)]
        let preparer = Preparer::start(dir, spares, Arc::clone(&shared.injected))?;
        #[cfg(not(test))]
        let preparer = Preparer::start(dir, spares)?;
        let spare_switch = preparer.spare_switch();
        let flusher = Flusher::new(
            Arc::clone(&shared),
            dir.to_owned(),
            config.clone(),
            preparer,
            spares_generation,
        )?;
        let flusher = Arc::new(Mutex::new(flusher));
        #[cfg(feature = "simulated")]
        shared.turn.belongs_to(&flusher, dir);
        // A simulation has no threads: the flusher works in tasks.
        let thread = match cfg!(feature = "simulated") {
            true => None,
            false => {
                let worker = (Arc::clone(&flusher), Arc::clone(&shared));
                let thread = std::thread::Builder::new()
                    .name("raft-log-flush".to_owned())
                    .spawn(move || flusher::run(&worker.0, worker.1))
                    .map_err(StoreError::io("start a thread for", dir))?;
                Some(thread)
            }
        };
        let log = Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                config,
                shared,
                flusher,
                spare_switch,
                writer: Mutex::new(()),
                vote: Mutex::new(vote),
                committed: Mutex::new(committed),
                free: Mutex::new(None),
                thread: Mutex::new(thread),
            }),
        };
        let state = log.state();
        Ok((log, state))
    }

    /// What the log holds now, with what was appended and is not on disk yet.
    #[must_use]
    pub fn state(&self) -> RaftLogState {
        let state = self.inner.shared.state.lock();
        RaftLogState {
            first: state.first.clone(),
            last: state.last.clone(),
            purged: state.purged.clone(),
            segments: state.segments.len(),
            bytes: state
                .segments
                .iter()
                .map(|s| u64::from(s.end) - SEGMENT_HEAD_BYTES as u64)
                .sum(),
            torn: state.torn.clone(),
        }
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> RaftLogStats {
        RaftLogStats {
            flushes: self.inner.shared.state.lock().flushes,
        }
    }

    /// Why the log takes nothing more, once a write has failed.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.inner.shared.poison()
    }

    /// Appends records that follow the last one; they can be read at once.
    ///
    /// Returns without waiting for the disk (only for space in the queue, see
    /// [`RaftLogConfig::queue_bytes`]). `done` is called after the `fdatasync` that covers them;
    /// all calls come in the order of appending. It gets an error when the log is poisoned, when
    /// the records do not follow the last one, or when one is too large (leader over 255 bytes,
    /// whole record over 256 MiB); nothing of this call is kept in the last two cases.
    /// A little that comes alone is written and synced before this returns; see
    /// [`RaftLogConfig::direct_bytes_max`].
    pub fn append(&self, records: Vec<LogRecord>, done: Done) {
        let bytes: usize = records.iter().map(LogRecord::encoded_bytes).sum();
        let small = bytes <= self.inner.config.direct_bytes_max;
        let writer = self.inner.writer.lock();
        let queue_bytes = self.inner.config.queue_bytes;
        let queued = self.inner.shared.enqueue(records, done, queue_bytes, small);
        drop(writer);
        match queued {
            Err((done, error)) => done(Err(io::Error::other(error))),
            Ok(true) => match self.inner.flusher.try_lock() {
                Some(mut flusher) => flusher.work(),
                None => self.inner.shared.notify(),
            },
            // Left to the flusher's thread.
            Ok(false) => {}
        }
    }

    /// Appends and waits until the records are on disk.
    ///
    /// # Errors
    ///
    /// As [`RaftLog::append`].
    pub fn append_and_wait(&self, records: Vec<LogRecord>) -> io::Result<()> {
        let (sender, receiver) = sync_channel(1);
        self.append(
            records,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
        self.inner.work_now();
        receiver
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the raft log was closed")))
    }

    /// The records with these indexes.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotInLog`] when the range is not wholly within the log,
    /// [`StoreError::Damaged`] when a record on disk does not match its checksum.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<LogRecord>, StoreError> {
        self.read_limited(range, u64::MAX)
    }

    /// The records from the start of the range, until their payloads exceed `bytes_max`, but at
    /// least one when the range is not empty.
    ///
    /// # Errors
    ///
    /// As [`RaftLog::read`].
    pub fn read_limited(
        &self,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<LogRecord>, StoreError> {
        self.inner.shared.read(range, bytes_max)
    }

    /// Removes all records after `index`, for good, before it returns. Waits for the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`], [`StoreError::Io`] (which poisons), [`StoreError::NotInLog`] when
    /// `index` lies in the purged part.
    pub fn truncate_after(&self, index: u64) -> Result<(), StoreError> {
        self.truncate_from(index.saturating_add(1))
    }

    /// Removes all records from `from` on, for good, before it returns: as
    /// [`RaftLog::truncate_after`], for a log of which nothing is to stay.
    ///
    /// # Errors
    ///
    /// As [`RaftLog::truncate_after`].
    pub fn truncate_from(&self, from: u64) -> Result<(), StoreError> {
        let _writer = self.inner.writer.lock();
        if !self.inner.shared.state.lock().forget_from(from)? {
            return Ok(());
        }
        self.inner.order(|reply| Op::Truncate { from, reply })?;
        self.inner.shared.state.lock().settle_after_truncation();
        self.inner.refresh_ends()
    }

    /// Forgets all records up to `upto`, which may lie beyond the last one (after a snapshot was
    /// taken over from elsewhere). Waits for the disk. Records that share a segment with ones
    /// that stay are removed from it later. Going back is no error and does nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`], [`StoreError::Io`] (which poisons).
    pub fn purge_to(&self, upto: LogId) -> Result<(), StoreError> {
        let _writer = self.inner.writer.lock();
        {
            let state = self.inner.shared.state.lock();
            if state
                .purged
                .as_ref()
                .is_some_and(|purged| purged.index >= upto.index)
            {
                return Ok(());
            }
        }
        self.inner.order(|reply| Op::Purge { upto, reply })?;
        self.inner.refresh_ends()
    }

    /// Finishes what is queued and ends the log's threads: when this returns nothing is written any
    /// more, and nothing is taken. Waits for the disk.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Bytes of all records after `index`, on disk or queued.
    #[must_use]
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.inner.shared.state.lock().bytes_since(index)
    }

    /// Replaces the vote; it is on disk when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the vote is the old one then.
    pub fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError> {
        let mut current = self.inner.vote.lock();
        let path = self.inner.dir.join(DiskName::RaftVote.file_name());
        checked_file::write(&path, Kind::Vote, vote)?;
        *current = Some(vote.to_vec());
        Ok(())
    }

    /// The vote, as it was last saved.
    #[must_use]
    pub fn vote(&self) -> Option<Vec<u8>> {
        self.inner.vote.lock().clone()
    }

    /// Notes the committed log id, without waiting for the disk: after a power failure it may be an
    /// older one.
    ///
    /// The entry must be on disk already. The next start takes the note for proof that it was: a log
    /// that ends before it is refused as damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] and [`StoreError::TooLarge`].
    pub fn save_committed(&self, committed: &LogId) -> Result<(), StoreError> {
        self.inner.committed.lock().save(committed)
    }

    /// The committed log id, as it was last saved.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.inner.committed.lock().current()
    }

    /// Whether segments that were purged, or made ahead of need, stay on disk to be used. With
    /// `false` those that there are go at once, and until it is told otherwise none are kept: for
    /// when space is short.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] when one cannot be removed.
    pub fn keep_spares(&self, keep: bool) -> Result<(), StoreError> {
        self.inner.spare_switch.keep_spares(keep)
    }

    /// Bytes free on the log's file system for ordinary users, at most 100 ms old. Where it cannot
    /// be told, `u64::MAX`: what cannot be measured must not stop the log.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        let mut free = self.inner.free.lock();
        match *free {
            Some((at, bytes)) if at.elapsed() < FREE_SPACE_AGE_MAX => bytes,
            _ => {
                let bytes = disk::free_bytes(&self.inner.dir).unwrap_or(u64::MAX);
                *free = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

impl Inner {
    /// Has the flusher do something and waits for it.
    fn order(
        &self,
        op: impl FnOnce(SyncSender<Result<(), StoreError>>) -> Op,
    ) -> Result<(), StoreError> {
        let (sender, receiver) = sync_channel(1);
        self.shared.push(op(sender));
        self.work_now();
        receiver.recv().unwrap_or_else(|_| {
            let reason = self
                .shared
                .poison()
                .unwrap_or_else(|| "it was closed".to_owned());
            Err(StoreError::Poisoned { reason })
        })
    }

    /// Looks up the log ids at both ends after records were removed.
    fn refresh_ends(&self) -> Result<(), StoreError> {
        let (first, next, purged) = {
            let state = self.shared.state.lock();
            (
                state.first_index(),
                state.next_index(),
                state.purged.clone(),
            )
        };
        let (first_id, last_id) = if first < next {
            let id = |index| -> Result<Option<LogId>, StoreError> {
                Ok(self
                    .shared
                    .read(index..index + 1, 1)?
                    .first()
                    .map(LogRecord::id))
            };
            (id(first)?, id(next - 1)?)
        } else {
            (None, purged)
        };
        let mut state = self.shared.state.lock();
        state.first = first_id;
        state.last = last_id;
        Ok(())
    }
}

impl Inner {
    /// In a simulation whoever waits for the flusher does its work: nobody else could.
    fn work_now(&self) {
        #[cfg(feature = "simulated")]
        if let Some(mut flusher) = self.flusher.try_lock() {
            flusher.work();
        }
    }

    fn close(&self) {
        self.work_now();
        self.shared.close();
        #[cfg(feature = "simulated")]
        self.shared.flusher_ended();
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        // A callback may hold the last handle; the flusher cannot wait for itself.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        if thread.join().is_err() {
            warn!("the raft log's flusher thread panicked");
        }
        self.flusher.lock().end();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftLog")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}
