//! Asking members whether they are there.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::Chance;
use tidings_gossip::Name;
use tidings_gossip::swim::{Output, StreamEvent};
use tidings_gossip::wire::{
    Ack, Alive, IndirectPing, Message, Ping, Source, State, StreamMessage, StreamOptions, Versions,
};

use crate::script::{Script, addr, alive, dialed, said, sent, written};

fn ack(seq: u32) -> Message {
    let payload = Some(Bytes::from_static(b"theirs"));
    Message::Ack(Ack { seq, payload })
}

fn acks(outputs: &[Output]) -> Vec<(SocketAddr, Ack)> {
    let ack = |(to, message)| match message {
        Message::Ack(ack) => Some((to, ack)),
        _ => None,
    };
    sent(outputs).into_iter().filter_map(ack).collect()
}

#[test]
fn an_answer_in_time_is_measured() {
    let mut script = Script::among(&["a"]);
    let (to, seq) = script.next_ping();
    assert_eq!(to, addr("a"));
    script.wait_ms(3);
    let outputs = script.says("a", ack(seq));
    let answered = Output::Answered {
        node: Name::from("a"),
        round_trip: Duration::from_millis(3),
        payload: Some(Bytes::from_static(b"theirs")),
    };
    assert!(outputs.contains(&answered), "{outputs:?}");
    assert_eq!(
        script.says("a", ack(seq)),
        [],
        "the same again is no answer"
    );
    script.wait_ms(990);
    assert_eq!(script.state("a"), Some(State::Alive));
}

#[test]
fn without_an_answer_others_are_asked_then_it_is_suspect() {
    let mut script = Script::among(&["a", "b", "c", "d", "e"]);
    let (target, seq) = script.next_ping();
    let outputs = script.wait_ms(500);
    let asked: Vec<_> = sent(&outputs)
        .into_iter()
        .filter_map(|(to, message)| match message {
            Message::IndirectPing(ping) => Some((to, ping)),
            _ => None,
        })
        .collect();
    assert_eq!(asked.len(), 3);
    for (helper, ping) in &asked {
        assert_ne!(*helper, target);
        assert_eq!((ping.seq, ping.nack), (seq, true));
        assert_eq!((ping.target, ping.port), (Some(target.ip()), target.port()));
        assert_eq!(ping.source.node, Name::from("me"));
    }
    assert!(
        dialed(&outputs).iter().any(|(_, to)| *to == target),
        "and on a stream"
    );
    // Two of the three helpers are there themselves.
    script.says("b", Message::Nack { seq });
    script.says("b", Message::Nack { seq });
    assert_eq!(script.swim.health_score(), 0);
    script.wait_ms(500);
    let suspect = script
        .swim
        .members()
        .find(|member| member.state == State::Suspect)
        .unwrap();
    assert_eq!(suspect.addr, target);
    assert_eq!(
        script.swim.health_score(),
        1,
        "for the helper that said nothing"
    );
    assert_eq!(script.swim.counters().probes_failed, 1);
}

