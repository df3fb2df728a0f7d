//! Events: handed on once, passed on as they came; and moments that cannot be.

use std::net::SocketAddr;

use bytes::Bytes;
use tidings_gossip::serf::{EventError, Snapshot};
use tidings_gossip::swim::{Input, StreamEvent, StreamId};
use tidings_gossip::wire::serf::{
    EventSlot, Intent, LamportTime, MemberStatus, SerfMessage, SerfState, UserEvent,
};
use tidings_gossip::wire::{Message, PushPull, StreamMessage, StreamOptions};
use tidings_gossip::{Chance, Name, Time};

use crate::pool::{Pool, STRANGER, name, serf, user_event};

#[test]
fn an_event_reaches_each_once_as_the_bytes_that_were_sent() {
    let mut pool = Pool::joined(6);
    (0..6).for_each(|node| drop(pool.told(node)));
    pool.passed_on.clear();
    pool.event(2, "deploy", "v1");
    pool.seconds(3);
    for node in 0..6 {
        assert_eq!(pool.told(node), ["1 deploy v1"], "{node}");
    }
    let sent = SerfMessage::UserEvent(UserEvent {
        ltime: LamportTime(1),
        name: Name::from("deploy"),
        payload: Bytes::from_static(b"v1"),
        coalesce: false,
    });
    assert!(pool.passed_on.len() > 6);
    assert!(pool.passed_on.iter().all(|bytes| *bytes == sent.encode()));
    assert_eq!(pool.nodes[5].clocks()[1], LamportTime(2));
    pool.event(5, "deploy", "v2");
    pool.seconds(3);
    assert_eq!(pool.told(0), ["2 deploy v2"]);
    assert_eq!(
        pool.nodes[0].queue_lengths(),
        [0, 0, 0],
        "all has been told"
    );
}

/// Other dialects, too: whatever came is what goes on.
#[test]
fn what_is_passed_on_is_what_came() {
    let mut pool = Pool::joined(2);
    pool.passed_on.clear();
    let odd = Bytes::from_static(
        b"\x03\x83\xa4Name\xd9\x02\xff\xfe\xa5LTime\xd2\x00\x00\x00\x09\xa3new\xc3",
    );
    let bytes = Message::User(odd.clone()).encode();
    let from = STRANGER.parse().unwrap();
    pool.waiting.push_back((0, Input::Datagram { from, bytes }));
    pool.seconds(3);
    assert!(!pool.passed_on.is_empty());
    assert!(pool.passed_on.iter().all(|bytes| *bytes == odd));
    assert_eq!(pool.nodes[1].clocks()[1], LamportTime(10));
}

#[test]
fn events_that_are_too_long_are_refused_in_serfs_words() {
    let mut node = serf(0, |_| {});
    node.start(Time::ZERO);
    let mut send = |length: usize| {
        let payload = Bytes::from(vec![b'x'; length]);
        node.send_event(Name::from("e"), payload, true)
            .map(|outputs| outputs.len())
    };
    assert_eq!(send(481), Ok(1));
    let refused = send(482).unwrap_err();
    assert_eq!(refused, EventError::AfterEncoding { limit: 512 });
    let text = "encoded user event exceeds configured limit of 512 bytes after encoding";
    assert_eq!(refused.to_string(), text);
    let text = "user event exceeds configured limit of 512 bytes before encoding";
    assert_eq!(send(512).unwrap_err().to_string(), text);
}

#[test]
fn who_joins_gets_earlier_events_in_their_order_when_it_wants_them() {
    for replay in [false, true] {
        let nodes = vec![serf(0, |_| {}), serf(1, |config| config.replay = replay)];
        let mut pool = Pool::of(nodes);
        // Moments whose slots lie the other way round.
        for ltime in [511, 512, 513] {
            pool.says(0, &user_event(ltime, "e"));
        }
        pool.join(1, 0);
        pool.seconds(3);
        let events: Vec<_> = pool
            .told(1)
            .into_iter()
            .filter(|word| word.contains(" e "))
            .collect();
        let expected: &[&str] = if replay {
            &["511 e ", "512 e ", "513 e "]
        } else {
            &[]
        };
        assert_eq!(events, expected);
        pool.event(0, "later", "");
        pool.seconds(3);
        assert_eq!(pool.told(1).last().unwrap(), "514 later ");
    }
}

#[test]
fn a_life_that_goes_on_does_not_hear_the_same_again() {
    let mut pool = Pool::of(vec![
        serf(0, |_| {}),
        serf(1, |config| config.replay = true),
    ]);
    let snapshot = Snapshot::replay(b"clock: 4\nevent-clock: 7\nquery-clock: 2\n", false);
    pool.nodes[1].resume(&snapshot);
    for ltime in [6, 7, 8] {
        pool.says(0, &user_event(ltime, "e"));
    }
    pool.join(1, 0);
    pool.seconds(3);
    let events: Vec<_> = pool
        .told(1)
        .into_iter()
        .filter(|word| word.contains(" e "))
        .collect();
    assert_eq!(events, ["8 e "]);
}

#[test]
fn g9_moments_that_cannot_be_change_no_clock() {
    let mut pool = Pool::joined(2);
    let before = pool.nodes[0].clocks();
    for absurd in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let ltime = LamportTime(absurd);
        let intent = Intent {
            ltime,
            node: name(1),
            prune: true,
        };
        pool.says(0, &user_event(absurd, "e"));
        pool.says(0, &SerfMessage::Leave(intent.clone()));
        pool.says(0, &SerfMessage::Join(intent));
        let slot = EventSlot {
            ltime,
            events: vec![(Name::from("e"), Bytes::new())],
        };
        let state = SerfState {
            ltime,
            event_ltime: ltime,
            query_ltime: ltime,
            status_ltimes: vec![(name(1), ltime)],
            left_members: vec![name(1)],
            events: vec![Some(slot)],
        };
        let state = StreamMessage::PushPull(PushPull {
            join: true,
            user_state: SerfMessage::State(state).encode(),
            ..PushPull::default()
        });
        let stream = StreamId::Accepted(absurd);
        let event = StreamEvent::Accepted {
            from: STRANGER.parse().unwrap(),
        };
        pool.waiting.push_back((0, Input::Stream { stream, event }));
        let bytes = state.encode(StreamOptions::default(), &mut Chance::from_number(1));
        let event = StreamEvent::Bytes(bytes);
        pool.waiting.push_back((0, Input::Stream { stream, event }));
        pool.deliver();
    }
    assert_eq!(pool.nodes[0].clocks(), before);
    assert!(pool.nodes[0].counters().messages_refused >= 9);
    assert_eq!(pool.status(0, 1), Some(MemberStatus::Alive));
    pool.event(0, "e", "");
    pool.seconds(3);
    assert!(pool.told(1).last().unwrap().ends_with(" e "));
}

#[test]
fn g9_messages_that_are_none_are_counted() {
    let mut pool = Pool::joined(2);
    let from: SocketAddr = STRANGER.parse().unwrap();
    for bytes in [
        &b"\x08"[..],
        b"\x08\xff",
        b"\x08\x03\xc1",
        b"\x08\x02\x80",
        b"\x08\x00\x91",
    ] {
        let bytes = Bytes::from_static(bytes);
        pool.waiting.push_back((0, Input::Datagram { from, bytes }));
    }
    pool.deliver();
    assert_eq!(pool.nodes[0].counters().messages_refused, 5);
}
