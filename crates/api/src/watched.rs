//! Bodies of HTTP/2 answers, so that a stream whose client takes nothing ends as a connection does.
//!
//! Over HTTP/1 a client that stops reading fills its socket, and the connection's own clock sees it.
//! Over HTTP/2 it only stops giving window to one stream: the socket is free, and what waits for
//! that stream would wait for ever.
//!
//! ```text
//!            polled                       not polled for a write stall
//!  waiting ─────────▶ handed ────────────▶ ended: its bytes are freed, polling it is an error
//!     ▲                 │  polled again        │ not polled for another write stall
//!     └─────────────────┘                      └──────────────▶ the connection is cut
//! ```
//!
//! A stream that is ended is reset as soon as its client gives it window. The few bytes that the
//! HTTP library holds for it until then are freed with the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Bytes that are handed over at once, which is what one frame of HTTP/2 takes. The HTTP library
/// holds two such pieces of a stream that its client does not take; one that takes less than them
/// within a write stall counts as taking nothing.
const PIECE_BYTES: usize = 16 << 10;

/// Bodies up to here are not watched: the streams of a connection together hold no more of them
/// than the connection itself takes.
const UNWATCHED_BYTES: u64 = 4 << 10;

/// The client has taken nothing of the stream for too long.
#[derive(Clone, Copy, Debug, Error)]
#[error("the stream was not read for too long")]
struct Stalled;

/// What watching needs to know of the connection.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) write_stall: Duration,
    /// Cuts the connection.
    pub(crate) cut: CancellationToken,
}

impl Watch {
    /// Watches over a body.
    pub(crate) fn over(&self, body: Body) -> Body {
        if body
            .size_hint()
            .exact()
            .is_some_and(|bytes| bytes <= UNWATCHED_BYTES)
        {
            return body;
        }
        let shared = Arc::new(Mutex::new(State {
            body: Some(body),
            rest: Bytes::new(),
            handed: None,
        }));
        tokio::spawn(watch(Arc::downgrade(&shared), self.clone()));
        Body::new(Watched(shared))
    }
}

struct State {
    /// None when it was ended.
    body: Option<Body>,
    /// What it gave and was not handed over yet.
    rest: Bytes,
    /// Since when something that was handed over has not been taken.
    handed: Option<Instant>,
}

struct Watched(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = lock(&self.0);
        state.handed = None;
        if state.rest.is_empty() {
            let Some(body) = &mut state.body else {
                return Poll::Ready(Some(Err(axum::Error::new(Stalled))));
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => state.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let piece = state.rest.len().min(PIECE_BYTES);
        let piece = state.rest.split_to(piece);
        state.handed = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.0);
        match &state.body {
            Some(body) if state.handed.is_none() => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// Ends a body that is not polled, then its connection.
async fn watch(state: Weak<Mutex<State>>, watch: Watch) {
    let mut is_ended = false;
    let mut next = Instant::now() + watch.write_stall;
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            () = watch.cut.cancelled() => return,
        }
        let Some(shared) = state.upgrade() else {
            return;
        };
        let now = Instant::now();
        let mut state = lock(&shared);
        let due = state.handed.map(|since| since + watch.write_stall);
        match due {
            Some(due) if due <= now && is_ended => {
                drop(state);
                watch.cut.cancel();
                return;
            }
            Some(due) if due <= now => {
                watch.metrics.connections_stalled.one();
                is_ended = true;
                state.handed = Some(now);
                let freed = (state.body.take(), std::mem::take(&mut state.rest));
                drop(state);
                drop(freed);
                next = now + watch.write_stall;
            }
            Some(due) => next = due,
            None => next = now + watch.write_stall,
        }
    }
}

/// Runs a connection until it ends or is cut.
pub(crate) async fn until_cut<T>(
    cut: CancellationToken,
    connection: impl Future<Output = T>,
    when_cut: T,
) -> T {
    tokio::select! {
        ended = connection => ended,
        () = cut.cancelled() => when_cut,
    }
}