#[test]
fn an_answer_through_others_or_on_a_stream_will_do() {
    let mut script = Script::among(&["a", "b"]);
    let (_, seq) = script.next_ping();
    script.wait_ms(600);
    let outputs = script.says("b", ack(seq));
    assert!(
        !outputs
            .iter()
            .any(|output| matches!(output, Output::Answered { .. })),
        "not measured"
    );
    script.wait_ms(350);
    assert_eq!(script.swim.counters().probes_failed, 0);

    let mut script = Script::among(&["a"]);
    let (_, seq) = script.next_ping();
    let (stream, _) = dialed(&script.wait_ms(500))[0];
    let outputs = script.stream(stream, StreamEvent::Connected);
    let [StreamMessage::Ping(ping)] = &written(&outputs)[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!((ping.seq, &ping.node), (seq, &Name::from("a")));
    let answer = StreamMessage::Ack(Ack { seq, payload: None });
    let bytes = answer.encode(
        StreamOptions {
            compress: true,
            keyring: None,
        },
        &mut Chance::from_number(1),
    );
    script.stream(stream, StreamEvent::Bytes(bytes));
    script.wait_ms(500);
    assert_eq!(
        (script.state("a"), script.swim.counters().probes_failed),
        (Some(State::Alive), 0)
    );
}

#[test]
fn old_peers_are_not_asked_for_what_they_do_not_know() {
    let mut script = Script::new();
    let versions = Versions {
        protocol_max: 2,
        ..Versions::SERF
    };
    for name in ["a", "b"] {
        script.says(
            "x",
            Message::Alive(Alive {
                versions,
                ..alive(name, 1)
            }),
        );
    }
    script.next_ping();
    let outputs = script.wait_ms(500);
    assert_eq!(dialed(&outputs), []);
    let nacks = sent(&outputs)
        .into_iter()
        .filter(|(_, message)| matches!(message, Message::IndirectPing(ping) if ping.nack));
    assert_eq!(nacks.count(), 0);
    script.wait_ms(500);
    assert_eq!(
        script.swim.health_score(),
        1,
        "no helper could say that it is there"
    );
}

#[test]
fn a_suspect_is_told_with_the_ping() {
    let mut script = Script::among(&["a"]);
    script.says("x", Message::Suspect(said("a", 1, "x")));
    loop {
        let deadline = script.swim.next_deadline().unwrap();
        script.now = deadline;
        let outputs = script.input(tidings_gossip::swim::Input::Timer);
        let messages: Vec<_> = sent(&outputs)
            .into_iter()
            .map(|(_, message)| message)
            .collect();
        if let [Message::Ping(_), rest @ ..] = &messages[..] {
            assert_eq!(rest, [Message::Suspect(said("a", 1, "me"))]);
            return;
        }
    }
}

#[test]
fn bad_health_gives_others_more_time() {
    let mut script = Script::among(&["a"]);
    script.says("x", Message::Suspect(said("me", 1, "x")));
    assert_eq!(script.swim.health_score(), 1);
    let (_, seq) = script.next_ping();
    script.wait_ms(1_900);
    assert_eq!(
        script.state("a"),
        Some(State::Alive),
        "two intervals instead of one"
    );
    script.says("a", ack(seq));
    assert_eq!(
        (script.state("a"), script.swim.health_score()),
        (Some(State::Alive), 0)
    );
}

#[test]
fn pings_are_answered_where_the_asker_says_when_they_are_for_us() {
    let mut script = Script::new();
    let source = Source {
        addr: Some(addr("b").ip()),
        port: addr("b").port(),
        node: Name::from("b"),
    };
    let ping = |node: &str, source: &Source| {
        let (node, source) = (Name::from(node), source.clone());
        Message::Ping(Ping {
            seq: 9,
            node,
            source,
        })
    };
    let answer = Ack {
        seq: 9,
        payload: Some(Bytes::from_static(b"payload")),
    };
    assert_eq!(
        acks(&script.says("a", ping("me", &source))),
        [(addr("b"), answer.clone())]
    );
    let nobody = Source::default();
    assert_eq!(
        acks(&script.says("a", ping("", &nobody))),
        [(addr("a"), answer)]
    );
    assert_eq!(script.says("a", ping("other", &source)), []);
}

#[test]
fn helping_relays_the_answer_or_tells_that_there_was_none() {
    let mut script = Script::new();
    let request = |seq, nack| {
        Message::IndirectPing(IndirectPing {
            seq,
            target: Some(addr("b").ip()),
            port: addr("b").port(),
            node: Name::from("b"),
            nack,
            source: Source::default(),
        })
    };
    let pinged = |outputs: &[Output]| {
        sent(outputs)
            .into_iter()
            .find_map(|(to, message)| match message {
                Message::Ping(ping) => Some((to, ping)),
                _ => None,
            })
    };
    let (to, ping) = pinged(&script.says("a", request(77, true))).unwrap();
    assert_eq!((to, &ping.node), (addr("b"), &Name::from("b")));
    assert_eq!(ping.source.node, Name::from("me"));
    let relayed = Ack {
        seq: 77,
        payload: None,
    };
    assert_eq!(
        acks(&script.says("b", ack(ping.seq))),
        [(addr("a"), relayed)]
    );
    let nacks = |outputs: &[Output]| {
        let nacks = sent(outputs).into_iter();
        nacks
            .filter(|(_, message)| matches!(message, Message::Nack { seq: 78 }))
            .count()
    };
    assert_eq!(nacks(&script.wait_ms(1_000)), 0);
    let (_, ping) = pinged(&script.says("a", request(78, true))).unwrap();
    assert_eq!(nacks(&script.wait_ms(499)), 0);
    assert_eq!(nacks(&script.wait_ms(1)), 1);
    assert_eq!(script.says("b", ack(ping.seq)), [], "too late");
    script.says("a", request(79, false));
    assert_eq!(sent(&script.wait_ms(1_000)), []);
}

#[test]
fn g9_help_has_a_bound() {
    let mut script = Script::new();
    let request = Message::IndirectPing(IndirectPing {
        target: Some(addr("b").ip()),
        port: 1,
        ..IndirectPing::default()
    });
    for _ in 0..4_100 {
        script.says("a", request.clone());
    }
    assert_eq!(script.swim.counters().helping_refused, 4);
    script.wait_ms(1_000);
    script.says("a", request);
    assert_eq!(script.swim.counters().helping_refused, 4);
}
