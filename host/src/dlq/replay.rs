//! `dlq replay`: gives the records of dead letters to their stage again, through a topic that this stage alone reads.
//!
//! All records of one stage are one transaction under a transactional id of the stage's own: a command that is killed replays nothing or
//! everything, and of two at the same time the later one fences the other before it looks at what was replayed. Order is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::filter::Filter;
use super::list::Tally;
use super::marks::Marks;
use super::progress::Progress;
use super::records::{Record, Records};
use super::transaction::{Connected, connect, overdue, worded};
use super::{Found, Letters, Usage, count, stages};
use crate::chaos::{self, Point};
use crate::config::{NewTopic, Pipeline, Stage, Topics as OnMissing};
use crate::dead_letter::{self, Letter, Position};
use crate::kafka::Code;
use crate::kafka::ffi::{CallError, Headers, Message, Produce};
use crate::kafka::producer::Producer;
use crate::kafka::scan::Stretch;
use crate::kafka::topics::{Found as Topic, Topics};
use crate::topics::replay_topic;

/// How long a created topic may take to be known.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// How letters are replayed.
pub(crate) struct Wishes {
    /// Those too that were replayed before.
    pub(crate) again: bool,
    pub(crate) dry_run: bool,
    pub(crate) yes: bool,
}

/// Offsets of the letters of one stage, by topic and partition.
type Chosen = BTreeMap<(String, i32), BTreeSet<i64>>;

/// What is to be replayed, and what is not.
#[derive(Default)]
struct Plan {
    by_stage: BTreeMap<String, Chosen>,
    tally: Tally,
    matching: u64,
    replayed_before: u64,
    unreadable: u64,
    /// Of a stage that the pipeline does not have, or from a topic that the stage does not read.
    foreign: u64,
}

/// Replays the letters that the filter means.
///
/// # Errors
/// When nothing is meant, the person says no, or the brokers refuse; what is not reported as replayed was not.
pub(crate) fn run(pipeline: &Pipeline, filter: &Filter, wishes: &Wishes, out: &mut impl Write) -> Result<()> {
    let chosen_stages = stages(pipeline, filter)?;
    let mut letters = Letters::connect(pipeline, filter)?;
    let plan = plan(pipeline, &chosen_stages, filter, wishes, &mut letters)?;
    plan.tell(out)?;
    if plan.matching == 0 {
        let topics: Vec<&str> = letters.topics().collect();
        bail!(
            "no dead letter in {} matches; `wasmill dlq ls` lists those that are there",
            topics.join(", ")
        );
    }
    if plan.tally.total == 0 {
        writeln!(out, "nothing to replay")?;
        return Ok(());
    }
    let total = count(plan.tally.total, "record");
    if wishes.dry_run {
        writeln!(out, "would replay {total}: {}", plan.tally.parts())?;
        return Ok(());
    }
    writeln!(out, "to replay, {total}: {}", plan.tally.parts())?;
    if !wishes.yes && !confirmed(&total)? {
        bail!("nothing was replayed");
    }
    let mut gone = 0;
    for stage in chosen_stages {
        if let Some(chosen) = plan.by_stage.get(&stage.name.value) {
            let replay = Replay::prepare(pipeline, stage, wishes)?;
            gone += replay.run(&mut letters, chosen, out)?;
        }
    }
    if gone > 0 {
        let records = count(gone, "record");
        bail!("{records} could not be replayed, gone for good as said above; all others were");
    }
    Ok(())
}

