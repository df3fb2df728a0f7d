//! Serf: what it adds to membership.
//!
//! ```text
//!  Input ─▶ Swim ─▶ outputs ─┬─▶ datagrams, streams: carried out by the driver
//!                            └─▶ messages, states, members ─▶ Layer ─▶ events, members
//! ```
//!
//! - [`Serf`]: the machine: memberlist's, and what stands on it
//! - [`Roster`]: members with what they mean to do
//! - [`EventBuffer`]: each user event is handed on once, as long as its moment is remembered
//! - [`LamportClock`]: what comes after what; no message stops it
//! - [`UserCoalescer`], [`MemberCoalescer`]: what happens often is told once
//! - [`CoordinateClient`]: how far away a member is
//! - [`Snapshot`]: the lines that an agent writes down to find its pool again

mod clock;
mod coalesce;
mod coordinate;
mod event_buffer;
mod io;
mod layer;
mod machine;
mod query;
mod query_buffer;
mod roster;
mod snapshot;

pub use clock::LamportClock;
pub use coalesce::{MemberCoalescer, UserCoalescer};
pub use coordinate::{CoordinateClient, distance};
pub use event_buffer::{EVENT_SLOTS, EventBuffer, Taken};
pub use io::{EventError, SerfCommand, SerfConfig, SerfConfigError, SerfOutput, SerfTiming};
pub use layer::{LayerCounters, QUEUE_MAX};
pub use machine::Serf;
pub use query::{
    QUERY_BYTES_MAX, QueryError, Question, RESPONSE_BYTES_MAX, ReceivedQuery, RespondError,
};
pub use roster::{IntentOutcome, MemberChange, Roster, RosterEvent, SerfMember};
pub use snapshot::{Snapshot, SnapshotLine};
