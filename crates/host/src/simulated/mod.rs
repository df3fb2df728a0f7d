//! The machine of a simulation: one thread, a clock that waits for nobody, and nothing by chance
//! that a seed does not decide.
//!
//! Everything belongs to the thread that called [`world::begin`]; a second simulation in the same
//! process takes another thread, or its turn.

pub mod disk;
pub mod files;
pub mod net;
pub mod rng;
pub mod world;

pub use parking_lot::{Mutex, MutexGuard};

pub use self::{
    disk::{Disk, Faults},
    rng::Rng,
    world::{begin, end},
};
