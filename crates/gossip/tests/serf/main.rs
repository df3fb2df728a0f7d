//! Serf's machine: what it adds to membership, in small pools without loss.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod events;
mod members;
mod pool;
mod queries;
