//! How a simulated agent speaks with servers: as `tidings-client` does over HTTP, many lines in flight
//! on one connection, and all that is not answered again on the next one, under the same numbers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidings_event::Index;
use tidings_host::net::dial;
use tidings_host::simulated::{Mutex, world};
use tidings_spool::{Answer, Answers, Ended, NoServer, Numbers, Sending, Upstream};
use tidings_timeline::Outcome;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{self, Instant};

use super::front;
use crate::trace::{Trace, note};

/// Lines that are sent and not answered, at most; as many wait to be.
const IN_FLIGHT_MAX: usize = 64;
// relay: src/servers.rs, src/upstream.rs
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Pause before the next server is asked, at most.
const RETRY_PAUSE_MILLIS_MAX: u64 = 300;

// client: src/error.rs
const PASSING_CODES: [&str; 5] = [
    "overloaded",
    "no_leader",
    "stopping",
    "disk_full",
    "outcome_unknown",
];

/// The names of the servers that an agent knows: it learns of those that come.
pub(crate) type Known = Arc<Mutex<Vec<String>>>;

/// The servers, as one agent knows them.
pub(crate) struct Uplink {
    agent: String,
    servers: Known,
    /// The one that is asked.
    at: Arc<AtomicUsize>,
    trace: Trace,
}

pub(crate) struct Lined(mpsc::Sender<Bytes>);

pub(crate) struct Answered {
    answers: mpsc::Receiver<Result<Answer, NoServer>>,
    task: JoinHandle<()>,
}

impl Uplink {
    pub fn new(agent: &str, servers: &Known, trace: &Trace) -> Self {
        Self {
            agent: agent.to_owned(),
            servers: servers.clone(),
            at: Arc::new(AtomicUsize::new(world::random() as usize)),
            trace: trace.clone(),
        }
    }
}

impl Upstream for Uplink {
    type Sending = Lined;
    type Answers = Answered;

    async fn send(&self, numbers: Numbers) -> (Lined, Answered) {
        let (lines, queue) = mpsc::channel(IN_FLIGHT_MAX);
        let (answer, answers) = mpsc::channel(IN_FLIGHT_MAX + 1);
        note!(
            self.trace,
            "{} sends from {} of {}",
            self.agent,
            numbers.first,
            numbers.epoch
        );
        let pipeline = Pipeline {
            agent: self.agent.clone(),
            servers: self.servers.clone(),
            at: self.at.clone(),
            numbers,
            queue,
            answers: answer,
            unanswered: VecDeque::new(),
            given_all: false,
        };
        let task = tokio::spawn(pipeline.run());
        (Lined(lines), Answered { answers, task })
    }
}

impl Sending for Lined {
    async fn take(&self, line: Bytes) -> Result<(), Ended> {
        self.0.send(line).await.map_err(|_| Ended)
    }
}

impl Answers for Answered {
    async fn next(&mut self) -> Option<Result<Answer, NoServer>> {
        self.answers.recv().await
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Pipeline {
    agent: String,
    servers: Known,
    at: Arc<AtomicUsize>,
    /// `first` is that of the oldest that is not answered.
    numbers: Numbers,
    queue: mpsc::Receiver<Bytes>,
    answers: mpsc::Sender<Result<Answer, NoServer>>,
    unanswered: VecDeque<Bytes>,
    given_all: bool,
}

impl Pipeline {
    async fn run(mut self) {
        let mut last_progress = Instant::now();
        loop {
            if self.unanswered.is_empty() {
                match self.queue.recv().await {
                    Some(line) => self.unanswered.push_back(line),
                    None => return,
                }
                last_progress = Instant::now();
            }
            let before = self.numbers.first;
            let at = self.at.load(Ordering::Relaxed);
            let server = {
                let servers = self.servers.lock();
                servers[at % servers.len()].clone()
            };
            let Err(error) = self.connection(&front::address_of(&server)).await else {
                continue;
            };
            if self.numbers.first > before {
                last_progress = Instant::now();
            }
            self.at.store(at.wrapping_add(1), Ordering::Relaxed);
            let pause = Duration::from_millis(world::random() % RETRY_PAUSE_MILLIS_MAX);
            if last_progress.elapsed() + pause > LOST_AFTER {
                let lost = NoServer {
                    reason: format!("{server}: {error}"),
                    passes: true,
                };
                let _ = self.answers.send(Err(lost)).await;
                return;
            }
            time::sleep(pause).await;
        }
    }

    /// Sends what is not answered and what comes, over one connection, until that ends.
    async fn connection(&mut self, to: &str) -> io::Result<()> {
        let dialled = time::timeout(CONNECT_TIMEOUT, dial(&self.agent, to));
        let stream = dialled.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let Numbers { id, epoch, first } = &self.numbers;
        let mut outgoing = format!("{id} {epoch} {first}\n").into_bytes();
        // How many of the unanswered are in `outgoing` or past it.
        let mut written = 0;
        let mut due = Instant::now() + ANSWER_TIMEOUT;
        loop {
            while written < self.unanswered.len() {
                outgoing.extend_from_slice(&self.unanswered[written]);
                outgoing.push(b'\n');
                written += 1;
            }
            if self.given_all && self.unanswered.is_empty() {
                return Ok(());
            }
            let room = self.unanswered.len() < IN_FLIGHT_MAX;
            tokio::select! {
                answer = next(&mut lines) => {
                    self.answered(&answer?).await?;
                    written -= 1;
                    due = Instant::now() + ANSWER_TIMEOUT;
                }
                sent = writer.write(&outgoing), if !outgoing.is_empty() => {
                    outgoing.drain(..sent?);
                }
                given = self.queue.recv(), if !self.given_all && room => match given {
                    Some(line) => {
                        if self.unanswered.is_empty() {
                            due = Instant::now() + ANSWER_TIMEOUT;
                        }
                        self.unanswered.push_back(line);
                    }
                    None => self.given_all = true,
                },
                () = time::sleep_until(due), if !self.unanswered.is_empty() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    /// Hands out the answer to the oldest.
    async fn answered(&mut self, text: &str) -> io::Result<()> {
        let answer = parse(text).ok_or_else(|| io::Error::other(format!("answered {text:?}")))?;
        if let Answer::Refused { code, .. } = &answer
            && PASSING_CODES.contains(&code.as_str())
        {
            // It has to be asked again, and those behind it after it: a new connection.
            return Err(io::Error::other(code.clone()));
        }
        if self.unanswered.pop_front().is_none() {
            return Err(io::Error::other("answered what nobody asked"));
        }
        self.numbers.first += 1;
        let _ = self.answers.send(Ok(answer)).await;
        Ok(())
    }
}

async fn next<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> io::Result<String> {
    let line = lines.next_line().await?;
    line.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn parse(text: &str) -> Option<Answer> {
    let (verdict, rest) = text.split_once(' ')?;
    let index = || rest.parse().ok().map(Index);
    match verdict {
        "taken" => Some(Answer::Outcome(Outcome::Published { index: index()? })),
        "had" => Some(Answer::Outcome(Outcome::Duplicate { index: index()? })),
        "refused" => {
            let (code, message) = rest.split_once(' ')?;
            Some(Answer::Refused {
                code: code.to_owned(),
                message: message.to_owned(),
            })
        }
        _ => None,
    }
}
