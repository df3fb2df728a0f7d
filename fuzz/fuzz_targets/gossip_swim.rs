//! See `tidings_gossip::fuzzing::gossip_swim`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_gossip::fuzzing::gossip_swim(input));
