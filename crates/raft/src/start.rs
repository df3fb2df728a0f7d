use std::{collections::BTreeMap, sync::Arc, time::Duration};

use openraft::{Config, Raft, RaftMetrics, SnapshotPolicy, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use tidings_event::Index;
use tidings_store::{
    DataDir, History, HistoryConfig, RaftLog, RaftLogConfig, SnapshotStore, StoreError,
    VerifyOnStart,
};
use tidings_timeline::{Settings, StateMachine};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    batch_clock::BatchClock,
    binding::{Binding, Peer},
    codec::{self, SnapshotHead},
    config::{PeersConfig, ReplicaConfig, VerifyHistory},
    error::{OpenError, chain},
    fault::Fault,
    identity,
    log::Log,
    machine::{Machine, MachineFiles, MachineShared},
    network::NoPeers,
    peers::{
        Formation, Forwarder, Keeper, Lead, Leadership, Links, Me, Receiver, Service,
        StandingWatch, listen,
    },
    proposer::{Proposer, ProposerCounters},
    queue::Queue,
    space::Space,
    upkeep::Upkeep,
};

/// How long a start waits for somebody to lead. A server that stands alone leads at once.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Entries of up to this many bytes are synced where they are appended: a few events, as long as
/// they come one by one and the disk is quick. It holds up one worker for one sync.
const DIRECT_BYTES_MAX: usize = 4 << 10;

/// Milliseconds between a leader's signs of life, and without one until an election.
///
/// An election waits for several lost signs of life; one of the server's ticks is a fifth of the
/// former, which is what an idle server costs.
const HEARTBEAT_MS: u64 = 150;
const ELECTION_MS_MIN: u64 = 450;
const ELECTION_MS_MAX: u64 = 750;

/// Entries that go to a follower in one message; an entry holds about a mebibyte.
const ENTRIES_PER_MESSAGE_MAX: u64 = 16;

/// Bytes of groups in one entry: what a record of the log holds, less its head and the batch's.
const ENTRY_BYTES_MAX: usize = RaftLog::RECORD_BYTES_MAX - (1 << 20);

/// Everything that an open replica consists of.
pub(crate) struct Parts {
    pub data_dir: DataDir,
    pub raft: Raft<Binding, Machine>,
    pub machine: Arc<MachineShared>,
    pub queue: Arc<Queue>,
    pub in_flight: Arc<Semaphore>,
    pub counters: Arc<ProposerCounters>,
    pub fault: Fault,
    pub proposer: JoinHandle<()>,
    pub upkeep: JoinHandle<()>,
    /// An error once the state machine is gone.
    pub machine_ended: oneshot::Receiver<()>,
    pub stopping: Arc<Mutex<bool>>,
    pub peers: Option<PeersParts>,
}

/// What a replica with peers has besides.
pub(crate) struct PeersParts {
    /// They listen, greet others and lead; aborted when dropped.
    pub tasks: JoinSet<()>,
    pub forwarder: Forwarder,
}

