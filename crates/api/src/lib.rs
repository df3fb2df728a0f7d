//! The HTTP surface of a timeline.
//!
//! ```text
//! listener ─▶ Connection ─▶ HTTP/1, HTTP/2 ─▶ gate (route declared? sender allowed?) ─▶ handler
//!              place, stall clock                                                        │
//!   /v1/event/stream, /v1/events   follow: lines, Server-Sent Events, WebSocket  ◀── Broker
//!   /v1/events                     publish: JSON, lines, CloudEvents             ──▶ Timeline
//!   /v1/state/…                    read and change entries, wait for changes     ◀─▶ both
//!   /v1/servers                    who holds the timeline, and changes of that
//!   /v1/history/digests            what servers compare
//!   /v1/status, health, metrics, openapi.json
//! ```
//!
//! [`ApiServer`] owns the accept loop and every limit of it. What it needs of a timeline is the
//! trait [`Timeline`]. A stream's body polls its subscription directly: what a reader does not take
//! is not fetched, and what it takes are the broker's shared bytes.

#[cfg(test)]
extern crate self as tidings_api;

mod app;
mod auth;
mod closing;
mod config;
mod connection;
mod error;
mod forward;
mod go_text;
mod history;
#[cfg(test)]
#[path = "../tests/api/memory_timeline.rs"]
mod memory_timeline;
mod metrics;
mod openapi;
mod publish;
mod query_text;
mod reading;
mod replica;
mod routes;
mod server;
mod servers;
mod snapshot;
mod state;
mod status;
mod stream;
mod timeline;
mod upstream;
mod watched;

pub use app::ApiShared;
pub use auth::Token;
pub use config::{ApiConfig, HttpConfig, PublishConfig, StateConfig, StreamConfig};
pub use openapi::openapi;
pub use server::ApiServer;
pub use timeline::{
    Answer, PeersStatus, ProposeFailure, ReadFailure, ServerChange, ServerStatus, ServersFailure,
    SnapshotReader, SnapshotWriter, Submitted, Timeline, TimelineStatus,
};
pub use upstream::{
    FollowEnd, FollowFrom, FollowPiece, FollowRequest, Follower, ForwardAnswer, ForwardRequest,
    Upstream, UpstreamFailure, UpstreamNumber,
};
