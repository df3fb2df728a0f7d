//! Redis Streams: pipelined `XADD`, a blocking `XREAD` per subscriber.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::{Layout, Publisher, Start, Subscriber, key_name};
use crate::payload::{Deliveries, PAYLOAD_BYTES};
use crate::process::{Server, free_address};
use crate::protocol::{ProtocolError, Resp, command, read_element};

const STREAM: &str = "bench";
const FIELD: &[u8] = b"p";
/// The most entries that one `XREAD` asks for.
const READ_COUNT: &[u8] = b"10000";

/// Starts the server; `appendfsync` is `always` or `everysec`.
///
/// Snapshots and rewrites of the log are off: they would fork in the middle of
/// a measurement. That favours Redis.
pub fn start(program: &Path, folder: &Path, appendfsync: &str) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let port = address.port().to_string();
    let arguments: Vec<OsString> = [
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        appendfsync,
        "--auto-aof-rewrite-percentage",
        "0",
        "--maxclients",
        "18000",
        "--dir",
        ".",
    ]
    .map(OsString::from)
    .to_vec();
    let mut server = Server::start("redis-server", program, &arguments, folder)?;
    server.await_listening(address)?;
    Ok((server, address))
}

/// Adds entries.
pub struct RedisPublisher {
    layout: Layout,
    acked: u64,
    id: Vec<u8>,
}

impl RedisPublisher {
    /// For a new connection.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            acked: 0,
            id: b"0-0".to_vec(),
        }
    }
}

impl Publisher for RedisPublisher {
    fn open(&mut self, _out: &mut Vec<u8>) {}

    fn is_ready(&self) -> bool {
        true
    }

    fn publish(&mut self, key: u64, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        match self.layout {
            Layout::ByKey => {
                let stream = stream_of(key);
                command(out, &[b"XADD", stream.as_bytes(), b"*", FIELD, payload]);
            }
            Layout::OneStream | Layout::Replay => {
                command(out, &[b"XADD", STREAM.as_bytes(), b"*", FIELD, payload]);
            }
        }
    }

    fn flush(&mut self, _out: &mut Vec<u8>) {}

    fn receive(&mut self, data: &[u8], _out: &mut Vec<u8>) -> Result<usize, ProtocolError> {
        let mut at = 0;
        while let Some((element, used)) = read_element(&data[at..])? {
            let Resp::Bulk(id) = element else {
                return Err(ProtocolError::unexpected("an entry's id", &data[at..]));
            };
            self.id.clear();
            self.id.extend_from_slice(id);
            self.acked += 1;
            at += used;
        }
        Ok(at)
    }

    fn acked(&self) -> u64 {
        self.acked
    }

    fn position(&self) -> String {
        String::from_utf8_lossy(&self.id).into_owned()
    }
}

fn stream_of(key: u64) -> String {
    format!("{STREAM}:{}", key_name(key))
}

/// Where in the reply of `XREAD` the next element stands:
/// `*1 *2 $stream *N` and N times `*2 $id *2 $field $value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Reply,
    StreamPair,
    StreamName,
    Entries,
    EntryPair,
    EntryId,
    EntryFields,
    FieldName,
    FieldValue,
}

/// Reads with `XREAD BLOCK 0` from the last id on.
pub struct RedisSubscriber {
    stream: String,
    last_id: Vec<u8>,
    expected: Expected,
    entries_left: usize,
}

impl RedisSubscriber {
    /// For a new connection. A subscriber to one key starts where its own
    /// stream starts: ids of other streams say nothing about it.
    pub fn new(start: &Start, key: Option<u64>) -> Self {
        let last_id = match (start, key) {
            (Start::After(id), None) => id.clone(),
            _ => "0-0".to_owned(),
        };
        Self {
            stream: key.map_or_else(|| STREAM.to_owned(), stream_of),
            last_id: last_id.into_bytes(),
            expected: Expected::Reply,
            entries_left: 0,
        }
    }

    fn ask(&self, out: &mut Vec<u8>) {
        command(
            out,
            &[
                b"XREAD",
                b"COUNT",
                READ_COUNT,
                b"BLOCK",
                b"0",
                b"STREAMS",
                self.stream.as_bytes(),
                &self.last_id,
            ],
        );
    }

