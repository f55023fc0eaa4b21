//! A real Kafka as the tests see it: topics, records in, records out, groups.
//!
//! Most tests share one Kafka of one broker, which the free functions use; a [`Kafka`] is any other one.
//! What is read is what a `read_committed` consumer sees once every transaction has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::ptr;
use std::slice;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Message as _, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::{PATIENCE, servers, wait_for};

const REQUEST: Duration = Duration::from_secs(30);

/// What a record says, apart from its position. Header names are bytes: Kafka does not ask for UTF-8.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) timestamp_ms: Option<i64>,
}

impl Record {
    pub(crate) fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: Some(key.into()),
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// The last header of that name, as text. None: no such header, or its value is null.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(other, _)| other == name.as_bytes())?;
        Some(str::from_utf8(value.as_deref()?).expect("the header's value is UTF-8"))
    }

    pub(crate) fn value_text(&self) -> &str {
        str::from_utf8(self.value.as_deref().expect("the record has a value")).expect("the value is UTF-8")
    }

    pub(crate) fn key_text(&self) -> &str {
        str::from_utf8(self.key.as_deref().expect("the record has a key")).expect("the key is UTF-8")
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &Option<Vec<u8>>| match bytes {
            None => "null".to_owned(),
            Some(bytes) if bytes.len() > 200 => format!("{} bytes", bytes.len()),
            Some(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        };
        write!(f, "{{key {}, value {}, ", text(&self.key), text(&self.value))?;
        for (name, value) in &self.headers {
            write!(f, "{}={}, ", name.escape_ascii(), text(value))?;
        }
        write!(f, "at {:?}}}", self.timestamp_ms)
    }
}

/// A record and where it stands in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) record: Record,
}

/// `host:port` of the broker that most tests use.
pub(crate) fn bootstrap() -> &'static str {
    servers::bootstrap()
}

/// A Kafka as a client knows it.
#[derive(Clone, Debug)]
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    /// How many brokers keep each partition.
    pub(crate) replication: i32,
}

impl Kafka {
    /// The one that most tests use, and the functions below that name none.
    pub(crate) fn shared() -> Self {
        Self {
            bootstrap: bootstrap().to_owned(),
            replication: 1,
        }
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Creates a topic and waits until it can be used. Records stay for ever unless `settings` say otherwise.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic =
            NewTopic::new(name, partitions, TopicReplication::Fixed(self.replication)).set("retention.ms", "-1");
        for (setting, value) in settings {
            topic = topic.set(setting, value);
        }
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(REQUEST));
        block_on(admin.create_topics([&topic], &options))
            .unwrap()
            .remove(0)
            .unwrap();
        wait_for(&format!("topic {name} to have leaders"), PATIENCE, || {
            let metadata = admin.inner().fetch_metadata(Some(name), REQUEST).ok()?;
            let ready = metadata.topics()[0]
                .partitions()
                .iter()
                .filter(|partition| partition.leader() >= 0)
                .count();
            (ready == partitions as usize).then_some(())
        });
    }

    /// A producer that keeps order and repeats nothing.
    pub(crate) fn sender(&self) -> Sender {
        Sender::with(self.config(), &[("enable.idempotence", "true")])
    }

    /// One whose records are all in transactions.
    pub(crate) fn transactional_sender(&self, id: &str) -> Sender {
        let sender = Sender::with(self.config(), &[("transactional.id", id)]);
        sender.0.init_transactions(REQUEST).unwrap();
        sender
    }

    /// All committed records of the topic, by partition and offset, once no transaction is open in it.
    ///
    /// Reading ends at the broker's own end-of-partition mark and not at the offset of a last record, because what stands last may be
    /// the control records of transactions, which no consumer sees.
    pub(crate) fn read_committed(&self, topic: &str) -> Vec<Placed> {
        let consumer = reader(self.config(), "read_committed");
        let unstable = reader(self.config(), "read_uncommitted");
        wait_for(&format!("all transactions in {topic} to end"), PATIENCE, || {
            (ends(&consumer, topic) == ends(&unstable, topic)).then_some(())
        });
        read_to_end(&consumer, topic)
    }

    /// Waits until the topic holds at least `count` committed records, and returns them.
    #[track_caller]
    pub(crate) fn read_at_least(&self, topic: &str, count: usize, deadline: Duration) -> Vec<Placed> {
        let consumer = reader(self.config(), "read_committed");
        let start = Instant::now();
        let mut found = Vec::new();
        while start.elapsed() < deadline {
            // The end offset counts control records too, so it is never below the number of records.
            if ends(&consumer, topic).values().sum::<i64>() >= count as i64 {
                found = read_to_end(&consumer, topic);
                if found.len() >= count {
                    return found;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} of {count} records in {topic} after {deadline:?}", found.len());
    }
}

fn config() -> ClientConfig {
    Kafka::shared().config()
}

/// See [`Kafka::create_topic`].
pub(crate) fn create_topic(name: &str, partitions: i32, settings: &[(&str, &str)]) {
    Kafka::shared().create_topic(name, partitions, settings);
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// The number of partitions, or none where there is no such topic.
pub(crate) fn partitions(topic: &str) -> Option<i32> {
    let consumer: BaseConsumer = config().create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).unwrap();
    let topic = &metadata.topics()[0];
    topic.error().is_none().then(|| topic.partitions().len() as i32)
}

/// Host and port of the broker that leads a partition.
pub(crate) fn leader(topic: &str, partition: i32) -> (String, u16) {
    let consumer: BaseConsumer = config().create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).unwrap();
    let leader = metadata.topics()[0]
        .partitions()
        .iter()
        .find(|found| found.id() == partition)
        .unwrap()
        .leader();
    let broker = metadata.brokers().iter().find(|broker| broker.id() == leader).unwrap();
    (broker.host().to_owned(), broker.port() as u16)
}

