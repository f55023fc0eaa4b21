//! `dlq test`: runs the records of dead letters on a plugin file, and says what would become of each. Nothing is written.
//!
//! Each record is alone in its call, as in the last call of the run that failed on it, with the stage's configuration and limits.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use prometheus_client::metrics::counter::Counter;
use serde_json::json;

use super::filter::Filter;
use super::records::{Record, Records};
use super::{Found, Letters, Usage, count, render, stages};
use crate::config::{Pipeline, PluginSource, Stage};
use crate::dead_letter::Letter;
use crate::fault::{Fault, Kind};
use crate::kafka::ffi::Message;
use crate::kafka::settings;
use crate::kafka::topics::{Found as Topic, Topics};
use crate::metrics::PluginMetrics;
use crate::pack::Packer;
use crate::plugin::contract::PortKind;
use crate::plugin::instance::{Executor, Instance};
use crate::plugin::runtime::Runtime;
use crate::prepare::{self, Ready};
use crate::reply::{Checked, Verdict};
use crate::sink::{Destination, Guarantee, Sink};
use crate::work::Work;
use crate::worker::delivery;

/// Characters of a message in a line.
const MESSAGE_MAX: usize = 200;

/// Tries the plugin file on the letters that the filter means.
///
/// # Errors
/// When one of them would fail, the file does not fit the stage, or the topics cannot be read.
pub(crate) fn run(pipeline: &Pipeline, filter: &Filter, file: &Path, json: bool, out: &mut impl Write) -> Result<()> {
    let stage = one_stage(pipeline, filter)?;
    let filter = Filter {
        stage: Some(stage.name.value.clone()),
        ..filter.clone()
    };
    let mut trial = Trial::new(pipeline, stage, file)?;
    let mut letters = Letters::connect(pipeline, &filter)?;
    let mut records = Records::connect(pipeline)?;
    let (mut passed, mut failed, mut gone) = (0_u64, 0_u64, 0_u64);
    let limit = filter.limit.unwrap_or(u64::MAX);
    letters.each(&filter, |found, progress| {
        if passed + failed + gone >= limit {
            return Ok(ControlFlow::Break(()));
        }
        let Ok(letter) = &found.letter else {
            return Ok(ControlFlow::Continue(()));
        };
        let record = records.of(letter)?;
        let outcome = match (&record, record.message(&found)) {
            (_, Some(message)) => trial.outcome(letter, message)?,
            (Record::Gone(text), _) => Outcome::Gone(text.clone()),
            (_, None) => return Ok(ControlFlow::Continue(())),
        };
        match &outcome {
            Outcome::Passes(_) => passed += 1,
            Outcome::Fails(_) => failed += 1,
            Outcome::Gone(_) => gone += 1,
        }
        let line = match json {
            true => outcome.json(&found, letter).to_string(),
            false => outcome.line(&found, letter),
        };
        progress.aside(|| writeln!(out, "{line}"))?;
        Ok(ControlFlow::Continue(()))
    })?;
    let total = passed + failed + gone;
    if total == 0 {
        let topics: Vec<&str> = letters.topics().collect();
        bail!(
            "no dead letter of stage `{}` in {} matches; `wasmill dlq ls` lists those that are there",
            stage.name.value,
            topics.join(", ")
        );
    }
    let description = &trial.ready.prepared.plugin.description;
    let words = format!(
        "{} {}: of {} {passed} would pass, {failed} would fail again, {gone} cannot be tried",
        description.name,
        description.version,
        count(total, "letter"),
    );
    if !json {
        writeln!(out, "{words}")?;
    }
    match failed + gone {
        0 => Ok(()),
        _ => Err(anyhow!("{words}")),
    }
}

fn one_stage<'p>(pipeline: &'p Pipeline, filter: &Filter) -> Result<&'p Stage, Usage> {
    match stages(pipeline, filter)?.as_slice() {
        [stage] => Ok(stage),
        several => {
            let names: Vec<&str> = several.iter().map(|stage| stage.name.value.as_str()).collect();
            Err(Usage(format!(
                "say by --stage for which stage the plugin is: {}",
                names.join(", ")
            )))
        }
    }
}

/// What would become of a record.
enum Outcome {
    Passes(String),
    Fails(Fault),
    Gone(String),
}

impl Outcome {
    fn line(&self, found: &Found, letter: &Letter) -> String {
        let place = format!("{}:{}", found.position.partition, found.position.offset);
        let was = render::line(&letter.kind, MESSAGE_MAX);
        match self {
            Self::Passes(what) => format!("{place}  pass  {what} (was {was})"),
            Self::Fails(fault) => {
                let message = render::line(&fault.message, MESSAGE_MAX);
                format!("{place}  FAIL  {}: {message} (was {was})", fault.kind)
            }
            Self::Gone(text) => format!("{place}  GONE  {text}"),
        }
    }

    fn json(&self, found: &Found, letter: &Letter) -> serde_json::Value {
        let (passes, outcome, kind, message) = match self {
            Self::Passes(what) => (Some(true), what.clone(), None, None),
            Self::Fails(fault) => (
                Some(false),
                fault.kind.to_string(),
                Some(fault.kind.as_str()),
                Some(fault.message.clone()),
            ),
            Self::Gone(text) => (None, "gone".to_owned(), None, Some(text.clone())),
        };
        json!({
            "topic": found.position.topic,
            "partition": found.position.partition,
            "offset": found.position.offset,
            "passes": passes,
            "outcome": outcome,
            "kind": kind,
            "message": message,
            "was": letter.kind,
        })
    }
}

