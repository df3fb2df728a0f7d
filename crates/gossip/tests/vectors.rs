//! Bytes that real agents sent, decoded and encoded again to the last bit; and what else they accept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tidings_gossip::wire::serf::{
    ConflictResponse, Coordinate, EventSlot, Filter, Intent, KeyRequest, KeyResponse, LamportTime,
    MemberRecord, MemberStatus, Query, QueryFlags, QueryResponse, Relay, SerfMessage, SerfState,
    Tags, UserEvent,
};
use tidings_gossip::wire::{
    Accusation, Ack, Alive, IndirectPing, Message, NodeState, PacketOptions, Ping, PushPull,
    Source, State, StreamMessage, StreamOptions, StreamReader, Versions, open_packet, seal_packet,
};
use tidings_gossip::{Chance, Name};

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Decodes to `message`, and encodes to the same bytes.
fn both_ways(bytes: &Bytes, message: &Message) {
    assert_eq!(Message::decode(bytes).as_ref(), Ok(message));
    assert_eq!(&message.encode(), bytes);
}

fn serf_both_ways(bytes: &Bytes, message: &SerfMessage) {
    assert_eq!(SerfMessage::decode(bytes).as_ref(), Ok(message));
    assert_eq!(&message.encode(), bytes);
}

#[test]
fn ping() {
    let bytes = unhex(
        "0085a44e6f6465a5616c706861a55365714e6f01aa536f7572636541646472a47f000002
         aa536f757263654e6f6465a462657461aa536f75726365506f7274cd461b",
    );
    let source = Source {
        addr: Some([127, 0, 0, 2].into()),
        port: 0x461b,
        node: Name::from("beta"),
    };
    let node = Name::from("alpha");
    both_ways(
        &bytes,
        &Message::Ping(Ping {
            seq: 1,
            node,
            source,
        }),
    );
}

#[test]
fn alive() {
    let bytes = unhex(
        "0486a441646472a47f000001ab496e6361726e6174696f6e01a44d657461b0ff82a4726f6c65a3776562a26463
         a178a44e6f6465a5616c706861a4506f7274cd461aa356736ea6010502020505",
    );
    let meta = Bytes::from_static(b"\xff\x82\xa4role\xa3web\xa2dc\xa1x");
    let alive = Alive {
        incarnation: 1,
        node: Name::from("alpha"),
        addr: Some(LOCALHOST),
        port: 0x461a,
        meta: meta.clone(),
        versions: Versions::SERF,
    };
    both_ways(&bytes, &Message::Alive(alive));
    let tags = [("dc", "x"), ("role", "web")];
    let tags: BTreeMap<_, _> = tags.map(|(tag, value)| (tag.into(), value.into())).into();
    assert_eq!(Tags::decode(&meta), Ok(Tags(tags)));
}

#[test]
fn user_event_with_a_checksum() {
    let packet = unhex(
        "0cc127d67a0803 84a24343c3a54c54696d6501a44e616d65a66465706c6f79
         a75061796c6f6164a568656c6c6f",
    );
    let opened = open_packet(packet.clone(), None).unwrap();
    let [Message::User(bytes)] = &opened.messages[..] else {
        panic!("{opened:?}");
    };
    let event = UserEvent {
        ltime: LamportTime(1),
        name: Name::from("deploy"),
        payload: Bytes::from_static(b"hello"),
        coalesce: true,
    };
    serf_both_ways(bytes, &SerfMessage::UserEvent(event));
    let options = PacketOptions {
        crc: true,
        ..PacketOptions::default()
    };
    let again = seal_packet(
        &[opened.messages[0].encode()],
        options,
        &mut Chance::from_number(1),
    );
    assert_eq!(again, [packet]);
}

#[test]
fn join_intent() {
    let bytes = unhex("08 01 82a54c54696d6501a44e6f6465a462657461");
    let intent = Intent {
        ltime: LamportTime(1),
        node: Name::from("beta"),
        prune: false,
    };
    serf_both_ways(&bytes.slice(1..), &SerfMessage::Join(intent));
    both_ways(&bytes, &Message::User(bytes.slice(1..)));
}

