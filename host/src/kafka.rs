//! Everything that speaks to Kafka, and the only place that names the client library.
//!
//! `ffi` is the one module with unsafe code; `settings` makes the clients' configurations; `consumer` reads batches of messages and
//! reports rebalances; `producer` writes in transactions, `publisher` single records; `topics` looks at topics and creates them; `rights` asks what the user
//! may do; `reasons` keeps why a connection fails; `scan` reads a topic without a group; `message` is for records that carry another; `lag` watches how far the groups are behind; `embedded` is the broker of
//! `dev`. None of them knows what a plugin is.

pub(crate) mod consumer;
pub(crate) mod embedded;
pub(crate) mod ffi;
pub(crate) mod lag;
pub(crate) mod message;
pub(crate) mod producer;
pub(crate) mod publisher;
pub(crate) mod reasons;
pub(crate) mod rights;
pub(crate) mod scan;
pub(crate) mod settings;
pub(crate) mod topics;

/// An error code of the client or a broker.
pub(crate) type Code = rdkafka::error::RDKafkaErrorCode;

/// What the brokers or the client said, where that is what an error comes from.
pub(crate) fn code_of(error: &anyhow::Error) -> Option<Code> {
    let mut causes = error.chain();
    causes.find_map(|cause| cause.downcast_ref::<rdkafka::error::KafkaError>()?.rdkafka_error_code())
}
/// The properties of one client.
pub(crate) type Properties = rdkafka::config::ClientConfig;
/// Offsets by topic and partition, as the client takes them.
pub(crate) type Offsets = rdkafka::TopicPartitionList;