fn plan(
    pipeline: &Pipeline,
    stages: &[&Stage],
    filter: &Filter,
    wishes: &Wishes,
    letters: &mut Letters,
) -> Result<Plan> {
    let marks = Marks::read(pipeline, stages, &mut letters.scan)?;
    let mut plan = Plan::default();
    let limit = filter.limit.unwrap_or(u64::MAX);
    letters.each(filter, |found, _| {
        if plan.tally.total >= limit {
            return Ok(ControlFlow::Break(()));
        }
        plan.matching += 1;
        let Ok(letter) = &found.letter else {
            plan.unreadable += 1;
            return Ok(ControlFlow::Continue(()));
        };
        let stage = stages.iter().find(|stage| stage.name.value == letter.stage);
        // A dead-letter topic can be shared with other pipelines, whose stages can have the same names.
        let reads = |stage: &&&Stage| {
            stage
                .input
                .topics
                .iter()
                .any(|topic| topic.value == letter.original.topic)
        };
        let Some(stage) = stage.filter(reads) else {
            plan.foreign += 1;
            return Ok(ControlFlow::Continue(()));
        };
        if marks.contain(&found) && !wishes.again {
            plan.replayed_before += 1;
            return Ok(ControlFlow::Continue(()));
        }
        plan.tally.add(&found);
        let chosen = plan.by_stage.entry(stage.name.value.clone()).or_default();
        let place = (found.position.topic, found.position.partition);
        chosen.entry(place).or_default().insert(found.position.offset);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(plan)
}

impl Plan {
    fn tell(&self, out: &mut impl Write) -> Result<()> {
        if self.replayed_before > 0 {
            let letters = count(self.replayed_before, "letter");
            writeln!(out, "skipped, replayed before (--again replays them too): {letters}")?;
        }
        if self.unreadable > 0 {
            let letters = count(self.unreadable, "letter");
            writeln!(out, "skipped, cannot be read: {letters}")?;
        }
        if self.foreign > 0 {
            let letters = count(self.foreign, "letter");
            writeln!(
                out,
                "skipped, of no stage of this pipeline that reads their topic: {letters}"
            )?;
        }
        Ok(())
    }
}

fn confirmed(what: &str) -> Result<bool> {
    let (input, error) = (std::io::stdin(), std::io::stderr());
    if !input.is_terminal() || !error.is_terminal() {
        return Err(Usage(
            "nobody can be asked here: give --yes to replay, or --dry-run to see what would be".to_owned(),
        )
        .into());
    }
    write!(error.lock(), "Replay {what}? [y/N] ")?;
    let mut answer = String::new();
    if input.lock().read_line(&mut answer).context("read the answer")? == 0 {
        // The end of the input is no line: what is said next begins one.
        writeln!(error.lock())?;
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The replay of one stage.
struct Replay<'p> {
    pipeline: &'p Pipeline,
    stage: &'p Stage,
    topic: String,
    partitions: i32,
    again: bool,
    producer: Producer,
    record_bytes_max: usize,
    /// How long the transaction may be open.
    timeout: Duration,
}

/// What became of the chosen letters.
#[derive(Default)]
struct Outcome {
    replayed: u64,
    replayed_meanwhile: u64,
    gone: Vec<String>,
}

impl<'p> Replay<'p> {
    /// Finds or creates the topic, and fences every other replay of the stage.
    fn prepare(pipeline: &'p Pipeline, stage: &'p Stage, wishes: &Wishes) -> Result<Self> {
        let topic = replay_topic(pipeline, stage);
        let id = format!("{}.{}.dlq-replay", pipeline.app.value, stage.name.value);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the async runtime")?;
        let (partitions, limit) = runtime.block_on(async {
            let topics = Topics::connect(&pipeline.kafka)?;
            let partitions = find_or_create(pipeline, stage, &topic, &topics, &id).await?;
            let limit = topics.smallest_message_limit(&BTreeSet::from([topic.as_str()])).await;
            anyhow::Ok((partitions, limit))
        })?;
        let topic_names = [topic.clone()];
        let Connected {
            producer,
            record_bytes_max,
            timeout,
        } = connect(pipeline, &id, limit, &topic_names)?;
        Ok(Self {
            pipeline,
            stage,
            topic,
            partitions,
            again: wishes.again,
            producer,
            record_bytes_max,
            timeout,
        })
    }

    /// The number of records that are gone.
    fn run(&self, letters: &mut Letters, chosen: &Chosen, out: &mut impl Write) -> Result<u64> {
        let name = &self.stage.name.value;
        // After the fence: nobody can have replayed anything since, or will before this one is done.
        let marks = match self.again {
            true => Marks::default(),
            false => Marks::read_existing(self.pipeline, self.stage, &mut letters.scan)?,
        };
        let mut records = Records::connect(self.pipeline)?;
        self.call(self.producer.begin())?;
        let began = Instant::now();
        let written = self.write_all(letters, chosen, &marks, &mut records, began);
        let outcome = match written {
            Ok(outcome) => outcome,
            Err(error) => {
                // What was written is invisible for ever, with an answer or without.
                let _ = self.producer.abort();
                return Err(error.context(format!("stage `{name}`: none of its records was replayed")));
            }
        };
        self.call(self.producer.commit())
            .map_err(|error| match overdue(began.elapsed(), self.timeout, outcome.replayed) {
                // However the brokers word it.
                Some(text) => anyhow!(text),
                None => error,
            })
            .with_context(|| format!("stage `{name}`: whether its records were replayed is not known, run the command again: what was is skipped"))?;
        let records = count(outcome.replayed, "record");
        writeln!(out, "stage `{name}`: replayed {records} through topic {}", self.topic)?;
        if outcome.replayed_meanwhile > 0 {
            let letters = count(outcome.replayed_meanwhile, "letter");
            writeln!(
                out,
                "stage `{name}`: skipped, replayed by another command meanwhile: {letters}"
            )?;
        }
        if !outcome.gone.is_empty() {
            let records = count(outcome.gone.len() as u64, "record");
            writeln!(out, "stage `{name}`: not replayed, gone: {records}")?;
            for text in &outcome.gone {
                writeln!(out, "  {text}")?;
            }
        }
        Ok(outcome.gone.len() as u64)
    }

    fn write_all(
        &self,
        letters: &mut Letters,
        chosen: &Chosen,
        marks: &Marks,
        records: &mut Records,
        began: Instant,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let total = chosen.values().map(|offsets| offsets.len() as u64).sum();
        let mut progress = Progress::new("replaying", total);
        for ((topic, partition), offsets) in chosen {
            let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
                continue;
            };
            let stretch = Stretch {
                topic: topic.clone(),
                partition: *partition,
                from: *first,
                end: last + 1,
            };
            let mut missing = offsets.clone();
            letters.scan.read(&stretch, |message| {
                if !missing.remove(&message.offset()) {
                    return Ok(ControlFlow::Continue(()));
                }
                progress.advance(1);
                if let Some(text) = overdue(began.elapsed(), self.timeout, outcome.replayed) {
                    bail!(text);
                }
                self.replay(Found::new(topic, message), marks, records, &mut outcome)?;
                Ok(ControlFlow::Continue(()))
            })?;
            let lost = missing
                .iter()
                .map(|offset| format!("{topic}/{partition}/{offset}: the letter itself was deleted"));
            outcome.gone.extend(lost);
        }
        if !self.producer.flush(FLUSH_TIMEOUT) {
            if let Some(text) = overdue(began.elapsed(), self.timeout, outcome.replayed) {
                bail!(text);
            }
            bail!("{} records are not acknowledged", self.producer.in_flight());
        }
        if let Some(failure) = self.producer.take_failure() {
            let topic = &self.topic;
            bail!(match failure.code {
                Code::MessageSizeTooLarge | Code::InvalidMessageSize =>
                    format!("a record is too large for topic {topic}; raise its `max.message.bytes`"),
                code => format!("write to topic {topic}: {code}"),
            });
        }
        chaos::kill(Point::AfterProduce);
        Ok(outcome)
    }

    fn replay(&self, found: Found, marks: &Marks, records: &mut Records, outcome: &mut Outcome) -> Result<()> {
        let Ok(letter) = &found.letter else {
            outcome
                .gone
                .push(format!("{}: the letter itself was deleted", found.position));
            return Ok(());
        };
        if marks.contain(&found) {
            outcome.replayed_meanwhile += 1;
            return Ok(());
        }
        let record = records.of(letter)?;
        if let Record::Gone(text) = &record {
            outcome.gone.push(format!("{}: {text}", found.position));
            return Ok(());
        }
        if let Some(message) = record.message(&found) {
            self.write(&found.position, letter, message)
                .with_context(|| format!("replay {}", found.position))?;
            outcome.replayed += 1;
        }
        Ok(())
    }

    fn write(&self, position: &Position, letter: &Letter, message: &Message) -> Result<()> {
        let mut original = letter.original.clone();
        original.replays = original.replays.saturating_add(1);
        let mark = dead_letter::mark(position, &original);
        let headers = || {
            let mut headers = Headers::copy_of(message)?;
            for (name, value) in &mark {
                headers.add(name.as_bytes(), Some(value.as_bytes()));
            }
            Some(headers)
        };
        loop {
            let record = Produce {
                partition: Some(original.partition % self.partitions),
                key: message.key(),
                value: message.value(),
                // 0 would be written as the present; what counts is the header.
                timestamp_ms: original.timestamp_ms.filter(|timestamp_ms| *timestamp_ms > 0),
                headers: Some(headers().context("no memory for headers")?),
            };
            match self.producer.produce(0, record) {
                Ok(()) => return Ok(()),
                Err(error) if error.code == Code::QueueFull => std::thread::sleep(QUEUE_FULL_WAIT),
                Err(error) if error.code == Code::MessageSizeTooLarge => bail!(
                    "with its headers the record exceeds `message.max.bytes`, which is {}; raise it in the pipeline's `kafka`",
                    self.record_bytes_max
                ),
                Err(error) => return self.call(Err(error)),
            }
        }
    }

    /// Words an error of a transactional call.
    fn call(&self, result: Result<(), CallError>) -> Result<()> {
        result.map_err(|error| worded(error, &self.producer, &self.topic))
    }
}

/// The number of partitions of the replay topic, which is created where it does not exist.
async fn find_or_create(pipeline: &Pipeline, stage: &Stage, topic: &str, topics: &Topics, id: &str) -> Result<i32> {
    let inputs = stage.input.topics.iter().map(|topic| topic.value.clone());
    let names: BTreeSet<String> = inputs.chain([topic.to_owned()]).collect();
    let mut found = topics.look(&names)?;
    let partitions = |found: &BTreeMap<String, Topic>| match found.get(topic) {
        Some(Topic::Partitions(count)) => Some(*count),
        _ => None,
    };
    if let Some(count) = partitions(&found) {
        return Ok(count);
    }
    // Nothing is created for a replay that cannot be.
    connect(pipeline, id, None, &[])?;
    let counts = found.values().map(|found| match found {
        Topic::Partitions(count) => *count,
        Topic::Missing | Topic::Hidden | Topic::Refused(_) => 1,
    });
    let how = new_topic(pipeline, counts.max().unwrap_or(1));
    tracing::info!(topic, partitions = how.partitions, "creating the replay topic");
    topics.create(&[topic], &how).await.with_context(|| {
        format!(
            "the replay topic does not exist; create `{topic}` with {} partitions and `retention.ms=-1`, or give this user the right to",
            how.partitions
        )
    })?;
    let deadline = Instant::now() + TOPIC_TIMEOUT;
    while Instant::now() < deadline {
        found = topics.look(&names)?;
        if let Some(count) = partitions(&found) {
            return Ok(count);
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("the replay topic `{topic}` was created and is not known to the brokers yet; run the command again")
}

/// What stands in a replay topic says which letters were replayed, so nothing of it expires by itself. Its records keep the times of the
/// originals in a header: their own would be refused or deleted where they are far from now.
fn new_topic(pipeline: &Pipeline, partitions: i32) -> NewTopic {
    let replication = match &pipeline.topics.value {
        OnMissing::Create(how) => how.replication,
        OnMissing::Require => -1,
    };
    let config = [
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("message.timestamp.type", "LogAppendTime"),
    ];
    NewTopic {
        partitions,
        replication,
        config: config.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}
