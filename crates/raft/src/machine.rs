use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::{SnapshotMetaOf, SnapshotOf},
};
use parking_lot::Mutex;
use tidings_event::{Index, Timestamp};
use tidings_store::{
    History, HistoryConfig, Incoming, IncomingError, PendingSeal, PinnedHistory, SnapshotStore,
    StoreError, VerifyOnStart, WriteBack,
};
use tidings_timeline::{
    Applied, ApplyError, Batch, Broker, BrokerConfig, Outcome, RestoreError, StateMachine,
    StateView,
};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    binding::{Answer, Binding, EntryId, LogEntry, StoredMembers},
    codec::{self, SnapshotHead},
    error::chain,
    fault::Fault,
    log::Log,
    peers::Gathering,
    rebuild,
    space::Space,
};

/// Bytes beside the state that writing a snapshot takes: its head, and what the file system needs.
const SNAPSHOT_SLACK_BYTES: u64 = 1024 * 1024;

/// How often the progress of re-applying the log is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// The timeline, driven by the log.
///
/// ```text
/// entry ─▶ StateMachine::apply ─▶ History::append ─▶ Broker::append ─▶ view ─▶ answers
/// ```
///
/// In this order, so that whoever hears of a frame can read it, and whoever is answered can be told
/// apart from nobody by the state.
pub(crate) struct Machine {
    timeline: StateMachine,
    applied: Option<EntryId>,
    members: StoredMembers,
    shared: Arc<MachineShared>,
    replay: Option<Replay>,
    /// Dropped with the machine.
    alive: Option<oneshot::Sender<()>>,
}

/// What others see of the machine.
pub(crate) struct MachineShared {
    pub view: ArcSwap<StateView>,
    pub applied: watch::Sender<Index>,
    pub broker: ArcSwap<Broker>,
    broker_config: BrokerConfig,
    home: Handle,
    /// Locked for one write, sync or look at a time, never across an await.
    pub history: Mutex<History>,
    pub snapshots: SnapshotStore,
    pub last_snapshot: Mutex<Option<SnapshotHead>>,
    pub log: Log,
    pub fault: Fault,
    pub frames_applied: AtomicU64,
    pub space: Space,
    /// Microseconds: the time of the newest batch in the state.
    newest_time: AtomicI64,
    snapshot_underway: AtomicBool,
    /// Bytes that must be free for the snapshot that was put off; 0 when none was.
    snapshot_needs: AtomicU64,
    /// Held by who writes a snapshot or installs one: the two may come together.
    snapshot_writing: Mutex<()>,
    history_dir: PathBuf,
    data_dir: PathBuf,
    /// Whether this server stops when it finds a damaged file: others have what it lacks.
    stops_when_damaged: AtomicBool,
    /// A snapshot that the leader sends, as far as it has come.
    pub gathering: Mutex<Gathering>,
    /// Bytes of snapshots and their history that went to other servers, and came from them.
    pub snapshot_bytes_sent: AtomicU64,
    pub snapshot_bytes_received: AtomicU64,
}

/// Re-applying what the log has after the snapshot.
struct Replay {
    last: u64,
    next_report: Instant,
}

/// A snapshot as it goes from server to server: the state, and the frame it ends at.
///
/// The history itself is not in it: its segments are files that are copied as files.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotState {
    pub frame: Index,
    pub state: Bytes,
    /// There when the leader's history has come as well, and waits to be put in its place.
    pub prepared: Option<Arc<Prepared>>,
}

/// A leader's state, decoded, whose history is gathered and checked.
pub(crate) struct Prepared {
    timeline: Mutex<Option<StateMachine>>,
    pub state: Bytes,
}

impl Prepared {
    pub fn new(timeline: StateMachine, state: Bytes) -> Prepared {
        Prepared {
            timeline: Mutex::new(Some(timeline)),
            state,
        }
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a state of {} bytes", self.state.len())
    }
}

