//! Runs a pipeline: one group of workers for each stage, watched until they are told to stop.
//!
//! Stages do not know of each other; what one writes and another reads goes through its topic. A stage that stops leaves the others
//! running, and readiness and `/status` say which and why; `stage resume` starts its workers again. On a signal, or when every input is read to
//! its end and that was asked for, workers finish the call in hand, commit and leave their groups, all within a deadline.

mod caught_up;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::runtime::Handle;

use crate::config::Pipeline;
use crate::control::Control;
use crate::external::Clients;
use crate::http;
use crate::metrics::Metrics;
use crate::prepare::Ready;
use crate::status::{PipelineStatus, StageStatus};
use crate::swap::pipeline_file;
use crate::swap::store::Store;
use crate::topics;

use caught_up::CaughtUp;
use stage::{Shared, StageRun};

/// How often groups are asked how far they are.
const LAG_INTERVAL: Duration = Duration::from_secs(2);
const LAG_INTERVAL_CATCHING_UP: Duration = Duration::from_millis(200);

/// How a pipeline is run.
pub(crate) struct Options {
    /// End when every input is read to its end and all is committed.
    pub(crate) until_caught_up: bool,
    /// The broker is the one of `dev`.
    pub(crate) embedded: bool,
    /// What outputs that are no topics go through.
    pub(crate) clients: Clients,
    /// How long workers may take to finish after they were told to stop.
    pub(crate) shutdown_deadline: Duration,
    /// Where versions of plugins are kept. None: nothing is kept, and nothing is swapped.
    pub(crate) store: Option<Arc<Store>>,
}

/// What stops a pipeline from outside.
pub(crate) type Stop = Arc<AtomicBool>;

/// A pipeline whose workers run.
pub(crate) struct Running {
    pub(crate) status: Arc<PipelineStatus>,
    stop: Stop,
    stages: Vec<StageRun>,
    caught_up: Arc<CaughtUp>,
    /// Somebody can resume a stage.
    is_controlled: bool,
}

/// Starts all workers, and the HTTP listener where the pipeline has one.
///
/// # Errors
/// When a client cannot be made or the listener's address is taken.
pub(crate) async fn start(pipeline: &Pipeline, stages: Vec<Ready>, options: &Options) -> Result<Running> {
    let partitions = Arc::new(topics::ensure(pipeline).await?);
    // The embedded broker does not know the question, and it would be asked in vain until its timeout.
    let message_limit = match options.embedded {
        true => None,
        false => topics::smallest_message_limit(pipeline).await?,
    };
    let own_name = pipeline.instance.as_ref().map(|instance| instance.value.clone());
    let instance = own_name
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let metrics = Metrics::new();
    let status = Arc::new(PipelineStatus {
        app: pipeline.app.value.clone(),
        instance: instance.clone(),
        stages: stages.iter().map(status_of).collect(),
        pending: Vec::new().into(),
    });
    let shared = Arc::new(Shared {
        pipeline: pipeline.clone(),
        instance,
        partitions,
        message_limit,
        store: options.store.clone(),
        clients: options.clients.clone(),
        runtime: Handle::current(),
        shutdown_deadline: options.shutdown_deadline,
    });
    let written: BTreeSet<String> = stages
        .iter()
        .flat_map(|ready| ready.place.destinations.clone())
        .collect();
    let written: Vec<String> = written.into_iter().collect();
    let mut running = Running {
        status: Arc::clone(&status),
        stop: Stop::default(),
        caught_up: Arc::new(CaughtUp::new(stages.len())),
        stages: Vec::new(),
        is_controlled: pipeline.admin.as_ref().is_some_and(|admin| admin.token.is_some()),
    };
    for (ready, status) in stages.into_iter().zip(&status.stages) {
        let (shared, metrics) = (Arc::clone(&shared), metrics.stage(&ready.place.stage.name));
        running
            .stages
            .push(StageRun::new(shared, ready, metrics, Arc::clone(status))?);
    }
    let mut swaps = BTreeMap::new();
    if let Some(store) = &options.store {
        let stop = Arc::clone(&running.stop);
        for stage in &running.stages {
            swaps.insert(stage.status.name().to_owned(), stage.start_swapper(&stop)?);
            let name = stage.status.name();
            if store.is_paused(name) {
                stage.status.pause();
                tracing::warn!(
                    stage = name,
                    "paused before the last end; `wasmill stage resume` lets it go on"
                );
            }
        }
        pipeline_file::follow(pipeline, swaps.clone(), Arc::clone(&status), Arc::clone(&running.stop))?;
    }
    if let Some(admin) = &pipeline.admin {
        let file_bytes = pipeline.stages.iter().map(|stage| stage.limits.file_bytes.value);
        let control = Control {
            status: Arc::clone(&status),
            store: options.store.clone(),
            swaps,
            file_bytes_max: file_bytes.max().unwrap_or(0),
        };
        http::serve(admin, metrics, Arc::new(control)).await?;
    }
    let interval = match options.until_caught_up {
        true => LAG_INTERVAL_CATCHING_UP,
        false => LAG_INTERVAL,
    };
    for (index, stage) in running.stages.iter_mut().enumerate() {
        if stage.status.is_to_run() {
            stage.start()?;
        }
        stage.watch_lag(index, &written, interval, &running.stop, &running.caught_up)?;
    }
    Ok(running)
}

