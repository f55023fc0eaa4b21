//! Watches how far a stage's group is behind the ends of its inputs.
//!
//! It asks the brokers, not the workers: what counts is what the group has committed, whichever process did it, against the last stable
//! offset, before which no transaction is open.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::consumer::{REQUEST_TIMEOUT, watermarks};
use super::settings;
use crate::config;
use crate::topics::ReplayTopic;

/// Where one partition of an input stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Lag {
    /// The input topic.
    pub(crate) topic: String,
    /// The partition of that topic.
    pub(crate) partition: i32,
    /// The offset that the group has committed; none before its first commit.
    pub(crate) committed: Option<i64>,
    /// The first offset that the topic still has.
    pub(crate) low: i64,
    /// Where reading ends: the last stable offset, before which no transaction is open; for a topic that this pipeline writes itself
    /// the end of the log, so that a transaction still open there counts as work to come.
    pub(crate) end: i64,
}

impl Lag {
    /// Records (and control records) that are still to be read.
    pub(crate) fn records(&self) -> i64 {
        (self.end - self.committed.unwrap_or(self.low)).max(0)
    }
}

/// Asks for one group.
pub(crate) struct LagWatch {
    committed: BaseConsumer,
    uncommitted: BaseConsumer,
    topics: Vec<(String, bool)>,
    replay: Arc<ReplayTopic>,
}

impl LagWatch {
    /// `topics`: the names, each with whether the pipeline writes the topic itself. `replay` is looked for each time and read where it exists.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(crate) fn connect(
        kafka: &config::Kafka,
        group: &str,
        topics: Vec<(String, bool)>,
        replay: Arc<ReplayTopic>,
    ) -> Result<Self> {
        let committed = settings::observer(kafka, Some(group));
        let mut uncommitted = committed.clone();
        uncommitted.set("isolation.level", "read_uncommitted");
        Ok(Self {
            committed: committed.create().context("create client")?,
            uncommitted: uncommitted.create().context("create client")?,
            topics,
            replay,
        })
    }

    /// The partitions of the replay topic, none while it does not exist; the stage is told when it does.
    fn replay_partitions(&self) -> Result<Vec<i32>> {
        let name = &self.replay.name;
        if self.topics.iter().any(|(topic, _)| topic == name) {
            return Ok(Vec::new());
        }
        let metadata = self
            .committed
            .fetch_metadata(Some(name), REQUEST_TIMEOUT)
            .with_context(|| format!("read metadata of {name}"))?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let partitions: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        if !partitions.is_empty() {
            self.replay.found();
        }
        Ok(partitions)
    }

    /// Reads all partitions. Ends are read after the committed offsets, so a stage that is behind never looks as if it were not.
    ///
    /// # Errors
    /// When a broker does not answer in time.
    pub(crate) fn read(&self) -> Result<Vec<Lag>> {
        let mut list = TopicPartitionList::new();
        for (topic, _) in &self.topics {
            let metadata = self
                .committed
                .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
                .with_context(|| format!("read metadata of {topic}"))?;
            ensure!(
                metadata.topics().iter().any(|topic| !topic.partitions().is_empty()),
                "topic {topic} has no partitions now"
            );
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                list.add_partition(topic, partition.id());
            }
        }
        for partition in self.replay_partitions()? {
            list.add_partition(&self.replay.name, partition);
        }
        let committed = self
            .committed
            .committed_offsets(list, REQUEST_TIMEOUT)
            .context("read committed offsets")?;
        committed
            .elements()
            .iter()
            .map(|element| {
                element.error().context("read committed offset")?;
                let internal = self
                    .topics
                    .iter()
                    .any(|(topic, internal)| *internal && topic == element.topic());
                let asked = if internal { &self.uncommitted } else { &self.committed };
                let (low, end) = watermarks(asked, element.topic(), element.partition())?;
                Ok(Lag {
                    topic: element.topic().to_owned(),
                    partition: element.partition(),
                    committed: match element.offset() {
                        Offset::Offset(offset) => Some(offset),
                        _ => None,
                    },
                    low,
                    end,
                })
            })
            .collect()
    }
}