/// What a machine is made of beside the state.
pub(crate) struct MachineFiles {
    pub data_dir: PathBuf,
    pub history_dir: PathBuf,
    pub history: History,
    pub snapshots: SnapshotStore,
    pub log: Log,
    pub broker_config: BrokerConfig,
    /// The runtime of the tasks that wake subscriptions and complete segments.
    pub home: Handle,
    pub space: Space,
    pub fault: Fault,
}

impl MachineShared {
    fn new(view: Arc<StateView>, snapshot: Option<SnapshotHead>, files: MachineFiles) -> Self {
        let MachineFiles {
            data_dir,
            history_dir,
            history,
            snapshots,
            log,
            broker_config,
            home,
            space,
            fault,
        } = files;
        let broker = Broker::new(history.reader(), view.index, broker_config.clone());
        home.spawn(broker.clone().run_wakeups(tokio::time::sleep));
        MachineShared {
            applied: watch::Sender::new(view.index),
            view: ArcSwap::new(view),
            broker: ArcSwap::new(broker),
            broker_config,
            home,
            history: Mutex::new(history),
            snapshots,
            last_snapshot: Mutex::new(snapshot),
            log,
            fault,
            frames_applied: AtomicU64::new(0),
            space,
            newest_time: AtomicI64::new(Timestamp::MIN.as_unix_micros()),
            snapshot_underway: AtomicBool::new(false),
            snapshot_needs: AtomicU64::new(0),
            snapshot_writing: Mutex::default(),
            gathering: Mutex::new(Gathering::new(Incoming::new(&data_dir))),
            history_dir,
            data_dir,
            stops_when_damaged: AtomicBool::new(false),
            snapshot_bytes_sent: AtomicU64::new(0),
            snapshot_bytes_received: AtomicU64::new(0),
        }
    }

    /// The time of the newest batch that was applied since the start.
    pub fn newest_time(&self) -> Timestamp {
        Timestamp::from_unix_micros(self.newest_time.load(Ordering::Relaxed))
    }

    /// Whether there is room for the snapshot that was put off, if one was.
    pub fn has_room_for_snapshot(&self) -> bool {
        let needs = self.snapshot_needs.load(Ordering::Relaxed);
        needs == 0 || self.space.free() >= needs
    }

    /// Puts a snapshot of so many bytes off when there is no room for it. The log stays until then;
    /// a disk that fills up because of it stops nothing but publishing.
    fn is_put_off(&self, state_bytes: usize) -> bool {
        let (free, needs) = (self.space.free(), state_bytes as u64 + SNAPSHOT_SLACK_BYTES);
        if free >= needs {
            self.snapshot_needs.store(0, Ordering::Relaxed);
            return false;
        }
        self.put_off(needs, free);
        true
    }

    fn put_off(&self, needs: u64, free: u64) {
        tracing::warn!(
            free,
            needs,
            "no room for a snapshot: put off until there is; shorten retention or make room"
        );
        self.snapshot_needs.store(needs, Ordering::Relaxed);
    }

    /// The frame that the last snapshot ends at.
    pub fn snapshot_frame(&self) -> Index {
        self.last_snapshot
            .lock()
            .as_ref()
            .map_or(Index::ZERO, |head| head.frame)
    }

    /// Ends all subscriptions and begins anew after `newest`: their readers come back and are told
    /// what is missing.
    fn replace_broker(&self, newest: Index) {
        let reader = self.history.lock().reader();
        let broker = Broker::new(reader, newest, self.broker_config.clone());
        self.home
            .spawn(broker.clone().run_wakeups(tokio::time::sleep));
        self.broker.swap(broker).close();
    }

    /// From now on a damaged file that a reader finds stops this server. For one that stands alone
    /// that would only make it worse: what is whole can still be read.
    pub fn stop_when_damaged(self: &Arc<Self>) {
        self.stops_when_damaged.store(true, Ordering::Relaxed);
        self.watch_damage();
    }

    fn watch_damage(self: &Arc<Self>) {
        let machine = Arc::downgrade(self);
        self.history.lock().reader().watch_damage(move |what| {
            if let Some(machine) = machine.upgrade() {
                machine.found_damaged(what);
            }
        });
    }

