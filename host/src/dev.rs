//! `wasmill dev`: the whole pipeline on an embedded broker, from `input.jsonl` to what comes out, without any server.
//!
//! It shows what plugins do; it proves nothing about delivery, because the embedded broker is not a Kafka: the run is at-least-once with one
//! worker a stage, and says so first.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::alerts::{self, Alerts};
use crate::config::{At, Clients, Guarantee, KafkaProperty, KafkaValue, Pipeline, Topics};
use crate::elasticsearch::Client;
use crate::elasticsearch::memory::Memory;
use crate::external;
use crate::fixture::{self, Fixture};
use crate::kafka::embedded::{self, Embedded, Output};
use crate::pipeline::{self, Options};
use crate::prepare::Ready;
use crate::printable::printable;

/// Long enough for any example; a plugin that never answers is ended by its deadline long before.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to feed and how much to show.
pub(crate) struct Wishes {
    /// None: `input.jsonl` beside the pipeline file.
    pub(crate) input: Option<PathBuf>,
    /// Documents go to the Elasticsearch of the pipeline file, and not to memory.
    pub(crate) elasticsearch: bool,
    /// Records shown of each output.
    pub(crate) show: usize,
}

/// Says what this run is; the first line of its output.
pub(crate) fn banner() -> &'static str {
    "dev: embedded broker (librdkafka's mock, not a Kafka), at-least-once, one worker a stage, nothing is kept"
}

/// Reads the records to feed.
///
/// # Errors
/// When the file is not there, a line is not a record, or a topic is none that the pipeline reads.
pub(crate) fn read_input(pipeline: &Pipeline, wishes: &Wishes) -> Result<Vec<Fixture>> {
    let beside = || pipeline.file.parent().unwrap_or(Path::new(".")).join("input.jsonl");
    let file = wishes.input.clone().unwrap_or_else(beside);
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "read {}; `--input FILE` names another file with the records to feed",
            file.display()
        )
    })?;
    let records = fixture::parse(&text).with_context(|| file.display().to_string())?;
    let inputs: BTreeSet<&str> = inputs(pipeline).collect();
    if let Some(stray) = records.iter().find(|record| !inputs.contains(&record.topic.as_str())) {
        bail!(
            "{}: no stage reads topic `{}`; inputs: {}",
            file.display(),
            stray.topic,
            inputs.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(records)
}

fn inputs(pipeline: &Pipeline) -> impl Iterator<Item = &str> {
    pipeline
        .stages
        .iter()
        .flat_map(|stage| &stage.input.topics)
        .map(|topic| topic.value.as_str())
}

/// Changes the pipeline to what the embedded broker can do.
pub(crate) fn adapt(pipeline: &mut Pipeline, broker: &Embedded) {
    let at = pipeline.kafka.at;
    pipeline.kafka.properties = vec![KafkaProperty {
        name: At::new("bootstrap.servers".to_owned(), at),
        value: At::new(KafkaValue::Plain(broker.bootstrap_servers()), at),
        clients: Clients::Both,
    }];
    pipeline.topics.value = Topics::Require;
    // The listener of a run on the same machine may have the port.
    pipeline.admin = None;
    for stage in &mut pipeline.stages {
        stage.guarantee.value = Guarantee::AtLeastOnce;
        stage.workers.value = 1;
    }
}

/// Makes every topic that the pipeline names.
pub(crate) fn create_topics(pipeline: &Pipeline, broker: &Embedded) -> Result<()> {
    let partitions = match &pipeline.topics.value {
        Topics::Create(how) => how.partitions,
        Topics::Require => 1,
    };
    let mut made: Vec<&str> = Vec::new();
    let outputs = pipeline.stages.iter().flat_map(|stage| stage.outputs.topics());
    let dead_letters = pipeline.stages.iter().map(|stage| &stage.on_fault.dead_letter);
    for topic in inputs(pipeline).chain(outputs.chain(dead_letters).map(|topic| topic.value.as_str())) {
        if !made.contains(&topic) {
            broker.create_topic(topic, partitions)?;
            made.push(topic);
        }
    }
    Ok(())
}

/// Feeds, waits for the end, and shows what came out.
///
/// # Errors
/// When the input cannot be fed, a stage stops, the embedded broker dropped records that were not read, or nothing moves any more.
pub(crate) async fn run(
    pipeline: &Pipeline,
    stages: Vec<Ready>,
    broker: Embedded,
    records: Vec<Fixture>,
    wishes: &Wishes,
    out: &mut impl Write,
) -> Result<()> {
    let memory = Arc::<Memory>::default();
    let alerts = Arc::<alerts::memory::Memory>::default();
    let mut clients = match wishes.elasticsearch {
        true => external::Clients::new(pipeline)?,
        false => external::Clients {
            elasticsearch: Some(Arc::new(Client::Memory(Arc::clone(&memory)))),
            ..external::Clients::default()
        },
    };
    // Nobody is alerted by somebody who tries something out.
    clients.alerts = Alerts::Memory(Arc::clone(&alerts));
    let options = Options {
        until_caught_up: true,
        embedded: true,
        clients,
        shutdown_deadline: Duration::from_secs(10),
        store: None,
    };
    let began = Instant::now();
    let total = records.len();
    let mut running = pipeline::start(pipeline, stages, &options).await?;
    let bar = ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(
        "feeding {bar:40} {human_pos}/{human_len} records, {per_sec}",
    )?);
    let bootstrap_servers = broker.bootstrap_servers();
    let feeding = tokio::task::spawn_blocking(move || {
        let fed = embedded::feed(&bootstrap_servers, &records, || bar.inc(1));
        bar.finish();
        fed
    });
    feeding.await.context("feed the input")??;
    wait_for_end(&mut running, began).await?;
    let took = began.elapsed();
    let ended = tokio::task::spawn_blocking(move || running.shut_down(options.shutdown_deadline));
    ended.await.context("shut down")??;
    let memory = (!wishes.elasticsearch).then_some(&*memory);
    show(pipeline, &broker, memory, wishes.show, out)?;
    show_alerts(&alerts, wishes.show, out)?;
    let rate = HumanCount((total as f64 / took.as_secs_f64()) as u64);
    writeln!(
        out,
        "{} records fed and processed in {:.1} s ({rate}/s)",
        HumanCount(total as u64),
        took.as_secs_f64()
    )?;
    Ok(())
}

