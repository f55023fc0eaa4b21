//! Runs a pipeline: one group of workers for each stage, watched until they are told to stop.
//!
//! Stages do not know of each other; what one writes and another reads goes through its topic. A stage that stops leaves the others
//! running, and readiness and `/status` say which and why. On a signal, or when every input is read to its end and that was
//! asked for, workers finish the call in hand, commit and leave their groups, all within a deadline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::batch::Bounds;
use crate::config::{self, ConfigError, Guarantee as Promise, Pipeline, Stage, Topics as OnMissing};
use crate::http;
use crate::kafka::consumer::Consumer;
use crate::kafka::lag::LagWatch;
use crate::kafka::settings;
use crate::kafka::topics::{Found, Topics};
use crate::metrics::{Metrics, StageMetrics};
use crate::prepare::Ready;
use crate::sink::{Destination, Guarantee, Sink};
use crate::status::{PipelineStatus, PluginReport, StageStatus};
use crate::worker::{Task, Worker};

/// Keys stay with their partitions while workers come and go; for single-topic inputs.
const ASSIGNOR: &str = "cooperative-sticky";
/// How often groups are asked how far they are.
const LAG_INTERVAL: Duration = Duration::from_secs(2);
const LAG_INTERVAL_CATCHING_UP: Duration = Duration::from_millis(200);

/// How a pipeline is run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// End when every input is read to its end and all is committed.
    pub until_caught_up: bool,
    /// How long workers may take to finish after they were told to stop.
    pub shutdown_deadline: Duration,
}

/// What stops a pipeline from outside.
pub(crate) type Stop = Arc<AtomicBool>;

/// A pipeline whose workers run.
pub(crate) struct Running {
    pub(crate) status: Arc<PipelineStatus>,
    stop: Stop,
    workers: Vec<(Arc<StageStatus>, StageMetrics, JoinHandle<Result<()>>)>,
    watches: Vec<JoinHandle<()>>,
    caught_up: Arc<CaughtUp>,
}

/// Whether each stage was at the end of its inputs, twice in a row.
struct CaughtUp(Vec<AtomicBool>);

