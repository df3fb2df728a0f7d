//! etcd over gRPC: `Put`, `Watch`, and for the replay `Txn` and `Range`.
//!
//! Messages and field numbers: etcd's `rpc.proto` and `kv.proto`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Result, bail};

use super::{Layout, Publisher, Subscriber, key_name};
use crate::payload::{Deliveries, PAYLOAD_BYTES};
use crate::process::{START_LIMIT, Server, free_address};
use crate::protocol::{
    Field, Fields, GrpcMessages, Http2, Http2Event, ProtocolError, put_bytes, put_varint,
};

const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";
const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// Every key begins so; `0` is the byte behind `/`.
const PREFIX: &str = "bench/";
const PREFIX_END: &str = "bench0";
/// Under etcd's limit of 128 operations.
const TXN_EVENTS_MAX: u64 = 100;
/// Keys in one answer of a range.
const PAGE_KEYS: u64 = 10_000;
/// Room for a million events and etcd's own overhead.
const QUOTA_BYTES: &str = "8589934592";

/// Starts a cluster of one.
pub fn start(program: &Path, folder: &Path) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let peers = free_address()?;
    let mut server = launch(
        program,
        folder,
        "bench",
        (address, peers),
        &[("bench", peers)],
    )?;
    // The client port opens when the member has become leader.
    server.await_listening(address)?;
    Ok((server, address))
}

/// Starts one member with its addresses for clients and peers.
pub fn launch(
    program: &Path,
    folder: &Path,
    name: &str,
    (address, peers): (SocketAddr, SocketAddr),
    cluster: &[(&str, SocketAddr)],
) -> Result<Server> {
    let clients = format!("http://{address}");
    let peers = format!("http://{peers}");
    let cluster: Vec<String> = cluster
        .iter()
        .map(|(name, peers)| format!("{name}=http://{peers}"))
        .collect();
    let cluster = cluster.join(",");
    let arguments: Vec<OsString> = [
        "--name",
        name,
        "--data-dir",
        "data",
        "--listen-client-urls",
        &clients,
        "--advertise-client-urls",
        &clients,
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
        "--initial-cluster",
        &cluster,
        "--quota-backend-bytes",
        QUOTA_BYTES,
        "--logger",
        "zap",
        "--log-level",
        "error",
    ]
    .map(OsString::from)
    .to_vec();
    Server::start("etcd", program, &arguments, folder)
}

/// Whether the member at this address leads.
///
/// # Errors
///
/// It does not answer.
pub fn leads(address: SocketAddr) -> Result<bool> {
    let answer = call(address, STATUS, &[])?;
    // StatusResponse { header = 1, leader = 4 }, ResponseHeader { member_id = 2 }
    let (mut member, mut leader) = (None, None);
    for field in Fields::new(&answer) {
        match field? {
            Field::Bytes(1, header) => {
                for field in Fields::new(header) {
                    if let Field::Number(2, id) = field? {
                        member = Some(id);
                    }
                }
            }
            Field::Number(4, id) => leader = Some(id),
            _ => {}
        }
    }
    Ok(leader.is_some() && leader == member)
}

/// One call on a connection of its own.
fn call(address: SocketAddr, path: &'static str, message: &[u8]) -> Result<Vec<u8>> {
    let mut http2 = Http2::new(address.to_string(), path);
    let mut out = Vec::new();
    http2.open(&mut out);
    let mut framed = Vec::new();
    GrpcMessages::put(&mut framed, message);
    http2.request(&framed, false, &mut out);
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(START_LIMIT))?;
    let mut messages = GrpcMessages::default();
    let (mut data, mut answer) = (Vec::new(), None);
    loop {
        socket.write_all(&out)?;
        out.clear();
        let mut buffer = [0; 4_096];
        let read = socket.read(&mut buffer)?;
        if read == 0 {
            bail!("etcd closed the connection");
        }
        data.extend_from_slice(&buffer[..read]);
        let used = http2.receive(&data, &mut out, |event| match event {
            Http2Event::Data(_, data) => messages.receive(data, |message| {
                answer = Some(message.to_vec());
                Ok(())
            }),
            Http2Event::Ended(_) => Ok(()),
        })?;
        data.drain(..used);
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

/// The revision in a response's header.
fn revision_of(response: &[u8]) -> Result<u64, ProtocolError> {
    for field in Fields::new(response) {
        if let Field::Bytes(1, header) = field? {
            for field in Fields::new(header) {
                if let Field::Number(3, revision) = field? {
                    return Ok(revision);
                }
            }
        }
    }
    Err(ProtocolError::unexpected(
        "a header with a revision",
        response,
    ))
}

/// The parts of a `KeyValue` that matter here.
#[derive(Default)]
struct KeyValue<'a> {
    key: &'a [u8],
    mod_revision: u64,
    version: u64,
    value: &'a [u8],
}

