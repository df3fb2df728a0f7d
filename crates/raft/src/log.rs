use std::{
    collections::VecDeque,
    error::Error,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use futures_util::{Stream, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use tidings_store::{LogRecord, RaftLog, RaftLogState, StoreError};
use tokio::sync::Notify;

use crate::{
    binding::{Ballot, Binding, EntryId, LogEntry, Payload},
    codec::{self, CodecError},
    error::chain,
    fault::Fault,
    record,
};

/// How many bytes of the newest entries stay in memory as well.
///
/// Applying an entry reads it a moment after it was written, and so does a follower that keeps up.
const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of entries that go to a follower in one message; a larger entry goes alone.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of entries that are read from the disk at a time.
const READ_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The Raft log: entries in the store, the newest of them in memory as well.
///
/// Clones are the same log.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    store: RaftLog,
    tail: Mutex<Tail>,
    marks: Mutex<Marks>,
    fault: Fault,
    /// Appends that are not on disk.
    unflushed: AtomicUsize,
    /// Rung when there are none.
    flushed: Notify,
    /// Bytes of the entries that were appended since the last snapshot.
    bytes_since_snapshot: AtomicU64,
    bytes_appended: AtomicU64,
}

/// What is known of the log without asking the disk.
struct Tail {
    /// The first entry that is there.
    first: Option<u64>,
    purged: Option<EntryId>,
    last: Option<EntryId>,
    ballot: Option<Ballot>,
    /// Consecutive entries that end with `last`, ready to be applied without decoding.
    recent: VecDeque<LogEntry>,
    recent_bytes: usize,
}

/// How far the log is committed and how far it is on disk.
///
/// The engine may commit entries that other servers have and this disk does not yet. What is noted
/// as committed is therefore never beyond what is on disk: the next start takes the note for proof
/// that the entries were there.
#[derive(Debug, Default)]
struct Marks {
    committed: Option<EntryId>,
    flushed: Option<EntryId>,
    /// What the file says.
    saved: Option<EntryId>,
}

/// Where the log begins and ends, for status.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogRange {
    pub first: Option<u64>,
    pub last: Option<u64>,
}

impl Log {
    /// The log in `store`, which was opened with `state`.
    pub fn new(store: RaftLog, state: RaftLogState, fault: Fault) -> Result<Log, CodecError> {
        let purged = state.purged.as_ref().map(codec::entry_id_of).transpose()?;
        let last = state.last.as_ref().map(codec::entry_id_of).transpose()?;
        let ballot = store
            .vote()
            .map(|bytes| codec::decode_ballot(&bytes))
            .transpose()?;
        let committed = store
            .committed()
            .as_ref()
            .map(codec::entry_id_of)
            .transpose()?;
        let first = state.first.as_ref().map(|first| first.index);
        let marks = Marks {
            committed,
            flushed: last,
            saved: committed,
        };
        let tail = Tail {
            first,
            purged,
            last,
            ballot,
            recent: VecDeque::new(),
            recent_bytes: 0,
        };
        Ok(Log {
            shared: Arc::new(Shared {
                store,
                tail: Mutex::new(tail),
                marks: Mutex::new(marks),
                fault,
                unflushed: AtomicUsize::new(0),
                flushed: Notify::new(),
                bytes_since_snapshot: AtomicU64::new(0),
                bytes_appended: AtomicU64::new(0),
            }),
        })
    }

    /// Whether nothing was ever written to this log.
    pub fn is_new(&self) -> bool {
        let tail = self.shared.tail.lock();
        tail.last.is_none() && tail.ballot.is_none()
    }

    /// The last entry.
    pub fn last(&self) -> Option<EntryId> {
        self.shared.tail.lock().last
    }

    /// The last entry that was purged.
    pub fn purged(&self) -> Option<EntryId> {
        self.shared.tail.lock().purged
    }

    pub fn range(&self) -> LogRange {
        let tail = self.shared.tail.lock();
        let last = tail.first.and(tail.last).map(|last| last.index);
        LogRange {
            first: tail.first,
            last,
        }
    }

    pub fn store(&self) -> &RaftLog {
        &self.shared.store
    }

    /// Bytes of entries appended since [`Log::set_bytes_since_snapshot`].
    pub fn bytes_since_snapshot(&self) -> u64 {
        self.shared.bytes_since_snapshot.load(Ordering::Relaxed)
    }

    /// Says how many bytes of log there are after the last snapshot.
    pub fn set_bytes_since_snapshot(&self, bytes: u64) {
        self.shared
            .bytes_since_snapshot
            .store(bytes, Ordering::Relaxed);
    }

