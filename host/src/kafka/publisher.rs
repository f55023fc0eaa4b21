//! Writes single records and tells of each where it was written, or why not.
//!
//! One idempotent producer for all callers, whose queue is bounded: a record that finds no room is refused at once. A record that
//! was handed over is acknowledged by all replicas in sync, or reported as failed within the timeout of the properties; only what
//! is surely in no topic is reported as such. A producer that has met a fatal error is replaced.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::ffi;

/// The client's name in the log.
const NAME: &str = "ingest";

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) partition: i32,
    /// None: an earlier try of the client has written it, and the broker does not say where any more.
    pub(crate) offset: Option<i64>,
    /// The record's timestamp in the topic; -1 where the topic keeps none.
    pub(crate) timestamp_ms: i64,
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub(crate) struct Unacknowledged {
    pub(crate) code: RDKafkaErrorCode,
    /// It is in no topic, and will be in none; otherwise nobody knows.
    pub(crate) is_unwritten: bool,
}

/// What comes of a record that was handed over.
pub(crate) type Report = oneshot::Receiver<Result<Written, Unacknowledged>>;

/// A record to write.
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) value: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

pub(crate) struct Publisher {
    properties: ClientConfig,
    producer: RwLock<Arc<ThreadedProducer<Reports>>>,
}

impl Publisher {
    /// # Errors
    /// When librdkafka refuses the properties.
    pub(crate) fn new(properties: ClientConfig) -> Result<Self> {
        let producer = create(&properties).context("create producer")?;
        Ok(Self {
            properties,
            producer: RwLock::new(producer),
        })
    }

    /// Hands a record over.
    ///
    /// # Errors
    /// When the queue is full or the client refuses the record; it is written nowhere then.
    pub(crate) fn publish(&self, record: &Publish<'_>) -> Result<Report, Unacknowledged> {
        let producer = self.producer();
        match send(&producer, record) {
            Err(RDKafkaErrorCode::Fatal) => send(&self.replace(&producer), record),
            outcome => outcome,
        }
        .map_err(|code| Unacknowledged {
            code,
            is_unwritten: true,
        })
    }

    fn producer(&self) -> Arc<ThreadedProducer<Reports>> {
        Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another producer in the place of one that can do nothing more, unless somebody has done so already.
    fn replace(&self, spent: &Arc<ThreadedProducer<Reports>>) -> Arc<ThreadedProducer<Reports>> {
        let mut current = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, spent) {
            return Arc::clone(&current);
        }
        let why = spent.client().fatal_error().map(|(_, reason)| reason);
        match create(&self.properties) {
            Ok(fresh) => {
                tracing::warn!(reason = why, "the producer had a fatal error and was replaced");
                let spent = std::mem::replace(&mut *current, fresh);
                // It waits for its own thread when it is dropped; no request is to wait with it.
                std::thread::spawn(move || drop(spent));
            }
            Err(error) => tracing::error!(%error, "a producer with a fatal error cannot be replaced"),
        }
        Arc::clone(&current)
    }

    /// Asks the brokers for a topic: the smallest number of replicas in sync that a partition of it has.
    ///
    /// # Errors
    /// When none answers in time, or the topic has no leader or is gone.
    pub(crate) fn look(&self, topic: &str, timeout: Duration) -> Result<usize> {
        let metadata = self.producer().client().fetch_metadata(Some(topic), timeout)?;
        let mut in_sync = usize::MAX;
        for found in metadata.topics() {
            if let Some(error) = found.error() {
                return Err(anyhow!(RDKafkaErrorCode::from(error)));
            }
            for partition in found.partitions() {
                if partition.leader() < 0 {
                    return Err(anyhow!("topic {topic} has a partition without a leader"));
                }
                in_sync = in_sync.min(partition.isr().len());
            }
        }
        Ok(in_sync)
    }
}

fn create(properties: &ClientConfig) -> Result<Arc<ThreadedProducer<Reports>>, KafkaError> {
    ThreadedProducer::from_config_and_context(properties, Reports).map(Arc::new)
}

fn send(producer: &ThreadedProducer<Reports>, record: &Publish<'_>) -> Result<Report, RDKafkaErrorCode> {
    let (tell, report) = oneshot::channel();
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
        headers.insert(Header {
            key,
            value: Some(*value),
        })
    });
    let mut message = BaseRecord::<str, str, _>::with_opaque_to(record.topic, Box::new(tell)).headers(headers);
    message.key = record.key;
    message.payload = Some(record.value);
    match producer.send(message) {
        Ok(()) => Ok(report),
        Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
    }
}

/// A broker that finds a batch to be a double of one that is long written may confirm it without an offset, which the client tells as -1001.
fn known_offset(offset: i64) -> Option<i64> {
    (offset >= 0).then_some(offset)
}

/// Passes each delivery report to whoever waits for it.
struct Reports;

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::settings::log(NAME, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = NAME, %error, reason, "kafka client error");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Result<Written, Unacknowledged>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, tell: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(message) => Ok(Written {
                partition: message.partition(),
                offset: known_offset(message.offset()),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            }),
            Err((error, message)) => Err(Unacknowledged {
                code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
                is_unwritten: ffi::is_surely_unwritten(message),
            }),
        };
        // Nobody waits any more where the process is ending.
        let _ = tell.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_the_broker_does_not_tell_is_none() {
        assert_eq!(known_offset(-1001), None);
        assert_eq!(known_offset(-1), None);
        assert_eq!(known_offset(0), Some(0));
    }
}
