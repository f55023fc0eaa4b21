//! See `wasmill::fuzz::plugin_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill::fuzz::plugin_file(bytes));
