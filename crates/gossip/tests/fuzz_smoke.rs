//! A short, seeded form of the fuzz targets of this crate, on a stable compiler.
//!
//! `TIDINGS_FUZZ_ROUNDS` sets the inputs for each reader; a failure names the round, and the input
//! is in the message, so that it can become a test of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidings_gossip::Chance;
use tidings_gossip::fuzzing::{READERS, seeds};

/// Inputs for each reader when nothing else is said.
const ROUNDS: u64 = 4_000;
const INPUT_BYTES_MAX: usize = 8 << 10;
/// Pieces that matter to some reader: containers that announce much, odd numbers, field names.
const WORDS: [&[u8]; 20] = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xc4\xff",
    b"\xc7\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xce\xff\xff\xff\xff",
    b"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
    b"\xc0",
    b"\xc1",
    b"\xabIncarnation",
    b"\xa5Nodes",
    b"\xa3Buf",
    b"\xa2me",
    b"\x07\xff",
    b"\x09",
    b"\x0c\x00\x00\x00\x00",
];

/// A seed with a few changes, or bytes from nowhere.
fn input(chance: &mut Chance, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[chance.below(seeds.len())].clone();
    for _ in 0..chance.below(6) {
        let at = chance.below(input.len() + 1);
        match chance.below(6) {
            0 if at < input.len() => input[at] ^= 1 << chance.below(8),
            1 if at < input.len() => input[at] = chance.number() as u8,
            2 => input.truncate(at),
            3 => drop(input.splice(at..at, WORDS[chance.below(WORDS.len())].iter().copied())),
            4 => {
                let end = (at + chance.below(64)).min(input.len());
                let piece = input[at..end].to_vec();
                let to = chance.below(input.len() + 1);
                drop(input.splice(to..to, piece));
            }
            _ => {
                let noise: Vec<u8> = (0..chance.below(24))
                    .map(|_| chance.number() as u8)
                    .collect();
                drop(input.splice(at..at, noise));
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn smoke(name: &str) {
    let reader = READERS.into_iter().find(|(other, _)| *other == name);
    let (_, reader) = reader.expect("a reader of this name");
    let rounds = std::env::var("TIDINGS_FUZZ_ROUNDS").map_or(ROUNDS, |text| {
        text.parse().expect("TIDINGS_FUZZ_ROUNDS is a number")
    });
    let seeds = seeds(name);
    for seed in &seeds {
        reader(seed);
    }
    for round in 0..rounds {
        let input = input(&mut Chance::from_number(round), &seeds);
        if catch_unwind(AssertUnwindSafe(|| reader(&input))).is_err() {
            panic!(
                "{name} broke in round {round} on {:?}",
                String::from_utf8_lossy(&input)
            );
        }
    }
}

#[test]
fn g9_datagrams_are_read_or_refused() {
    smoke("gossip_packet");
}

#[test]
fn g9_streams_are_read_or_refused() {
    smoke("gossip_stream");
}

#[test]
fn g9_messages_of_serf_are_read_or_refused() {
    smoke("gossip_serf");
}

#[test]
fn g9_a_member_survives_any_history() {
    smoke("gossip_swim");
}

#[test]
fn g9_a_node_of_serf_survives_any_history() {
    smoke("gossip_machine");
}
