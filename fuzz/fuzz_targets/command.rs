//! See `tidings_interop::readers::command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_interop::readers::command(input));
