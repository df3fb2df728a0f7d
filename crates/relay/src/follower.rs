//! A reader here: at the shared ring, or on a stream of its own until it gets there.
//!
//! ```text
//!            asked for what the ring has
//!   begin ────────────────────────────────▶ Shared ◀──────────┐
//!     │                                       │ fell out       │ met: has everything before the ring
//!     └── asked for more ──▶ Own ◀────────────┘                │
//!                             └────────────────────────────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tidings_api::{FollowEnd, FollowPiece, Follower};
use tidings_client::{ClientError, EventStream, From, StreamEvent, StreamRequest};
use tidings_event::{Index, MARKER_SNAPSHOT_END};
use tokio::sync::mpsc;

use crate::hub::View;
use crate::ring::Found;
use crate::servers::Servers;

/// Bytes that are handed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks of a stream of its own that wait for the reader. A reader that takes nothing holds no more
/// than these; the server holds the rest.
const CHUNKS_WAITING: usize = 2;

/// Readers of this agent so far; tells them apart.
static READERS: AtomicU64 = AtomicU64::new(0);

/// What comes of a stream of its own.
enum Own {
    Piece(FollowPiece, Index),
    /// Everything up to here is known.
    Progress(Index),
    /// The shared ring has all that comes after this.
    Met(Index),
    End(FollowEnd),
}

enum Mode {
    Shared,
    Own(mpsc::Receiver<Own>),
}

/// See above.
pub(crate) struct Reader {
    id: u64,
    view: Arc<View>,
    servers: Servers,
    /// How a stream of its own is asked for.
    request: StreamRequest,
    mode: Mode,
    cursor: Index,
    in_snapshot: bool,
    behind: Arc<AtomicU64>,
}

/// Where a stream of its own is.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// Everything up to here is known.
    pub(crate) cursor: Index,
    /// What was read of it already.
    pub(crate) first: Option<StreamEvent>,
}

impl Reader {
    /// A reader that has everything up to `cursor`, which the ring can go on from.
    pub(crate) fn at_ring(
        view: Arc<View>,
        servers: Servers,
        request: StreamRequest,
        cursor: Index,
        behind: Arc<AtomicU64>,
    ) -> Reader {
        Reader {
            id: READERS.fetch_add(1, Ordering::Relaxed),
            view,
            servers,
            request,
            mode: Mode::Shared,
            cursor,
            in_snapshot: false,
            behind,
        }
    }

    /// A reader on a stream of its own, which was begun.
    pub(crate) fn on_stream(
        view: Arc<View>,
        servers: Servers,
        request: StreamRequest,
        stream: EventStream,
        begun: Begun,
        behind: Arc<AtomicU64>,
    ) -> Reader {
        let in_snapshot = request.from == From::Snapshot;
        let mut reader = Reader::at_ring(view, servers, request, begun.cursor, behind);
        reader.in_snapshot = in_snapshot;
        reader.own(stream, begun.first);
        reader
    }

    fn own(&mut self, stream: EventStream, first: Option<StreamEvent>) {
        self.behind.fetch_add(1, Ordering::Relaxed);
        // Ends when the receiving half is dropped.
        let (pieces, coming) = mpsc::channel(CHUNKS_WAITING);
        let view = Arc::clone(&self.view);
        tokio::spawn(catch_up(stream, first, view, pieces, self.in_snapshot));
        self.mode = Mode::Own(coming);
    }

    /// It has fallen out of the ring: goes on from its place by a stream of its own.
    fn fall_behind(&mut self) -> Result<(), FollowEnd> {
        let client = self.servers.client().ok_or(FollowEnd::Closed)?;
        self.request.from = From::Index(self.cursor.next());
        let stream = client.stream(self.request.clone());
        self.own(stream, None);
        Ok(())
    }
}