async fn wait_for_end(running: &mut pipeline::Running, began: Instant) -> Result<()> {
    running.forget_ends();
    while !running.is_caught_up() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if running.reap() {
            // `shut_down` says which stage, and why.
            return Ok(());
        }
        if let Some(lost) = running.status.lost_records() {
            bail!(
                "{lost}; the embedded broker keeps 5 MiB a partition: feed less with `--input`, or use a Kafka with `wasmill run`"
            );
        }
        if began.elapsed() > PATIENCE {
            bail!(
                "the stages did not reach the end of their inputs within {} s",
                PATIENCE.as_secs()
            );
        }
    }
    Ok(())
}

/// Shows every topic that is written, the documents, and all dead letters.
fn show(
    pipeline: &Pipeline,
    broker: &Embedded,
    memory: Option<&Memory>,
    limit: usize,
    out: &mut impl Write,
) -> Result<()> {
    let mut shown: Vec<&str> = Vec::new();
    for stage in &pipeline.stages {
        for topic in stage.outputs.topics() {
            if shown.contains(&topic.value.as_str()) {
                continue;
            }
            shown.push(&topic.value);
            let records = broker.read(topic)?;
            writeln!(out, "\n{}: {} records", topic.value, HumanCount(records.len() as u64))?;
            list(&records, limit, out, plain)?;
        }
    }
    if let Some(memory) = memory {
        show_documents(pipeline, memory, limit, out)?;
    }
    for stage in &pipeline.stages {
        let topic = stage.on_fault.dead_letter.value.as_str();
        if shown.contains(&topic) {
            continue;
        }
        shown.push(topic);
        let records = broker.read(topic)?;
        writeln!(out, "\n{topic}: {} dead letters", HumanCount(records.len() as u64))?;
        list(&records, limit, out, rejected)?;
    }
    writeln!(out)?;
    Ok(())
}

/// Shows what the indices would hold.
fn show_documents(pipeline: &Pipeline, memory: &Memory, limit: usize, out: &mut impl Write) -> Result<()> {
    let mut indices = memory.contents();
    let outputs = pipeline.stages.iter().flat_map(|stage| stage.outputs.indices());
    for output in outputs.filter(|output| !output.index.has_time()) {
        let name = output.index.as_str();
        if !indices.iter().any(|(known, _)| known == name) {
            indices.push((name.to_owned(), Vec::new()));
        }
    }
    for (index, documents) in indices {
        let count = documents.len();
        let human = HumanCount(count as u64);
        writeln!(out, "\nindex {index} (in memory, not Elasticsearch): {human} documents")?;
        for (id, document) in documents.iter().take(limit) {
            writeln!(out, "  {id}  {document}")?;
        }
        if count > limit {
            writeln!(
                out,
                "  ... and {} more (`--show N`)",
                HumanCount((count - limit) as u64)
            )?;
        }
    }
    Ok(())
}

/// Shows what would have been sent.
fn show_alerts(memory: &alerts::memory::Memory, limit: usize, out: &mut impl Write) -> Result<()> {
    for (output, lines) in memory.contents() {
        writeln!(
            out,
            "{output} (in memory, nothing is sent): {} alerts",
            HumanCount(lines.len() as u64)
        )?;
        for line in lines.iter().take(limit) {
            writeln!(out, "  {}", printable(line))?;
        }
        if let Some(more) = lines.len().checked_sub(limit).filter(|more| *more > 0) {
            writeln!(out, "  ... and {} more (`--show N`)", HumanCount(more as u64))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn list(records: &[Output], limit: usize, out: &mut impl Write, line: impl Fn(&Output) -> String) -> Result<()> {
    for record in records.iter().take(limit) {
        writeln!(out, "  {}", line(record))?;
    }
    if records.len() > limit {
        writeln!(
            out,
            "  ... and {} more (`--show N`)",
            HumanCount((records.len() - limit) as u64)
        )?;
    }
    Ok(())
}

fn plain(record: &Output) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "(null)".to_owned());
    format!("{}  {}", part(&record.key), part(&record.value))
}

fn rejected(record: &Output) -> String {
    let header = |name| record.header(name).unwrap_or("?");
    format!(
        "{} at {} {}:{}: {}: {}",
        header("wasmill.stage"),
        header("wasmill.topic"),
        header("wasmill.partition"),
        header("wasmill.offset"),
        header("wasmill.kind"),
        header("wasmill.message"),
    )
}
