//! The numbers of what comes in by HTTP.

use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor as _};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{SecondsBuckets, family, told};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRequest {
    topic: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTopic {
    topic: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// Counts requests, records and what they hold.
#[derive(Clone)]
pub(crate) struct IngestMetrics {
    requests: Family<OfRequest, Counter>,
    records: Family<OfTopic, Counter>,
    bytes: Family<OfTopic, Counter>,
    refused: Family<OfReason, Counter>,
    repeated: Counter,
    in_flight: Gauge,
    pub(crate) held_bytes: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) keys: Gauge,
    seconds: Histogram,
}

impl IngestMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let r = registry;
        let requests = family(r, "ingest_requests", "Requests by topic and status");
        let records = family(r, "ingest_records", "Records that the brokers acknowledged");
        let bytes = family(r, "ingest_bytes", "Bytes of values that the brokers acknowledged");
        let refused = family(r, "ingest_refused", "Requests that found no room, by what was full");
        let repeated = told(
            r,
            "ingest_repeated",
            "Requests that were answered by their idempotency key",
            Counter::default(),
        );
        let in_flight = told(
            r,
            "ingest_in_flight",
            "Requests that are not answered yet",
            Gauge::default(),
        );
        let held_bytes = told(
            r,
            "ingest_held_bytes",
            "What requests hold of `ingest.memory`",
            Gauge::default(),
        );
        let connections = told(r, "ingest_connections", "Connections that are open", Gauge::default());
        let keys = told(
            r,
            "ingest_idempotency_keys",
            "Idempotency keys that are remembered",
            Gauge::default(),
        );
        let seconds = told(
            r,
            "ingest_seconds",
            "Time from the head of a request to its answer",
            SecondsBuckets.new_metric(),
        );
        Self {
            requests,
            records,
            bytes,
            refused,
            repeated,
            in_flight,
            held_bytes,
            connections,
            keys,
            seconds,
        }
    }

    /// A request begins. `topic` must be one of the pipeline file, or labels would be the clients' to make.
    pub(crate) fn begin(&self, topic: Option<&str>) -> RequestMetrics {
        self.in_flight.inc();
        RequestMetrics {
            all: self.clone(),
            topic: topic.unwrap_or_default().to_owned(),
            began: Instant::now(),
            status: GONE,
        }
    }

    pub(crate) fn acknowledged(&self, topic: &str, records: u64, bytes: u64) {
        let labels = OfTopic {
            topic: topic.to_owned(),
        };
        self.records.get_or_create(&labels).inc_by(records);
        self.bytes.get_or_create(&labels).inc_by(bytes);
    }

    /// `reason`: connections, memory, idempotency.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&OfReason { reason }).inc();
    }

    pub(crate) fn repeated(&self) {
        self.repeated.inc();
    }

    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }
}

/// The status under which a request is counted whose client went away before it was answered.
const GONE: u16 = 499;

/// One request; counted when dropped.
pub(crate) struct RequestMetrics {
    all: IngestMetrics,
    topic: String,
    began: Instant,
    status: u16,
}

impl RequestMetrics {
    pub(crate) fn answered(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for RequestMetrics {
    fn drop(&mut self) {
        self.all.in_flight.dec();
        let labels = OfRequest {
            topic: std::mem::take(&mut self.topic),
            status: self.status,
        };
        self.all.requests.get_or_create(&labels).inc();
        let took: Duration = self.began.elapsed();
        self.all.seconds.observe(took.as_secs_f64());
    }
}
