use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidings_event::Index;
use tidings_raft::{
    ChangeError, Member, MemberRole, ProposeError, Replica, RestoreScope, Restored, Role,
    SaveHistory, SnapshotFileError, SnapshotInfo,
};
use tidings_timeline::{Broker, Commands, StateView};
use tokio::sync::watch;

use crate::timeline::{
    Answer, PeersStatus, ProposeFailure, ReadFailure, ServerChange, ServerStatus, ServersFailure,
    SnapshotReader, SnapshotWriter, Submitted, Timeline, TimelineStatus,
};

/// How long a leader, or those that follow it, may be silent and still count as there. Longer than an
/// election takes.
const SILENCE_MAX: Duration = Duration::from_secs(2);

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
        if !self.is_leader() {
            let silence = Replica::last_contact(self);
            return silence.is_some_and(|silence| silence < SILENCE_MAX);
        }
        // One that no majority answers any more leads nobody, though it does not know yet.
        let members = self.members();
        let voters = || {
            let members = members.iter();
            members.filter(|member| member.role == MemberRole::Voter)
        };
        let answers = |member: &&Member| {
            let silence = member.last_contact;
            silence.is_none_or(|silence| silence < SILENCE_MAX)
        };
        voters().filter(answers).count() * 2 > voters().count()
    }

    fn last_contact(&self) -> Option<Duration> {
        Replica::last_contact(self)
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

    fn change_servers(
        &self,
        change: ServerChange,
    ) -> BoxFuture<'static, Result<(), ServersFailure>> {
        let replica = self.clone();
        Box::pin(async move {
            let changed = match &change {
                ServerChange::Promote(server) => replica.promote(server).await,
                ServerChange::Remove(server) => replica.remove_server(server).await,
                ServerChange::TransferLeader(to) => replica.transfer_leader(to.as_deref()).await,
            };
            changed.map_err(|error| {
                let sentence = error.to_string();
                match error {
                    ChangeError::Alone | ChangeError::Refused { .. } => {
                        ServersFailure::Refused(sentence)
                    }
                    ChangeError::NoLeader { .. } => ServersFailure::NoLeader(sentence),
                    ChangeError::Unfinished { .. } => ServersFailure::Unfinished(sentence),
                }
            })
        })
    }

    fn servers(&self) -> BoxFuture<'_, Vec<ServerStatus>> {
        Box::pin(async move {
            let members = self.members_as_led().await;
            servers(&members, Replica::status(self).leader)
        })
    }

    fn snapshot_save(
        &self,
        writer: SnapshotWriter,
        history: SaveHistory,
    ) -> BoxFuture<'static, Result<SnapshotInfo, SnapshotFileError>> {
        let replica = self.clone();
        Box::pin(async move { Replica::snapshot_save(&replica, writer, history).await })
    }

    fn snapshot_restore(
        &self,
        reader: SnapshotReader,
        scope: RestoreScope,
        state_bytes_max: u64,
    ) -> BoxFuture<'static, Result<Restored, SnapshotFileError>> {
        let replica = self.clone();
        Box::pin(async move {
            Replica::snapshot_restore(&replica, reader, scope, state_bytes_max).await
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
            (None, role) if !self.has_leader() => Some(String::from(match role {
                Role::Leader => {
                    "a majority of the servers does not answer this one, which leads them"
                }
                _ => "the leader of the servers does not answer",
            })),
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
        let servers = servers(&status.members, status.leader);
        TimelineStatus {
            role: String::from(status.role.as_str()),
            term: status.term,
            leader: status.leader.map(name_of),
            last_contact: Replica::last_contact(self),
            servers,
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
            peers: status.peers.map(|peers| PeersStatus {
                connections: peers.connections as u64,
                connections_refused: peers.connections_refused,
                buffered_bytes: peers.buffered_bytes,
                buffered_bytes_max: peers.buffered_bytes_max,
                messages_refused: peers.messages_refused,
            }),
        }
    }
}

fn servers(members: &[Member], leader: Option<u64>) -> Vec<ServerStatus> {
    let server = |member: &Member| ServerStatus {
        id: member.node_id,
        name: member.name.clone(),
        peer: member.address.clone(),
        http: member.http.clone(),
        role: String::from(member.role.as_str()),
        leads: leader == Some(member.node_id),
        last_contact: member.last_contact,
        matched: member.matched,
        clock_ahead_ms: member.clock_ahead_ms,
    };
    members.iter().map(server).collect()
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
