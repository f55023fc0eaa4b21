//! See `wasmill::fuzz::pipeline_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill::fuzz::pipeline_file(bytes));
