//! Clusters of the real code on a simulated network, clock and disk, under seeded faults.
//!
//! ```text
//! seed ─▶ scenario ─┬─▶ cluster: servers, each the real Replica on a disk and a network in memory
//!                   ├─▶ agents: the real spool and forwarder, which reach servers over that network
//!                   ├─▶ workload: publishers, followers, clients that compare and set
//!                   └─▶ nemesis: power cuts, kills, partitions, slow and full disks, clocks that jump
//!                            │
//!            faults stop, everything heals, all must come to rest
//!                            │
//!                   evidence ─▶ checkers, one for each promise ─▶ violations
//! ```
//! All of it runs on one thread and one runtime whose clock stands still until nobody has anything to
//! do. What is left to chance comes from the seed: the same seed is the same run, down to the digest
//! of its trace.

mod agents;
mod checkers;
mod cluster;
mod evidence;
mod nemesis;
mod run;
mod scenario;
mod server;
mod trace;
mod workload;

pub use self::{
    agents::Agents,
    checkers::Violation,
    run::{Outcome, run},
    scenario::Scenario,
    trace::Trace,
};