/// Counts the deliveries that failed.
#[derive(Default)]
pub(crate) struct Failures(Mutex<Vec<KafkaError>>);

impl rdkafka::ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap().push(error.clone());
        }
    }
}

/// Made by [`Kafka::sender`] or [`Kafka::transactional_sender`].
pub(crate) struct Sender(ThreadedProducer<Failures>);

impl Sender {
    fn with(mut config: ClientConfig, settings: &[(&str, &str)]) -> Self {
        config
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("message.max.bytes", "10000000");
        for (setting, value) in settings {
            config.set(*setting, *value);
        }
        Self(config.create_with_context(Failures::default()).unwrap())
    }

    /// Hands over a record; without a partition it goes where the hash of its key says. [`Sender::flush`] tells whether it arrived.
    pub(crate) fn send(&self, topic: &str, partition: Option<i32>, record: &Record) {
        let mut headers = OwnedHeaders::new();
        for (name, value) in &record.headers {
            let key = str::from_utf8(name).expect("librdkafka's wrapper takes UTF-8 names only; `wire` takes any");
            headers = headers.insert(Header {
                key,
                value: value.as_ref(),
            });
        }
        loop {
            let mut message = BaseRecord::<[u8], [u8]>::to(topic).headers(headers.clone());
            message.key = record.key.as_deref();
            message.payload = record.value.as_deref();
            message.partition = partition;
            message.timestamp = record.timestamp_ms;
            match self.0.send(message) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.0.poll(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("send to {topic}: {error}"),
            }
        }
    }

    pub(crate) fn flush(&self) {
        self.0.flush(PATIENCE).unwrap();
        let failures = self.0.context().0.lock().unwrap();
        assert!(failures.is_empty(), "records did not arrive: {failures:?}");
    }

    pub(crate) fn begin(&self) {
        self.0.begin_transaction().unwrap();
    }

    /// The records of the transaction are on the broker before it aborts, so that they are in the topic, invisible.
    pub(crate) fn abort(&self) {
        self.flush();
        self.0.abort_transaction(REQUEST).unwrap();
    }

    pub(crate) fn commit(&self) {
        self.0.commit_transaction(REQUEST).unwrap();
    }

    /// Commits, unless somebody has fenced this sender.
    pub(crate) fn try_commit(&self) -> Result<(), KafkaError> {
        self.0.commit_transaction(REQUEST)
    }
}

/// Sends records and waits until all have arrived.
pub(crate) fn produce<'a>(topic: &str, partition: Option<i32>, records: impl IntoIterator<Item = &'a Record>) {
    let sender = Kafka::shared().sender();
    for record in records {
        sender.send(topic, partition, record);
    }
    sender.flush();
}

fn reader(mut config: ClientConfig, isolation: &str) -> BaseConsumer {
    config
        .set("group.id", "wasmill-tests-read-without-a-group")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .set("fetch.wait.max.ms", "20")
        .create()
        .unwrap()
}

/// The end of each partition: with `read_committed` the last stable offset, else the high watermark.
fn ends(consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, i64> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).unwrap();
    let partitions = metadata.topics()[0].partitions().iter();
    partitions
        .map(|partition| {
            (
                partition.id(),
                consumer.fetch_watermarks(topic, partition.id(), REQUEST).unwrap().1,
            )
        })
        .collect()
}

