//! Proves that the topics of a pipeline are there, and creates what is missing where the pipeline says so.
//!
//! A topic that does not exist is reported at the place where the pipeline file names it. No look ever creates one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::config::{self, ConfigError, Pipeline, Stage, Topics as OnMissing};
use crate::kafka::topics::{Found, Topics};

/// The topic of records that are given to a stage again. It may come to exist while the stage runs.
pub(crate) struct ReplayTopic {
    pub(crate) name: String,
    exists: AtomicBool,
}

impl ReplayTopic {
    /// The replay topic of a stage; `partitions`: the topics that were found.
    pub(crate) fn of(pipeline: &Pipeline, stage: &Stage, partitions: &BTreeMap<String, i32>) -> Arc<Self> {
        let name = replay_topic(pipeline, stage);
        let exists = AtomicBool::new(partitions.contains_key(&name));
        Arc::new(Self { name, exists })
    }

    pub(crate) fn exists(&self) -> bool {
        self.exists.load(Ordering::Acquire)
    }

    /// Somebody has created it.
    pub(crate) fn found(&self) {
        self.exists.store(true, Ordering::Release);
    }
}

/// The name of the topic that a stage reads besides its inputs, and no other stage.
pub(crate) fn replay_topic(pipeline: &Pipeline, stage: &Stage) -> String {
    replay_name(&pipeline.app.value, &stage.name.value)
}

/// The same, of a pipeline that is not read to its end yet.
pub(crate) fn replay_name(app: &str, stage: &str) -> String {
    format!("{app}.{stage}.replay")
}

/// Looks for the pipeline's topics, and creates what is missing where the pipeline says so.
///
/// # Errors
/// When no broker answers, or mistakes at the places where the topics are named.
pub(crate) async fn check(pipeline: &Pipeline, create: bool) -> Result<BTreeMap<String, i32>> {
    let named = named_topics(pipeline);
    let names: BTreeSet<String> = named.iter().map(|(name, _, _)| name.clone()).collect();
    let topics = Arc::new(Topics::connect(&pipeline.kafka)?);
    let look = |topics: Arc<Topics>, names: BTreeSet<String>| async move {
        tokio::task::spawn_blocking(move || topics.look(&names))
            .await
            .context("look at topics")?
    };
    let mut found = look(Arc::clone(&topics), names.clone()).await?;
    let missing: Vec<&str> = found
        .iter()
        .filter(|(_, found)| **found == Found::Missing)
        .map(|(name, _)| name.as_str())
        .collect();
    if let (OnMissing::Create(how), true, false) = (&pipeline.topics.value, create, missing.is_empty()) {
        tracing::info!(
            topics = missing.join(", "),
            partitions = how.partitions,
            "creating topics"
        );
        topics.create(&missing, how).await?;
        let deadline = Instant::now() + Duration::from_secs(15);
        // A created topic takes a moment to be known to all brokers.
        while found.values().any(|found| *found == Found::Missing) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
            found = look(Arc::clone(&topics), names.clone()).await?;
        }
    }
    let will_be_created = matches!(pipeline.topics.value, OnMissing::Create(_)) && !create;
    let mistakes = named
        .iter()
        .filter_map(|(name, at, what)| {
            let text = match found.get(name)? {
                Found::Missing if !will_be_created => format!(
                    "{what} topic `{name}` does not exist; create it, or let the host do it with `topics: {{create: {{partitions: N}}}}`"
                ),
                Found::Refused(words) => format!("{what} topic `{name}`: {words}"),
                Found::Missing | Found::Partitions(_) => return None,
            };
            Some(ConfigError::at(*at, text))
        })
        .collect();
    pipeline.report(mistakes)?;
    // Nobody misses a replay topic: it comes with the first replay.
    let replays = pipeline.stages.iter().map(|stage| replay_topic(pipeline, stage));
    let replays = look(topics, replays.collect()).await?;
    Ok(found
        .into_iter()
        .chain(replays)
        .filter_map(|(name, found)| match found {
            Found::Partitions(count) => Some((name, count)),
            _ => None,
        })
        .collect())
}

fn named_topics(pipeline: &Pipeline) -> Vec<(String, config::Location, String)> {
    let mut named = Vec::new();
    for stage in &pipeline.stages {
        let name = &stage.name.value;
        for topic in &stage.input.topics {
            named.push((topic.value.clone(), topic.at, format!("stage `{name}`: input")));
        }
        for topic in stage.outputs.topics() {
            named.push((topic.value.clone(), topic.at, format!("stage `{name}`: output")));
        }
        let dead_letter = &stage.on_fault.dead_letter;
        named.push((
            dead_letter.value.clone(),
            dead_letter.at,
            format!("stage `{name}`: dead-letter"),
        ));
    }
    for topic in pipeline.ingest.iter().flat_map(|ingest| &ingest.topics) {
        named.push((topic.name.value.clone(), topic.name.at, "`ingest.topics`:".to_owned()));
    }
    named
}

/// The smallest `max.message.bytes` of the topics that the pipeline's stages write; none where the brokers do not tell.
///
/// # Errors
/// When the client cannot be made.
pub(crate) async fn smallest_message_limit(pipeline: &Pipeline) -> Result<Option<u64>> {
    let outputs = pipeline.stages.iter().flat_map(|stage| stage.outputs.topics());
    let dead_letters = pipeline.stages.iter().map(|stage| &stage.on_fault.dead_letter);
    let names: BTreeSet<&str> = outputs.chain(dead_letters).map(|topic| topic.value.as_str()).collect();
    Ok(Topics::connect(&pipeline.kafka)?.smallest_message_limit(&names).await)
}

/// Proves that records can be written by HTTP as the pipeline file says, as far as the topics' settings tell; the smallest `max.message.bytes` of the
/// topics comes back, where it is known.
///
/// # Errors
/// When the client cannot be made, or mistakes at the places where the topics are named.
pub(crate) async fn check_ingest(pipeline: &Pipeline, ingest: &config::Ingest) -> Result<Option<u64>> {
    let names: BTreeSet<&str> = ingest.topics.iter().map(|topic| topic.name.as_str()).collect();
    let settings = Topics::connect(&pipeline.kafka)?.settings(&names).await;
    let is_compacted = |name: &String| settings.get(name).is_some_and(|settings| settings.is_compacted);
    let keyless = ingest
        .topics
        .iter()
        .filter(|topic| topic.key.is_none() && is_compacted(&topic.name));
    let mistakes = keyless.map(|topic| {
        let name = &topic.name.value;
        let text = format!(
            "`ingest.topics`: topic `{name}` is compacted, so that its records need keys; write `{name}: {{key: /FIELD}}`"
        );
        ConfigError::at(topic.name.at, text)
    });
    pipeline.report(mistakes.collect())?;
    Ok(settings
        .values()
        .filter_map(|settings| settings.message_bytes_max)
        .min())
}
