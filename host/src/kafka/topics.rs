//! Looks at topics before a pipeline starts, and creates those that are missing where the pipeline says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::settings;
use crate::config;

/// How long the first answer of a broker may take; a cluster that is starting needs some seconds.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What a broker says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Partitions(i32),
    Missing,
    /// The broker's words: a missing right, a name it does not take.
    Refused(String),
}

/// What the host has to know of a topic's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) message_bytes_max: Option<u64>,
    /// Every record needs a key.
    pub(crate) is_compacted: bool,
}

/// A connection for looking at topics and creating them.
pub(crate) struct Topics {
    admin: AdminClient<DefaultClientContext>,
    bootstrap_servers: String,
}

impl Topics {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(crate) fn connect(kafka: &config::Kafka) -> Result<Self> {
        let observer = settings::observer(kafka, None);
        Ok(Self {
            bootstrap_servers: observer.get("bootstrap.servers").unwrap_or_default().to_owned(),
            admin: observer.create().context("create client")?,
        })
    }

    /// Looks the topics up. A topic that does not exist is not created by the look.
    ///
    /// # Errors
    /// When no broker answers in time.
    pub(crate) fn look(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Found>> {
        // Asking for all topics never creates one, whatever the broker's settings; asking for one by name might.
        let metadata = self.admin.inner().fetch_metadata(None, TIMEOUT).map_err(|error| {
            let servers = &self.bootstrap_servers;
            anyhow!(
                "no broker answers at {servers}; check `kafka: bootstrap.servers`, and that the brokers run: {error}"
            )
        })?;
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
        Ok(names.iter().map(|name| (name.clone(), found(name))).collect())
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
        let described = match self.admin.describe_configs(&topics, &options).await {
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
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let mut topic = NewTopic::new(name, how.partitions, TopicReplication::Fixed(how.replication));
                for (key, value) in &how.config {
                    topic = topic.set(key, value);
                }
                topic
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let results = self
            .admin
            .create_topics(&topics, &options)
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
