//! Proves that the topics of a pipeline are there and may be used, and creates what is missing where the pipeline says so.
//!
//! A topic that does not exist, or a right that is missing, is reported at the place in the pipeline file that needs it. No look ever creates a
//! topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::config::{self, ConfigError, Pipeline, Stage, Topics as OnMissing};
use crate::kafka::rights::{Answer, may_transact};
use crate::kafka::topics::{Found, Topics};
use crate::rights::{self, Need, Operation, Right};

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

/// The topics of a pipeline, as the brokers tell of them.
struct Look {
    topics: Arc<Topics>,
    needs: Vec<Need>,
    found: BTreeMap<String, Found>,
}

impl Look {
    async fn at(pipeline: &Pipeline) -> Result<Self> {
        let topics = Arc::new(Topics::connect(&pipeline.kafka)?);
        let needs = rights::on_topics(pipeline);
        let mut look = Self {
            topics,
            needs,
            found: BTreeMap::new(),
        };
        look.found = look.again(look.names()).await?;
        Ok(look)
    }

    fn names(&self) -> BTreeSet<String> {
        self.needs.iter().map(|need| need.topic().to_owned()).collect()
    }

    fn missing(&self) -> Vec<&str> {
        let missing = self.found.iter().filter(|(_, found)| **found == Found::Missing);
        missing.map(|(name, _)| name.as_str()).collect()
    }

    async fn again(&self, names: BTreeSet<String>) -> Result<BTreeMap<String, Found>> {
        self.blocking(move |topics| topics.look(&names)).await
    }

    async fn blocking<T: Send + 'static>(&self, ask: impl FnOnce(&Topics) -> Result<T> + Send + 'static) -> Result<T> {
        let topics = Arc::clone(&self.topics);
        tokio::task::spawn_blocking(move || ask(&topics))
            .await
            .context("look at topics")?
    }

    async fn create(&mut self, how: &config::NewTopic) -> Result<()> {
        let missing = self.missing();
        tracing::info!(
            topics = missing.join(", "),
            partitions = how.partitions,
            "creating topics"
        );
        self.topics.create(&missing, how).await?;
        let deadline = Instant::now() + Duration::from_secs(15);
        // A created topic takes a moment to be known to all brokers.
        while !self.missing().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.found = self.again(self.names()).await?;
        }
        Ok(())
    }

    /// What is wrong with the topics that cannot be used; `missing` are those that do not exist.
    fn mistakes(&self, pipeline: &Pipeline, missing: bool) -> Vec<ConfigError> {
        let mistake = |need: &Need| {
            let (what, name) = (&need.what, need.topic());
            let text = match self.found.get(name)? {
                Found::Missing if missing => format!(
                    "{what} `{name}` does not exist; create it, or let the host do it with `topics: {{create: {{partitions: N}}}}`"
                ),
                Found::Hidden => need.hidden(&pipeline.kafka),
                Found::Refused(words) => format!("{what} `{name}`: {words}"),
                Found::Missing | Found::Partitions(_) => return None,
            };
            Some(ConfigError::at(need.at, text))
        };
        self.needs.iter().filter_map(mistake).collect()
    }

    /// Those that exist, and the replay topics that do: nobody misses one, it comes with the first replay.
    async fn partitions(&self, pipeline: &Pipeline) -> Result<BTreeMap<String, i32>> {
        let replays = pipeline.stages.iter().map(|stage| replay_topic(pipeline, stage));
        let replays = self.again(replays.collect()).await?;
        let all = self.found.iter().chain(&replays);
        Ok(all
            .filter_map(|(name, found)| match found {
                Found::Partitions(count) => Some((name.clone(), *count)),
                _ => None,
            })
            .collect())
    }
}

/// Looks for the pipeline's topics, and creates what is missing where the pipeline says so.
///
/// # Errors
/// When no broker answers, or mistakes at the places where the topics are named.
pub(crate) async fn ensure(pipeline: &Pipeline) -> Result<BTreeMap<String, i32>> {
    let mut look = Look::at(pipeline).await?;
    if let (OnMissing::Create(how), false) = (&pipeline.topics.value, look.missing().is_empty()) {
        look.create(how).await?;
    }
    pipeline.report(look.mistakes(pipeline, true))?;
    look.partitions(pipeline).await
}

/// What is known of the topics, and what an operator may want to mend.
pub(crate) struct Proof {
    pub(crate) partitions: BTreeMap<String, i32>,
    pub(crate) notes: Vec<String>,
}

