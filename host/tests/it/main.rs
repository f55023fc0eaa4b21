//! The tests that need no server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod compose;
mod config;
mod dev;
mod evil;
mod program;
mod tidy;