/// Looks for the pipeline's topics, and creates what is missing where the pipeline says so.
///
/// # Errors
/// When no broker answers, or mistakes at the places where the topics are named.
pub(crate) async fn check_topics(pipeline: &Pipeline, create: bool) -> Result<std::collections::BTreeMap<String, i32>> {
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
    Ok(found
        .into_iter()
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
    named
}

/// Starts all workers, and the HTTP listener where the pipeline has one.
///
/// # Errors
/// When a client cannot be made or the listener's address is taken.
pub(crate) async fn start(pipeline: &Pipeline, stages: Vec<Ready>, options: &Options) -> Result<Running> {
    let partitions = check_topics(pipeline, true).await?;
    let instance = match &pipeline.instance {
        Some(instance) => instance.value.clone(),
        None => uuid::Uuid::new_v4().simple().to_string(),
    };
    let metrics = Metrics::new();
    let status = Arc::new(PipelineStatus {
        app: pipeline.app.value.clone(),
        instance: instance.clone(),
        stages: stages.iter().map(status_of).collect(),
    });
    if let Some(admin) = &pipeline.admin {
        http::serve(admin, Arc::clone(&metrics), Arc::clone(&status)).await?;
    }
    let stop: Stop = Arc::default();
    let caught_up = Arc::new(CaughtUp(stages.iter().map(|_| AtomicBool::new(false)).collect()));
    let mut running = Running {
        status: Arc::clone(&status),
        stop: Arc::clone(&stop),
        workers: Vec::new(),
        watches: Vec::new(),
        caught_up,
    };
    for ((index, ready), stage_status) in stages.iter().enumerate().zip(&status.stages) {
        let stage_metrics = metrics.stage(&ready.stage.name);
        stage_metrics.running.set(1);
        for worker in 0..usize::from(ready.stage.workers.value) {
            let made = make_worker(
                pipeline,
                ready,
                &instance,
                worker,
                &partitions,
                &stage_metrics,
                stage_status,
            );
            let made = made.with_context(|| format!("stage `{}`: start worker {worker}", stage_status.name()))?;
            let (stop, stage_status) = (Arc::clone(&stop), Arc::clone(stage_status));
            let handle = std::thread::Builder::new()
                .name(format!("{}-{worker}", stage_status.name()))
                .spawn(move || made.run(&stop))
                .context("start a worker's thread")?;
            running.workers.push((stage_status, stage_metrics.clone(), handle));
        }
        running.watch_lag(pipeline, &stages, index, stage_metrics, options)?;
    }
    Ok(running)
}

fn status_of(ready: &Ready) -> Arc<StageStatus> {
    let description = &ready.plugin.description;
    let plugin = PluginReport {
        name: description.name.clone(),
        version: description.version.clone(),
        digest: ready.plugin.digest.clone(),
        file: ready.file.display().to_string(),
    };
    StageStatus::new(
        &ready.stage.name,
        &ready.stage.group,
        plugin,
        usize::from(ready.stage.workers.value),
    )
}

fn make_worker(
    pipeline: &Pipeline,
    ready: &Ready,
    instance: &str,
    worker: usize,
    partitions: &std::collections::BTreeMap<String, i32>,
    metrics: &StageMetrics,
    status: &Arc<StageStatus>,
) -> Result<Worker> {
    let stage = &ready.stage;
    let name = format!("{}.{}.{instance}.{worker}", pipeline.app.value, stage.name.value);
    let (guarantee, transactional_id) = match stage.guarantee.value {
        Promise::ExactlyOnce => (Guarantee::ExactlyOnce, Some(name.as_str())),
        Promise::AtLeastOnce => (Guarantee::AtLeastOnce, None),
    };
    let destinations: Vec<Destination> = ready
        .destinations
        .iter()
        .map(|topic| Destination {
            topic: topic.clone(),
            partitions: partitions.get(topic).copied().unwrap_or(0),
            written: metrics.output(topic),
        })
        .collect();
    let consumer_name = format!("{name} consumer");
    let consumer = Consumer::new(
        &consumer_name,
        &settings::consumer(&pipeline.kafka, &stage.group, ASSIGNOR),
    )?;
    // The mark beside committed offsets must tell incarnations apart, also where `instance` is stable.
    let incarnation = format!("{name} {}", uuid::Uuid::new_v4().simple());
    let sink = Sink::new(
        incarnation,
        settings::producer(&pipeline.kafka, transactional_id),
        guarantee,
        destinations,
    );
    let task = Task {
        stage: stage.name.value.clone(),
        topics: stage.input.topics.iter().map(|topic| topic.value.clone()).collect(),
        start: stage.input.start.value,
        commit_interval: stage.commit_interval.value,
        bounds: bounds_of(stage),
        plugin: Arc::clone(&ready.plugin),
        routes: Arc::clone(&ready.routes),
        dead_letters: ready.destinations.len() - 1,
    };
    Worker::new(task, consumer, sink, metrics.clone(), status.worker(worker))
}

fn bounds_of(stage: &Stage) -> Bounds {
    Bounds {
        records_max: usize::try_from(stage.batch.records.value).unwrap_or(usize::MAX),
        bytes_max: usize::try_from(stage.batch.bytes.value).unwrap_or(usize::MAX),
        wait: stage.batch.wait.value,
    }
}

impl Running {
    fn watch_lag(
        &mut self,
        pipeline: &Pipeline,
        stages: &[Ready],
        index: usize,
        metrics: StageMetrics,
        options: &Options,
    ) -> Result<()> {
        let stage = &stages[index].stage;
        let written: BTreeSet<&String> = stages.iter().flat_map(|ready| &ready.destinations).collect();
        let topics: Vec<(String, bool)> = stage
            .input
            .topics
            .iter()
            .map(|topic| (topic.value.clone(), written.contains(&topic.value)))
            .collect();
        let watch = LagWatch::connect(&pipeline.kafka, &stage.group, topics)?;
        let (stop, caught_up) = (Arc::clone(&self.stop), Arc::clone(&self.caught_up));
        let status = Arc::clone(&self.status.stages[index]);
        let interval = if options.until_caught_up {
            LAG_INTERVAL_CATCHING_UP
        } else {
            LAG_INTERVAL
        };
        let handle = std::thread::Builder::new()
            .name(format!("{}-lag", status.name()))
            .spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let round = Instant::now();
                    match watch.read() {
                        Ok(lag) => {
                            for one in &lag {
                                metrics.set_lag(&one.topic, one.partition, one.records());
                            }
                            let done = lag.iter().all(|one| one.records() == 0);
                            caught_up.0[index].store(done, Ordering::Release);
                            status.set_lag(lag);
                        }
                        Err(error) => {
                            caught_up.0[index].store(false, Ordering::Release);
                            tracing::debug!(stage = status.name(), error = format!("{error:#}"), "lag is not known");
                        }
                    }
                    while round.elapsed() < interval && !stop.load(Ordering::Acquire) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        self.watches.push(handle.context("start a lag watch")?);
        Ok(())
    }

    /// Ends workers whose thread is over, and tells their stage. True: at least one stage has stopped.
    pub(crate) fn reap(&mut self) -> bool {
        let mut alive = Vec::new();
        for (status, metrics, handle) in self.workers.drain(..) {
            if handle.is_finished() {
                ended(&status, &metrics, handle);
            } else {
                alive.push((status, metrics, handle));
            }
        }
        self.workers = alive;
        self.status.stages.iter().any(|stage| stage.error().is_some())
    }

    /// Whether every stage was found at the end of its inputs since `forget_ends`.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.0.iter().all(|done| done.load(Ordering::Acquire))
    }

    /// Makes `is_caught_up` wait for news.
    pub(crate) fn forget_ends(&self) {
        for done in &self.caught_up.0 {
            done.store(false, Ordering::Release);
        }
    }

    /// Tells all workers to finish and waits for them.
    ///
    /// # Errors
    /// When a worker does not end in time, or a stage had stopped.
    pub(crate) fn shut_down(mut self, deadline: Duration) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let until = Instant::now() + deadline;
        while !self.workers.is_empty() && Instant::now() < until {
            self.reap();
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some((status, ..)) = self.workers.first() {
            let stage = status.name();
            bail!(
                "stage `{stage}` did not end within {} s; what was not committed comes again",
                deadline.as_secs()
            );
        }
        for watch in self.watches {
            // A watch that panicked has logged it; nothing depends on it any more.
            let _ = watch.join();
        }
        let stopped: Vec<String> = self
            .status
            .stages
            .iter()
            .filter_map(|stage| Some(format!("stage `{}` has stopped: {}", stage.name(), stage.error()?)))
            .collect();
        if stopped.is_empty() {
            Ok(())
        } else {
            Err(anyhow!(stopped.join("; ")))
        }
    }
}

