//! The bare broadcaster: what HTTP fan-out can reach when nothing is parsed,
//! filtered or stored. It takes and gives the same bytes as the agent.
//!
//! Published lines go into one encoded log in memory. Every subscriber is a
//! position in that log; what it is sent are shared slices of it.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Worker threads, as many as the agent has on two cores.
const WORKERS: usize = 2;
/// What a published line begins with, up to the payload.
const PAYLOAD_LABEL: &[u8] = br#""Payload":"#;
/// The longest line that is taken.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// How subscribers' bodies are cut into hyper frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All lines that came in together.
    Batch,
    /// Each line.
    Line,
}

type BodyStream = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

struct Batch {
    first: u64,
    bytes: Bytes,
}

/// The log: batches of whole lines.
struct Log {
    batches: RwLock<Vec<Batch>>,
    newest: watch::Sender<u64>,
    /// What makes a line as long as it is asked to be.
    padding: String,
}

impl Log {
    fn new(line_bytes: usize) -> Self {
        let mut log = Self {
            batches: RwLock::default(),
            newest: watch::Sender::new(0),
            padding: String::new(),
        };
        let mut line = Vec::new();
        log.put_line(&mut line, 1_000_000, &sample_line());
        log.padding = "s".repeat(line_bytes.saturating_sub(line.len()));
        log
    }

    /// Appends the line of one event.
    fn put_line(&self, out: &mut Vec<u8>, index: u64, published: &[u8]) {
        let payload = memchr::memmem::find(published, PAYLOAD_LABEL).unwrap_or(1);
        write!(out, r#"{{"Index":{index},"Events":[{{"Index":{index},"#)
            .expect("a Vec takes all that is written");
        out.extend_from_slice(&published[1..payload]);
        write!(
            out,
            r#""Namespace":"default","FilterKeys":null,"Id":"01JD9Z6K3V0000000000000000","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"api{}","#,
            self.padding
        )
        .expect("a Vec takes all that is written");
        out.extend_from_slice(&published[payload..]);
        out.extend_from_slice(b"]}\n");
    }

    /// Appends published lines; gives the answers.
    fn append(&self, published: &[u8]) -> Bytes {
        let mut answers = Vec::new();
        let mut batches = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        let first = *self.newest.borrow() + 1;
        let mut index = first;
        let mut bytes = Vec::with_capacity(published.len() * 2);
        for line in published.split_inclusive(|byte| *byte == b'\n') {
            self.put_line(&mut bytes, index, line.trim_ascii_end());
            writeln!(answers, r#"{{"Index":{index}}}"#).expect("a Vec takes all that is written");
            index += 1;
        }
        if index > first {
            batches.push(Batch {
                first,
                bytes: bytes.into(),
            });
            drop(batches);
            self.newest.send_replace(index - 1);
        }
        answers.into()
    }

    /// The batch with the line `index`, from that line on, and the number of
    /// the next batch.
    fn seek(&self, index: u64) -> (Option<Bytes>, usize) {
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        let next = batches.partition_point(|batch| batch.first <= index);
        let Some(batch) = next.checked_sub(1).and_then(|at| batches.get(at)) else {
            return (None, next);
        };
        let skip = (index - batch.first) as usize;
        let from = if skip == 0 {
            0
        } else {
            memchr::memchr_iter(b'\n', &batch.bytes)
                .nth(skip - 1)
                .map_or(batch.bytes.len(), |end| end + 1)
        };
        let rest = batch.bytes.slice(from..);
        (Some(rest).filter(|rest| !rest.is_empty()), next)
    }

    fn batch(&self, number: usize) -> Option<Bytes> {
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        batches.get(number).map(|batch| batch.bytes.clone())
    }
}

fn sample_line() -> Vec<u8> {
    let mut line = br#"{"Topic":"Bench","Type":"Published","Key":"k0001","Payload":"#.to_vec();
    line.extend_from_slice(crate::payload::Payload::new().stamp(0, 0));
    line.push(b'}');
    line
}

/// A subscriber: a position in the log.
struct Cursor {
    log: Arc<Log>,
    newest: watch::Receiver<u64>,
    next: usize,
    /// What is left of a batch that goes out line by line, or of the first.
    rest: Option<Bytes>,
    cut: Cut,
}

impl Cursor {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let pending = match self.rest.take() {
                Some(rest) => Some(rest),
                None => {
                    self.newest.borrow_and_update();
                    let batch = self.log.batch(self.next);
                    self.next += usize::from(batch.is_some());
                    batch
                }
            };
            let Some(mut bytes) = pending else {
                self.newest.changed().await.ok()?;
                continue;
            };
            if self.cut == Cut::Batch {
                return Some(bytes);
            }
            let end = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |end| end + 1);
            let line = bytes.split_to(end);
            self.rest = Some(bytes).filter(|bytes| !bytes.is_empty());
            return Some(line);
        }
    }
}

