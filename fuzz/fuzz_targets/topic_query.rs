//! See `tidings_interop::readers::topic_query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidings_interop::readers::topic_query(input));
