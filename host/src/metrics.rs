//! The numbers that the host shows at `/metrics`, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Counters count what the host did, work that was rolled back and repeated included; what was delivered is in the topics. A worker
//! holds its counters directly, so that counting a batch takes no lock and no look-up. The README lists the names.

mod exits;
mod plugin;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::fault::Kind;

pub(crate) use exits::ExitMetrics;
use exits::Exits;
pub(crate) use plugin::PluginMetrics;

/// Seconds that only grow.
pub(crate) type Seconds = Counter<f64, std::sync::atomic::AtomicU64>;
/// A number that goes up and down.
pub(crate) type Value = Gauge<f64, std::sync::atomic::AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfStage {
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    stage: String,
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfLimit {
    stage: String,
    limit: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTopic {
    stage: String,
    topic: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPartition {
    stage: String,
    topic: String,
    partition: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfVersion {
    stage: String,
    plugin: String,
    version: String,
    digest: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPlugin {
    stage: String,
    plugin: String,
    name: String,
}

#[derive(Clone)]
struct SecondsBuckets;

impl MetricConstructor<Histogram> for SecondsBuckets {
    fn new_metric(&self) -> Histogram {
        // 100 microseconds to 13 seconds: from a small batch to a call at its deadline and beyond.
        Histogram::new(exponential_buckets(0.0001, 2.0, 18))
    }
}

#[derive(Clone)]
struct PluginBuckets;

impl MetricConstructor<Histogram> for PluginBuckets {
    fn new_metric(&self) -> Histogram {
        // A plugin's unit is not known: nine decades around 1.
        Histogram::new(exponential_buckets(0.0001, 10.0, 10))
    }
}

/// All numbers of one process.
pub(crate) struct Metrics {
    registry: Registry,
    records_in: Family<OfStage, Counter>,
    bytes_in: Family<OfStage, Counter>,
    batches: Family<OfStage, Counter>,
    replies: Family<OfKind, Counter>,
    records_out: Family<OfTopic, Counter>,
    bytes_out: Family<OfTopic, Counter>,
    faults: Family<OfKind, Counter>,
    dead_letters: Family<OfKind, Counter>,
    skipped: Family<OfKind, Counter>,
    swaps: Family<OfKind, Counter>,
    runs: Family<OfVersion, Gauge>,
    transactions: Family<OfKind, Counter>,
    rebalances: Family<OfKind, Counter>,
    fenced: Family<OfStage, Counter>,
    rewinds: Family<OfStage, Counter>,
    instances: Family<OfStage, Counter>,
    instances_live: Family<OfStage, Gauge>,
    guest_cpu_seconds: Family<OfStage, Seconds>,
    slot_wait_seconds: Family<OfStage, Seconds>,
    limit_hits: Family<OfLimit, Counter>,
    dropped_lines: Family<OfStage, Counter>,
    dropped_plugin_metrics: Family<OfStage, Counter>,
    memory: Family<OfStage, Gauge>,
    running: Family<OfStage, Gauge>,
    lag: Family<OfPartition, Gauge>,
    call_seconds: Family<OfStage, Histogram, SecondsBuckets>,
    commit_seconds: Family<OfStage, Histogram, SecondsBuckets>,
    exits: Exits,
    plugin_counters: Family<OfPlugin, Counter>,
    plugin_gauges: Family<OfPlugin, Value>,
    plugin_histograms: Family<OfPlugin, Histogram, PluginBuckets>,
}

/// Names a metric and tells what it is.
fn told<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn family<L, M>(registry: &mut Registry, name: &str, help: &str) -> Family<L, M>
where
    L: Clone + std::hash::Hash + Eq,
    M: Default,
    Family<L, M>: Metric,
{
    told(registry, name, help, Family::default())
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("wasmill");
        let r = &mut registry;
        let records_in = family(r, "records_in", "Records given to the plugin");
        let bytes_in = family(
            r,
            "bytes_in",
            "Bytes given to the plugin: the keys, values and headers that it reads",
        );
        let batches = family(r, "batches", "Calls of the plugin");
        let replies = family(r, "replies", "Answers of the plugin by kind");
        let records_out = family(r, "records_out", "Records written");
        let bytes_out = family(r, "bytes_out", "Bytes of keys and values written");
        let faults = family(r, "faults", "Calls that ended in a fault, by kind");
        let dead_letters = family(r, "dead_letters", "Records written to the dead-letter topic, by kind");
        let skipped = family(r, "skipped", "Failed records that were dropped, by kind");
        let swaps = family(r, "swaps", "Changes of the plugin's version, by kind");
        let runs = family(r, "plugin", "1 for the version of the plugin that runs");
        let transactions = family(r, "transactions", "Transactions by outcome");
        let rebalances = family(r, "rebalances", "Rebalances of the group by kind");
        let fenced = family(r, "fenced", "Times that a worker found itself fenced");
        let rewinds = family(r, "rewinds", "Returns to the committed offsets");
        let instances = family(r, "instances", "Plugin instances made");
        let instances_live = family(r, "instances_live", "Plugin instances that exist now");
        let guest_cpu_seconds = family(r, "guest_cpu_seconds", "CPU time inside calls of the plugin");
        let slot_wait_seconds = family(
            r,
            "slot_wait_seconds",
            "Time that calls of the plugin waited for a core",
        );
        let limit_hits = family(r, "limit_hits", "Times that a limit was hit, by its key in `limits`");
        let dropped_lines = family(r, "plugin_log_lines_dropped", "Lines of a plugin beyond the rate");
        let dropped_plugin_metrics = family(
            r,
            "plugin_metrics_dropped",
            "Plugin metric calls with a name that is not allowed or one too many",
        );
        let memory = family(r, "instance_memory_bytes", "Memory of one instance after its last call");
        let running = family(r, "stage_running", "1 while the stage runs, 0 when it has stopped");
        let lag = family(
            r,
            "lag_records",
            "Records between the committed offset and the end of the partition",
        );
        let call_seconds = told(
            r,
            "call_seconds",
            "Time of one call of the plugin",
            Family::new_with_constructor(SecondsBuckets),
        );
        let commit_seconds = told(
            r,
            "commit_seconds",
            "Time of one commit",
            Family::new_with_constructor(SecondsBuckets),
        );
        let exits = Exits::new(r);
        let plugin_counters = family(r, "plugin_counter", "Counters of the plugin's own");
        let plugin_gauges = family(r, "plugin_gauge", "Gauges of the plugin's own");
        let plugin_histograms = told(
            r,
            "plugin_histogram",
            "Histograms of the plugin's own",
            Family::new_with_constructor(PluginBuckets),
        );
        Arc::new(Self {
            registry,
            records_in,
            bytes_in,
            batches,
            replies,
            records_out,
            bytes_out,
            faults,
            dead_letters,
            skipped,
            swaps,
            runs,
            transactions,
            rebalances,
            fenced,
            rewinds,
            instances,
            instances_live,
            guest_cpu_seconds,
            slot_wait_seconds,
            limit_hits,
            dropped_lines,
            dropped_plugin_metrics,
            memory,
            running,
            lag,
            call_seconds,
            commit_seconds,
            exits,
            plugin_counters,
            plugin_gauges,
            plugin_histograms,
        })
    }

    /// The text that `/metrics` answers with.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string cannot fail; if it ever does, an empty answer is an alert at the scraper.
            Err(_) => String::new(),
        }
    }

    pub(crate) fn stage(self: &Arc<Self>, stage: &str) -> StageMetrics {
        let of_stage = OfStage {
            stage: stage.to_owned(),
        };
        let counter = |family: &Family<OfStage, Counter>| family.get_or_create_owned(&of_stage);
        StageMetrics {
            records_in: counter(&self.records_in),
            bytes_in: counter(&self.bytes_in),
            batches: counter(&self.batches),
            fenced: counter(&self.fenced),
            rewinds: counter(&self.rewinds),
            instances: counter(&self.instances),
            memory: self.memory.get_or_create_owned(&of_stage),
            running: self.running.get_or_create_owned(&of_stage),
            call_seconds: self.call_seconds.get_or_create_owned(&of_stage),
            commit_seconds: self.commit_seconds.get_or_create_owned(&of_stage),
            replies: REPLY_KINDS.map(|kind| self.of_kind(&self.replies, stage, kind)),
            pending_records: self.exits.pending_records.get_or_create_owned(&of_stage),
            pending_bytes: self.exits.pending_bytes.get_or_create_owned(&of_stage),
            skipped: Kind::ALL.map(|kind| self.of_kind(&self.skipped, stage, kind.as_str())),
            runs: Arc::default(),
            dead_letters: Kind::ALL.map(|kind| self.of_kind(&self.dead_letters, stage, kind.as_str())),
            faults: Kind::ALL.map(|kind| self.of_kind(&self.faults, stage, kind.as_str())),
            stage: stage.to_owned(),
            all: Arc::clone(self),
        }
    }

    fn of_kind(&self, family: &Family<OfKind, Counter>, stage: &str, kind: &str) -> Counter {
        family.get_or_create_owned(&OfKind {
            stage: stage.to_owned(),
            kind: kind.to_owned(),
        })
    }
}

/// The kinds of replies in the order of `StageMetrics::replies`.
pub(crate) const REPLY_KINDS: [&str; 5] = ["skip", "forward", "emit", "reject", "retry"];

/// The numbers of one stage, held by its workers.
#[derive(Clone)]
pub(crate) struct StageMetrics {
    pub(crate) records_in: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) batches: Counter,
    pub(crate) fenced: Counter,
    pub(crate) rewinds: Counter,
    pub(crate) instances: Counter,
    pub(crate) memory: Gauge,
    pub(crate) running: Gauge,
    pub(crate) call_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) replies: [Counter; 5],
    pending_records: Gauge,
    pending_bytes: Gauge,
    dead_letters: [Counter; 7],
    skipped: [Counter; 7],
    /// The version that is shown as the one that runs.
    runs: Arc<Mutex<Option<OfVersion>>>,
    faults: [Counter; 7],
    stage: String,
    all: Arc<Metrics>,
}

