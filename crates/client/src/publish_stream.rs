//! Many transactions in flight on one connection, acknowledged in the order they were given.
//!
//! ```text
//!  TransactionSender ──▶ queue ──▶ ┌──────── the task ────────┐ ──▶ request body (ndjson)
//!    waits while too much          │ unacknowledged, in order │
//!    is in flight                  └──────────────────────────┘ ◀── answer lines
//!  Acknowledgements ◀──────────────────────────┘
//! ```
//!
//! When the connection breaks, everything unacknowledged is sent again on the next one, in order.
//! What had arrived already is told as a duplicate with the index it got, because every event bears
//! an id.
//!
//! The same happens when one of them is refused for the moment (too much at once, no room): nothing
//! more is sent behind it, and all from it on is sent again. What was under way behind it may have
//! been recorded, and keeps its place: the one that was refused then stands behind it on the timeline.
//! Whoever cannot bear that lets only one be in flight.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method, Response};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::{self, Backoff};
use crate::client::{Client, Here, RefusalFacts};
use crate::error::{ClientError, Tried, is_transient_code};
use crate::lines::LineCutter;
use crate::publish::{Published, wait_before_retry};
use crate::transaction::Transaction;

/// Bytes of lines that are joined to one chunk of the request body.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that wait for the connection. The rest waits in order before them.
const CHUNKS_WAITING: usize = 4;

/// Longest answer line: an index, or a sentence.
const ANSWER_LINE_BYTES_MAX: usize = 64 * 1024;

/// Limits of a pipelined publisher.
#[derive(Clone, Debug)]
pub struct PublishStreamConfig {
    /// Transactions given and not yet acknowledged, at most.
    pub in_flight_max: usize,
    /// Bytes of those; one transaction is always let through.
    pub in_flight_bytes_max: usize,
    /// How long it is tried again without a single acknowledgement.
    pub retry_time: Duration,
    /// Numbers the transactions, so that the timeline takes each of them once and in order whatever
    /// ids they bear. For programs that keep what they send on a disk of their own.
    pub sender: Option<SenderNumbers>,
}

/// The name and the numbers under which a publisher sends. The timeline remembers the last number of
/// each sender and takes nothing at or below it twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderNumbers {
    /// Whose numbers these are: a ULID.
    pub id: String,
    /// The count that the numbers belong to; a later count has a greater epoch, and begins with 1.
    pub epoch: u64,
    /// The number of the first transaction; each further one has the next.
    pub first: u64,
}

/// Bears a sender's id, epoch and the number of the request's first transaction.
const SENDER_HEADER: &str = "x-tidings-sender";

impl Default for PublishStreamConfig {
    fn default() -> Self {
        Self {
            in_flight_max: 4096,
            in_flight_bytes_max: 8 << 20,
            retry_time: Duration::from_secs(60),
            sender: None,
        }
    }
}

/// The answer to one transaction.
#[derive(Debug)]
pub struct Acknowledgement {
    /// Which one: counted from 0 in the order they were given.
    pub sequence: u64,
    /// Where it stands on the timeline, or why it does not.
    pub outcome: Result<Published, Refused>,
}

/// Why the agent did not take one transaction. Those after it are not concerned.
#[derive(Clone, Debug, Error)]
#[error("{message} ({code})")]
pub struct Refused {
    /// Stable code.
    pub code: String,
    /// The agent's sentence.
    pub message: String,
}

/// Nothing more is taken: the publisher has failed, and [`Acknowledgements::next`] says why.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the publisher takes no more transactions")]
pub struct StreamClosed;

