use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::SinkExt;
use http::{HeaderValue, StatusCode, header};
use tidings_event::{FrameError, FrameView, Index, to_cloudevent};
use tokio::time::timeout;
use tracing::{debug, error};

use super::body::{Beats, ticker};
use super::encoding::lines_of;
use super::query::{self, Format, Surface};
use super::source::{self, FrameSource, Piece, StreamEnd};
use crate::app::{App, name_timeline};
use crate::error::ApiError;
use crate::metrics::Counted;

/// The close code of a strict stream whose frames are gone: private use (RFC 6455 §7.4.2), after
/// the HTTP status that says the same.
const CLOSE_GONE: u16 = 4410;

/// `GET /v1/events`.
pub(crate) async fn events_websocket(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) => {
            let mut response = ApiError::new(
                StatusCode::UPGRADE_REQUIRED,
                "upgrade_required",
                "this address is followed as a WebSocket: send its Upgrade headers over HTTP/1.1, or read GET /v1/event/stream",
            )
            .into_response();
            // RFC 9110 §15.5.22: it has to say to what.
            response
                .headers_mut()
                .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            return response;
        }
    };
    match open(app, query.as_deref(), upgrade).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn open(
    app: Arc<App>,
    query: Option<&str>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let asked = query::parse(&app, query, Surface::WebSocket, None).await?;
    let (format, beats) = (asked.format, asked.beats());
    let source = source::open(&app, asked).await?;
    let view = app.state();
    let config = &app.config.stream;
    let upgrade = upgrade
        .read_buffer_size(config.websocket_read_buffer)
        .write_buffer_size(config.websocket_write_buffer)
        .max_message_size(config.websocket_message_bytes)
        .max_frame_size(config.websocket_message_bytes);
    let open = Counted::new(&app.metrics, |metrics| &metrics.streams_websocket);
    let mut response = upgrade.on_upgrade(move |socket| async move {
        let mut stream = Socket {
            app,
            socket,
            source,
            format,
            beats,
        };
        let end = stream.follow().await;
        stream.close(end).await;
        drop(open);
    });
    name_timeline(response.headers_mut(), &view);
    Ok(response)
}

/// One subscriber with a WebSocket.
struct Socket {
    app: Arc<App>,
    socket: WebSocket,
    source: FrameSource,
    format: Format,
    beats: Beats,
}

/// Why following ended.
enum End {
    Stream(StreamEnd),
    /// The server stops.
    Closing,
    /// The peer closed or cannot be reached.
    Peer,
    /// The peer sent what it may not.
    Protocol,
}

impl Socket {
    async fn follow(&mut self) -> End {
        let mut heartbeat = ticker(self.beats.period);
        let app = Arc::clone(&self.app);
        if self.send_heartbeat().await.is_err() {
            return End::Peer;
        }
        loop {
            tokio::select! {
                biased;
                () = app.closing.begun() => return End::Closing,
                _ = heartbeat.tick() => {
                    // It says how far the stream is, so what is there goes first.
                    let next = poll_fn(|cx| Poll::Ready(self.source.poll_next(cx))).await;
                    if let Poll::Ready(next) = next
                        && let Some(end) = self.hand_on(next).await
                    {
                        return end;
                    }
                    if self.send_heartbeat().await.is_err() {
                        return End::Peer;
                    }
                }
                // Pings are answered by the library while it reads. The stream goes one way:
                // what else the peer says is dropped.
                said = self.socket.recv() => match said {
                    Some(Ok(Message::Close(_))) | None => return End::Peer,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        debug!(error = &error as &dyn std::error::Error, "websocket ended");
                        return End::Protocol;
                    }
                },
                next = poll_fn(|cx| self.source.poll_next(cx)) => {
                    if let Some(end) = self.hand_on(next).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Sends what came next; why following ends, when it does.
    async fn hand_on(&mut self, next: Result<Piece, StreamEnd>) -> Option<End> {
        let piece = match next {
            Ok(piece) => piece,
            Err(end) => return Some(End::Stream(end)),
        };
        match self.send(piece).await {
            Ok(()) => None,
            Err(SendError::Peer) => Some(End::Peer),
            Err(SendError::Frame(source)) => {
                error!(error = %source, "a stream is cut: a frame is not in the form that is written");
                Some(End::Stream(StreamEnd::Broken))
            }
        }
    }

    async fn send_heartbeat(&mut self) -> Result<(), axum::Error> {
        let message = if self.beats.progress {
            Message::text(progress_message(self.source.considered()))
        } else {
            Message::Ping(Bytes::new())
        };
        self.socket.send(message).await
    }

    /// Hands over all messages of a piece, then flushes once.
    async fn send(&mut self, piece: Piece) -> Result<(), SendError> {
        match piece {
            Piece::Marker(line) => {
                self.feed(line.slice(..line.len().saturating_sub(1)))
                    .await?
            }
            Piece::Frames(lines) | Piece::State(lines) => {
                let mut rest = lines;
                while !rest.is_empty() {
                    let length = lines_of(&rest).next().map_or(0, <[u8]>::len);
                    let line = rest.split_to((length + 1).min(rest.len()));
                    self.feed_frame(line.slice(..length)).await?;
                }
            }
        }
        self.socket.flush().await.map_err(|_| SendError::Peer)
    }

    async fn feed_frame(&mut self, line: Bytes) -> Result<(), SendError> {
        if self.format == Format::Frames {
            return self.feed(line).await;
        }
        let messages: Vec<Bytes> = {
            let frame = FrameView::parse(&line).map_err(SendError::Frame)?;
            let events = frame.events().iter();
            if self.format == Format::CloudEvents {
                events
                    .map(|event| Bytes::from(to_cloudevent(event)))
                    .collect()
            } else {
                events
                    .map(|event| line.slice_ref(event.raw().as_bytes()))
                    .collect()
            }
        };
        for message in messages {
            self.feed(message).await?;
        }
        Ok(())
    }

    async fn feed(&mut self, message: Bytes) -> Result<(), SendError> {
        // Lines are JSON: they are text, or the file is damaged.
        let text = Utf8Bytes::try_from(message).map_err(|_| SendError::Peer)?;
        self.socket
            .feed(Message::Text(text))
            .await
            .map_err(|_| SendError::Peer)
    }

    /// Says why, and waits a moment for the peer to say the same.
    async fn close(mut self, end: End) {
        let (code, reason) = match end {
            End::Peer => return,
            End::Closing | End::Stream(StreamEnd::Closed) => {
                (close_code::AWAY, "the server is stopping: connect again")
            }
            End::Stream(StreamEnd::Gone) => (
                CLOSE_GONE,
                "the frames that come next are no longer retained",
            ),
            End::Stream(StreamEnd::Broken) => (close_code::ERROR, "the history cannot be read"),
            End::Protocol => (
                close_code::POLICY,
                "a message is too large or not understood",
            ),
        };
        let wait = self.app.config.stream.websocket_close_wait;
        let farewell = async {
            let frame = CloseFrame {
                code,
                reason: Utf8Bytes::from_static(reason),
            };
            if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
            while let Some(Ok(_)) = self.socket.recv().await {}
        };
        // A peer that says nothing is left.
        let _ = timeout(wait, farewell).await;
    }
}

fn progress_message(considered: Index) -> String {
    format!("{{\"Index\":{considered},\"Events\":[]}}")
}

enum SendError {
    Peer,
    Frame(FrameError),
}
