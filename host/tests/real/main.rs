//! What the product promises, on a real Kafka and with the real binary. `host/tests/servers/README.md` says what that needs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod at_least_once;
mod brokers;
mod control;
mod dlq;
mod dlq_replayed;
mod evil;
mod exactly_once;
mod example;
mod faults;
mod golden;
mod graph;
mod lifecycle;
mod noaa;
mod policies;
mod records;
mod retention;
mod secured;
mod swap;
mod swap_load;