impl<'a> KeyValue<'a> {
    #[inline]
    fn parse(message: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut found = Self::default();
        for field in Fields::new(message) {
            match field? {
                Field::Bytes(1, key) => found.key = key,
                Field::Number(3, revision) => found.mod_revision = revision,
                Field::Number(4, version) => found.version = version,
                Field::Bytes(5, value) => found.value = value,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Puts events, each in a call of its own or (for the replay) in transactions.
pub struct EtcdPublisher {
    http2: Http2,
    transactions: bool,
    sequence: u64,
    grouped: Vec<u8>,
    grouped_events: u64,
    /// Calls without an answer yet, with their events.
    calls: BTreeMap<u32, u64>,
    acked: u64,
    revision: u64,
    message: Vec<u8>,
    framed: Vec<u8>,
}

impl EtcdPublisher {
    /// For a connection to `address`.
    pub fn new(address: SocketAddr, layout: Layout) -> Self {
        let transactions = layout == Layout::Replay;
        Self {
            http2: Http2::new(address.to_string(), if transactions { TXN } else { PUT }),
            transactions,
            sequence: 0,
            grouped: Vec::new(),
            grouped_events: 0,
            calls: BTreeMap::new(),
            acked: 0,
            revision: 0,
            message: Vec::new(),
            framed: Vec::new(),
        }
    }

    fn call(&mut self, events: u64, out: &mut Vec<u8>) {
        self.framed.clear();
        GrpcMessages::put(&mut self.framed, &self.message);
        let stream = self.http2.request(&self.framed, false, out);
        self.calls.insert(stream, events);
    }
}

impl Publisher for EtcdPublisher {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.http2.open(out);
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn publish(&mut self, key: u64, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        self.message.clear();
        if !self.transactions {
            put_bytes(
                &mut self.message,
                1,
                format!("{PREFIX}{}", key_name(key)).as_bytes(),
            );
            put_bytes(&mut self.message, 2, payload);
            self.call(1, out);
            return;
        }
        put_bytes(
            &mut self.message,
            1,
            format!("{PREFIX}{:012}", self.sequence).as_bytes(),
        );
        put_bytes(&mut self.message, 2, payload);
        self.sequence += 1;
        // RequestOp { request_put = 2 }, TxnRequest { success = 2 }
        let mut operation = Vec::with_capacity(self.message.len() + 4);
        put_bytes(&mut operation, 2, &self.message);
        put_bytes(&mut self.grouped, 2, &operation);
        self.grouped_events += 1;
        if self.grouped_events == TXN_EVENTS_MAX {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.grouped_events > 0 {
            self.message.clear();
            self.message.append(&mut self.grouped);
            let events = std::mem::take(&mut self.grouped_events);
            self.call(events, out);
        }
    }

    fn receive(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, ProtocolError> {
        let Self {
            http2,
            calls,
            acked,
            revision,
            ..
        } = self;
        http2.receive(data, out, |event| match event {
            // An answer without old values fits a frame.
            Http2Event::Data(stream, data) => {
                let mut answer = GrpcMessages::default();
                answer.receive(data, |message| {
                    *revision = revision_of(message)?;
                    *acked += calls.remove(&stream).unwrap_or(0);
                    Ok(())
                })
            }
            Http2Event::Ended(stream) => match calls.remove(&stream) {
                Some(_) => Err(ProtocolError::Refused(
                    "etcd ended a call without an answer".into(),
                )),
                None => Ok(()),
            },
        })
    }

    fn acked(&self) -> u64 {
        self.acked
    }

    fn position(&self) -> String {
        self.revision.to_string()
    }
}

/// One watch.
pub struct EtcdWatcher {
    http2: Http2,
    request: Vec<u8>,
    messages: GrpcMessages,
    ready: bool,
    order: WatchOrder,
}

/// Every put raises the store's revision by one, and its key's version: what
/// shows that a watch left nothing out.
struct WatchOrder {
    /// A watch of one key counts versions, the others revisions.
    one_key: bool,
    last: u64,
}

impl WatchOrder {
    #[inline]
    fn check(&mut self, key_value: &KeyValue<'_>) -> Result<(), ProtocolError> {
        let found = if self.one_key {
            key_value.version
        } else {
            key_value.mod_revision
        };
        let expected = self.last + 1;
        if found != expected {
            return Err(ProtocolError::OutOfOrder { expected, found });
        }
        self.last = found;
        Ok(())
    }
}

impl EtcdWatcher {
    /// For a connection to `address`: what changes behind `revision`.
    pub fn new(address: SocketAddr, revision: &str, key: Option<u64>) -> Self {
        let mut create = Vec::new();
        match key {
            Some(key) => put_bytes(
                &mut create,
                1,
                format!("{PREFIX}{}", key_name(key)).as_bytes(),
            ),
            None => {
                put_bytes(&mut create, 1, PREFIX.as_bytes());
                put_bytes(&mut create, 2, PREFIX_END.as_bytes());
            }
        }
        let revision = revision.parse::<u64>().unwrap_or(0);
        put_varint(&mut create, 3, revision + 1);
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &create);
        let mut request = Vec::new();
        GrpcMessages::put(&mut request, &message);
        Self {
            http2: Http2::new(address.to_string(), WATCH),
            request,
            messages: GrpcMessages::default(),
            ready: false,
            // Keys that are watched alone are new.
            order: WatchOrder {
                one_key: key.is_some(),
                last: if key.is_some() { 0 } else { revision },
            },
        }
    }
}

impl Subscriber for EtcdWatcher {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.http2.open(out);
        self.http2.request(&self.request, true, out);
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
        let Self {
            http2,
            messages,
            ready,
            order,
            ..
        } = self;
        http2.receive(data, out, |event| match event {
            Http2Event::Data(_, data) => messages.receive(data, |response| {
                take_watch_response(response, ready, order, deliveries)
            }),
            Http2Event::Ended(_) => Err(ProtocolError::Refused("etcd ended the watch".into())),
        })
    }
}

fn take_watch_response(
    response: &[u8],
    ready: &mut bool,
    order: &mut WatchOrder,
    deliveries: &mut Deliveries,
) -> Result<(), ProtocolError> {
    for field in Fields::new(response) {
        match field? {
            // WatchResponse { created = 3, canceled = 4, events = 11 }
            Field::Number(3, created) => *ready = created == 1,
            Field::Number(4, 1) => {
                return Err(ProtocolError::Refused("etcd cancelled the watch".into()));
            }
            Field::Bytes(11, event) => {
                for field in Fields::new(event) {
                    if let Field::Bytes(2, key_value) = field? {
                        let key_value = KeyValue::parse(key_value)?;
                        order.check(&key_value)?;
                        deliveries.deliver(key_value.value)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads all keys in order, page by page: faster than a watch from the past.
pub struct EtcdReader {
    http2: Http2,
    from: Vec<u8>,
    messages: GrpcMessages,
}

impl EtcdReader {
    /// For a connection to `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            http2: Http2::new(address.to_string(), RANGE),
            from: PREFIX.as_bytes().to_vec(),
            messages: GrpcMessages::default(),
        }
    }

    fn ask(&mut self, out: &mut Vec<u8>) {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &self.from);
        put_bytes(&mut message, 2, PREFIX_END.as_bytes());
        put_varint(&mut message, 3, PAGE_KEYS);
        let mut request = Vec::new();
        GrpcMessages::put(&mut request, &message);
        self.http2.request(&request, false, out);
    }
}

impl Subscriber for EtcdReader {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.http2.open(out);
        self.ask(out);
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn receive(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        deliveries: &mut Deliveries,
    ) -> Result<usize, ProtocolError> {
        let (messages, from) = (&mut self.messages, &mut self.from);
        let mut more = false;
        let used = self.http2.receive(data, out, |event| match event {
            Http2Event::Data(_, data) => messages.receive(data, |response| {
                let mut last = &[][..];
                for field in Fields::new(response) {
                    match field? {
                        // RangeResponse { kvs = 2, more = 3 }
                        Field::Bytes(2, key_value) => {
                            let key_value = KeyValue::parse(key_value)?;
                            deliveries.deliver(key_value.value)?;
                            last = key_value.key;
                        }
                        Field::Number(3, 1) => more = true,
                        _ => {}
                    }
                }
                // The first key behind the last one.
                from.clear();
                from.extend_from_slice(last);
                from.push(0);
                Ok(())
            }),
            Http2Event::Ended(_) => Ok(()),
        })?;
        if more {
            self.ask(out);
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Expect, Payload};

    fn header(revision: u64) -> Vec<u8> {
        let mut header = Vec::new();
        put_varint(&mut header, 1, 9);
        put_varint(&mut header, 3, revision);
        let mut response = Vec::new();
        put_bytes(&mut response, 1, &header);
        response
    }

    #[test]
    fn the_revision_is_found_in_the_header() {
        assert_eq!(revision_of(&header(77)).unwrap(), 77);
        assert!(revision_of(b"").is_err());
    }

    #[test]
    fn events_of_a_watch_are_delivered() {
        let mut payload = Payload::new();
        let mut response = header(5);
        put_varint(&mut response, 3, 1);
        for sequence in 0..2 {
            let mut key_value = Vec::new();
            put_bytes(&mut key_value, 1, b"bench/k0001");
            put_varint(&mut key_value, 3, 5 + sequence);
            put_varint(&mut key_value, 4, 1);
            put_bytes(&mut key_value, 5, payload.stamp(sequence, 0));
            let mut event = Vec::new();
            put_bytes(&mut event, 2, &key_value);
            put_bytes(&mut response, 11, &event);
        }
        let mut ready = false;
        let mut deliveries = Deliveries::new(Expect::Every { first: 0, step: 1 });
        let mut order = WatchOrder {
            one_key: false,
            last: 4,
        };
        take_watch_response(&response, &mut ready, &mut order, &mut deliveries).unwrap();
        assert!(ready);
        assert_eq!(deliveries.count(), 2);
        assert_eq!(order.last, 6);
        // The same again: a revision that was seen.
        let error = take_watch_response(
            &response,
            &mut ready,
            &mut order,
            &mut Deliveries::new(Expect::Any),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "event 7 was due, 5 arrived");
    }

    #[test]
    fn a_cancelled_watch_is_an_error() {
        let mut response = header(5);
        put_varint(&mut response, 4, 1);
        let error = take_watch_response(
            &response,
            &mut false,
            &mut WatchOrder {
                one_key: true,
                last: 0,
            },
            &mut Deliveries::new(Expect::Any),
        )
        .unwrap_err();
        assert!(error.to_string().contains("cancelled"));
    }

    #[test]
    fn a_replay_is_stored_in_transactions() {
        let mut publisher = EtcdPublisher::new("127.0.0.1:1".parse().unwrap(), Layout::Replay);
        let mut payload = Payload::new();
        let mut out = Vec::new();
        for sequence in 0..150 {
            publisher.publish(0, payload.stamp(sequence, 0), &mut out);
        }
        assert_eq!(publisher.calls.values().copied().collect::<Vec<_>>(), [100]);
        publisher.flush(&mut out);
        assert_eq!(
            publisher.calls.values().copied().collect::<Vec<_>>(),
            [100, 50]
        );
    }
}