#[test]
fn ack_with_a_coordinate() {
    let coordinate = Coordinate {
        vec: [0.5; 8],
        error: 1.5,
        adjustment: -0.25,
        height: 1e-5,
    };
    let payload = coordinate.encode();
    assert_eq!(payload.len(), 130);
    let bytes = [
        &unhex("0282a75061796c6f6164da0082")[..],
        &unhex("0184aa41646a7573746d656e74cbbfd0000000000000a54572726f72cb3ff8000000000000")[..],
        &unhex("a6486569676874cb3ee4f8b588e368f1a356656398")[..],
        &unhex("cb3fe0000000000000").repeat(8)[..],
        &unhex("a55365714e6f01")[..],
    ]
    .concat();
    let ack = Ack {
        seq: 1,
        payload: Some(payload.clone()),
    };
    both_ways(&Bytes::from(bytes), &Message::Ack(ack));
    assert_eq!(Coordinate::decode(&payload), Ok(coordinate));
    both_ways(
        &unhex("0282a75061796c6f6164c0a55365714e6f01"),
        &Message::Ack(Ack {
            seq: 1,
            payload: None,
        }),
    );
    let not_finite = Coordinate {
        height: f64::NAN,
        ..coordinate
    };
    assert!(Coordinate::decode(&not_finite.encode()).is_err());
}

#[test]
fn push_pull() {
    // An idle agent's user state: 512 empty slots.
    let state = SerfState {
        ltime: LamportTime(2),
        status_ltimes: vec![
            (Name::from("a"), LamportTime(1)),
            (Name::from("b"), LamportTime(1)),
        ],
        event_ltime: LamportTime(1),
        events: vec![None; 512],
        query_ltime: LamportTime(1),
        ..SerfState::default()
    };
    let user_state = SerfMessage::State(state).encode();
    let begin = unhex("0286aa4576656e744c54696d6501a64576656e7473dc0200c0c0");
    assert_eq!(user_state[..begin.len()], begin);
    assert!(
        user_state
            .windows(12)
            .any(|window| window == b"\xaaQueryLTime\x01")
    );
    serf_both_ways(&user_state, &SerfMessage::decode(&user_state).unwrap());

    let node = NodeState {
        name: Name::from("a"),
        addr: Some(LOCALHOST),
        port: 7946,
        meta: Bytes::from_static(b"\xff\x80"),
        incarnation: 3,
        state: State::Left,
        versions: Versions::SERF,
    };
    let message = StreamMessage::PushPull(PushPull {
        join: true,
        nodes: vec![node],
        user_state,
    });
    let bytes = message.encode(StreamOptions::default(), &mut Chance::from_number(1));
    let begin = unhex("0683a44a6f696ec3a54e6f64657301ac5573657253746174654c656ecd02");
    assert_eq!(bytes[..begin.len()], begin);
    let node = unhex(
        "87a441646472a47f000001ab496e6361726e6174696f6e03a44d657461a2ff80a44e616d65a161a4506f7274
         cd1f0aa5537461746503a356736ea6010502020505",
    );
    assert_eq!(bytes[begin.len() + 1..][..node.len()], node);
    let read = StreamReader::default().push(&bytes, None);
    assert_eq!(read, Ok(Some(message)));
}

#[test]
fn relay() {
    let head = unhex(
        "09 82a8446573744164647283a24950a47f000001a4506f7274cd4719a45a6f6e65a0
         a8446573744e616d65a27131",
    );
    let response = SerfMessage::QueryResponse(QueryResponse {
        ltime: LamportTime(7),
        id: 9,
        from: Name::from("b"),
        flags: QueryFlags::ACK,
        payload: Bytes::new(),
    });
    let bytes = Bytes::from([&head[..], &response.encode()].concat());
    assert_eq!(response.encode()[..8], unhex("0585a5466c616773")[..]);
    let relay = Relay {
        addr: Some(LOCALHOST),
        port: 0x4719,
        node: Name::from("q1"),
        message: response.encode(),
    };
    serf_both_ways(&bytes, &SerfMessage::Relay(relay));
    let twice = Bytes::from([&head[..], &bytes].concat());
    assert!(SerfMessage::decode(&twice).is_err(), "a relay in a relay");
}

