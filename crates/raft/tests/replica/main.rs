//! The replica through its public face, on real files.

// what the modules share is outside of test functions, where clippy expects it
#![allow(clippy::unwrap_used)]

mod crash;
mod limits;
mod order;
mod restart;
mod server;
mod snapshot_file;
mod upkeep;
