use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidings_event::Index;
use tidings_raft::{ProposeError, Replica, Role};
use tidings_timeline::{Broker, Commands, StateView};
use tokio::sync::watch;

use crate::timeline::{Answer, ProposeFailure, ReadFailure, Submitted, Timeline, TimelineStatus};

impl Timeline for Replica {
    fn submit(&self, group: Commands) -> BoxFuture<'static, Result<Submitted, ProposeFailure>> {
        let replica = self.clone();
        Box::pin(async move {
            let submitted = replica.submit(group).await.map_err(failure)?;
            Ok(Box::pin(async move {
                let outcomes = submitted.await.map_err(failure)?;
                Ok(outcomes.into_iter().map(Answer::Outcome).collect())
            }) as Submitted)
        })
    }

    fn state(&self) -> Arc<StateView> {
        Replica::state(self)
    }

    fn broker(&self) -> Arc<Broker> {
        Replica::broker(self)
    }

    fn applied(&self) -> watch::Receiver<Index> {
        Replica::applied(self)
    }

    fn has_leader(&self) -> bool {
        self.is_leader() || Timeline::status(self).leader.is_some()
    }

    fn read_barrier(&self) -> BoxFuture<'static, Result<(), ReadFailure>> {
        let replica = self.clone();
        Box::pin(async move {
            let read = replica.read_barrier().await;
            read.map_err(|error| ReadFailure {
                sentence: error.to_string(),
            })
        })
    }

    fn status(&self) -> TimelineStatus {
        let status = Replica::status(self);
        let not_ready = match (&status.damaged, status.role) {
            (Some(damage), _) => Some(format!("the timeline is broken: {damage}")),
            (None, Role::Stopped) => Some(String::from("the timeline has stopped")),
            (None, _) if status.waits_for.is_some() => {
                status.waits_for.as_ref().map(ToString::to_string)
            }
            (None, _) if status.disk_free < status.disk_reserve => Some(format!(
                "the disk is full: {} bytes are free, {} are kept in reserve",
                status.disk_free, status.disk_reserve
            )),
            (None, _) => None,
        };
        let name_of = |id: u64| {
            let member = status.members.iter().find(|member| member.node_id == id);
            member.map_or_else(|| id.to_string(), |member| member.name.clone())
        };
        TimelineStatus {
            role: String::from(status.role.as_str()),
            term: status.term,
            leader: status.leader.map(name_of),
            oldest: status.frames_oldest,
            newest: status.frames_newest,
            log_first: status.log_first.unwrap_or_default(),
            log_last: status.log_last.unwrap_or_default(),
            log_committed: status.committed.unwrap_or_default(),
            log_applied: status.applied.unwrap_or_default(),
            snapshot: status.snapshot.unwrap_or_default(),
            segments: status.history_segments as u64,
            history_bytes: status.history_bytes,
            disk_free_bytes: Some(status.disk_free),
            queued_groups: status.queue_groups as u64,
            queued_bytes: status.queue_bytes as u64,
            not_ready,
        }
    }
}

fn failure(error: ProposeError) -> ProposeFailure {
    match error {
        ProposeError::Overloaded { retry_after } => ProposeFailure::Overloaded { retry_after },
        ProposeError::DiskFull { free, reserve } => ProposeFailure::DiskFull { free, reserve },
        ProposeError::TooLarge { bytes, bytes_max } => ProposeFailure::TooLarge {
            bytes,
            limit: bytes_max,
        },
        ProposeError::NotLeader { .. } => ProposeFailure::NoLeader,
        ProposeError::Unknown { .. } => ProposeFailure::Unknown,
        ProposeError::Stopped { .. } => ProposeFailure::Stopped,
    }
}
