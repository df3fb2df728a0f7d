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
//! An index means something in its own **timeline** only. The agent says which one it keeps in the
//! head of each stream; when it is another than before (its data was thrown away, or another cluster
//! answers), waiting for the cursor + 1 of a timeline that is gone would be silence for as long as
//! the new one is shorter, and a hole in it afterwards. The reader is told of the reset, and the
//! stream begins at the beginning of the new one. An index beyond the newest is refused without
//! saying of which timeline: a stream from now on is opened to see. When it is the same one, the
//! server is behind, and is given time.
//!
//! With several servers a connection that is lost is made again to another one, at once when there is
//! one that has not failed lately. The cursor means the same there: every server has the same frames
//! under the same indexes. One that has not come to the cursor yet refuses, and is left for another;
//! one that keeps another timeline than the others is left too, and only when none is left that may
//! keep the former one the reader is told of a reset.
//!
//! A **snapshot** has no place to go on from until its end: what was deleted between two halves of
//! it would never be told. When the connection breaks before the end, it begins again, and the
//! reader is told to forget the first half.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::Stream;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use tidings_event::{Frame, Index};
use tokio::time::Instant;

use crate::backoff::{self, Backoff};
use crate::client::{Client, Here};
use crate::error::ClientError;
use crate::frame_line::{FrameLine, Line};
use crate::lines::LineCutter;
use crate::publish::wait_before_retry;
use crate::stream_request::{From, StreamRequest};

/// Bytes of a line that is no frame which are told in the error.
const GIST_BYTES: usize = 80;

/// The agent's code for an index that its timeline has not come to.
const INDEX_AHEAD: &str = "index_ahead";

/// Names the timeline that an answer is about.
const TIMELINE_HEADER: &str = "x-tidings-timeline";

/// Longest name of a timeline that is taken; an agent's has 26 characters.
const TIMELINE_BYTES_MAX: usize = 64;

/// How long a connection that brings nothing new must have lived before its loss is taken for an
/// accident: an agent that answers, says one line and breaks is one that fails, and is left in
/// peace for longer and longer.
const CONNECTION_PROVEN: Duration = Duration::from_secs(5);

/// Connections that [`EventStream::open`] makes at most before it leaves the rest to `next`.
const OPEN_TRIES_MAX: usize = 8;

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
    /// The connection is back: the first line came after [`Reconnecting`](Self::Reconnecting).
    Connected,
    /// The agent keeps another timeline than the one that was followed. Everything that was learned
    /// from that one is void, and its cursor means nothing any more; what follows is the new one from
    /// its oldest frame, or from its snapshot on a stream that began with one.
    Reset {
        /// The timeline that was followed.
        previous: String,
        /// The one that is followed from here on.
        timeline: String,
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
    /// How the index was refused as ahead of the timeline; the next connection shows of which one.
    ahead: Option<ClientError>,
    /// The timeline that the place belongs to, once an agent has named it.
    timeline: Option<String>,
    /// A loss was told, and that the connection is back was not.
    lost: bool,
    /// The server that was asked last.
    here: Here,
    /// The servers that were asked since something last came.
    in_vain: BTreeSet<String>,
    /// This connection has brought something.
    proven: bool,
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
    here: Here,
    cutter: LineCutter,
    opened: Instant,
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
            timeline: request.timeline.clone(),
            request,
            connection: Connection::Connecting,
            pending: VecDeque::new(),
            gone: None,
            ahead: None,
            lost: false,
            here: self.here(),
            in_vain: BTreeSet::new(),
            proven: false,
        }
    }
}