impl StageMetrics {
    pub(crate) fn dead_letter(&self, kind: Kind) -> &Counter {
        &self.dead_letters[kind as usize]
    }

    pub(crate) fn skipped(&self, kind: Kind) -> &Counter {
        &self.skipped[kind as usize]
    }

    /// `change`: swapped, configured, refused, rolled-back.
    pub(crate) fn swap(&self, change: &str) {
        self.all.of_kind(&self.all.swaps, &self.stage, change).inc();
    }

    /// Shows this version as the one that runs, and no other.
    pub(crate) fn runs(&self, plugin: &str, version: &str, digest: &str) {
        let labels = OfVersion {
            stage: self.stage.clone(),
            plugin: plugin.to_owned(),
            version: version.to_owned(),
            digest: digest.to_owned(),
        };
        let mut shown = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = shown.replace(labels.clone()) {
            self.all.runs.remove(&before);
        }
        self.all.runs.get_or_create(&labels).set(1);
    }

    pub(crate) fn fault(&self, kind: Kind) -> &Counter {
        &self.faults[kind as usize]
    }

    /// Records and bytes written to a topic.
    pub(crate) fn output(&self, topic: &str) -> (Counter, Counter) {
        let labels = OfTopic {
            stage: self.stage.clone(),
            topic: topic.to_owned(),
        };
        (
            self.all.records_out.get_or_create_owned(&labels),
            self.all.bytes_out.get_or_create_owned(&labels),
        )
    }

