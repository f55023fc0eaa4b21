//! The workers of one stage: started, ended, and started again after a pause.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Handle;

use super::caught_up::CaughtUp;
use crate::batch::Bounds;
use crate::config::{Guarantee as Promise, Pipeline, Stage};
use crate::external::{Clients, Exits, Health};
use crate::kafka::consumer::Consumer;
use crate::kafka::lag::LagWatch;
use crate::kafka::settings;
use crate::metrics::{ExitMetrics, StageMetrics};
use crate::prepare::{Place, Prepared, Ready};
use crate::sink::{Destination, Guarantee, Sink};
use crate::status::StageStatus;
use crate::swap::store::{Change, Event, Remembered, Store, now};
use crate::swap::{self, Request, Swapper};
use crate::topics::ReplayTopic;
use crate::version::{Current, OnRollback, Version};
use crate::worker::{Held, Task, Worker};

/// Keys stay with their partitions while workers come and go; for single-topic inputs.
const ASSIGNOR: &str = "cooperative-sticky";

/// A worker that loses partitions has a fifth of its session; half of that is for outputs, the rest for the commit.
const REVOKE_SESSION_SHARE: u32 = 10;
/// The part of the time to shut down in which outputs may still acknowledge; the rest is for the commit and for leaving the group.
const DRAIN_SHARE: f64 = 0.6;

/// What all stages of a process share.
pub(super) struct Shared {
    pub(super) pipeline: Pipeline,
    pub(super) instance: String,
    pub(super) partitions: Arc<BTreeMap<String, i32>>,
    /// The smallest `max.message.bytes` of the topics that are written.
    pub(super) message_limit: Option<u64>,
    pub(super) store: Option<Arc<Store>>,
    pub(super) clients: Clients,
    /// Where lanes of outputs run.
    pub(super) runtime: Handle,
    pub(super) shutdown_deadline: Duration,
}

/// A stage whose workers can be started.
pub(super) struct StageRun {
    shared: Arc<Shared>,
    place: Place,
    file: Option<PathBuf>,
    remembered: Remembered,
    is_file_unread: bool,
    current: Arc<Current<Version>>,
    replay: Arc<ReplayTopic>,
    metrics: StageMetrics,
    /// How each group of its exits is.
    healths: Vec<Arc<Health>>,
    pub(super) status: Arc<StageStatus>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl StageRun {
    /// Publishes the version that the stage starts with, and remembers it. No worker runs yet.
    ///
    /// # Errors
    /// When what is to run cannot be remembered.
    pub(super) fn new(
        shared: Arc<Shared>,
        ready: Ready,
        metrics: StageMetrics,
        status: Arc<StageStatus>,
    ) -> Result<Self> {
        let Ready {
            place,
            prepared,
            origin,
            before,
        } = ready;
        let stage = &place.stage;
        let version_of = |prepared: Prepared| {
            Arc::new(Version {
                metrics: prepared.plugin.metrics(&metrics),
                plugin: prepared.plugin,
                routes: prepared.routes,
                config: stage.config.clone(),
                spares: Vec::new().into(),
            })
        };
        let version = version_of(prepared);
        let report = swap::report(&version, origin.file.as_ref());
        let mut remembered = origin.remembered;
        remembered.activate(&version.plugin.digest);
        let before = before.map(|(trial, prepared)| (trial, version_of(prepared)));
        if before.is_none() {
            remembered.trial = None;
        }
        if let Some(reason) = &origin.refused {
            tracing::error!(
                stage = stage.name.value,
                runs = report.digest,
                error = reason,
                "the plugin's file is refused; what ran last runs again"
            );
            metrics.swap(Change::Refused.as_str());
        }
        if let Some(store) = &shared.store {
            store.keep(&origin.binary)?;
            let started = Event {
                at: now(),
                stage: stage.name.value.clone(),
                change: Change::Started,
                by: "start".to_owned(),
                from: None,
                digest: Some(report.digest.clone()),
                plugin: Some(format!("{} {}", report.name, report.version)),
                reason: None,
            };
            if origin.refused.is_some() {
                store.record(&Event {
                    change: Change::Refused,
                    digest: remembered.file.clone().filter(|_| !origin.is_file_unread),
                    plugin: None,
                    reason: origin.refused.clone(),
                    ..started.clone()
                })?;
            }
            store.record(&started)?;
            store.remember(&stage.name, &remembered)?;
        }
        metrics.runs(&report.name, &report.version, &report.digest);
        // What was found just now is newer than what was known.
        status.set_refused(origin.refused.or(remembered.refused.clone()));
        status.set_plugin(report);
        let current = Current::new(version, before, on_rollback(&shared, stage));
        let replay = ReplayTopic::of(&shared.pipeline, &place.stage, &shared.partitions);
        let healths = healths(&place, &metrics);
        status.set_outputs(healths.clone());
        Ok(Self {
            shared,
            place,
            replay,
            file: origin.file,
            remembered,
            is_file_unread: origin.is_file_unread,
            current,
            metrics,
            healths,
            status,
            workers: Vec::new(),
        })
    }

    /// Starts the thread that swaps the stage's plugin, and returns where to ask it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start_swapper(&self, stop: &Arc<AtomicBool>) -> Result<Sender<Request>> {
        let (requests, received) = channel();
        let swapper = Swapper {
            place: self.place.clone(),
            store: self.shared.store.clone(),
            current: Arc::clone(&self.current),
            metrics: self.metrics.clone(),
            status: Arc::clone(&self.status),
            file: self.file.clone(),
            remembered: self.remembered.clone(),
            is_file_unread: self.is_file_unread,
        };
        // Never waited for: it may be compiling, and what it would publish nobody runs any more.
        swapper.start(received, Arc::clone(stop))?;
        Ok(requests)
    }

