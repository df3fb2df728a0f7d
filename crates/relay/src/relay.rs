use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use thiserror::Error;
use tidings_api::{
    Answer, FollowFrom, FollowRequest, Follower, ForwardAnswer, ForwardRequest, ProposeFailure,
    ServerChange, ServersFailure, Submitted, Timeline, TimelineStatus, Upstream, UpstreamFailure,
    UpstreamNumber,
};
use tidings_client::{
    Client, ClientError, ConfigError, EventStream, From, PassedRequest, StreamEvent, StreamRequest,
    Token,
};
use tidings_event::{DigestFilter, Index};
use tidings_spool::{NotTaken, Outbox, Reached, SpoolConfig, SpoolError};
use tidings_timeline::{
    Broker, BrokerConfig, Commands, HistoryError, HistoryRead, HistoryReader, Settings,
    StateMachine, StateView, TimelineId,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::config::RelayConfig;
use crate::follower::{Begun, Reader};
use crate::hub::{Hub, NoView, ViewKey, canonical};
use crate::report;
use crate::servers::{Servers, chain};

/// How long a reader waits for a server before it is told that there is none.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// What a publisher waits that comes faster than the disk.
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// How much longer than other requests a blocking query may take: the longest wait, and its jitter.
const BLOCKING_EXTRA: Duration = Duration::from_secs(11 * 60);

/// Why an agent without a timeline cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RelayError {
    /// Its spool cannot be used.
    #[error("the spool cannot be opened")]
    Spool(#[from] SpoolError),
    /// Servers cannot be asked.
    #[error("servers cannot be asked as configured")]
    Servers(#[from] ConfigError),
}

/// An agent without a timeline. A handle: clones are the same one.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) outbox: Outbox,
    pub(crate) servers: Servers,
    pub(crate) hub: Hub,
    newest: Arc<AtomicU64>,
    /// Readers that went on by a stream of their own, since the start.
    pub(crate) behind: Arc<AtomicU64>,
    broker: Arc<Broker>,
    empty: Arc<StateView>,
    applied: watch::Sender<Index>,
    stop: CancellationToken,
}

/// There is no history here.
struct NoHistory;

impl HistoryReader for NoHistory {
    fn oldest(&self) -> Index {
        Index::FIRST
    }

    fn newest(&self) -> Index {
        Index::ZERO
    }

    fn read(&self, _: Index, _: usize, _: &DigestFilter) -> Result<HistoryRead, HistoryError> {
        Err(HistoryError::Gap {
            oldest: Index::FIRST,
        })
    }
}

impl Relay {
    /// Opens the spool and begins to send what is in it. Servers need not be there.
    ///
    /// # Errors
    /// When the spool cannot be used. Nothing that was taken is lost by that.
    pub async fn start(config: RelayConfig) -> Result<Relay, RelayError> {
        let servers = Servers::new(&config)?;
        let stop = CancellationToken::new();
        if let Some(find) = &config.find {
            tokio::spawn(servers.clone().look(Arc::clone(find), stop.clone()));
        }
        let newest = Arc::new(AtomicU64::new(0));
        let outbox = Outbox::start(
            SpoolConfig {
                bytes_max: config.spool_bytes_max,
                answer_within: config.answer_within,
                ..SpoolConfig::new(config.spool_dir.clone())
            },
            servers.clone(),
            servers.reach().clone(),
            Arc::clone(&newest),
        )
        .await?;
        let hub = Hub::new(
            servers.clone(),
            config.upstreams_max,
            config.ring_bytes,
            Arc::clone(&newest),
            stop.clone(),
        );
        let broker = Broker::new(Arc::new(NoHistory), Index::ZERO, BrokerConfig::default());
        Ok(Relay {
            inner: Arc::new(Inner {
                outbox,
                servers,
                hub,
                newest,
                behind: Arc::new(AtomicU64::new(0)),
                broker,
                empty: StateMachine::new(Settings::default()).view(),
                applied: watch::Sender::new(Index::ZERO),
                stop,
            }),
        })
    }

    /// Ends what runs, and writes down how far the timeline is. What was taken stays in the spool.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.outbox.stop().await;
    }

    /// Shows the servers this secret from now on.
    ///
    /// # Errors
    /// When it cannot stand in a header: the old one is shown on.
    pub fn set_token(&self, token: Option<Token>) -> Result<(), ConfigError> {
        self.inner.servers.set_token(token)
    }

    /// What it waits for, as a sentence; `None` when a server is reached.
    pub fn waits_for(&self) -> Option<String> {
        match self.inner.servers.reach().now() {
            Reached::Lost(reason) => Some(format!("no server is reached: {reason}")),
            Reached::Unknown if self.inner.servers.client().is_none() => {
                Some(String::from("no server is known yet"))
            }
            _ => None,
        }
    }

    /// Whom it works with, as a sentence.
    pub fn company(&self) -> String {
        match self.inner.servers.client() {
            Some(client) => format!("relays to {}", client.address()),
            None => String::from("knows no server"),
        }
    }

    async fn follow_now(
        self,
        request: FollowRequest,
    ) -> Result<Box<dyn Follower>, UpstreamFailure> {
        let no_server = || UpstreamFailure::NoServer {
            reason: self.reason(),
        };
        let key = ViewKey {
            topics: canonical(&request.topics),
            namespace: request.namespace.clone(),
            expression: request.expression.clone(),
        };
        let hub = &self.inner.hub;
        let view = hub.view(key, &request.filter, OPEN_WAIT).await;
        let view = view.map_err(|error| match error {
            NoView::NotInTime => no_server(),
            NoView::Refused(refused) => refused,
        })?;
        let client = self.inner.servers.client().ok_or_else(no_server)?;
        let servers = self.inner.servers.clone();
        let behind = Arc::clone(&self.inner.behind);
        let mut asked = StreamRequest {
            topics: request.topics,
            namespace: request.namespace,
            from: From::Now,
            filter: request.expression,
            timeline: None,
            strict: request.strict,
        };
        let position = view.ring.lock().position();
        let at_ring = match request.from {
            // What a publisher was answered before is not news.
            FollowFrom::Now => Some(position.max(Index(self.inner.newest.load(Ordering::Relaxed)))),
            FollowFrom::At(index) if index <= position.next() => {
                let cursor = index.previous();
                view.ring.lock().meets(cursor).then_some(cursor)
            }
            _ => None,
        };
        if let Some(cursor) = at_ring {
            // Should it go on by a stream of its own, then in the same timeline.
            asked.timeline = hub.timeline();
            let reader = Reader::at_ring(view, servers, asked, cursor, behind);
            return Ok(Box::new(reader));
        }
        asked.from = match request.from {
            FollowFrom::Backlog => From::Backlog,
            FollowFrom::At(index) => From::Index(index),
            FollowFrom::Beginning => From::Beginning,
            FollowFrom::Now => From::Now,
            FollowFrom::Snapshot => From::Snapshot,
        };
        // With or-snapshot a gap has to be seen, whatever the reader says of it.
        asked.strict |= request.or_snapshot;
        let mut stream = client.stream(asked.clone());
        let opened = tokio::time::timeout(OPEN_WAIT, stream.open()).await;
        let opened = opened.map_err(|_| no_server())?;
        match opened {
            Ok(()) => {}
            Err(ClientError::Gone { .. }) if request.or_snapshot => {
                asked.from = From::Snapshot;
                stream = client.stream(asked.clone());
            }
            // As Nomad does: the newest there is.
            Err(error) if error.code() == Some("index_ahead") && !request.strict => {
                asked.from = From::Now;
                stream = client.stream(asked.clone());
            }
            Err(error) => return Err(failure(error, true)),
        }
        asked.strict = request.strict;
        asked.timeline = hub.timeline();
        // The first line says where the stream is; a snapshot has no place.
        let mut begun = Begun::default();
        if asked.from != From::Snapshot {
            let placed = tokio::time::timeout(OPEN_WAIT, begin(&mut stream)).await;
            begun = placed
                .map_err(|_| no_server())?
                .map_err(|error| error.map_or_else(no_server, |error| failure(error, true)))?;
            let (here, there) = (hub.timeline(), stream.timeline());
            if here.is_some() && there.is_some() && here.as_deref() != there {
                // It was begun anew just now: the reader comes again and sees.
                return Err(no_server());
            }
            if begun.first.is_none() && view.ring.lock().meets(begun.cursor) {
                let reader = Reader::at_ring(view, servers, asked, begun.cursor, behind);
                return Ok(Box::new(reader));
            }
        }
        let reader = Reader::on_stream(view, servers, asked, stream, begun, behind);
        Ok(Box::new(reader))
    }

    async fn forward_now(self, request: ForwardRequest) -> Result<ForwardAnswer, UpstreamFailure> {
        let client = self.client()?;
        let blocks = request.target.contains("index=");
        let reads = request.method == http::Method::GET || request.method == http::Method::HEAD;
        let passed = PassedRequest {
            method: request.method,
            target: request.target,
            headers: request.headers,
            body: request.body,
            extra: match blocks {
                true => BLOCKING_EXTRA,
                false => Duration::ZERO,
            },
        };
        let answer = client.pass(&passed).await;
        let answer = answer.map_err(|error| failure(error, reads))?;
        self.note_index(answer.headers());
        Ok(ForwardAnswer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.into_body().map_err(io::Error::other).boxed(),
        })
    }

    async fn stream_now(
        self,
        target: String,
        headers: HeaderMap,
        body: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<ForwardAnswer, UpstreamFailure> {
        let answer = self.client()?.pass_stream(&target, headers, body).await;
        // It may be sent again, whatever became of it.
        let answer = answer.map_err(|error| failure(error, true))?;
        Ok(ForwardAnswer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.into_body().map_err(io::Error::other).boxed(),
        })
    }

    fn client(&self) -> Result<Client, UpstreamFailure> {
        self.inner
            .servers
            .client()
            .ok_or_else(|| UpstreamFailure::NoServer {
                reason: self.reason(),
            })
    }

    fn reason(&self) -> String {
        match self.inner.servers.reach().now() {
            Reached::Lost(reason) => reason,
            _ => String::from("none has answered yet"),
        }
    }

    /// What an answer shows of the timeline.
    fn note_index(&self, headers: &HeaderMap) {
        let index = headers.get("x-tidings-index");
        let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
        self.inner
            .newest
            .fetch_max(index.unwrap_or(0), Ordering::Relaxed);
    }

    fn take(&self, group: &Commands) -> Result<Submitted, ProposeFailure> {
        let lines = group.transaction_lines();
        let lines = lines.ok_or(ProposeFailure::NoLeader)?;
        let taken = self.inner.outbox.take(lines);
        let answers = taken.map_err(|not_taken| match not_taken {
            NotTaken::Full { bytes, limit } => ProposeFailure::SpoolFull { bytes, limit },
            NotTaken::Failed { reason } => ProposeFailure::SpoolFailed { reason },
            NotTaken::Busy => ProposeFailure::Overloaded {
                retry_after: BUSY_RETRY,
            },
        })?;
        Ok(Box::pin(async move {
            let answers = answers.await.map_err(|_| ProposeFailure::Unknown)?;
            Ok(answers.into_iter().map(answer).collect())
        }))
    }
}