/// Opens the files, brings the state up to date, and starts the tasks. Waits for the
/// disk where it runs: not on a worker.
///
/// Subscriptions are woken on `home`.
pub(crate) async fn start(
    config: &ReplicaConfig,
    peers: Option<PeersConfig>,
    home: Handle,
) -> Result<Parts, OpenError> {
    check(config)?;
    let fault = Fault::new();
    // With peers a sync on the engine's own task would delay signs of life.
    let direct_bytes_max = match peers {
        Some(_) => 0,
        None => DIRECT_BYTES_MAX,
    };
    let files = Files::open(config, direct_bytes_max, &fault)?;
    let first_start = files.first_start;
    let (data_dir, mut machine) = files.into_machine(config, home, &fault)?;
    let machine_ended = machine.watch_end();
    let shared = machine.shared();
    if peers.is_some() {
        shared.stop_when_damaged();
    }

    let entries_kept = match peers {
        Some(_) => config.disk.log_entries_kept_for_peers,
        None => config.disk.log_entries_kept,
    };
    let engine = Arc::new(engine_config(entries_kept)?);
    let links = match &peers {
        Some(peers) => Some(links(config, peers, &shared)?),
        None => None,
    };
    let formation = match &links {
        Some(links) => {
            let formation = Formation::new(links.me().clone(), config.data_dir.clone())?;
            Some(Arc::new(formation))
        }
        None => None,
    };
    let log = shared.log.clone();
    let raft = match &links {
        Some(links) => Raft::new(config.node_id, engine, links.clone(), log, machine).await,
        None => Raft::new(config.node_id, engine, NoPeers, log, machine).await,
    };
    let raft = raft.map_err(|error| engine_error(&fault, &error))?;

    if first_start && peers.is_none() {
        let me = Peer {
            name: config.node_name.clone(),
            ..Peer::default()
        };
        let alone = BTreeMap::from([(config.node_id, me)]);
        raft.initialize(alone)
            .await
            .map_err(|error| engine_error(&fault, &error))?;
        tracing::info!(node = config.node_id, "first start: a cluster of one");
    }
    let ready = async {
        // with peers, the log of a first start has not begun
        if !shared.log.is_new() {
            identity::record(&config.data_dir, config.node_id)?;
        }
        lead_if_alone(&raft, config.node_id, first_start, &fault).await?;
        // With peers there may be none yet to agree with; what this server knew to be committed
        // is applied when the engine is there.
        if peers.is_none() {
            wait_until_ready(&raft, config.node_id, &fault).await?;
        }
        check_history(config, &shared)
    };
    if let Err(error) = ready.await {
        // Nothing may write any more when the directory is let go.
        let _ = raft.shutdown().await;
        shared.log.store().close();
        return Err(error);
    }

    let queue = Arc::new(Queue::new(config.queue.clone()));
    let in_flight = Arc::new(Semaphore::new(config.queue.in_flight_max));
    let counters = Arc::new(ProposerCounters::default());
    let stopping = Arc::new(Mutex::new(false));
    let proposer = Proposer {
        raft: raft.clone(),
        queue: queue.clone(),
        machine: shared.clone(),
        clock: BatchClock::new(config.clock.clone()),
        fault: fault.clone(),
        counters: counters.clone(),
        in_flight: in_flight.clone(),
        unflushed: Arc::new(Semaphore::new(config.queue.unflushed_max)),
        space: shared.space.clone(),
    };
    let upkeep = Upkeep {
        raft: raft.clone(),
        links: links.clone(),
        machine: shared.clone(),
        queue: queue.clone(),
        disk: config.disk.clone(),
        clock: config.clock.clone(),
        space: shared.space.clone(),
        fault: fault.clone(),
        stopping: stopping.clone(),
    };
    let peers = peers.zip(links).zip(formation);
    let peers = peers.map(|((peers, links), formation)| {
        let open = Open {
            raft: raft.clone(),
            machine: shared.clone(),
            queue: queue.clone(),
            fault: fault.clone(),
            formation,
        };
        start_peers(config, peers.join, links, open)
    });
    let proposer = tokio::spawn(proposer.run());
    let upkeep = tokio::spawn(upkeep.run());
    let machine = shared;
    Ok(Parts {
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
    })
}

/// What the tasks of the peers work with.
struct Open {
    raft: Raft<Binding, Machine>,
    machine: Arc<MachineShared>,
    queue: Arc<Queue>,
    fault: Fault,
    formation: Arc<Formation>,
}

fn links(
    config: &ReplicaConfig,
    peers: &PeersConfig,
    machine: &Arc<MachineShared>,
) -> Result<Arc<Links>, OpenError> {
    let stored_timeline = identity::stored_timeline(&config.data_dir)?;
    let me = Me::new(config, peers, stored_timeline, machine.clone());
    Ok(Arc::new(Links::new(Arc::new(me))))
}

fn start_peers(
    config: &ReplicaConfig,
    join: Vec<String>,
    links: Arc<Links>,
    open: Open,
) -> PeersParts {
    let Open {
        raft,
        machine,
        queue,
        fault,
        formation,
    } = open;
    let me = links.me().clone();
    me.watch(raft.metrics());
    let receiver = Arc::new(Receiver::new(me.clone(), raft.clone()));
    let leadership = Arc::new(Leadership {
        me: me.clone(),
        raft: raft.clone(),
    });
    let service = Service {
        me: me.clone(),
        leadership: leadership.clone(),
        raft: raft.clone(),
        queue: queue.clone(),
        formation: formation.clone(),
        receiver: receiver.clone(),
    };
    let standing = StandingWatch {
        links: links.clone(),
        raft: raft.clone(),
        queue: queue.clone(),
        formation: formation.clone(),
        fault,
        data_dir: config.data_dir.clone(),
    };
    let keeper = Keeper {
        me: me.clone(),
        data_dir: config.data_dir.clone(),
    };
    let lead = Lead {
        leadership: leadership.clone(),
        raft: raft.clone(),
        machine,
        queue,
        settings: config.settings.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(Arc::new(service)));
    tasks.spawn(formation.run(raft, join));
    tasks.spawn(keeper.run());
    tasks.spawn(receiver.tidy());
    tasks.spawn(lead.run());
    tasks.spawn(standing.run());
    PeersParts {
        tasks,
        forwarder: Forwarder {
            me,
            links,
            leadership,
            answer_wait_max: config.queue.answer_wait_max,
            retry_after: config.queue.retry_after,
        },
    }
}

