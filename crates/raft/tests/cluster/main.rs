//! Several replicas in one process that hold one timeline, on loopback.

// what the modules share is outside of test functions, where clippy expects it
#![allow(clippy::unwrap_used)]

mod agree;
mod clocks;
mod cluster;
mod crowd;
mod damage;
mod leave;
mod members;
mod network;
mod partition;
mod proxy;
mod refuse;
mod restore;
mod snapshot;
mod tls;
mod wire;
