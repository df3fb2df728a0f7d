use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tidings_event::Index;
use tidings_timeline::{Slice, StateView, Subscription, SubscriptionEnd};
use tracing::{error, info};

use super::query::{Start, StreamRequest};
use super::snapshot::{Snapshot, Turn};
use crate::app::App;
use crate::error::ApiError;
use crate::upstream::{FollowEnd, FollowFrom, FollowPiece, FollowRequest, Follower};

/// Slices of at least this many bytes are handed on as they are: joining them would copy more than
/// a write of their own costs.
const JOIN_BYTES_BELOW: usize = 16 << 10;

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The timeline is shut down; the reader can come again.
    Closed,
    /// Retention overtook a reader that wanted to be told.
    Gone,
    /// The history could not be read: the reader must see that the stream did not end well.
    Broken,
}

/// Lines to send.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Frames(Bytes),
    /// A part of a snapshot: who has it has not seen everything up to its indexes.
    State(Bytes),
    /// The line that ends a snapshot.
    Marker(Bytes),
}

/// What one subscriber is sent, whichever way.
pub(crate) enum FrameSource {
    /// Of the timeline that is here.
    Here(Box<TimelineSource>),
    /// Of one that is elsewhere.
    Relayed {
        app: Arc<App>,
        follower: Box<dyn Follower>,
    },
}

/// What is sent of the timeline that is here: first a snapshot, if asked for, then frames.
pub(crate) struct TimelineSource {
    app: Arc<App>,
    strict: bool,
    snapshot: Option<Snapshot>,
    subscription: Subscription,
    /// How far the stream is as long as a slice is held.
    considered: Index,
    /// A slice that came while smaller ones were joined; it is handed on next.
    held: Option<Slice>,
    ended: Option<StreamEnd>,
}

/// Begins to follow.
///
/// # Errors
/// When the reader is strict: 410 when the frame is no longer retained, 409 when it is beyond the
/// next one. 503 when too many streams are open, when those that hold the timeline cannot be
/// reached, or when this server lacks the frame and cannot find out whether others have it.
pub(crate) async fn open(app: &Arc<App>, request: StreamRequest) -> Result<FrameSource, ApiError> {
    let limit = app.config.stream.streams_max;
    if app.metrics.streams() >= limit {
        return Err(ApiError::too_many_streams(limit));
    }
    if let Some(upstream) = app.timeline.upstream() {
        let follower = upstream.follow(relayed(request)).await?;
        return Ok(FrameSource::Relayed {
            app: Arc::clone(app),
            follower,
        });
    }
    if let Start::At(index) = request.start
        && index > app.timeline.broker().newest().next()
    {
        // The reader may have it from another server, which is further than this one yet.
        let barrier = app.timeline.read_barrier().await;
        barrier.map_err(|failure| ApiError::behind(index, &failure))?;
    }
    let view = &app.state();
    let broker = app.timeline.broker();
    // The broker is where frames come from, so its end counts, not the state's, which may be ahead.
    let newest = broker.newest();
    let oldest = view.oldest;
    let mut snapshot = None;
    let from = match request.start {
        Start::Beginning => oldest,
        Start::Now => newest.next(),
        Start::Backlog => {
            let back = newest
                .next()
                .get()
                .saturating_sub(app.config.stream.backlog_frames);
            Index(back.max(oldest.get()))
        }
        // What comes next may be waited for. Beyond it the reader knows another timeline, or this
        // one before it was reset, and would never learn of it.
        Start::At(index) if index > newest.next() && request.strict => {
            return Err(ApiError::ahead(index, newest));
        }
        Start::At(index) if index > newest.next() => newest.max(oldest),
        Start::At(index) if index >= oldest => index,
        Start::At(_) if request.or_snapshot => {
            snapshot = Some(take_snapshot(view, &request).await?);
            view.index.next()
        }
        Start::At(index) if request.strict => return Err(ApiError::gone(index, oldest)),
        Start::At(_) => oldest,
        Start::Snapshot => {
            snapshot = Some(take_snapshot(view, &request).await?);
            view.index.next()
        }
    };
    Ok(FrameSource::Here(Box::new(TimelineSource {
        subscription: broker.subscribe(request.filter, from),
        app: Arc::clone(app),
        strict: request.strict,
        snapshot,
        considered: Index::ZERO,
        held: None,
        ended: None,
    })))
}

/// The request in the words of those that are asked in turn.
fn relayed(request: StreamRequest) -> FollowRequest {
    FollowRequest {
        filter: request.filter,
        topics: request.asked.topics,
        namespace: request.asked.namespace,
        expression: request.asked.expression,
        from: match request.start {
            Start::Backlog => FollowFrom::Backlog,
            Start::At(index) => FollowFrom::At(index),
            Start::Beginning => FollowFrom::Beginning,
            Start::Now => FollowFrom::Now,
            Start::Snapshot => FollowFrom::Snapshot,
        },
        or_snapshot: request.or_snapshot,
        strict: request.strict,
    }
}

/// Sorts the entries where nobody waits for it.
async fn take_snapshot(
    view: &Arc<StateView>,
    request: &StreamRequest,
) -> Result<Snapshot, ApiError> {
    let (view, filter) = (Arc::clone(view), request.filter.clone());
    tokio::task::spawn_blocking(move || Snapshot::new(&view, filter))
        .await
        .map_err(|_| ApiError::internal("the snapshot could not be made"))
}

