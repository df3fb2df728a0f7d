use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{ChangeMembers, Raft, ReadPolicy};
use tidings_timeline::{CommandGroup, Settings, TimelineId};
use tokio::{
    sync::oneshot,
    time::{self, MissedTickBehavior},
};

use super::change::Leadership;
use crate::{
    binding::Binding,
    machine::{Machine, MachineShared},
    queue::{Queue, Waiting},
};

/// How often a leader looks at what is to be done.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Entries that a server may lack and still be called caught up.
const LAG_ENTRIES_MAX: u64 = 16;
/// What a leader does beside leading: it founds the timeline, records the settings, and gives a vote
/// to servers that have caught up.
pub(crate) struct Lead {
    pub leadership: Arc<Leadership>,
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
            self.finish_change().await;
            self.promote().await;
            self.record_moves().await;
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

    /// Does the second step of a change of voters whose first step is all that there is: whoever began
    /// it leads no more, or has waited too long. Until then majorities of both sets are needed.
    async fn finish_change(&self) {
        if !self.leadership.is_between_voters() {
            return;
        }
        // Goes on from the newer set, to which nothing is added.
        let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
        match self.leadership.carry_out(nothing).await {
            Ok(()) => tracing::info!("a change of voters that was left in the middle is done"),
            Err(changed) => tracing::debug!(?changed, "a change of voters is not done yet"),
        }
    }

    /// Gives the vote to servers that have the log, and lets them take the place of those that they
    /// replace.
    async fn promote(&self) {
        let changes = self.leadership.promotions(LAG_ENTRIES_MAX);
        if changes.is_empty() {
            return;
        }
        let change = ChangeMembers::Batch(changes);
        match self.leadership.carry_out(change).await {
            Ok(()) => tracing::info!("servers have caught up and take their places"),
            // tried again at the next look
            Err(changed) => tracing::debug!(?changed, "no vote given yet"),
        }
    }

    /// Records where servers are, when they have moved.
    async fn record_moves(&self) {
        let moved = self.leadership.moved();
        if moved.is_empty() {
            return;
        }
        match self
            .leadership
            .carry_out(ChangeMembers::SetNodes(moved.clone()))
            .await
        {
            Ok(()) => tracing::info!(servers = ?moved, "servers have moved"),
            Err(changed) => tracing::debug!(?changed, "a move is not recorded yet"),
        }
    }
}
