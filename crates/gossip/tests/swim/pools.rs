//! Whole pools: what must come true whatever the network does.

use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::swim::{Command, Config, Input};
use tidings_gossip::wire::{Keyring, Message, PacketOptions, State, seal_packet};
use tidings_gossip::{Chance, Name};

use crate::network::{Network, name};
use crate::script::said;

fn plain(_: usize, _: &mut Config) {}

#[test]
fn fifty_nodes_agree_while_a_fifth_of_the_datagrams_is_lost() {
    let mut network = Network::joined(50, 1, plain);
    network.loss = 20;
    network.until(90, Network::agrees);
    network.seconds(60);
    assert!(network.agrees(), "and go on agreeing");
    assert_eq!(network.gone_count(), 0);
}

#[test]
fn nobody_is_accused_when_nothing_is_lost() {
    let mut network = Network::joined(20, 2, plain);
    network.until(10, Network::agrees);
    network.seconds(300);
    assert!(network.agrees());
    assert_eq!(network.gone_count(), 0);
    for (_, node) in network.up() {
        let counters = node.swim.counters();
        assert_eq!(
            (
                counters.refutations,
                counters.probes_failed,
                node.swim.health_score()
            ),
            (0, 0, 0)
        );
        assert_eq!((counters.parts_dropped, counters.streams_failed), (0, 0));
        assert_eq!(node.swim.news_waiting(), 0, "all news has been told");
    }
}

#[test]
fn a_node_that_is_killed_is_found_by_all_and_by_nobody_too_soon() {
    for seed in [3, 4, 5] {
        let mut network = Network::joined(50, seed, plain);
        network.until(10, Network::agrees);
        network.kill(7);
        let took = network.until(60, |network| {
            network
                .up()
                .all(|(number, _)| network.state(number, 7).is_none_or(State::is_gone))
        });
        // The shortest suspicion of a pool of 50 is 6.8 s.
        assert!(took > Duration::from_secs(6), "{took:?}");
        assert_eq!(network.gone_count(), 49);
        assert!(network.up().all(|(_, node)| node.gone[0].0 == name(7)));
        network.seconds(60);
        assert!(
            network
                .up()
                .all(|(number, _)| network.state(number, 7).is_none()),
            "forgotten"
        );
    }
}

#[test]
fn what_is_falsely_said_is_contradicted_before_it_costs_anything() {
    let mut network = Network::joined(20, 6, plain);
    network.until(10, Network::agrees);
    let lie = Message::Suspect(said("n5", 1, "n9")).encode();
    let bytes = seal_packet(
        &[lie],
        PacketOptions::default(),
        &mut Chance::from_number(1),
    )
    .remove(0);
    for victim in 0..4 {
        let from = "10.0.0.1:1009".parse().unwrap();
        network.give(
            victim,
            Input::Datagram {
                from,
                bytes: bytes.clone(),
            },
        );
        assert_eq!(network.state(victim, 5), Some(State::Suspect));
    }
    network.until(4, Network::agrees);
    network.seconds(60);
    assert_eq!((network.gone_count(), network.agrees()), (0, true));
    let incarnations = network
        .up()
        .map(|(_, node)| node.swim.member(&name(5)).unwrap().incarnation);
    assert!(
        incarnations
            .collect::<Vec<_>>()
            .iter()
            .all(|incarnation| *incarnation == 2)
    );
}

#[test]
fn a_pool_that_was_cut_in_two_is_one_again() {
    let mut network = Network::joined(20, 7, plain);
    network.until(10, Network::agrees);
    network.cut_at = Some(8);
    network.until(240, |network| {
        network.up().all(|(number, _)| {
            let other_side = if number < 8 { 8..20 } else { 0..8 };
            other_side
                .into_iter()
                .all(|other| network.state(number, other).is_none_or(State::is_gone))
        })
    });
    network.cut_at = None;
    // The layer above tries those that are gone, again and again; one of them is enough, twice:
    // the first exchange tells each side what is said about it, the second what it said to that.
    network.join(3, 15);
    network.seconds(5);
    network.join(3, 15);
    network.until(120, Network::agrees);
}

#[test]
fn a_node_that_leaves_is_seen_leaving_by_all() {
    let mut network = Network::joined(22, 8, plain);
    network.until(10, Network::agrees);
    let timeout = Duration::from_secs(5);
    network.give(4, Input::Command(Command::Leave { timeout }));
    let took = network.until(5, |network| {
        network
            .up()
            .all(|(number, _)| network.state(number, 4) == Some(State::Left))
    });
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn meta_reaches_all() {
    let mut network = Network::joined(20, 9, plain);
    network.until(10, Network::agrees);
    let meta = Bytes::from_static(b"new");
    network.give(
        4,
        Input::Command(Command::Update {
            meta: meta.clone(),
            token: None,
        }),
    );
    network.until(5, |network| {
        let member = |(_, node): (_, &crate::network::Node)| {
            node.swim.member(&name(4)).unwrap().meta == meta
        };
        network.up().all(member)
    });
}

#[test]
fn a_pool_with_keys_lets_in_those_who_have_one() {
    let ring = |key: u8| Keyring::new([[key; 32]]).unwrap();
    let mut network = Network::joined(6, 10, |number, config| {
        config.keyring = match number {
            4 => None,
            5 => Some(ring(2)),
            _ => Some(ring(1)),
        };
    });
    network.seconds(30);
    for number in 0..6 {
        let seen = network.nodes[number].swim.members().count();
        assert_eq!(seen, if number < 4 { 4 } else { 1 }, "{number}");
    }
    assert_eq!(network.nodes[3].joins, [1]);
    assert_eq!(
        (&network.nodes[4].joins[..], &network.nodes[5].joins[..]),
        (&[0][..], &[0][..])
    );
}

#[test]
fn a_node_that_hears_only_streams_is_not_given_up() {
    // Every datagram is lost, but not what goes on streams.
    let mut network = Network::joined(5, 11, plain);
    network.until(10, Network::agrees);
    network.loss = 100;
    network.seconds(120);
    assert_eq!(network.gone_count(), 0);
}

#[test]
fn the_same_seed_is_the_same_history() {
    let history = |seed| {
        let mut network = Network::joined(10, seed, plain);
        network.loss = 30;
        network.seconds(20);
        network.kill(3);
        network.seconds(30);
        network.trace
    };
    assert_eq!(history(12), history(12));
    assert_ne!(history(12), history(13));
}

#[test]
fn g9_a_stranger_that_knows_the_protocol_changes_nothing_lasting() {
    let mut network = Network::joined(8, 14, plain);
    network.until(10, Network::agrees);
    let mut chance = Chance::from_number(15);
    for round in 0..3_000_u32 {
        let node = chance.below(8);
        let about = format!("n{}", chance.below(8));
        let incarnation = [0, 1, round, 1 << 29, 1 << 30, u32::MAX][chance.below(6)];
        let message = match chance.below(3) {
            0 => Message::Suspect(said(&about, incarnation, "n1")),
            1 => Message::Nack { seq: round },
            _ => Message::Ack(tidings_gossip::wire::Ack {
                seq: round,
                payload: None,
            }),
        };
        let bytes =
            seal_packet(&[message.encode()], PacketOptions::default(), &mut chance).remove(0);
        let from = "10.0.0.9:9".parse().unwrap();
        network.give(node, Input::Datagram { from, bytes });
        network.run(Duration::from_millis(3));
    }
    network.until(60, Network::agrees);
    let strangers = network.nodes[0].swim.member(&Name::from("stranger"));
    assert_eq!((network.gone_count(), strangers), (0, None));
}