fn status_of(ready: &Ready) -> Arc<StageStatus> {
    let stage = &ready.place.stage;
    StageStatus::new(&stage.name, &stage.group, usize::from(stage.workers.value))
}

impl Running {
    /// Ends workers whose thread is over, tells their stage, and starts those of a stage that was resumed. True: at least one stage does not run.
    pub(crate) fn reap(&mut self) -> bool {
        let stopping = self.stop.load(Ordering::Acquire);
        self.stages.iter_mut().for_each(|stage| stage.follow(stopping));
        self.stages.iter().any(|stage| !stage.status.is_to_run())
    }

    /// No worker is left, and nobody can bring one back.
    fn is_over(&self) -> bool {
        // One that was resumed a moment ago has no worker yet.
        let can_come_back =
            |stage: &StageRun| stage.status.is_to_run() || (self.is_controlled && stage.status.is_held());
        self.stages.iter().all(StageRun::is_over) && !self.stages.iter().any(can_come_back)
    }

    /// The run ends, and a stage that is paused has not done its part.
    fn fail_paused(&self) {
        for stage in self.status.stages.iter().filter(|stage| stage.is_paused()) {
            stage.failed("it is paused; `wasmill stage resume` lets it go on", true);
        }
    }

    /// Whether every input is read to its end and all is committed.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.is_complete()
    }

    /// Makes `is_caught_up` look again: new records are in.
    pub(crate) fn forget_ends(&self) {
        self.caught_up.restart();
    }

    /// Tells all workers to finish and waits for them.
    ///
    /// # Errors
    /// When a worker does not end in time, or a stage had stopped.
    pub(crate) fn shut_down(mut self, deadline: Duration) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.stages.iter().for_each(|stage| stage.status.stop());
        let until = Instant::now() + deadline;
        while !self.stages.iter().all(StageRun::is_over) && Instant::now() < until {
            self.reap();
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(stage) = self.stages.iter().find(|stage| !stage.is_over()) {
            let stage = stage.status.name();
            bail!(
                "stage `{stage}` did not end within {} s; what was not committed comes again",
                deadline.as_secs()
            );
        }
        let stopped: Vec<String> = self
            .status
            .stages
            .iter()
            .filter_map(|stage| {
                let stopped = stage.stopped()?;
                Some(format!("stage `{}` has stopped: {}", stage.name(), stopped.error))
            })
            .collect();
        if stopped.is_empty() {
            Ok(())
        } else {
            Err(anyhow!(stopped.join("; ")))
        }
    }
}

/// Runs until a signal comes, or the inputs are read to their ends where that is asked for.
///
/// # Errors
/// When the pipeline cannot start, a stage has stopped, or the end took longer than its deadline.
pub(crate) async fn run(
    pipeline: &Pipeline,
    stages: Vec<Ready>,
    options: &Options,
    mut signals: Signals,
) -> Result<()> {
    let mut running = start(pipeline, stages, options).await?;
    tracing::info!(app = pipeline.app.value, stages = pipeline.stages.len(), "running");
    loop {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        let stopped = running.reap();
        // Without any worker the process would only look alive; its supervisor can do more than it can.
        if stopped && (options.until_caught_up || running.is_over()) {
            running.fail_paused();
            break;
        }
        if options.until_caught_up && running.is_caught_up() {
            tracing::info!("every input is read to its end and committed");
            break;
        }
    }
    let deadline = options.shutdown_deadline;
    tokio::task::spawn_blocking(move || running.shut_down(deadline))
        .await
        .context("shut down")?
}

/// SIGTERM and SIGINT. Made before anything else: a signal that comes while plugins are compiled is kept, and ends the run cleanly.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
