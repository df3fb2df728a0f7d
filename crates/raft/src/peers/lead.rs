use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{ChangeMembers, Raft, ReadPolicy, async_runtime::WatchReceiver};
use tidings_timeline::{CommandGroup, Settings, TimelineId};
use tokio::{
    sync::oneshot,
    time::{self, MissedTickBehavior},
};

use crate::{
    binding::Binding,
    error::chain,
    machine::{Machine, MachineShared},
    queue::{Queue, Waiting},
};

/// How often a leader looks at what is to be done.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Entries that a server may lack and still be called caught up.
const LAG_ENTRIES_MAX: u64 = 16;
/// How long a change of the members may take before it is looked at again.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What a leader does beside leading: it founds the timeline, records the settings, and gives a vote
/// to servers that have caught up.
pub(crate) struct Lead {
    pub raft: Raft<Binding, Machine>,
    pub machine: Arc<MachineShared>,
    pub queue: Arc<Queue>,
    /// Recorded the first time that this server leads.
    pub settings: Option<Settings>,
}

impl Lead {
    pub async fn run(mut self) {
        let mut look = time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if !self.raft.is_leader() {
                continue;
            }
            let founded = self.machine.view.load().timeline.is_some();
            if !founded || self.settings.is_some() {
                // what other leaders have recorded may not be in the state yet
                let read = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
                if read.await.is_err() {
                    continue;
                }
                self.found().await;
                self.settle().await;
            }
            self.promote().await;
        }
    }

    async fn found(&self) {
        if self.machine.view.load().timeline.is_some() {
            return;
        }
        let timeline = TimelineId(tidings_host::ulid().0);
        let mut group = CommandGroup::new();
        group.found(timeline);
        if self.propose(group).await {
            tracing::info!(%timeline, "timeline founded");
        }
    }

    async fn settle(&mut self) {
        let Some(settings) = self.settings.take() else {
            return;
        };
        if *self.machine.view.load().settings == settings {
            return;
        }
        let mut group = CommandGroup::new();
        group.change_settings(&settings);
        match self.propose(group).await {
            true => tracing::info!(?settings, "settings changed"),
            // another look
            false => self.settings = Some(settings),
        }
    }

    /// Whether the commands were recorded.
    async fn propose(&self, group: CommandGroup) -> bool {
        let (answer, answered) = oneshot::channel();
        let group = Waiting {
            commands: group.len(),
            takes_reserve: true,
            bytes: group.into_bytes(),
            answer,
        };
        self.queue.push(group).await.is_ok() && matches!(answered.await, Ok(Ok(_)))
    }

    /// Gives the vote to a server that has the log.
    async fn promote(&self) {
        let caught_up: BTreeSet<u64> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership();
            let Some(replication) = &metrics.replication else {
                return;
            };
            let has_the_log = |id: &u64| {
                let has = replication.get(id).and_then(Option::as_ref);
                has.is_some_and(|has| Some(has.index + LAG_ENTRIES_MAX) >= metrics.last_log_index)
            };
            let stands_by = |id: &u64| members.get_node(id).is_some_and(|peer| peer.standby);
            let waiting = members.learner_ids().filter(|id| !stands_by(id));
            waiting.filter(has_the_log).collect()
        };
        if caught_up.is_empty() {
            return;
        }
        let change = ChangeMembers::AddVoterIds(caught_up.clone());
        let changed = time::timeout(CHANGE_WAIT_MAX, self.raft.change_membership(change, true));
        match changed.await {
            Ok(Ok(_)) => tracing::info!(servers = ?caught_up, "servers may vote"),
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "no vote given yet"),
            Err(_) => tracing::warn!(servers = ?caught_up, "giving servers a vote takes long"),
        }
    }
}
