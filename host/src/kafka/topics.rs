//! Looks at topics before a pipeline starts, and creates those that are missing where the pipeline says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr;

use super::Properties;
use super::reasons::Reasons;
use super::rights::Answer;
use super::settings;
use crate::config;

/// How long the first answer of a broker may take; a cluster that is starting needs some seconds.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a first question waits before it is looked whether an answer can come at all; a later one waits twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How long the queue of events is looked at that has nothing for the caller.
const EVENTS_WAIT: Duration = Duration::from_millis(50);

/// What a broker says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Partitions(i32),
    Missing,
    /// This user may not see it; whether it exists the brokers do not tell.
    Hidden,
    /// The broker's words: a missing right, a name it does not take.
    Refused(String),
}

/// What the host has to know of a topic's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) message_bytes_max: Option<u64>,
    /// Every record needs a key.
    pub(crate) is_compacted: bool,
    /// Fewer replicas in sync take no record.
    pub(crate) replicas_in_sync_min: Option<usize>,
}

/// A connection for looking at topics and creating them.
pub(crate) struct Topics {
    pub(super) observer: BaseConsumer<Reasons>,
    properties: Properties,
    kafka: config::Kafka,
}

impl Topics {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(crate) fn connect(kafka: &config::Kafka) -> Result<Self> {
        let properties = settings::observer(kafka, None);
        let observer =
            BaseConsumer::from_config_and_context(&properties, Reasons::default()).context("create client")?;
        Ok(Self {
            observer,
            properties,
            kafka: kafka.clone(),
        })
    }

    pub(super) fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        self.properties.create().context("create client")
    }

    /// The brokers know who asks. Where they do not, nothing can be hidden from some and shown to others; the embedded broker would not answer
    /// the question either.
    fn is_secured(&self) -> bool {
        let protocol = self.kafka.get("security.protocol");
        protocol.is_some_and(|protocol| protocol.value.expose() != "plaintext")
    }

    /// All topics that the user may see. Asking for all never creates one, whatever the broker's settings; asking for one by name might.
    fn metadata(&self) -> Result<Metadata> {
        let (mut wait, mut waited) = (FIRST_WAIT, Duration::ZERO);
        loop {
            let error = match self.observer.fetch_metadata(None, wait) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            // What the client says of its connections comes by the queue, among its log lines.
            while self.observer.poll(EVENTS_WAIT).is_some() {}
            let reasons = self.observer.context();
            if let Some(refusal) = reasons.refusal(&self.kafka) {
                bail!(refusal);
            }
            waited += wait;
            wait *= 2;
            if waited >= TIMEOUT {
                let servers = self.properties.get("bootstrap.servers").unwrap_or_default();
                let reason = reasons.trouble().unwrap_or_else(|| error.to_string());
                bail!(
                    "no broker answers at {servers}; check `kafka: bootstrap.servers`, and that the brokers run: {reason}"
                );
            }
        }
    }

    /// Looks the topics up. A topic that does not exist is not created by the look.
    ///
    /// # Errors
    /// When no broker answers in time.
    pub(crate) fn look(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Found>> {
        let metadata = self.metadata()?;
        let found = |name: &String| {
            let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
                return Found::Missing;
            };
            match topic.error() {
                Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Found::Missing,
                Some(error) => Found::Refused(RDKafkaErrorCode::from(error).to_string()),
                None => Found::Partitions(i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)),
            }
        };
        let mut found: BTreeMap<String, Found> = names.iter().map(|name| (name.clone(), found(name))).collect();
        if !self.is_secured() {
            return Ok(found);
        }
        let missing = found.iter().filter(|(_, found)| **found == Found::Missing);
        // Topics that the user may not see are left out of an answer about all.
        let missing = missing.map(|(name, _)| name.clone()).collect();
        match self.rights(&missing) {
            Ok(answers) => {
                let hidden = answers.into_iter().filter(|(_, answer)| *answer == Answer::Hidden);
                found.extend(hidden.map(|(name, _)| (name, Found::Hidden)));
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "the brokers do not tell of rights"),
        }
        Ok(found)
    }

    /// The smallest `max.message.bytes` of these topics; none where the brokers do not tell.
    pub(crate) async fn smallest_message_limit(&self, names: &BTreeSet<&str>) -> Option<u64> {
        let settings = self.settings(names).await;
        settings
            .values()
            .filter_map(|settings| settings.message_bytes_max)
            .min()
    }

    /// What the brokers tell of the settings of these topics: nothing, where one is old or a right is missing.
    pub(crate) async fn settings(&self, names: &BTreeSet<&str>) -> BTreeMap<String, Settings> {
        let topics: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let Ok(admin) = self.admin() else {
            return BTreeMap::new();
        };
        let described = match admin.describe_configs(&topics, &options).await {
            Ok(described) => described,
            Err(error) => {
                tracing::debug!(%error, "the brokers do not tell the settings of topics");
                return BTreeMap::new();
            }
        };
        let told = |topic: ConfigResource| {
            let value = |setting: &str| topic.get(setting)?.value.as_deref();
            let settings = Settings {
                message_bytes_max: value("max.message.bytes").and_then(|bytes| bytes.parse().ok()),
                is_compacted: value("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
                replicas_in_sync_min: value("min.insync.replicas").and_then(|count| count.parse().ok()),
            };
            match topic.specifier {
                OwnedResourceSpecifier::Topic(name) => Some((name, settings)),
                _ => None,
            }
        };
        described.into_iter().flatten().filter_map(told).collect()
    }

    /// Creates topics; one that exists by now is fine.
    ///
    /// # Errors
    /// The broker's words for the first topic that it would not create.
    pub(crate) async fn create(&self, names: &[&str], how: &config::NewTopic) -> Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let results = self
            .admin()?
            .create_topics(&new_topics(names, how), &options)
            .await
            .context("create topics")?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(anyhow!("create topic `{name}`: {code}")),
            }
        }
        Ok(())
    }
}

/// Topics to be, as the brokers are told of them.
pub(super) fn new_topics<'a>(names: &[&'a str], how: &'a config::NewTopic) -> Vec<NewTopic<'a>> {
    let topics = names.iter().map(|name| {
        let mut topic = NewTopic::new(name, how.partitions, TopicReplication::Fixed(how.replication));
        for (key, value) in &how.config {
            topic = topic.set(key, value);
        }
        topic
    });
    topics.collect()
}