    /// Stops this server, and has the next start say why.
    pub fn found_damaged(&self, what: &str) {
        if let Err(error) = rebuild::note_damage(&self.data_dir, what) {
            tracing::warn!(error = %chain(&error), "what was found damaged is not noted");
        }
        self.fault.raise(format!(
            "files of this server are damaged: {what}; run `tidings rebuild --data-dir {}` and start \
             it again to get everything from the other servers",
            self.data_dir.display()
        ));
    }

    /// Brings a sealed segment to the disk while applying goes on.
    fn complete_in_background(&self, pending: Arc<PendingSeal>) {
        let fault = self.fault.clone();
        tidings_host::spawn_blocking_on(&self.home, move || {
            if let Err(error) = pending.complete() {
                fault.raise(format!(
                    "cannot complete a history segment: {}",
                    chain(&error)
                ));
            }
        });
    }

    /// Brings lines to the disk while applying goes on.
    fn write_back_in_background(&self, write_back: WriteBack) {
        let fault = self.fault.clone();
        tidings_host::spawn_blocking_on(&self.home, move || {
            if let Err(error) = write_back.complete() {
                fault.raise(format!("cannot write the history: {}", chain(&error)));
            }
        });
    }

    /// After a fault nobody knows what of the history is on the disk.
    fn check_sound(&self) -> Result<(), SnapshotError> {
        match self.fault.reason() {
            Some(reason) => Err(SnapshotError::Faulty { reason }),
            None => Ok(()),
        }
    }

    /// Writes a snapshot. Blocks until it and the history up to it are on the disk.
    fn write_snapshot(&self, head: &SnapshotHead, state: &[u8]) -> Result<(), SnapshotError> {
        let _writing = self.snapshot_writing.lock();
        self.check_sound()?;
        if self.last_snapshot.lock().as_ref().map(|last| last.last) > Some(head.last) {
            // A leader's was installed meanwhile: this one is of a history that is gone.
            return Ok(());
        }
        // The history first: from the snapshot on, it cannot be made again from the log. Without the
        // lock: appending goes on meanwhile.
        let unsynced = self.history.lock().unsynced();
        unsynced.sync()?;
        self.check_sound()?;
        let index = head.last.map_or(0, |last| last.index);
        let meta = codec::encode_snapshot_head(head)?;
        self.snapshots
            .write(index, head.frame, &meta, state)
            .map_err(|error| match error.is_disk_full() {
                true => SnapshotError::NoRoom(error),
                false => SnapshotError::Store(error),
            })?;
        *self.last_snapshot.lock() = Some(head.clone());
        Ok(())
    }

    /// Puts a leader's history and state in the place of the own. Blocks.
    fn install(self: &Arc<Self>, head: &SnapshotHead, state: &[u8]) -> Result<(), SnapshotError> {
        let _writing = self.snapshot_writing.lock();
        self.check_sound()?;
        let index = head.last.map_or(0, |last| last.index);
        let meta = codec::encode_snapshot_head(head)?;
        // Whoever still copies from it must not remove what is another's from now on.
        self.history.lock().abandon();
        self.gathering
            .lock()
            .incoming
            .install(index, &meta, state)?;
        self.snapshots.remove_old()?;
        let config = HistoryConfig {
            verify: VerifyOnStart::Tail,
            durable_to: Some(head.frame),
        };
        let (mut history, _) = History::open(&self.history_dir, config)?;
        history.cut_after(head.frame)?;
        if let Some(newest) = history.segments().last() {
            let time = newest.last_time.as_unix_micros();
            self.newest_time.fetch_max(time, Ordering::Relaxed);
        }
        *self.history.lock() = history;
        if self.stops_when_damaged.load(Ordering::Relaxed) {
            self.watch_damage();
        }
        *self.last_snapshot.lock() = Some(head.clone());
        self.log
            .set_bytes_since_snapshot(self.log.store().bytes_since(index));
        Ok(())
    }
}

