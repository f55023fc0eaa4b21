//! Follows the pipeline file: a stage's `config` that changes is given to its plugin; everything else is named as needing a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use super::watch::FileWatch;
use super::{Request, Wish};
use crate::config::{self, Broker, Pipeline, Stage};
use crate::status::PipelineStatus;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What the file is compared with.
struct Follower {
    began_with: Pipeline,
    /// What each stage's plugin is configured with.
    configs: BTreeMap<String, serde_json::Value>,
    /// Stages whose plugin did not take the file's configuration.
    refused: BTreeSet<String>,
    swaps: BTreeMap<String, Sender<Request>>,
    status: Arc<PipelineStatus>,
}

/// Watches the file of a running pipeline until `stop` is set.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn follow(
    pipeline: &Pipeline,
    swaps: BTreeMap<String, Sender<Request>>,
    status: Arc<PipelineStatus>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let config = |stage: &Stage| (stage.name.value.clone(), stage.config.value.clone());
    let mut follower = Follower {
        configs: pipeline.stages.iter().map(config).collect(),
        refused: BTreeSet::new(),
        began_with: pipeline.clone(),
        swaps,
        status,
    };
    // Read once more at the first look: it may have changed while plugins were compiled.
    let mut watch = FileWatch::new(pipeline.file.clone(), None, config::FILE_BYTES_MAX);
    let handle = std::thread::Builder::new()
        .name("pipeline-file".to_owned())
        .spawn(move || {
            while !stop.load(Ordering::Acquire) {
                match watch.look() {
                    Some(Ok(found)) => follower.changed(&found.bytes),
                    Some(Err(error)) => follower.unreadable(&error),
                    None => {}
                }
                std::thread::sleep(LOOK);
            }
        });
    handle.context("start the pipeline file's thread")?;
    Ok(())
}

impl Follower {
    fn unreadable(&self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        tracing::error!(error, "the pipeline file cannot be read; what runs runs on");
        self.status
            .set_pending(vec![format!("the pipeline file cannot be read: {error}")]);
    }

    fn changed(&mut self, bytes: &[u8]) {
        let environment = |name: &str| std::env::var(name).ok();
        let text = String::from_utf8_lossy(bytes);
        let found = match config::parse(&text, &self.began_with.file, &environment, Broker::Configured) {
            Ok(found) => found,
            Err(errors) => {
                let error = errors.to_string();
                tracing::error!(error, "the pipeline file has changed and is wrong; what runs runs on");
                self.status
                    .set_pending(vec![format!("the pipeline file is wrong: {error}")]);
                return;
            }
        };
        let mut pending = self.restart_for(&found);
        for stage in &found.stages {
            if let Err(error) = self.configure(stage) {
                pending.push(format!("stages.{}.config: {error}", stage.name.value));
            }
        }
        if !pending.is_empty() {
            tracing::warn!(
                keys = pending.join(", "),
                "the pipeline file has changed; these changes need a restart, or were refused"
            );
        }
        self.status.set_pending(pending);
    }

    /// The keys that are read at the start alone.
    fn restart_for(&self, found: &Pipeline) -> Vec<String> {
        let followed = |key: &String| {
            self.began_with
                .stages
                .iter()
                .filter(|stage| stage.swap.watch)
                .any(|stage| {
                    let config = format!("stages.{}.config", stage.name.value);
                    key.strip_prefix(&config)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                })
        };
        let mut keys = self.began_with.differences(found);
        keys.retain(|key| !followed(key));
        keys
    }

    /// Gives a stage's plugin its configuration, where it is another one.
    fn configure(&mut self, stage: &Stage) -> Result<(), String> {
        let name = &stage.name.value;
        let known = self.began_with.stage(name).is_some_and(|stage| stage.swap.watch);
        let is_news = self.configs.get(name) != Some(&stage.config.value) || self.refused.contains(name);
        if !known || !is_news {
            return Ok(());
        }
        let Some(swaps) = self.swaps.get(name) else {
            return Ok(());
        };
        let (answer, outcome) = oneshot::channel();
        let wish = Wish::Config(stage.config.clone());
        if swaps.send(Request { wish, answer }).is_err() {
            return Ok(());
        }
        // The process is ending where nobody answers.
        let Ok(outcome) = outcome.blocking_recv() else {
            return Ok(());
        };
        if let Err(error) = outcome {
            self.refused.insert(name.clone());
            return Err(error);
        }
        self.refused.remove(name);
        self.configs.insert(name.clone(), stage.config.value.clone());
        Ok(())
    }
}
