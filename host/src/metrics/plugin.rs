//! What the instances of a plugin count, and the metrics that a plugin keeps of its own.
//!
//! The names of its own are the plugin's to choose, so they are checked and bounded: one too many, or one that is not allowed, costs the
//! plugin that metric and nobody anything else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Metrics, OfLimit, OfPlugin, OfStage, Seconds, StageMetrics, Value};
use crate::plugin::limits::Limit;

/// The contract's bound on a name.
const PLUGIN_NAME_BYTES_MAX: usize = 64;

enum Own {
    Counter(Counter),
    Gauge(Value),
    Histogram(Histogram),
}

/// What the instances of a plugin count, and the metrics that the plugin keeps of its own.
pub(crate) struct PluginMetrics {
    stage: String,
    plugin: String,
    dropped: Counter,
    dropped_lines: Counter,
    pub(crate) instances_live: Gauge,
    pub(crate) cpu_seconds: Seconds,
    pub(crate) slot_wait_seconds: Seconds,
    limit_hits: [Counter; Limit::ALL.len()],
    names_max: usize,
    names: Mutex<HashMap<String, Own>>,
    /// None: nobody listens (`check`, `describe`).
    all: Option<Arc<Metrics>>,
}

impl PluginMetrics {
    /// For a plugin that is only looked at.
    pub(crate) fn unheard() -> Arc<Self> {
        Arc::new(Self {
            stage: String::new(),
            plugin: String::new(),
            dropped: Counter::default(),
            dropped_lines: Counter::default(),
            instances_live: Gauge::default(),
            cpu_seconds: Seconds::default(),
            slot_wait_seconds: Seconds::default(),
            limit_hits: Limit::ALL.map(|_| Counter::default()),
            names_max: 0,
            names: Mutex::default(),
            all: None,
        })
    }

    /// A call of the guest is over that used so much CPU time and waited so long for its slot.
    pub(crate) fn called(&self, cpu: Duration, waited: Duration) {
        self.cpu_seconds.inc_by(cpu.as_secs_f64());
        if !waited.is_zero() {
            self.slot_wait_seconds.inc_by(waited.as_secs_f64());
        }
    }

    /// A limit was hit, if one is named.
    pub(crate) fn hit(&self, limit: Option<Limit>) {
        if let Some(limit) = limit {
            self.limit_hits[limit as usize].inc();
        }
    }

    /// So many lines were not logged.
    pub(crate) fn dropped_lines(&self, lines: u64) {
        if lines > 0 {
            self.dropped_lines.inc_by(lines);
            self.limit_hits[Limit::LogRate as usize].inc_by(lines);
        }
    }

    pub(crate) fn add(&self, name: &str, amount: u64) {
        self.with(name, Metrics::new_counter, |own| match own {
            Own::Counter(counter) => {
                counter.inc_by(amount);
                true
            }
            _ => false,
        });
    }

    pub(crate) fn set(&self, name: &str, value: f64) {
        self.with(name, Metrics::new_gauge, |own| match own {
            Own::Gauge(gauge) => {
                gauge.set(value);
                true
            }
            _ => false,
        });
    }

    pub(crate) fn observe(&self, name: &str, value: f64) {
        if !value.is_finite() {
            self.dropped.inc();
            return;
        }
        self.with(name, Metrics::new_histogram, |own| match own {
            Own::Histogram(histogram) => {
                histogram.observe(value);
                true
            }
            _ => false,
        });
    }

    /// Finds or makes the metric and uses it; a name that is not allowed, one too many, or of another kind is dropped and counted.
    fn with(&self, name: &str, make: impl FnOnce(&Metrics, &OfPlugin) -> Own, apply: impl FnOnce(&Own) -> bool) {
        let Some(all) = &self.all else {
            return;
        };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !names.contains_key(name) && is_metric_name(name);
        if is_new && names.len() >= self.names_max {
            self.hit(Some(Limit::MetricNames));
        } else if is_new {
            let labels = OfPlugin {
                stage: self.stage.clone(),
                plugin: self.plugin.clone(),
                name: name.to_owned(),
            };
            names.insert(name.to_owned(), make(all, &labels));
        }
        if !names.get(name).is_some_and(apply) {
            self.dropped.inc();
        }
    }
}

impl Metrics {
    fn new_counter(&self, labels: &OfPlugin) -> Own {
        Own::Counter(self.plugin_counters.get_or_create_owned(labels))
    }

    fn new_gauge(&self, labels: &OfPlugin) -> Own {
        Own::Gauge(self.plugin_gauges.get_or_create_owned(labels))
    }

    fn new_histogram(&self, labels: &OfPlugin) -> Own {
        Own::Histogram(self.plugin_histograms.get_or_create_owned(labels))
    }
}

fn is_metric_name(name: &str) -> bool {
    name.len() <= PLUGIN_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl StageMetrics {
    /// What a plugin counts; it keeps at most `names_max` metrics of its own.
    pub(crate) fn plugin(&self, plugin: &str, names_max: usize) -> Arc<PluginMetrics> {
        let of_stage = OfStage {
            stage: self.stage.clone(),
        };
        let hits = |limit: Limit| {
            self.all.limit_hits.get_or_create_owned(&OfLimit {
                stage: self.stage.clone(),
                limit: limit.key().to_owned(),
            })
        };
        Arc::new(PluginMetrics {
            stage: self.stage.clone(),
            plugin: plugin.to_owned(),
            dropped: self.all.dropped_plugin_metrics.get_or_create_owned(&of_stage),
            dropped_lines: self.all.dropped_lines.get_or_create_owned(&of_stage),
            instances_live: self.all.instances_live.get_or_create_owned(&of_stage),
            cpu_seconds: self.all.guest_cpu_seconds.get_or_create_owned(&of_stage),
            slot_wait_seconds: self.all.slot_wait_seconds.get_or_create_owned(&of_stage),
            limit_hits: Limit::ALL.map(hits),
            names_max,
            names: Mutex::default(),
            all: Some(Arc::clone(&self.all)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_keeps_at_most_its_share_of_names() {
        let metrics = Metrics::new();
        let plugin = metrics.stage("s").plugin("p", 10);
        for n in 0..10 {
            plugin.add(&format!("n{n}"), 1);
        }
        let hits = || plugin.limit_hits[Limit::MetricNames as usize].get();
        assert_eq!((plugin.dropped.get(), hits()), (0, 0));
        for n in 10..15 {
            plugin.add(&format!("n{n}"), 1);
        }
        assert_eq!((plugin.dropped.get(), hits()), (5, 5));
        plugin.add("Not-Allowed", 1);
        plugin.set("n0", 1.0);
        plugin.observe("h", f64::NAN);
        assert_eq!((plugin.dropped.get(), hits()), (8, 5));
        assert!(
            metrics
                .text()
                .contains(r#"wasmill_plugin_counter_total{stage="s",plugin="p",name="n0"} 1"#)
        );
    }

    #[test]
    fn limits_are_counted_under_their_keys() {
        let metrics = Metrics::new();
        let plugin = metrics.stage("s").plugin("p", 0);
        plugin.hit(None);
        for limit in Limit::ALL {
            plugin.hit(Some(limit));
            let line = format!(r#"wasmill_limit_hits_total{{stage="s",limit="{}"}} 1"#, limit.key());
            assert!(metrics.text().contains(&line), "{line}");
        }
    }
}
