//! See `tidings_gossip::fuzzing::gossip_machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_gossip::fuzzing::gossip_machine(input));
