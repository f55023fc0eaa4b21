//! See `wasmill::fuzz::replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill::fuzz::replies(bytes));