fn check(config: &ReplicaConfig) -> Result<(), OpenError> {
    let queue = &config.queue;
    let numbers = [
        ("queue.groups_max", queue.groups_max),
        ("queue.bytes_max", queue.bytes_max),
        ("queue.group_bytes_max", queue.group_bytes_max),
        ("queue.batch_bytes_max", queue.batch_bytes_max),
        ("queue.batch_groups_max", queue.batch_groups_max),
        ("queue.in_flight_max", queue.in_flight_max),
        ("queue.unflushed_max", queue.unflushed_max),
    ];
    for (setting, number) in numbers {
        if number == 0 || number > Semaphore::MAX_PERMITS {
            let found = number.to_string();
            return Err(OpenError::Setting {
                setting,
                expected: "at least 1",
                found,
            });
        }
    }
    let sizes = [
        ("queue.group_bytes_max", queue.group_bytes_max),
        ("queue.batch_bytes_max", queue.batch_bytes_max),
    ];
    for (setting, bytes) in sizes {
        if bytes > ENTRY_BYTES_MAX {
            return Err(OpenError::Setting {
                setting,
                expected: "at most 255 MiB, so that a log entry can hold it: lower the limit of a transaction or of a batch",
                found: format!("{bytes} bytes"),
            });
        }
    }
    if config.disk.retention_interval.is_zero() {
        let found = "0 s".to_owned();
        let setting = "disk.retention_interval";
        return Err(OpenError::Setting {
            setting,
            expected: "longer than 0",
            found,
        });
    }
    Ok(())
}

fn engine_config(entries_kept: u64) -> Result<Config, OpenError> {
    let config = Config {
        cluster_name: "tidings".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS_MIN,
        election_timeout_max: ELECTION_MS_MAX,
        max_payload_entries: ENTRIES_PER_MESSAGE_MAX,
        // by bytes of log, which the upkeep looks at
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: entries_kept,
        enable_pre_vote: Some(true),
        // A restarted leader is elected anew: its first entry commits all that the log had.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| OpenError::Engine {
        reason: chain(&error),
    })
}

/// The files of a data directory, opened, and the state as of the snapshot.
pub(crate) struct Files {
    data_dir: DataDir,
    pub log: Log,
    /// Whether nothing was ever in the log.
    pub first_start: bool,
    history: History,
    snapshots: SnapshotStore,
    snapshot: Option<SnapshotHead>,
    timeline: StateMachine,
}

impl Files {
    /// Opens the history last: it is brought in line with the rest, which must be known to be right.
    pub fn open(
        config: &ReplicaConfig,
        direct_bytes_max: usize,
        fault: &Fault,
    ) -> Result<Files, OpenError> {
        let path = &config.data_dir;
        let store = |source: StoreError| OpenError::Store {
            path: path.clone(),
            source,
        };
        let data_dir = DataDir::open(path).map_err(store)?;
        identity::check_owner(path, config.node_id)?;
        let snapshots = SnapshotStore::open(&data_dir.snapshots()).map_err(store)?;
        // Not the configured settings: the state before the log is the same on every server.
        let mut timeline = StateMachine::new(Settings::default());
        let mut snapshot = None;
        if let Some(found) = snapshots.latest().map_err(store)? {
            let head = codec::decode_snapshot_head(&found.meta)
                .map_err(|source| OpenError::content("snapshot's head", source))?;
            timeline = StateMachine::restore(&found.data).map_err(|source| OpenError::Content {
                what: "snapshot's state",
                source: source.into(),
            })?;
            snapshot = Some(head);
        }
        // `Log` keeps the newest entries in memory, decoded: the store need not as well.
        let log_config = RaftLogConfig {
            segment_bytes: config.disk.log_segment_bytes,
            cache_bytes: 0,
            direct_bytes_max,
            ..RaftLogConfig::default()
        };
        let (log, state) = RaftLog::open(&data_dir.raft(), log_config).map_err(store)?;
        let log = Log::new(log, state, fault.clone())
            .map_err(|source| OpenError::content("log", source))?;
        let first_start = identity::admit(path, config.node_id, log.is_new())?;
        let covered = covered(snapshot.as_ref());
        if let Some(purged) = log.purged().filter(|purged| Some(purged.index) > covered) {
            return Err(OpenError::LogBehind {
                purged: purged.index,
                covered,
            });
        }
        let verify = match config.verify {
            VerifyHistory::All => VerifyOnStart::All,
            VerifyHistory::Tail => VerifyOnStart::Tail,
        };
        let durable_to = snapshot.as_ref().map_or(Index::ZERO, |head| head.frame);
        let history_config = HistoryConfig {
            verify,
            durable_to: Some(durable_to),
        };
        let (history, _) = History::open(&data_dir.history(), history_config).map_err(store)?;
        Ok(Files {
            data_dir,
            log,
            first_start,
            history,
            snapshots,
            snapshot,
            timeline,
        })
    }

