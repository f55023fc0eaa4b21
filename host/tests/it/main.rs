//! The tests that need no server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
