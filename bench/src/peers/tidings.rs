//! Tidings over its HTTP API: an ndjson request whose answers stream back,
//! and the chunked ndjson event stream.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Publisher, Start, Subscriber, key_name};
use crate::payload::{Deliveries, PAYLOAD_BYTES, PAYLOAD_START};
use crate::process::Server;
use crate::protocol::{Chunked, Lines, Piece, ProtocolError, decimal};

const INDEX_LABEL: &[u8] = br#"{"Index":"#;
const ERROR_LABEL: &[u8] = br#"{"Error""#;
/// How long an answer that needs no disk may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Behind the payload of a frame with one event.
const LINE_END: &[u8] = b"}]}\n";

/// Starts the agent alone.
pub fn start(program: &Path, folder: &Path) -> Result<(Server, SocketAddr)> {
    let (mut server, listening) = launch(program, folder, &["--dev".into()])?;
    server.await_listening(listening.http)?;
    Ok((server, listening.http))
}

/// Starts an agent with these arguments beside its address and its folder; it tells where it
/// listens in `listening.json`.
pub fn launch(
    program: &Path,
    folder: &Path,
    arguments: &[OsString],
) -> Result<(Server, Listening)> {
    let data = folder.join("data");
    let mut all: Vec<OsString> = vec![
        "agent".into(),
        "--http".into(),
        "127.0.0.1:0".into(),
        "--data-dir".into(),
        data.clone().into(),
    ];
    all.extend_from_slice(arguments);
    let mut server = Server::start("tidings", program, &all, folder)?;
    let file = data.join("listening.json");
    let listening = server.await_ready(|| Listening::read(&fs::read_to_string(&file).ok()?))?;
    Ok((server, listening))
}

/// Where an agent listens.
#[derive(Debug, PartialEq, Eq)]
pub struct Listening {
    /// For clients.
    pub http: SocketAddr,
    /// For other servers.
    pub peer: Option<SocketAddr>,
}

impl Listening {
    fn read(text: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let address = |name: &str| value.get(name)?.as_str()?.parse().ok();
        Some(Self {
            http: address("http")?,
            peer: address("peer"),
        })
    }
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Whether it leads.
    pub leads: bool,
    /// The newest frame that it has.
    pub newest: u64,
    /// Bytes of the history.
    pub history_bytes: u64,
    /// Streams that it serves.
    pub streams: u64,
}

impl NodeStatus {
    /// Asks the server at this address.
    ///
    /// # Errors
    ///
    /// It does not answer, or something else answers.
    pub fn ask(address: SocketAddr) -> Result<Self> {
        let status = get(address, "/v1/status")?;
        let number = |pointer: &str| {
            let number = status.pointer(pointer).and_then(serde_json::Value::as_u64);
            number.with_context(|| format!("no number {pointer} in {status}"))
        };
        Ok(Self {
            leads: status["Role"] == "leader",
            newest: number("/Timeline/Newest")?,
            history_bytes: number("/Storage/HistoryBytes")?,
            streams: number("/Http/Streams")?,
        })
    }
}

/// The JSON that one request gets.
///
/// # Errors
///
/// Nobody answers, or not with success.
pub fn get(address: SocketAddr, path: &str) -> Result<serde_json::Value> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    // 1.0: the answer is not cut into chunks.
    write!(socket, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer has a head")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path} was answered {answer}");
    }
    Ok(serde_json::from_str(body)?)
}

/// Appends one chunk of a request body.
fn put_chunk(out: &mut Vec<u8>, body: &[u8]) {
    write!(out, "{:x}\r\n", body.len()).expect("a Vec takes all that is written");
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// One `POST /v1/events` that never ends.
pub struct TidingsPublisher {
    address: SocketAddr,
    group: Vec<u8>,
    answer: Chunked,
    lines: Lines,
    acked: u64,
    index: u64,
}

impl TidingsPublisher {
    /// For a connection to `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            group: Vec::new(),
            answer: Chunked::new(),
            lines: Lines::default(),
            acked: 0,
            index: 0,
        }
    }
}

impl Publisher for TidingsPublisher {
    fn open(&mut self, out: &mut Vec<u8>) {
        write!(
            out,
            "POST /v1/events HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            self.address
        )
        .expect("a Vec takes all that is written");
    }

    /// The server may wait for the first event before it answers at all.
    fn is_ready(&self) -> bool {
        true
    }

    fn publish(&mut self, key: u64, payload: &[u8; PAYLOAD_BYTES], _out: &mut Vec<u8>) {
        write!(
            self.group,
            r#"{{"Topic":"Bench","Type":"Published","Key":"k{key:04}","Payload":"#
        )
        .expect("a Vec takes all that is written");
        self.group.extend_from_slice(payload);
        self.group.extend_from_slice(b"}\n");
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.group.is_empty() {
            put_chunk(out, &self.group);
            self.group.clear();
        }
    }