    /// `outcome`: committed, aborted, unknown-committed, unknown-discarded, unknown-lost.
    pub(crate) fn transaction(&self, outcome: &str) {
        self.all.of_kind(&self.all.transactions, &self.stage, outcome).inc();
    }

    /// `kind`: assigned, revoked, lost.
    pub(crate) fn rebalance(&self, kind: &str) {
        self.all.of_kind(&self.all.rebalances, &self.stage, kind).inc();
    }

    /// What waits at one worker has changed, in records and bytes.
    pub(crate) fn pending(&self, before: (usize, usize), after: (usize, usize)) {
        let change = |before: usize, after: usize| after as i64 - before as i64;
        self.pending_records.inc_by(change(before.0, after.0));
        self.pending_bytes.inc_by(change(before.1, after.1));
    }

    pub(crate) fn set_lag(&self, topic: &str, partition: i32, records: i64) {
        self.all
            .lag
            .get_or_create(&OfPartition {
                stage: self.stage.clone(),
                topic: topic.to_owned(),
                partition,
            })
            .set(records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_under_their_own_names() {
        let metrics = Metrics::new();
        let stage = metrics.stage("s");
        for kind in Kind::ALL {
            stage.dead_letter(kind).inc();
        }
        for kind in Kind::ALL {
            let line = format!(r#"wasmill_dead_letters_total{{stage="s",kind="{kind}"}} 1"#);
            assert!(metrics.text().contains(&line), "{line}");
        }
    }
}
