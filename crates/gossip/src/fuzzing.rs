//! What a fuzzer calls: every reader of bytes that come from a network, and the machine behind them,
//! with the properties that hold for any input.
//!
//! Each function takes arbitrary bytes and panics when a property is broken. The fuzz targets in
//! `fuzz/` call them for hours; `tests/fuzz_smoke.rs` calls them with seeded inputs in every test run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::chance::Chance;
use crate::name::Name;
use crate::serf::{QUEUE_MAX, Serf, SerfConfig};
use crate::swim::{Config, Input, MEMBERS_MAX, NoDelegate, Output, StreamEvent, StreamId, Swim};
use crate::time::Time;
use crate::wire::serf::{
    ConflictResponse, Coordinate, EventSlot, Filter, Intent, KeyRequest, KeyResponse, LamportTime,
    MemberStatus, Query, QueryResponse, Relay, SerfMessage, SerfState, Tags, UserEvent,
};
use crate::wire::{
    Accusation, Ack, Alive, IndirectPing, Keyring, Message, NodeState, PacketOptions, Ping,
    PushPull, State, StreamMessage, StreamOptions, StreamReader, Versions, open_packet,
    seal_packet,
};

/// Takes arbitrary bytes; panics when a property is broken.
pub type Reader = fn(&[u8]);

/// The readers, by the names of their fuzz targets.
pub const READERS: [(&str, Reader); 5] = [
    ("gossip_packet", gossip_packet),
    ("gossip_stream", gossip_stream),
    ("gossip_serf", gossip_serf),
    ("gossip_swim", gossip_swim),
    ("gossip_machine", gossip_machine),
];

const KEY: [u8; 16] = [7; 16];

fn ring() -> Keyring {
    Keyring::new([KEY]).expect("a key of 16 bytes")
}

/// A datagram: whatever could be read in it is the same when it is sent on.
pub fn gossip_packet(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let _ = open_packet(bytes.clone(), Some(&ring()));
    // As somebody who has the key would send it.
    let sealed = ring().seal(input, b"", &mut Chance::from_number(1));
    let _ = open_packet(sealed, Some(&ring()));
    let Ok(packet) = open_packet(bytes, None) else {
        return;
    };
    for message in packet.messages {
        let again = Message::decode(&message.encode()).expect("what we write can be read");
        assert_eq!(again, message);
    }
}

/// A stream: in one piece or in many, it says the same.
pub fn gossip_stream(input: &[u8]) {
    let _ = StreamReader::default().push(input, Some(&ring()));
    let Ok(Some(message)) = StreamReader::default().push(input, None) else {
        return;
    };
    let mut pieces = StreamReader::default();
    let came = input
        .chunks(3)
        .find_map(|piece| pieces.push(piece, None).expect("the same bytes"));
    assert_eq!(came.as_ref(), Some(&message));
    let bytes = message.encode(StreamOptions::default(), &mut Chance::from_number(1));
    let again = StreamReader::default()
        .push(&bytes, None)
        .expect("what we write can be read");
    assert_eq!(again, Some(message));
}

/// A message of Serf, and whatever else travels in one.
pub fn gossip_serf(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(message) = SerfMessage::decode(&bytes) {
        let again = SerfMessage::decode(&message.encode()).expect("what we write can be read");
        assert_eq!(again.encode(), message.encode());
        if let SerfMessage::Query(query) = message {
            for filter in query.filters {
                let _ = Filter::decode(&filter);
            }
        }
    }
    if let Ok(tags) = Tags::decode(&bytes) {
        let _ = tags.encode();
    }
    if let Ok(coordinate) = Coordinate::decode(&bytes) {
        assert!(coordinate.is_finite());
    }
    let _ = (ConflictResponse::decode(&bytes), KeyRequest::decode(&bytes));
    let _ = KeyResponse::decode(&bytes);
}

