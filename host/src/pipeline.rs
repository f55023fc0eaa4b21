//! Runs a pipeline: one group of workers for each stage, watched until they are told to stop.
//!
//! Stages do not know of each other; what one writes and another reads goes through its topic. A stage that stops leaves the others
//! running, and readiness and `/status` say which and why. On a signal, or when every input is read to its end and that was
//! asked for, workers finish the call in hand, commit and leave their groups, all within a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::batch::Bounds;
use crate::config::{Guarantee as Promise, Pipeline, Stage};
use crate::http;
use crate::kafka::consumer::Consumer;
use crate::kafka::lag::LagWatch;
use crate::kafka::settings;
use crate::metrics::{Metrics, PluginMetrics, StageMetrics};
use crate::prepare::Ready;
use crate::sink::{Destination, Guarantee, Sink};
use crate::status::{PipelineStatus, PluginReport, StageStatus};
use crate::topics::{self, ReplayTopic};
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
    pub(crate) until_caught_up: bool,
    /// The broker is the one of `dev`.
    pub(crate) embedded: bool,
    /// How long workers may take to finish after they were told to stop.
    pub(crate) shutdown_deadline: Duration,
}

/// What stops a pipeline from outside.
pub(crate) type Stop = Arc<AtomicBool>;

/// A pipeline whose workers run.
pub(crate) struct Running {
    pub(crate) status: Arc<PipelineStatus>,
    stop: Stop,
    workers: Vec<Thread>,
    caught_up: Arc<CaughtUp>,
}

/// A worker's thread.
struct Thread {
    status: Arc<StageStatus>,
    metrics: StageMetrics,
    handle: JoinHandle<Result<()>>,
}

/// Which stages were found at the ends of their inputs.
///
/// What one stage writes last may reach the next between two looks, so the looks go in rounds, and one round for each stage and one more
/// must find all of them at their ends, each by a look that began in that round.
struct CaughtUp {
    round: AtomicU64,
    /// For each stage the last round in which it was at its end.
    at_end: Vec<AtomicU64>,
    rounds_wanted: u64,
    /// The round since which every one has been complete.
    since: AtomicU64,
}

impl CaughtUp {
    fn new(stages: usize) -> Self {
        Self {
            round: AtomicU64::new(1),
            at_end: (0..stages).map(|_| AtomicU64::new(0)).collect(),
            rounds_wanted: stages as u64 + 1,
            since: AtomicU64::new(1),
        }
    }

