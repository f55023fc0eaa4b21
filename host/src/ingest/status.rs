//! What the listener tells of itself at `/status` and `/readyz`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::metrics::IngestMetrics;

/// Whether records can be written.
#[derive(Debug, Default)]
struct State {
    is_ending: bool,
    /// The topics whose last record that was to be written failed.
    failing: BTreeMap<String, Failing>,
}

#[derive(Debug)]
struct Failing {
    why: String,
    over: Over,
}

/// What proves that a failure is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Over {
    /// The brokers say that the topic can be written.
    WhenReached,
    /// Nothing but a record that is acknowledged: no question tells it, as with a missing right.
    WhenAcknowledged,
}

impl State {
    /// The first failure.
    fn error(&self) -> Option<String> {
        let (topic, failing) = self.failing.first_key_value()?;
        Some(format!("topic `{topic}`: {}", failing.why))
    }
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
            state: Mutex::default(),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records of the topic are acknowledged.
    pub(super) fn succeeds(&self, topic: &str) {
        self.mend(topic, |_| true);
    }

    /// The brokers say that the topic can be written.
    pub(super) fn reaches(&self, topic: &str) {
        self.mend(topic, |failing| failing.over == Over::WhenReached);
    }

    fn mend(&self, topic: &str, is_over: impl Fn(&Failing) -> bool) {
        let mut state = self.state();
        if state.failing.get(topic).is_some_and(is_over) {
            state.failing.remove(topic);
            tracing::info!(topic, "records that come by HTTP are written again");
        }
    }

    /// Records of the topic are not acknowledged; said once, until it is over.
    pub(super) fn fails(&self, topic: &str, why: String, over: Over) {
        let mut state = self.state();
        if state.is_ending {
            return;
        }
        match state.failing.get_mut(topic) {
            Some(failing) => {
                let over = over.max(failing.over);
                *failing = Failing { why, over };
            }
            None => {
                tracing::warn!(
                    topic,
                    error = why,
                    "records that come by HTTP cannot be written; clients are told to come again"
                );
                state.failing.insert(topic.to_owned(), Failing { why, over });
            }
        }
    }

    pub(super) fn ends(&self) {
        self.state().is_ending = true;
    }

    /// The topics of which it may be asked whether they can be written again.
    pub(super) fn to_be_reached(&self) -> Vec<String> {
        let state = self.state();
        let all = state.failing.iter().filter(|_| !state.is_ending);
        let asked = all.filter(|(_, failing)| failing.over == Over::WhenReached);
        asked.map(|(topic, _)| topic.clone()).collect()
    }

    /// None: ready. Otherwise why not.
    pub(crate) fn unready(&self) -> Option<String> {
        let state = self.state();
        if state.is_ending {
            return Some("ingest is ending".to_owned());
        }
        let why = state.error()?;
        Some(format!("ingest: records cannot be written: {why}"))
    }

    /// What `/status` says of it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let (state, error) = {
            let state = self.state();
            match (state.is_ending, state.error()) {
                (true, _) => ("ending", None),
                (false, None) => ("serving", None),
                (false, error) => ("failing", error),
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn status() -> IngestStatus {
        let topics = vec!["a".to_owned(), "b".to_owned()];
        IngestStatus::new(([127, 0, 0, 1], 1).into(), topics, Metrics::new().ingest.clone())
    }

    #[test]
    fn a_topic_that_works_says_nothing_of_another_one() {
        let status = status();
        status.fails("b", "no leader".to_owned(), Over::WhenReached);
        status.succeeds("a");
        status.reaches("a");
        assert!(status.unready().unwrap().ends_with("topic `b`: no leader"));
        status.fails("a", "timed out".to_owned(), Over::WhenReached);
        assert_eq!(status.to_be_reached(), ["a", "b"]);
        status.reaches("b");
        assert!(status.unready().unwrap().ends_with("topic `a`: timed out"));
        assert_eq!(status.json()["state"], "failing");
        status.succeeds("a");
        assert_eq!(status.unready(), None);
        assert_eq!(status.json()["state"], "serving");
    }

    #[test]
    fn a_missing_right_is_over_when_a_record_is_acknowledged() {
        let status = status();
        status.fails("a", "no right".to_owned(), Over::WhenAcknowledged);
        assert_eq!(status.to_be_reached(), [""; 0]);
        status.reaches("a");
        assert!(status.unready().is_some());
        status.succeeds("a");
        assert!(status.unready().is_none());
    }

    #[test]
    fn an_end_stays_an_end() {
        let status = status();
        status.ends();
        status.fails("a", "timed out".to_owned(), Over::WhenReached);
        status.succeeds("a");
        assert_eq!(status.unready().unwrap(), "ingest is ending");
    }
}
