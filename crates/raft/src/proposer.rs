use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use openraft::{
    Raft,
    errors::{ClientWriteError, Fatal},
    raft::ClientWriteResult,
};
use tidings_timeline::{Batch, Outcome};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    batch_clock::BatchClock,
    binding::{Binding, Proposal, Reply},
    error::{ProposeError, chain},
    fault::Fault,
    machine::{Machine, MachineShared},
    queue::{Queue, Waiting},
    space::Space,
};

/// Turns what waits into log entries.
///
/// ```text
/// queue ──▶ [ one entry: as many groups as fit ] ──▶ log ──▶ disk ──▶ state ──▶ answers
///            └── waits for a place: in flight, and not yet on disk ──┘
/// ```
///
/// It never waits for more groups to come: an entry is as large as what has gathered while the
/// disk was busy with the ones before.
pub(crate) struct Proposer {
    pub raft: Raft<Binding, Machine>,
    pub queue: Arc<Queue>,
    pub machine: Arc<MachineShared>,
    pub clock: BatchClock,
    pub fault: Fault,
    pub counters: Arc<ProposerCounters>,
    /// A permit for each entry that is not answered.
    pub in_flight: Arc<Semaphore>,
    /// A permit for each entry that is not on disk.
    pub unflushed: Arc<Semaphore>,
    pub space: Space,
}

/// What the proposer has done since the start.
#[derive(Debug, Default)]
pub(crate) struct ProposerCounters {
    pub batches: AtomicU64,
    pub groups: AtomicU64,
    pub commands: AtomicU64,
    pub bytes: AtomicU64,
    pub refused_disk_full: AtomicU64,
}

impl Proposer {
    /// Proposes until the queue is closed and empty, or the engine has stopped.
    pub async fn run(mut self) {
        while self.queue.wait().await {
            // The places first: what comes in while it waits goes into the same entry.
            let (Ok(answered), Ok(flushed)) = (
                self.in_flight.clone().acquire_owned().await,
                self.unflushed.clone().acquire_owned().await,
            ) else {
                break;
            };
            let groups = self.admit(self.queue.take());
            if groups.is_empty() {
                continue;
            }
            if let Err(fatal) = self.propose(groups, answered, flushed).await {
                self.fault.raise(chain(&fatal));
                break;
            }
        }
        let reason = self
            .fault
            .reason()
            .unwrap_or_else(|| "shutting down".into());
        self.queue.close(reason.clone());
        self.queue.refuse_all(&ProposeError::Stopped { reason });
    }

    /// Refuses what cannot be taken while there is too little room on the disk.
    ///
    /// What frees space passes: it must get through for the others to be taken again.
    fn admit(&self, groups: Vec<Waiting>) -> Vec<Waiting> {
        let (free, reserve) = (self.space.free(), self.space.reserve());
        if free >= reserve {
            return groups;
        }
        let (taken, refused): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| group.takes_reserve);
        self.counters
            .refused_disk_full
            .fetch_add(refused.len() as u64, Ordering::Relaxed);
        answer_all(refused, &ProposeError::DiskFull { free, reserve });
        taken
    }

    async fn propose(
        &mut self,
        groups: Vec<Waiting>,
        answered: OwnedSemaphorePermit,
        flushed: OwnedSemaphorePermit,
    ) -> Result<(), Fatal<Binding>> {
        let mut parts: Vec<Bytes> = Vec::with_capacity(groups.len());
        let mut waiting = Vec::with_capacity(groups.len());
        let (mut commands, mut bytes) = (0, 0);
        for group in groups {
            bytes += group.bytes.len();
            commands += group.commands;
            parts.push(group.bytes);
            waiting.push((group.commands, group.answer));
        }
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.counters
            .groups
            .fetch_add(waiting.len() as u64, Ordering::Relaxed);
        self.counters
            .commands
            .fetch_add(commands as u64, Ordering::Relaxed);
        self.counters
            .bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);

        let batch = Batch {
            time: self.clock.next(self.machine.newest_time()),
            groups: parts,
        };
        let reply = Reply(Box::new(move |result: ClientWriteResult<Binding>| {
            deliver(waiting, result);
            drop(answered);
        }));
        self.raft
            .client_write_ff(Proposal::new(batch, flushed), Some(reply))
            .await
    }
}

/// Whoever waits for a group's outcomes.
type Asker = oneshot::Sender<Result<Vec<Outcome>, ProposeError>>;

/// Hands each group its own outcomes; whoever asked may have gone.
fn deliver(waiting: Vec<(usize, Asker)>, result: ClientWriteResult<Binding>) {
    let outcomes = match result {
        Ok(applied) => applied.data.0,
        Err(error) => {
            let error = refusal(&error);
            for (_, answer) in waiting {
                let _ = answer.send(Err(error.clone()));
            }
            return;
        }
    };
    let mut outcomes = outcomes.into_iter();
    for (commands, answer) in waiting {
        let _ = answer.send(Ok(outcomes.by_ref().take(commands).collect()));
    }
    debug_assert!(outcomes.next().is_none(), "an outcome for each command");
}

fn refusal(error: &ClientWriteError<Binding>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader {
            leader: forward.leader_id,
        },
        ClientWriteError::LogEntryDiscarded(forward) => ProposeError::Unknown {
            leader: forward.leader_id,
        },
        // only answered to changes of the membership and to conditions: the proposer makes neither
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::Unknown { leader: None }
        }
    }
}

fn answer_all(groups: Vec<Waiting>, error: &ProposeError) {
    for group in groups {
        let _ = group.answer.send(Err(error.clone()));
    }
}
