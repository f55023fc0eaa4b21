//! The spine: the only place that knows the order in which a record goes through the host.
//!
//! A worker is a thread with one consumer, one producer, one instance of the plugin. Its loop: serve the group, read, cut a batch, call the plugin,
//! check the answer, route, write, and commit when the interval is over. Whatever fails after the last commit is given up as a whole: the
//! transaction is aborted, every partition goes back to its committed offset, and the records come again. The group is served between any two calls.

mod burial;
mod call;
pub(crate) mod delivery;
mod group;
mod recovery;
mod sending;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::assignment::{Assignment, Slot};
use crate::batch::{Batcher, Bounds};
use crate::breaker::Breaker;
use crate::config::{OnFault, Start};
use crate::external::Exits;
use crate::fault::{Fault, Kind};
use crate::kafka::Code;
use crate::kafka::consumer::{Consumer, TopicPartition};
use crate::kafka::ffi::Message;
use crate::metrics::StageMetrics;
use crate::pack::{self, Packer};
use crate::plugin::contract::PortKind;
use crate::plugin::instance::{Executor, Instance};
use crate::refusal::Halving;
use crate::rights::{Operation, Right};
use crate::sink::{Failure, Sink};
use crate::status::WorkerStatus;
use crate::topics::ReplayTopic;
use crate::version::{Current, Publication, Tally, Version};
use crate::work::Work;

/// How long the private queue is waited for; the main queue is served at least this often.
const POLL: Duration = Duration::from_millis(20);
/// How long a worker waits before it tries again what the brokers would not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A transaction is committed when it holds this much, however young it is: it bounds memory and what a failure repeats.
const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;
const TRANSACTION_RECORDS_MAX: usize = 200_000;
/// A position that the brokers say does not exist this often, with nothing read in between, will not come to exist.
const UNREADABLE_MAX: u32 = 50;
/// Losing the transactional id this often within this time is no accident.
const FENCED_MAX: usize = 5;
const FENCED_WITHIN: Duration = Duration::from_secs(60);
/// How often making an instance is tried again; a machine that is short of memory may have some the next moment.
const INSTANCE_TRIES_MAX: u32 = 3;
/// The most that the outputs of one record may come to; a plugin can name the same bytes again and again.
const RECORD_OUTPUT_BYTES_MAX: usize = TRANSACTION_BYTES_MAX;
/// How long the group is waited for when a worker leaves it.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// How long requests that are in flight are waited for at the end; what was not committed comes again.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(2);

/// What a worker needs to know of its stage.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) stage: String,
    pub(crate) topics: Vec<String>,
    pub(crate) replay: Arc<ReplayTopic>,
    /// How many partitions each topic had when the process started.
    pub(crate) partitions: Arc<BTreeMap<String, i32>>,
    pub(crate) start: Start,
    pub(crate) commit_interval: Duration,
    pub(crate) bounds: Bounds,
    pub(crate) on_fault: OnFault,
    /// The version of the plugin that is to run.
    pub(crate) current: Arc<Current<Version>>,
    /// Place of the dead-letter topic in the list of destinations.
    pub(crate) dead_letters: usize,
    /// How long partitions that are taken away are held for outputs that have not acknowledged what was sent.
    pub(crate) revoke_wait: Duration,
    /// How long the end waits for the same.
    pub(crate) drain: Duration,
    /// Set when the worker has to finish.
    pub(crate) stop: Arc<AtomicBool>,
}

/// A stage stopped by its own settings: its policy or its breaker.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Held(pub(crate) String);

/// A record that failed.
struct Place<'a> {
    slot: Slot,
    partition: &'a TopicPartition,
    message: &'a Message,
    /// The calls in which it was alone or asked for another try.
    attempts: u32,
}

/// The record that the broker refuses whatever the plugin makes of it.
struct Condemned {
    partition: TopicPartition,
    offset: i64,
    fault: Fault,
    /// Even its dead letter was refused; only the headers are sent.
    cut: bool,
}

/// The last record with output in the open transaction.
struct LastOutput {
    slot: Slot,
    offset: i64,
    /// For a dead letter: whether the record itself was left out.
    dead_letter_cut: Option<bool>,
    /// For a dead letter: why it is one.
    fault: Option<Fault>,
}

