use std::{sync::Arc, time::Duration};

use openraft::{Raft, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use tidings_event::Index;
use tidings_timeline::CommandGroup;
use tokio::{
    sync::oneshot,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    binding::Binding,
    config::{Clock, DiskLimits},
    error::chain,
    fault::Fault,
    machine::{Machine, MachineShared},
    peers::Links,
    queue::{Queue, Waiting},
    retention::{self, Extent, Keep, Plan},
    space::Space,
    successor::ask_to_lead,
};

/// How often the engine's health and the size of the log are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a leader waits for retention to make room before another server leads instead.
const SHORT_LEAD_MAX: Duration = Duration::from_secs(2);
/// How often the lead is given away for want of space: where all are short, it would go round.
const STEP_ASIDE_INTERVAL: Duration = Duration::from_secs(30);

/// What has to be done from time to time: snapshots when the log has grown, retention when this
/// server leads, giving the lead away when there is no space here, and noticing that the engine has
/// stopped.
pub(crate) struct Upkeep {
    pub raft: Raft<Binding, Machine>,
    /// The ways to the others, with peers.
    pub links: Option<Arc<Links>>,
    pub machine: Arc<MachineShared>,
    pub queue: Arc<Queue>,
    pub disk: DiskLimits,
    pub clock: Clock,
    pub space: Space,
    pub fault: Fault,
    /// Set when the engine is meant to stop.
    pub stopping: Arc<Mutex<bool>>,
}

impl Upkeep {
    /// Runs until the engine stops.
    pub async fn run(self) {
        let look = LOOK_INTERVAL.min(self.disk.retention_interval);
        let mut look = time::interval(look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retention_due = Instant::now() + self.disk.retention_interval;
        let mut step_aside_due = None;
        loop {
            look.tick().await;
            if !self.is_well() {
                return;
            }
            let short = self.space.is_short();
            self.keep_spares(!short).await;
            if self.machine.log.bytes_since_snapshot() >= self.disk.snapshot_log_bytes
                && self.machine.has_room_for_snapshot()
                && self.raft.trigger().snapshot().await.is_err()
            {
                // told by the next look
                continue;
            }
            // While space is short everybody waits for what retention lets go.
            if short || Instant::now() >= retention_due {
                self.retain(short).await;
                retention_due = Instant::now() + self.disk.retention_interval;
            }
            if !short {
                step_aside_due = None;
                continue;
            }
            let due = *step_aside_due.get_or_insert_with(|| Instant::now() + SHORT_LEAD_MAX);
            if Instant::now() >= due && self.step_aside().await {
                step_aside_due = Some(Instant::now() + STEP_ASIDE_INTERVAL);
            }
        }
    }

    /// Lets another server lead, which may have the space that this one lacks; `false` when this
    /// one does not lead or nobody else can.
    async fn step_aside(&self) -> bool {
        let Some(links) = &self.links else {
            return false;
        };
        let Some(successor) = ask_to_lead(&self.raft, links).await else {
            return false;
        };
        tracing::warn!(
            successor,
            free = self.space.free(),
            "no space here for what comes in: another server is asked to lead"
        );
        true
    }

    /// Whether the engine runs. When it has stopped without being told to, that is a fault.
    fn is_well(&self) -> bool {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        let Err(fatal) = state else {
            return true;
        };
        if !*self.stopping.lock() {
            self.fault.raise(chain(&fatal));
        }
        false
    }

    /// Gives the room of spare log segments back while space is short.
    async fn keep_spares(&self, keep: bool) {
        let log = self.machine.log.store().clone();
        let done = tidings_host::spawn_blocking(move || log.keep_spares(keep)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(error = %chain(&error), "cannot remove a spare log segment");
        }
    }

    /// Proposes what retention asks for, if this server leads.
    async fn retain(&self, short: bool) {
        if !self.raft.is_leader() {
            return;
        }
        let settings = self.machine.view.load().settings.retention.clone();
        let segments = self.extents();
        let Plan { seal, oldest } =
            retention::plan(&segments, Keep::from(&settings), (self.clock)(), short);
        let oldest = oldest.filter(|&oldest| oldest > self.machine.view.load().oldest);
        if !seal && oldest.is_none() {
            return;
        }
        let mut group = CommandGroup::new();
        if let Some(oldest) = oldest {
            group.retain(oldest);
        }
        if seal {
            group.seal();
        }
        let (answer, answered) = oneshot::channel();
        let group = Waiting {
            commands: group.len(),
            takes_reserve: true,
            bytes: group.into_bytes(),
            answer,
        };
        let proposed = match self.queue.push(group).await {
            Ok(()) => answered.await,
            Err(error) => Ok(Err(error)),
        };
        match proposed {
            Ok(Ok(_)) => {
                tracing::info!(seal, oldest = oldest.map(Index::get), "history trimmed");
            }
            // tried again at the next interval
            Ok(Err(error)) => tracing::warn!(%error, "cannot trim the history"),
            Err(_) => {}
        }
    }

    fn extents(&self) -> Vec<Extent> {
        let segments = self.machine.history.lock().segments();
        let extent = |segment: tidings_store::SegmentInfo| Extent {
            first: segment.first,
            last: segment.last,
            bytes: segment.bytes,
            first_time: segment.first_time,
            last_time: segment.last_time,
            sealed: segment.sealed,
        };
        segments.into_iter().map(extent).collect()
    }
}
