use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{Raft, ServerState, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use tidings_event::{Index, Timestamp};
use tidings_store::DataDir;
use tidings_timeline::{
    Broker, CommandGroup, Commands, HistoryReader, Outcome, Settings, Stamper, StateView,
    TimelineId,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time,
};

use crate::{
    binding::Binding,
    config::{Clock, PeersConfig, ReplicaConfig},
    error::{OpenError, ProposeError, chain},
    fault::Fault,
    identity,
    machine::{Machine, MachineShared},
    peers::{Forwarder, Me},
    proposer::ProposerCounters,
    queue::{Queue, Waiting},
    rebuild,
    start::{Parts, start},
    status::{ReplicaStatus, Role, WaitsFor},
    successor::ask_to_lead,
};

/// How long a shutdown waits for what is in flight to be answered.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a shutdown waits for another server to lead. Without one they elect one by themselves.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long commands wait on a server that knows of no leader. Longer than an election takes.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often such a server looks for one.
const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a shutdown waits for its snapshot. Without it the next start only takes longer.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(60);
/// Entries that a server may lag behind its own log and still be called caught up.
const LAG_ENTRIES_MAX: u64 = 64;
/// How long one request for a snapshot is waited for before it is made again.
const SNAPSHOT_ASK_INTERVAL: Duration = Duration::from_secs(2);

/// The timeline on this server. A handle: clones are cheap and are the same replica.
///
/// Its tasks run on the runtime that opened it: an event that comes alone goes from its connection to
/// the disk and on to its readers without a change of threads. They end with [`Replica::shutdown`] or
/// when the last handle is dropped. The latter loses nothing that was acknowledged, but the next start
/// has more to do.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    node_name: String,
    clock: Clock,
    in_flight_max: usize,
    answer_wait_max: Duration,
    raft: Raft<Binding, Machine>,
    machine: Arc<MachineShared>,
    queue: Arc<Queue>,
    in_flight: Arc<Semaphore>,
    counters: Arc<ProposerCounters>,
    fault: Fault,
    stopping: Arc<Mutex<bool>>,
    /// The way to the leader, with peers.
    forwarder: Option<Forwarder>,
    /// Whether the log was applied once since the start.
    caught_up: AtomicBool,
    /// What a shutdown takes apart; `None` after it.
    running: Mutex<Option<Running>>,
}

/// The outcomes of a group that has its place in the order, one for each command.
pub type Submitted = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, ProposeError>> + Send>>;

/// What ends with the replica.
struct Running {
    proposer: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    /// Empty without peers.
    peers: JoinSet<()>,
    /// An error once the state machine is gone: nothing is written any more.
    machine_ended: oneshot::Receiver<()>,
    /// Dropped: another process may open the directory.
    data_dir: DataDir,
    home: Handle,
}

impl Drop for Inner {
    /// Without a shutdown: everything ends where it is, and only then is the directory let go.
    fn drop(&mut self) {
        let Some(mut running) = self.running.lock().take() else {
            return;
        };
        running.proposer.abort();
        running.upkeep.abort();
        running.peers.abort_all();
        let raft = self.raft.clone();
        let machine = self.machine.clone();
        running.home.spawn(async move {
            let _ = raft.shutdown().await;
            drop(raft);
            let _ = time::timeout(DRAIN_WAIT_MAX, running.machine_ended).await;
            let data_dir = running.data_dir;
            let _ = tidings_host::spawn_blocking(move || {
                machine.log.store().close();
                drop(data_dir);
            })
            .await;
        });
    }
}

impl Replica {
    /// Opens a data directory, and returns when everything in its log has been applied.
    ///
    /// An empty directory becomes a cluster of this one server. What belongs to a larger cluster
    /// does not open here: nobody would lead.
    ///
    /// # Errors
    ///
    /// When the files are damaged or belong to another server, or when nobody leads.
    pub async fn open(config: ReplicaConfig) -> Result<Replica, OpenError> {
        let settings = config.settings.clone();
        let replica = Replica::start(config, None).await?;
        replica.found().await;
        if let Some(settings) = settings {
            replica.settle(settings).await;
        }
        Ok(replica)
    }