/// Proves that a pipeline could run on its cluster: topics and rights. Creates nothing.
///
/// # Errors
/// When no broker answers, or all mistakes at the places that they come from.
pub(crate) async fn prove(pipeline: &Pipeline) -> Result<Proof> {
    let look = Look::at(pipeline).await?;
    let to_be_created = match &pipeline.topics.value {
        OnMissing::Create(how) => Some(how),
        OnMissing::Require => None,
    };
    let mut mistakes = look.mistakes(pipeline, to_be_created.is_none());
    if let Some(how) = to_be_created {
        mistakes.extend(uncreatable(pipeline, &look, how).await?);
    }
    let mut notes = Vec::new();
    let owned = pipeline.clone();
    let existing: BTreeSet<String> = look
        .found
        .iter()
        .filter(|(_, found)| matches!(found, Found::Partitions(_)))
        .map(|(name, _)| name.clone())
        .collect();
    let needs = look.needs.clone();
    let (missing, more) = look
        .blocking(move |topics| missing_rights(&owned, topics, &needs, &existing))
        .await?;
    mistakes.extend(missing);
    notes.extend(more);
    pipeline.report(mistakes)?;
    Ok(Proof {
        partitions: look.partitions(pipeline).await?,
        notes,
    })
}

async fn uncreatable(pipeline: &Pipeline, look: &Look, how: &config::NewTopic) -> Result<Vec<ConfigError>> {
    let missing = look.missing();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let refused = look.topics.uncreatable(&missing, how).await?;
    let mistake = |(name, words): (String, Option<String>)| {
        let text = match words {
            Some(words) => format!("`topics.create`: topic `{name}`: {words}"),
            None => Need {
                right: Right::on_topic(Operation::Create, &name),
                at: pipeline.topics.at,
                what: "`topics.create`".to_owned(),
            }
            .missing(&pipeline.kafka),
        };
        ConfigError::at(pipeline.topics.at, text)
    };
    Ok(refused.into_iter().map(mistake).collect())
}

/// The rights that the stages miss, and those that they can do without.
fn missing_rights(
    pipeline: &Pipeline,
    topics: &Topics,
    needs: &[Need],
    existing: &BTreeSet<String>,
) -> Result<(Vec<ConfigError>, Vec<String>)> {
    let kafka = &pipeline.kafka;
    let replays = pipeline.stages.iter().map(|stage| replay_topic(pipeline, stage));
    let asked: BTreeSet<String> = existing.iter().cloned().chain(replays).collect();
    let answers = topics.rights(&asked)?;
    let mut mistakes = Vec::new();
    let mut notes = Vec::new();
    for need in needs {
        let Some(Answer::May(operations)) = answers.get(need.topic()) else {
            continue;
        };
        if !operations.contains(&need.right.operation) {
            mistakes.push(ConfigError::at(need.at, need.missing(kafka)));
        }
        let settings = Right::on_topic(Operation::DescribeConfigs, need.topic());
        if need.right.operation == Operation::Write && !operations.contains(&settings.operation) {
            notes.push(format!(
                "{}: without {settings} the host does not know its `max.message.bytes`, and many small records that come to more \
                 than it are refused together first; give it by: {}",
                need.what,
                settings.grant(kafka)
            ));
        }
    }
    for stage in &pipeline.stages {
        let name = replay_topic(pipeline, stage);
        let right = Right::on_topic(Operation::Read, &name);
        let unread = match answers.get(&name) {
            Some(Answer::May(operations)) => !operations.contains(&right.operation),
            answer => answer == Some(&Answer::Hidden),
        };
        if unread {
            notes.push(format!(
                "stage `{}`: without {right} dead letters that are replayed are not read; give it by: {}",
                stage.name.value,
                right.grant(kafka)
            ));
        }
        let need = rights::on_group(stage);
        let may_read = match topics.rights_on_group(&stage.group)? {
            Answer::May(operations) => operations.contains(&need.right.operation),
            answer => answer != Answer::Hidden,
        };
        let mut missing: Vec<Need> = (!may_read).then_some(need).into_iter().collect();
        if let Some(need) = rights::on_transactional_ids(pipeline, stage) {
            let id = format!("{}.{}.check", pipeline.app.value, stage.name.value);
            missing.extend((!may_transact(kafka, &id)?).then_some(need));
        }
        mistakes.extend(missing.iter().map(|need| ConfigError::at(need.at, need.missing(kafka))));
    }
    notes.dedup();
    Ok((mistakes, notes))
}

/// The smallest `max.message.bytes` of the topics that the pipeline writes; none where the brokers do not tell.
///
/// # Errors
/// When the client cannot be made.
pub(crate) async fn smallest_message_limit(pipeline: &Pipeline) -> Result<Option<u64>> {
    let outputs = pipeline.stages.iter().flat_map(|stage| stage.outputs.topics());
    let dead_letters = pipeline.stages.iter().map(|stage| &stage.on_fault.dead_letter);
    let names: BTreeSet<&str> = outputs.chain(dead_letters).map(|topic| topic.value.as_str()).collect();
    Ok(Topics::connect(&pipeline.kafka)?.smallest_message_limit(&names).await)
}