/// One worker of a stage.
pub(crate) struct Worker {
    task: Task,
    // Messages keep the consumer alive: what holds them is dropped before it.
    work: Option<(Slot, Work<Message>)>,
    /// There where the stage has outputs that are no topics.
    outgoing: Option<sending::Outgoing>,
    batcher: Batcher<Slot, Message>,
    read: Vec<Message>,
    consumer: Consumer,
    sink: Sink,
    assignment: Assignment,
    publication: Arc<Publication<Version>>,
    /// The replay topic is subscribed too.
    reads_replay: bool,
    packer: Packer,
    ports: Vec<PortKind>,
    instance: Option<Instance>,
    executor: Arc<Executor>,
    breaker: Option<Breaker>,
    skips: burial::Skips,
    /// How records went with the present version since the last commit.
    tally: Tally,
    metrics: StageMetrics,
    status: Arc<WorkerStatus>,
    /// Positions must be read again from the group before anything else is processed.
    out_of_sync: bool,
    attempt: Option<recovery::Attempt>,
    halving: Halving,
    condemned: Option<Condemned>,
    outputs: usize,
    last_output: Option<LastOutput>,
    /// Since when something is done that is not committed.
    dirty_since: Option<Instant>,
    /// When this worker was fenced of late.
    fenced: Vec<Instant>,
    /// A partition could not be read: everything since the last commit is to be given up.
    read_failed: Option<Failure>,
    /// Reading errors of each partition since its last record.
    unreadable: HashMap<Slot, u32>,
}

impl Worker {
    pub(crate) fn new(
        task: Task,
        consumer: Consumer,
        sink: Sink,
        exits: Option<Exits>,
        metrics: StageMetrics,
        status: Arc<WorkerStatus>,
    ) -> Result<Self> {
        let publication = task.current.get();
        let plugin = &publication.version.plugin;
        Ok(Self {
            work: None,
            outgoing: exits.map(sending::Outgoing::new),
            batcher: Batcher::new(task.bounds),
            read: Vec::new(),
            consumer,
            sink,
            assignment: Assignment::default(),
            packer: Packer::new(plugin.description.reads),
            ports: plugin.port_kinds(),
            publication,
            reads_replay: false,
            instance: None,
            executor: Arc::new(Executor::new().context("start the executor")?),
            breaker: task.on_fault.breaker.map(Breaker::new),
            skips: burial::Skips::default(),
            tally: Tally::default(),
            metrics,
            status,
            out_of_sync: false,
            attempt: None,
            halving: Halving::default(),
            condemned: None,
            outputs: 0,
            last_output: None,
            dirty_since: None,
            fenced: Vec::new(),
            read_failed: None,
            unreadable: HashMap::new(),
            task,
        })
    }

    /// Runs until it is told to stop, then commits what is done and leaves the group.
    ///
    /// # Errors
    /// What only a person can mend. Nothing that was committed is lost, nothing that was not is visible.
    pub(crate) fn run(mut self) -> Result<()> {
        let ended = self.run_until_stopped().and_then(|()| self.drain());
        let committed = match ended {
            Ok(()) => self.commit().map_err(|failure| self.give_up(failure)),
            Err(_) => Ok(()),
        };
        if let Err(Err(error)) = committed {
            tracing::warn!(
                stage = self.task.stage,
                error = format!("{error:#}"),
                "last commit failed"
            );
        }
        if self.sink.began().is_some() {
            self.sink.abandon(&Failure::Abort("the worker ends".to_owned()));
        }
        if let Some(mut outgoing) = self.outgoing.take() {
            outgoing.pending.clear();
            outgoing.tell(&self.metrics);
            outgoing.exits.end(IN_FLIGHT_WAIT);
        }
        self.leave();
        ended
    }