    /// Opens a data directory as one of several servers that hold one timeline.
    ///
    /// Returns before the others are found; [`Replica::ready`] waits for that. The server's number
    /// is that of its data directory, made of chance at the first start: `config.node_id` is not
    /// looked at. Settings are proposed when this server leads for the first time. After
    /// [`set_aside`](crate::set_aside) it takes the place of the server that was there before.
    ///
    /// # Errors
    ///
    /// When the files are damaged.
    pub async fn open_with_peers(
        mut config: ReplicaConfig,
        mut peers: PeersConfig,
    ) -> Result<Replica, OpenError> {
        let data_dir = config.data_dir.clone();
        let ids = tidings_host::spawn_blocking(move || {
            rebuild::check_undamaged(&data_dir)?;
            let id = identity::own_or_new(&data_dir)?;
            Ok((id, identity::replaces(&data_dir)?))
        });
        let (id, replaces) = ids.await.unwrap_or_else(|error| {
            Err(OpenError::Engine {
                reason: format!("opening ended with a panic ({error})"),
            })
        })?;
        config.node_id = id;
        // one whose files were set aside, unless that was interrupted
        peers.replaces = peers.replaces.or(replaces).filter(|&old| old != id);
        Replica::start(config, Some(peers)).await
    }

    async fn start(
        config: ReplicaConfig,
        peers: Option<PeersConfig>,
    ) -> Result<Replica, OpenError> {
        let (node_id, in_flight_max) = (config.node_id, config.queue.in_flight_max);
        let answer_wait_max = config.queue.answer_wait_max;
        let (node_name, clock) = (config.node_name.clone(), config.clock.clone());
        let home = Handle::current();
        // Opening reads files and waits for them: not on a thread that others need.
        let started = tidings_host::spawn_blocking_future(&home, {
            let home = home.clone();
            async move { start(&config, peers, home).await }
        });
        let parts = started.await.unwrap_or_else(|error| {
            Err(OpenError::Engine {
                reason: format!("opening ended with a panic ({error})"),
            })
        });
        let Parts {
            data_dir,
            raft,
            machine,
            queue,
            in_flight,
            counters,
            fault,
            proposer,
            upkeep,
            machine_ended,
            stopping,
            peers,
        } = parts?;
        let (forwarder, peers) = match peers {
            Some(peers) => (Some(peers.forwarder), peers.tasks),
            None => (None, JoinSet::new()),
        };
        let running = Running {
            proposer,
            upkeep,
            peers,
            machine_ended,
            data_dir,
            home,
        };
        Ok(Replica {
            inner: Arc::new(Inner {
                node_id,
                node_name,
                clock,
                in_flight_max,
                answer_wait_max,
                raft,
                machine,
                queue,
                in_flight,
                counters,
                fault,
                stopping,
                forwarder,
                caught_up: AtomicBool::new(false),
                running: Mutex::new(Some(running)),
            }),
        })
    }

