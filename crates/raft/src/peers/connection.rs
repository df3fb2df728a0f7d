use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{self, Instant},
};

use super::{
    frame::{
        Frame, FrameError, FrameWriter, Parts, READ_BUFFER_BYTES, read_frame, read_small_frame,
        write_frame,
    },
    me::Me,
    message::{Greeting, Refused, bytes_max, decode, encode, kind},
    room::Purse,
    tls,
    transport::PeerStream,
};
use crate::error::chain;

/// How long dialling and introducing each other may take.
pub(crate) const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Requests of one connection that wait for their answers.
const REQUESTS_MAX: usize = 1024;
/// Their bytes.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// A connection that has requests and on which nothing comes for so long is dead, whatever TCP says.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Requests are counted in units, so that a semaphore can hold their bytes.
const BUDGET_UNIT_BYTES: usize = 1 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The request has not left this server.
    #[error("not sent: {reason}")]
    NotSent { reason: Arc<str> },
    /// The other server does not talk to this one, or does not answer this.
    #[error("{}", .0.sentence)]
    Refused(Refused),
    /// What became of the request is not known.
    #[error("no answer: {reason}")]
    Lost { reason: Arc<str> },
}

impl CallError {
    pub fn not_sent(error: impl std::fmt::Display) -> CallError {
        CallError::NotSent {
            reason: error.to_string().into(),
        }
    }

    fn lost(error: impl std::fmt::Display) -> CallError {
        CallError::Lost {
            reason: error.to_string().into(),
        }
    }
}

/// A connection that this server has made: many requests at once, each answered under its number.
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU32,
    budget: Arc<Semaphore>,
    /// The newest version of the messages that both sides speak.
    version: u8,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

struct Outgoing {
    kind: u8,
    request: u32,
    parts: Parts,
}

/// The requests that wait.
struct Waiting {
    answers: BTreeMap<u32, oneshot::Sender<Frame>>,
    /// Why nothing more comes.
    ended: Option<Arc<str>>,
    /// When the last frame came, or a request after a pause went.
    heard: Instant,
    /// Since when something was asked and nothing at all has come, whether the question was given up
    /// meanwhile or not: signs of life are given up long before a connection counts as dead.
    silent_since: Option<Instant>,
}

/// An answer that is on its way. Dropped: nobody waits for it any more.
pub(crate) struct Answer {
    request: u32,
    received: oneshot::Receiver<Frame>,
    waiting: Arc<Mutex<Waiting>>,
    _budget: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
        end(&self.waiting, "the connection was closed".into());
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.waiting.lock().answers.remove(&self.request);
    }
}

impl Connection {
    /// Dials, and introduces both sides. What the other side says of itself comes along.
    pub async fn open(me: &Me, address: &str) -> Result<(Connection, Greeting), CallError> {
        let opened = time::timeout(HANDSHAKE_WAIT_MAX, shake_hands(me, address)).await;
        let (stream, greeting) = opened.unwrap_or_else(|_| {
            Err(CallError::not_sent(format_args!(
                "{address} did not answer within {} s",
                HANDSHAKE_WAIT_MAX.as_secs()
            )))
        })?;
        let PeerStream { reader, writer } = stream;
        let waiting = Arc::new(Mutex::new(Waiting {
            answers: BTreeMap::new(),
            ended: None,
            heard: Instant::now(),
            silent_since: None,
        }));
        let (outgoing, queue) = mpsc::channel(REQUESTS_MAX);
        let reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        let writer = FrameWriter::new(writer);
        let connection = Connection {
            outgoing,
            next: AtomicU32::new(1),
            budget: Arc::new(Semaphore::new(REQUEST_BYTES_MAX / BUDGET_UNIT_BYTES)),
            version: me.version_max.min(greeting.hello.version_max),
            writer: tokio::spawn(write_all(writer, queue, waiting.clone())),
            reader: tokio::spawn(read_all(reader, me.room.purse(), waiting.clone())),
            waiting,
        };
        Ok((connection, greeting))
    }

    /// Refuses to send what the other side cannot know.
    pub fn needs_version(&self, needed: u8) -> Result<(), CallError> {
        needs_version(self.version, needed).map_err(CallError::not_sent)
    }