/// What the spool answers, for the HTTP surface.
fn answer(answer: tidings_spool::Answer) -> Answer {
    match answer {
        tidings_spool::Answer::Outcome(outcome) => Answer::Outcome(outcome),
        tidings_spool::Answer::Spooled => Answer::Spooled,
        tidings_spool::Answer::Refused { code, message } => Answer::Refused { code, message },
    }
}

/// Reads a stream up to where it says at which place it is.
async fn begin(stream: &mut EventStream) -> Result<Begun, Option<ClientError>> {
    loop {
        match stream.next().await.ok_or(None)?.map_err(Some)? {
            StreamEvent::Progress(cursor) => {
                return Ok(Begun {
                    cursor,
                    first: None,
                });
            }
            StreamEvent::Frame(line) => {
                return Ok(Begun {
                    cursor: line.index().previous(),
                    first: Some(StreamEvent::Frame(line)),
                });
            }
            // The timeline was begun anew just now: the reader comes again and sees.
            StreamEvent::Reset { .. } => return Err(None),
            _ => {}
        }
    }
}

/// What a failure of the client means to whoever asked.
pub(crate) fn failure(error: ClientError, reads: bool) -> UpstreamFailure {
    let last = error.last_try();
    if let ClientError::Refused {
        status,
        code,
        message,
        ..
    } = last
        && !last.is_transient()
    {
        return UpstreamFailure::Refused {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
            code: code.clone(),
            message: message.clone(),
        };
    }
    if let ClientError::Gone { wanted } = last {
        return UpstreamFailure::Refused {
            status: StatusCode::GONE,
            code: String::from("index_gone"),
            message: format!(
                "index {wanted} is no longer retained: start at the oldest or with from=snapshot"
            ),
        };
    }
    let reason = chain(&error);
    let certain = matches!(last, ClientError::Connect { .. })
        || matches!(
            error.code(),
            Some("no_leader" | "stopping" | "overloaded" | "disk_full")
        );
    match reads || certain {
        true => UpstreamFailure::NoServer { reason },
        false => UpstreamFailure::Unknown { reason },
    }
}