    /// Waits until this server is in a cluster that has a leader and a founded timeline, and has
    /// applied what was in the log when it found that out. At once without peers.
    pub async fn ready(&self) {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let (is_led, last) = {
                let metrics = metrics.borrow_watched();
                (metrics.current_leader.is_some(), metrics.last_log_index)
            };
            let applied = metrics.borrow_watched().last_applied.map(|id| id.index);
            if is_led && applied >= last && self.state().timeline.is_some() {
                return;
            }
            // the engine has stopped: it will not become ready
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// What this server waits for before it can serve; `None` once it can.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        let me = self.inner.forwarder.as_ref().map(|forwarder| &forwarder.me);
        if let Some(waits_for) = me.and_then(|me| me.waits_for()) {
            return Some(waits_for);
        }
        let (is_led, last, applied) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let applied = metrics.last_applied.map_or(0, |id| id.index);
            let last = metrics.last_log_index.unwrap_or(0);
            (metrics.current_leader.is_some(), last, applied)
        };
        if !is_led {
            return Some(WaitsFor::Leader);
        }
        if self.state().timeline.is_none() {
            return Some(WaitsFor::Timeline);
        }
        // What comes later is never quite applied while much is published.
        let caught_up = &self.inner.caught_up;
        if !caught_up.load(Ordering::Relaxed) && applied.saturating_add(LAG_ENTRIES_MAX) < last {
            return Some(WaitsFor::Log { applied, last });
        }
        caught_up.store(true, Ordering::Relaxed);
        None
    }

    /// Gives the timeline its identity, if this server leads and it has none yet.
    async fn found(&self) {
        if !self.inner.raft.is_leader() || self.state().timeline.is_some() {
            return;
        }
        let timeline = TimelineId(tidings_host::ulid().0);
        let mut group = CommandGroup::new();
        group.found(timeline);
        match self.propose_always(group).await {
            Ok(_) => tracing::info!(%timeline, "timeline founded"),
            Err(error) => {
                tracing::warn!(%error, "timeline not founded; the next start tries again")
            }
        }
    }

    /// Proposes the configured settings, if this server leads and they are not the recorded ones.
    async fn settle(&self, settings: Settings) {
        if !self.inner.raft.is_leader() || *self.state().settings == settings {
            return;
        }
        match self.propose_settings(settings.clone()).await {
            Ok(_) => tracing::info!(?settings, "settings changed"),
            Err(error) => tracing::warn!(%error, "settings not changed; the recorded ones hold"),
        }
    }

    /// Changes the settings of the timeline. Taken on a full disk too: a shorter retention is what
    /// makes room.
    ///
    /// # Errors
    ///
    /// As [`Replica::propose`], but for [`ProposeError::DiskFull`].
    pub async fn propose_settings(&self, settings: Settings) -> Result<Vec<Outcome>, ProposeError> {
        let mut group = CommandGroup::new();
        group.change_settings(&settings);
        self.propose_always(group).await
    }

    /// As [`Replica::propose`], below the free reserve as well.
    async fn propose_always(&self, group: CommandGroup) -> Result<Vec<Outcome>, ProposeError> {
        self.enqueue(group.into(), true).await?.await
    }

    /// Records the commands of a group: they are durable and applied when this returns, in the
    /// order of the group, with one outcome each.
    ///
    /// Groups that are proposed one after the other by one caller without waiting for answers keep
    /// their order as well, if the futures are polled in it.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]: which of them mean that nothing was recorded, and which leave it open.
    pub async fn propose(&self, group: CommandGroup) -> Result<Vec<Outcome>, ProposeError> {
        self.submit(group).await?.await
    }

    /// As [`Replica::propose`], in two steps: once this returns, the group has its place in the
    /// order; what it returns waits for the outcomes.
    ///
    /// # Errors
    ///
    /// Those that say that there is no place for the group; nothing was recorded then.
    pub async fn submit(&self, group: impl Into<Commands>) -> Result<Submitted, ProposeError> {
        self.enqueue(group.into(), false).await
    }

    async fn enqueue(
        &self,
        group: Commands,
        takes_reserve: bool,
    ) -> Result<Submitted, ProposeError> {
        let waits = !group.is_empty();
        if let Some(forwarder) = &self.inner.forwarder
            && waits
            && !self.inner.raft.is_leader()
        {
            let (bytes_len, commands) = (group.bytes_len(), group.len());
            let bytes = group.clone().into_bytes();
            let give_up = time::Instant::now() + LEADER_WAIT_MAX;
            loop {
                self.inner.queue.check(bytes_len)?;
                let submitted = forwarder.submit(commands, bytes.clone(), takes_reserve);
                match submitted.await {
                    // nothing has left this server: somebody else will lead in a moment
                    Err(ProposeError::NotLeader { .. }) if time::Instant::now() < give_up => {
                        time::sleep(LEADER_LOOK_INTERVAL).await;
                    }
                    submitted => return submitted,
                }
                if self.inner.raft.is_leader() {
                    break;
                }
            }
        }
        let (answer, answered) = oneshot::channel();
        let answer_wait_max = self.inner.answer_wait_max;
        if waits {
            let commands = group.len();
            let group = Waiting {
                commands,
                takes_reserve,
                bytes: group.into_bytes(),
                answer,
            };
            self.inner.queue.push(group).await?;
        }
        Ok(Box::pin(async move {
            if !waits {
                return Ok(Vec::new());
            }
            match time::timeout(answer_wait_max, answered).await {
                Ok(Ok(outcomes)) => outcomes,
                // too long, or the engine went without an answer
                Err(_) | Ok(Err(_)) => Err(ProposeError::Unknown { leader: None }),
            }
        }))
    }

    /// The state, as of the last entry that was applied.
    pub fn state(&self) -> Arc<StateView> {
        self.inner.machine.view.load_full()
    }

    /// Where frames are subscribed to.
    ///
    /// Another one takes its place when the state is replaced by a leader's snapshot; it is closed
    /// then, and whoever subscribes again asks anew.
    pub fn broker(&self) -> Arc<Broker> {
        self.inner.machine.broker.load_full()
    }

    /// The newest frame in the state; changes when the state has.
    pub fn applied(&self) -> watch::Receiver<Index> {
        self.inner.machine.applied.subscribe()
    }

    /// Returns when something broke for good, with what it was. The process should end then.
    pub async fn fatal(&self) -> Arc<str> {
        self.inner.fault.raised().await
    }

    pub(crate) fn raft(&self) -> &Raft<Binding, Machine> {
        &self.inner.raft
    }

    pub(crate) fn node_name(&self) -> &str {
        &self.inner.node_name
    }

    /// The time by this server's clock.
    pub(crate) fn now(&self) -> Timestamp {
        (self.inner.clock)()
    }

    /// A source of stamps for events that this server makes itself.
    pub(crate) fn stamper(&self) -> Stamper {
        let seed = u128::from(tidings_host::random()) << 64 | u128::from(tidings_host::random());
        let mut stamper = Stamper::new(self.node_name(), "tidings", seed);
        stamper.set_time(self.now());
        stamper
    }

    pub(crate) fn node_id(&self) -> u64 {
        self.inner.node_id
    }

    /// The way to the leader, if this server has peers.
    pub(crate) fn forwarder(&self) -> Option<&Forwarder> {
        self.inner.forwarder.as_ref()
    }

    /// What this server is among the others, if it has peers.
    pub(crate) fn me(&self) -> Option<&Arc<Me>> {
        self.inner.forwarder.as_ref().map(|forwarder| &forwarder.me)
    }

    /// Whether this server takes commands.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.is_leader()
    }

    /// How the replica is now.
    pub fn status(&self) -> ReplicaStatus {
        let Inner {
            machine, counters, ..
        } = &*self.inner;
        let (history_segments, history_bytes, frames_oldest) = {
            let history = machine.history.lock();
            let segments = history.segments();
            let bytes = segments.iter().map(|segment| segment.bytes).sum();
            (segments.len(), bytes, history.reader().oldest())
        };
        let log = machine.log.range();
        let depth = self.inner.queue.depth();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // before the metrics are borrowed, which it does as well
        let (waits_for, members) = (self.waits_for(), self.members());
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        ReplicaStatus {
            node_id: self.inner.node_id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            members,
            log_first: log.first,
            log_last: log.last,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            snapshot_frame: machine.snapshot_frame(),
            frames_oldest,
            frames_newest: machine.view.load().index,
            history_segments,
            history_bytes,
            queue_groups: depth.groups,
            queue_bytes: depth.bytes,
            in_flight: self.inner.in_flight_max - self.inner.in_flight.available_permits(),
            batches: read(&counters.batches),
            groups: read(&counters.groups),
            commands: read(&counters.commands),
            command_bytes: read(&counters.bytes),
            frames_applied: read(&machine.frames_applied),
            log_bytes: machine.log.bytes_appended(),
            log_bytes_since_snapshot: machine.log.bytes_since_snapshot(),
            snapshot_bytes_sent: read(&machine.snapshot_bytes_sent),
            snapshot_bytes_received: read(&machine.snapshot_bytes_received),
            refused_disk_full: read(&counters.refused_disk_full),
            disk_free: machine.space.free(),
            disk_reserve: machine.space.reserve(),
            damaged: self.inner.fault.reason().map(|reason| reason.to_string()),
            waits_for,
            peers: self.me().map(|me| me.stats()),
        }
    }

    /// Makes a snapshot now and lets go of the log before it. `false` when it did not come about
    /// in a minute, there is no room for it, or the replica has stopped.
    pub async fn snapshot(&self) -> bool {
        let raft = &self.inner.raft;
        let Some(applied) = raft.metrics().borrow_watched().last_applied else {
            return true;
        };
        let give_up = time::Instant::now() + SNAPSHOT_WAIT_MAX;
        while time::Instant::now() < give_up {
            if !self.inner.machine.has_room_for_snapshot() {
                return false;
            }
            // asked again: one that is underway already may end before `applied`
            if raft.trigger().snapshot().await.is_err() {
                return false;
            }
            let wait = raft.wait(Some(SNAPSHOT_ASK_INTERVAL));
            let made = wait.metrics(
                |metrics| metrics.snapshot >= Some(applied) || metrics.running_state.is_err(),
                "snapshot made",
            );
            if let Ok(metrics) = made.await {
                return metrics.snapshot >= Some(applied);
            }
        }
        false
    }

    /// Lets the voter that has the most of the log lead, if this server does and there is another.
    ///
    /// A server that is about to stop does this while it still takes requests: they go on to the new
    /// leader. [`Replica::shutdown`] does it as well.
    pub async fn hand_over(&self) {
        let Some(forwarder) = &self.inner.forwarder else {
            return;
        };
        let raft = &self.inner.raft;
        let node_id = self.inner.node_id;
        // What is on its way is answered first, and nothing is sent after it until another server
        // leads: whoever asked would not be told what became of it.
        let all = u32::try_from(self.inner.in_flight_max).unwrap_or(u32::MAX);
        let idle = time::timeout(HAND_OVER_WAIT_MAX, self.inner.in_flight.acquire_many(all));
        let _idle = match raft.is_leader() {
            true => idle.await.ok(),
            false => None,
        };
        let Some(successor) = ask_to_lead(raft, &forwarder.links).await else {
            return;
        };
        let wait = raft.wait(Some(HAND_OVER_WAIT_MAX));
        let led = wait.metrics(
            |metrics| {
                metrics
                    .current_leader
                    .is_some_and(|leader| leader != node_id)
            },
            "another server leads",
        );
        match led.await {
            Ok(_) => tracing::info!(successor, "handed over the lead"),
            Err(_) => tracing::warn!(successor, "stopping before another server leads"),
        }
    }

    /// Ends the replica: takes nothing more, answers what is in flight, makes a snapshot when there
    /// are new frames, and lets go of the data directory. Further calls return at once.
    pub async fn shutdown(&self) {
        let Some(running) = self.inner.running.lock().take() else {
            return;
        };
        let Running {
            proposer,
            upkeep,
            mut peers,
            machine_ended,
            data_dir,
            ..
        } = running;
        self.inner.queue.close("the server shuts down".into());
        let drained = async {
            // it may have panicked; then nothing is in flight any more
            let _ = proposer.await;
            let all = u32::try_from(self.inner.in_flight_max).unwrap_or(u32::MAX);
            self.inner.in_flight.acquire_many(all).await.is_ok()
        };
        if time::timeout(DRAIN_WAIT_MAX, drained).await.is_err() {
            tracing::warn!("stopping before everything in flight was answered");
        }
        self.hand_over().await;
        if self.inner.fault.reason().is_none() {
            let new_frames = self.state().index > self.inner.machine.snapshot_frame();
            if new_frames && !self.snapshot().await {
                tracing::warn!(
                    "no snapshot at shutdown; the next start re-applies more of the log"
                );
            }
        }
        *self.inner.stopping.lock() = true;
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(error = %chain(&error), "the consensus engine did not stop cleanly");
        }
        self.broker().close();
        upkeep.abort();
        peers.shutdown().await;
        // The engine lets go of the state machine when it has applied what it was at.
        if time::timeout(DRAIN_WAIT_MAX, machine_ended).await.is_err() {
            tracing::warn!("stopping before the state machine had ended");
        }
        let machine = self.inner.machine.clone();
        let ended = tidings_host::spawn_blocking(move || {
            let synced = machine.history.lock().sync();
            // Its threads may still be preparing space: only then is the directory let go.
            machine.log.store().close();
            drop(data_dir);
            synced
        });
        match ended.await {
            Ok(Ok(())) => tracing::info!("timeline closed"),
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "history not synced"),
            Err(error) => tracing::warn!(%error, "history not synced"),
        }
    }
}
