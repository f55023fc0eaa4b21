//! What the host tells of itself at `/status`, `/readyz` and in the log: stages, workers, partitions, plugins, lag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::kafka::consumer::TopicPartition;
use crate::kafka::lag::Lag;

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum WorkerState {
    /// Connecting, and ending what an earlier process left open.
    Starting,
    /// A member of the group, with or without partitions.
    Running,
    Ended,
}

#[derive(Debug, Clone, Serialize)]
struct WorkerReport {
    state: WorkerState,
    /// Topic to partitions.
    partitions: BTreeMap<String, Vec<i32>>,
}

/// What one worker reports.
pub(crate) struct WorkerStatus(Mutex<WorkerReport>);

impl WorkerStatus {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(WorkerReport {
            state: WorkerState::Starting,
            partitions: BTreeMap::new(),
        })))
    }

    fn report(&self) -> MutexGuard<'_, WorkerReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribed(&self) {
        self.report().state = WorkerState::Running;
    }

    pub(crate) fn ended(&self) {
        let mut report = self.report();
        report.state = WorkerState::Ended;
        report.partitions.clear();
    }

    pub(crate) fn assigned(&self, partitions: &[TopicPartition]) {
        let mut by_topic: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            by_topic
                .entry(partition.topic.clone())
                .or_default()
                .push(partition.partition);
        }
        for numbers in by_topic.values_mut() {
            numbers.sort_unstable();
        }
        self.report().partitions = by_topic;
    }
}

/// Which plugin a stage runs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PluginReport {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
    pub(crate) file: String,
}

/// What one stage reports.
pub(crate) struct StageStatus {
    name: String,
    group: String,
    plugin: PluginReport,
    workers: Vec<Arc<WorkerStatus>>,
    stopping: Arc<AtomicBool>,
    error: Mutex<Option<String>>,
    lag: Mutex<Vec<Lag>>,
}

impl StageStatus {
    pub(crate) fn new(name: &str, group: &str, plugin: PluginReport, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            group: group.to_owned(),
            plugin,
            workers: (0..workers).map(|_| WorkerStatus::new()).collect(),
            stopping: Arc::default(),
            error: Mutex::default(),
            lag: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn worker(&self, index: usize) -> Arc<WorkerStatus> {
        Arc::clone(&self.workers[index])
    }

    /// Tells the stage's workers to finish.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Set when the stage's workers have to finish.
    pub(crate) fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }

    /// The stage has stopped because of this.
    pub(crate) fn failed(&self, error: &str) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| error.to_owned());
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_lag(&self, lag: Vec<Lag>) {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }

    fn is_running(&self) -> bool {
        self.workers
            .iter()
            .all(|worker| worker.report().state == WorkerState::Running)
    }

    /// None: ready. Otherwise why not.
    fn unready(&self) -> Option<String> {
        match self.error() {
            Some(error) => Some(format!("stage `{}` has stopped: {error}", self.name)),
            None if self.is_running() => None,
            None => Some(format!("stage `{}` is starting or ending", self.name)),
        }
    }
}

/// What the whole process reports.
pub(crate) struct PipelineStatus {
    pub(crate) app: String,
    pub(crate) instance: String,
    pub(crate) stages: Vec<Arc<StageStatus>>,
}

impl PipelineStatus {
    /// Why the process is not ready, one line for each reason; empty when it is.
    pub(crate) fn unready(&self) -> Vec<String> {
        self.stages.iter().filter_map(|stage| stage.unready()).collect()
    }

    /// Says so when an input has lost records that its stage had not read.
    pub(crate) fn lost_records(&self) -> Option<String> {
        self.stages.iter().find_map(|stage| {
            let lag = stage.lag.lock().unwrap_or_else(PoisonError::into_inner);
            let lost = lag.iter().find(|one| one.committed.unwrap_or(0) < one.low)?;
            let (topic, partition) = (&lost.topic, lost.partition);
            Some(format!(
                "topic `{topic}` partition {partition} dropped records that stage `{}` had not read",
                stage.name
            ))
        })
    }

    /// The answer of `/status`.
    pub(crate) fn json(&self) -> serde_json::Value {
        let stages: Vec<_> = self.stages.iter().map(|stage| stage_json(stage)).collect();
        serde_json::json!({
            "app": self.app,
            "instance": self.instance,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.unready().is_empty(),
            "stages": stages,
        })
    }
}

fn stage_json(stage: &StageStatus) -> serde_json::Value {
    let lag = stage.lag.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let workers: Vec<_> = stage.workers.iter().map(|worker| worker.report().clone()).collect();
    let state = match stage.error() {
        Some(_) => "stopped",
        None if stage.is_running() => "running",
        None => "starting",
    };
    serde_json::json!({
        "name": stage.name,
        "state": state,
        "error": stage.error(),
        "group": stage.group,
        "plugin": stage.plugin,
        "workers": workers,
        // Null until the brokers have been asked for the first time.
        "lag_records": (!lag.is_empty()).then(|| lag.iter().map(Lag::records).sum::<i64>()),
        "lag": lag,
    })
}