    /// Starts the stage's workers.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub(super) fn start(&mut self) -> Result<()> {
        let Some(stop) = self.status.begin() else {
            return Ok(());
        };
        self.metrics.running.set(1);
        for number in 0..usize::from(self.place.stage.workers.value) {
            let worker = self.worker(number, &stop)?;
            self.workers.push(worker);
        }
        Ok(())
    }

    /// Starts a worker's thread. A worker that fails stops the others of its stage: half a stage is harder to understand than none.
    fn worker(&self, number: usize, stop: &Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
        let name = format!("{}-{number}", self.status.name());
        let made = self
            .make(number, stop)
            .with_context(|| format!("start worker {name}"))?;
        let stop = Arc::clone(stop);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let ended = made.run();
                if ended.is_err() {
                    stop.store(true, Ordering::Release);
                }
                ended
            })
            .context("start a worker's thread")
    }

    fn make(&self, number: usize, stop: &Arc<AtomicBool>) -> Result<Worker> {
        let (stage, shared) = (&self.place.stage, &self.shared);
        let kafka = &shared.pipeline.kafka;
        let name = format!(
            "{}.{}.{}.{number}",
            shared.pipeline.app.value, stage.name.value, shared.instance
        );
        let (guarantee, transactional_id) = match stage.guarantee.value {
            Promise::ExactlyOnce => (Guarantee::ExactlyOnce, Some(name.as_str())),
            Promise::AtLeastOnce => (Guarantee::AtLeastOnce, None),
        };
        let destinations = self.place.destinations.iter().map(|topic| Destination {
            topic: topic.clone(),
            partitions: shared.partitions.get(topic).copied().unwrap_or(0),
            written: self.metrics.output(topic),
        });
        let consumer_name = format!("{name} consumer");
        let consumer = Consumer::new(&consumer_name, &settings::consumer(kafka, &stage.group, ASSIGNOR))?;
        // The mark beside committed offsets must tell incarnations apart, also where `instance` is stable.
        let incarnation = format!("{name} {}", uuid::Uuid::new_v4().simple());
        let properties = settings::producer(kafka, transactional_id, shared.message_limit);
        let sink = Sink::new(incarnation, properties, guarantee, destinations.collect());
        let task = Task {
            stage: stage.name.value.clone(),
            topics: stage.input.topics.iter().map(|topic| topic.value.clone()).collect(),
            partitions: Arc::clone(&shared.partitions),
            replay: Arc::clone(&self.replay),
            start: stage.input.start.value,
            commit_interval: stage.commit_interval.value,
            bounds: bounds_of(stage),
            on_fault: stage.on_fault.clone(),
            current: Arc::clone(&self.current),
            dead_letters: self.place.destinations.len() - 1,
            revoke_wait: kafka.session_timeout() / REVOKE_SESSION_SHARE,
            drain: shared.shutdown_deadline.mul_f64(DRAIN_SHARE),
            stop: Arc::clone(stop),
        };
        let exits = (!self.place.exits.is_empty()).then(|| {
            Exits::start(
                &self.place.exits,
                &shared.clients,
                &self.healths,
                &self.metrics,
                &shared.runtime,
            )
        });
        Worker::new(
            task,
            consumer,
            sink,
            exits,
            self.metrics.clone(),
            self.status.worker(number),
        )
    }

    /// Ends workers whose thread is over, and starts new ones where the stage is to run again.
    pub(super) fn follow(&mut self, stopping: bool) {
        let (over, alive) = self.workers.drain(..).partition(JoinHandle::is_finished);
        self.workers = alive;
        let over: Vec<JoinHandle<Result<()>>> = over;
        for worker in over {
            self.ended(worker);
        }
        if !self.workers.is_empty() {
            if !self.status.is_to_run() {
                self.status.stop();
            }
            return;
        }
        if stopping || !self.status.is_to_run() {
            self.metrics.running.set(0);
            return;
        }
        if let Err(error) = self.start() {
            self.failed(&error);
        }
    }

    fn ended(&self, worker: JoinHandle<Result<()>>) {
        let error = match worker.join() {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => anyhow!("a worker panicked, which is a defect of the host; its message is above"),
        };
        self.failed(&error);
    }

    fn failed(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        tracing::error!(
            stage = self.status.name(),
            error = text,
            "stage has stopped; nothing is lost, its records wait"
        );
        self.status.failed(&text, error.is::<Held>());
        self.status.stop();
    }

    /// No worker is left.
    pub(super) fn is_over(&self) -> bool {
        self.workers.is_empty()
    }

    /// Watches how far the group is, until `stop` is set. `written`: the topics that this pipeline writes.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub(super) fn watch_lag(
        &self,
        index: usize,
        written: &[String],
        interval: Duration,
        stop: &Arc<AtomicBool>,
        caught_up: &Arc<CaughtUp>,
    ) -> Result<()> {
        let topics = self.place.stage.input.topics.iter();
        let topics = topics.map(|topic| (topic.value.clone(), written.contains(&topic.value)));
        let watch = LagWatch::connect(
            &self.shared.pipeline.kafka,
            &self.place.stage.group,
            topics.collect(),
            Arc::clone(&self.replay),
        )?;
        let (stop, caught_up) = (Arc::clone(stop), Arc::clone(caught_up));
        let (status, metrics) = (Arc::clone(&self.status), self.metrics.clone());
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
}