/// What happens, as bytes say it: datagrams, streams, time.
///
/// ```text
/// what u8 │ length u8 │ bytes …     again and again
/// ```
fn history(mut rest: &[u8]) -> Vec<(Time, Input)> {
    let from = SocketAddr::from(([10, 0, 0, 9], 7946));
    let (mut now, mut history) = (Time::ZERO, Vec::new());
    while let Some((&[what, length], after)) = rest.split_first_chunk() {
        let (bytes, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        let bytes = Bytes::copy_from_slice(bytes);
        let stream = match what & 0x10 {
            0 => StreamId::Accepted(u64::from(what >> 5)),
            _ => StreamId::Dialed(u64::from(what >> 5)),
        };
        let event = match what & 0x0f {
            0..=5 => {
                history.push((now, Input::Datagram { from, bytes }));
                continue;
            }
            6 => StreamEvent::Accepted { from },
            7 | 8 => StreamEvent::Bytes(bytes),
            9 => StreamEvent::Connected,
            10 => StreamEvent::Closed { failure: None },
            _ => {
                now = now + Duration::from_millis(u64::from(what) * u64::from(length));
                history.push((now, Input::Timer));
                continue;
            }
        };
        history.push((now, Input::Stream { stream, event }));
    }
    history
}

fn node() -> Config {
    Config::new(Name::from("me"), SocketAddr::from(([10, 0, 0, 1], 7946)))
}

/// Whatever happens to it, a node stays a member for itself, and within bounds.
fn check(swim: &Swim) {
    let member = swim.member(swim.name()).expect("we are a member");
    assert_eq!(member.state, State::Alive);
    assert!(swim.members().count() <= MEMBERS_MAX);
}

/// A history that a node of memberlist lives through.
pub fn gossip_swim(input: &[u8]) {
    let mut swim = Swim::new(node(), Chance::from_number(1)).expect("a configuration that works");
    swim.start(Time::ZERO);
    for (now, input) in history(input) {
        for output in swim.handle(now, input, &mut NoDelegate) {
            if let Output::Datagram { bytes, .. } = output {
                assert!(bytes.len() <= 1_405, "a datagram of {} bytes", bytes.len());
            }
        }
        check(&swim);
        assert!(
            swim.next_deadline().is_some_and(|at| at > now),
            "what was due has been done"
        );
    }
}

/// A history that a node of Serf lives through.
pub fn gossip_machine(input: &[u8]) {
    let config = SerfConfig::new(node());
    let mut serf = Serf::new(config, Chance::from_number(1)).expect("a configuration that works");
    serf.start(Time::ZERO);
    for (now, input) in history(input) {
        let clocks = serf.clocks();
        serf.handle(now, input);
        check(serf.membership());
        let own = serf
            .roster()
            .get(serf.membership().name())
            .expect("we are a member");
        assert_eq!(own.status, MemberStatus::Alive);
        assert!(
            clocks
                .iter()
                .zip(serf.clocks())
                .all(|(before, after)| *before <= after)
        );
        assert!(
            serf.queue_lengths()
                .iter()
                .all(|length| *length <= QUEUE_MAX)
        );
        assert!(
            serf.next_deadline().is_some_and(|at| at > now),
            "what was due has been done"
        );
    }
}

/// Inputs to begin from, good ones and nearly good ones.
pub fn seeds(reader: &str) -> Vec<Vec<u8>> {
    let mut chance = Chance::from_number(1);
    let packets = || {
        let parts: Vec<_> = messages().iter().map(Message::encode).collect();
        let mut packets = parts.clone();
        for bits in 0..4 {
            let (compress, crc) = (bits & 1 > 0, bits & 2 > 0);
            let options = PacketOptions {
                compress,
                crc,
                keyring: None,
            };
            packets.extend(seal_packet(&parts, options, &mut Chance::from_number(1)));
        }
        packets
    };
    let mut streams = Vec::new();
    for message in stream_messages() {
        for compress in [false, true] {
            let options = StreamOptions {
                compress,
                keyring: None,
            };
            streams.push(message.encode(options, &mut chance));
        }
    }
    let seeds = match reader {
        "gossip_packet" => packets(),
        "gossip_stream" => streams,
        "gossip_serf" => serf_messages(),
        _ => {
            let mut history = Vec::new();
            let above = serf_messages()
                .into_iter()
                .map(|bytes| Message::User(bytes).encode());
            let packets = packets().into_iter().chain(above);
            for packet in packets.filter(|packet| packet.len() < 256) {
                history.extend([&[0, packet.len() as u8], &packet[..], &[0xff, 0x03]].concat());
            }
            for stream in streams.into_iter().filter(|stream| stream.len() < 256) {
                history.extend([&[6, 0, 7, stream.len() as u8], &stream[..], &[10, 0]].concat());
            }
            vec![Bytes::from(history)]
        }
    };
    seeds.into_iter().map(|seed| seed.to_vec()).collect()
}

fn messages() -> Vec<Message> {
    let (node, from) = (Name::from("a"), Name::from("b"));
    let target = Some([10, 0, 0, 2].into());
    let alive = Alive {
        incarnation: 3,
        node: node.clone(),
        addr: target,
        port: 7946,
        meta: Bytes::from_static(b"\xff\x81\xa4role\xa3web"),
        versions: Versions::SERF,
    };
    let said = Accusation {
        incarnation: 3,
        node: node.clone(),
        from,
    };
    let us = Accusation {
        node: Name::from("me"),
        ..said.clone()
    };
    let indirect = IndirectPing {
        seq: 5,
        target,
        port: 7946,
        node,
        ..IndirectPing::default()
    };
    vec![
        Message::Alive(alive),
        Message::Suspect(said.clone()),
        Message::Suspect(us),
        Message::Dead(said),
        Message::Ping(Ping {
            seq: 300,
            ..Ping::default()
        }),
        Message::IndirectPing(indirect),
        Message::Ack(Ack {
            seq: 300,
            payload: Some(Bytes::from_static(b"\x01\x80")),
        }),
        Message::Nack { seq: 5 },
        Message::User(Bytes::from_static(b"\x03\x80")),
    ]
}

fn stream_messages() -> Vec<StreamMessage> {
    let node = |name: &str, state| NodeState {
        name: Name::from(name),
        addr: Some([10, 0, 0, 2].into()),
        port: 7946,
        meta: Bytes::from_static(b"\xff\x80"),
        incarnation: 300,
        state,
        versions: Versions::SERF,
    };
    let state = PushPull {
        join: true,
        nodes: vec![
            node("a", State::Alive),
            node("me", State::Dead),
            node("c", State::Left),
        ],
        user_state: Bytes::from_static(b"\x02\x80"),
    };
    vec![
        StreamMessage::PushPull(state),
        StreamMessage::Ping(Ping::default()),
        StreamMessage::Ack(Ack::default()),
        StreamMessage::User(Bytes::from_static(b"\x03\x80")),
        StreamMessage::Error(Name::from("no")),
    ]
}

fn serf_messages() -> Vec<Bytes> {
    let (node, ltime) = (Name::from("a"), LamportTime(300));
    let payload = Bytes::from_static(b"payload");
    let event = UserEvent {
        ltime,
        name: Name::from("deploy"),
        payload: payload.clone(),
        coalesce: true,
    };
    let tag = Filter::Tag {
        tag: Name::from("role"),
        expression: Name::from("^w"),
    };
    let query = Query {
        ltime,
        id: 9,
        filters: vec![Filter::Nodes(vec![node.clone()]).encode(), tag.encode()],
        name: Name::from("uptime"),
        ..Query::default()
    };
    let response = QueryResponse {
        ltime,
        id: 9,
        from: node.clone(),
        ..QueryResponse::default()
    };
    let relayed = SerfMessage::QueryResponse(response.clone()).encode();
    let slot = EventSlot {
        ltime,
        events: vec![(Name::from("deploy"), payload)],
    };
    let state = SerfState {
        status_ltimes: vec![(node.clone(), ltime)],
        left_members: vec![node.clone()],
        events: vec![None, Some(slot)],
        ..SerfState::default()
    };
    let intent = Intent {
        ltime,
        node: node.clone(),
        prune: true,
    };
    let key = KeyRequest {
        key: Bytes::from_static(&KEY),
    };
    let keys = KeyResponse {
        done: true,
        keys: vec![node.clone()],
        ..KeyResponse::default()
    };
    let member = crate::wire::serf::MemberRecord {
        name: node,
        ..Default::default()
    };
    let coordinate = Coordinate {
        vec: [0.5; 8],
        error: 1.5,
        adjustment: 0.0,
        height: 1e-5,
    };
    let tags = Tags(BTreeMap::from([(Name::from("role"), Name::from("web"))]));
    let messages = [
        SerfMessage::UserEvent(event),
        SerfMessage::Query(query),
        SerfMessage::QueryResponse(response),
        SerfMessage::State(state),
        SerfMessage::Join(intent.clone()),
        SerfMessage::Leave(intent),
        SerfMessage::Relay(Relay {
            port: 1,
            message: relayed,
            ..Relay::default()
        }),
    ];
    let mut seeds: Vec<_> = messages.iter().map(SerfMessage::encode).collect();
    seeds.extend([key.encode(), keys.encode(), coordinate.encode()]);
    seeds.push(ConflictResponse(Some(member)).encode());
    seeds.extend(tags.encode().ok());
    seeds
}
