//! Makes the clients' configurations: what the host needs for its guarantees, and the pipeline's own properties over its defaults.
//!
//! The pipeline cannot set what would break a guarantee (`config` refuses it), so its properties come last and win.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use crate::config::{Kafka, LINGER_MS, other_name};

/// The configuration of a worker's consumer.
pub(crate) fn consumer(kafka: &Kafka, group: &str, assignor: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position that the topic does not have is never silently replaced; the worker decides.
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        // An end-of-partition event would move the client's own position one record too far (librdkafka before 2.13.2), and a
        // rebalance resumes there: the next record would be skipped.
        .set("enable.partition.eof", "false")
        .set("partition.assignment.strategy", assignor)
        // Otherwise a partition whose queue was full is not fetched for a second.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "100")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "65536");
    for (name, value) in kafka.for_consumer() {
        replace(&mut config, name, value);
    }
    // Debug lines come only where the pipeline sets `debug`.
    config.set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// librdkafka's own default, which fits the brokers' default of `max.message.bytes`.
const BATCH_BYTES_MAX: u64 = 1_000_000;

/// The configuration of a worker's producer; without `transactional_id` it is idempotent only. `message_limit`: the smallest
/// `max.message.bytes` of the topics that it writes, if known.
pub(crate) fn producer(kafka: &Kafka, transactional_id: Option<&str>, message_limit: Option<u64>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("delivery.report.only.error", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", LINGER_MS.to_string())
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "1048576")
        // Back-to-back transactions meet CONCURRENT_TRANSACTIONS for some milliseconds; the default waits 100.
        .set("retry.backoff.ms", "20")
        .set("allow.auto.create.topics", "false");
    // The topic's limit is one of whole batches: a larger batch would be refused although every record in it is small.
    let batch_bytes = message_limit.unwrap_or(BATCH_BYTES_MAX).clamp(1, BATCH_BYTES_MAX);
    config.set("batch.size", batch_bytes.to_string());
    let timeout_ms = kafka.transaction_timeout().as_millis().to_string();
    if let Some(id) = transactional_id {
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", &timeout_ms);
    }
    // A delivery that outlives its transaction is of no use to anyone.
    config.set("message.timeout.ms", &timeout_ms);
    for (name, value) in kafka.for_producer() {
        if transactional_id.is_some() || name != "transaction.timeout.ms" {
            replace(&mut config, name, value);
        }
    }
    // Debug lines come only where the pipeline sets `debug`.
    config.set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// The configuration of a producer whose every record is reported: acknowledged or failed within `timeout`. `memory_bytes`: what its queue may hold;
/// `record_bytes`: the largest value.
pub(crate) fn publisher(
    kafka: &Kafka,
    timeout: Duration,
    memory_bytes: u64,
    record_bytes: u64,
    message_limit: Option<u64>,
) -> ClientConfig {
    let mut config = producer(kafka, None, message_limit);
    config
        .set("delivery.report.only.error", "false")
        .set("message.timeout.ms", timeout.as_millis().to_string())
        .set("queue.buffering.max.kbytes", (memory_bytes / 1024).max(1).to_string())
        .set("queue.buffering.max.messages", (memory_bytes / 1024).max(1).to_string());
    // The same property by its other name, which could come last and win.
    config.remove("delivery.timeout.ms");
    // Otherwise the client would refuse what the topic may take; whether it does, its broker says.
    if kafka.get("message.max.bytes").is_none() {
        let overhead = 64 * 1024;
        config.set(
            "message.max.bytes",
            (record_bytes + overhead).max(BATCH_BYTES_MAX).to_string(),
        );
    }
    config
}

/// The configuration of a client that only asks: for topics, offsets, watermarks.
pub(crate) fn observer(kafka: &Kafka, group: Option<&str>) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in kafka.for_admin() {
        replace(&mut config, name, value);
    }
    if let Some(group) = group {
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false");
    }
    // Debug lines come only where the pipeline sets `debug`.
    config.set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// Sets what the pipeline says. A default under the property's other name goes: librdkafka takes whichever it is told last, and the order is random.
fn replace(config: &mut ClientConfig, name: &str, value: &str) {
    if let Some(other) = other_name(name) {
        config.remove(other);
    }
    config.set(name, value);
}

/// Passes a line of librdkafka on. Its errors are reported to the worker as well, which decides what they mean, so none is an ERROR here.
pub(crate) fn log(client: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "kafka", client, facility, "{message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            tracing::info!(target: "kafka", client, facility, "{message}");
        }
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "kafka", client, facility, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Broker};

    #[test]
    fn a_property_under_its_other_name_takes_the_place_of_the_default() {
        let text = "app: a\nkafka: {bootstrap.servers: 'k:9092', delivery.timeout.ms: 5000, queue.buffering.max.ms: 7, compression.codec: gzip}\n\
                    stages: {s: {plugin: p.wasm, input: i, output: o}}\n";
        let pipeline = config::parse(text, "p.yaml".as_ref(), &|_| None, Broker::Configured);
        let kafka = pipeline.unwrap_or_else(|errors| panic!("{errors}")).kafka;
        let set = producer(&kafka, None, None);
        for (name, value) in [
            ("delivery.timeout.ms", Some("5000")),
            ("message.timeout.ms", None),
            ("queue.buffering.max.ms", Some("7")),
            ("linger.ms", None),
            ("compression.codec", Some("gzip")),
            ("compression.type", None),
        ] {
            assert_eq!(set.get(name), value, "{name}");
        }
        let set = publisher(&kafka, Duration::from_secs(3), 1 << 20, 1 << 20, None);
        assert_eq!(
            (set.get("delivery.timeout.ms"), set.get("message.timeout.ms")),
            (None, Some("3000"))
        );
    }
}
