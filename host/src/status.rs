//! What the host tells of itself at `/status`, `/readyz` and in the log: stages, workers, partitions, plugins, lag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::external::Health;
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
    /// The digest of the version that it runs; none before its first batch.
    digest: Option<String>,
    /// Topic to partitions.
    partitions: BTreeMap<String, Vec<i32>>,
}

/// What one worker reports.
pub(crate) struct WorkerStatus(Mutex<WorkerReport>);

impl WorkerStatus {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(WorkerReport {
            state: WorkerState::Starting,
            digest: None,
            partitions: BTreeMap::new(),
        })))
    }

    /// A new thread takes the worker's place.
    fn begin(&self) {
        *self.report() = WorkerReport {
            state: WorkerState::Starting,
            digest: None,
            partitions: BTreeMap::new(),
        };
    }

    pub(crate) fn runs(&self, digest: &str) {
        self.report().digest = Some(digest.to_owned());
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PluginReport {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
    /// The plugin's file; what runs may be another version, after a refusal, a rollback or a swap by command.
    pub(crate) file: String,
}

/// Whether a stage is to run, and what keeps it from it.
#[derive(Debug, Default)]
struct Will {
    paused: bool,
    stopped: Option<Stopped>,
}

impl Will {
    fn is_to_run(&self) -> bool {
        !self.paused && self.stopped.is_none()
    }
}

/// Why a stage does not run any more.
#[derive(Debug, Clone)]
pub(crate) struct Stopped {
    pub(crate) error: String,
    /// It was stopped on purpose, by its policy or its breaker, and waits for `stage resume`.
    pub(crate) held: bool,
}

/// What one stage reports.
pub(crate) struct StageStatus {
    name: String,
    group: String,
    plugin: Mutex<Option<PluginReport>>,
    /// Why the last change of the plugin was not taken.
    refused: Mutex<Option<String>>,
    workers: Vec<Arc<WorkerStatus>>,
    stopping: Mutex<Arc<AtomicBool>>,
    will: Mutex<Will>,
    lag: Mutex<Vec<Lag>>,
    /// Outputs that are no topics.
    outputs: Mutex<Vec<Arc<Health>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StageStatus {
    pub(crate) fn new(name: &str, group: &str, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            group: group.to_owned(),
            plugin: Mutex::default(),
            refused: Mutex::default(),
            workers: (0..workers).map(|_| WorkerStatus::new()).collect(),
            stopping: Mutex::default(),
            will: Mutex::default(),
            lag: Mutex::default(),
            outputs: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn worker(&self, index: usize) -> Arc<WorkerStatus> {
        Arc::clone(&self.workers[index])
    }

    pub(crate) fn plugin(&self) -> Option<PluginReport> {
        locked(&self.plugin).clone()
    }

    pub(crate) fn set_plugin(&self, plugin: PluginReport) {
        *locked(&self.plugin) = Some(plugin);
    }

    pub(crate) fn set_refused(&self, reason: Option<String>) {
        *locked(&self.refused) = reason;
    }

    /// Tells the stage's workers to finish.
    pub(crate) fn stop(&self) {
        locked(&self.stopping).store(true, Ordering::Release);
    }

    /// Workers are about to start. What comes back is set when they have to finish; none where they are not to start.
    pub(crate) fn begin(&self) -> Option<Arc<AtomicBool>> {
        // Held to the end: a pause comes before it or finds the new mark to set.
        let will = locked(&self.will);
        if !will.is_to_run() {
            return None;
        }
        for worker in &self.workers {
            worker.begin();
        }
        let fresh = Arc::<AtomicBool>::default();
        *locked(&self.stopping) = Arc::clone(&fresh);
        Some(fresh)
    }

    /// The stage's workers finish, and no others take their places until `resume`.
    pub(crate) fn pause(&self) {
        let mut will = locked(&self.will);
        will.paused = true;
        self.stop();
    }

    /// The stage runs again, whatever stopped it.
    pub(crate) fn resume(&self) {
        *locked(&self.will) = Will::default();
    }

    /// The stage has stopped because of this; an earlier reason stays.
    pub(crate) fn failed(&self, error: &str, held: bool) {
        locked(&self.will).stopped.get_or_insert_with(|| Stopped {
            error: error.to_owned(),
            held,
        });
    }

    pub(crate) fn stopped(&self) -> Option<Stopped> {
        locked(&self.will).stopped.clone()
    }

    pub(crate) fn is_paused(&self) -> bool {
        locked(&self.will).paused
    }

    /// Workers without a thread are to get one.
    pub(crate) fn is_to_run(&self) -> bool {
        locked(&self.will).is_to_run()
    }

    /// It does not run, and `stage resume` is the way back.
    pub(crate) fn is_held(&self) -> bool {
        let will = locked(&self.will);
        will.paused || will.stopped.as_ref().is_some_and(|stopped| stopped.held)
    }

    pub(crate) fn set_lag(&self, lag: Vec<Lag>) {
        *locked(&self.lag) = lag;
    }

    pub(crate) fn set_outputs(&self, outputs: Vec<Arc<Health>>) {
        *locked(&self.outputs) = outputs;
    }

    fn is_running(&self) -> bool {
        self.all_are(WorkerState::Running)
    }

    fn all_are(&self, state: WorkerState) -> bool {
        self.workers.iter().all(|worker| worker.report().state == state)
    }

    /// One word for where the stage is.
    fn state(&self) -> &'static str {
        if self.stopped().is_some() {
            "stopped"
        } else if self.is_paused() {
            let over = |state| matches!(state, WorkerState::Ended | WorkerState::Starting);
            match self.workers.iter().all(|worker| over(worker.report().state)) {
                true => "paused",
                false => "pausing",
            }
        } else if self.is_running() {
            "running"
        } else {
            "starting"
        }
    }

    /// None: ready. Otherwise why not.
    fn unready(&self) -> Option<String> {
        let name = &self.name;
        if let Some(stopped) = self.stopped() {
            return Some(format!("stage `{name}` has stopped: {}", stopped.error));
        }
        if self.is_paused() {
            return Some(format!(
                "stage `{name}` is paused; `wasmill stage resume` lets it go on"
            ));
        }
        (!self.is_running()).then(|| format!("stage `{name}` is starting or ending"))
    }

    /// What `/status` says of it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let lag = locked(&self.lag).clone();
        let workers: Vec<_> = self.workers.iter().map(|worker| worker.report().clone()).collect();
        serde_json::json!({
            "name": self.name,
            "state": self.state(),
            "error": self.stopped().map(|stopped| stopped.error),
            "group": self.group,
            "plugin": *locked(&self.plugin),
            "refused": *locked(&self.refused),
            "workers": workers,
            "outputs": locked(&self.outputs).iter().map(|health| health.report()).collect::<Vec<_>>(),
            // Null until the brokers have been asked for the first time.
            "lag_records": (!lag.is_empty()).then(|| lag.iter().map(Lag::records).sum::<i64>()),
            "lag": lag,
        })
    }
}

/// What the whole process reports.
pub(crate) struct PipelineStatus {
    pub(crate) app: String,
    pub(crate) instance: String,
    pub(crate) stages: Vec<Arc<StageStatus>>,
    /// What the pipeline file says by now and the process does not do: keys that need a restart, or why it cannot be read.
    pub(crate) pending: Mutex<Vec<String>>,
}

impl PipelineStatus {
    /// Why the process is not ready, one line for each reason; empty when it is.
    pub(crate) fn unready(&self) -> Vec<String> {
        self.stages.iter().filter_map(|stage| stage.unready()).collect()
    }

    /// Says so when an input has lost records that its stage had not read.
    pub(crate) fn lost_records(&self) -> Option<String> {
        self.stages.iter().find_map(|stage| {
            let lag = locked(&stage.lag);
            let lost = lag.iter().find(|one| one.committed.unwrap_or(0) < one.low)?;
            let (topic, partition) = (&lost.topic, lost.partition);
            Some(format!(
                "topic `{topic}` partition {partition} dropped records that stage `{}` had not read",
                stage.name
            ))
        })
    }

    pub(crate) fn stage(&self, name: &str) -> Option<&Arc<StageStatus>> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    pub(crate) fn set_pending(&self, pending: Vec<String>) {
        *locked(&self.pending) = pending;
    }

    /// The answer of `/status`.
    pub(crate) fn json(&self) -> serde_json::Value {
        let stages: Vec<_> = self.stages.iter().map(|stage| stage.json()).collect();
        serde_json::json!({
            "app": self.app,
            "instance": self.instance,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.unready().is_empty(),
            "pending": *locked(&self.pending),
            "stages": stages,
        })
    }
}
