//! Reads the partitions that the group gives this worker.
//!
//! Messages come from a queue of the worker's own, many at a time; rebalances and errors come from the main queue. A rebalance is
//! only *recorded* during a poll and handed to the worker, which commits or aborts first and then calls `assign` or `unassign` itself:
//! no code of the data path runs inside a callback. The consumer never commits and never decides a position; the worker does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::ffi::{GroupConsumer, Message, Queue};
use crate::rights::{HINT, Right};

/// How long one question to the brokers may take (committed offsets, watermarks, a seek).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A topic and one of its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TopicPartition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

/// What the main queue says.
#[derive(Debug)]
pub(crate) enum Event {
    Assigned(Vec<TopicPartition>),
    /// `lost`: they belong to someone else already; nothing may be committed for them.
    Revoked {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
    /// A message arrived outside the worker's own queue; the partitions must be read again from the worker's positions.
    Stray,
    /// The group put this consumer out, because it did not poll for `max.poll.interval.ms`.
    PollExceeded,
    /// An error that passes or that the client handles, for the log.
    Trouble(String),
    /// An error that only a person can mend.
    Broken(String),
}

/// An offset that a group has committed, with the text committed beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Committed {
    /// None: nothing was ever committed.
    pub(crate) offset: Option<i64>,
    pub(crate) metadata: String,
}

/// Collects what librdkafka calls back during a poll.
pub(crate) struct Events {
    rebalances: Mutex<VecDeque<Event>>,
    /// What the client said of its latest error.
    reason: Mutex<String>,
    group: String,
    closing: AtomicBool,
    name: String,
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::settings::log(&self.name, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Errors also come as events of the main queue, where the worker decides; here they are for whoever debugs.
        tracing::debug!(client = self.name, %error, reason, "kafka client error");
        reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ConsumerContext for Events {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let revoked = error != RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            // The worker is gone and has committed; the client waits for this before it leaves the group.
            let done = if revoked {
                consumer.unassign()
            } else {
                consumer.assign(list)
            };
            if let Err(error) = done {
                tracing::debug!(client = self.name, %error, "rebalance while closing");
            }
            return;
        }
        let partitions = partitions_of(list);
        let event = if revoked {
            Event::Revoked {
                partitions,
                lost: consumer.assignment_lost(),
            }
        } else {
            Event::Assigned(partitions)
        };
        self.rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(event);
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition {
            topic: element.topic().to_owned(),
            partition: element.partition(),
        })
        .collect()
}

/// A member of a consumer group.
pub(crate) struct Consumer {
    queue: Queue,
    consumer: Arc<GroupConsumer>,
}

