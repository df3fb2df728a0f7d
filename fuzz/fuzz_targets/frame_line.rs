//! See `tidings_interop::readers::frame_line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_interop::readers::frame_line(input));
