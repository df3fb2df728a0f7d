//! The engine's own contract suite, run over the real files.

use std::{fmt::Debug, io, ops::RangeBounds, path::Path, sync::Arc};

use futures_util::Stream;
use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageError,
    storage::{IOFlushed, RaftLogStorage},
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tidings_event::Timestamp;
use tidings_store::LogId;
use tokio::runtime::Handle;

use crate::{
    binding::{Ballot, Binding, EntryId, LogEntry},
    config::{DiskLimits, QueueLimits, ReplicaConfig, VerifyHistory},
    fault::Fault,
    log::Log,
    machine::Machine,
    start::Files,
};

struct OnDisk;

/// Server 0 in this directory.
pub(crate) fn config(data_dir: &Path) -> ReplicaConfig {
    ReplicaConfig {
        data_dir: data_dir.to_path_buf(),
        node_id: 0,
        node_name: "n0".to_owned(),
        settings: None,
        queue: QueueLimits::default(),
        disk: DiskLimits::default(),
        broker: tidings_timeline::BrokerConfig::default(),
        verify: VerifyHistory::All,
        clock: Arc::new(|| Timestamp::from_unix_micros(0)),
    }
}

/// Kept for as long as a store is used.
struct Guard {
    _dir: TempDir,
    _data_dir: tidings_store::DataDir,
}

/// The log, for cases that begin it in the middle.
///
/// The engine begins at 0, or after what a snapshot covers, which it purges first; the store holds
/// it to that. The suite does not: here what it leaves out is purged for it.
struct LateLog(Log);

impl RaftLogReader<Binding> for LateLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.0.try_get_log_entries(range).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.0.entries_stream(range).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.0.limited_get_log_entries(start, end).await
    }

    async fn read_vote(&mut self) -> Result<Option<Ballot>, io::Error> {
        self.0.read_vote().await
    }
}

impl RaftLogStorage<Binding> for LateLog {
    type LogReader = LateLog;

    async fn get_log_state(&mut self) -> Result<LogState<Binding>, io::Error> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LateLog {
        LateLog(self.0.clone())
    }

    async fn save_vote(&mut self, ballot: &Ballot) -> Result<(), io::Error> {
        self.0.save_vote(ballot).await
    }

    async fn save_committed(&mut self, committed: Option<EntryId>) -> Result<(), io::Error> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<EntryId>, io::Error> {
        self.0.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Binding>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        if first > 1 && self.0.last().is_none() {
            let before = LogId {
                index: first - 1,
                term: 0,
                leader: vec![0; 8],
            };
            self.0.store().purge_to(before).map_err(io::Error::other)?;
        }
        self.0.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<EntryId>) -> Result<(), io::Error> {
        self.0.truncate_after(last).await
    }

    async fn purge(&mut self, upto: EntryId) -> Result<(), io::Error> {
        self.0.purge(upto).await
    }
}

impl StoreBuilder<Binding, LateLog, Machine, Guard> for OnDisk {
    async fn build(&self) -> Result<(Guard, LateLog, Machine), StorageError<Binding>> {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let fault = Fault::new();
        let files = Files::open(&config, 0, &fault).unwrap();
        let log = files.log.clone();
        let (data_dir, machine) = files
            .into_machine(&config, Handle::current(), &fault)
            .unwrap();
        let guard = Guard {
            _dir: dir,
            _data_dir: data_dir,
        };
        Ok((guard, LateLog(log), machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_finds_log_and_machine_as_it_expects_them() {
    Suite::test_all(OnDisk).await.unwrap();
}
