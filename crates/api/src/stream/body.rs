use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use thiserror::Error;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::error;

use super::encoding::Encoding;
use super::source::{FrameSource, Piece, StreamEnd};
use crate::app::App;
use crate::closing::ClosingWatch;
use crate::metrics::Counted;

/// The body of a followed stream: a heartbeat at once, then whole lines as they come, and a
/// heartbeat at every tick. It ends cleanly when the server stops.
///
/// It does nothing for a reader that does not read: the HTTP library asks for more only when the
/// socket has taken what it got.
pub(crate) struct StreamBody {
    source: FrameSource,
    encoding: Encoding,
    /// Whether heartbeats tell how far the stream is.
    progress: bool,
    /// Not reset by traffic, as in Nomad.
    heartbeat: Interval,
    /// It ticked while there was something else to send.
    is_beat_due: bool,
    closing: ClosingWatch,
    step: Step,
    _open: Counted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first heartbeat is to be sent: clients wait for it.
    Begin,
    Follow,
    /// What was handed over is still to be written; then the connection is cut.
    Break,
    End,
}

/// The stream cannot go on; the connection is cut so that the reader does not take this for its
/// end.
#[derive(Clone, Copy, Debug, Error)]
#[error("the history cannot be read")]
pub(crate) struct StreamBroken;

/// What a reader wants of heartbeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beats {
    pub(crate) period: Duration,
    /// Whether they tell how far the stream is.
    pub(crate) progress: bool,
}

impl StreamBody {
    pub(crate) fn new(
        app: &Arc<App>,
        source: FrameSource,
        encoding: Encoding,
        beats: Beats,
    ) -> StreamBody {
        let open = match encoding {
            Encoding::Lines | Encoding::CloudEvents => {
                Counted::new(&app.metrics, |metrics| &metrics.streams_lines)
            }
            Encoding::Sse | Encoding::SseCloudEvents => {
                Counted::new(&app.metrics, |metrics| &metrics.streams_sse)
            }
        };
        StreamBody {
            source,
            encoding,
            progress: beats.progress,
            heartbeat: ticker(beats.period),
            is_beat_due: false,
            closing: app.closing.watch(),
            step: Step::Begin,
            _open: open,
        }
    }

    fn heartbeat(&self) -> Bytes {
        if self.progress {
            self.encoding.progress(self.source.considered())
        } else {
            self.encoding.heartbeat()
        }
    }

    fn encode(&self, piece: Piece) -> Result<Bytes, StreamBroken> {
        let encoded = match piece {
            Piece::Marker(line) => Ok(self.encoding.encode_marker(line)),
            Piece::State(lines) => self.encoding.encode_state(lines),
            Piece::Frames(lines) => self.encoding.encode(lines),
        };
        encoded.map_err(|source| {
            error!(error = %source, "a stream is cut: a frame is not in the form that is written");
            StreamBroken
        })
    }
}

/// Ticks when a heartbeat is due.
pub(crate) fn ticker(period: Duration) -> Interval {
    let mut ticker = interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = StreamBroken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamBroken>>> {
        let this = self.get_mut();
        match this.step {
            Step::Begin => {
                this.step = Step::Follow;
                return Poll::Ready(Some(Ok(Frame::data(this.heartbeat()))));
            }
            Step::Break => {
                this.step = Step::End;
                return Poll::Ready(Some(Err(StreamBroken)));
            }
            Step::End => return Poll::Ready(None),
            Step::Follow => {}
        }
        if this.closing.poll(cx) {
            this.step = Step::End;
            return Poll::Ready(None);
        }
        if this.is_beat_due {
            this.is_beat_due = false;
            return Poll::Ready(Some(Ok(Frame::data(this.heartbeat()))));
        }
        this.is_beat_due = this.heartbeat.poll_tick(cx).is_ready();
        // Looked at also when a heartbeat is due: it says how far the stream is.
        let next = match this.source.poll_next(cx) {
            Poll::Ready(next) => next,
            Poll::Pending if this.is_beat_due => {
                this.is_beat_due = false;
                return Poll::Ready(Some(Ok(Frame::data(this.heartbeat()))));
            }
            Poll::Pending => return Poll::Pending,
        };
        let bytes = match next {
            Ok(piece) => this.encode(piece),
            Err(StreamEnd::Closed | StreamEnd::Gone) => {
                this.step = Step::End;
                return Poll::Ready(None);
            }
            Err(StreamEnd::Broken) => Err(StreamBroken),
        };
        match bytes {
            Ok(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Err(StreamBroken) => {
                // An error would throw away what is not written yet, the head included; while
                // nothing comes, the HTTP library writes.
                this.step = Step::Break;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.step == Step::End
    }
}
