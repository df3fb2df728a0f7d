//! What an agent that holds no timeline asks those that do.
//!
//! ```text
//!  followers ──▶ stream::source ──▶ Upstream::follow   ─┐
//!  state, servers, history ───────▶ Upstream::forward  ─┼─▶ servers
//!  publishing ────────────────────▶ Timeline::submit   ─┘
//! ```
//!
//! The surface is the same code for servers and for such agents: only where frames, entries and
//! answers come from differs.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use thiserror::Error;
use tidings_event::{Filter, Index};

/// Those that hold the timeline, as an agent that does not sees them.
pub trait Upstream: Send + Sync + 'static {
    /// Begins to follow. Done when it is known that frames will come, or why not.
    fn follow(
        &self,
        request: FollowRequest,
    ) -> BoxFuture<'static, Result<Box<dyn Follower>, UpstreamFailure>>;

    /// Hands a request on, and its answer back. A change is asked of another server only when it
    /// certainly was not made at the one before.
    fn forward(
        &self,
        request: ForwardRequest,
    ) -> BoxFuture<'static, Result<ForwardAnswer, UpstreamFailure>>;

    /// Hands on what is posted to a path, while it comes. Its sender has it on a disk, and may send it
    /// again whatever became of it: one try is enough.
    fn stream(
        &self,
        target: String,
        headers: HeaderMap,
        body: BoxStream<'static, Result<Bytes, std::io::Error>>,
    ) -> BoxFuture<'static, Result<ForwardAnswer, UpstreamFailure>>;

    /// Sections for `/v1/status`: a name and an object.
    fn sections(&self) -> Vec<(&'static str, Value)>;

    /// Numbers for `/v1/metrics`.
    fn numbers(&self) -> Vec<UpstreamNumber>;
}

/// One number for `/v1/metrics`.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamNumber {
    /// As Prometheus wants it.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// The number.
    pub value: u64,
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowFrom {
    /// Some of the newest frames.
    Backlog,
    /// This frame, or the oldest after it.
    At(Index),
    /// The oldest frame.
    Beginning,
    /// What comes from now on.
    Now,
    /// The state as it is, then every change of it.
    Snapshot,
}

/// What a subscriber asked for.
#[derive(Clone, Debug)]
pub struct FollowRequest {
    /// The whole filter.
    pub filter: Filter,
    /// The same in the words of the request: topics …
    pub topics: Vec<String>,
    /// … namespace …
    pub namespace: Option<String>,
    /// … and expression.
    pub expression: Option<String>,
    /// Where to begin.
    pub from: FollowFrom,
    /// Whether a snapshot is sent when the frame to begin with is gone.
    pub or_snapshot: bool,
    /// Whether frames that are gone end the stream.
    pub strict: bool,
}

/// Lines to send.
#[derive(Clone, Debug)]
pub enum FollowPiece {
    /// Frames: whole lines.
    Frames(Bytes),
    /// Entries of a snapshot: whole lines.
    State(Bytes),
    /// The line that ends a snapshot.
    Marker(Bytes),
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowEnd {
    /// The reader can come again at once: the agent stops, or the timeline is another one now.
    Closed,
    /// Frames that a strict reader should have got are gone.
    Gone,
}

/// A stream that was begun.
pub trait Follower: Send {
    /// The next lines.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<FollowPiece, FollowEnd>>;

    /// Everything up to this frame was given or does not match; nothing while a snapshot is sent.
    fn considered(&self) -> Index;
}

/// A request that is handed on.
#[derive(Clone, Debug)]
pub struct ForwardRequest {
    /// What is to be done.
    pub method: Method,
    /// To what: path and query as they came.
    pub target: String,
    /// What it bears, without what is between two machines only, and without secrets.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// The answer to it.
pub struct ForwardAnswer {
    /// How it went.
    pub status: StatusCode,
    /// What it bears, without what is between two machines only.
    pub headers: HeaderMap,
    /// Its body as it comes.
    pub body: BoxStream<'static, Result<Bytes, std::io::Error>>,
}

/// Why servers did not give what was asked for.
#[derive(Clone, Debug, Error)]
pub enum UpstreamFailure {
    /// One refused.
    #[error("{message}")]
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// None was reached.
    #[error("no server can be reached ({reason}): send again later")]
    NoServer {
        /// What was tried.
        reason: String,
    },
    /// It may have been done, or not.
    #[error(
        "no server answered in time ({reason}): it may have been done, look before sending again"
    )]
    Unknown {
        /// What happened.
        reason: String,
    },
}