/// A plugin in the place of the stage's own.
struct Trial {
    ready: Ready,
    packer: Packer,
    ports: Vec<PortKind>,
    executor: Arc<Executor>,
    instance: Option<Instance>,
    sink: Sink,
}

impl Trial {
    fn new(pipeline: &Pipeline, stage: &Stage, file: &Path) -> Result<Self> {
        let mut alone = pipeline.clone();
        let mut stage = stage.clone();
        stage.plugin.value = PluginSource::WasmFile {
            path: file.to_owned(),
            sha256: None,
        };
        alone.stages = vec![stage];
        let runtime = Arc::new(Runtime::new()?);
        let ready = prepare::stages(&alone, &runtime, None)?
            .pop()
            .context("the stage is not prepared")?;
        let sink = sink(pipeline, &ready)?;
        Ok(Self {
            packer: Packer::new(ready.prepared.plugin.description.reads),
            ports: ready.prepared.plugin.port_kinds(),
            executor: Arc::new(Executor::new().context("start the executor")?),
            instance: None,
            sink,
            ready,
        })
    }

    fn outcome(&mut self, letter: &Letter, message: &Message) -> Result<Outcome> {
        // Only for how often a record is tried again, and how long each time is waited for.
        let mut work = Work::new(vec![()]);
        loop {
            let instance = match self.instance.take() {
                Some(instance) => instance,
                None => self.fresh()?,
            };
            let checked = match self.call(instance, letter, message) {
                Ok(checked) => checked,
                Err(fault) => return Ok(Outcome::Fails(fault)),
            };
            let verdict = checked.verdict(0);
            match &verdict {
                Verdict::Retry(_) if work.hold(Instant::now(), self.ready.place.stage.on_fault.retry) => {
                    let until = work.held_until().unwrap_or_else(Instant::now);
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
                Verdict::Retry(reason) => return Ok(Outcome::Fails(Fault::new(Kind::Retry, *reason))),
                Verdict::Reject(reason) => return Ok(Outcome::Fails(Fault::new(Kind::Reject, *reason))),
                Verdict::Skip => return Ok(Outcome::Passes("skip".to_owned())),
                Verdict::Forward { .. } | Verdict::Emit(_) => return Ok(self.sent(letter, &checked, &verdict, message)),
            }
        }
    }

    fn fresh(&self) -> Result<Instance> {
        Instance::new(
            Arc::clone(&self.ready.prepared.plugin),
            Arc::clone(&self.executor),
            PluginMetrics::unheard(),
        )
        .map_err(|fault| anyhow!("{fault}").context("make an instance of the plugin"))
    }

    fn call(&mut self, mut instance: Instance, letter: &Letter, message: &Message) -> Result<Checked, Fault> {
        let original = &letter.original;
        let record = std::slice::from_ref(message);
        let batch = self.packer.pack(&original.topic, original.partition, record);
        let replies = instance.process(batch)?;
        let checked = Checked::new(replies, 1, &self.ports, &self.ready.prepared.plugin.limits.answer)?;
        self.instance = Some(instance);
        Ok(checked)
    }

    /// What is sent, if the client would take it.
    fn sent(&self, letter: &Letter, checked: &Checked, verdict: &Verdict<'_>, message: &Message) -> Outcome {
        let deliveries = self.ready.prepared.routes.deliveries(checked, verdict);
        let place = &self.ready.place;
        let routes = &self.ready.prepared.routes;
        let mut exports = routes.exports(checked, verdict, message.key(), message.value());
        let made = delivery::check(&self.sink, message, deliveries, checked).and_then(|_| {
            let origin = letter.original.origin();
            exports.try_for_each(|export| place.exits[export.exit].parcel(&export, origin).map(|_| ()))
        });
        if let Err(fault) = made {
            return Outcome::Fails(fault);
        }
        let ports = &self.ready.prepared.plugin.description.ports;
        Outcome::Passes(match verdict {
            Verdict::Forward { port } => {
                let name = ports.get(*port).map_or("", |port| port.name.as_str());
                format!("forward to `{name}`")
            }
            Verdict::Emit(emissions) => format!("emit {}", emissions.len()),
            Verdict::Skip | Verdict::Reject(_) | Verdict::Retry(_) => "skip".to_owned(),
        })
    }
}

/// A sink that is never connected: it knows what cannot be written.
fn sink(pipeline: &Pipeline, ready: &Ready) -> Result<Sink> {
    let names: BTreeSet<String> = ready.place.destinations.iter().cloned().collect();
    let found: BTreeMap<String, Topic> = Topics::connect(&pipeline.kafka)?.look(&names)?;
    let destination = |topic: &String| Destination {
        topic: topic.clone(),
        partitions: match found.get(topic) {
            Some(Topic::Partitions(count)) => *count,
            // It may be made before the stage runs.
            _ => i32::MAX,
        },
        written: (Counter::default(), Counter::default()),
    };
    let config = settings::producer(&pipeline.kafka, None, None);
    Ok(Sink::new(
        "dlq test".to_owned(),
        config,
        Guarantee::AtLeastOnce,
        ready.place.destinations.iter().map(destination).collect(),
    ))
}
