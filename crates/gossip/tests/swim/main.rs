//! memberlist's machine: each rule by a script, and whole pools in one process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;
mod pools;
mod probing;
mod rules;
mod script;
mod streams;
