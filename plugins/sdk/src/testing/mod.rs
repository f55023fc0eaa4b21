//! Native tests of plugins.
//!
//! A plugin is configured, given records, and its answers are compared. Records and answers go
//! through the same packing as in a component, and an answer is checked as strictly as by the host:
//! one that the host would take for a fault panics here.
//!
//! Exists in native builds only.

mod batch;
mod input;
mod reply;
#[cfg(test)]
mod tests;

pub use input::Input;
pub use reply::{Document, Message, Reply, Sent};

use crate::Processor;
use crate::capture;
use crate::instance::Instance;
use crate::log::Level;

/// A configured plugin.
pub struct Plugin<P> {
    instance: Instance<P>,
}

impl<P: Processor> Plugin<P> {
    /// Configures the plugin with one JSON object, as the stage's `config:` is given to it. The
    /// host checks it against [`CONFIG_SCHEMA`](Processor::CONFIG_SCHEMA) before; this does
    /// not.
    ///
    /// # Errors
    /// The configuration is refused; the text is what the person who wrote it reads.
    ///
    /// # Panics
    /// The schema is neither empty nor a JSON object.
    pub fn new(config: &str) -> Result<Plugin<P>, String> {
        let schema = P::CONFIG_SCHEMA;
        let is_object = serde_json::from_str::<serde_json::Value>(schema).is_ok_and(|schema| schema.is_object());
        assert!(
            schema.is_empty() || is_object,
            "CONFIG_SCHEMA is neither empty nor a JSON object"
        );
        Ok(Plugin {
            instance: Instance::new(config)?,
        })
    }

    /// The reply to one record.
    pub fn process(&mut self, record: &Input) -> Reply {
        self.process_batch(std::slice::from_ref(record)).remove(0)
    }

    /// The replies to the records of one batch, up to and including the first that is a retry: the
    /// host throws away those after it.
    ///
    /// # Panics
    /// The records are not of one topic and partition, or the host would refuse the answer.
    pub fn process_batch(&mut self, records: &[Input]) -> Vec<Reply> {
        let batch = batch::pack(records, P::READS);
        reply::unpack(&self.instance.process(&batch), &batch, records, P::PORTS)
    }

    /// What the plugin says of itself when it tries itself out.
    ///
    /// # Errors
    /// Why a host would not use it.
    pub fn self_test(&mut self) -> Result<(), String> {
        self.instance.self_test()
    }
}

/// The lines that the plugin has logged on this thread since they were last taken.
pub fn take_lines() -> Vec<Line> {
    capture::take_lines()
}

/// The calls for metrics that the plugin has made on this thread since they were last taken.
pub fn take_metrics() -> Vec<Metric> {
    capture::take_metrics()
}

/// A line that a plugin has logged.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its level.
    pub level: Level,
    /// Its text.
    pub message: String,
    /// The names and values apart from the text.
    pub fields: Vec<(String, String)>,
}

/// A call for a metric: its name and amount.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// A counter was added to.
    Add(String, u64),
    /// A gauge was set.
    Set(String, f64),
    /// A histogram was given an observation.
    Observe(String, f64),
}
