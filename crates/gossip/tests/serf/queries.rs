//! Asking all, and their answers.

use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::Name;
use tidings_gossip::serf::{QueryError, Question, RespondError};
use tidings_gossip::swim::Input;
use tidings_gossip::wire::Message;
use tidings_gossip::wire::serf::{Filter, MemberStatus};

use crate::pool::{Pool, STRANGER, name};

#[test]
fn a_question_comes_to_all_and_their_answers_come_back_once() {
    for relay_factor in [0, 2] {
        let mut pool = Pool::joined(5);
        (0..5).for_each(|node| drop(pool.told(node)));
        let question = Question {
            name: Name::from("uptime"),
            ack: true,
            relay_factor,
            ..Question::default()
        };
        pool.ask(1, question);
        pool.seconds(2);
        pool.answer("fine");
        pool.seconds(1);
        let mut told = pool.told(1);
        told.sort();
        let mut expected: Vec<_> = (0..5).map(|node| format!("ack n{node}")).collect();
        expected.extend((0..5).map(|node| format!("answer n{node} fine")));
        expected.push("asked uptime".to_owned());
        assert_eq!(told, expected);
        for node in [0, 2, 3, 4] {
            assert_eq!(pool.told(node), ["asked uptime"]);
        }
        pool.seconds(2);
        assert_eq!(pool.told(1), ["done"], "after 3.2 s in a pool of this size");
        assert_eq!(pool.nodes[1].counters().answers_not_asked_for, 0);
        assert_eq!(pool.nodes[0].queue_lengths(), [0, 0, 0]);
    }
}

#[test]
fn a_question_is_for_those_who_match() {
    let mut pool = Pool::joined(4);
    (0..4).for_each(|node| drop(pool.told(node)));
    let tag = |expression| Filter::Tag {
        tag: Name::from("number"),
        expression: Name::from(expression),
    };
    let filters = vec![Filter::Nodes(vec![name(0), name(2), name(3)]), tag("[23]$")];
    pool.ask(
        1,
        Question {
            name: Name::from("q"),
            ack: true,
            filters,
            ..Question::default()
        },
    );
    pool.seconds(3);
    let mut told = pool.told(1);
    told.sort();
    assert_eq!(told, ["ack n2", "ack n3"]);
    assert_eq!(
        (pool.told(0), pool.told(2)),
        (vec![], vec!["asked q".to_owned()])
    );
}

#[test]
fn questions_and_answers_have_limits_and_serfs_words() {
    let mut pool = Pool::joined(2);
    let ask = |pool: &mut Pool, name: &str, length| {
        let payload = Bytes::from(vec![0; length]);
        let question = Question {
            name: Name::from(name),
            payload,
            ..Question::default()
        };
        pool.nodes[0]
            .ask(pool.now, &question)
            .map(|(_, outputs)| outputs)
    };
    let refused = ask(&mut pool, "_serf_install-key", 0).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Queries cannot contain the '_serf_' prefix"
    );
    assert_eq!(ask(&mut pool, "_serf_ping", 1), Err(QueryError::Internal));
    assert!(ask(&mut pool, "_serf_ping", 0).is_ok());
    assert_eq!(ask(&mut pool, "q", 1_000), Err(QueryError::TooLong));
    let outputs = ask(&mut pool, "q", 800).unwrap();
    pool.carry_out(0, outputs);
    let (_, query) = pool.asked.pop().unwrap();
    let now = pool.now;
    let mut respond = |at, length| {
        let payload = Bytes::from(vec![0; length]);
        pool.nodes[0]
            .respond(at, query.clone(), payload)
            .map(|outputs| outputs.len())
    };
    assert_eq!(respond(now, 1_024), Err(RespondError::TooLong));
    assert_eq!(respond(now, 900), Ok(1));
    let late = now + Duration::from_secs(4);
    assert_eq!(respond(late, 1), Err(RespondError::TooLate));
}

#[test]
fn whose_name_it_is_is_asked_of_those_who_bear_another() {
    let mut pool = Pool::joined(4);
    (0..4).for_each(|node| drop(pool.told(node)));
    let other = tidings_gossip::wire::Alive {
        incarnation: 9,
        node: name(1),
        addr: Some([10, 0, 0, 9].into()),
        port: 9,
        meta: Bytes::new(),
        versions: tidings_gossip::wire::Versions::SERF,
    };
    let bytes = Message::Alive(other).encode();
    let from = STRANGER.parse().unwrap();
    pool.waiting.push_back((1, Input::Datagram { from, bytes }));
    pool.seconds(5);
    assert_eq!(pool.told(1), ["n1 conflicts", "name 3/3"]);
    assert!((0..4).all(|node| pool.status(node, 1) == Some(MemberStatus::Alive)));
}