    fn receive(&mut self, data: &[u8], _out: &mut Vec<u8>) -> Result<usize, ProtocolError> {
        let mut at = 0;
        loop {
            match self.answer.next(data, &mut at)? {
                Piece::Wait => return Ok(at),
                Piece::Passed => {}
                Piece::Body(piece) => {
                    let (acked, index) = (&mut self.acked, &mut self.index);
                    self.lines.cut(piece, |line| {
                        *index = answered_index(line)?;
                        *acked += 1;
                        Ok(())
                    })?;
                }
            }
        }
    }

    fn acked(&self) -> u64 {
        self.acked
    }

    fn position(&self) -> String {
        self.index.to_string()
    }
}

/// The index in `{"Index":7}`.
fn answered_index(line: &[u8]) -> Result<u64, ProtocolError> {
    if line.starts_with(ERROR_LABEL) {
        return Err(ProtocolError::refused(line));
    }
    line.strip_prefix(INDEX_LABEL)
        .and_then(|rest| rest.strip_suffix(b"}\n"))
        .and_then(decimal)
        .ok_or_else(|| ProtocolError::unexpected("an answer with an index", line))
}

/// One `GET /v1/event/stream`.
pub struct TidingsSubscriber {
    address: SocketAddr,
    query: String,
    answer: Chunked,
    lines: Lines,
    order: IndexOrder,
}

/// What the indexes of the lines have to be.
enum IndexOrder {
    /// Without a filter: each is one more than the one before it.
    Contiguous { last: Option<u64> },
    /// With a filter there are gaps; the payloads' sequence shows the order.
    Filtered,
}

impl TidingsSubscriber {
    /// For a connection to `address`.
    pub fn new(address: SocketAddr, start: &Start, key: Option<u64>) -> Self {
        let mut query = match start {
            Start::Beginning => "from=beginning".to_owned(),
            // The parameter is inclusive.
            Start::After(index) => {
                let next = index.parse::<u64>().map_or(1, |index| index + 1);
                format!("index={next}")
            }
        };
        if let Some(key) = key {
            query.push_str("&topic=Bench:");
            query.push_str(&key_name(key));
        }
        Self {
            address,
            query,
            answer: Chunked::new(),
            lines: Lines::default(),
            order: match key {
                Some(_) => IndexOrder::Filtered,
                None => IndexOrder::Contiguous { last: None },
            },
        }
    }
}

impl Subscriber for TidingsSubscriber {
    fn open(&mut self, out: &mut Vec<u8>) {
        write!(
            out,
            "GET /v1/event/stream?{} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.query, self.address
        )
        .expect("a Vec takes all that is written");
    }

    fn is_ready(&self) -> bool {
        self.answer.head_read()
    }

    fn receive(
        &mut self,
        data: &[u8],
        _out: &mut Vec<u8>,
        deliveries: &mut Deliveries,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        loop {
            match self.answer.next(data, &mut at)? {
                Piece::Wait => return Ok(at),
                Piece::Passed => {}
                Piece::Body(piece) => {
                    let order = &mut self.order;
                    self.lines
                        .cut(piece, |line| take_line(line, order, deliveries))?;
                }
            }
        }
    }
}

/// Checks the index of a frame and hands its payload on.
#[inline]
fn take_line(
    line: &[u8],
    order: &mut IndexOrder,
    deliveries: &mut Deliveries,
) -> Result<(), ProtocolError> {
    let Some(rest) = line.strip_prefix(INDEX_LABEL) else {
        if line == b"{}\n" {
            return Ok(());
        }
        return Err(ProtocolError::unexpected("a frame", line));
    };
    if let IndexOrder::Contiguous { last } = order {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let index = decimal(&rest[..digits])
            .ok_or_else(|| ProtocolError::unexpected("a frame with an index", line))?;
        if let Some(last) = last
            && index != *last + 1
        {
            return Err(ProtocolError::OutOfOrder {
                expected: *last + 1,
                found: index,
            });
        }
        *last = Some(index);
    }
    match payload_of(line) {
        Some(payload) => deliveries.deliver(payload),
        // An event that the server itself published.
        None => Ok(()),
    }
}

/// Our payload at the end of a frame with one event.
#[inline]
fn payload_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_suffix(LINE_END)?;
    let payload = rest.get(rest.len().checked_sub(PAYLOAD_BYTES)?..)?;
    payload.starts_with(PAYLOAD_START).then_some(payload)
}

/// Takes the length of a line, so that the bare broadcaster can match it.
pub struct LineProbe {
    answer: Chunked,
    lines: Lines,
    line_bytes: Option<usize>,
}

