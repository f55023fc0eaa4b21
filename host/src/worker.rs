//! The spine: the only place that knows the order in which a record goes through the host.
//!
//! A worker is a thread with one consumer, one producer, one instance of the plugin. Its loop: serve the group, read, cut a batch, call the plugin,
//! check the answer, route, write, and commit when the interval is over. Whatever fails after the last commit is given up as a whole: the
//! transaction is aborted, every partition goes back to its committed offset, and the records come again. The group is served between any two calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::assignment::{Assignment, Slot};
use crate::batch::{Batcher, Bounds};
use crate::chaos::{self, Sabotage};
use crate::config::Start;
use crate::dead_letter::{self, Culprit, Origin};
use crate::fault::{Fault, Kind};
use crate::kafka::consumer::{Committed, Consumer, Event, TopicPartition};
use crate::kafka::ffi::Message;
use crate::metrics::{PluginMetrics, StageMetrics};
use crate::pack::{self, Packer};
use crate::plugin::component::Plugin;
use crate::plugin::contract::PortKind;
use crate::plugin::instance::{Executor, Instance};
use crate::refusal::{Halving, Next};
use crate::reply::{Checked, Verdict};
use crate::route::{Delivery, Routes};
use crate::sink::{Failure, Refusal, Sink};
use crate::status::WorkerStatus;
use crate::work::{RETRIES_MAX, Work};

/// How long the private queue is waited for; the main queue is served at least this often.
const POLL: Duration = Duration::from_millis(20);
/// How long a worker waits before it tries again what the brokers would not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A transaction is committed when it holds this much, however young it is: it bounds memory and what a failure repeats.
const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;
const TRANSACTION_RECORDS_MAX: usize = 200_000;
/// A position that the brokers say does not exist this often, with nothing read in between, will not come to exist.
const UNREADABLE_MAX: u32 = 50;
/// Losing the transactional id this often in a row, without a commit in between, is no accident.
const FENCED_MAX: u32 = 5;

/// What a worker needs to know of its stage.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) stage: String,
    pub(crate) topics: Vec<String>,
    pub(crate) start: Start,
    pub(crate) commit_interval: Duration,
    pub(crate) bounds: Bounds,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) routes: Arc<Routes>,
    /// Place of the dead-letter topic in the list of destinations.
    pub(crate) dead_letters: usize,
}

/// The record that the broker refuses whatever the plugin makes of it.
struct Condemned {
    partition: TopicPartition,
    offset: i64,
    reason: String,
    /// Even its dead letter was refused; only the headers are sent.
    cut: bool,
}

/// A commit whose outcome is not known.
struct Attempt {
    mark: String,
    offsets: Vec<(TopicPartition, i64)>,
    previous: Vec<Option<String>>,
}

/// The last record with output in the open transaction.
struct LastOutput {
    partition: TopicPartition,
    offset: i64,
    dead_letter_cut: Option<bool>,
}

/// One worker of a stage.
pub(crate) struct Worker {
    task: Task,
    // Messages keep the consumer alive: what holds them is dropped before it.
    work: Option<(Slot, Work<Message>)>,
    batcher: Batcher<Slot, Message>,
    read: Vec<Message>,
    consumer: Consumer,
    sink: Sink,
    assignment: Assignment,
    packer: Packer,
    ports: Vec<PortKind>,
    instance: Option<Instance>,
    executor: Arc<Executor>,
    metrics: StageMetrics,
    plugin_metrics: Arc<PluginMetrics>,
    status: Arc<WorkerStatus>,
    /// Positions must be read again from the group before anything else is processed.
    out_of_sync: bool,
    attempt: Option<Attempt>,
    halving: Halving,
    condemned: Option<Condemned>,
    outputs: usize,
    last_output: Option<LastOutput>,
    /// Since when something is done that is not committed.
    dirty_since: Option<Instant>,
    fenced: u32,
    /// Reading errors of partitions since the last record that arrived.
    unreadable: u32,
}

