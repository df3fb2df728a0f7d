//! Exchanges, joins, and what else goes on streams.

use bytes::Bytes;
use tidings_gossip::swim::{Command, Output, StreamEvent, StreamId};
use tidings_gossip::wire::{
    Ack, Keyring, Message, NodeState, Ping, PushPull, State, StreamMessage, StreamOptions,
    StreamReader, Versions,
};
use tidings_gossip::{Chance, Name};

use crate::script::{Script, addr, dialed, events, sent, written};

fn exchange(join: bool, names: &[&str]) -> StreamMessage {
    let node = |name: &&str| NodeState {
        name: Name::from(*name),
        addr: Some(addr(name).ip()),
        port: addr(name).port(),
        incarnation: 1,
        state: State::Alive,
        versions: Versions::SERF,
        ..NodeState::default()
    };
    StreamMessage::PushPull(PushPull {
        join,
        nodes: names.iter().map(node).collect(),
        user_state: Bytes::from_static(b"theirs"),
    })
}

fn bytes(message: &StreamMessage) -> StreamEvent {
    let options = StreamOptions::default();
    StreamEvent::Bytes(message.encode(options, &mut Chance::from_number(1)))
}

fn is_closed(outputs: &[Output], stream: StreamId) -> bool {
    outputs.contains(&Output::Close { stream })
}

#[test]
fn an_exchange_is_answered_and_merged() {
    let mut script = Script::new();
    let outputs = script.says_on_stream(1, &exchange(true, &["a", "b"]));
    let [StreamMessage::PushPull(answer)] = &written(&outputs)[..] else {
        panic!("{outputs:?}");
    };
    assert!(answer.join, "the answer repeats it");
    assert_eq!(answer.user_state, "state, join: true");
    let names: Vec<_> = answer
        .nodes
        .iter()
        .map(|node| node.name.to_string())
        .collect();
    assert_eq!(names, ["me"]);
    assert_eq!(events(&outputs), ["a joined", "b joined"]);
    let bytes = Bytes::from_static(b"theirs");
    assert!(outputs.contains(&Output::RemoteState {
        our_join: false,
        bytes
    }));
    assert!(is_closed(&outputs, StreamId::Accepted(1)));
}

#[test]
fn wrong_versions_are_answered_and_not_merged() {
    let mut script = Script::new();
    let StreamMessage::PushPull(mut state) = exchange(true, &["a", "b"]) else {
        panic!();
    };
    state.nodes[1].versions.delegate_current = 9;
    let outputs = script.says_on_stream(1, &StreamMessage::PushPull(state));
    assert_eq!((written(&outputs).len(), events(&outputs)), (1, vec![]));
    assert!(
        !outputs
            .iter()
            .any(|output| matches!(output, Output::RemoteState { .. }))
    );
    assert_eq!(script.swim.counters().merges_refused, 1);
}

#[test]
fn a_join_tells_how_it_went_with_each_address() {
    let mut script = Script::new();
    let addresses = vec![addr("a"), addr("b"), addr("c"), addr("d")];
    let outputs = script.command(Command::Join { join: 5, addresses });
    let streams = dialed(&outputs);
    assert_eq!(streams.len(), 4);
    let outputs = script.stream(streams[0].0, StreamEvent::Connected);
    let [StreamMessage::PushPull(request)] = &written(&outputs)[..] else {
        panic!("{outputs:?}");
    };
    assert!(request.join);
    let outputs = script.stream(streams[0].0, bytes(&exchange(true, &["a"])));
    assert_eq!(events(&outputs), ["a joined"]);
    let failure = Some("connection refused".to_owned());
    script.stream(streams[1].0, StreamEvent::Closed { failure });
    let refusal = StreamMessage::Error(Name::from("no"));
    script.stream(streams[2].0, bytes(&refusal));
    // The last one never says anything.
    let outputs = script.wait_ms(10_000);
    let failures = vec![
        (addr("b"), "connection refused".to_owned()),
        (addr("c"), "remote error: no".to_owned()),
        (addr("d"), "i/o timeout".to_owned()),
    ];
    assert!(is_closed(&outputs, streams[3].0));
    assert!(outputs.contains(&Output::JoinFinished {
        join: 5,
        contacted: 1,
        failures
    }));
}

#[test]
fn a_join_of_many_opens_few_streams_at_once() {
    let mut script = Script::new();
    let addresses: Vec<_> = (0..20).map(|number| addr(&number.to_string())).collect();
    let mut waiting = dialed(&script.command(Command::Join { join: 1, addresses }));
    assert_eq!(waiting.len(), 8);
    let mut tried = 0;
    let mut last = Vec::new();
    while let Some((stream, _)) = waiting.pop() {
        tried += 1;
        last = script.stream(stream, StreamEvent::Closed { failure: None });
        waiting.extend(dialed(&last));
    }
    assert_eq!(tried, 20);
    let [
        Output::JoinFinished {
            contacted: 0,
            failures,
            ..
        },
    ] = &last[..]
    else {
        panic!("{last:?}");
    };
    assert_eq!(failures.len(), 20);
    let none = script.command(Command::Join {
        join: 2,
        addresses: Vec::new(),
    });
    let failures = Vec::new();
    assert_eq!(
        none,
        [Output::JoinFinished {
            join: 2,
            contacted: 0,
            failures
        }]
    );
}

