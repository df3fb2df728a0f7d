//! See `tidings_interop::readers::cel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_interop::readers::cel(input));