    /// Leaves the group. The client can be in the middle of joining and wait for members that are gone; nothing here needs the end of that.
    fn leave(self) {
        let Self {
            consumer,
            status,
            task,
            work,
            batcher,
            read,
            ..
        } = self;
        // All that holds messages, which keep the consumer alive.
        drop((work, batcher, read));
        let (left, has_left) = mpsc::channel();
        std::thread::spawn(move || {
            drop(consumer);
            // Nobody waits any more after the time is over.
            let _ = left.send(());
        });
        if has_left.recv_timeout(LEAVE_WAIT).is_err() {
            tracing::warn!(
                stage = task.stage,
                "the group has not let this worker go yet; what it has may wait for the end of its session"
            );
        }
        status.ended();
    }

    fn run_until_stopped(&mut self) -> Result<()> {
        // Before the group is joined: what an earlier process left open must not hold up those who read its partitions.
        while !self.sink_is_ready()? {
            if self.is_stopping() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        self.subscribe()?;
        self.status.runs(&self.publication.version.plugin.digest);
        self.status.subscribed();
        while !self.is_stopping() {
            self.serve_group()?;
            if !self.in_sync()? {
                std::thread::sleep(PAUSE);
                continue;
            }
            let wait = if self.has_room() { Duration::ZERO } else { POLL };
            if let Err(failure) = self.settle(wait) {
                self.give_up(failure)?;
                continue;
            }
            if !self.has_room() {
                if let Err(failure) = self.commit_if_due() {
                    self.give_up(failure)?;
                }
                continue;
            }
            self.gather();
            if let Some(failure) = self.read_failed.take() {
                self.give_up(failure)?;
                continue;
            }
            let outcome = self.step().and_then(|()| self.commit_if_due());
            if let Err(failure) = outcome {
                self.give_up(failure)?;
            }
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.task.stop.load(Ordering::Acquire)
    }

    fn sink_is_ready(&mut self) -> Result<bool> {
        match self.sink.ready() {
            Ok(()) => Ok(true),
            Err(Failure::Stop(text)) => Err(anyhow!(text).context("start the producer")),
            Err(failure) => {
                tracing::warn!(stage = self.task.stage, %failure, "the producer is not ready, trying again");
                Ok(false)
            }
        }
    }

    /// Fills the worker's hands: the next batch, if one is full or old enough.
    fn gather(&mut self) {
        if self.work.is_some() {
            return;
        }
        let now = Instant::now();
        if self.begin_work(now) {
            return;
        }
        // Also where no record comes: what is published runs, and what ran before is given up.
        self.follow_version();
        let until = [self.batcher.due(), self.commit_due()].into_iter().flatten().min();
        let longest = if self.is_waiting() { sending::RECEIPT_POLL } else { POLL };
        let wait = until.map_or(longest, |until| until.saturating_duration_since(now).min(longest));
        let mut read = std::mem::take(&mut self.read);
        let arrived = self.consumer.read(&mut read, self.task.bounds.records_max, wait);
        let now = Instant::now();
        for message in read.drain(..) {
            self.arrived(message, now);
        }
        self.read = read;
        // The client's position is ahead of what it handed out after an error, and only then.
        if arrived == 0 && self.read_failed.is_none() {
            self.pass_control_records();
        }
        self.begin_work(now);
    }

    /// Takes the next batch in hand.
    fn begin_work(&mut self, now: Instant) -> bool {
        let Some((slot, messages)) = self.batcher.next(now) else {
            return false;
        };
        self.work = Some((slot, Work::new(messages)));
        true
    }

    /// Takes the version of the plugin that is published now: between two calls, and nowhere else. What is left of a batch that is being halved
    /// is the new version's.
    fn follow_version(&mut self) {
        // What waits was answered by the version before, and is counted and sent as that one's.
        if !self.task.current.is_newer_than(self.publication.number) || self.is_waiting() {
            return;
        }
        self.publication.committed(std::mem::take(&mut self.tally));
        self.publication = self.task.current.get();
        // What was refused was another version's.
        self.condemned = None;
        self.halving = Halving::default();
        let version = &self.publication.version;
        let plugin = &version.plugin;
        self.packer = Packer::new(plugin.description.reads);
        self.ports = plugin.port_kinds();
        self.instance = version.spare(&self.executor);
        self.status.runs(&plugin.digest);
    }

    fn arrived(&mut self, mut message: Message, now: Instant) {
        let name = || TopicPartition {
            topic: message.topic(),
            partition: message.partition(),
        };
        let Some(slot) = self.assignment.slot_of(message.source(), name) else {
            return;
        };
        match message.error() {
            None => {
                self.unreadable.remove(&slot);
                if self.assignment.positions.arrived(&slot, message.offset()) {
                    if self.reads_replay && self.is_replay(slot) {
                        message.stand_for_replayed();
                    }
                    let bytes = pack::bytes_of(&message);
                    self.batcher.push(slot, message, bytes, now);
                }
            }
            Some(Code::TopicAuthorizationFailed) => {
                let right = Right::on_topic(Operation::Read, &message.topic());
                self.read_failed = Some(Failure::Stop(right.lost()));
            }
            Some(code) => {
                let text = message.value().map(String::from_utf8_lossy).unwrap_or_default();
                let text = format!("a partition cannot be read: {code}: {text}");
                self.read_failed.get_or_insert(Failure::Abort(text));
                *self.unreadable.entry(slot).or_default() += 1;
            }
        }
    }

    /// Moves positions over control records, which are never handed out: a topic that is written in transactions ends with one.
    fn pass_control_records(&mut self) {
        for (partition, offset) in self.consumer.positions() {
            let slot = self.assignment.slot(&partition);
            if slot.is_some_and(|slot| self.assignment.positions.passed(&slot, offset)) {
                self.mark_dirty();
            }
        }
    }

    /// Does one call of the plugin for what is in hand, and writes what comes out.
    fn step(&mut self) -> Result<(), Failure> {
        let Some((slot, mut work)) = self.work.take() else {
            return Ok(());
        };
        let now = Instant::now();
        if let Some(until) = work.held_until().filter(|until| *until > now) {
            // Nothing is read meanwhile; the group is served, and what was done before is committed.
            std::thread::sleep(until.saturating_duration_since(now).min(POLL));
            self.work = Some((slot, work));
            return Ok(());
        }
        let Some(partition) = self.assignment.partition(slot).cloned() else {
            return Ok(());
        };
        self.advance(slot, &partition, &mut work)?;
        if work.part().is_some() {
            self.work = Some((slot, work));
        }
        Ok(())
    }

    fn advance(&mut self, slot: Slot, partition: &TopicPartition, work: &mut Work<Message>) -> Result<(), Failure> {
        self.follow_version();
        if let Some(at) = self.condemned_in(partition, work) {
            if at > 0 {
                work.split(at);
            } else if self.is_waiting() {
                // Its position may not move over those of records that wait.
                return Ok(());
            } else {
                return self.bury_condemned(slot, partition, work);
            }
        }
        // Records of a replay topic are seen where they were read first, which can be several places.
        let run = |part| pack::run(&partition.topic, partition.partition, part);
        work.split(work.part().map_or(0, run));
        // A call that waits for other workers of its stage could outlast the transaction.
        if self.sink.began().is_some() && self.publication.version.plugin.share.is_crowded() {
            self.commit()?;
        }
        let Some(part) = work.part() else {
            return Ok(());
        };
        let called = match self.instance.take() {
            Some(instance) => self.call(instance, partition, part),
            None => {
                let instance = self.fresh_instance()?;
                self.call(instance, partition, part)
            }
        };
        match called {
            Ok(checked) if self.outgoing.is_some() => self.hand_out(slot, partition, work, checked),
            Ok(checked) => self.deliver(slot, partition, work, &checked),
            Err(fault) => {
                self.metrics.fault(fault.kind).inc();
                if fault.kind == Kind::Deadline {
                    // A file that is never read, a pipe for one, keeps a thread of the executor for ever.
                    self.executor = Arc::new(Executor::new().map_err(|error| Failure::Abort(error.to_string()))?);
                }
                if work.halve() {
                    return Ok(());
                }
                if self.outgoing.is_some() {
                    self.keep_failed(slot, partition, work, fault);
                    return Ok(());
                }
                self.fail_first(slot, partition, work, &fault, true)
            }
        }
    }
}
