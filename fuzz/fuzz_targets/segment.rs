//! See `tidings_interop::readers::segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_interop::readers::segment(input));
