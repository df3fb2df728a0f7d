//! Agents without a timeline before real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod publish;
mod streams;
mod support;
