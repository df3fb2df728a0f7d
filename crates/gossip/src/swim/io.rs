//! What goes in and what comes out.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::broadcast::BroadcastToken;
use super::members::Member;
use crate::name::Name;
use crate::wire::Alive;

/// A stream, as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// One that [`Output::Dial`] asked for; the machine numbers these.
    Dialed(u64),
    /// One that somebody else opened; the driver numbers these, and uses no number twice.
    Accepted(u64),
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Somebody opened it.
    Accepted {
        /// Where from.
        from: SocketAddr,
    },
    /// A stream that was dialed is open.
    Connected,
    /// Bytes came.
    Bytes(Bytes),
    /// It is over, or could not be opened.
    Closed {
        /// Why, when that is a failure.
        failure: Option<String>,
    },
}

/// What one may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Exchange states with these addresses; [`Output::JoinFinished`] tells how that went.
    Join {
        /// Comes back in the outcome.
        join: u64,
        /// Where to.
        addresses: Vec<SocketAddr>,
    },
    /// Say that we leave; [`Output::LeaveFinished`] follows.
    Leave {
        /// How long to wait until it has been told often enough.
        timeout: Duration,
    },
    /// Change what the layer above says about us.
    Update {
        /// The new meta; longer than [`META_BYTES_MAX`](crate::wire::serf::META_BYTES_MAX) it is refused
        /// (the outcome says so).
        meta: Bytes,
        /// Comes back when the change has been told often enough.
        token: Option<BroadcastToken>,
    },
    /// Send a message of the layer above as a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The message.
        bytes: Bytes,
    },
    /// Send a message of the layer above on a stream.
    SendOnStream {
        /// Where to.
        to: SocketAddr,
        /// The message.
        bytes: Bytes,
    },
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A datagram came.
    Datagram {
        /// Where from.
        from: SocketAddr,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Something became of a stream.
    Stream {
        /// The stream.
        stream: StreamId,
        /// What.
        event: StreamEvent,
    },
    /// The time that [`Swim::next_deadline`](super::Swim::next_deadline) told has come. It may also be
    /// given earlier or later.
    Timer,
    /// Somebody asks for something.
    Command(Command),
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// A member is there, new or again.
    Joined(Member),
    /// What the layer above says about a member has changed.
    Updated(Member),
    /// A member is gone; its state tells whether it said so.
    Gone(Member),
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Open a stream.
    Dial {
        /// How it is called from now on.
        stream: StreamId,
        /// Where to.
        to: SocketAddr,
    },
    /// Write to a stream that is open.
    Write {
        /// The stream.
        stream: StreamId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Close a stream once all that was written is sent. Nothing more about it is expected.
    Close {
        /// The stream.
        stream: StreamId,
    },
    /// The members have changed.
    Member(MemberEvent),
    /// Somebody bears a name that another one bears.
    Conflict {
        /// The one that is believed.
        known: Member,
        /// What the other one says.
        other: Alive,
    },
    /// A message for the layer above.
    User {
        /// The message.
        bytes: Bytes,
    },
    /// What the layer above at another member knows.
    RemoteState {
        /// Whether we asked for it, to join.
        our_join: bool,
        /// What its `Delegate::local_state` gave.
        bytes: Bytes,
    },
    /// A member answered a probe itself and in time.
    Answered {
        /// The member.
        node: Name,
        /// How long that took.
        round_trip: Duration,
        /// What its `Delegate::ack_payload` gave.
        payload: Option<Bytes>,
    },
    /// Our own news has been told often enough, or newer news replaced it.
    Told {
        /// What was given with it.
        token: BroadcastToken,
    },
    /// An [`Update`](Command::Update) was refused.
    UpdateRefused {
        /// Why.
        reason: String,
    },
    /// A join is over.
    JoinFinished {
        /// What was given with it.
        join: u64,
        /// How many addresses answered. With none the join failed.
        contacted: usize,
        /// The others, and why.
        failures: Vec<(SocketAddr, String)>,
    },
    /// All has been done to leave.
    LeaveFinished {
        /// Whether it has been told as often as it should.
        told: bool,
    },
}

/// What the layer above adds to what memberlist sends.
pub trait Delegate {
    /// What it knows, for an exchange.
    fn local_state(&mut self, join: bool) -> Bytes;

    /// Its news: messages whose lengths, with `overhead` for each, are together at most `limit`.
    fn broadcasts(&mut self, overhead: usize, limit: usize) -> Vec<Bytes>;

    /// What it adds to an answer.
    fn ack_payload(&mut self) -> Option<Bytes>;
}

/// No layer above.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDelegate;

impl Delegate for NoDelegate {
    fn local_state(&mut self, _: bool) -> Bytes {
        Bytes::new()
    }

    fn broadcasts(&mut self, _: usize, _: usize) -> Vec<Bytes> {
        Vec::new()
    }

    fn ack_payload(&mut self) -> Option<Bytes> {
        None
    }
}