#[test]
fn pings_and_messages_on_streams_are_taken() {
    let mut script = Script::new();
    let ping = |node: &str| {
        let node = Name::from(node);
        StreamMessage::Ping(Ping {
            seq: 4,
            node,
            ..Ping::default()
        })
    };
    let outputs = script.says_on_stream(1, &ping("me"));
    assert_eq!(
        written(&outputs),
        [StreamMessage::Ack(Ack {
            seq: 4,
            payload: None
        })]
    );
    let outputs = script.says_on_stream(2, &ping("other"));
    assert_eq!(
        outputs,
        [Output::Close {
            stream: StreamId::Accepted(2)
        }]
    );
    let message = Bytes::from_static(b"\x03hello");
    let outputs = script.says_on_stream(3, &StreamMessage::User(message.clone()));
    assert!(outputs.contains(&Output::User {
        bytes: message.clone()
    }));

    let send = Command::SendOnStream {
        to: addr("a"),
        bytes: message.clone(),
    };
    let (stream, to) = dialed(&script.command(send))[0];
    assert_eq!(to, addr("a"));
    let outputs = script.stream(stream, StreamEvent::Connected);
    assert_eq!(written(&outputs), [StreamMessage::User(message)]);
    assert!(is_closed(&outputs, stream));
}

#[test]
fn a_peer_that_does_not_encrypt_is_told_so_encrypted() {
    let ring = || Keyring::new([[1; 16]]).unwrap();
    let mut script = Script::with(|config| config.keyring = Some(ring()));
    let outputs = script.says_on_stream(1, &exchange(false, &["a"]));
    let [Output::Write { bytes, .. }, Output::Close { .. }] = &outputs[..] else {
        panic!("{outputs:?}");
    };
    let told = StreamReader::default().push(bytes, Some(&ring())).unwrap();
    let text = "Encryption is configured but remote state is not encrypted";
    assert_eq!(told, Some(StreamMessage::Error(Name::from(text))));

    let mut plain = Script::new();
    let from = addr("a");
    let stream = StreamId::Accepted(1);
    plain.stream(stream, StreamEvent::Accepted { from });
    let outputs = plain.stream(stream, StreamEvent::Bytes(bytes.clone()));
    let text = "Remote state is encrypted and encryption is not configured";
    assert_eq!(written(&outputs), [StreamMessage::Error(Name::from(text))]);
    assert_eq!(plain.swim.counters().streams_failed, 1);
}

#[test]
fn the_whole_state_is_exchanged_at_intervals() {
    let mut script = Script::among(&["a"]);
    let mut exchanges = 0;
    for _ in 0..90 {
        let outputs = script.wait_ms(1_000);
        for (stream, _) in dialed(&outputs) {
            let written = written(&script.stream(stream, StreamEvent::Connected));
            exchanges += usize::from(
                matches!(&written[..], [StreamMessage::PushPull(state)] if !state.join),
            );
        }
        for (_, message) in sent(&outputs) {
            if let Message::Ping(ping) = message {
                let (seq, payload) = (ping.seq, None);
                script.says("a", Message::Ack(Ack { seq, payload }));
            }
        }
    }
    assert_eq!(exchanges, 3);
}

#[test]
fn g9_streams_are_few_and_do_not_stay() {
    let mut script = Script::new();
    let from = addr("x");
    for number in 0..128 {
        let outputs = script.stream(StreamId::Accepted(number), StreamEvent::Accepted { from });
        assert_eq!(outputs, []);
    }
    let stream = StreamId::Accepted(128);
    let outputs = script.stream(stream, StreamEvent::Accepted { from });
    assert_eq!(outputs, [Output::Close { stream }]);
    assert_eq!(script.swim.counters().streams_refused, 1);
    let outputs = script.wait_ms(10_000);
    let closed = outputs
        .iter()
        .filter(|output| matches!(output, Output::Close { .. }));
    assert_eq!(closed.count(), 128);
    assert_eq!(script.stream(stream, StreamEvent::Accepted { from }), []);
    // What comes on a stream that is gone, or never was, changes nothing.
    for stream in [StreamId::Accepted(1), StreamId::Dialed(9)] {
        assert_eq!(script.stream(stream, bytes(&exchange(true, &["a"]))), []);
        assert_eq!(
            script.stream(stream, StreamEvent::Closed { failure: None }),
            []
        );
    }
    assert_eq!(script.swim.members().count(), 1);
}