/// The high watermark of each partition; it counts control records too.
pub(crate) fn end_offsets(topic: &str) -> BTreeMap<i32, i64> {
    ends(&reader(config(), "read_uncommitted"), topic)
}

/// Whether a transaction is open in the topic.
pub(crate) fn has_open_transaction(topic: &str) -> bool {
    ends(&reader(config(), "read_committed"), topic) != ends(&reader(config(), "read_uncommitted"), topic)
}

/// See [`Kafka::read_committed`].
pub(crate) fn read_committed(topic: &str) -> Vec<Placed> {
    Kafka::shared().read_committed(topic)
}

/// See [`Kafka::read_at_least`].
#[track_caller]
pub(crate) fn read_at_least(topic: &str, count: usize, deadline: Duration) -> Vec<Placed> {
    Kafka::shared().read_at_least(topic, count, deadline)
}

fn read_to_end(consumer: &BaseConsumer, topic: &str) -> Vec<Placed> {
    let mut assignment = TopicPartitionList::new();
    let mut unfinished: BTreeSet<i32> = ends(consumer, topic).into_keys().collect();
    for partition in &unfinished {
        assignment
            .add_partition_offset(topic, *partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();

    let mut records = Vec::new();
    let start = Instant::now();
    while !unfinished.is_empty() {
        assert!(
            start.elapsed() < PATIENCE,
            "no end of {topic} [{unfinished:?}] after {PATIENCE:?}"
        );
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => records.push(placed(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unfinished.remove(&partition);
            }
            Some(Err(error)) => panic!("read {topic}: {error}"),
        }
    }
    consumer.unassign().unwrap();
    records.sort_by_key(|placed| (placed.partition, placed.offset));
    records
}

fn placed(message: &BorrowedMessage<'_>) -> Placed {
    Placed {
        partition: message.partition(),
        offset: message.offset(),
        record: Record {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers(message),
            timestamp_ms: match message.timestamp() {
                Timestamp::NotAvailable => None,
                Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => Some(ms),
            },
        },
    }
}

/// The headers as bytes: the wrapper's own access panics on a name that is not UTF-8.
fn headers(message: &BorrowedMessage<'_>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut list = ptr::null_mut();
    // SAFETY: the message outlives the call; librdkafka parses its headers and keeps them with the message.
    if unsafe { rdkafka_sys::rd_kafka_message_headers(message.ptr(), &mut list) }
        != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    {
        return Vec::new();
    }
    // SAFETY: `list` was set by the call above and lives as long as the message.
    let count = unsafe { rdkafka_sys::rd_kafka_header_cnt(list) };
    (0..count)
        .map(|index| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `index` is below the count; the call sets all three, and what they point to lives as long as the message.
            // The name ends with a NUL; the value has `size` bytes unless it is null.
            unsafe {
                rdkafka_sys::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size);
                let name = std::ffi::CStr::from_ptr(name).to_bytes().to_vec();
                let value = (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), size).to_vec());
                (name, value)
            }
        })
        .collect()
}

/// The offsets that a group has committed, without partitions that have none.
pub(crate) fn committed(group: &str, topic: &str) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = config()
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut wanted = TopicPartitionList::new();
    for partition in 0..partitions(topic).expect("the topic exists") {
        wanted.add_partition(topic, partition);
    }
    let found = consumer.committed_offsets(wanted, REQUEST).unwrap();
    found
        .elements()
        .iter()
        .filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        })
        .collect()
}

/// The number of partitions that each member of a group holds, once the group is stable.
pub(crate) fn members(group: &str) -> Option<Vec<usize>> {
    let consumer: BaseConsumer = config().create().unwrap();
    let list = consumer.fetch_group_list(Some(group), REQUEST).ok()?;
    let group = list.groups().first().filter(|group| group.state() == "Stable")?;
    Some(
        group
            .members()
            .iter()
            .map(|member| assigned_partitions(member.assignment().unwrap_or_default()))
            .collect(),
    )
}

/// Counts the partitions in the classic protocol's assignment: version, then topics, each with its partitions.
fn assigned_partitions(mut bytes: &[u8]) -> usize {
    let mut take = |count: usize| {
        let (head, tail) = mem::take(&mut bytes).split_at_checked(count).unwrap_or_default();
        bytes = tail;
        head.iter()
            .fold(0_usize, |number, byte| (number << 8) | usize::from(*byte))
    };
    take(2);
    let mut count = 0;
    for _ in 0..take(4) {
        let name = take(2);
        for _ in 0..name {
            take(1);
        }
        let partitions = take(4);
        count += partitions;
        for _ in 0..partitions {
            take(4);
        }
    }
    count
}
