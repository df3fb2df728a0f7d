//! See `tidings_interop::readers::event_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_interop::readers::event_request(input));
