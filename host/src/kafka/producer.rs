//! Writes records, in transactions or without.
//!
//! One producer belongs to one worker. A thread of its own serves delivery reports: without it an abort with messages in flight
//! waits for its whole timeout. The first failed delivery is kept, with whether it is the record's fault or the broker's; what to do
//! about it is the worker's decision. After an error whose outcome is not known the producer must be thrown away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};

use super::ffi::{GroupConsumer, Headers, RawProducer, TopicHandle};

/// How long `init_transactions` may take: a transaction that a dead process left open is waited for.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one transactional call may take before its outcome counts as unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// An error of a transactional call, with what librdkafka says may be done about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct CallError {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) message: String,
    /// The producer can do nothing more.
    pub(crate) fatal: bool,
    /// The same call may be made again.
    pub(crate) retriable: bool,
    /// The transaction must be aborted.
    pub(crate) requires_abort: bool,
}

/// A record to produce. Null parts are none; a timestamp of none is written as Kafka's "no timestamp" (-1).
pub(crate) struct Produce<'a> {
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Must not be 0, which librdkafka reads as "now".
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) headers: Option<Headers>,
}

/// Why a delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The broker refuses the record itself: another try would be refused again.
    Record,
    /// A right is missing, or the topic is gone: only a person can mend it.
    Operator,
    /// Everything else passes.
    Passing,
}

impl CallError {
    /// Of a consumer whose offsets cannot go into a transaction.
    pub(super) fn not_a_member() -> Self {
        Self {
            code: RDKafkaErrorCode::UnknownMemberId,
            message: "this consumer is not a member of its group any more".to_owned(),
            fatal: false,
            retriable: false,
            requires_abort: true,
        }
    }
}

/// Who is to blame for an error of producing.
pub(crate) fn blame(code: RDKafkaErrorCode) -> Blame {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidTimestamp
        | Code::InvalidRecord
        | Code::InvalidMessage
        | Code::PolicyViolation
        | Code::UnknownPartition
        | Code::MessageBatchTooLarge => Blame::Record,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::InvalidTopic
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::InvalidTransactionTimeout
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature => Blame::Operator,
        _ => Blame::Passing,
    }
}

/// The first delivery that failed since the last `take_failure`.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryFailure {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) topic: String,
}

pub(crate) struct Deliveries {
    name: String,
    failure: Mutex<Option<DeliveryFailure>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::settings::log(&self.name, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = self.name, %error, reason, "kafka client error");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        use rdkafka::Message as _;
        let Err((error, message)) = result else {
            return;
        };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // A purge follows an abort and tells nothing; the record's own error outranks the errors of its neighbours in the batch.
        let purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        let outranks = failure
            .as_ref()
            .is_none_or(|known| blame(known.code) == Blame::Passing && blame(code) != Blame::Passing);
        if !purged && outranks {
            *failure = Some(DeliveryFailure {
                code,
                topic: message.topic().to_owned(),
            });
        }
    }
}

/// A producer with its topics.
pub(crate) struct Producer {
    topics: Vec<TopicHandle>,
    raw: RawProducer,
    deliveries: Arc<Deliveries>,
}

impl Producer {
    /// Creates the producer and its topics, which are named afterwards by their place in `topics`.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration or a topic name.
    pub(crate) fn new(name: &str, config: &ClientConfig, topics: &[String]) -> Result<Self> {
        let context = Deliveries {
            name: name.to_owned(),
            failure: Mutex::default(),
        };
        let client: ThreadedProducer<Deliveries> =
            ThreadedProducer::from_config_and_context(config, context).context("create producer")?;
        let deliveries = Arc::clone(client.client().context());
        let raw = RawProducer::new(client);
        let topics = topics
            .iter()
            .map(|topic| TopicHandle::new(&raw, topic).ok_or_else(|| anyhow!("open topic {topic}")))
            .collect::<Result<_>>()?;
        Ok(Self {
            topics,
            raw,
            deliveries,
        })
    }

    /// Fences every older producer with the same transactional id and ends the transaction that it left open.
    ///
    /// # Errors
    /// When the coordinator does not answer in time or refuses.
    pub(crate) fn init_transactions(&self) -> Result<(), CallError> {
        self.raw.init_transactions(INIT_TIMEOUT)
    }

    pub(crate) fn begin(&self) -> Result<(), CallError> {
        self.raw.begin_transaction()
    }

    /// Queues a record for the topic at place `topic` of the list given to `new`.
    ///
    /// # Errors
    /// `QueueFull` when there is no room now; otherwise see `blame`.
    pub(crate) fn produce(&self, topic: usize, record: Produce<'_>) -> Result<(), CallError> {
        self.raw.produce(&self.topics[topic], record)
    }

    /// Adds offsets to the open transaction; calls again while librdkafka says that it may.
    ///
    /// # Errors
    /// Any other error; the transaction must be aborted then.
    pub(crate) fn send_offsets(&self, offsets: &TopicPartitionList, consumer: &GroupConsumer) -> Result<(), CallError> {
        resume(|| self.raw.send_offsets(offsets, consumer, CALL_TIMEOUT))
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    /// Unless `requires_abort` is set, the outcome is unknown.
    pub(crate) fn commit(&self) -> Result<(), CallError> {
        resume(|| self.raw.commit_transaction(CALL_TIMEOUT))
    }

    /// # Errors
    /// The producer must be thrown away then.
    pub(crate) fn abort(&self) -> Result<(), CallError> {
        resume(|| self.raw.abort_transaction(CALL_TIMEOUT))
    }

    /// Waits until everything produced is acknowledged or has failed; false when `timeout` passes first.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        self.raw.flush(timeout)
    }

    /// Messages that wait for their delivery report.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.raw.client().in_flight_count()).unwrap_or(0)
    }

    /// Whether a record was refused, by what only the record or a person can change.
    pub(crate) fn is_refused(&self) -> bool {
        let failure = self.deliveries.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure
            .as_ref()
            .is_some_and(|failure| blame(failure.code) != Blame::Passing)
    }

    pub(crate) fn take_refusal(&self) -> Option<DeliveryFailure> {
        if self.is_refused() { self.take_failure() } else { None }
    }

    pub(crate) fn take_failure(&self) -> Option<DeliveryFailure> {
        self.deliveries
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Transactional calls are resumable: after a retriable error the same call, and no other, goes on where it was. Twice is
/// enough, each waits for its whole timeout; what is still undecided then counts as unknown.
fn resume(call: impl Fn() -> Result<(), CallError>) -> Result<(), CallError> {
    match call() {
        Err(error) if error.retriable && !error.requires_abort && !error.fatal => call(),
        result => result,
    }
}
