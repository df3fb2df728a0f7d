//! One server: the real replica on a disk, a network and a clock of the simulation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tidings_event::Timestamp;
use tidings_host::fs;
use tidings_host::net::TcpListener;
use tidings_host::simulated::{Disk, Mutex, world};
use tidings_raft::{
    DiskLimits, OpenError, PeersConfig, PeersLimits, QueueLimits, Replica, ReplicaConfig,
    TcpTransport, VerifyHistory, set_aside,
};
use tidings_timeline::BrokerConfig;
use tokio::sync::watch;
use tokio::time;

use crate::agents::front::Front;
use crate::scenario::Scenario;
use crate::trace::{Trace, note};

/// How long an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(90);
/// What is left of a server that was cut off is gone after this: no two lives of it overlap.
const DOWN_MIN: Duration = Duration::from_millis(200);
/// How often a rebuild is tried where the disk stands in the way.
const REBUILDS_MAX: u32 = 5;

/// How a server's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The disk keeps what was flushed, and some of the rest.
    PowerCut,
    /// The process ends where it is.
    Kill,
    /// As a service manager does it.
    Orderly,
}

/// What a server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    Down,
    Starting,
    Up,
    Stopping,
    /// It does not start, and says why.
    Refuses(String),
}

/// What was done to a server's place in the cluster, by those who may.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// It waits for a person to give it its vote.
    pub standby: AtomicBool,
    /// Somebody was told that it has its vote.
    pub promoted: AtomicBool,
    /// Somebody asked for its removal: it may be gone.
    pub removal_asked: AtomicBool,
    /// Somebody was told that it is removed, after it had known itself to be a member.
    pub removed: AtomicBool,
}

pub(crate) struct Server {
    pub name: String,
    pub wishes: Wishes,
    scenario: Scenario,
    /// Whom it is told of.
    join: Mutex<Vec<String>>,
    expect: u32,
    clock_micros: Arc<AtomicI64>,
    trace: Trace,
    state: Mutex<State>,
    status: watch::Sender<Status>,
    stop: watch::Sender<Option<Stop>>,
}

struct State {
    disk: Arc<Disk>,
    life: u32,
    replica: Option<Replica>,
}

/// A way to use a server while it lives.
pub(crate) struct Access {
    pub replica: Replica,
    status: watch::Receiver<Status>,
}

impl Access {
    /// What a future gives, unless the server goes first.
    pub async fn during<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.status.wait_for(|status| *status != Status::Up) => None,
            value = future => Some(value),
        }
    }
}

