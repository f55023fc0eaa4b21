//! Whether an output takes what it is given, since when not, and why: for `/status`, a metric and the log.
//!
//! Every lane that is tried in vain tells so here, and takes it back with its first success. The log hears of it now and then, never per item.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use super::Trouble;

/// How often the log is told of an output that stays blocked.
const TOLD: Duration = Duration::from_secs(30);
/// Shorter troubles pass by themselves, a full queue of the server for one; they are counted and not told.
const PASSING: Duration = Duration::from_secs(2);

/// How one output is, for all lanes that write it.
pub(crate) struct Health {
    stage: String,
    output: String,
    blocked: Gauge,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: u64,
    /// By lane.
    troubles: BTreeMap<u64, Since>,
    told: Option<Instant>,
}

struct Since {
    at: SystemTime,
    began: Instant,
    trouble: Trouble,
}

/// What `/status` says of an output.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HealthReport {
    output: String,
    /// `ok` or `blocked`.
    state: &'static str,
    /// Since when it is blocked.
    since: Option<String>,
    /// Why, and what to do.
    reason: Option<String>,
}

impl Health {
    pub(crate) fn new(stage: &str, output: &str, blocked: Gauge) -> Arc<Self> {
        Arc::new(Self {
            stage: stage.to_owned(),
            output: output.to_owned(),
            blocked,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a lane.
    pub(crate) fn lane(&self) -> u64 {
        let mut state = self.state();
        state.lanes += 1;
        state.lanes
    }

    /// A lane has tried in vain.
    pub(crate) fn failed(&self, lane: u64, trouble: &Trouble) {
        let now = Instant::now();
        let mut state = self.state();
        let since = state.troubles.entry(lane).or_insert_with(|| Since {
            at: SystemTime::now(),
            began: now,
            trouble: trouble.clone(),
        });
        since.trouble.clone_from(trouble);
        let lasts = now.duration_since(since.began);
        if lasts < PASSING {
            return;
        }
        self.blocked.set(1);
        if state.told.is_none_or(|told| now.duration_since(told) >= TOLD) {
            state.told = Some(now);
            tracing::error!(
                stage = self.stage,
                output = self.output,
                kind = trouble.kind,
                seconds = lasts.as_secs(),
                reason = trouble.text,
                "the output takes nothing; its records wait, and it is tried again"
            );
        }
    }

    /// A lane has nothing that is to be tried again, because all was taken.
    pub(crate) fn well(&self, lane: u64) {
        self.calm(lane, true);
    }

    /// A lane has nothing that is to be tried again, because all was given up.
    pub(crate) fn idle(&self, lane: u64) {
        self.calm(lane, false);
    }

    fn calm(&self, lane: u64, is_taken: bool) {
        let mut state = self.state();
        state.troubles.remove(&lane);
        if state.troubles.is_empty() {
            self.blocked.set(0);
            if state.told.take().is_some() && is_taken {
                tracing::info!(
                    stage = self.stage,
                    output = self.output,
                    "the output takes what it is given again"
                );
            }
        }
    }

    pub(crate) fn report(&self) -> HealthReport {
        let state = self.state();
        let oldest = state.troubles.values().min_by_key(|since| since.began);
        let blocked = oldest.filter(|since| since.began.elapsed() >= PASSING);
        HealthReport {
            output: self.output.clone(),
            state: if blocked.is_some() { "blocked" } else { "ok" },
            since: blocked.map(|since| humantime::format_rfc3339_seconds(since.at).to_string()),
            reason: blocked.map(|since| since.trouble.text.clone()),
        }
    }
}
