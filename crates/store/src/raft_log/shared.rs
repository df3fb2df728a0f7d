//! What the handles, the readers and the flusher of one log share.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tidings_host::fs::{File, FileExt as _};

use super::pace::Pace;
use super::record::{LogId, LogRecord, RECORD_BYTES_MAX, RecordView};
use super::recovery::{FIRST_INDEX_MAX, Recovered, Segment, TornTail};
use crate::error::StoreError;

/// Called once, on the thread that brought the records to the disk, when they are there or will never
/// be. It must neither block nor panic.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Most bytes that are read from the disk at a time (one record may be larger).
const READ_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// What a record in memory costs beside its bytes: counted so that empty ones are bounded too.
const RECORD_OVERHEAD_BYTES: usize = 128;

pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// There is work, or the log closes.
    work: Condvar,
    /// The queue has been taken.
    space: Condvar,
    #[cfg(feature = "simulated")]
    pub(crate) turn: super::simulated::Turn,
    #[cfg(test)]
    pub(crate) injected: Arc<super::tests::Injected>,
}

pub(crate) struct State {
    queue: VecDeque<Op>,
    queue_bytes: usize,
    closing: bool,
    /// The flusher's thread is gone.
    ended: bool,
    poison: Option<String>,
    /// On disk, oldest first.
    pub(crate) segments: VecDeque<Segment>,
    /// The newest records, without gaps, up to the last one appended.
    cache: VecDeque<Arc<LogRecord>>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    pub(crate) first: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// One past the newest record appended.
    next: u64,
    /// One past the newest record on disk.
    flushed_next: u64,
    pub(crate) torn: Option<TornTail>,
    /// How often records were brought to the disk.
    pub(crate) flushes: u64,
    pub(crate) pace: Pace,
}

/// Work for the flusher.
pub(crate) enum Op {
    Append {
        records: Vec<Arc<LogRecord>>,
        done: Done,
    },
    /// Removes records from this index on.
    Truncate {
        from: u64,
        reply: SyncSender<Result<(), StoreError>>,
    },
    Purge {
        upto: LogId,
        reply: SyncSender<Result<(), StoreError>>,
    },
}

/// A change of what is on disk, made by the flusher.
pub(crate) enum Update {
    /// Records were added to the last segment.
    Flushed { offsets: Vec<u32>, end: u32 },
    /// A segment was begun.
    Rolled(Segment),
    /// The last segment was removed.
    DroppedLast,
    /// Records from `from` on were cut off the last segment.
    Cut { from: u64, end: u32 },
}

/// Where records are.
pub(crate) enum Source {
    Memory(Vec<Arc<LogRecord>>),
    Disk(DiskPiece),
}

/// Whole records, one after another, in one file.
pub(crate) struct DiskPiece {
    file: Arc<File>,
    path: PathBuf,
    generation: u32,
    offset: u32,
    bytes: u32,
    first: u64,
}