impl Server {
    pub fn new(
        name: &str,
        scenario: &Scenario,
        (expect, join): (u32, Vec<String>),
        trace: &Trace,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            wishes: Wishes::default(),
            scenario: scenario.clone(),
            join: Mutex::new(join),
            expect,
            clock_micros: Arc::new(AtomicI64::new(0)),
            trace: trace.clone(),
            state: Mutex::new(State {
                disk: Disk::new(name, scenario.disk_bytes),
                life: 0,
                replica: None,
            }),
            status: watch::Sender::new(Status::Down),
            stop: watch::Sender::new(None),
        })
    }

    pub fn address(&self) -> String {
        format!("{}:7481", self.name)
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub fn disk(&self) -> Arc<Disk> {
        self.state.lock().disk.clone()
    }

    /// A way to use it, if it is up.
    pub fn access(&self) -> Option<Access> {
        if *self.status.borrow() != Status::Up {
            return None;
        }
        Some(Access {
            replica: self.state.lock().replica.clone()?,
            status: self.status.subscribe(),
        })
    }

    /// Waits until it is up.
    pub async fn access_when_up(&self) -> Access {
        loop {
            if let Some(access) = self.access() {
                return access;
            }
            let mut status = self.status.subscribe();
            // The sender is in `self`.
            let _ = status.wait_for(|status| *status == Status::Up).await;
        }
    }

    /// Sets its clock off by so much.
    pub fn set_clock(&self, micros: i64) {
        self.clock_micros.store(micros, Ordering::Relaxed);
    }

    /// Its number, as its disk has it.
    pub fn node_id(&self) -> Option<u64> {
        let file = self.disk().peek(Path::new("/disk/data/node"))?;
        String::from_utf8_lossy(&file).trim_end().parse().ok()
    }

    /// Whether it knows itself to have been in the cluster.
    pub fn was_member(&self) -> bool {
        let file = self.disk().peek(Path::new("/disk/data/member"));
        file.is_some()
    }

    /// Whether it does not start, nor does anything else.
    pub fn is_idle(&self) -> bool {
        matches!(self.status(), Status::Down | Status::Refuses(_))
    }

    /// Waits until it is idle, for so long at most.
    pub async fn idle_within(&self, wait_max: Duration) -> bool {
        let mut status = self.status.subscribe();
        let idle = status.wait_for(|status| matches!(status, Status::Down | Status::Refuses(_)));
        matches!(time::timeout(wait_max, idle).await, Ok(Ok(_)))
    }

    /// Makes a new server of it, with an empty disk, that is told of `join`. Nothing while it lives.
    pub fn renew(&self, join: Vec<String>) -> bool {
        if !self.is_idle() {
            return false;
        }
        *self.join.lock() = join;
        self.state.lock().disk = Disk::new(&self.name, self.scenario.disk_bytes);
        self.status.send_replace(Status::Down);
        for wish in [
            &self.wishes.promoted,
            &self.wishes.removal_asked,
            &self.wishes.removed,
        ] {
            wish.store(false, Ordering::Relaxed);
        }
        true
    }

    /// Sets its damaged files aside, as a person does who runs `tidings rebuild`, once more when the
    /// disk stands in the way. It must be idle.
    pub fn rebuild(&self) -> Result<(), String> {
        let mount = format!("{}-rebuild", self.name);
        let mut attempts = 0;
        let moved = loop {
            attempts += 1;
            let disk = self.disk();
            world::mount(&mount, &disk);
            let aside = set_aside(Path::new(&format!("/{mount}/data")));
            if let Ok(aside) = &aside {
                // Who looks at them has another disk; on this one they are in the way.
                let _ = fs::remove_dir_all(&aside.folder);
            }
            world::unmount(&mount);
            let next = match disk.is_dead() {
                true => disk.after_power_cut(),
                false => disk.after_kill(),
            };
            self.state.lock().disk = next;
            match aside {
                Ok(aside) => break aside.moved,
                // The attempt before had come that far.
                Err(OpenError::NothingToSetAside { .. }) if attempts > 1 => break Vec::new(),
                Err(error) if attempts == REBUILDS_MAX => return Err(chain(&error)),
                Err(_) => {}
            }
        };
        note!(
            self.trace,
            "{} is rebuilt: {:?} are set aside",
            self.name,
            moved
        );
        Ok(())
    }

    /// Begins a life, if it has none; it goes on by itself.
    pub fn start(self: &Arc<Self>) {
        let mut begins = false;
        self.status.send_modify(|status| {
            if matches!(status, Status::Down | Status::Refuses(_)) {
                *status = Status::Starting;
                begins = true;
            }
        });
        if begins {
            self.stop.send_replace(None);
            tokio::spawn(self.clone().live());
        }
    }

    /// Has its life end. Returns at once.
    pub fn stop(&self, how: Stop) {
        if !matches!(*self.status.borrow(), Status::Up | Status::Starting) {
            return;
        }
        match how {
            // The disk says so, wherever the server is.
            Stop::PowerCut => self.disk().cut(),
            Stop::Kill | Stop::Orderly => {
                self.stop.send_replace(Some(how));
            }
        }
    }

    async fn live(self: Arc<Self>) {
        let (disk, life) = {
            let mut state = self.state.lock();
            state.life += 1;
            (state.disk.clone(), state.life)
        };
        let mount = format!("{}-{life}", self.name);
        world::mount(&mount, &disk);
        let net = world::net();
        net.up(&self.name);
        note!(self.trace, "{} starts, life {life}", self.name);

        let opened = match TcpListener::bind(&self.address()).await {
            Ok(listener) => {
                let config = self.config(&mount);
                let peers = self.peers(listener);
                // Awaited even when the disk dies: half a server is not left behind.
                Replica::open_with_peers(config, peers)
                    .await
                    .map_err(|error| chain(&error))
            }
            Err(error) => Err(error.to_string()),
        };
        let replica = match opened {
            Ok(replica) => replica,
            Err(reason) => {
                let cut = disk.is_dead();
                net.down(&self.name, !cut);
                note!(self.trace, "{} does not start: {reason}", self.name);
                self.end(&mount, &disk, cut).await;
                let status = if cut {
                    Status::Down
                } else {
                    Status::Refuses(reason)
                };
                self.status.send_replace(status);
                return;
            }
        };
        note!(self.trace, "{} is up", self.name);
        let front = Front::open(&self.name, &replica).await.ok();
        self.state.lock().replica = Some(replica.clone());
        self.status.send_replace(Status::Up);

        let mut stop = self.stop.subscribe();
        let how = tokio::select! {
            biased;
            () = disk.is_cut() => Stop::PowerCut,
            asked = stop.wait_for(Option::is_some) => {
                asked.ok().and_then(|how| *how).unwrap_or(Stop::Kill)
            }
            reason = replica.fatal() => {
                note!(self.trace, "{} cannot go on: {reason}", self.name);
                Stop::Kill
            }
        };
        self.status.send_replace(Status::Stopping);
        let mut cut = how == Stop::PowerCut;
        if how == Stop::Orderly {
            tokio::select! {
                biased;
                () = disk.is_cut() => cut = true,
                stopped = time::timeout(STOP_WAIT_MAX, replica.shutdown()) => {
                    note!(self.trace, "{} has stopped, in time: {}", self.name, stopped.is_ok());
                }
            }
        }
        note!(self.trace, "{} ends: {how:?}, power cut: {cut}", self.name);
        drop(front);
        net.down(&self.name, !cut);
        self.state.lock().replica = None;
        drop(replica);
        self.end(&mount, &disk, cut).await;
        self.status.send_replace(Status::Down);
    }

    async fn end(&self, mount: &str, disk: &Disk, cut: bool) {
        let next = match cut {
            true => disk.after_power_cut(),
            false => disk.after_kill(),
        };
        time::sleep(DOWN_MIN).await;
        world::unmount(mount);
        // Somebody may have made room meanwhile.
        next.set_capacity(disk.capacity());
        self.state.lock().disk = next;
    }

    fn config(&self, mount: &str) -> ReplicaConfig {
        let offset = self.clock_micros.clone();
        let scenario = &self.scenario;
        ReplicaConfig {
            data_dir: PathBuf::from(format!("/{mount}/data")),
            node_id: 0,
            node_name: self.name.clone(),
            settings: Some(scenario.settings.clone()),
            queue: QueueLimits::default(),
            disk: DiskLimits {
                free_reserve: 4 << 20,
                free_space: None,
                snapshot_log_bytes: scenario.snapshot_log_bytes,
                log_entries_kept: scenario.log_entries_kept,
                log_entries_kept_for_peers: scenario.log_entries_kept,
                log_segment_bytes: scenario.log_segment_bytes,
                retention_interval: Duration::from_secs(3),
            },
            broker: BrokerConfig {
                // Little, so that followers are behind it now and then.
                ring_bytes: 32 << 10,
                ..BrokerConfig::default()
            },
            verify: VerifyHistory::All,
            clock: Arc::new(move || {
                let now = world::since_epoch().as_micros() as i64;
                Timestamp::from_unix_micros(now + offset.load(Ordering::Relaxed))
            }),
        }
    }

    fn peers(&self, listener: TcpListener) -> PeersConfig {
        PeersConfig {
            transport: TcpTransport::shared(listener, &self.address()),
            tls: None,
            http: String::new(),
            standby: self.wishes.standby.load(Ordering::Relaxed),
            replaces: None,
            version_max: None,
            limits: PeersLimits::default(),
            advertise: self.address(),
            bootstrap_expect: self.expect,
            join: self.join.lock().clone(),
        }
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
