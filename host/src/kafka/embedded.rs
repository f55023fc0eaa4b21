//! The embedded broker of `dev`: librdkafka's mock cluster.
//!
//! It speaks the protocol over real TCP, but it is a stage set and not a Kafka: offsets sent to a transaction are dropped, aborted records are
//! visible, 5 MiB are kept a partition, and topics are made through its own interface only. Nothing about delivery is proven on it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::fixture::Fixture;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A broker inside this process.
pub(crate) struct Embedded {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// A record that came out.
pub(crate) struct Output {
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) headers: Vec<(String, Option<String>)>,
}

impl Output {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(known, _)| known == name)?.1.as_deref()
    }
}

impl Embedded {
    /// # Errors
    /// When it cannot listen on a local port.
    pub(crate) fn start() -> Result<Self> {
        let cluster = MockCluster::new(1).context("start the embedded broker")?;
        Ok(Self { cluster })
    }

    pub(crate) fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.cluster
            .create_topic(name, partitions, 1)
            .with_context(|| format!("create topic {name}"))
    }

    /// Reads a topic to its end.
    ///
    /// # Errors
    /// When the end is not reached in time.
    pub(crate) fn read(&self, topic: &str) -> Result<Vec<Output>> {
        let consumer: BaseConsumer = client(&self.bootstrap_servers())
            .set("group.id", "wasmill-dev")
            .set("enable.auto.commit", "false")
            .create()
            .context("create consumer")?;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).context("read metadata")?;
        let mut list = TopicPartitionList::new();
        let mut missing = 0;
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition.id(), TIMEOUT)
                .context("read watermarks")?;
            missing += high - low;
            list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let deadline = Instant::now() + TIMEOUT;
        let mut outputs = Vec::new();
        while i64::try_from(outputs.len()).unwrap_or(i64::MAX) < missing {
            if Instant::now() > deadline {
                bail!("topic {topic}: {} of {missing} records read in time", outputs.len());
            }
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => outputs.push(output(&message)),
                Some(Err(error)) => return Err(anyhow!(error).context(format!("read topic {topic}"))),
                None => {}
            }
        }
        Ok(outputs)
    }
}

fn client(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers);
    config
}

/// Sends records in order; `sent` is told after each.
///
/// # Errors
/// When a record is not acknowledged.
pub(crate) fn feed(bootstrap_servers: &str, records: &[Fixture], mut sent: impl FnMut()) -> Result<()> {
    let producer: BaseProducer = client(bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .create()
        .context("create producer")?;
    for record in records {
        send(&producer, record).with_context(|| format!("send a record to topic {}", record.topic))?;
        sent();
    }
    producer.flush(TIMEOUT).context("send the input")
}

fn send(producer: &BaseProducer, record: &Fixture) -> Result<()> {
    let headers = record
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: value.as_ref(),
            })
        });
    let mut next = BaseRecord::<[u8], [u8]>::to(&record.topic).headers(headers);
    next.key = record.key.as_deref();
    next.payload = record.value.as_deref();
    next.timestamp = record.timestamp_ms;
    loop {
        match producer.send(next) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(10));
                next = back;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

fn output(message: &rdkafka::message::BorrowedMessage<'_>) -> Output {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // What `dev` reads was written from `input.jsonl`, whose header names are UTF-8; the wrapper panics on others.
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(text)))
            .collect()
    });
    Output {
        key: message.key().map(text),
        value: message.payload().map(text),
        headers,
    }
}
