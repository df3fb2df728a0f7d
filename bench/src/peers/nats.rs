//! NATS JetStream over its text protocol: published with acknowledgements in
//! a reply inbox, read by ephemeral push consumers without acknowledgements
//! and with flow control (what NATS calls an ordered consumer).

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Publisher, Start, Subscriber, key_name};
use crate::payload::{Deliveries, PAYLOAD_BYTES};
use crate::process::{Server, free_address};
use crate::protocol::{ProtocolError, decimal};

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
    \"no_responders\":true,\"protocol\":1,\"lang\":\"rust\",\"version\":\"1\"}\r\n";
const STREAM: &str = "BENCH";
/// Every key is a subject below this.
const SUBJECT: &str = "bench";
/// Where acknowledgements of events arrive; inboxes of one connection need no
/// more than a name that no other connection uses.
const ACK_INBOX: &str = "_INBOX.acks";
const DELIVER_SID: &[u8] = b"1";
const REPLY_SID: &[u8] = b"2";
/// JetStream's API may take so long; while a cluster elects its leader it does not answer at all.
const API_LIMIT: Duration = Duration::from_secs(3);
/// JetStream tells that it lives this often when it has nothing to send.
const HEARTBEAT_NS: u64 = 30_000_000_000;

/// Starts the server with JetStream on file and makes the stream.
pub fn start(program: &Path, folder: &Path, always: bool) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let mut server = launch(program, folder, address, always, "")?;
    server.await_listening(address)?;
    server.await_ready(|| create_stream(address, 1).ok())?;
    Ok((server, address))
}

/// Starts a server with JetStream on file, and `more` in its configuration.
pub fn launch(
    program: &Path,
    folder: &Path,
    address: SocketAddr,
    always: bool,
    more: &str,
) -> Result<Server> {
    fs::create_dir_all(folder)?;
    let sync = if always { "sync_interval: always" } else { "" };
    let config = folder.join("nats.conf");
    fs::write(
        &config,
        format!(
            "listen: \"{address}\"\nmax_connections: 20000\n\
             jetstream {{ store_dir: {:?}\n {sync} }}\n{more}",
            folder.join("jetstream")
        ),
    )?;
    let arguments: Vec<OsString> = vec!["-c".into(), config.into()];
    Server::start("nats-server", program, &arguments, folder)
}

/// Makes the stream, held by so many servers.
///
/// # Errors
///
/// The server does not answer, or refuses.
pub fn create_stream(address: SocketAddr, replicas: usize) -> Result<()> {
    let config = format!(
        r#"{{"name":"{STREAM}","subjects":["{SUBJECT}.>"],"storage":"file","retention":"limits","discard":"old","num_replicas":{replicas},"max_consumers":20000,"max_msgs":-1,"max_bytes":-1,"max_age":0}}"#
    );
    ask(address, &format!("STREAM.CREATE.{STREAM}"), &config)?;
    Ok(())
}

/// The name of the server that leads the stream.
///
/// # Errors
///
/// The server does not answer, or refuses; `None` when nobody leads.
pub fn stream_leader(address: SocketAddr) -> Result<Option<String>> {
    let answer = ask(address, &format!("STREAM.INFO.{STREAM}"), "")?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    Ok(answer["cluster"]["leader"].as_str().map(str::to_owned))
}

/// One request to JetStream's API; its answer.
fn ask(address: SocketAddr, what: &str, body: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(API_LIMIT))?;
    let mut request = CONNECT.to_vec();
    write!(
        request,
        "SUB _INBOX.setup 1\r\nPUB $JS.API.{what} _INBOX.setup {}\r\n{body}\r\n",
        body.len()
    )?;
    socket.write_all(&request)?;
    let mut lines = BufReader::new(socket).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        if line.starts_with("-ERR") {
            bail!("nats-server said {line}");
        }
        if line.starts_with("MSG") || line.starts_with("HMSG") {
            let answer = lines.next().context("an answer")??;
            if answer.contains("\"error\"") || line.starts_with("HMSG") {
                bail!("nats-server refused: {answer}");
            }
            return Ok(answer);
        }
    }
    bail!("nats-server closed the connection")
}

/// One thing that the server sends.
enum Message<'a> {
    Published(Published<'a>),
    Ping,
    Pong,
    Other,
}

struct Published<'a> {
    sid: &'a [u8],
    reply: Option<&'a [u8]>,
    headers: &'a [u8],
    payload: &'a [u8],
}