/// Takes transactions. Dropping it lets the publisher finish.
#[derive(Debug)]
pub struct TransactionSender {
    queue: mpsc::Sender<InFlight>,
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

/// Gives the answers, in order. Dropping it stops the publisher.
#[derive(Debug)]
pub struct Acknowledgements {
    answers: mpsc::Receiver<Result<Acknowledgement, ClientError>>,
    task: JoinHandle<()>,
}

/// A transaction that is not acknowledged, with its share of the limits.
#[derive(Debug)]
struct InFlight {
    line: Bytes,
    _slot: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Client {
    /// Opens a pipelined publisher. Must be called inside a tokio runtime.
    pub fn publish_stream(
        &self,
        config: PublishStreamConfig,
    ) -> (TransactionSender, Acknowledgements) {
        let slots_max = config.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let bytes_max = config
            .in_flight_bytes_max
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        // Never full: a slot is held by everything that is in them.
        let (queue, taken) = mpsc::channel(slots_max);
        let (answer, answers) = mpsc::channel(slots_max + 1);
        let pipeline = Pipeline {
            client: self.clone(),
            retry_time: config.retry_time,
            sender: config.sender,
            queue: taken,
            answers: answer,
            unacknowledged: VecDeque::new(),
            sequence: 0,
            given_all: false,
        };
        let sender = TransactionSender {
            queue,
            slots: Arc::new(Semaphore::new(slots_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        };
        let task = tokio::spawn(pipeline.run());
        (sender, Acknowledgements { answers, task })
    }
}

impl TransactionSender {
    /// Gives a transaction to the publisher; waits while too much is in flight.
    ///
    /// # Errors
    /// [`StreamClosed`] when the publisher has failed or its [`Acknowledgements`] are gone.
    pub async fn send(&self, transaction: Transaction) -> Result<(), StreamClosed> {
        let line = transaction.line().clone();
        let share = (line.len() + 1).min(self.bytes_max) as u32;
        // The queue closes when the task ends, the semaphores do not: whoever waits here must be
        // woken by either.
        let admitted = async {
            let slot = self.slots.clone().acquire_owned().await.ok()?;
            let bytes = self.bytes.clone().acquire_many_owned(share).await.ok()?;
            Some((slot, bytes))
        };
        let (slot, bytes) = tokio::select! {
            admitted = admitted => admitted.ok_or(StreamClosed)?,
            () = self.queue.closed() => return Err(StreamClosed),
        };
        let in_flight = InFlight {
            line,
            _slot: slot,
            _bytes: bytes,
        };
        self.queue.send(in_flight).await.map_err(|_| StreamClosed)
    }
}

impl Acknowledgements {
    /// The next answer. `None` when everything that was given is answered and the sender is gone,
    /// or after an error.
    ///
    /// # Errors
    /// Why the publisher stopped. Transactions without an answer may or may not have happened; to
    /// give the same ones (with their ids) again is safe.
    pub async fn next(&mut self) -> Option<Result<Acknowledgement, ClientError>> {
        self.answers.recv().await
    }
}

impl Drop for Acknowledgements {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Pipeline {
    client: Client,
    retry_time: Duration,
    sender: Option<SenderNumbers>,
    queue: mpsc::Receiver<InFlight>,
    answers: mpsc::Sender<Result<Acknowledgement, ClientError>>,
    /// Sent or to be sent, oldest first.
    unacknowledged: VecDeque<InFlight>,
    /// Number of the oldest unacknowledged transaction.
    sequence: u64,
    /// The sender is gone: nothing more will come.
    given_all: bool,
}

/// One answer line.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnswerLine {
    Refused {
        #[serde(rename = "Error")]
        error: RefusalFacts,
    },
    Published(Published),
}

impl Pipeline {
    async fn run(mut self) {
        let config = self.client.config().clone();
        let mut backoff = Backoff::new(config.retry_delay, config.retry_delay_max);
        let mut tries = 0;
        let mut tried = Tried::default();
        let mut last_progress = Instant::now();
        loop {
            if self.unacknowledged.is_empty() {
                match self.queue.recv().await {
                    Some(first) => self.unacknowledged.push_back(first),
                    None => return,
                }
                last_progress = Instant::now();
            }
            let acknowledged = self.sequence;
            let here = self.client.here();
            let Err(error) = self.connection(&here).await else {
                // Answered in full and ended by us, or ended politely by the agent between two
                // answers; what is left goes onto the next connection.
                continue;
            };
            if self.unacknowledged.is_empty() {
                // Lost while idle: nothing is owed, and the next transaction brings a new one.
                continue;
            }
            if self.sequence > acknowledged {
                backoff.reset();
                tries = 0;
                tried = Tried::default();
                last_progress = Instant::now();
            }
            tries += 1;
            tried.note(here.address(), &error);
            let delay = if here.failed(&error) {
                backoff::up_to(config.retry_delay)
            } else {
                wait_before_retry(&mut backoff, &error)
            };
            let spent = last_progress.elapsed();
            let failure = if !error.is_transient() {
                error
            } else if spent + delay > self.retry_time {
                ClientError::GaveUp {
                    tries,
                    spent,
                    last: Box::new(tried.into_error(error)),
                }
            } else {
                tracing::debug!(?delay, unacknowledged = self.unacknowledged.len(), %error, "publishing goes on over a new connection");
                tokio::time::sleep(delay).await;
                continue;
            };
            // Nobody listening any more is as good an end as being heard.
            let _ = self.answers.send(Err(failure)).await;
            return;
        }
    }

    /// Sends what is unacknowledged and what comes, over one connection, until that ends.
    async fn connection(&mut self, here: &Here) -> Result<(), ClientError> {
        let (chunks, body) = mpsc::channel::<Bytes>(CHUNKS_WAITING);
        let body = futures_util::stream::unfold(body, |mut body| async move {
            let chunk = body.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), body))
        });
        let mut request = here
            .request(Method::POST, here.url(&["v1", "events"], &[]))
            .header(CONTENT_TYPE, "application/x-ndjson");
        if let Some(SenderNumbers { id, epoch, first }) = &self.sender {
            let first = first + self.sequence;
            request = request.header(SENDER_HEADER, format!("{id} {epoch} {first}"));
        }
        let request = request.body(Body::wrap_stream(body));
        // An agent may send the head of its answer only with the first answer line, so lines have
        // to flow before the head is there.
        let opening = here.open(request);
        tokio::pin!(opening);

        let mut chunks = Some(chunks);
        let mut outgoing = BytesMut::new();
        // How many of the unacknowledged are in `outgoing` or past it.
        let mut written = 0;
        let mut answers: Option<Answers> = None;
        let patience = here.config().request_timeout;
        let mut answer_due = Instant::now() + patience;
        loop {
            while outgoing.len() < CHUNK_BYTES && written < self.unacknowledged.len() {
                outgoing.extend_from_slice(&self.unacknowledged[written].line);
                outgoing.extend_from_slice(b"\n");
                written += 1;
            }
            if self.given_all && outgoing.is_empty() {
                // The end of the body tells the agent that nothing more comes.
                chunks = None;
                if self.unacknowledged.is_empty() {
                    return Ok(());
                }
            }
            tokio::select! {
                biased;
                opened = &mut opening, if answers.is_none() => {
                    answers = Some(Answers::new(opened?));
                }
                line = next_answer(&mut answers, here), if answers.is_some() => {
                    match line? {
                        Some(line) => {
                            self.acknowledge(&line, here).await?;
                            here.worked(true);
                            written = written.saturating_sub(1);
                            answer_due = Instant::now() + patience;
                        }
                        None if self.unacknowledged.is_empty() => return Ok(()),
                        None => return Err(ClientError::Ended),
                    }
                }
                permit = reserve(&chunks), if !outgoing.is_empty() => {
                    match permit {
                        Some(permit) => permit.send(outgoing.split().freeze()),
                        // The connection dropped its body; the answers say why.
                        None => outgoing.clear(),
                    }
                }
                given = self.queue.recv(), if !self.given_all && outgoing.len() < CHUNK_BYTES => {
                    match given {
                        Some(given) => {
                            if self.unacknowledged.is_empty() {
                                answer_due = Instant::now() + patience;
                            }
                            self.unacknowledged.push_back(given);
                        }
                        None => self.given_all = true,
                    }
                }
                () = tokio::time::sleep_until(answer_due), if !self.unacknowledged.is_empty() => {
                    return Err(ClientError::TimedOut {
                        address: here.address().to_owned(),
                        limit: patience,
                    });
                }
            }
        }
    }