impl LineProbe {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            answer: Chunked::new(),
            lines: Lines::default(),
            line_bytes: None,
        }
    }

    /// The request to send.
    pub fn request(address: SocketAddr) -> String {
        format!(
            "GET /v1/event/stream?from=beginning&topic=Bench HTTP/1.1\r\nHost: {address}\r\n\r\n"
        )
    }

    /// Uses received bytes; returns how many.
    pub fn receive(&mut self, data: &[u8]) -> Result<usize, ProtocolError> {
        let mut at = 0;
        loop {
            match self.answer.next(data, &mut at)? {
                Piece::Wait => return Ok(at),
                Piece::Passed => {}
                Piece::Body(piece) => {
                    let line_bytes = &mut self.line_bytes;
                    self.lines.cut(piece, |line| {
                        if payload_of(line).is_some() {
                            line_bytes.get_or_insert(line.len());
                        }
                        Ok(())
                    })?;
                }
            }
        }
    }

    /// The length of the first line with one of our events.
    pub fn line_bytes(&self) -> Option<usize> {
        self.line_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Expect, Payload};

    fn frame(index: u64, payload: &[u8]) -> Vec<u8> {
        let mut line =
            format!(r#"{{"Index":{index},"Events":[{{"Index":{index},"Topic":"Bench","Payload":"#)
                .into_bytes();
        line.extend_from_slice(payload);
        line.extend_from_slice(LINE_END);
        line
    }

    fn response(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in chunks {
            put_chunk(&mut response, chunk);
        }
        response
    }

    fn subscriber() -> TidingsSubscriber {
        TidingsSubscriber::new(
            "127.0.0.1:1".parse().unwrap(),
            &Start::After("6".into()),
            None,
        )
    }

    #[test]
    fn frames_are_counted_whatever_chunks_they_come_in() {
        let mut payload = Payload::new();
        let mut first = frame(7, payload.stamp(0, 0));
        first.extend_from_slice(b"{}\n");
        first.extend(frame(8, b"null"));
        let last = frame(9, payload.stamp(1, 0));
        let (head, tail) = last.split_at(40);
        let response = response(&[[&first, head].concat(), tail.to_vec()]);
        let mut subscriber = subscriber();
        let mut deliveries = Deliveries::new(Expect::Every { first: 0, step: 1 });
        let used = subscriber
            .receive(&response, &mut Vec::new(), &mut deliveries)
            .unwrap();
        assert_eq!(used, response.len());
        assert!(subscriber.is_ready());
        assert_eq!(deliveries.count(), 2);
    }

    #[test]
    fn a_gap_in_the_indexes_is_an_error() {
        let mut payload = Payload::new();
        let lines = [frame(7, payload.stamp(0, 0)), frame(9, payload.stamp(1, 0))].concat();
        let error = subscriber()
            .receive(
                &response(&[lines]),
                &mut Vec::new(),
                &mut Deliveries::new(Expect::Any),
            )
            .unwrap_err();
        assert_eq!(error.to_string(), "event 8 was due, 9 arrived");
    }

    #[test]
    fn answers_are_counted_and_errors_are_told() {
        let mut publisher = TidingsPublisher::new("127.0.0.1:1".parse().unwrap());
        let good = response(&[b"{\"Index\":9}\n{\"Index\":10}\n".to_vec()]);
        publisher.receive(&good, &mut Vec::new()).unwrap();
        assert_eq!((publisher.acked(), publisher.position()), (2, "10".into()));
        assert!(answered_index(b"{\"Error\":{\"Code\":\"x\"}}\n").is_err());
        assert!(answered_index(b"{\"Index\":1}\n{\"Index\":2}\n").is_err());
    }

    #[test]
    fn events_travel_in_one_chunk_a_group() {
        let mut publisher = TidingsPublisher::new("127.0.0.1:1".parse().unwrap());
        let mut payload = Payload::new();
        let mut out = Vec::new();
        publisher.publish(3, payload.stamp(0, 0), &mut out);
        publisher.publish(4, payload.stamp(1, 0), &mut out);
        assert!(out.is_empty());
        publisher.flush(&mut out);
        let text = String::from_utf8(out).unwrap();
        let (size, body) = text.split_once("\r\n").unwrap();
        let body = body.strip_suffix("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16).unwrap(), body.len());
        assert_eq!(body.lines().count(), 2);
        for line in body.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn the_addresses_are_read_from_what_the_agent_wrote() {
        assert_eq!(
            Listening::read(r#"{"http":"127.0.0.1:7480","pid":1}"#),
            Some(Listening {
                http: "127.0.0.1:7480".parse().unwrap(),
                peer: None
            })
        );
        let with_peer = r#"{"http":"127.0.0.1:7480","peer":"127.0.0.1:7481"}"#;
        assert_eq!(
            Listening::read(with_peer).and_then(|listening| listening.peer),
            Some("127.0.0.1:7481".parse().unwrap())
        );
        assert_eq!(Listening::read("{"), None);
    }
}