/// How each group of a stage's exits is, in the order of their numbers.
fn healths(place: &Place, metrics: &StageMetrics) -> Vec<Arc<Health>> {
    let mut healths: Vec<Arc<Health>> = Vec::new();
    for exit in &place.exits {
        if exit.group == healths.len() {
            let (stage, output) = (&place.stage.name.value, exit.name());
            let blocked = ExitMetrics::new(metrics, &output).blocked();
            healths.push(Health::new(stage, &output, blocked));
        }
    }
    healths
}

/// Remembers a rollback before any worker runs the version before: a restart finds what the outputs came from.
fn on_rollback(shared: &Shared, stage: &Stage) -> OnRollback<Version> {
    let (store, stage) = (shared.store.clone(), stage.name.value.clone());
    Box::new(move |from, to, reason| {
        let Some(store) = &store else { return };
        let remembered = store.remembered(&stage).and_then(|mut remembered| {
            remembered.roll_back(&from.plugin.digest, &to.plugin.digest, reason);
            store.remember(&stage, &remembered)
        });
        if let Err(error) = remembered {
            let error = format!("{error:#}");
            tracing::error!(
                stage,
                error,
                "a rollback is not remembered; a restart would run the newer version"
            );
        }
    })
}

fn bounds_of(stage: &Stage) -> Bounds {
    Bounds {
        records_max: usize::try_from(stage.batch.records.value).unwrap_or(usize::MAX),
        bytes_max: usize::try_from(stage.batch.bytes.value).unwrap_or(usize::MAX),
        wait: stage.batch.wait.value,
    }
}
