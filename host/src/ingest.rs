//! Takes records in by HTTP: `POST /producer/TOPIC` writes them to a topic, and is answered when all replicas in sync have them.
//!
//! The way of a request, in the order of the modules: `listener` accepts its connection, `request` checks it and reads its body within
//! `memory`, `body` takes it apart, `write` hands its records to the producer, once for each key that `idempotency` remembers, and `answer`
//! tells what became of them. What finds no room is refused at once and told to come again: nothing here waits in a queue without a bound.

mod answer;
mod body;
mod idempotency;
mod listener;
mod memory;
mod request;
mod status;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{self, Kafka};
use crate::kafka::publisher::Publisher;
use crate::kafka::settings;
use crate::kafka::topics::Topics;
use crate::metrics::IngestMetrics;

use idempotency::Keys;
use memory::Memory;
pub(crate) use status::IngestStatus;

/// How often brokers that did not take records are asked whether they are back.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long their answer about a topic's settings may take.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// A topic that may be written.
struct Topic {
    name: String,
    /// The steps of the pointer to a record's key.
    key: Option<Vec<String>>,
}

/// What all requests share.
struct Shared {
    config: config::Ingest,
    kafka: Kafka,
    topics: Vec<Topic>,
    publisher: Publisher,
    memory: Memory,
    keys: Mutex<Keys>,
    metrics: IngestMetrics,
    status: Arc<IngestStatus>,
}

impl Shared {
    fn new(
        config: &config::Ingest,
        kafka: &Kafka,
        message_limit: Option<u64>,
        metrics: IngestMetrics,
        address: std::net::SocketAddr,
    ) -> Result<Self> {
        let properties = settings::publisher(
            kafka,
            config.timeout.value,
            config.memory_bytes.value,
            config.body_bytes.value,
            message_limit,
        );
        let topics = config.topics.iter().map(|topic| Topic {
            name: topic.name.value.clone(),
            key: topic.key.as_ref().map(|key| key.value.clone()),
        });
        let topics: Vec<Topic> = topics.collect();
        let names = topics.iter().map(|topic| topic.name.clone()).collect();
        let keys_bytes = usize::try_from(config.idempotency_bytes.value).unwrap_or(usize::MAX);
        Ok(Self {
            publisher: Publisher::new(properties)?,
            memory: Memory::new(config.memory_bytes.value),
            keys: Mutex::new(Keys::new(config.idempotency_keep.value, keys_bytes)),
            status: Arc::new(IngestStatus::new(address, names, metrics.clone())),
            config: config.clone(),
            kafka: kafka.clone(),
            topics,
            metrics,
        })
    }

    fn records_max(&self) -> usize {
        self.config.records.value as usize
    }

    fn show_memory(&self) {
        self.metrics.held_bytes.set(gauge(self.memory.held_bytes()));
    }

    fn show_keys(&self, keys: &Keys) {
        self.metrics.keys.set(gauge(keys.size().0));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A listener that serves.
pub(crate) struct Ingest {
    shared: Arc<Shared>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    watching: JoinHandle<()>,
}

impl Ingest {
    /// Listens, and serves in the background. `message_limit`: the smallest `max.message.bytes` of its topics, if known.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the producer cannot be made.
    pub(crate) async fn start(
        config: &config::Ingest,
        kafka: &Kafka,
        message_limit: Option<u64>,
        metrics: IngestMetrics,
    ) -> Result<Self> {
        let address = config.listen.value;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address} (`ingest: listen`)"))?;
        let address = listener.local_addr().unwrap_or(address);
        let shared = Arc::new(Shared::new(config, kafka, message_limit, metrics, address)?);
        let routers = listener::Routers {
            usual: request::router(Arc::clone(&shared)),
            refusing: request::refusing(Arc::clone(&shared)),
        };
        let limits = listener::Limits {
            connections: config.connections.value as usize,
            time: config.client_timeout.value,
        };
        let (stop, stopped) = oneshot::channel();
        let open = shared.metrics.connections.clone();
        tracing::info!(%address, "serving POST /producer/TOPIC");
        Ok(Self {
            serving: tokio::spawn(listener::serve(listener, routers, limits, open, stopped)),
            watching: tokio::spawn(watch(Arc::clone(&shared))),
            shared,
            stop,
        })
    }

    pub(crate) fn status(&self) -> Arc<IngestStatus> {
        Arc::clone(&self.shared.status)
    }

    /// Accepts nothing more, and answers what has come.
    ///
    /// # Errors
    /// When not all of it is answered by the deadline.
    pub(crate) async fn stop(self, deadline: Duration) -> Result<()> {
        self.shared.status.ends();
        self.watching.abort();
        // It is there unless it has panicked.
        let _ = self.stop.send(());
        let shared = Arc::clone(&self.shared);
        let ended = tokio::time::timeout(deadline, async move {
            let _ = self.serving.await;
            // A client that went away leaves its records on their way.
            shared.memory.all_given_back().await;
        });
        ended.await.map_err(|_| {
            let requests = self.shared.metrics.in_flight();
            anyhow!(
                "{requests} requests by HTTP were not answered within {} s; what they sent may be written or not",
                deadline.as_secs()
            )
        })
    }
}

/// Asks brokers that did not take records whether they are back: when readiness keeps clients away, no record would tell.
async fn watch(shared: Arc<Shared>) {
    // What a topic needs is asked once while topics fail.
    let mut needed = BTreeMap::new();
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        shared.show_memory();
        let failing = shared.status.to_be_reached();
        if failing.is_empty() {
            needed.clear();
            continue;
        }
        for topic in failing {
            let (asked, name) = (Arc::clone(&shared), topic.clone());
            let looks = move || asked.publisher.look(&name, PROBE_INTERVAL);
            let Ok(Ok(in_sync)) = tokio::task::spawn_blocking(looks).await else {
                continue;
            };
            if !needed.contains_key(&topic) {
                needed.insert(topic.clone(), replicas_needed(&shared.kafka, &topic).await);
            }
            if needed.get(&topic).is_some_and(|needed| in_sync >= *needed) {
                shared.status.reaches(&topic);
            }
        }
    }
}

/// How many replicas have to be in sync for a record to be taken; one where the brokers do not tell.
async fn replicas_needed(kafka: &Kafka, topic: &str) -> usize {
    let Ok(topics) = Topics::connect(kafka) else {
        return 1;
    };
    let names = BTreeSet::from([topic]);
    let settings = tokio::time::timeout(SETTINGS_TIMEOUT, topics.settings(&names)).await;
    let settings = settings.ok().and_then(|mut settings| settings.remove(topic));
    settings.and_then(|settings| settings.replicas_in_sync_min).unwrap_or(1)
}