    fn take(
        &mut self,
        element: Resp<'_>,
        out: &mut Vec<u8>,
        deliveries: &mut Deliveries,
    ) -> Result<(), ProtocolError> {
        self.expected = match (self.expected, element) {
            (Expected::Reply, Resp::Array(1)) => Expected::StreamPair,
            (Expected::StreamPair, Resp::Array(2)) => Expected::StreamName,
            (Expected::StreamName, Resp::Bulk(_)) => Expected::Entries,
            (Expected::Entries, Resp::Array(entries)) if entries > 0 => {
                self.entries_left = entries;
                Expected::EntryPair
            }
            (Expected::EntryPair, Resp::Array(2)) => Expected::EntryId,
            (Expected::EntryId, Resp::Bulk(id)) => {
                if self.entries_left == 1 {
                    self.last_id.clear();
                    self.last_id.extend_from_slice(id);
                }
                Expected::EntryFields
            }
            (Expected::EntryFields, Resp::Array(2)) => Expected::FieldName,
            (Expected::FieldName, Resp::Bulk(_)) => Expected::FieldValue,
            (Expected::FieldValue, Resp::Bulk(payload)) => {
                deliveries.deliver(payload)?;
                self.entries_left -= 1;
                if self.entries_left == 0 {
                    self.ask(out);
                    Expected::Reply
                } else {
                    Expected::EntryPair
                }
            }
            (expected, element) => {
                let found = format!("{element:?} as {expected:?}");
                return Err(ProtocolError::unexpected(
                    "a reply of XREAD",
                    found.as_bytes(),
                ));
            }
        };
        Ok(())
    }
}

impl Subscriber for RedisSubscriber {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.ask(out);
    }

    /// Nothing confirms a blocking read; it starts behind a known entry, so
    /// that it makes no difference when the server gets to it.
    fn is_ready(&self) -> bool {
        true
    }

    fn receive(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        deliveries: &mut Deliveries,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        while let Some((element, used)) = read_element(&data[at..])? {
            self.take(element, out, deliveries)?;
            at += used;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Expect, Payload};

    #[test]
    fn entries_are_delivered_and_the_next_read_starts_behind_them() {
        let mut payload = Payload::new();
        let mut data = Vec::new();
        data.extend_from_slice(b"*1\r\n*2\r\n$5\r\nbench\r\n*2\r\n");
        for (id, sequence) in [("1-0", 0), ("1-1", 1)] {
            data.extend_from_slice(b"*2\r\n");
            data.extend_from_slice(format!("${}\r\n{id}\r\n", id.len()).as_bytes());
            data.extend_from_slice(b"*2\r\n$1\r\np\r\n$300\r\n");
            data.extend_from_slice(payload.stamp(sequence, 0));
            data.extend_from_slice(b"\r\n");
        }
        let mut subscriber = RedisSubscriber::new(&Start::After("0-5".into()), None);
        let mut deliveries = Deliveries::new(Expect::Every { first: 0, step: 1 });
        let mut out = Vec::new();
        let half = data.len() / 2;
        let used = subscriber
            .receive(&data[..half], &mut out, &mut deliveries)
            .unwrap();
        assert!(out.is_empty());
        subscriber
            .receive(&data[used..], &mut out, &mut deliveries)
            .unwrap();
        assert_eq!(deliveries.count(), 2);
        let asked = String::from_utf8(out).unwrap();
        assert!(asked.starts_with("*8\r\n$5\r\nXREAD"));
        assert!(asked.ends_with("$3\r\n1-1\r\n"));
    }

    #[test]
    fn ids_acknowledge_events() {
        let mut publisher = RedisPublisher::new(Layout::OneStream);
        let used = publisher
            .receive(b"$3\r\n1-0\r\n$3\r\n1-1\r\n$3\r\n1", &mut Vec::new())
            .unwrap();
        assert_eq!(used, 18);
        assert_eq!((publisher.acked(), publisher.position()), (2, "1-1".into()));
    }
}
