//! A short, seeded form of the fuzz targets, on a stable compiler.
//!
//! `TIDINGS_FUZZ_ROUNDS` sets the inputs for each reader; a failure prints the seed
//! and leaves the input in the message, so that it can become a test of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result};
use tidings_interop::readers::{READERS, seeds};

/// Inputs for each reader when nothing else is said.
const ROUNDS: u64 = 4_000;
/// Readers that touch files or parse slowly get this part of the rounds.
const SLOW: [(&str, u64); 2] = [("segment", 20), ("cel", 8)];
const INPUT_BYTES_MAX: usize = 8 << 10;
/// Pieces that matter to some reader.
const WORDS: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\n",
    b"\0",
    b"\xff",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"18446744073709551616",
    b"-0.0e-999",
    b"\"Events\":",
    b"\"Index\":",
    b"\"Payload\":",
    b"*",
    b"\xf0\x9f\x98\x80",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"((((((((",
];

/// A small generator of numbers: the same seed, the same inputs, on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A seed with a few changes, or bytes from nowhere.
fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = match seeds.len() {
        0 => Vec::new(),
        count => seeds[random.below(count)].clone(),
    };
    for _ in 0..random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.truncate(at),
            3 => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => {
                let end = (at + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            5 => {
                let end = (at + random.below(64)).min(input.len());
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                drop(input.splice(to..to, piece));
            }
            _ => {
                let noise: Vec<u8> = (0..random.below(24)).map(|_| random.next() as u8).collect();
                drop(input.splice(at..at, noise));
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn smoke(name: &str) -> Result<()> {
    let (_, reader) = READERS
        .into_iter()
        .find(|(other, _)| *other == name)
        .context("no such reader")?;
    let rounds = match std::env::var("TIDINGS_FUZZ_ROUNDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("TIDINGS_FUZZ_ROUNDS is {text:?}"))?,
        Err(_) => ROUNDS,
    };
    let slow = SLOW
        .into_iter()
        .find(|(slow, _)| *slow == name)
        .map_or(1, |(_, part)| part);
    let seeds = seeds(name);
    for seed in &seeds {
        reader(seed);
    }
    for round in 0..rounds / slow {
        let input = input(&mut Random(round), &seeds);
        if catch_unwind(AssertUnwindSafe(|| reader(&input))).is_err() {
            anyhow::bail!(
                "{name} broke in round {round} on {:?}",
                String::from_utf8_lossy(&input)
            );
        }
    }
    Ok(())
}

#[test]
fn g9_event_requests_are_read_or_refused() -> Result<()> {
    smoke("event_request")
}

#[test]
fn g9_frame_lines_are_read_or_refused() -> Result<()> {
    smoke("frame_line")
}

#[test]
fn g9_commands_are_read_or_refused() -> Result<()> {
    smoke("command")
}

#[test]
fn g9_segments_are_read_or_refused() -> Result<()> {
    smoke("segment")
}

#[test]
fn g9_topic_queries_are_read_or_refused() -> Result<()> {
    smoke("topic_query")
}

#[test]
fn g9_expressions_are_read_or_refused() -> Result<()> {
    smoke("cel")
}