/// Why an entry could not be applied.
#[derive(Debug, thiserror::Error)]
enum ApplyFailure {
    #[error("cannot apply the log")]
    Timeline(#[from] ApplyError),
    #[error("cannot write the history")]
    History(#[from] StoreError),
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("cannot keep a snapshot")]
    Store(#[from] StoreError),
    #[error("the timeline cannot go on: {reason}")]
    Faulty { reason: Arc<str> },
    /// The snapshots that were there are untouched.
    #[error("there is no room for a snapshot")]
    NoRoom(#[source] StoreError),
    #[error("cannot read the snapshot's head")]
    Head(#[from] codec::CodecError),
    #[error("cannot put what the leader has sent in its place")]
    Incoming(#[from] IncomingError),
    #[error("cannot decode the state")]
    State(#[from] RestoreError),
    #[error("a state was to be installed twice")]
    Twice,
}

impl Machine {
    /// A machine that goes on after `start`, or from nothing. The history ends where `timeline` is.
    pub fn new(
        timeline: StateMachine,
        start: Option<SnapshotHead>,
        files: MachineFiles,
    ) -> Machine {
        let replay = files.log.last().map(|last| Replay {
            last: last.index,
            next_report: Instant::now() + PROGRESS_INTERVAL,
        });
        Machine {
            applied: start.as_ref().and_then(|head| head.last),
            members: start
                .as_ref()
                .map(|head| head.members.clone())
                .unwrap_or_default(),
            shared: Arc::new(MachineShared::new(timeline.view(), start, files)),
            timeline,
            replay,
            alive: None,
        }
    }

    /// Ends, with an error, when the machine is gone.
    pub fn watch_end(&mut self) -> oneshot::Receiver<()> {
        let (alive, ended) = oneshot::channel();
        self.alive = Some(alive);
        ended
    }

    /// What others see of it.
    pub fn shared(&self) -> Arc<MachineShared> {
        self.shared.clone()
    }

    /// The state now, and the history up to it, whose files stay for as long as they are held.
    pub fn capture(&self) -> (SnapshotHead, Vec<u8>, Arc<StateView>, PinnedHistory) {
        let head = SnapshotHead {
            last: self.applied,
            members: self.members.clone(),
            frame: self.timeline.index(),
        };
        let history = self.shared.history.lock().pin(head.frame);
        (
            head,
            self.timeline.snapshot(),
            self.timeline.view(),
            history,
        )
    }

    fn apply_entry(&mut self, entry: LogEntry) -> Result<Answer, ApplyFailure> {
        let answer = match entry.payload {
            EntryPayload::Blank => Answer(Vec::new()),
            EntryPayload::Normal(proposal) => Answer(self.apply_batch(&proposal.batch)?),
            EntryPayload::Membership(members) => {
                self.members = StoredMembers::new(Some(entry.log_id), members);
                Answer(Vec::new())
            }
        };
        self.applied = Some(entry.log_id);
        self.report_replay(entry.log_id.index);
        Ok(answer)
    }

    fn apply_batch(&mut self, batch: &Batch) -> Result<Vec<Outcome>, ApplyFailure> {
        let Applied {
            outcomes,
            frames,
            seal,
            retain,
        } = self.timeline.apply(batch)?;
        let shared = &self.shared;
        if frames.is_some() || seal || retain.is_some() {
            let mut history = shared.history.lock();
            if let Some(frames) = &frames {
                history.append(frames)?;
                if let Some(write_back) = history.write_back() {
                    shared.write_back_in_background(write_back);
                }
            }
            if seal && let Some(pending) = history.seal()? {
                shared.complete_in_background(pending);
            }
            if let Some(oldest) = retain {
                history.retain(oldest)?;
            }
        }
        if let Some(frames) = frames {
            shared
                .frames_applied
                .fetch_add(frames.len() as u64, Ordering::Relaxed);
            shared.broker.load().append(frames);
        }
        shared
            .newest_time
            .fetch_max(batch.time.as_unix_micros(), Ordering::Relaxed);
        shared.view.store(self.timeline.view());
        Ok(outcomes)
    }

    /// Tells blocked readers how far the state is.
    fn publish_applied(&self) {
        let index = self.timeline.index();
        self.shared.applied.send_if_modified(|applied| {
            let changed = *applied != index;
            *applied = index;
            changed
        });
    }

    fn report_replay(&mut self, index: u64) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        let last = replay.last;
        if index >= last {
            tracing::info!(
                entries = last,
                frame = self.timeline.index().get(),
                "log applied"
            );
            self.replay = None;
        } else if Instant::now() >= replay.next_report {
            replay.next_report = Instant::now() + PROGRESS_INTERVAL;
            tracing::info!(entry = index, last, "applying the log");
        }
    }
}

// === impl RaftStateMachine ===

impl RaftStateMachine<Binding> for Machine {
    type SnapshotData = SnapshotState;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<EntryId>, StoredMembers), io::Error> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Binding>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let answer = match self.apply_entry(entry) {
                Ok(answer) => answer,
                Err(error) => {
                    // State and history differ now: only a restart brings them together.
                    self.shared.fault.raise(chain(&error));
                    return Err(io::Error::other(error));
                }
            };
            self.publish_applied();
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if self.shared.snapshot_underway.swap(true, Ordering::AcqRel) && !force {
            return None;
        }
        let builder = self.get_snapshot_builder().await;
        let state_bytes = builder.state.as_ref().map_or(0, Vec::len);
        if !force && self.shared.is_put_off(state_bytes) {
            self.shared
                .snapshot_underway
                .store(false, Ordering::Release);
            return None;
        }
        Some(builder)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let head = SnapshotHead {
            last: self.applied,
            members: self.members.clone(),
            frame: self.timeline.index(),
        };
        SnapshotBuilder {
            head,
            state: Some(self.timeline.snapshot()),
            log_bytes: self.shared.log.bytes_since_snapshot(),
            shared: self.shared.clone(),
        }
    }

    /// Replaces the state by a leader's, and the history by the one that was gathered.
    ///
    /// Without one the own history is cut to the frame that the snapshot ends at, and must reach that
    /// far.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Binding>,
        snapshot: SnapshotState,
    ) -> Result<(), io::Error> {
        let head = SnapshotHead {
            last: meta.last_log_id,
            members: meta.last_membership.clone(),
            frame: snapshot.frame,
        };
        let shared = self.shared.clone();
        // Whoever reads comes back, to what will be there then.
        shared.broker.load().close();
        let installed = tidings_host::spawn_blocking({
            let head = head.clone();
            move || match snapshot.prepared {
                Some(prepared) => {
                    let timeline = prepared.timeline.lock().take();
                    let timeline = timeline.ok_or(SnapshotError::Twice)?;
                    shared.install(&head, &snapshot.state)?;
                    Ok(timeline)
                }
                None => {
                    let timeline = StateMachine::restore(&snapshot.state)?;
                    shared.history.lock().cut_after(head.frame)?;
                    shared.write_snapshot(&head, &snapshot.state)?;
                    Ok(timeline)
                }
            }
        });
        let installed: Result<_, SnapshotError> = installed.await.map_err(io::Error::other)?;
        let timeline = match installed {
            Ok(timeline) => timeline,
            Err(error) => {
                self.shared
                    .fault
                    .raise(format!("cannot install a snapshot: {}", chain(&error)));
                return Err(io::Error::other(error));
            }
        };
        self.timeline = timeline;
        self.applied = head.last;
        self.members = head.members;
        self.shared.replace_broker(head.frame);
        self.shared.view.store(self.timeline.view());
        self.publish_applied();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Binding, SnapshotState>>, io::Error> {
        let shared = self.shared.clone();
        let read = tidings_host::spawn_blocking(move || shared.snapshots.latest()).await;
        let Some(snapshot) = read.map_err(io::Error::other)?.map_err(io::Error::other)? else {
            return Ok(None);
        };
        let head = codec::decode_snapshot_head(&snapshot.meta).map_err(io::Error::other)?;
        Ok(Some(snapshot_of(head, snapshot.data)))
    }
}

pub(crate) fn snapshot_of(head: SnapshotHead, state: Bytes) -> SnapshotOf<Binding, SnapshotState> {
    SnapshotOf::<Binding, SnapshotState> {
        meta: SnapshotMetaOf::<Binding> {
            last_log_id: head.last,
            last_membership: head.members,
        },
        snapshot: SnapshotState {
            frame: head.frame,
            state,
            prepared: None,
        },
    }
}

// === impl SnapshotBuilder ===

/// The state at one entry, to be written while further entries are applied.
pub(crate) struct SnapshotBuilder {
    head: SnapshotHead,
    state: Option<Vec<u8>>,
    /// Bytes of log that the snapshot makes dispensable.
    log_bytes: u64,
    shared: Arc<MachineShared>,
}

impl RaftSnapshotBuilder<Binding> for SnapshotBuilder {
    type SnapshotData = SnapshotState;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Binding, SnapshotState>, io::Error> {
        let state = Bytes::from(self.state.take().unwrap_or_default());
        let written = tidings_host::spawn_blocking({
            let (shared, head, state) = (self.shared.clone(), self.head.clone(), state.clone());
            move || shared.write_snapshot(&head, &state)
        });
        let written = written.await.map_err(io::Error::other)?;
        self.shared
            .snapshot_underway
            .store(false, Ordering::Release);
        match written {
            Ok(()) => {}
            Err(SnapshotError::NoRoom(error)) => {
                tracing::warn!(error = %chain(&error), "the disk is full");
                let needs = state.len() as u64 + SNAPSHOT_SLACK_BYTES;
                // The room that there seemed to be was not: more must be free than is now.
                let free = self.shared.space.free();
                self.shared.put_off(needs.max(free.saturating_add(1)), free);
                return Ok(self.previous());
            }
            Err(error) => {
                self.shared
                    .fault
                    .raise(format!("cannot make a snapshot: {}", chain(&error)));
                return Err(io::Error::other(error));
            }
        }
        self.shared.log.forget_bytes(self.log_bytes);
        Ok(snapshot_of(self.head.clone(), state))
    }
}

impl SnapshotBuilder {
    /// The snapshot that is there already, without its state.
    ///
    /// To the engine a builder that fails is a reason to stop; one that comes back with an older
    /// snapshot changes nothing, and the log stays as it is.
    fn previous(&self) -> SnapshotOf<Binding, SnapshotState> {
        let head = self.shared.last_snapshot.lock().clone();
        let head = head.unwrap_or_else(|| SnapshotHead {
            last: None,
            members: StoredMembers::default(),
            frame: Index::ZERO,
        });
        snapshot_of(head, Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{space::FreeSpace, start::Files, store_suite::config};

    #[tokio::test]
    async fn after_a_fault_no_snapshot_is_relied_on() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let fault = Fault::new();
        let files = Files::open(&config, 0, &fault).unwrap();
        let (_data_dir, mut machine) = files
            .into_machine(&config, Handle::current(), &fault)
            .unwrap();
        let mut builder = machine.get_snapshot_builder().await;
        fault.raise("a segment was not completed".to_owned());
        let error = builder.build_snapshot().await.unwrap_err();
        assert!(error.to_string().contains("not completed"), "{error}");
        assert!(machine.get_current_snapshot().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_disk_that_fills_up_during_a_snapshot_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.disk.free_space = Some(FreeSpace::new(|| 1 << 40));
        let fault = Fault::new();
        let files = Files::open(&config, 0, &fault).unwrap();
        let (_data_dir, mut machine) = files
            .into_machine(&config, Handle::current(), &fault)
            .unwrap();
        let unfinished = dir.path().join("snapshots/00000000000000000000.snap.tmp");
        std::os::unix::fs::symlink("/dev/full", &unfinished).unwrap();
        let mut builder = machine.try_create_snapshot_builder(false).await.unwrap();
        let built = builder.build_snapshot().await.unwrap();
        assert_eq!(built.meta.last_log_id, None, "nothing newer than before");
        assert_eq!(fault.reason(), None);
        assert!(!machine.shared.has_room_for_snapshot());
        assert!(machine.get_current_snapshot().await.unwrap().is_none());

        // There is room again.
        let mut builder = machine.try_create_snapshot_builder(false).await.unwrap();
        builder.build_snapshot().await.unwrap();
        assert!(machine.shared.has_room_for_snapshot());
        assert!(machine.get_current_snapshot().await.unwrap().is_some());
    }
}