impl Timeline for Relay {
    fn submit(&self, group: Commands) -> BoxFuture<'static, Result<Submitted, ProposeFailure>> {
        // Its place in the order is taken now, not when it is asked for.
        let taken = self.take(&group);
        Box::pin(std::future::ready(taken))
    }

    fn state(&self) -> Arc<StateView> {
        let mut view = (*self.inner.empty).clone();
        let timeline = self.inner.hub.timeline();
        let timeline = timeline.and_then(|text| Ulid::from_string(&text).ok());
        view.timeline = timeline.map(|id| TimelineId(id.0));
        view.index = Index(self.inner.newest.load(Ordering::Relaxed));
        Arc::new(view)
    }

    fn broker(&self) -> Arc<Broker> {
        Arc::clone(&self.inner.broker)
    }

    fn applied(&self) -> watch::Receiver<Index> {
        self.inner.applied.subscribe()
    }

    fn has_leader(&self) -> bool {
        self.inner.servers.reach().now() == Reached::Yes
    }

    /// Reads are handed on, and servers answer how fresh they are.
    fn last_contact(&self) -> Option<Duration> {
        None
    }

    /// Handed on as well, before it comes here.
    fn change_servers(
        &self,
        _change: ServerChange,
    ) -> BoxFuture<'static, Result<(), ServersFailure>> {
        let sentence = "this agent holds no timeline: ask one of the servers that it is told of";
        let refused = ServersFailure::Refused(sentence.to_owned());
        Box::pin(std::future::ready(Err(refused)))
    }

    fn status(&self) -> TimelineStatus {
        let spool = self.inner.outbox.status();
        let not_ready = match spool.failed {
            Some(reason) => Some(format!("the spool cannot be written: {reason}")),
            None if spool.bytes >= spool.bytes_max => Some(String::from(
                "the spool is full: no server takes what this agent keeps",
            )),
            None => None,
        };
        TimelineStatus {
            role: String::from("agent"),
            newest: Index(self.inner.newest.load(Ordering::Relaxed)),
            not_ready,
            ..TimelineStatus::default()
        }
    }

    fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        Some(Arc::new(self.clone()))
    }
}

impl Upstream for Relay {
    fn follow(
        &self,
        request: FollowRequest,
    ) -> BoxFuture<'static, Result<Box<dyn Follower>, UpstreamFailure>> {
        Box::pin(self.clone().follow_now(request))
    }

    fn forward(
        &self,
        request: ForwardRequest,
    ) -> BoxFuture<'static, Result<ForwardAnswer, UpstreamFailure>> {
        Box::pin(self.clone().forward_now(request))
    }

    fn stream(
        &self,
        target: String,
        headers: HeaderMap,
        body: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'static, Result<ForwardAnswer, UpstreamFailure>> {
        Box::pin(self.clone().stream_now(target, headers, body))
    }

    fn sections(&self) -> Vec<(&'static str, Value)> {
        report::sections(&self.inner)
    }

    fn numbers(&self) -> Vec<UpstreamNumber> {
        report::numbers(&self.inner)
    }
}
