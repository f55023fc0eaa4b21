//! Asks what this user may do on the cluster, without being its administrator and without changing anything that others see.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use rdkafka::admin::AdminOptions;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::ffi::describe::{self, Told};
use super::producer::Producer;
use super::settings;
use super::topics::{TIMEOUT, Topics, new_topics};
use crate::config;
use crate::rights::Operation;

/// What a broker answers about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// These operations, of those that a pipeline needs.
    May(Vec<Operation>),
    /// The broker is too old to tell, or has no answer.
    Untold,
    /// The user may not even see it; a topic that does not exist looks the same then.
    Hidden,
    Missing,
}

impl Answer {
    fn of(told: Told) -> Self {
        match told {
            Told::Operations(None) => Self::Untold,
            Told::Operations(Some(numbers)) => Self::May(numbers.into_iter().filter_map(operation).collect()),
            Told::Refused(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => Self::Hidden,
            Told::Refused(Code::UnknownTopicOrPartition) => Self::Missing,
            Told::Refused(code) => {
                tracing::debug!(%code, "no answer about rights");
                Self::Untold
            }
        }
    }
}

/// By Kafka's own number (`org.apache.kafka.common.acl.AclOperation`).
fn operation(number: u32) -> Option<Operation> {
    match number {
        3 => Some(Operation::Read),
        4 => Some(Operation::Write),
        5 => Some(Operation::Create),
        8 => Some(Operation::Describe),
        10 => Some(Operation::DescribeConfigs),
        _ => None,
    }
}

impl Topics {
    /// What the user may do with these topics.
    ///
    /// # Errors
    /// When no broker answers in time.
    pub(crate) fn rights(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Answer>> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let told = describe::topics(self.observer.client(), &names, TIMEOUT).context("ask for the rights on topics")?;
        Ok(told.into_iter().map(|(name, told)| (name, Answer::of(told))).collect())
    }

    /// What the user may do with a consumer group.
    ///
    /// # Errors
    /// When no broker answers in time.
    pub(crate) fn rights_on_group(&self, name: &str) -> Result<Answer> {
        match describe::group(self.observer.client(), name, TIMEOUT) {
            Ok(told) => Ok(Answer::of(told)),
            Err(error) if error.code == Code::GroupAuthorizationFailed => Ok(Answer::Hidden),
            Err(error) => Err(error).with_context(|| format!("ask for the rights on group {name}")),
        }
    }

    /// Those of these topics that the brokers would not create, with their words; nothing is created. None: a right is missing.
    ///
    /// # Errors
    /// When no broker answers in time.
    pub(crate) async fn uncreatable(
        &self,
        names: &[&str],
        how: &config::NewTopic,
    ) -> Result<Vec<(String, Option<String>)>> {
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).validate_only(true);
        let results = self
            .admin()?
            .create_topics(&new_topics(names, how), &options)
            .await
            .context("ask whether topics can be created")?;
        let refused = results.into_iter().filter_map(Result::err);
        Ok(refused
            .filter_map(|(name, code)| match code {
                Code::TopicAlreadyExists => None,
                Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => Some((name, None)),
                code => Some((name, Some(code.to_string()))),
            })
            .collect())
    }
}

/// Whether the user may write with transactional ids like this one, which no worker has: a start under a worker's own would fence it.
///
/// # Errors
/// When the brokers refuse for another reason, or do not answer.
pub(crate) fn may_transact(kafka: &config::Kafka, id: &str) -> Result<bool> {
    let mut config = settings::producer(kafka, Some(id), None);
    // The answer is all that counts; the client would also log it as fatal.
    config.set_log_level(RDKafkaLogLevel::Emerg);
    match Producer::new("check", &config, &[])?.init_transactions() {
        Ok(()) => Ok(true),
        Err(error) if error.code == Code::TransactionalIdAuthorizationFailed => Ok(false),
        Err(error) => Err(error).with_context(|| format!("start transactional id `{id}`")),
    }
}