impl FrameSource {
    /// Everything up to this frame was sent or does not match.
    pub(crate) fn considered(&self) -> Index {
        match self {
            FrameSource::Here(source) => source.considered(),
            FrameSource::Relayed { follower, .. } => follower.considered(),
        }
    }

    /// The next lines.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, StreamEnd>> {
        let (app, follower) = match self {
            FrameSource::Here(source) => return source.poll_next(cx),
            FrameSource::Relayed { app, follower } => (app, follower),
        };
        let piece = match ready!(follower.poll_next(cx)) {
            Ok(FollowPiece::Frames(lines)) => Piece::Frames(lines),
            Ok(FollowPiece::State(lines)) => Piece::State(lines),
            Ok(FollowPiece::Marker(line)) => Piece::Marker(line),
            Err(FollowEnd::Closed) => return Poll::Ready(Err(StreamEnd::Closed)),
            Err(FollowEnd::Gone) => {
                app.metrics.stream_gaps.one();
                return Poll::Ready(Err(StreamEnd::Gone));
            }
        };
        let (Piece::Frames(bytes) | Piece::State(bytes) | Piece::Marker(bytes)) = &piece;
        app.metrics.stream_bytes.add(bytes.len() as u64);
        Poll::Ready(Ok(piece))
    }
}

impl TimelineSource {
    /// Everything up to this frame was sent or does not match. While a snapshot is sent, nothing
    /// is: who is cut off then begins again. Never more than there is.
    pub(crate) fn considered(&self) -> Index {
        let considered = if self.snapshot.is_some() {
            Index::ZERO
        } else if self.held.is_some() {
            self.considered
        } else {
            self.subscription.cursor()
        };
        considered.min(self.app.timeline.broker().newest())
    }

    /// The next lines: all that are there, as long as joining them is cheap.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, StreamEnd>> {
        if let Some(snapshot) = &mut self.snapshot {
            match snapshot.next(self.app.config.stream.chunk_bytes) {
                Ok(Turn::Lines(lines)) => {
                    self.app.metrics.stream_bytes.add(lines.len() as u64);
                    return Poll::Ready(Ok(Piece::State(lines)));
                }
                Ok(Turn::Nothing) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(Turn::End) => {
                    let marker = snapshot.end_marker();
                    self.snapshot = None;
                    return Poll::Ready(Ok(Piece::Marker(marker)));
                }
                Err(source) => {
                    error!(error = %source, "an entry of the state cannot be read");
                    self.app.metrics.stream_damaged.one();
                    return Poll::Ready(Err(StreamEnd::Broken));
                }
            }
        }
        let Slice { bytes: first, last } = ready!(self.poll_slice(cx))?;
        self.considered = last;
        if first.len() >= JOIN_BYTES_BELOW {
            return Poll::Ready(Ok(Piece::Frames(first)));
        }
        // Small: more may be there already.
        let mut joined: Option<BytesMut> = None;
        while !self.subscription.wants_pause() {
            let more = match self.poll_slice(cx) {
                Poll::Ready(Ok(more)) => more,
                Poll::Ready(Err(end)) => {
                    self.ended = Some(end);
                    break;
                }
                Poll::Pending => break,
            };
            if more.bytes.len() >= JOIN_BYTES_BELOW {
                self.held = Some(more);
                break;
            }
            self.considered = more.last;
            let buffer = joined.get_or_insert_with(|| {
                let mut buffer = BytesMut::with_capacity(JOIN_BYTES_BELOW);
                buffer.extend_from_slice(&first);
                buffer
            });
            buffer.extend_from_slice(&more.bytes);
            if buffer.len() >= self.app.config.stream.chunk_bytes {
                break;
            }
        }
        let lines = joined.map_or(first, BytesMut::freeze);
        Poll::Ready(Ok(Piece::Frames(lines)))
    }

    /// The next slice that has lines.
    fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<Result<Slice, StreamEnd>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Ok(held));
        }
        if let Some(end) = self.ended {
            return Poll::Ready(Err(end));
        }
        loop {
            let end = match ready!(self.subscription.poll_next(cx)) {
                Ok(slice) => {
                    if slice.bytes.is_empty() {
                        continue;
                    }
                    self.app.metrics.stream_bytes.add(slice.bytes.len() as u64);
                    return Poll::Ready(Ok(slice));
                }
                Err(end) => end,
            };
            match end {
                SubscriptionEnd::Closed => return Poll::Ready(Err(StreamEnd::Closed)),
                SubscriptionEnd::Gap { wanted, oldest } => {
                    self.app.metrics.stream_gaps.one();
                    info!(%wanted, %oldest, strict = self.strict, "retention overtook a reader");
                    if self.strict {
                        return Poll::Ready(Err(StreamEnd::Gone));
                    }
                    self.subscription.seek(oldest);
                }
                SubscriptionEnd::History(source) => {
                    self.app.metrics.stream_damaged.one();
                    error!(
                        error = &source as &dyn std::error::Error,
                        "a stream is cut: the history cannot be read"
                    );
                    return Poll::Ready(Err(StreamEnd::Broken));
                }
            }
        }
    }
}
