//! What an operator can change while the process runs: pause and resume a stage, swap its plugin, go back, read the history.
//!
//! Nothing is done here: a stage's will is set and the pipeline follows it, a plugin is swapped by its stage's own thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Result, anyhow};
use tokio::sync::oneshot;

use crate::config::suggestion;
use crate::status::{PipelineStatus, PluginReport, StageStatus};
use crate::swap::store::{Event, Store};
use crate::swap::{Request, Wish};

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no such stage.
    Unknown(String),
    /// It was tried, and what runs runs on.
    Refused(String),
}

/// The handle of a running pipeline.
pub(crate) struct Control {
    pub(crate) status: Arc<PipelineStatus>,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) swaps: BTreeMap<String, Sender<Request>>,
    /// The largest plugin file that any stage takes.
    pub(crate) file_bytes_max: u64,
}

impl Control {
    fn stage(&self, name: &str) -> Result<&Arc<StageStatus>, Refusal> {
        self.status.stage(name).ok_or_else(|| {
            let names = || self.status.stages.iter().map(|stage| stage.name());
            let nearest = suggestion(name, names());
            let separator = if nearest.is_empty() { ";" } else { "" };
            let known: Vec<&str> = names().collect();
            Refusal::Unknown(format!(
                "there is no stage `{name}`{nearest}{separator} stages: {}",
                known.join(", ")
            ))
        })
    }

    /// Pauses a stage, also over restarts.
    pub(crate) fn pause(&self, name: &str) -> Result<&Arc<StageStatus>, Refusal> {
        let stage = self.stage(name)?;
        self.set_paused(name, true)?;
        tracing::info!(stage = name, "paused by command");
        stage.pause();
        Ok(stage)
    }

    /// Lets a stage go on that is paused or has stopped.
    pub(crate) fn resume(&self, name: &str) -> Result<&Arc<StageStatus>, Refusal> {
        let stage = self.stage(name)?;
        self.set_paused(name, false)?;
        tracing::info!(stage = name, "resumed by command");
        stage.resume();
        Ok(stage)
    }

    fn set_paused(&self, name: &str, paused: bool) -> Result<(), Refusal> {
        let Some(store) = &self.store else { return Ok(()) };
        store
            .set_paused(name, paused)
            .map_err(|error| Refusal::Refused(format!("{error:#}")))
    }

    /// Swaps the plugin of a stage, and waits until it is published or refused.
    pub(crate) async fn swap(&self, name: &str, wish: Wish) -> Result<PluginReport, Refusal> {
        self.stage(name)?;
        let (answer, outcome) = oneshot::channel();
        let sent = self
            .swaps
            .get(name)
            .ok_or_else(|| anyhow!("this run swaps no plugins"))
            .and_then(|swaps| swaps.send(Request { wish, answer }).map_err(|_| ending()));
        sent.map_err(|error| Refusal::Refused(error.to_string()))?;
        let outcome = outcome.await.unwrap_or_else(|_| Err(ending().to_string()));
        outcome.map_err(Refusal::Refused)
    }

    /// What became of the versions of a stage, the oldest first.
    pub(crate) fn history(&self, name: &str) -> Result<Vec<Event>, Refusal> {
        self.stage(name)?;
        let Some(store) = &self.store else {
            return Ok(Vec::new());
        };
        store
            .history(name)
            .map_err(|error| Refusal::Refused(format!("{error:#}")))
    }
}

fn ending() -> anyhow::Error {
    anyhow!("the process is ending")
}
