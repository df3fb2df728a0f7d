//! The HTTP surface, in process, over real sockets, on a timeline in memory.

// What helps the tests is test code as well, though clippy looks for the attribute only.
#![allow(clippy::unwrap_used)]

mod history;
mod memory_timeline;
mod publish;
mod server;
mod servers;
mod sse;
mod state;
mod status;
mod stream;
mod support;
mod websocket;