impl Worker {
    pub(crate) fn new(
        task: Task,
        consumer: Consumer,
        sink: Sink,
        metrics: StageMetrics,
        status: Arc<WorkerStatus>,
    ) -> Result<Self> {
        let plugin_metrics = metrics.plugin(&task.plugin.description.name);
        Ok(Self {
            work: None,
            batcher: Batcher::new(task.bounds),
            read: Vec::new(),
            consumer,
            sink,
            assignment: Assignment::default(),
            packer: Packer::new(task.plugin.description.reads),
            ports: task.plugin.port_kinds(),
            instance: None,
            executor: Arc::new(Executor::new().context("start the executor")?),
            metrics,
            plugin_metrics,
            status,
            out_of_sync: false,
            attempt: None,
            halving: Halving::default(),
            condemned: None,
            outputs: 0,
            last_output: None,
            dirty_since: None,
            fenced: 0,
            unreadable: 0,
            task,
        })
    }

    /// Runs until `stop` is set, then commits what is done and leaves the group.
    ///
    /// # Errors
    /// What only a person can mend. Nothing that was committed is lost, nothing that was not is visible.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Result<()> {
        let ended = self.run_until(stop);
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
        self.status.ended();
        ended
    }

    fn run_until(&mut self, stop: &AtomicBool) -> Result<()> {
        // Before the group is joined: what an earlier process left open must not hold up those who read its partitions.
        while !self.sink_is_ready()? {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        let topics: Vec<&str> = self.task.topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&topics)?;
        self.status.subscribed();
        while !stop.load(Ordering::Acquire) {
            self.serve_group()?;
            if !self.in_sync()? {
                std::thread::sleep(PAUSE);
                continue;
            }
            self.gather();
            let outcome = self.step().and_then(|()| self.commit_if_due());
            if let Err(failure) = outcome {
                self.give_up(failure)?;
            }
        }
        Ok(())
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

    // --- the group ---------------------------------------------------------------------------------------------

    fn serve_group(&mut self) -> Result<()> {
        let mut events = Vec::new();
        self.consumer.poll(&mut events);
        for event in events {
            match event {
                Event::Assigned(partitions) => self.assigned(partitions)?,
                Event::Revoked { partitions, lost } => self.revoked(&partitions, lost)?,
                Event::Stray => {
                    tracing::warn!(stage = self.task.stage, "a record arrived out of turn, reading again");
                    self.give_up(Failure::Abort("a record arrived out of turn".to_owned()))?;
                }
                Event::PollExceeded => {
                    tracing::warn!(
                        stage = self.task.stage,
                        "the group was not served for max.poll.interval.ms, partitions are lost"
                    );
                }
                Event::Trouble(text) => tracing::warn!(stage = self.task.stage, error = text, "consumer"),
                Event::Broken(text) => bail!("consumer: {text}"),
            }
        }
        Ok(())
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result<()> {
        let mut starts = Vec::with_capacity(partitions.len());
        let committed = self.until_answered(|worker| worker.consumer.committed(&partitions))?;
        for (partition, committed) in partitions.into_iter().zip(committed) {
            let start = self.until_answered(|worker| worker.start_of(&partition, &committed))?;
            starts.push((partition.clone(), start));
            self.assignment.add(partition, start, committed);
        }
        self.consumer.assign(&starts)?;
        self.mark_dirty();
        self.metrics.rebalance("assigned");
        self.report_assignment();
        Ok(())
    }

    /// A rebalance waits for this worker, so it asks again until the brokers answer; giving up would stop the stage for an outage.
    fn until_answered<T>(&mut self, ask: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let since = Instant::now();
        loop {
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) if since.elapsed() < Duration::from_secs(300) => {
                    tracing::warn!(
                        stage = self.task.stage,
                        error = format!("{error:#}"),
                        "no answer, asking again"
                    );
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn start_of(&self, partition: &TopicPartition, committed: &Committed) -> Result<i64> {
        let (low, end) = self.consumer.watermarks(partition)?;
        if let Some(offset) = committed.offset {
            self.tell_lost(partition, offset, low);
            return Ok(offset.max(low));
        }
        match self.task.start {
            Start::Earliest => Ok(low),
            Start::Latest => Ok(end),
            Start::TimestampMs(timestamp_ms) => Ok(self.consumer.offset_at(partition, timestamp_ms)?.unwrap_or(end)),
        }
    }

    fn tell_lost(&self, partition: &TopicPartition, from: i64, low: i64) {
        if from < low {
            tracing::error!(
                stage = self.task.stage,
                topic = partition.topic,
                partition = partition.partition,
                lost = low - from,
                "records were deleted by retention before this stage read them; going on with the oldest that is left"
            );
        }
    }

    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<()> {
        // What is in hand of these partitions is not done; the next owner reads it again.
        for slot in partitions
            .iter()
            .filter_map(|partition| self.assignment.slot(partition))
        {
            self.batcher.forget(slot);
            self.work.take_if(|(working, _)| *working == slot);
        }
        let committed = match lost {
            true => Err(Failure::Evicted("the partitions are lost".to_owned())),
            false => self.commit(),
        };
        self.metrics.rebalance(if lost { "lost" } else { "revoked" });
        // Given up before the partitions are: what was done for them must not be committed any more.
        let given_up = committed.map_err(|failure| self.give_up(failure));
        self.consumer.unassign(partitions)?;
        for partition in partitions {
            self.assignment.remove(partition);
        }
        self.report_assignment();
        given_up.or_else(|outcome| outcome)
    }

    fn report_assignment(&self) {
        let partitions = self.assignment.partitions();
        tracing::info!(
            stage = self.task.stage,
            partitions = partitions.len(),
            "assignment changed"
        );
        self.status.assigned(&partitions);
    }

    // --- reading -----------------------------------------------------------------------------------------------

    /// Fills the worker's hands: the next batch, if one is full or old enough.
    fn gather(&mut self) {
        if self.work.is_some() {
            return;
        }
        let now = Instant::now();
        if let Some((slot, messages)) = self.batcher.next(now) {
            self.work = Some((slot, Work::new(messages)));
            return;
        }
        let until = [self.batcher.due(), self.commit_due()].into_iter().flatten().min();
        let wait = until.map_or(POLL, |until| until.saturating_duration_since(now).min(POLL));
        let mut read = std::mem::take(&mut self.read);
        let arrived = self.consumer.read(&mut read, self.task.bounds.records_max, wait);
        let now = Instant::now();
        for message in read.drain(..) {
            self.arrived(message, now);
        }
        self.read = read;
        if arrived == 0 && !self.out_of_sync {
            self.pass_control_records();
        }
        if let Some((slot, messages)) = self.batcher.next(now) {
            self.work = Some((slot, Work::new(messages)));
        }
    }

    fn arrived(&mut self, message: Message, now: Instant) {
        let name = || TopicPartition {
            topic: message.topic(),
            partition: message.partition(),
        };
        let Some(slot) = self.assignment.slot_of(message.source(), name) else {
            return;
        };
        match message.error() {
            None => {
                self.unreadable = 0;
                if self.assignment.positions.arrived(&slot, message.offset()) {
                    let bytes = pack::bytes_of(&message);
                    self.batcher.push(slot, message, bytes, now);
                }
            }
            Some(code) => {
                let text = message.value().map(String::from_utf8_lossy).unwrap_or_default();
                tracing::warn!(stage = self.task.stage, %code, %text, "a partition cannot be read, trying again from the committed offset");
                self.out_of_sync = true;
                self.unreadable += 1;
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

    // --- processing --------------------------------------------------------------------------------------------

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
        if let Some(at) = self.condemned_in(partition, work) {
            if at > 0 {
                work.split(at);
            } else {
                return self.bury_condemned(slot, partition, work);
            }
        }
        let Some(part) = work.part() else {
            return Ok(());
        };
        match self.call(partition, part) {
            Ok(checked) => self.deliver(slot, partition, work, &checked),
            Err(fault) => {
                self.metrics.fault(fault.kind).inc();
                self.instance = None;
                if work.halve() {
                    return Ok(());
                }
                self.bury(slot, partition, work, &fault)
            }
        }
    }

    fn call(&mut self, partition: &TopicPartition, part: &[Message]) -> Result<Checked, Fault> {
        let began = Instant::now();
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => {
                self.metrics.instances.inc();
                Instance::new(
                    Arc::clone(&self.task.plugin),
                    Arc::clone(&self.executor),
                    Arc::clone(&self.plugin_metrics),
                )
                .map_err(|fault| Fault {
                    message: format!("`configure` failed: {}", fault.message),
                    ..fault
                })?
            }
        };
        let batch = self.packer.pack(&partition.topic, partition.partition, part);
        self.metrics.batches.inc();
        self.metrics.records_in.inc_by(batch.entries.len() as u64);
        self.metrics.bytes_in.inc_by(batch.data.len() as u64);
        let answered = instance.process(batch);
        if let Some(seconds) = &self.metrics.call_seconds {
            seconds.observe(began.elapsed().as_secs_f64());
        }
        let checked = Checked::new(answered?, part.len(), &self.ports)?;
        self.metrics
            .memory
            .set(i64::try_from(instance.memory_bytes()).unwrap_or(i64::MAX));
        self.instance = Some(instance);
        Ok(checked)
    }

    fn deliver(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        checked: &Checked,
    ) -> Result<(), Failure> {
        for index in 0..checked.len() {
            if self.outputs >= self.halving.limit() {
                self.commit()?;
            }
            let verdict = checked.verdict(index);
            self.count(&verdict);
            let Some(message) = work.part().and_then(<[Message]>::first) else {
                return Ok(());
            };
            let fault = match verdict {
                Verdict::Skip => None,
                Verdict::Forward { .. } | Verdict::Emit(_) => self.send(partition, message, checked, &verdict)?,
                Verdict::Reject(reason) => Some(Fault::new(Kind::Reject, reason)),
                Verdict::Retry(reason) => {
                    if work.hold(Instant::now()) {
                        return Ok(());
                    }
                    // The answers behind it are thrown away: the plugin gave them for a stream in which this record came first.
                    return self.bury(slot, partition, work, &Fault::new(Kind::Retry, reason));
                }
            };
            match fault {
                None => self.finish(slot, work),
                Some(fault) => self.bury(slot, partition, work, &fault)?,
            }
        }
        Ok(())
    }

    fn count(&self, verdict: &Verdict<'_>) {
        let kind = match verdict {
            Verdict::Skip => 0,
            Verdict::Forward { .. } => 1,
            Verdict::Emit(_) => 2,
            Verdict::Reject(_) => 3,
            Verdict::Retry(_) => 4,
        };
        self.metrics.replies[kind].inc();
    }

    /// Writes what a verdict sends; a fault where the record cannot be written at all.
    fn send(
        &mut self,
        partition: &TopicPartition,
        message: &Message,
        checked: &Checked,
        verdict: &Verdict<'_>,
    ) -> Result<Option<Fault>, Failure> {
        let routes = Arc::clone(&self.task.routes);
        let deliveries: Vec<Delivery<'_>> = routes.deliveries(checked, verdict).collect();
        for delivery in &deliveries {
            if let Err(Refusal(text)) = self.sink.check(message, checked, delivery) {
                return Ok(Some(Fault::new(Kind::Refused, text)));
            }
        }
        if deliveries.is_empty() {
            return Ok(None);
        }
        self.sink.begin(Instant::now())?;
        self.output(partition, message.offset(), None);
        for delivery in &deliveries {
            self.sink.write(message, checked, delivery)?;
        }
        Ok(None)
    }

    fn output(&mut self, partition: &TopicPartition, offset: i64, dead_letter_cut: Option<bool>) {
        self.outputs += 1;
        self.last_output = Some(LastOutput {
            partition: partition.clone(),
            offset,
            dead_letter_cut,
        });
    }

    /// The first record in hand is done.
    fn finish(&mut self, slot: Slot, work: &mut Work<Message>) {
        let Some(offset) = work.part().and_then(<[Message]>::first).map(Message::offset) else {
            return;
        };
        self.assignment.positions.finished(&slot, offset);
        work.advance(1);
        self.mark_dirty();
    }

    // --- dead letters ------------------------------------------------------------------------------------------

    /// Makes the first record in hand a dead letter.
    fn bury(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        fault: &Fault,
    ) -> Result<(), Failure> {
        self.bury_as(slot, partition, work, fault, true)
    }

    fn bury_as(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
        fault: &Fault,
        whole: bool,
    ) -> Result<(), Failure> {
        let attempts = 1 + work.retries();
        let Some(message) = work.part().and_then(<[Message]>::first) else {
            return Ok(());
        };
        let origin = Origin {
            topic: &partition.topic,
            partition: partition.partition,
            offset: message.offset(),
            timestamp_ms: message.timestamp_ms(),
        };
        let culprit = Culprit {
            stage: &self.task.stage,
            plugin: &self.task.plugin.description.name,
            version: &self.task.plugin.description.version,
            digest: &self.task.plugin.digest,
        };
        let headers = dead_letter::headers(origin, culprit, fault, attempts, SystemTime::now());
        self.sink.begin(Instant::now())?;
        self.output(partition, message.offset(), Some(!whole));
        let cut = self
            .sink
            .write_dead_letter(self.task.dead_letters, message, &headers, whole)?;
        if let Some(last) = &mut self.last_output {
            last.dead_letter_cut = Some(cut);
        }
        self.metrics.dead_letter(fault.kind).inc();
        tracing::debug!(
            stage = self.task.stage,
            topic = partition.topic,
            partition = partition.partition,
            offset = message.offset(),
            kind = %fault.kind,
            message = fault.message,
            "dead letter"
        );
        self.finish(slot, work);
        Ok(())
    }

    /// Where in the next part the condemned record is.
    fn condemned_in(&self, partition: &TopicPartition, work: &Work<Message>) -> Option<usize> {
        let condemned = self
            .condemned
            .as_ref()
            .filter(|condemned| condemned.partition == *partition)?;
        work.part()?
            .iter()
            .position(|message| message.offset() == condemned.offset)
    }

    fn bury_condemned(
        &mut self,
        slot: Slot,
        partition: &TopicPartition,
        work: &mut Work<Message>,
    ) -> Result<(), Failure> {
        let Some(condemned) = &self.condemned else {
            return Ok(());
        };
        // Alone in its transaction, so that a refusal of the dead letter is known for what it is.
        let (fault, whole) = (Fault::new(Kind::Refused, &condemned.reason), !condemned.cut);
        if self.outputs > 0 {
            self.commit()?;
        }
        self.bury_as(slot, partition, work, &fault, whole)?;
        self.commit()?;
        self.condemned = None;
        Ok(())
    }

    // --- committing --------------------------------------------------------------------------------------------

    fn mark_dirty(&mut self) {
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    fn commit_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.task.commit_interval)
    }

    fn commit_if_due(&mut self) -> Result<(), Failure> {
        let full = self.sink.bytes() >= TRANSACTION_BYTES_MAX || self.sink.records() >= TRANSACTION_RECORDS_MAX;
        let due = self.commit_due().is_some_and(|due| due <= Instant::now());
        if full || due { self.commit() } else { Ok(()) }
    }

    /// Commits everything that is done: outputs, dead letters and offsets.
    fn commit(&mut self) -> Result<(), Failure> {
        if self.out_of_sync || !self.sink.is_ready() {
            return Ok(());
        }
        let offsets = self.assignment.to_commit();
        if offsets.is_empty() && self.sink.began().is_none() {
            self.dirty_since = None;
            return Ok(());
        }
        let began = Instant::now();
        self.sink.begin(began)?;
        let mark = self.sink.mark();
        self.attempt = Some(Attempt {
            mark: mark.clone(),
            previous: offsets
                .iter()
                .map(|(partition, _)| self.assignment.metadata(partition).map(str::to_owned))
                .collect(),
            offsets,
        });
        let Some(attempt) = &self.attempt else {
            return Ok(());
        };
        self.sink.commit(&attempt.offsets, &self.consumer)?;
        if let Some(attempt) = self.attempt.take() {
            self.assignment.committed(&attempt.offsets, &mark);
        }
        if let Some(seconds) = &self.metrics.commit_seconds {
            seconds.observe(began.elapsed().as_secs_f64());
        }
        self.metrics.transaction("committed");
        self.halving.committed(self.outputs);
        self.fenced = 0;
        self.closed();
        Ok(())
    }

    fn closed(&mut self) {
        self.outputs = 0;
        self.last_output = None;
        self.dirty_since = None;
    }

    // --- giving up and coming back -----------------------------------------------------------------------------

    /// Gives up everything since the last commit; `in_sync` brings the worker back to where the group stands.
    fn give_up(&mut self, failure: Failure) -> Result<()> {
        match &failure {
            Failure::Stop(text) => {
                self.sink.abandon(&failure);
                bail!("{text}");
            }
            Failure::Refused(refused) => self.refused(&refused.code.to_string(), &refused.topic)?,
            Failure::Fenced(_) => self.fenced(&failure)?,
            Failure::Evicted(_) => {
                self.metrics.fenced.inc();
                chaos::record("fenced");
            }
            Failure::Abort(_) | Failure::Unknown(_) => {}
        }
        if !matches!(failure, Failure::Unknown(_) | Failure::Fenced(_)) {
            // The commit was not reached, or it is known to have failed.
            self.attempt = None;
        }
        tracing::warn!(stage = self.task.stage, %failure, "work since the last commit is given up and repeated");
        if self.attempt.is_none() {
            self.metrics.transaction("aborted");
        }
        self.sink.abandon(&failure);
        self.batcher.clear();
        self.work = None;
        self.closed();
        self.out_of_sync = true;
        Ok(())
    }

    fn refused(&mut self, code: &str, topic: &str) -> Result<()> {
        if self.halving.refused(self.outputs) == Next::Repeat {
            return Ok(());
        }
        let Some(last) = self.last_output.take() else {
            bail!("topic {topic} refuses a transaction without records ({code})");
        };
        if last.dead_letter_cut == Some(true) {
            bail!("even the shortest dead letter is refused for topic {topic} ({code}); check the topic's settings");
        }
        self.condemned = Some(Condemned {
            partition: last.partition,
            offset: last.offset,
            reason: format!("topic {topic} refuses the record: {code}"),
            cut: last.dead_letter_cut == Some(false),
        });
        Ok(())
    }

    fn fenced(&mut self, failure: &Failure) -> Result<()> {
        self.metrics.fenced.inc();
        chaos::record("fenced");
        self.fenced += 1;
        if self.fenced >= FENCED_MAX {
            bail!("{failure}, {FENCED_MAX} times in a row; does another process run with the same `instance`?");
        }
        Ok(())
    }

    /// Brings producer and positions back to what is committed. False: the brokers do not answer yet.
    fn in_sync(&mut self) -> Result<bool> {
        if !self.out_of_sync {
            return Ok(true);
        }
        if self.unreadable > UNREADABLE_MAX {
            bail!(
                "a committed offset is beyond the end of its partition: was the topic deleted and made again, or truncated? Stop the stage, reset the group's offsets, and start again"
            );
        }
        if !self.sink_is_ready()? {
            return Ok(false);
        }
        match self.resync() {
            Ok(()) => {
                self.out_of_sync = false;
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(
                    stage = self.task.stage,
                    error = format!("{error:#}"),
                    "cannot go back yet, trying again"
                );
                Ok(false)
            }
        }
    }

    fn resync(&mut self) -> Result<()> {
        self.resolve_attempt()?;
        if chaos::sabotaged(Sabotage::NoRewind) {
            return Ok(());
        }
        let partitions = self.assignment.partitions();
        let committed = match self.assignment.is_empty() {
            true => Vec::new(),
            false => self.consumer.committed(&partitions)?,
        };
        let mut positions = Vec::with_capacity(partitions.len());
        for (partition, committed) in partitions.into_iter().zip(&committed) {
            if let Some(from) = self.assignment.rewind(&partition, committed) {
                let (low, _) = self.consumer.watermarks(&partition)?;
                self.tell_lost(&partition, from, low);
                positions.push((partition, from.max(low)));
            }
        }
        self.consumer.seek(&positions)?;
        // Read before the way back; their offsets are behind the new positions or will come again.
        self.batcher.clear();
        self.work = None;
        self.mark_dirty();
        self.metrics.rewinds.inc();
        chaos::record("rewind");
        Ok(())
    }

    /// Finds out what became of a commit whose answer never came.
    fn resolve_attempt(&mut self) -> Result<()> {
        let Some(attempt) = &self.attempt else {
            return Ok(());
        };
        let partitions: Vec<TopicPartition> = attempt.offsets.iter().map(|(partition, _)| partition.clone()).collect();
        let outcome = if partitions.is_empty() {
            "unknown-discarded"
        } else {
            let committed = self.consumer.committed(&partitions)?;
            let found: Vec<&str> = committed.iter().map(|committed| committed.metadata.as_str()).collect();
            outcome_of(attempt, &found)
        };
        tracing::info!(stage = self.task.stage, outcome, "an unknown commit is resolved");
        self.metrics.transaction(outcome);
        chaos::record(&format!("unknown {}", outcome.trim_start_matches("unknown-")));
        self.attempt = None;
        Ok(())
    }
}

/// A transaction commits all its offsets or none, so one that carries its mark proves it; otherwise the marks of before prove the
/// contrary, and anything else means that the partitions are another worker's by now.
fn outcome_of(attempt: &Attempt, found: &[&str]) -> &'static str {
    if found.contains(&attempt.mark.as_str()) {
        return "unknown-committed";
    }
    let before = attempt
        .previous
        .iter()
        .zip(found)
        .any(|(previous, found)| previous.as_deref() == Some(*found));
    if before { "unknown-discarded" } else { "unknown-lost" }
}

const _: () = assert!(RETRIES_MAX < 16, "the backoff doubles with each retry");
