//! What a node of Serf is, what one may ask of it, and what it tells.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::query::ReceivedQuery;
use super::roster::RosterEvent;
use crate::name::Name;
use crate::swim::{self, ConfigError, Output};
use crate::wire::Alive;
use crate::wire::serf::{LamportTime, Tags, TagsError, UserEvent};

/// How long things take in Serf (serf: config.go `DefaultConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerfTiming {
    /// How often the gone are looked through.
    pub reap_interval: Duration,
    /// How often one that failed is tried.
    pub reconnect_interval: Duration,
    /// How long one that failed is remembered.
    pub reconnect_timeout: Duration,
    /// How long one that left is remembered.
    pub tombstone_timeout: Duration,
    /// How long leaving waits for its news to be told, for each of its two parts.
    pub broadcast_timeout: Duration,
    /// How long it then waits for the news to go round.
    pub leave_propagate_delay: Duration,
}

impl Default for SerfTiming {
    fn default() -> SerfTiming {
        SerfTiming {
            reap_interval: Duration::from_secs(15),
            reconnect_interval: Duration::from_secs(30),
            reconnect_timeout: Duration::from_secs(24 * 3600),
            tombstone_timeout: Duration::from_secs(24 * 3600),
            broadcast_timeout: Duration::from_secs(5),
            leave_propagate_delay: Duration::from_secs(1),
        }
    }
}

/// What a node of Serf is.
#[derive(Debug)]
pub struct SerfConfig {
    /// What a node of memberlist is. Its meta is made of the tags.
    pub swim: swim::Config,
    /// What it says about itself.
    pub tags: Tags,
    /// How long things take.
    pub timing: SerfTiming,
    /// The longest event that may be sent, encoded. Peers have 512, and at most 9216.
    pub event_bytes_max: usize,
    /// Whether events from before our joins are handed on.
    pub replay: bool,
}

impl SerfConfig {
    /// A node with Serf's defaults and no tags.
    pub fn new(swim: swim::Config) -> SerfConfig {
        SerfConfig {
            swim,
            tags: Tags::default(),
            timing: SerfTiming::default(),
            event_bytes_max: 512,
            replay: false,
        }
    }
}

/// A configuration that no machine can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SerfConfigError {
    /// The tags do not fit.
    #[error(transparent)]
    Tags(#[from] TagsError),
    /// Memberlist's part of it.
    #[error(transparent)]
    Swim(#[from] ConfigError),
}

/// An event that was not sent. The sentences are those of Serf's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    /// Name and payload alone are too long.
    #[error("user event exceeds configured limit of {limit} bytes before encoding")]
    BeforeEncoding {
        /// The limit.
        limit: usize,
    },
    /// Encoded it is too long.
    #[error("encoded user event exceeds configured limit of {limit} bytes after encoding")]
    AfterEncoding {
        /// The limit.
        limit: usize,
    },
}

/// What one may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerfCommand {
    /// Join a pool; [`SerfOutput::JoinFinished`] follows.
    Join {
        /// Comes back in the outcome.
        join: u64,
        /// Where to.
        addresses: Vec<SocketAddr>,
    },
    /// Leave; [`SerfOutput::LeaveFinished`] follows.
    Leave,
    /// Say of a member that failed that it has left.
    ForceLeave {
        /// The member.
        node: Name,
        /// Whether to forget it at once.
        prune: bool,
    },
}

/// What the machine wants done, or tells.
#[derive(Clone, Debug, PartialEq)]
pub enum SerfOutput {
    /// A datagram, or what is to be done with a stream.
    Network(Output),
    /// The members have changed.
    Member(RosterEvent),
    /// Something happened, here or elsewhere.
    UserEvent(UserEvent),
    /// Somebody bears a name that another one bears.
    Conflict {
        /// The one that is believed.
        known: Box<swim::Member>,
        /// What the other one says.
        other: Box<Alive>,
    },
    /// Somebody asks, and we are meant; [`Serf::respond`](super::Serf::respond) answers. Names that
    /// begin with `_serf_` ask for a change of keys, which whoever keeps them on disk makes.
    Query(ReceivedQuery),
    /// Our question has come to somebody.
    QueryAck {
        /// Which question.
        ltime: LamportTime,
        /// To whom.
        from: Name,
    },
    /// Somebody answers our question.
    QueryAnswer {
        /// Which question.
        ltime: LamportTime,
        /// Who.
        from: Name,
        /// The answer.
        payload: Bytes,
    },
    /// Nobody's answer to our question is heard any more.
    QueryDone {
        /// Which question.
        ltime: LamportTime,
    },
    /// Another node bears our name, and all were asked whom they know by it.
    ///
    /// Real agents end themselves unless more than half of the answers are for them; without any
    /// answer, too.
    NameContested {
        /// How many answered.
        answers: usize,
        /// How many of them know us.
        for_us: usize,
    },
    /// A join is over.
    JoinFinished {
        /// What was given with it.
        join: u64,
        /// How many addresses answered.
        contacted: usize,
        /// The others, and why.
        failures: Vec<(SocketAddr, String)>,
    },
    /// We have left; the process may end.
    LeaveFinished,
}
