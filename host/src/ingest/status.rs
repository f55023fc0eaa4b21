//! What the listener tells of itself at `/status` and `/readyz`.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::metrics::IngestMetrics;

/// Whether records can be written.
#[derive(Debug)]
enum State {
    Serving,
    /// The last record that was to be written failed, for this reason.
    Failing(String),
    Ending,
}

/// What the listener reports.
pub(crate) struct IngestStatus {
    address: SocketAddr,
    topics: Vec<String>,
    metrics: IngestMetrics,
    state: Mutex<State>,
}

impl IngestStatus {
    pub(super) fn new(address: SocketAddr, topics: Vec<String>, metrics: IngestMetrics) -> Self {
        Self {
            address,
            topics,
            metrics,
            state: Mutex::new(State::Serving),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records are acknowledged, or their topic can be reached again.
    pub(super) fn succeeds(&self) {
        let mut state = self.state();
        if matches!(*state, State::Failing(_)) {
            *state = State::Serving;
            tracing::info!("records that come by HTTP are written again");
        }
    }

    /// Records are not acknowledged; said once, until it is over.
    pub(super) fn fails(&self, why: String) {
        let mut state = self.state();
        if matches!(*state, State::Serving) {
            tracing::warn!(
                error = why,
                "records that come by HTTP cannot be written; clients are told to come again"
            );
            *state = State::Failing(why);
        }
    }

    pub(super) fn ends(&self) {
        *self.state() = State::Ending;
    }

    pub(super) fn is_failing(&self) -> bool {
        matches!(*self.state(), State::Failing(_))
    }

    /// None: ready. Otherwise why not.
    pub(crate) fn unready(&self) -> Option<String> {
        match &*self.state() {
            State::Serving => None,
            State::Failing(why) => Some(format!("ingest: records cannot be written: {why}")),
            State::Ending => Some("ingest is ending".to_owned()),
        }
    }

    /// What `/status` says of it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let (state, error) = match &*self.state() {
            State::Serving => ("serving", None),
            State::Failing(why) => ("failing", Some(why.clone())),
            State::Ending => ("ending", None),
        };
        serde_json::json!({
            "listen": self.address.to_string(),
            "state": state,
            "error": error,
            "topics": self.topics,
            "requests_in_flight": self.metrics.in_flight(),
            "held_bytes": self.metrics.held_bytes.get(),
            "connections": self.metrics.connections.get(),
            "idempotency_keys": self.metrics.keys.get(),
        })
    }
}