impl Shared {
    pub(crate) fn new(recovered: Recovered, cache_bytes_max: usize) -> Self {
        let last = recovered.last.or_else(|| recovered.purged.clone());
        let segments: VecDeque<Segment> = recovered.segments.into();
        let next = match segments.back() {
            Some(segment) => segment.next(),
            None => last.as_ref().map_or(0, |last| last.index + 1),
        };
        Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queue_bytes: 0,
                closing: false,
                ended: false,
                poison: None,
                segments,
                cache: VecDeque::new(),
                cache_bytes: 0,
                cache_bytes_max,
                first: recovered.first,
                last,
                purged: recovered.purged,
                next,
                flushed_next: next,
                torn: recovered.torn,
                flushes: 0,
                pace: Pace::default(),
            }),
            work: Condvar::new(),
            space: Condvar::new(),
            #[cfg(feature = "simulated")]
            turn: super::simulated::Turn::default(),
            #[cfg(test)]
            injected: Arc::default(),
        }
    }

    /// Queues records; when they cannot be taken, gives `done` back with the reason. Says whether
    /// the caller does the work, or calls [`Shared::notify`]; for that they must be `small`.
    pub(crate) fn enqueue(
        &self,
        records: Vec<LogRecord>,
        done: Done,
        queue_bytes_max: usize,
        small: bool,
    ) -> Result<bool, (Done, StoreError)> {
        let mut state = self.state.lock();
        while state.queue_bytes > queue_bytes_max && state.poison.is_none() {
            self.space.wait(&mut state);
        }
        if let Err(error) = state.check_append(&records) {
            return Err((done, error));
        }
        let idle = state.queue.is_empty() && state.flushed_next == state.next;
        let direct = state.pace.is_direct(idle, small);
        if let Some(last) = records.last() {
            state.last = Some(last.id());
        }
        let records: Vec<Arc<LogRecord>> = records.into_iter().map(Arc::new).collect();
        for record in &records {
            state.remember(record);
        }
        state.evict();
        state.queue.push_back(Op::Append { records, done });
        drop(state);
        if !direct {
            self.notify();
        }
        Ok(direct)
    }

    /// Has the thread look at the queue.
    pub(crate) fn notify(&self) {
        self.work.notify_one();
        #[cfg(feature = "simulated")]
        self.turn.take();
    }

    /// Queues an operation that is answered by a reply, or drops it when nobody would answer.
    pub(crate) fn push(&self, op: Op) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        state.queue.push_back(op);
        drop(state);
        self.work.notify_one();
    }

    /// Waits until something is queued; `false` when the log is closed and nothing is.
    pub(crate) fn wait_for_ops(&self) -> bool {
        let mut state = self.state.lock();
        while state.queue.is_empty() {
            if state.closing {
                return false;
            }
            self.work.wait(&mut state);
        }
        true
    }

    /// Takes everything queued; maybe nothing, when somebody else has just taken it.
    pub(crate) fn take_ops(&self) -> VecDeque<Op> {
        let mut state = self.state.lock();
        state.queue_bytes = 0;
        self.space.notify_all();
        std::mem::take(&mut state.queue)
    }

    /// Has the flusher end once its queue is empty.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.work.notify_all();
    }

    /// The flusher is gone: nobody may wait for it.
    pub(crate) fn flusher_ended(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state
            .poison
            .get_or_insert_with(|| "the flusher thread has ended".to_owned());
        let left = std::mem::take(&mut state.queue);
        drop(state);
        self.space.notify_all();
        // Dropping the senders wakes those who wait for a reply.
        for op in left {
            if let Op::Append { done, .. } = op {
                done(Err(io::Error::other("the raft log was closed")));
            }
        }
    }

    pub(crate) fn poison(&self) -> Option<String> {
        self.state.lock().poison.clone()
    }

    /// Remembers the first failure; the log takes nothing more.
    pub(crate) fn set_poison(&self, reason: String) {
        self.state.lock().poison.get_or_insert(reason);
        self.space.notify_all();
    }

    pub(crate) fn update(&self, update: Update) {
        let mut state = self.state.lock();
        match update {
            Update::Rolled(segment) => state.segments.push_back(segment),
            Update::DroppedLast => {
                state.segments.pop_back();
            }
            Update::Flushed { offsets, end } => {
                state.flushes += 1;
                if let Some(segment) = state.segments.back_mut() {
                    segment.offsets.extend_from_slice(&offsets);
                    segment.end = end;
                    state.flushed_next = segment.next();
                }
                state.evict();
            }
            Update::Cut { from, end } => {
                if let Some(segment) = state.segments.back_mut() {
                    segment.offsets.truncate((from - segment.first) as usize);
                    segment.end = end;
                }
            }
        }
    }

    /// Runs `work` on the last segment.
    pub(crate) fn with_last_segment<T>(&self, work: impl FnOnce(&Segment) -> T) -> Option<T> {
        self.state.lock().segments.back().map(work)
    }

    /// Takes note of a purge and hands out the segments that hold nothing else.
    pub(crate) fn take_purged(&self, upto: LogId) -> Vec<Segment> {
        let mut state = self.state.lock();
        let keep_from = upto.index + 1;
        while state
            .cache
            .front()
            .is_some_and(|record| record.index < keep_from)
        {
            state.forget_oldest();
        }
        let gone = state
            .segments
            .iter()
            .take_while(|segment| segment.next() <= keep_from)
            .count();
        let gone = state.segments.drain(..gone).collect();
        state.first = None;
        if state.next <= keep_from {
            state.next = keep_from;
            state.last = Some(upto.clone());
        }
        state.flushed_next = state.flushed_next.max(keep_from);
        state.purged = Some(upto);
        gone
    }

    /// The records of the range, until their payloads exceed `bytes_max`, but at least one.
    pub(crate) fn read(
        &self,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<LogRecord>, StoreError> {
        let mut records: Vec<LogRecord> = Vec::new();
        let mut bytes = 0;
        let mut next = range.start;
        while next < range.end && (records.is_empty() || bytes < bytes_max) {
            let left = bytes_max.saturating_sub(bytes);
            let before = records.len();
            match self.locate(next..range.end, left)? {
                Source::Memory(cached) => {
                    records.extend(cached.iter().map(|record| LogRecord::clone(record)));
                }
                Source::Disk(piece) => match piece.read() {
                    Ok(read) => records.extend(read),
                    Err(error) => {
                        // Not damage when the segment was purged (and put to new use) meanwhile.
                        self.locate(next..range.end, left)?;
                        return Err(error);
                    }
                },
            }
            bytes += records[before..]
                .iter()
                .map(|r| r.payload_bytes() as u64)
                .sum::<u64>();
            next = range.start + records.len() as u64;
        }
        Ok(records)
    }

    /// Where the first records of a range are; about `bytes_max` bytes of them, but at least one.
    fn locate(&self, range: Range<u64>, bytes_max: u64) -> Result<Source, StoreError> {
        let state = self.state.lock();
        let (first, end) = (state.first_index(), state.next);
        if range.start < first || range.end > end {
            let wanted = if range.start < first {
                range.start
            } else {
                range.end - 1
            };
            return Err(StoreError::NotInLog { wanted, first, end });
        }
        let cached_from = state.cache.front().map_or(end, |record| record.index);
        if range.start >= cached_from {
            let from = (range.start - cached_from) as usize;
            let to = (range.end - cached_from) as usize;
            let mut bytes = 0;
            let some = state.cache.range(from..to).take_while(|record| {
                let more = bytes == 0 || bytes < bytes_max;
                bytes += record.encoded_bytes() as u64;
                more
            });
            return Ok(Source::Memory(some.cloned().collect()));
        }
        let at = state
            .segments
            .partition_point(|segment| segment.next() <= range.start);
        // What is neither in memory nor in a segment was never appended: excluded above.
        let Some(segment) = state.segments.get(at) else {
            return Err(StoreError::NotInLog {
                wanted: range.start,
                first,
                end,
            });
        };
        let start = (range.start - segment.first) as usize;
        let stop = (range.end.min(segment.next()) - segment.first) as usize;
        let offset = segment.offsets[start];
        let bytes_max = READ_BYTES_MAX.min(u32::try_from(bytes_max).unwrap_or(u32::MAX));
        let limit = offset.saturating_add(bytes_max);
        // Records that start before the limit, at least one.
        let within = segment.offsets[start..stop]
            .partition_point(|&offset| offset < limit)
            .max(1);
        let piece_end = segment
            .offsets
            .get(start + within)
            .copied()
            .unwrap_or(segment.end);
        Ok(Source::Disk(DiskPiece {
            file: Arc::clone(&segment.file),
            path: segment.path.clone(),
            generation: segment.generation,
            offset,
            bytes: piece_end - offset,
            first: range.start,
        }))
    }
}