/// The message at the start of `data` and its length; `None` when incomplete.
#[inline]
fn read_message(data: &[u8]) -> Result<Option<(Message<'_>, usize)>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', data) else {
        return Ok(None);
    };
    let bad = || ProtocolError::unexpected("a NATS message", data);
    let line = data[..end].strip_suffix(b"\r").ok_or_else(bad)?;
    let after = end + 1;
    let with_headers = line.starts_with(b"HMSG ");
    if !with_headers && !line.starts_with(b"MSG ") {
        let message = match line {
            b"PING" => Message::Ping,
            b"PONG" => Message::Pong,
            _ if line.starts_with(b"-ERR") => return Err(ProtocolError::refused(line)),
            _ if line.starts_with(b"INFO ") || line == b"+OK" => Message::Other,
            _ => return Err(bad()),
        };
        return Ok(Some((message, after)));
    }
    // MSG subject sid [reply] bytes; HMSG subject sid [reply] headers bytes
    let mut words = [&[][..]; 6];
    let mut count = 0;
    for word in line.split(|byte| *byte == b' ') {
        *words.get_mut(count).ok_or_else(bad)? = word;
        count += 1;
    }
    let numbers = 1 + usize::from(with_headers);
    let reply = match count.checked_sub(3 + numbers) {
        Some(0) => None,
        Some(1) => Some(words[3]),
        _ => return Err(bad()),
    };
    let total = decimal(words[count - 1]).ok_or_else(bad)? as usize;
    let headers = if with_headers {
        decimal(words[count - 2]).ok_or_else(bad)? as usize
    } else {
        0
    };
    if headers > total {
        return Err(bad());
    }
    let Some(content) = data.get(after..after + total) else {
        return Ok(None);
    };
    if data.len() < after + total + 2 {
        return Ok(None);
    }
    let (headers, payload) = content.split_at(headers);
    Ok(Some((
        Message::Published(Published {
            sid: words[2],
            reply,
            headers,
            payload,
        }),
        after + total + 2,
    )))
}

/// Answers of JetStream's API carry `"error":{…}` when refused.
fn check_answer(payload: &[u8]) -> Result<(), ProtocolError> {
    if memchr::memmem::find(payload, b"\"error\":").is_some() {
        return Err(ProtocolError::refused(payload));
    }
    Ok(())
}

/// Publishes to the stream.
pub struct NatsPublisher {
    ready: bool,
    acked: u64,
    /// The stream's sequence number in the last acknowledgement.
    sequence: u64,
    reply: String,
}

impl NatsPublisher {
    /// For a new connection.
    pub fn new() -> Self {
        Self {
            ready: false,
            acked: 0,
            sequence: 0,
            reply: inbox(ACK_INBOX),
        }
    }
}