    /// Whether a request can be sent.
    pub fn is_open(&self) -> bool {
        let waiting = self.waiting.lock();
        let silent_since = waiting.silent_since;
        let is_silent = silent_since.is_some_and(|since| since.elapsed() > SILENCE_MAX);
        waiting.ended.is_none() && !is_silent
    }

    /// How long nothing has been asked or answered.
    pub fn idle(&self) -> Duration {
        let waiting = self.waiting.lock();
        match waiting.answers.is_empty() {
            true => waiting.heard.elapsed(),
            false => Duration::ZERO,
        }
    }

    /// Sends a request, once there is room for its bytes among those that wait. Requests of one
    /// caller keep their order.
    pub async fn send(&self, kind: u8, parts: Parts) -> Result<Answer, CallError> {
        let budget = self.budget.clone();
        let permit = budget.acquire_many_owned(units(&parts)).await;
        self.send_with(kind, parts, permit.map_err(CallError::not_sent)?)
            .await
    }

    /// As [`Connection::send`]; `None` when there is no room now.
    pub async fn try_send(&self, kind: u8, parts: Parts) -> Option<Result<Answer, CallError>> {
        let budget = self.budget.clone();
        let permit = budget.try_acquire_many_owned(units(&parts)).ok()?;
        Some(self.send_with(kind, parts, permit).await)
    }

    async fn send_with(
        &self,
        kind: u8,
        parts: Parts,
        budget: OwnedSemaphorePermit,
    ) -> Result<Answer, CallError> {
        let place = self.outgoing.reserve().await;
        let place = place.map_err(|_| CallError::NotSent {
            reason: self.ended(),
        })?;
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, received) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if let Some(reason) = &waiting.ended {
                return Err(CallError::NotSent {
                    reason: reason.clone(),
                });
            }
            let now = Instant::now();
            if waiting.answers.is_empty() {
                waiting.heard = now;
            }
            waiting.silent_since.get_or_insert(now);
            waiting.answers.insert(request, answer);
        }
        place.send(Outgoing {
            kind,
            request,
            parts,
        });
        Ok(Answer {
            request,
            received,
            waiting: self.waiting.clone(),
            _budget: budget,
        })
    }

    /// Asks a question that is a message without bytes after it, and reads the answer.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        (kind, answer_kind): (u8, u8),
        question: &Q,
        wait_max: Duration,
    ) -> Result<A, CallError> {
        let body = encode(question).map_err(CallError::not_sent)?;
        let answer = self.send(kind, vec![body]).await?;
        answer.decoded(answer_kind, wait_max).await
    }

    fn ended(&self) -> Arc<str> {
        let waiting = self.waiting.lock();
        waiting.ended.clone().unwrap_or_else(|| "closing".into())
    }
}

/// A sentence when what two servers have in common is older than what something takes.
pub(crate) fn needs_version(common: u8, needed: u8) -> Result<(), String> {
    match common < needed {
        true => Err(format!(
            "it takes version {needed} of the peers' protocol and the two servers have {common} in \
             common: update the older one"
        )),
        false => Ok(()),
    }
}

fn units(parts: &[Bytes]) -> u32 {
    let bytes: usize = parts.iter().map(Bytes::len).sum();
    // a request that is larger than all the room goes alone
    bytes.min(REQUEST_BYTES_MAX).div_ceil(BUDGET_UNIT_BYTES) as u32
}

impl Answer {
    /// The answer, if it is what was asked for and comes within `wait_max`.
    pub async fn decoded<A: DeserializeOwned>(
        mut self,
        expected: u8,
        wait_max: Duration,
    ) -> Result<A, CallError> {
        let frame = match time::timeout(wait_max, &mut self.received).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) => {
                let ended = self.waiting.lock().ended.clone();
                let reason = ended.unwrap_or_else(|| "the connection was closed".into());
                return Err(CallError::Lost { reason });
            }
            Err(_) => {
                return Err(CallError::lost(format_args!(
                    "nothing came within {} ms",
                    wait_max.as_millis()
                )));
            }
        };
        match frame.kind {
            kind::REFUSED => {
                let refused = decode(&frame.body).map_err(CallError::lost)?;
                Err(CallError::Refused(refused))
            }
            found if found == expected => decode(&frame.body).map_err(CallError::lost),
            found => Err(CallError::lost(format_args!(
                "an answer of kind {found} came instead of {expected}"
            ))),
        }
    }
}