impl Consumer {
    /// Creates the consumer; it joins its group with `subscribe`.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(crate) fn new(name: &str, config: &ClientConfig) -> Result<Self> {
        let events = Events {
            rebalances: Mutex::default(),
            reason: Mutex::default(),
            group: config.get("group.id").unwrap_or_default().to_owned(),
            closing: AtomicBool::new(false),
            name: name.to_owned(),
        };
        let consumer = Arc::new(BaseConsumer::from_config_and_context(config, events).context("create consumer")?);
        let queue = Queue::new(Arc::clone(&consumer)).ok_or_else(|| anyhow!("create consumer queue"))?;
        Ok(Self { queue, consumer })
    }

    pub(crate) fn subscribe(&self, topics: &[&str]) -> Result<()> {
        self.consumer.subscribe(topics).context("subscribe")
    }

    /// The group's name.
    pub(crate) fn group(&self) -> &str {
        &self.consumer.context().group
    }

    /// The handle that a transactional producer needs to take the group's metadata from.
    pub(crate) fn handle(&self) -> &GroupConsumer {
        &self.consumer
    }

    /// Serves the main queue until it is empty. Must be called at least every `max.poll.interval.ms`, whatever else goes on.
    pub(crate) fn poll(&self, events: &mut Vec<Event>) {
        loop {
            let polled = self.consumer.poll(Duration::ZERO);
            let mut rebalances = self
                .consumer
                .context()
                .rebalances
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let rebalanced = !rebalances.is_empty();
            events.extend(rebalances.drain(..));
            drop(rebalances);
            match polled {
                Some(Ok(_)) => events.push(Event::Stray),
                Some(Err(error)) => events.push(self.consumer.context().classify(&error)),
                None if !rebalanced => return,
                None => {}
            }
        }
    }

    /// Reads messages of the assigned partitions; waits up to `timeout` for the first.
    pub(crate) fn read(&mut self, into: &mut Vec<Message>, max: usize, timeout: Duration) -> usize {
        self.queue.read(into, max, timeout)
    }

    fn cooperative(&self) -> bool {
        use rdkafka::consumer::RebalanceProtocol;
        matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
    }

    /// Takes the partitions that an `Assigned` event named, from the given positions.
    ///
    /// # Errors
    /// When librdkafka refuses; the assignment stands still then, and the worker must end.
    pub(crate) fn assign(&self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        for (partition, _) in starts {
            if !self.queue.forward(&partition.topic, partition.partition) {
                return Err(anyhow!("forward {}", partition.topic));
            }
        }
        let list = list_of(starts.iter().map(|(partition, offset)| (partition, *offset)))?;
        if self.cooperative() {
            self.consumer.incremental_assign(&list).context("assign")
        } else {
            self.consumer.assign(&list).context("assign")
        }
    }

    /// Gives up the partitions that a `Revoked` event named.
    ///
    /// # Errors
    /// As for `assign`.
    pub(crate) fn unassign(&self, partitions: &[TopicPartition]) -> Result<()> {
        if self.cooperative() {
            let list = list_of(partitions.iter().map(|partition| (partition, 0)))?;
            self.consumer.incremental_unassign(&list).context("unassign")
        } else {
            self.consumer.unassign().context("unassign")
        }
    }

    /// Goes back (or forth) to the given positions. What was fetched before is thrown away by librdkafka's version barrier.
    ///
    /// # Errors
    /// When a partition cannot be positioned in time.
    pub(crate) fn seek(&self, positions: &[(TopicPartition, i64)]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let list = list_of(positions.iter().map(|(partition, offset)| (partition, *offset)))?;
        let answered = self.consumer.seek_partitions(list, REQUEST_TIMEOUT).context("seek")?;
        let mut stopped = Vec::new();
        for (partition, offset) in positions {
            let element = answered.find_partition(&partition.topic, partition.partition);
            match element.map_or(Ok(()), |element| element.error()) {
                Ok(()) => {}
                // Fetching has stopped, because the last position does not exist; only a new assignment starts it again.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {
                    stopped.push((partition.clone(), *offset));
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("seek {} partition {}", partition.topic, partition.partition));
                }
            }
        }
        if stopped.is_empty() {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> = stopped.iter().map(|(partition, _)| partition.clone()).collect();
        self.unassign(&partitions)?;
        // Stopping clears the partition's forwarding on librdkafka's own thread, after `unassign` has returned; the answer to a
        // question to that thread comes behind it.
        self.consumer.assignment().context("read assignment")?;
        let again = if self.cooperative() { &stopped } else { positions };
        self.assign(again)
    }

    /// Where the client stands: behind the last message that was read and the control records after it. Asks nobody.
    pub(crate) fn positions(&self) -> Vec<(TopicPartition, i64)> {
        let Ok(list) = self.consumer.position() else {
            return Vec::new();
        };
        list.elements()
            .iter()
            .filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((
                    TopicPartition {
                        topic: element.topic().to_owned(),
                        partition: element.partition(),
                    },
                    offset,
                )),
                _ => None,
            })
            .collect()
    }

    /// What the group has committed; waits for open transactions that hold offsets of these partitions to end.
    ///
    /// # Errors
    /// When the coordinator does not answer in time.
    pub(crate) fn committed(&self, partitions: &[TopicPartition]) -> Result<Vec<Committed>> {
        let list = list_of(partitions.iter().map(|partition| (partition, 0)))?;
        let answered = self
            .consumer
            .committed_offsets(list, REQUEST_TIMEOUT)
            .context("read committed offsets")?;
        partitions
            .iter()
            .map(|partition| {
                let element = answered
                    .find_partition(&partition.topic, partition.partition)
                    .ok_or_else(|| anyhow!("no committed offset in the answer"))?;
                element.error().context("read committed offset")?;
                Ok(Committed {
                    offset: match element.offset() {
                        Offset::Offset(offset) => Some(offset),
                        _ => None,
                    },
                    metadata: element.metadata().to_owned(),
                })
            })
            .collect()
    }

    /// The first and the end offset of a partition; the end is the last stable one.
    ///
    /// # Errors
    /// When the partition's leader does not answer in time.
    pub(crate) fn watermarks(&self, partition: &TopicPartition) -> Result<(i64, i64)> {
        self.consumer
            .fetch_watermarks(&partition.topic, partition.partition, REQUEST_TIMEOUT)
            .with_context(|| format!("read watermarks of {}", partition.topic))
    }

    /// The first offset whose record has this timestamp or a later one; none where there is no such record.
    ///
    /// # Errors
    /// When the partition's leader does not answer in time.
    pub(crate) fn offset_at(&self, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>> {
        let list = list_of(std::iter::once((partition, timestamp_ms)))?;
        let answered = self
            .consumer
            .offsets_for_times(list, REQUEST_TIMEOUT)
            .context("look up offset by time")?;
        let found = answered.elements().first().map(|element| element.offset());
        Ok(match found {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    /// Commits outside a transaction (at-least-once) and waits for the answer.
    ///
    /// # Errors
    /// When the group refuses, for one because the partitions are another member's now.
    pub(crate) fn commit(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        self.consumer.commit(offsets, CommitMode::Sync)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // From here on nobody answers rebalances but the callback itself; without it, leaving the group would wait for ever.
        self.consumer.context().closing.store(true, Ordering::Release);
    }
}

impl Events {
    fn classify(&self, error: &KafkaError) -> Event {
        let reason = std::mem::take(&mut *self.reason.lock().unwrap_or_else(PoisonError::into_inner));
        let text = match reason.as_str() {
            "" => error.to_string(),
            reason => format!("{error}: {reason}"),
        };
        match error {
            KafkaError::MessageConsumptionFatal(_) => Event::Broken(text),
            KafkaError::MessageConsumption(code) => match code {
                RDKafkaErrorCode::PollExceeded => Event::PollExceeded,
                RDKafkaErrorCode::GroupAuthorizationFailed => {
                    Event::Broken(format!("{}: {text}", Right::on_group(&self.group).lost()))
                }
                RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                    Event::Broken(format!("a right is missing; {HINT}: {text}"))
                }
                RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::InvalidTopic => Event::Broken(text),
                _ => Event::Trouble(text),
            },
            _ => Event::Trouble(text),
        }
    }
}

fn list_of<'a>(partitions: impl Iterator<Item = (&'a TopicPartition, i64)>) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offset))
            .with_context(|| format!("{} partition {}", partition.topic, partition.partition))?;
    }
    Ok(list)
}

/// Offsets to commit, each with the text that says who committed it.
///
/// # Errors
/// When librdkafka refuses an offset; negative ones are refused.
pub(crate) fn offsets_to_commit(offsets: &[(TopicPartition, i64)], metadata: &str) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        let mut element = list.add_partition(&partition.topic, partition.partition);
        element.set_offset(Offset::Offset(*offset))?;
        element.set_metadata(metadata);
    }
    Ok(list)
}