impl Follower for Reader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<FollowPiece, FollowEnd>> {
        loop {
            let Mode::Own(coming) = &mut self.mode else {
                let mut ring = self.view.ring.lock();
                match ring.read(self.cursor, CHUNK_BYTES) {
                    Found::Lines(lines, last) => {
                        self.cursor = last;
                        return Poll::Ready(Ok(FollowPiece::Frames(lines)));
                    }
                    Found::CaughtUp(cursor) => {
                        self.cursor = cursor;
                        ring.register(self.id, cx.waker());
                        return Poll::Pending;
                    }
                    Found::Over => return Poll::Ready(Err(FollowEnd::Closed)),
                    Found::Behind => {}
                }
                drop(ring);
                if let Err(end) = self.fall_behind() {
                    return Poll::Ready(Err(end));
                }
                continue;
            };
            match std::task::ready!(coming.poll_recv(cx)) {
                Some(Own::Piece(piece, cursor)) => {
                    self.in_snapshot = matches!(piece, FollowPiece::State(_));
                    self.cursor = cursor;
                    return Poll::Ready(Ok(piece));
                }
                Some(Own::Progress(cursor)) => self.cursor = cursor,
                Some(Own::Met(cursor)) => {
                    self.cursor = cursor;
                    self.mode = Mode::Shared;
                }
                Some(Own::End(end)) => return Poll::Ready(Err(end)),
                None => return Poll::Ready(Err(FollowEnd::Closed)),
            }
        }
    }

    fn considered(&self) -> Index {
        match &self.mode {
            _ if self.in_snapshot => Index::ZERO,
            Mode::Own(_) => self.cursor,
            Mode::Shared => match self.view.ring.lock().read(self.cursor, 0) {
                Found::CaughtUp(cursor) => cursor,
                _ => self.cursor,
            },
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.view.ring.lock().forget(self.id);
    }
}

/// Hands on what a stream gives until the ring can take over.
async fn catch_up(
    mut stream: EventStream,
    first: Option<StreamEvent>,
    view: Arc<View>,
    pieces: mpsc::Sender<Own>,
    mut in_snapshot: bool,
) {
    let mut event = first.map(|event| Some(Ok(event)));
    loop {
        let next = match event.take() {
            Some(event) => event,
            None => tokio::select! {
                event = stream.next() => event,
                () = pieces.closed() => return,
            },
        };
        let piece = match next {
            Some(Ok(StreamEvent::Frame(line))) => {
                let mut lines = BytesMut::from(line.line().as_ref());
                lines.extend_from_slice(b"\n");
                // What is there already goes along.
                while lines.len() < CHUNK_BYTES {
                    match stream.next().now_or_never() {
                        Some(Some(Ok(StreamEvent::Frame(line)))) => {
                            lines.extend_from_slice(line.line());
                            lines.extend_from_slice(b"\n");
                        }
                        None => break,
                        other => {
                            event = other;
                            break;
                        }
                    }
                }
                let lines = lines.freeze();
                match in_snapshot {
                    true => Own::Piece(FollowPiece::State(lines), Index::ZERO),
                    false => Own::Piece(FollowPiece::Frames(lines), cursor_of(&stream)),
                }
            }
            Some(Ok(StreamEvent::SnapshotEnd(index))) => {
                in_snapshot = false;
                let marker = format!(
                    "{{\"Index\":{index},\"Events\":[],\"Marker\":\"{MARKER_SNAPSHOT_END}\"}}\n"
                );
                Own::Piece(FollowPiece::Marker(Bytes::from(marker)), index)
            }
            Some(Ok(StreamEvent::Progress(index))) => Own::Progress(index),
            // Half a snapshot, or half of another timeline: the reader comes again.
            Some(Ok(StreamEvent::SnapshotRestart | StreamEvent::Reset { .. })) => {
                Own::End(FollowEnd::Closed)
            }
            Some(Ok(_)) => continue,
            Some(Err(ClientError::Gone { .. })) => Own::End(FollowEnd::Gone),
            Some(Err(error)) => {
                tracing::debug!(%error, "a reader's own stream ended");
                Own::End(FollowEnd::Closed)
            }
            None => return,
        };
        let is_over = matches!(piece, Own::End(_));
        if pieces.send(piece).await.is_err() || is_over {
            return;
        }
        // What was taken out of the stream and not handed on yet is behind its cursor.
        if in_snapshot || event.is_some() {
            continue;
        }
        let cursor = cursor_of(&stream);
        if cursor > Index::ZERO && view.ring.lock().meets(cursor) {
            let _ = pieces.send(Own::Met(cursor)).await;
            return;
        }
    }
}

fn cursor_of(stream: &EventStream) -> Index {
    stream.cursor().unwrap_or_default()
}