async fn shake_hands(me: &Me, address: &str) -> Result<(PeerStream, Greeting), CallError> {
    let mut stream = me.wire.dial(address).await.map_err(unreachable(address))?;
    let greeting = me.greeting().encode().map_err(CallError::not_sent)?;
    let (kind, body) = exchange(&mut stream, address, kind::HELLO, greeting).await?;
    match kind {
        kind::WELCOME => {
            let welcome = Greeting::decode(&body).map_err(CallError::not_sent)?;
            me.admit(&welcome).map_err(CallError::Refused)?;
            Ok((stream, welcome))
        }
        found => Err(strange_answer(address, found)),
    }
}

pub(crate) fn unreachable(address: &str) -> impl Fn(io::Error) -> CallError + '_ {
    move |error| {
        let reason = tls::reason(&error);
        CallError::not_sent(format_args!("{address} cannot be reached: {reason}"))
    }
}

pub(crate) fn strange_answer(address: &str, kind: u8) -> CallError {
    CallError::not_sent(format_args!(
        "{address} answered with a message of kind {kind}"
    ))
}

/// Says the first words on a connection, and hears the first answer.
pub(crate) async fn exchange(
    stream: &mut PeerStream,
    address: &str,
    kind: u8,
    body: Bytes,
) -> Result<(u8, Bytes), CallError> {
    let PeerStream { reader, writer } = stream;
    let said = write_frame(writer, kind, 0, &[body]).await;
    // Whoever does not take this server's certificate closes while it still speaks: what it said before
    // that is the better reason.
    let frame = match (read_small_frame(reader).await, said) {
        (Err(FrameError::Io(error)), Err(not_said)) if !tls::explains(&error) => {
            return Err(unreachable(address)(not_said));
        }
        (Ok(None), Err(not_said)) => return Err(unreachable(address)(not_said)),
        (answer, _) => answer,
    };
    let frame = match frame {
        Ok(Some(frame)) => frame,
        Ok(None) => {
            return Err(CallError::not_sent(format_args!(
                "{address} has closed the connection without a word"
            )));
        }
        Err(FrameError::Io(error)) => return Err(unreachable(address)(error)),
        Err(error) => {
            return Err(CallError::not_sent(format_args!(
                "{address} does not speak as a tidings server: {}",
                chain(&error)
            )));
        }
    };
    match frame.kind {
        kind::REFUSED => {
            let refused = decode(&frame.body).map_err(CallError::not_sent)?;
            Err(CallError::Refused(refused))
        }
        kind => Ok((kind, frame.body)),
    }
}

/// Writes what is to go, as much at once as there is.
async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: FrameWriter<W>,
    mut queue: mpsc::Receiver<Outgoing>,
    waiting: Arc<Mutex<Waiting>>,
) {
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let written = async {
            while let Some(out) = next {
                writer.push(out.kind, out.request, &out.parts).await?;
                next = queue.try_recv().ok();
            }
            writer.flush().await
        };
        if let Err(error) = written.await {
            end(&waiting, error.to_string().into());
            return;
        }
    }
}

/// Hands out the answers that come.
async fn read_all<R: AsyncRead + Unpin>(
    mut reader: BufReader<R>,
    purse: Purse,
    waiting: Arc<Mutex<Waiting>>,
) {
    loop {
        let reason = match read_frame(&mut reader, bytes_max, Some(&purse)).await {
            // not an answer: the last word before the other side closes
            Ok(Some(frame)) if frame.request == 0 && frame.kind == kind::REFUSED => {
                match decode::<Refused>(&frame.body) {
                    Ok(refused) => refused.sentence,
                    Err(error) => error.to_string(),
                }
            }
            Ok(Some(frame)) => {
                let now = Instant::now();
                let mut waiting = waiting.lock();
                waiting.heard = now;
                // whoever asked may have gone
                if let Some(answer) = waiting.answers.remove(&frame.request) {
                    let _ = answer.send(frame);
                }
                waiting.silent_since = (!waiting.answers.is_empty()).then_some(now);
                continue;
            }
            Ok(None) => "the other server has closed the connection".to_owned(),
            Err(error) => chain(&error as &FrameError),
        };
        end(&waiting, reason.into());
        return;
    }
}

fn end(waiting: &Mutex<Waiting>, reason: Arc<str>) {
    let mut waiting = waiting.lock();
    waiting.ended.get_or_insert(reason);
    waiting.answers.clear();
}