/// Runs until it is killed.
///
/// # Errors
///
/// It cannot listen, or cannot write its address to `address_file`.
pub fn run(cut: Cut, line_bytes: usize, address_file: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .context("listen on a free port")?;
        let address = listener.local_addr()?;
        std::fs::write(address_file, address.to_string())
            .with_context(|| format!("write {}", address_file.display()))?;
        let log = Arc::new(Log::new(line_bytes));
        loop {
            let (socket, _) = listener.accept().await.context("accept")?;
            socket.set_nodelay(true)?;
            let log = log.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, log.clone(), cut));
                // The other side ends connections; that is no failure.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<Log>,
    cut: Cut,
) -> Result<Response<StreamBody<BodyStream>>, Infallible> {
    let body: BodyStream = if request.method() == Method::POST {
        let state = (request.into_body(), log, Vec::new());
        Box::pin(unfold(state, async |(mut body, log, mut partial)| {
            let answers = next_answers(&mut body, &log, &mut partial).await?;
            Some((Ok(Frame::data(answers)), (body, log, partial)))
        }))
    } else {
        let newest = log.newest.subscribe();
        let index = index_asked_for(request.uri().query().unwrap_or_default());
        let (rest, next) = match index {
            Some(index) => log.seek(index),
            None => (None, 0),
        };
        let cursor = Cursor {
            log,
            newest,
            next,
            rest,
            cut,
        };
        Box::pin(unfold(cursor, async |mut cursor| {
            let bytes = cursor.next().await?;
            Some((Ok(Frame::data(bytes)), cursor))
        }))
    };
    Ok(Response::new(StreamBody::new(body)))
}

/// The index to begin with; `None` is the beginning.
fn index_asked_for(query: &str) -> Option<u64> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("index="))
        .and_then(|index| index.parse().ok())
}

/// Reads until there is a whole line, appends all whole lines to the log.
async fn next_answers(body: &mut Incoming, log: &Log, partial: &mut Vec<u8>) -> Option<Bytes> {
    loop {
        let data = body.frame().await?.ok()?.into_data().ok()?;
        let Some(end) = memchr::memrchr(b'\n', &data) else {
            partial.extend_from_slice(&data);
            if partial.len() > LINE_BYTES_MAX {
                return None;
            }
            continue;
        };
        let (whole, rest) = data.split_at(end + 1);
        let answers = if partial.is_empty() {
            log.append(whole)
        } else {
            partial.extend_from_slice(whole);
            log.append(partial)
        };
        partial.clear();
        partial.extend_from_slice(rest);
        return Some(answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_and_as_long_as_asked() {
        let log = Log::new(700);
        let mut published = sample_line();
        published.push(b'\n');
        log.newest.send_replace(999_999);
        assert_eq!(&log.append(&published)[..], b"{\"Index\":1000000}\n");
        let line = log.batch(0).unwrap();
        assert_eq!(line.len(), 700);
        let frame: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(frame["Events"][0]["Key"], "k0001");
        assert_eq!(frame["Events"][0]["Index"], 1_000_000);
    }

    #[test]
    fn a_subscriber_begins_with_the_line_it_asked_for() {
        let log = Log::new(0);
        let mut published = sample_line();
        published.push(b'\n');
        log.append(&published.repeat(3));
        log.append(&published.repeat(2));
        for (index, first, next) in [(1, "1,", 1), (3, "3,", 1), (4, "4,", 2), (5, "5,", 2)] {
            let (rest, found) = log.seek(index);
            let rest = String::from_utf8(rest.unwrap().to_vec()).unwrap();
            assert!(rest.starts_with(&format!("{{\"Index\":{first}")), "{index}");
            assert_eq!(found, next);
        }
        assert_eq!(log.seek(6), (None, 2));
        assert_eq!(index_asked_for("from=x&index=7"), Some(7));
        assert_eq!(index_asked_for("from=beginning"), None);
    }
}