impl State {
    /// The oldest index that can be read (or will be, when the log is empty).
    pub(crate) fn first_index(&self) -> u64 {
        match (&self.purged, &self.first) {
            (Some(purged), _) => purged.index + 1,
            (None, Some(first)) => first.index,
            (None, None) => self.next,
        }
    }

    /// One past the newest record appended.
    pub(crate) fn next_index(&self) -> u64 {
        self.next
    }

    fn check_append(&self, records: &[LogRecord]) -> Result<(), StoreError> {
        if let Some(reason) = &self.poison {
            return Err(StoreError::Poisoned {
                reason: reason.clone(),
            });
        }
        let fresh = self.first.is_none() && self.purged.is_none();
        let start = match records.first() {
            Some(record) if fresh && record.index <= FIRST_INDEX_MAX => record.index,
            _ => self.next,
        };
        for (record, expected) in records.iter().zip(start..) {
            if record.index != expected {
                return Err(StoreError::OutOfOrder {
                    expected,
                    got: record.index,
                });
            }
            let too_large = |what, bytes: usize, limit: usize| {
                Err(StoreError::TooLarge {
                    what,
                    bytes: bytes as u64,
                    limit: limit as u64,
                })
            };
            if record.leader.len() > usize::from(u8::MAX) {
                return too_large("a log id", record.leader.len(), usize::from(u8::MAX));
            }
            if record.encoded_bytes() > RECORD_BYTES_MAX {
                return too_large("a record", record.encoded_bytes(), RECORD_BYTES_MAX);
            }
        }
        Ok(())
    }

