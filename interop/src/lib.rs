//! Tests of the running agent, from outside: the real `tidings` binary, real
//! sockets, unmodified clients that were written for Nomad.
//!
//! The harness starts an agent on a temporary data directory and a free port
//! ([`Agent`]), speaks HTTP with it byte by byte ([`Response`], [`Stream`],
//! [`Pipeline`]) and runs the foreign programs ([`GoClient`], [`PythonClient`]).
//! [`cluster`] starts several servers and agents, on loopback or in network namespaces
//! ([`Network`]), with publishers and followers, and checks what they end up with.
//! All of that shares no code with the agent: what it checks is the wire.
//! [`readers`] stands apart: what fuzzers call, in process.
//!
//! `cargo xtask interop` builds and installs what these tests need and names it
//! in the environment; a test whose program is missing fails and says so.

mod agent;
pub mod cluster;
mod http;
mod network;
mod pipeline;
pub mod process;
mod programs;
pub mod readers;
mod recorded;
mod tmpfs;

pub use agent::{Agent, AgentOptions, tidings};
pub use http::{Response, Stream, connect, connect_within, request, request_within};
pub use network::{Entered, Link, Namespace, Network};
pub use pipeline::Pipeline;
pub use programs::{GoClient, Outcome, PythonClient, Running};
pub use recorded::{RECORDINGS, RecordedFrame, publish_recording, recorded_frames};
pub use tmpfs::Tmpfs;