#[test]
fn other_dialects_are_read() {
    let expected = Message::Suspect(Accusation {
        incarnation: 300,
        node: Name::from("b"),
        from: Name::from("a"),
    });
    for (what, bytes) in [
        (
            "any order, str8",
            "0383 d9044e6f6465d90162 ab496e6361726e6174696f6ecd012c a446726f6da161",
        ),
        (
            "signed",
            "0383 a446726f6da161 ab496e6361726e6174696f6ed1012c a44e6f6465a162",
        ),
        ("positional", "0393 cd012c a162 a161"),
        ("positional and longer", "0394 cd012c a162 a161 81a178c3"),
        (
            "unknown fields",
            "0384 a37a7a7a9381a178c0c3cb0000000000000000 a446726f6da161
                            ab496e6361726e6174696f6ecd012c a44e6f6465a162",
        ),
        (
            "bin",
            "0383 a446726f6dc40161 ab496e6361726e6174696f6ecd012c a44e6f6465c500 0162",
        ),
        ("bytes after it", "0393 cd012c a162 a161 ffff"),
    ] {
        assert_eq!(
            Message::decode(&unhex(bytes)),
            Ok(expected.clone()),
            "{what}"
        );
    }
    let alive = unhex("0482 a44e6f6465a2fffe a356736e96010502020505");
    let Ok(Message::Alive(alive)) = Message::decode(&alive) else {
        panic!("versions as a list of numbers");
    };
    assert_eq!(
        (alive.versions, &alive.node.bytes()[..]),
        (Versions::SERF, &b"\xff\xfe"[..])
    );
    // Keys are what they are: in small letters they are others.
    let lower = Message::decode(&unhex("0382 a46e6f6465a162 a466726f6da161"));
    assert_eq!(lower, Ok(Message::Suspect(Accusation::default())));
}

#[test]
fn serfs_other_messages_come_back_as_they_were() {
    let query = Query {
        ltime: LamportTime(u64::MAX),
        id: u32::MAX,
        addr: Some(LOCALHOST),
        port: 7946,
        source_node: Name::from("a"),
        filters: vec![
            Filter::Nodes(vec![Name::from("a"), Name::from("b")]).encode(),
            Filter::Tag {
                tag: Name::from("role"),
                expression: Name::from("^w"),
            }
            .encode(),
        ],
        flags: QueryFlags::ACK,
        relay_factor: 2,
        timeout: Duration::from_millis(6400),
        name: Name::from("uptime"),
        payload: Bytes::from_static(b"\xff"),
    };
    for filter in &query.filters {
        assert_eq!(&Filter::decode(filter).unwrap().encode(), filter);
    }
    assert!(Filter::decode(&Bytes::new()).is_err());
    assert!(Filter::decode(&Bytes::from_static(b"\x02\x90")).is_err());
    let slot = EventSlot {
        ltime: LamportTime(5),
        events: vec![(Name::from("deploy"), Bytes::from_static(b"x"))],
    };
    let state = SerfState {
        left_members: vec![Name::from("c")],
        events: vec![None, Some(slot)],
        ..SerfState::default()
    };
    let leave = Intent {
        ltime: LamportTime(9),
        node: Name::from("c"),
        prune: true,
    };
    for message in [
        SerfMessage::Query(query),
        SerfMessage::State(state),
        SerfMessage::Leave(leave),
    ] {
        serf_both_ways(&message.encode(), &message);
    }

    let member = MemberRecord {
        name: Name::from("a"),
        addr: Some(LOCALHOST),
        port: 1,
        tags: Tags::decode(&Bytes::from_static(b"web")).unwrap(),
        status: MemberStatus::Alive,
        versions: Versions::SERF,
    };
    for response in [ConflictResponse(Some(member)), ConflictResponse(None)] {
        assert_eq!(ConflictResponse::decode(&response.encode()), Ok(response));
    }
    assert_eq!(ConflictResponse(None).encode()[..], [6, 0xc0]);
    let request = KeyRequest {
        key: Bytes::from_static(&[7; 16]),
    };
    assert_eq!(KeyRequest::decode(&request.encode()), Ok(request.clone()));
    let response = KeyResponse {
        done: true,
        keys: vec![Name::from("a2V5")],
        ..KeyResponse::default()
    };
    assert_eq!(KeyResponse::decode(&response.encode()), Ok(response));
    assert!(KeyResponse::decode(&request.encode()).is_err());
}

