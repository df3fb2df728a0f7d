//! memberlist and Serf as pure state machines: no sockets, no clock, no tasks.
//!
//! ```text
//!  datagrams, streams, timers, commands ─▶ handle(now, input) ─▶ datagrams, streams, events
//!                                                └─▶ next_deadline()
//! ```
//!
//! - [`swim`] is memberlist: who is a member, by probes and gossip
//! - [`serf`] is what Serf adds: events, clocks, places, what is remembered of a pool
//! - [`wire`] is what travels: the messages of both protocols in the dialect of their Go programs,
//!   which real agents read and which is read from them. Everything that comes in is bounded before
//!   it costs memory, and whatever cannot be read is a [`wire::WireError`]
//!
//! A driver owns the sockets and the clock; the same machine runs, many times in one process, in a
//! simulator. Chance comes from a [`Chance`] that is seeded by whoever makes the machine.

mod chance;
#[doc(hidden)]
pub mod fuzzing;
mod name;
pub mod serf;
pub mod swim;
mod time;
pub mod wire;

pub use chance::Chance;
pub use name::Name;
pub use time::Time;