/// A subject that only one connection of this process listens on.
fn inbox(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}.{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Publisher for NatsPublisher {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(CONNECT);
        write!(out, "SUB {} 1\r\nPING\r\n", self.reply).expect("a Vec takes all that is written");
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn publish(&mut self, key: u64, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        write!(
            out,
            "PUB {SUBJECT}.k{key:04} {} {PAYLOAD_BYTES}\r\n",
            self.reply
        )
        .expect("a Vec takes all that is written");
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self, _out: &mut Vec<u8>) {}

    fn receive(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, ProtocolError> {
        let mut at = 0;
        while let Some((message, used)) = read_message(&data[at..])? {
            at += used;
            match message {
                Message::Published(published) => {
                    check_answer(published.payload)?;
                    self.sequence = sequence_in(published.payload).ok_or_else(|| {
                        ProtocolError::unexpected("an acknowledgement", published.payload)
                    })?;
                    self.acked += 1;
                }
                Message::Ping => out.extend_from_slice(b"PONG\r\n"),
                Message::Pong => self.ready = true,
                Message::Other => {}
            }
        }
        Ok(at)
    }

    fn acked(&self) -> u64 {
        self.acked
    }

    fn position(&self) -> String {
        self.sequence.to_string()
    }
}

/// The number behind `"seq":`, with or without a space.
fn sequence_in(answer: &[u8]) -> Option<u64> {
    const LABEL: &[u8] = b"\"seq\":";
    let at = memchr::memmem::find(answer, LABEL)? + LABEL.len();
    let rest = answer[at..].trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    decimal(&rest[..digits])
}

/// One ephemeral push consumer.
pub struct NatsSubscriber {
    request: Vec<u8>,
    ready: bool,
}

impl NatsSubscriber {
    /// For a new connection.
    pub fn new(start: &Start, key: Option<u64>) -> Self {
        let deliver = inbox("_INBOX.deliver");
        let reply = inbox("_INBOX.reply");
        let policy = match start {
            Start::Beginning => r#""deliver_policy":"all""#.to_owned(),
            Start::After(sequence) => {
                let next = sequence.parse::<u64>().map_or(1, |sequence| sequence + 1);
                format!(r#""deliver_policy":"by_start_sequence","opt_start_seq":{next}"#)
            }
        };
        let filter = key.map_or_else(String::new, |key| {
            format!(r#","filter_subject":"{SUBJECT}.{}""#, key_name(key))
        });
        let config = format!(
            r#"{{"stream_name":"{STREAM}","config":{{"deliver_subject":"{deliver}",{policy},"ack_policy":"none","max_deliver":1,"replay_policy":"instant","flow_control":true,"idle_heartbeat":{HEARTBEAT_NS},"mem_storage":true,"num_replicas":1{filter}}}}}"#
        );
        let mut request = CONNECT.to_vec();
        write!(
            request,
            "SUB {deliver} 1\r\nSUB {reply} 2\r\n\
             PUB $JS.API.CONSUMER.CREATE.{STREAM} {reply} {}\r\n{config}\r\n",
            config.len()
        )
        .expect("a Vec takes all that is written");
        Self {
            request,
            ready: false,
        }
    }
}

impl Subscriber for NatsSubscriber {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.request);
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn receive(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        deliveries: &mut Deliveries,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        while let Some((message, used)) = read_message(&data[at..])? {
            at += used;
            match message {
                Message::Published(published) if published.sid == REPLY_SID => {
                    check_answer(published.payload)?;
                    if !published.headers.is_empty() {
                        return Err(ProtocolError::refused(published.headers));
                    }
                    self.ready = true;
                }
                Message::Published(published) if published.headers.is_empty() => {
                    debug_assert_eq!(published.sid, DELIVER_SID);
                    deliveries.deliver(published.payload)?;
                }
                Message::Published(published) => answer_status(&published, out)?,
                Message::Ping => out.extend_from_slice(b"PONG\r\n"),
                Message::Pong | Message::Other => {}
            }
        }
        Ok(at)
    }
}

/// Flow control and heartbeats: whoever wants an answer gets an empty one.
fn answer_status(published: &Published<'_>, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    const STALLED: &[u8] = b"Nats-Consumer-Stalled: ";
    if !published.headers.starts_with(b"NATS/1.0 100") {
        return Err(ProtocolError::refused(published.headers));
    }
    let stalled = memchr::memmem::find(published.headers, STALLED).map(|at| {
        let rest = &published.headers[at + STALLED.len()..];
        &rest[..memchr::memchr(b'\r', rest).unwrap_or(rest.len())]
    });
    if let Some(subject) = published.reply.or(stalled) {
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(subject);
        out.extend_from_slice(b" 0\r\n\r\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Expect, Payload};

    #[test]
    fn acknowledgements_are_counted() {
        let mut publisher = NatsPublisher::new();
        // The second acknowledgement is cut.
        let data = b"INFO {}\r\nPONG\r\nPING\r\n\
            MSG _INBOX.acks.1 1 27\r\n{\"stream\":\"BENCH\",\"seq\":41}\r\n\
            MSG _INBOX.acks.1 1 27\r\n{\"stream\":\"BENCH\",\"seq\":";
        let mut out = Vec::new();
        let used = publisher.receive(data, &mut out).unwrap();
        assert!(publisher.is_ready());
        assert_eq!(out, b"PONG\r\n");
        assert_eq!(publisher.acked(), 1);
        assert_eq!(publisher.position(), "41");
        assert!(data[used..].starts_with(b"MSG"));
    }

    #[test]
    fn a_refused_event_is_an_error() {
        let answer = br#"{"error":{"code":503,"description":"no space"}}"#;
        let data = [
            format!("MSG a 1 {}\r\n", answer.len()).as_bytes(),
            answer,
            b"\r\n",
        ]
        .concat();
        let error = NatsPublisher::new()
            .receive(&data, &mut Vec::new())
            .unwrap_err();
        assert!(error.to_string().contains("no space"));
    }

    #[test]
    fn events_are_delivered_and_flow_control_is_answered() {
        let mut payload = Payload::new();
        let mut data = b"MSG bench.k0001 1 $JS.ACK.x 300\r\n".to_vec();
        data.extend_from_slice(payload.stamp(5, 0));
        data.extend_from_slice(b"\r\n");
        let headers = b"NATS/1.0 100 FlowControl Request\r\n\r\n";
        data.extend_from_slice(
            format!("HMSG d 1 $JS.FC.x {} {}\r\n", headers.len(), headers.len()).as_bytes(),
        );
        data.extend_from_slice(headers);
        data.extend_from_slice(b"\r\n");
        let mut subscriber = NatsSubscriber::new(&Start::Beginning, None);
        let mut deliveries = Deliveries::new(Expect::Every { first: 5, step: 1 });
        let mut out = Vec::new();
        let used = subscriber
            .receive(&data, &mut out, &mut deliveries)
            .unwrap();
        assert_eq!(used, data.len());
        assert_eq!(deliveries.count(), 1);
        assert_eq!(out, b"PUB $JS.FC.x 0\r\n\r\n");
    }
}