/// The encoded size decides what may be sent; the formula is the agents' own.
#[test]
fn a_user_event_has_the_size_that_limits_count_with() {
    for (ltime, digits) in [(1, 1), (200, 2), (300, 3), (70_000, 5), (1 << 40, 9)] {
        for (name, payload) in [(1, 481), (31, 40), (5, 32)] {
            let event = SerfMessage::UserEvent(UserEvent {
                ltime: LamportTime(ltime),
                name: Name::from("n".repeat(name)),
                payload: Bytes::from(vec![1; payload]),
                coalesce: true,
            });
            assert_eq!(event.encode().len(), 29 + digits + name + payload);
        }
    }
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Name::new(Bytes::from(bytes)))
}

fn raw() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn source() -> impl Strategy<Value = Source> {
    (any::<Option<[u8; 4]>>(), any::<u16>(), name()).prop_map(|(addr, port, node)| Source {
        addr: addr.map(IpAddr::from),
        port,
        node,
    })
}

fn accusation() -> impl Strategy<Value = Accusation> {
    (any::<u32>(), name(), name()).prop_map(|(incarnation, node, from)| Accusation {
        incarnation,
        node,
        from,
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u32>(), name(), source()).prop_map(|(seq, node, source)| Message::Ping(Ping {
            seq,
            node,
            source
        })),
        (
            any::<u32>(),
            any::<[u8; 4]>(),
            any::<u16>(),
            name(),
            any::<bool>(),
            source()
        )
            .prop_map(|(seq, target, port, node, nack, source)| {
                let target = Some(target.into());
                Message::IndirectPing(IndirectPing {
                    seq,
                    target,
                    port,
                    node,
                    nack,
                    source,
                })
            }),
        (any::<u32>(), prop::option::of(raw()))
            .prop_map(|(seq, payload)| Message::Ack(Ack { seq, payload })),
        any::<u32>().prop_map(|seq| Message::Nack { seq }),
        accusation().prop_map(Message::Suspect),
        accusation().prop_map(Message::Dead),
        (
            any::<u32>(),
            name(),
            any::<[u8; 16]>(),
            any::<u16>(),
            raw(),
            any::<[u8; 6]>()
        )
            .prop_map(|(incarnation, node, addr, port, meta, versions)| {
                let addr = Some(IpAddr::from(addr).to_canonical());
                let versions = versions.into();
                Message::Alive(Alive {
                    incarnation,
                    node,
                    addr,
                    port,
                    meta,
                    versions,
                })
            }),
        raw().prop_map(Message::User),
    ]
}

proptest! {
    #[test]
    fn any_message_comes_back_as_it_was(message in message()) {
        let bytes = message.encode();
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn any_messages_come_through_any_datagram(messages in prop::collection::vec(message(), 1..20), compress: bool, crc: bool) {
        let parts: Vec<_> = messages.iter().map(Message::encode).collect();
        let options = PacketOptions { compress, crc, keyring: None };
        let mut came = Vec::new();
        for packet in seal_packet(&parts, options, &mut Chance::from_number(1)) {
            let opened = open_packet(packet, None).unwrap();
            prop_assert_eq!(opened.first_error, None);
            came.extend(opened.messages);
        }
        prop_assert_eq!(came, messages);
    }

    #[test]
    fn any_user_event_comes_back_as_it_was(ltime: u64, name in name(), payload in raw(), coalesce: bool) {
        let event = SerfMessage::UserEvent(UserEvent { ltime: LamportTime(ltime), name, payload, coalesce });
        prop_assert_eq!(SerfMessage::decode(&event.encode()), Ok(event));
    }

    #[test]
    fn g9_any_bytes_are_a_message_or_refused(mut bytes: Vec<u8>, kind in 0_u8..14) {
        bytes.insert(0, kind);
        let bytes = Bytes::from(bytes);
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
        if let Ok(message) = SerfMessage::decode(&bytes) {
            // Not equal as bytes, but as what they say.
            prop_assert!(SerfMessage::decode(&message.encode()).is_ok());
        }
        let _ = (ConflictResponse::decode(&bytes), KeyRequest::decode(&bytes), KeyResponse::decode(&bytes));
        let _ = (Filter::decode(&bytes), Tags::decode(&bytes), Coordinate::decode(&bytes));
    }
}