    /// Hands out the answer to the oldest transaction.
    async fn acknowledge(&mut self, line: &[u8], here: &Here) -> Result<(), ClientError> {
        let outcome = match here.decode::<AnswerLine>(line)? {
            AnswerLine::Published(published) => Ok(published),
            AnswerLine::Refused { error } if is_transient_code(&error.code) => {
                // It has to be asked again, and those behind it after it: a new connection.
                return Err(ClientError::Refused {
                    status: 503,
                    code: error.code,
                    message: error.message,
                    retry_after: None,
                });
            }
            AnswerLine::Refused { error } => Err(Refused {
                code: error.code,
                message: error.message,
            }),
        };
        // An answer to nothing changes nothing.
        if self.unacknowledged.pop_front().is_some() {
            let sequence = self.sequence;
            self.sequence += 1;
            let answer = Acknowledgement { sequence, outcome };
            let _ = self.answers.send(Ok(answer)).await;
        }
        Ok(())
    }
}

/// The answering half of a connection.
struct Answers {
    response: Response,
    cutter: LineCutter,
}

impl Answers {
    fn new(response: Response) -> Self {
        Self {
            response,
            cutter: LineCutter::new(ANSWER_LINE_BYTES_MAX),
        }
    }
}

/// The next answer line; `None` at the end. Loses nothing when dropped while it waits.
async fn next_answer(
    answers: &mut Option<Answers>,
    here: &Here,
) -> Result<Option<Bytes>, ClientError> {
    let Some(answers) = answers else {
        return std::future::pending().await;
    };
    loop {
        let line = answers.cutter.next_line();
        let line = line.map_err(|long| ClientError::LineTooLong { limit: long.limit })?;
        if line.is_some() {
            return Ok(line);
        }
        let limit = here.config().request_timeout;
        let chunk = answers.response.chunk().await;
        match chunk.map_err(|error| here.transport_error(limit, error))? {
            Some(chunk) => answers.cutter.push(&chunk),
            None => return Ok(None),
        }
    }
}

/// Waits for room in the request body; `None` when the body is closed.
async fn reserve(chunks: &Option<mpsc::Sender<Bytes>>) -> Option<mpsc::Permit<'_, Bytes>> {
    chunks.as_ref()?.reserve().await.ok()
}