fn ended(status: &StageStatus, metrics: &StageMetrics, handle: JoinHandle<Result<()>>) {
    let error = match handle.join() {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "a worker panicked, which is a defect of the host; its message is above".to_owned(),
    };
    tracing::error!(
        stage = status.name(),
        error,
        "stage has stopped; nothing is lost, its records wait"
    );
    metrics.running.set(0);
    status.failed(&error);
}

/// Runs until a signal comes, or the inputs are read to their ends where that is asked for.
///
/// # Errors
/// When the pipeline cannot start, a stage has stopped, or the end took longer than its deadline.
pub(crate) async fn run(pipeline: &Pipeline, stages: Vec<Ready>, options: &Options) -> Result<()> {
    let mut running = start(pipeline, stages, options).await?;
    tracing::info!(app = pipeline.app.value, stages = pipeline.stages.len(), "running");
    let mut signals = Signals::new()?;
    let mut ends = 0;
    loop {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        let stopped = running.reap();
        if options.until_caught_up && stopped {
            break;
        }
        if options.until_caught_up && running.is_caught_up() {
            // What one stage writes last may reach the next between two looks: all must be found at their ends twice.
            ends += 1;
            if ends == 2 {
                tracing::info!("every input is read to its end and committed");
                break;
            }
            running.forget_ends();
        }
    }
    let deadline = options.shutdown_deadline;
    tokio::task::spawn_blocking(move || running.shut_down(deadline))
        .await
        .context("shut down")?
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
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