impl EventStream {
    /// Waits until the first connection is made, for whoever must know whether what was asked for can
    /// be had before anything comes. [`next`](Self::next) does the same by itself.
    ///
    /// # Errors
    /// As [`next`](Self::next), and with what went wrong when no server was reached: then `next` goes
    /// on trying.
    pub async fn open(&mut self) -> Result<(), ClientError> {
        for _ in 0..=OPEN_TRIES_MAX.min(self.client.addresses().len() * 2) {
            if !matches!(self.connection, Connection::Connecting) {
                return Ok(());
            }
            let told = match self.connect().await {
                Ok(reading) => self.opened(reading),
                Err(error) => self.connection_failed(error),
            };
            match told {
                None => {}
                Some(Err(error)) => return Err(error),
                Some(Ok(StreamEvent::Reconnecting { error, delay })) => {
                    if delay > self.client.config().retry_delay {
                        return Err(error);
                    }
                    tokio::time::sleep(delay).await;
                    self.connection = Connection::Connecting;
                }
                Some(Ok(event)) => self.pending.push_back(event),
            }
        }
        Ok(())
    }

    /// What comes next; waits for as long as it takes.
    ///
    /// `None` after an error: a stream ends only when trying again cannot help.
    ///
    /// # Errors
    /// What the agent refused; [`ClientError::Gone`] and [`ClientError::TimelineReset`] on a strict
    /// stream.
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
                    Ok(reading) => {
                        if let Some(told) = self.opened(reading) {
                            return Some(told);
                        }
                    }
                    Err(error) => {
                        if let Some(told) = self.connection_failed(error) {
                            return Some(told);
                        }
                    }
                },
                Connection::Reading(reading) => match reading.next_line().await {
                    Ok(line) => {
                        let opened = reading.opened;
                        if let Some(event) = self.take(line, opened) {
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
    /// [`ClientError::Gone`], a reset as [`ClientError::TimelineReset`]; the next call goes on behind
    /// it.
    pub async fn next_frame(&mut self) -> Option<Result<Frame, ClientError>> {
        loop {
            match self.next().await? {
                Ok(StreamEvent::Frame(line)) => {
                    return Some(line.decode().map_err(|source| ClientError::Answer {
                        address: self.here.address().to_owned(),
                        source,
                    }));
                }
                Ok(StreamEvent::Gap { wanted, .. }) => {
                    return Some(Err(ClientError::Gone { wanted }));
                }
                Ok(StreamEvent::Reset { previous, timeline }) => {
                    return Some(Err(ClientError::TimelineReset { previous, timeline }));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The index up to which everything that matches has been handed out. Kept by a reader, it is
    /// where a later stream goes on: `From::Index(cursor.next())`, in the same
    /// [`timeline`](Self::timeline).
    pub fn cursor(&self) -> Option<Index> {
        match self.place {
            Place::Cursor(cursor) => Some(cursor),
            Place::Start | Place::Snapshot { .. } => None,
        }
    }

    /// The timeline that is followed, once an agent has said which it is. Kept beside the cursor and
    /// given as [`StreamRequest::timeline`], it lets a later stream notice that the timeline was reset.
    pub fn timeline(&self) -> Option<&str> {
        self.timeline.as_deref()
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
            // Only to see which timeline it is.
            _ if self.ahead.is_some() => From::Now,
            // Behind the gap.
            _ if self.gone.is_some() => From::Beginning,
            Place::Cursor(cursor) => From::Index(cursor.next()),
            Place::Start => self.request.from,
        }
    }

    async fn connect(&mut self) -> Result<Reading, ClientError> {
        let here = self.client.here();
        self.here = here.clone();
        let url = self.request.url(&here, self.start());
        let response = here.open(here.request(Method::GET, url)).await?;
        let (now, config) = (Instant::now(), here.config());
        Ok(Reading {
            response,
            here: here.clone(),
            cutter: LineCutter::new(config.line_bytes_max),
            opened: now,
            deadline: now + config.silence_max(),
        })
    }

    /// Takes a connection that was opened, unless it is one to another timeline than the place that
    /// was asked for belongs to: then the reader is told, and the next connection begins anew.
    fn opened(&mut self, reading: Reading) -> Option<Result<StreamEvent, ClientError>> {
        let named = timeline_of(reading.response.headers());
        let ahead = self.ahead.take();
        let asked_by_index = self.gone.is_some() || matches!(self.start(), From::Index(_));
        self.connection = Connection::Reading(Box::new(reading));
        self.proven = false;
        // An agent that names none is taken at its indexes, as Nomad is.
        let timeline = named.or_else(|| self.timeline.clone())?;
        let previous = self.timeline.replace(timeline.clone())?;
        if previous == timeline || !asked_by_index {
            // The same one: what was refused has not happened there yet.
            return ahead.map(|error| Ok(self.wait_out(error)));
        }
        self.in_vain.insert(self.here.address().to_owned());
        if self.in_vain.len() < self.client.addresses().len() && self.here.leave() {
            // The one that was followed may live on at another server: what one says is no reset.
            self.timeline = Some(previous.clone());
            let delay = backoff::up_to(self.client.config().retry_delay);
            let error = ClientError::TimelineReset { previous, timeline };
            return Some(Ok(self.wait(error, delay)));
        }
        tracing::warn!(previous, timeline, "the agent keeps another timeline now");
        if self.request.strict {
            self.connection = Connection::Over;
            return Some(Err(ClientError::TimelineReset { previous, timeline }));
        }
        self.connection = Connection::Connecting;
        self.gone = None;
        self.place = match self.request.from {
            From::Snapshot => Place::Snapshot { begun: false },
            _ => {
                self.request.from = From::Beginning;
                Place::Start
            }
        };
        Some(Ok(StreamEvent::Reset { previous, timeline }))
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
        if error.code() == Some(INDEX_AHEAD) && self.timeline.is_some() && self.ahead.is_none() {
            self.ahead = Some(error);
            self.connection = Connection::Connecting;
            return None;
        }
        if !error.is_transient() {
            self.connection = Connection::Over;
            return Some(Err(error));
        }
        Some(Ok(self.wait_out(error)))
    }

    /// Comes back later, and tells the reader.
    fn wait_out(&mut self, error: ClientError) -> StreamEvent {
        if self.place == (Place::Snapshot { begun: true }) {
            self.place = Place::Snapshot { begun: false };
            self.pending.push_back(StreamEvent::SnapshotRestart);
        }
        self.in_vain.insert(self.here.address().to_owned());
        // A server that is behind is one to leave, too: another may have what was asked for.
        let is_ahead = error.code() == Some(INDEX_AHEAD);
        let is_elsewhere = (is_ahead || error.is_of_the_server()) && self.here.leave();
        let delay = if is_elsewhere {
            backoff::up_to(self.client.config().retry_delay)
        } else {
            wait_before_retry(&mut self.backoff, &error)
        };
        self.wait(error, delay)
    }

    fn wait(&mut self, error: ClientError, delay: Duration) -> StreamEvent {
        self.lost = true;
        self.connection = Connection::Waiting {
            until: Instant::now() + delay,
        };
        StreamEvent::Reconnecting { error, delay }
    }

    /// Takes a line of a connection that was opened then, and gives what the reader is told of it.
    fn take(&mut self, line: Line, opened: Instant) -> Option<StreamEvent> {
        let before = self.place;
        let event = self.advance_by(line);
        let is_new = self.place != before && matches!(self.place, Place::Cursor(_));
        if is_new || opened.elapsed() >= CONNECTION_PROVEN {
            // The connection has proved itself: the next loss begins with a short wait again.
            self.backoff.reset();
            if !std::mem::replace(&mut self.proven, true) {
                self.in_vain.clear();
                self.here.worked(true);
            }
        }
        if !std::mem::take(&mut self.lost) {
            return event;
        }
        if let Some(event) = event {
            self.pending.push_front(event);
        }
        Some(StreamEvent::Connected)
    }

    /// Moves the cursor by what a line says.
    fn advance_by(&mut self, line: Line) -> Option<StreamEvent> {
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

/// The timeline that an answer is about.
fn timeline_of(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(TIMELINE_HEADER)?.to_str().ok()?;
    (!name.is_empty() && name.len() <= TIMELINE_BYTES_MAX).then(|| name.to_owned())
}

impl Reading {
    async fn next_line(&mut self) -> Result<Line, ClientError> {
        let limit = self.here.config().silence_max();
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
                .map_err(|error| self.here.transport_error(limit, error))?
                .ok_or(ClientError::Ended)?;
            self.cutter.push(&chunk);
            self.deadline = Instant::now() + limit;
        }
    }
}