    /// Takes off what a snapshot has made dispensable.
    pub fn forget_bytes(&self, bytes: u64) {
        self.shared
            .bytes_since_snapshot
            .fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of entries appended since the start.
    pub fn bytes_appended(&self) -> u64 {
        self.shared.bytes_appended.load(Ordering::Relaxed)
    }

    /// Runs `work`, which waits for the disk, off the engine's thread.
    async fn blocking<T, F>(&self, what: &'static str, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&RaftLog) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = self.shared.clone();
        let done = tidings_host::spawn_blocking(move || work(&shared.store)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failed(what, error)),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Notes what went wrong, before the engine stops because of it.
    fn failed(&self, what: &'static str, error: impl Error + Send + Sync + 'static) -> io::Error {
        self.shared
            .fault
            .raise(format!("{what}: {}", chain(&error)));
        io::Error::other(error)
    }

    /// Waits until everything that was appended is on disk.
    async fn wait_flushed(&self) {
        loop {
            let flushed = self.shared.flushed.notified();
            tokio::pin!(flushed);
            flushed.as_mut().enable();
            if self.shared.unflushed.load(Ordering::Acquire) == 0 {
                return;
            }
            flushed.await;
        }
    }

    /// Entries from `start` on, as far as they are in the log and before `end`; at least one when
    /// there is any, and about [`READ_BYTES_MAX`] at most when they come from the disk.
    async fn read(&self, mut start: u64, mut end: u64) -> io::Result<Vec<LogEntry>> {
        {
            let tail = self.shared.tail.lock();
            let Some(first) = tail.first else {
                return Ok(Vec::new());
            };
            start = start.max(first);
            end = end.min(tail.last.map_or(0, |last| last.index + 1));
            if start >= end {
                return Ok(Vec::new());
            }
            if let Some(recent) = tail.recent(start, end) {
                return Ok(recent);
            }
        }
        let records = self
            .blocking("cannot read the log", move |store| {
                read_present(store, start, end)
            })
            .await?;
        let entries: Result<Vec<_>, _> = records.into_iter().map(record::entry_of).collect();
        entries.map_err(|error| self.failed("cannot read the log", error))
    }
}

/// The records of `start..end` that the log still holds: meanwhile it may have been purged or
/// truncated, which is no failure.
fn read_present(
    store: &RaftLog,
    mut start: u64,
    mut end: u64,
) -> Result<Vec<LogRecord>, StoreError> {
    while start < end {
        match store.read_limited(start..end, READ_BYTES_MAX) {
            // Only while that makes the range smaller: otherwise it is a failure after all.
            Err(StoreError::NotInLog {
                first, end: behind, ..
            }) if start < first || behind < end => {
                start = start.max(first);
                end = end.min(behind);
            }
            read => return read,
        }
    }
    Ok(Vec::new())
}

impl Shared {
    /// Takes note of a change of the marks, and writes down what is committed and on disk.
    fn mark(&self, change: impl FnOnce(&mut Marks)) -> Result<(), StoreError> {
        let mut marks = self.marks.lock();
        change(&mut marks);
        let (Some(committed), Some(flushed)) = (marks.committed, marks.flushed) else {
            return Ok(());
        };
        // An entry before one that is committed is committed too.
        let both = match committed.index <= flushed.index {
            true => committed,
            false => flushed,
        };
        if marks.saved == Some(both) {
            return Ok(());
        }
        // A write to the page cache: it only saves work after a restart, so it need not be synced.
        self.store.save_committed(&codec::log_id_of(&both))?;
        marks.saved = Some(both);
        Ok(())
    }
}

// === impl Tail ===

impl Tail {
    /// The entries `start..end`, if memory has them from the first on.
    fn recent(&self, start: u64, end: u64) -> Option<Vec<LogEntry>> {
        let first = self.recent.front()?.log_id.index;
        if start < first {
            return None;
        }
        let range = (start - first) as usize..(end - first) as usize;
        Some(self.recent.range(range).cloned().collect())
    }

    fn push(&mut self, entry: LogEntry) {
        self.first.get_or_insert(entry.log_id.index);
        self.last = Some(entry.log_id);
        self.recent_bytes += record::memory(&entry);
        self.recent.push_back(entry);
    }

    /// Lets go of the oldest entries, down to the limit.
    fn trim(&mut self) {
        while self.recent_bytes > CACHE_BYTES_MAX {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= record::memory(&entry);
        }
    }

    fn truncate(&mut self, last: Option<EntryId>) {
        let end = last.map_or(0, |last| last.index + 1);
        if self.last.is_some_and(|last| last.index < end) {
            // nothing lies beyond
            return;
        }
        while self
            .recent
            .back()
            .is_some_and(|entry| entry.log_id.index >= end)
        {
            if let Some(entry) = self.recent.pop_back() {
                self.recent_bytes -= record::memory(&entry);
            }
        }
        self.last = last.or(self.purged);
        self.first = self.first.filter(|&first| first < end);
    }

    fn purge(&mut self, upto: EntryId) {
        while self
            .recent
            .front()
            .is_some_and(|entry| entry.log_id.index <= upto.index)
        {
            self.pop_front();
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
            self.first = None;
        }
        self.first = self.first.map(|first| first.max(upto.index + 1));
    }
}

/// The first entries, as many as go into one message to a follower: at least one.
fn as_one_message(mut entries: Vec<LogEntry>) -> Vec<LogEntry> {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        let before = bytes;
        bytes += record::memory(entry);
        before == 0 || bytes <= MESSAGE_BYTES_MAX
    });
    let count = fit.count();
    entries.truncate(count);
    entries
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

// === impl RaftLogReader ===

impl RaftLogReader<Binding> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (mut start, end) = bounds(&range);
        let mut entries = Vec::new();
        loop {
            let more = self.read(start, end).await?;
            let Some(last) = more.last() else {
                return Ok(entries);
            };
            start = last.log_id.index + 1;
            entries.extend(more);
        }
    }

    /// Some at a time: after a restart the whole log since the snapshot is applied in one go.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let state = (self.clone(), start, Vec::new().into_iter());
        stream::try_unfold(state, move |(log, mut start, mut ready)| async move {
            let mut next = ready.next();
            if next.is_none() {
                let more = log.read(start, end).await?;
                start = more.last().map_or(start, |last| last.log_id.index + 1);
                ready = more.into_iter();
                next = ready.next();
            }
            Ok(next.map(|entry| (entry, (log, start, ready))))
        })
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let entries = self.read(start, end).await?;
        // Whoever sends them says that they follow the entry before `start`.
        match entries.first() {
            Some(first) if first.log_id.index == start => Ok(as_one_message(entries)),
            _ => Ok(Vec::new()),
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Ballot>, io::Error> {
        Ok(self.shared.tail.lock().ballot)
    }
}