    fn begin_look(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// The look that began in `round` found the stage at its end, or not.
    fn end_look(&self, stage: usize, round: u64, at_end: bool) {
        if at_end {
            self.at_end[stage].store(round, Ordering::Release);
        } else {
            self.restart();
        }
    }

    /// All rounds so far count for nothing.
    fn restart(&self) {
        let next = self.round.fetch_add(1, Ordering::AcqRel) + 1;
        self.since.store(next, Ordering::Release);
    }

    fn is_complete(&self) -> bool {
        let round = self.round.load(Ordering::Acquire);
        if !self.at_end.iter().all(|at_end| at_end.load(Ordering::Acquire) == round) {
            return false;
        }
        if round - self.since.load(Ordering::Acquire) + 1 >= self.rounds_wanted {
            return true;
        }
        // A look that began before now cannot count for the new round; one that fails meanwhile moves it further.
        let _ = self
            .round
            .compare_exchange(round, round + 1, Ordering::AcqRel, Ordering::Acquire);
        false
    }
}

/// Starts all workers, and the HTTP listener where the pipeline has one.
///
/// # Errors
/// When a client cannot be made or the listener's address is taken.
pub(crate) async fn start(pipeline: &Pipeline, stages: Vec<Ready>, options: &Options) -> Result<Running> {
    let partitions = Arc::new(topics::check(pipeline, true).await?);
    // The embedded broker does not know the question, and it would be asked in vain until its timeout.
    let message_limit = match options.embedded {
        true => None,
        false => topics::smallest_message_limit(pipeline).await?,
    };
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
    let caught_up = Arc::new(CaughtUp::new(stages.len()));
    let mut running = Running {
        status: Arc::clone(&status),
        stop: Arc::clone(&stop),
        workers: Vec::new(),
        caught_up,
    };
    for (index, (ready, stage_status)) in stages.iter().zip(&status.stages).enumerate() {
        let stage_metrics = metrics.stage(&ready.stage.name);
        stage_metrics.running.set(1);
        let launch = Launch {
            pipeline,
            ready,
            instance: &instance,
            partitions: &partitions,
            replay: ReplayTopic::of(pipeline, &ready.stage, &partitions),
            message_limit,
            plugin_metrics: stage_metrics.plugin(&ready.plugin.description.name),
            metrics: stage_metrics,
            status: stage_status,
        };
        for number in 0..usize::from(ready.stage.workers.value) {
            running.workers.push(launch.worker(number)?);
        }
        running.watch_lag(pipeline, &stages, index, launch.metrics, launch.replay, options)?;
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

/// What the workers of one stage are made from.
struct Launch<'a> {
    pipeline: &'a Pipeline,
    ready: &'a Ready,
    instance: &'a str,
    partitions: &'a Arc<BTreeMap<String, i32>>,
    replay: Arc<ReplayTopic>,
    message_limit: Option<u64>,
    metrics: StageMetrics,
    plugin_metrics: Arc<PluginMetrics>,
    status: &'a Arc<StageStatus>,
}

impl Launch<'_> {
    /// Starts a worker's thread. A worker that fails stops the others of its stage: half a stage is harder to understand than none.
    fn worker(&self, number: usize) -> Result<Thread> {
        let status = Arc::clone(self.status);
        let name = format!("{}-{number}", status.name());
        let made = self.make(number).with_context(|| format!("start worker {name}"))?;
        let handle = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let ended = made.run();
                if ended.is_err() {
                    status.stop();
                }
                ended
            })
            .context("start a worker's thread")?;
        Ok(Thread {
            status: Arc::clone(self.status),
            metrics: self.metrics.clone(),
            handle,
        })
    }

    fn make(&self, number: usize) -> Result<Worker> {
        let (stage, kafka) = (&self.ready.stage, &self.pipeline.kafka);
        let name = format!(
            "{}.{}.{}.{number}",
            self.pipeline.app.value, stage.name.value, self.instance
        );
        let (guarantee, transactional_id) = match stage.guarantee.value {
            Promise::ExactlyOnce => (Guarantee::ExactlyOnce, Some(name.as_str())),
            Promise::AtLeastOnce => (Guarantee::AtLeastOnce, None),
        };
        let destinations = self.ready.destinations.iter().map(|topic| Destination {
            topic: topic.clone(),
            partitions: self.partitions.get(topic).copied().unwrap_or(0),
            written: self.metrics.output(topic),
        });
        let consumer_name = format!("{name} consumer");
        let consumer = Consumer::new(&consumer_name, &settings::consumer(kafka, &stage.group, ASSIGNOR))?;
        // The mark beside committed offsets must tell incarnations apart, also where `instance` is stable.
        let incarnation = format!("{name} {}", uuid::Uuid::new_v4().simple());
        let properties = settings::producer(kafka, transactional_id, self.message_limit);
        let sink = Sink::new(incarnation, properties, guarantee, destinations.collect());
        let task = Task {
            stage: stage.name.value.clone(),
            topics: stage.input.topics.iter().map(|topic| topic.value.clone()).collect(),
            replay: Arc::clone(&self.replay),
            partitions: Arc::clone(self.partitions),
            start: stage.input.start.value,
            commit_interval: stage.commit_interval.value,
            bounds: bounds_of(stage),
            plugin: Arc::clone(&self.ready.plugin),
            plugin_metrics: Arc::clone(&self.plugin_metrics),
            routes: Arc::clone(&self.ready.routes),
            dead_letters: self.ready.destinations.len() - 1,
            stop: self.status.stopping(),
        };
        Worker::new(task, consumer, sink, self.metrics.clone(), self.status.worker(number))
    }
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
        replay: Arc<ReplayTopic>,
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
        let watch = LagWatch::connect(&pipeline.kafka, &stage.group, topics, replay)?;
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
                    let (began, round) = (Instant::now(), caught_up.begin_look());
                    match watch.read() {
                        Ok(lag) => {
                            for one in &lag {
                                metrics.set_lag(&one.topic, one.partition, one.records());
                            }
                            let done = lag.iter().all(|one| one.records() == 0);
                            caught_up.end_look(index, round, done);
                            status.set_lag(lag);
                        }
                        Err(error) => {
                            caught_up.end_look(index, round, false);
                            tracing::debug!(stage = status.name(), error = format!("{error:#}"), "lag is not known");
                        }
                    }
                    while began.elapsed() < interval && !stop.load(Ordering::Acquire) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        // Never waited for: it may be asking a broker that does not answer.
        handle.context("start a lag watch")?;
        Ok(())
    }

    /// Ends workers whose thread is over, and tells their stage. True: at least one stage has stopped.
    pub(crate) fn reap(&mut self) -> bool {
        let (over, alive) = self.workers.drain(..).partition(|worker| worker.handle.is_finished());
        self.workers = alive;
        let over: Vec<Thread> = over;
        over.into_iter().for_each(ended);
        self.status.stages.iter().any(|stage| stage.error().is_some())
    }

    /// No worker is left.
    fn is_over(&self) -> bool {
        self.workers.is_empty()
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
        self.status.stages.iter().for_each(|stage| stage.stop());
        let until = Instant::now() + deadline;
        while !self.workers.is_empty() && Instant::now() < until {
            self.reap();
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(worker) = self.workers.first() {
            let stage = worker.status.name();
            bail!(
                "stage `{stage}` did not end within {} s; what was not committed comes again",
                deadline.as_secs()
            );
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

fn ended(worker: Thread) {
    let Thread {
        status,
        metrics,
        handle,
    } = worker;
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