    fn remember(&mut self, record: &Arc<LogRecord>) {
        if self.first.is_none()
            && record.index == self.purged.as_ref().map_or(record.index, |p| p.index + 1)
        {
            self.first = Some(record.id());
        }
        self.queue_bytes += record.encoded_bytes();
        self.cache_bytes += record.encoded_bytes() + RECORD_OVERHEAD_BYTES;
        self.cache.push_back(Arc::clone(record));
        self.next = record.index + 1;
    }

    /// Drops the oldest records from memory; only what is on disk can be dropped.
    fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max
            && self
                .cache
                .front()
                .is_some_and(|record| record.index < self.flushed_next)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(record) = self.cache.pop_front() {
            self.cache_bytes -= record.encoded_bytes() + RECORD_OVERHEAD_BYTES;
        }
    }

    /// Makes records from `from` on unreadable. Says whether there were any.
    pub(crate) fn forget_from(&mut self, from: u64) -> Result<bool, StoreError> {
        if let Some(reason) = &self.poison {
            return Err(StoreError::Poisoned {
                reason: reason.clone(),
            });
        }
        if from >= self.next {
            return Ok(false);
        }
        if from < self.first_index() {
            return Err(StoreError::NotInLog {
                wanted: from,
                first: self.first_index(),
                end: self.next,
            });
        }
        while let Some(record) = self.cache.pop_back_if(|record| record.index >= from) {
            self.cache_bytes -= record.encoded_bytes() + RECORD_OVERHEAD_BYTES;
        }
        self.next = from;
        Ok(true)
    }

    /// After a truncation: all that is left is on disk.
    pub(crate) fn settle_after_truncation(&mut self) {
        self.flushed_next = self.next;
    }

    /// Bytes of all records after `index`, on disk or queued.
    pub(crate) fn bytes_since(&self, index: u64) -> u64 {
        let from = index.saturating_add(1);
        let on_disk: u64 = self
            .segments
            .iter()
            .filter(|segment| segment.next() > from)
            .map(|segment| {
                let from = from.max(segment.first);
                u64::from(segment.end - segment.span(from, from).0)
            })
            .sum();
        let from = from.max(self.flushed_next);
        let queued = self
            .cache
            .iter()
            .rev()
            .take_while(|record| record.index >= from);
        on_disk
            + queued
                .map(|record| record.encoded_bytes() as u64)
                .sum::<u64>()
    }
}

impl DiskPiece {
    fn read(&self) -> Result<Vec<LogRecord>, StoreError> {
        let mut buffer = vec![0; self.bytes as usize];
        self.file
            .read_exact_at(&mut buffer, u64::from(self.offset))
            .map_err(StoreError::io("read", &self.path))?;
        let buffer = Bytes::from(buffer);
        let mut records = Vec::new();
        let mut at = 0;
        while at < buffer.len() {
            let rest = buffer.slice(at..);
            let damaged =
                |what| StoreError::damaged(&self.path, u64::from(self.offset) + at as u64, what);
            let view = RecordView::parse(&rest, self.generation).map_err(damaged)?;
            if view.index != self.first + records.len() as u64 {
                return Err(damaged("a record bears another index than it should"));
            }
            records.push(view.to_record(&rest));
            at += view.size;
        }
        Ok(records)
    }
}