// === impl RaftLogStorage ===

impl RaftLogStorage<Binding> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Binding>, io::Error> {
        let tail = self.shared.tail.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, ballot: &Ballot) -> Result<(), io::Error> {
        // In the order in which they were asked for, as the engine relies on.
        self.wait_flushed().await;
        let bytes = codec::encode_ballot(ballot);
        self.blocking("cannot save the vote", move |store| store.save_vote(&bytes))
            .await?;
        self.shared.tail.lock().ballot = Some(*ballot);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<EntryId>) -> Result<(), io::Error> {
        if committed.is_none() {
            return Ok(());
        }
        let saved = self.shared.mark(|marks| marks.committed = committed);
        saved.map_err(|error| self.failed("cannot save what is committed", error))
    }

    async fn read_committed(&mut self) -> Result<Option<EntryId>, io::Error> {
        Ok(self.shared.marks.lock().saved)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Binding>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut last = None;
        let mut permits = Vec::new();
        let mut bytes = 0;
        {
            let mut tail = self.shared.tail.lock();
            for entry in entries {
                records.push(record::record_of(&entry).map_err(io::Error::other)?);
                bytes += record::memory(&entry);
                if let Payload::Normal(proposal) = &entry.payload {
                    permits.extend(proposal.take_permit());
                }
                last = Some(entry.log_id);
                tail.push(entry);
            }
            tail.trim();
        }
        self.shared
            .bytes_since_snapshot
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.shared
            .bytes_appended
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.shared.unflushed.fetch_add(1, Ordering::AcqRel);

        let shared = self.shared.clone();
        let done = Box::new(move |result: io::Result<()>| {
            match &result {
                Ok(()) => {
                    let marked = shared.mark(|marks| marks.flushed = last.or(marks.flushed));
                    if let Err(error) = marked {
                        shared
                            .fault
                            .raise(format!("cannot save what is committed: {}", chain(&error)));
                    }
                }
                Err(error) => shared
                    .fault
                    .raise(format!("cannot write the log: {}", chain(error))),
            }
            callback.io_completed(result);
            drop(permits);
            if shared.unflushed.fetch_sub(1, Ordering::AcqRel) == 1 {
                shared.flushed.notify_waiters();
            }
        });
        self.shared.store.append(records, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<EntryId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        self.blocking("cannot truncate the log", move |store| {
            store.truncate_from(from)
        })
        .await?;
        let mut tail = self.shared.tail.lock();
        tail.truncate(last);
        // What is left is on disk: truncating has waited for it.
        self.shared.marks.lock().flushed = tail.last;
        Ok(())
    }

    async fn purge(&mut self, upto: EntryId) -> Result<(), io::Error> {
        let id = codec::log_id_of(&upto);
        self.blocking("cannot purge the log", move |store| store.purge_to(id))
            .await?;
        self.shared.tail.lock().purge(upto);
        let mut marks = self.shared.marks.lock();
        if marks.flushed < Some(upto) {
            marks.flushed = Some(upto);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidings_event::Timestamp;
    use tidings_store::RaftLogConfig;
    use tidings_timeline::Batch;

    use super::*;
    use crate::binding::{LeaderId, Proposal};

    fn id(index: u64) -> EntryId {
        let leader_id = LeaderId {
            term: 1,
            node_id: 7,
        };
        EntryId { leader_id, index }
    }

    /// An entry that the cache of recent ones does not keep when many come.
    fn entry(index: u64) -> LogEntry {
        let batch = Batch {
            time: Timestamp::from_unix_micros(0),
            groups: vec![Bytes::from_static(b"x")],
        };
        LogEntry {
            log_id: id(index),
            payload: Payload::Normal(Proposal::stored(batch)),
        }
    }

    fn open(dir: &std::path::Path) -> Log {
        let (store, state) = RaftLog::open(dir, RaftLogConfig::default()).unwrap();
        Log::new(store, state, Fault::new()).unwrap()
    }

    async fn append(log: &mut Log, indexes: std::ops::Range<u64>) {
        log.append(indexes.map(entry), IOFlushed::noop())
            .await
            .unwrap();
    }

    #[test]
    fn a_message_holds_what_fits_and_one_entry_at_least() {
        let sized = |bytes: usize| LogEntry {
            log_id: id(1),
            payload: Payload::Normal(Proposal::stored(Batch {
                time: Timestamp::from_unix_micros(0),
                groups: vec![vec![0; bytes].into()],
            })),
        };
        let half = MESSAGE_BYTES_MAX / 2 - 1000;
        let count = |sizes: &[usize]| {
            let entries = sizes.iter().map(|&bytes| sized(bytes)).collect();
            as_one_message(entries).len()
        };
        assert_eq!(count(&[1, 1, 1]), 3);
        assert_eq!(count(&[half, half, half]), 2);
        assert_eq!(count(&[2 * MESSAGE_BYTES_MAX, 1]), 1);
        assert_eq!(count(&[]), 0);
    }

    #[tokio::test]
    async fn what_is_noted_as_committed_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        append(&mut log, 0..3).await;
        log.wait_flushed().await;
        // Others have entries that this disk does not have yet.
        log.save_committed(Some(id(5))).await.unwrap();
        assert_eq!(log.read_committed().await.unwrap(), Some(id(2)));
        let stored = log.store().committed().map(|id| id.index);
        assert_eq!(stored, Some(2));
        append(&mut log, 3..7).await;
        log.wait_flushed().await;
        assert_eq!(log.read_committed().await.unwrap(), Some(id(5)));
        assert_eq!(log.store().committed().map(|id| id.index), Some(5));
    }

    #[tokio::test]
    async fn a_read_that_loses_a_race_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        append(&mut log, 0..10).await;
        log.wait_flushed().await;
        // The store has changed and the tail has not been told yet.
        log.store().purge_to(codec::log_id_of(&id(3))).unwrap();
        log.store().truncate_from(8).unwrap();
        log.shared.tail.lock().recent.clear();
        let found = log.read(0, 10).await.unwrap();
        let indexes: Vec<u64> = found.iter().map(|entry| entry.log_id.index).collect();
        assert_eq!(indexes, [4, 5, 6, 7]);
        assert!(log.read(0, 4).await.unwrap().is_empty());
        assert_eq!(log.shared.fault.reason(), None);
        let late = log.limited_get_log_entries(2, 10).await.unwrap();
        assert!(late.is_empty(), "it would begin later than asked");
        assert_eq!(log.limited_get_log_entries(4, 6).await.unwrap().len(), 2);
    }
}