    /// The machine as of the snapshot; the history goes back to there too, and both grow again
    /// from the log.
    pub fn into_machine(
        self,
        config: &ReplicaConfig,
        home: Handle,
        fault: &Fault,
    ) -> Result<(DataDir, Machine), OpenError> {
        let Files {
            data_dir,
            log,
            mut history,
            snapshots,
            snapshot,
            timeline,
            ..
        } = self;
        let frame = snapshot.as_ref().map_or(Index::ZERO, |head| head.frame);
        history
            .cut_after(frame)
            .map_err(|source| OpenError::Store {
                path: config.data_dir.clone(),
                source,
            })?;
        log.set_bytes_since_snapshot(match covered(snapshot.as_ref()) {
            Some(index) => log.store().bytes_since(index),
            None => log.store().state().bytes,
        });
        let space = Space::new(
            log.store().clone(),
            config.disk.free_space.clone(),
            config.disk.free_reserve,
        );
        let files = MachineFiles {
            data_dir: data_dir.path().to_owned(),
            history_dir: data_dir.history(),
            history,
            snapshots,
            log,
            broker_config: config.broker.clone(),
            home,
            space,
            fault: fault.clone(),
        };
        Ok((data_dir, Machine::new(timeline, snapshot, files)))
    }
}

/// The last entry that a snapshot covers.
fn covered(snapshot: Option<&SnapshotHead>) -> Option<u64> {
    snapshot.and_then(|head| head.last).map(|last| last.index)
}

/// Checks that no frame is missing that the state says is kept.
fn check_history(config: &ReplicaConfig, machine: &MachineShared) -> Result<(), OpenError> {
    let oldest = machine.view.load().oldest;
    let checked = machine.history.lock().check_oldest(oldest);
    checked.map_err(|source| OpenError::Store {
        path: config.data_dir.clone(),
        source,
    })
}

/// A server that is the only voter does not wait for an election to fall due.
async fn lead_if_alone(
    raft: &Raft<Binding, Machine>,
    node_id: u64,
    first_start: bool,
    fault: &Fault,
) -> Result<(), OpenError> {
    let alone = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().eq([node_id])
    };
    // a first start begins with an election
    if alone && !first_start {
        raft.trigger()
            .elect(false)
            .await
            .map_err(|error| engine_error(fault, &error))?;
    }
    Ok(())
}

/// Returns when this server leads and everything in the log has been applied. An error at once when
/// others vote as well: without peers there would never be a leader.
async fn wait_until_ready(
    raft: &Raft<Binding, Machine>,
    node_id: u64,
    fault: &Fault,
) -> Result<(), OpenError> {
    let others_vote = |metrics: &RaftMetrics<Binding>| {
        let mut voters = metrics.membership_config.voter_ids();
        voters.any(|id| id != node_id)
    };
    let wait = raft.wait(Some(LEADER_WAIT_MAX));
    let led = wait.metrics(
        |metrics| {
            metrics.current_leader.is_some()
                || metrics.running_state.is_err()
                || others_vote(metrics)
        },
        "somebody leads",
    );
    let led = led.await;
    if let Ok(metrics) = &led
        && others_vote(metrics)
    {
        return Err(OpenError::NotAlone {
            members: metrics.membership_config.voter_ids().collect(),
        });
    }
    if let Err(error) = led {
        if let Some(reason) = fault.reason() {
            return Err(OpenError::Engine {
                reason: reason.to_string(),
            });
        }
        tracing::debug!(%error, "no leader");
        let members = raft
            .metrics()
            .borrow_watched()
            .membership_config
            .voter_ids()
            .collect();
        return Err(OpenError::NoLeader {
            waited: LEADER_WAIT_MAX,
            members,
        });
    }
    // As long as it takes: the progress is told by the machine.
    let wait = raft.wait(None);
    let applied = wait.metrics(
        |metrics| {
            metrics.running_state.is_err()
                || (metrics.current_leader.is_some()
                    && metrics.last_applied.map(|last| last.index) >= metrics.last_log_index)
        },
        "the log is applied",
    );
    let metrics = applied.await.map_err(|error| engine_error(fault, &error))?;
    metrics
        .running_state
        .map_err(|error| engine_error(fault, &error))
}

/// The reason that we have noted, which names the file, or else what the engine says.
fn engine_error(fault: &Fault, error: &dyn std::error::Error) -> OpenError {
    let reason = match fault.reason() {
        Some(reason) => reason.to_string(),
        None => chain(error),
    };
    OpenError::Engine { reason }
}
