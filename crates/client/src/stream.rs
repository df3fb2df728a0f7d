//! Following the timeline over connections that break.
//!
//! ```text
//!             ┌────────── delay over ──────────┐
//!             ▼                                │
//!         Connecting ── transient error ──▶ Waiting ◀── broken, silent, ended ──┐
//!             │  │                                                             │
//!             │  └─ refused, or gone and strict ──▶ Over                       │
//!             └─ 200 ──▶ Reading ── lines ─────────────────────────────────────┘
//! ```
//!
//! The **cursor** is the index up to which everything that matches has been handed out. Frames move
//! it, and so do progress heartbeats, on which a filtered stream may have nothing but. A new
//! connection begins at the cursor + 1, strictly, so that the agent says so (410) when frames were
//! cut off in between; the gap is then told and the stream goes on at the oldest frame that is
//! kept. A reader so slow that retention overtakes it is ended by the agent, and comes back to the
//! same answer. Until the first line there is no cursor, and a new connection asks as the first one did.
//!
//! A **snapshot** has no place to go on from until its end: what was deleted between two halves of
//! it would never be told. When the connection breaks before the end, it begins again, and the
//! reader is told to forget the first half.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::Stream;
use reqwest::{Method, Response};
use tidings_event::{Frame, Index};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;
use crate::frame_line::{FrameLine, Line};
use crate::lines::{LINE_BYTES_MAX, LineCutter};
use crate::publish::wait_before_retry;
use crate::stream_request::{From, StreamRequest};

/// Bytes of a line that is no frame which are told in the error.
const GIST_BYTES: usize = 80;

/// What a stream yields.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamEvent {
    /// The next frame, or an entry of the snapshot.
    Frame(FrameLine),
    /// Everything up to here has been looked at; frames up to here will not come any more.
    Progress(Index),
    /// Frames were cut off by retention before they could be read.
    Gap {
        /// The first index that is missing.
        wanted: Index,
        /// Where the stream goes on: no frame before this one will come.
        next: Index,
    },
    /// The snapshot is complete and shows the state as of this index; what follows is newer.
    SnapshotEnd(Index),
    /// The snapshot broke off and begins again: what came of it so far is void.
    SnapshotRestart,
    /// The connection is gone. The stream comes back by itself.
    Reconnecting {
        /// Why.
        error: ClientError,
        /// When the next try is made.
        delay: Duration,
    },
}

/// A stream of frames that outlives its connections. Dropping it ends it.
///
/// [`next`](Self::next) may be dropped while it waits (in a `select!`) without losing anything.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    request: StreamRequest,
    place: Place,
    connection: Connection,
    backoff: Backoff,
    /// Told before anything else of the connection.
    pending: VecDeque<StreamEvent>,
    /// The index that was refused as gone; the next line says where the stream goes on instead.
    gone: Option<Index>,
}

/// How far the reader has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing has been received yet.
    Start,
    /// Inside a snapshot; whether an entry of it has been handed out.
    Snapshot { begun: bool },
    /// Everything up to here has been handed out.
    Cursor(Index),
}

#[derive(Debug)]
enum Connection {
    Connecting,
    Waiting { until: Instant },
    Reading(Box<Reading>),
    Over,
}

#[derive(Debug)]
struct Reading {
    response: Response,
    cutter: LineCutter,
    /// When silence has lasted too long.
    deadline: Instant,
}

impl Client {
    /// Follows the timeline. Nothing is sent before the first [`EventStream::next`].
    pub fn stream(&self, request: StreamRequest) -> EventStream {
        let config = self.config();
        EventStream {
            backoff: Backoff::new(config.retry_delay, config.retry_delay_max),
            client: self.clone(),
            place: match request.from {
                From::Snapshot => Place::Snapshot { begun: false },
                _ => Place::Start,
            },
            request,
            connection: Connection::Connecting,
            pending: VecDeque::new(),
            gone: None,
        }
    }
}

