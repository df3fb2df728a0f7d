//! Agents: the real spool and forwarder on a disk, a network and a clock of the simulation.

pub(crate) mod front;
pub(crate) mod nemesis;
mod uplink;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tidings_event::Timestamp;
use tidings_host::simulated::{Disk, Mutex, Rng, world};
use tidings_spool::{Outbox, Reach, SpoolConfig};
use tokio::sync::watch;
use tokio::time;

use self::uplink::{Known, Uplink};
use crate::server::{Status, Stop, chain};
use crate::trace::{Trace, note};

/// How long an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);
/// What is left of an agent that was cut off is gone after this: no two lives of it overlap.
const DOWN_MIN: Duration = Duration::from_millis(200);
/// Bytes of an agent's disk.
pub(crate) const DISK_BYTES: u64 = 16 << 20;

/// What a seed decides of agents.
#[derive(Debug, Clone)]
pub struct Agents {
    /// How many there are.
    pub count: usize,
    /// Programs that hand something to each.
    pub programs: usize,
    /// Bytes that each may keep.
    pub spool_bytes: u64,
    /// Bytes of a file of the spool.
    pub file_bytes: u64,
}

impl Agents {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x6167_656e_7473_2121);
        Self {
            count: match rng.within(0..4) {
                0 => 0,
                1 => 1,
                _ => 2,
            },
            programs: rng.within(1..4) as usize,
            spool_bytes: rng.within(4..128) << 10,
            file_bytes: rng.within(1..24) << 10,
        }
    }
}

/// One agent.
pub(crate) struct Agent {
    pub name: String,
    limits: Agents,
    servers: Known,
    clock_micros: Arc<AtomicI64>,
    trace: Trace,
    state: Mutex<State>,
    status: watch::Sender<Status>,
    stop: watch::Sender<Option<Stop>>,
}

struct State {
    disk: Arc<Disk>,
    life: u32,
    outbox: Option<Outbox>,
}

/// A way to use an agent while it lives.
pub(crate) struct Handle {
    pub outbox: Outbox,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// What a future gives, unless the agent goes first.
    pub async fn during<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.status.wait_for(|status| *status != Status::Up) => None,
            value = future => Some(value),
        }
    }
}

impl Agent {
    /// Learns of a server.
    pub fn learn(&self, server: &str) {
        self.servers.lock().push(server.to_owned());
    }

    pub fn new(name: &str, limits: &Agents, servers: &[String], trace: &Trace) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            limits: limits.clone(),
            servers: Arc::new(Mutex::new(servers.to_vec())),
            clock_micros: Arc::new(AtomicI64::new(0)),
            trace: trace.clone(),
            state: Mutex::new(State {
                disk: Disk::new(name, DISK_BYTES),
                life: 0,
                outbox: None,
            }),
            status: watch::Sender::new(Status::Down),
            stop: watch::Sender::new(None),
        })
    }

    pub fn disk(&self) -> Arc<Disk> {
        self.state.lock().disk.clone()
    }

    pub fn set_clock(&self, micros: i64) {
        self.clock_micros.store(micros, Ordering::Relaxed);
    }

    /// A way to use it, if it is up.
    pub fn handle(&self) -> Option<Handle> {
        if *self.status.borrow() != Status::Up {
            return None;
        }
        Some(Handle {
            outbox: self.state.lock().outbox.clone()?,
            status: self.status.subscribe(),
        })
    }

    /// Why it is not at rest; `None` when it is.
    pub fn unrest(&self) -> Option<String> {
        let Some(handle) = self.handle() else {
            return Some(match &*self.status.borrow() {
                Status::Refuses(reason) => format!("{} does not start: {reason}", self.name),
                status => format!("{} is {status:?}", self.name),
            });
        };
        let status = handle.outbox.status();
        match (status.failed, status.transactions) {
            (Some(reason), _) => Some(format!("the spool of {} fails: {reason}", self.name)),
            (None, 0) => None,
            (None, waiting) => Some(format!("{waiting} transactions wait at {}", self.name)),
        }
    }

    /// Whether its disk has failed, so that it has to be started again.
    pub fn has_failed(&self) -> bool {
        let handle = self.handle();
        handle.is_some_and(|handle| handle.outbox.status().failed.is_some())
    }

    /// Begins a life, if it has none; it goes on by itself.
    pub fn start(self: &Arc<Self>) {
        let begins = self.status.send_if_modified(|status| {
            let begins = matches!(status, Status::Down | Status::Refuses(_));
            if begins {
                *status = Status::Starting;
            }
            begins
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
        world::net().up(&self.name);
        note!(self.trace, "{} starts, life {life}", self.name);
        let mut stop = self.stop.subscribe();
        let opened = Outbox::start(
            self.config(&mount),
            Uplink::new(&self.name, &self.servers, &self.trace),
            Reach::default(),
            Arc::new(AtomicU64::new(0)),
        );
        let outbox = match opened.await {
            Ok(outbox) => outbox,
            Err(error) => {
                let reason = chain(&error);
                note!(self.trace, "{} does not start: {reason}", self.name);
                let cut = disk.is_dead();
                self.end(&mount, &disk, cut).await;
                self.status.send_replace(match cut {
                    true => Status::Down,
                    false => Status::Refuses(reason),
                });
                return;
            }
        };
        let status = outbox.status();
        note!(
            self.trace,
            "{} is up, {} transactions wait, epoch {:?}",
            self.name,
            status.transactions,
            status.epoch
        );
        self.state.lock().outbox = Some(outbox.clone());
        self.status.send_replace(Status::Up);
        let mut how = tokio::select! {
            biased;
            () = disk.is_cut() => Stop::PowerCut,
            asked = stop.wait_for(Option::is_some) => {
                asked.ok().and_then(|how| *how).unwrap_or(Stop::Kill)
            }
        };
        self.status.send_replace(Status::Stopping);
        self.state.lock().outbox = None;
        if how == Stop::Orderly {
            tokio::select! {
                biased;
                () = disk.is_cut() => how = Stop::PowerCut,
                stopped = time::timeout(STOP_WAIT_MAX, outbox.stop()) => {
                    note!(self.trace, "{} has stopped, in time: {}", self.name, stopped.is_ok());
                }
            }
        }
        note!(self.trace, "{} ends: {how:?}", self.name);
        drop(outbox);
        self.end(&mount, &disk, how == Stop::PowerCut).await;
        self.status.send_replace(Status::Down);
    }

    async fn end(&self, mount: &str, disk: &Disk, cut: bool) {
        world::net().down(&self.name, !cut);
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

    fn config(&self, mount: &str) -> SpoolConfig {
        let offset = self.clock_micros.clone();
        SpoolConfig {
            bytes_max: self.limits.spool_bytes,
            file_bytes: self.limits.file_bytes,
            clock: Arc::new(move || {
                let now = world::since_epoch().as_micros() as i64;
                Timestamp::from_unix_micros(now + offset.load(Ordering::Relaxed))
            }),
            ..SpoolConfig::new(PathBuf::from(format!("/{mount}/spool")))
        }
    }
}
