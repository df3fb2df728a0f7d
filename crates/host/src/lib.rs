//! What a server asks of the machine it runs on: files, threads that may wait, time and chance.
//!
//! Crates that a simulation must hold in its hands go through here instead of `std`:
//!
//! ```text
//!                 ordinarily                    with the feature `simulated`
//! fs              std::fs                       files in memory that can lose, tear and run full
//! net             tokio::net                    connections that can be slow, cut, or reset
//! spawn_blocking  a thread that may wait        a task, after a pause that the disk takes
//! Instant         std::time::Instant            tokio's clock, which can stand still
//! ulid, random    the system's randomness       a sequence that a seed decides
//! ```
//!
//! Ordinarily everything here is a name for something of `std`, or one call of it: it costs nothing
//! and adds nothing. The feature is for `sim/`, which is a workspace of its own so that no other
//! build gets it.

#[cfg(not(feature = "simulated"))]
pub mod fs;
#[cfg(not(feature = "simulated"))]
pub mod net;
#[cfg(not(feature = "simulated"))]
mod real;
#[cfg(feature = "simulated")]
pub mod simulated;

#[cfg(not(feature = "simulated"))]
pub use real::{
    Instant, flush_takes, process_id, random, spawn_blocking, spawn_blocking_future,
    spawn_blocking_on, ulid,
};
#[cfg(feature = "simulated")]
pub use simulated::{
    files as fs, net,
    world::{
        Instant, flush_takes, process_id, random, spawn_blocking, spawn_blocking_future,
        spawn_blocking_on, ulid,
    },
};