impl EventStream {
    /// What comes next; waits for as long as it takes.
    ///
    /// `None` after an error: a stream ends only when trying again cannot help.
    ///
    /// # Errors
    /// What the agent refused; [`ClientError::Gone`] on a strict stream.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, ClientError>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            match &mut self.connection {
                Connection::Over => return None,
                Connection::Waiting { until } => {
                    tokio::time::sleep_until(*until).await;
                    self.connection = Connection::Connecting;
                }
                Connection::Connecting => match self.connect().await {
                    Ok(reading) => self.connection = Connection::Reading(Box::new(reading)),
                    Err(error) => {
                        if let Some(told) = self.connection_failed(error) {
                            return Some(told);
                        }
                    }
                },
                Connection::Reading(reading) => match reading.next_line(&self.client).await {
                    Ok(line) => {
                        if let Some(event) = self.take(line) {
                            return Some(Ok(event));
                        }
                    }
                    Err(error) => {
                        if let Some(told) = self.connection_failed(error) {
                            return Some(told);
                        }
                    }
                },
            }
        }
    }

    /// The next frame, decoded. Progress and reconnecting are passed over.
    ///
    /// # Errors
    /// As [`next`](Self::next), and when a frame cannot be decoded. A gap is told as
    /// [`ClientError::Gone`]; the next call goes on behind it.
    pub async fn next_frame(&mut self) -> Option<Result<Frame, ClientError>> {
        loop {
            match self.next().await? {
                Ok(StreamEvent::Frame(line)) => {
                    return Some(line.decode().map_err(|source| ClientError::Answer {
                        address: self.client.address().to_owned(),
                        source,
                    }));
                }
                Ok(StreamEvent::Gap { wanted, .. }) => {
                    return Some(Err(ClientError::Gone { wanted }));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The index up to which everything that matches has been handed out. Kept by a reader, it is
    /// where a later stream goes on: `From::Index(cursor.next())`.
    pub fn cursor(&self) -> Option<Index> {
        match self.place {
            Place::Cursor(cursor) => Some(cursor),
            Place::Start | Place::Snapshot { .. } => None,
        }
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<StreamEvent, ClientError>> + Send {
        futures_util::stream::unfold(self, |mut stream| async move {
            let item = stream.next().await?;
            Some((item, stream))
        })
    }

    /// Where the next connection begins.
    fn start(&self) -> From {
        match self.place {
            Place::Snapshot { .. } => From::Snapshot,
            // Behind the gap.
            _ if self.gone.is_some() => From::Beginning,
            Place::Cursor(cursor) => From::Index(cursor.next()),
            Place::Start => self.request.from,
        }
    }

    async fn connect(&self) -> Result<Reading, ClientError> {
        let url = self.request.url(&self.client, self.start());
        let response = self
            .client
            .open(self.client.request(Method::GET, url))
            .await?;
        Ok(Reading {
            response,
            cutter: LineCutter::new(LINE_BYTES_MAX),
            deadline: Instant::now() + self.client.config().silence_max(),
        })
    }

    /// Decides what a failed or finished connection means, and what the reader is told of it.
    fn connection_failed(
        &mut self,
        error: ClientError,
    ) -> Option<Result<StreamEvent, ClientError>> {
        if let (ClientError::Refused { status: 410, .. }, From::Index(wanted)) =
            (&error, self.start())
        {
            if self.request.strict {
                self.connection = Connection::Over;
                return Some(Err(ClientError::Gone { wanted }));
            }
            // On to the oldest frame at once; told with the first line that comes, which says
            // where that is.
            self.gone = Some(wanted);
            self.connection = Connection::Connecting;
            return None;
        }
        if !error.is_transient() {
            self.connection = Connection::Over;
            return Some(Err(error));
        }
        if self.place == (Place::Snapshot { begun: true }) {
            self.place = Place::Snapshot { begun: false };
            self.pending.push_back(StreamEvent::SnapshotRestart);
        }
        let delay = wait_before_retry(&mut self.backoff, &error);
        self.connection = Connection::Waiting {
            until: Instant::now() + delay,
        };
        Some(Ok(StreamEvent::Reconnecting { error, delay }))
    }

    /// Moves the cursor by what a line says, and gives what the reader is told of it.
    fn take(&mut self, line: Line) -> Option<StreamEvent> {
        // The connection has proved itself: the next loss begins with a short wait again.
        self.backoff.reset();
        match (line, self.place) {
            (Line::Heartbeat, _) => None,
            // The agent counts through the entries, which says nothing about frames.
            (Line::Progress(_), Place::Snapshot { .. }) => None,
            (Line::Frame(frame), Place::Snapshot { .. }) => {
                self.place = Place::Snapshot { begun: true };
                Some(StreamEvent::Frame(frame))
            }
            (Line::SnapshotEnd(index), Place::Snapshot { .. }) => {
                self.place = Place::Cursor(index);
                Some(StreamEvent::SnapshotEnd(index))
            }
            (Line::SnapshotEnd(_), _) => None,
            (Line::Progress(index), _) => {
                let event = self
                    .advance(index, index.next())
                    .then_some(StreamEvent::Progress(index));
                self.after_gap(index.next(), event)
            }
            (Line::Frame(frame), _) => {
                let index = frame.index();
                let event = self
                    .advance(index, index)
                    .then_some(StreamEvent::Frame(frame));
                self.after_gap(index, event)
            }
        }
    }

    /// Whether everything up to `index` being done is news; if so the cursor is there now.
    /// `reaches` is the index that has to be at least the one asked for.
    fn advance(&mut self, index: Index, reaches: Index) -> bool {
        let new = match (self.place, self.request.from) {
            (Place::Cursor(cursor), _) => index > cursor,
            // Asked for past its newest frame, Nomad begins with that frame: not what was wanted.
            (Place::Start, From::Index(first)) => reaches >= first,
            (Place::Start, _) => true,
            (Place::Snapshot { .. }, _) => false,
        };
        if new {
            self.place = Place::Cursor(index);
        }
        new
    }

    /// The gap is told first when this is the first line behind one.
    fn after_gap(&mut self, next: Index, event: Option<StreamEvent>) -> Option<StreamEvent> {
        let Some(wanted) = self.gone.take() else {
            return event;
        };
        if next <= wanted {
            // The agent has it after all (another one answered, or it was restored).
            return event;
        }
        self.pending.extend(event);
        Some(StreamEvent::Gap { wanted, next })
    }
}

impl Reading {
    async fn next_line(&mut self, client: &Client) -> Result<Line, ClientError> {
        let limit = client.config().silence_max();
        loop {
            let line = self.cutter.next_line();
            let line = line.map_err(|long| ClientError::LineTooLong { limit: long.limit })?;
            if let Some(line) = line {
                let gist = line.slice(..line.len().min(GIST_BYTES));
                return Line::parse(line).map_err(|_| ClientError::NotAFrame {
                    gist: String::from_utf8_lossy(&gist).into_owned(),
                });
            }
            let chunk = tokio::time::timeout_at(self.deadline, self.response.chunk())
                .await
                .map_err(|_| ClientError::Silent { limit })?
                .map_err(|error| client.transport_error(limit, error))?
                .ok_or(ClientError::Ended)?;
            self.cutter.push(&chunk);
            self.deadline = Instant::now() + limit;
        }
    }
}
