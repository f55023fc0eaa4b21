//! Numbers of outputs that are no topics.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{OfStage, SecondsBuckets, StageMetrics, family, told};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfExit {
    stage: String,
    output: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOutcome {
    stage: String,
    output: String,
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTrouble {
    stage: String,
    output: String,
    kind: String,
}

/// The families of all stages.
pub(super) struct Exits {
    items: Family<OfOutcome, Counter>,
    retries: Family<OfTrouble, Counter>,
    requests: Family<OfExit, Counter>,
    sent_items: Family<OfExit, Counter>,
    sent_bytes: Family<OfExit, Counter>,
    request_seconds: Family<OfExit, Histogram, SecondsBuckets>,
    blocked: Family<OfExit, Gauge>,
    pub(super) pending_records: Family<OfStage, Gauge>,
    pub(super) pending_bytes: Family<OfStage, Gauge>,
}

impl Exits {
    pub(super) fn new(r: &mut Registry) -> Self {
        let items = family(r, "output_items", "Items that an output took or refused, by outcome");
        let retries = family(r, "output_retries", "Items that are tried again, by what was wrong");
        let requests = family(r, "output_requests", "Requests to an output");
        let sent_items = family(r, "output_request_items", "Items of all requests, tried again or not");
        let sent_bytes = family(r, "output_request_bytes", "Bytes of all requests, tried again or not");
        let request_seconds = told(
            r,
            "output_request_seconds",
            "Time of one request to an output",
            Family::new_with_constructor(SecondsBuckets),
        );
        let blocked = family(r, "output_blocked", "1 while an output takes nothing");
        let pending_records = family(
            r,
            "pending_records",
            "Records that wait for outputs to acknowledge what was sent",
        );
        let pending_bytes = family(
            r,
            "pending_bytes",
            "Bytes of those records and of what was sent for them",
        );
        Self {
            items,
            retries,
            requests,
            sent_items,
            sent_bytes,
            request_seconds,
            blocked,
            pending_records,
            pending_bytes,
        }
    }
}

/// The numbers of one output, held by its lanes.
#[derive(Clone)]
pub(crate) struct ExitMetrics {
    stage: StageMetrics,
    exit: OfExit,
    requests: Counter,
    sent_items: Counter,
    sent_bytes: Counter,
    request_seconds: Histogram,
    done: Counter,
}

impl ExitMetrics {
    pub(crate) fn new(stage: &StageMetrics, output: &str) -> Self {
        let exit = OfExit {
            stage: stage.stage.clone(),
            output: output.to_owned(),
        };
        let exits = &stage.all.exits;
        let metrics = Self {
            requests: exits.requests.get_or_create_owned(&exit),
            sent_items: exits.sent_items.get_or_create_owned(&exit),
            sent_bytes: exits.sent_bytes.get_or_create_owned(&exit),
            request_seconds: exits.request_seconds.get_or_create_owned(&exit),
            done: Counter::default(),
            stage: stage.clone(),
            exit,
        };
        Self {
            done: metrics.outcome("done"),
            ..metrics
        }
    }

    fn outcome(&self, outcome: &str) -> Counter {
        self.stage.all.exits.items.get_or_create_owned(&OfOutcome {
            stage: self.exit.stage.clone(),
            output: self.exit.output.clone(),
            outcome: outcome.to_owned(),
        })
    }

    /// 1 while the output takes nothing.
    pub(crate) fn blocked(&self) -> Gauge {
        self.stage.all.exits.blocked.get_or_create_owned(&self.exit)
    }

    /// A request of so many items and bytes was answered, or not, in this time.
    pub(crate) fn requested(&self, items: usize, bytes: usize, took: Duration) {
        self.requests.inc();
        self.sent_items.inc_by(items as u64);
        self.sent_bytes.inc_by(bytes as u64);
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// So many items came out in this way.
    pub(crate) fn items(&self, outcome: &str, items: u64) {
        match outcome {
            "done" => self.done.inc_by(items),
            other => self.outcome(other).inc_by(items),
        };
    }

    /// So many items are tried again because of this.
    pub(crate) fn retried(&self, kind: &str, items: usize) {
        let labels = OfTrouble {
            stage: self.exit.stage.clone(),
            output: self.exit.output.clone(),
            kind: kind.to_owned(),
        };
        let retries = self.stage.all.exits.retries.get_or_create_owned(&labels);
        retries.inc_by(items as u64);
    }
}
