use std::{fmt, time::Duration};

use tidings_event::Index;

/// What a server is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes commands.
    Leader,
    /// Follows the leader and votes.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows the leader without a vote.
    Learner,
    /// Has stopped.
    Stopped,
}

impl Role {
    /// One word, lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
    }
}

/// How a [`Replica`](crate::Replica) is, at one moment.
///
/// Counters count since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// This server.
    pub node_id: u64,
    /// What it is now.
    pub role: Role,
    /// The term it is in.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<u64>,
    /// All servers of the cluster.
    pub members: Vec<Member>,
    /// The first entry of the log.
    pub log_first: Option<u64>,
    /// The last entry of the log.
    pub log_last: Option<u64>,
    /// The last entry that a majority has.
    pub committed: Option<u64>,
    /// The last entry that is in the state.
    pub applied: Option<u64>,
    /// The last entry that is in the newest snapshot.
    pub snapshot: Option<u64>,
    /// The last frame that is in the newest snapshot.
    pub snapshot_frame: Index,
    /// The oldest frame that is kept.
    pub frames_oldest: Index,
    /// The newest frame.
    pub frames_newest: Index,
    /// Files that the history consists of.
    pub history_segments: usize,
    /// Their bytes.
    pub history_bytes: u64,
    /// Groups that wait to be proposed.
    pub queue_groups: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// Entries that are proposed and not yet answered.
    pub in_flight: usize,
    /// Entries proposed.
    pub batches: u64,
    /// Groups in them.
    pub groups: u64,
    /// Commands in them.
    pub commands: u64,
    /// Bytes of the commands.
    pub command_bytes: u64,
    /// Frames applied, those re-applied at start among them.
    pub frames_applied: u64,
    /// Bytes of entries appended to the log.
    pub log_bytes: u64,
    /// Bytes of entries since the last snapshot.
    pub log_bytes_since_snapshot: u64,
    /// Bytes of snapshots and their history that were sent to other servers.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshots and their history that came from the leader.
    pub snapshot_bytes_received: u64,
    /// Groups that were refused because the disk is nearly full.
    pub refused_disk_full: u64,
    /// Bytes free on the disk.
    pub disk_free: u64,
    /// Bytes below which nothing is taken.
    pub disk_reserve: u64,
    /// Why the server cannot go on, if something broke for good.
    pub damaged: Option<String>,
    /// What it waits for before it can serve; `None` once it can.
    pub waits_for: Option<WaitsFor>,
    /// What comes from other servers; `None` on one that stands alone.
    pub peers: Option<PeersStatus>,
}

/// What other servers have open at one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeersStatus {
    /// Connections from others.
    pub connections: usize,
    /// Connections that were refused or closed because there were too many.
    pub connections_refused: u64,
    /// Bytes of messages that come in or are worked at, beside the little that each connection has of
    /// its own.
    pub buffered_bytes: u64,
    /// How many that may be.
    pub buffered_bytes_max: u64,
    /// Messages that were refused because there was no memory for them.
    pub messages_refused: u64,
}

/// What a server waits for before it can serve. Shown as a sentence without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Other servers, to form a cluster with.
    Servers {
        /// The names of those that are there, its own among them.
        here: Vec<String>,
        /// How many are expected.
        expected: u32,
    },
    /// A cluster that takes it in.
    Cluster,
    /// To be taken in by a cluster that refuses it.
    Admission {
        /// Why, and what to do.
        refused: String,
    },
    /// To agree with others on forming a cluster.
    Agreement {
        /// What is in the way, and what to do.
        reason: String,
    },
    /// Somebody to lead.
    Leader,
    /// The timeline to be founded.
    Timeline,
    /// Its own log to be applied.
    Log {
        /// The last entry that is.
        applied: u64,
        /// The last entry that it has.
        last: u64,
    },
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitsFor::Servers { here, expected } => {
                let missing = (*expected as usize).saturating_sub(here.len());
                let servers = if missing == 1 { "server" } else { "servers" };
                let names = here.join(", ");
                write!(
                    f,
                    "waiting for {missing} more {servers}: {} of {expected} here ({names})",
                    here.len()
                )
            }
            WaitsFor::Cluster => f.write_str("waiting for a cluster to take this server in"),
            WaitsFor::Admission { refused } => {
                write!(f, "not taken in by the cluster: {refused}")
            }
            WaitsFor::Agreement { reason } => write!(f, "no cluster is formed: {reason}"),
            WaitsFor::Leader => f.write_str("waiting for the servers to elect a leader"),
            WaitsFor::Timeline => f.write_str("waiting for the leader to found the timeline"),
            WaitsFor::Log { applied, last } => write!(
                f,
                "applying the log: entry {applied} of {last} is in the state"
            ),
        }
    }
}

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where other servers reach it, `HOST:PORT`; empty for one that was always alone.
    pub address: String,
    /// Where it answers clients, as it advertises that; empty when it does not.
    pub http: String,
    /// What it is in the cluster.
    pub role: MemberRole,
    /// How long ago it was last heard of. Only the leader knows that of everybody, and whoever follows
    /// only of the leader; `None` when nothing was heard.
    pub last_contact: Option<Duration>,
    /// The last entry of the log that it is known to have. Only the leader knows.
    pub matched: Option<u64>,
    /// By how many milliseconds its clock is ahead of this server's, as of the last greeting. `None`
    /// when there was none.
    pub clock_ahead_ms: Option<i64>,
    /// Whether its disk has less free than it keeps in reserve, as it said last. `None` when it did not
    /// say.
    pub disk_short: Option<bool>,
}

/// What a server is among those that hold the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Its word counts: for an entry to be recorded, a majority of these must have it.
    Voter,
    /// Gets everything, and a vote as soon as it has caught up.
    Learner,
    /// Gets everything, and a vote only when a person says so.
    Standby,
}

impl MemberRole {
    /// One word, lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
            MemberRole::Standby => "standby",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_a_sentence() {
        let servers = |here: &[&str]| WaitsFor::Servers {
            here: here.iter().map(ToString::to_string).collect(),
            expected: 3,
        };
        for (waits_for, sentence) in [
            (
                servers(&["a"]),
                "waiting for 2 more servers: 1 of 3 here (a)",
            ),
            (
                servers(&["a", "b"]),
                "waiting for 1 more server: 2 of 3 here (a, b)",
            ),
            (
                WaitsFor::Log {
                    applied: 3,
                    last: 9,
                },
                "applying the log: entry 3 of 9 is in the state",
            ),
        ] {
            assert_eq!(waits_for.to_string(), sentence);
        }
    }
}
