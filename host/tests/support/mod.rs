//! What the suites `real` and `soak` share: a real Kafka, the real host as a process, compiled guests, and the chaos harness.
//!
//! Nothing here waits for a fixed time: whatever takes a while is polled until a deadline, and a deadline that passes fails the
//! test with the name of what did not happen.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod admin;
pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod chaos;
pub(crate) mod cluster;
pub(crate) mod component;
pub(crate) mod evil;
pub(crate) mod guests;
pub(crate) mod hook;
pub(crate) mod host;
pub(crate) mod kafka;
pub(crate) mod offsets_log;
pub(crate) mod rng;
pub(crate) mod secured;
pub(crate) mod servers;
pub(crate) mod smtp;
pub(crate) mod swap;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Enough for anything that is only slow because the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Returns what `look` finds as soon as it finds something; panics with `what` if it has not by the deadline.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A name that no other test, and no other run on the same broker, uses.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static RUN: OnceLock<u128> = OnceLock::new();
    let run = RUN.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis());
    format!("{name}-{run:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A port that nothing listens on. Taken below the range that the kernel gives to outgoing connections, each one once, so that no
/// other test and no connection takes it before its user does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 97;
    loop {
        let port = 10_000 + ((start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A path inside the checkout.
pub(crate) fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// How often each value is in a topic.
pub(crate) fn value_counts(topic: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for placed in kafka::read_committed(topic) {
        *counts.entry(placed.record.value_text().to_owned()).or_default() += 1;
    }
    counts
}
