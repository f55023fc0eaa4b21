//! The commands for dead letters: list them, show one, give records to their stage again, and try a plugin on them.
//!
//! `filter` says which letters are meant; `list`, `show`, `replay` and `trial` are the commands; `marks` knows what was replayed; `records` finds the
//! record that a letter has no room for; `transaction` is that of a replay; `render` words a letter. No command joins a group, and only `replay` writes.

pub(crate) mod filter;
pub(crate) mod list;
mod marks;
mod progress;
mod records;
mod render;
pub(crate) mod replay;
pub(crate) mod show;
mod transaction;
pub(crate) mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result, bail};

use crate::config::{Pipeline, Stage, suggestion};
use crate::dead_letter::{self, Letter, Position, Unreadable};
use crate::kafka::ffi::Message;
use crate::kafka::scan::{Scan, Stretch};
use crate::kafka::topics::{Found as Topic, Topics};
use crate::rights::{Operation, Right};
use filter::Filter;
use progress::Progress;

/// The command line asks for what the pipeline does not have.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// A record of a dead-letter topic.
pub(crate) struct Found {
    pub(crate) position: Position,
    /// When the broker has it written, by the record's timestamp.
    written_ms: Option<i64>,
    /// With a letter that could be read it stands for the record that failed.
    pub(crate) message: Message,
    pub(crate) letter: Result<Letter, Unreadable>,
}

impl Found {
    fn new(topic: &str, mut message: Message) -> Self {
        let letter = dead_letter::parse(message.headers());
        let written_ms = message.timestamp_ms();
        if let Ok(letter) = &letter {
            message.stand_for(letter.own_headers, letter.original.clone());
        }
        Self {
            position: Position {
                topic: topic.to_owned(),
                partition: message.partition(),
                offset: message.offset(),
            },
            written_ms,
            message,
            letter,
        }
    }
}

/// The dead-letter topics of a pipeline.
pub(crate) struct Letters {
    scan: Scan,
    topics: BTreeMap<String, i32>,
}

impl Letters {
    /// Finds the dead-letter topics that the filter means.
    ///
    /// # Errors
    /// When no broker answers, a topic is not there, or the filter names what the pipeline does not have.
    pub(crate) fn connect(pipeline: &Pipeline, filter: &Filter) -> Result<Self> {
        let names = named_topics(pipeline, filter)?;
        let mut topics = BTreeMap::new();
        for (name, found) in Topics::connect(&pipeline.kafka)?.look(&names)? {
            match found {
                Topic::Partitions(count) => {
                    topics.insert(name, count);
                }
                Topic::Missing => {
                    bail!("dead-letter topic `{name}` does not exist; `wasmill check --connect` tells of all topics")
                }
                Topic::Hidden => bail!(
                    "dead-letter topic `{name}` does not exist, or this user may not see it; give it by: {}",
                    Right::on_topic(Operation::Read, &name).grant(&pipeline.kafka)
                ),
                Topic::Refused(words) => bail!("dead-letter topic `{name}`: {words}"),
            }
        }
        Ok(Self {
            scan: scan(pipeline)?,
            topics,
        })
    }

    /// The topics that are read.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }

    /// Where letters can be that the filter means.
    fn stretches(&self, filter: &Filter) -> Result<Vec<Stretch>> {
        let mut stretches = Vec::new();
        for (topic, partitions) in &self.topics {
            for partition in 0..*partitions {
                let mut whole = self.scan.stretch(topic, partition, filter.since_ms())?;
                if let Some((first, last)) = filter.offsets(partition) {
                    whole.from = whole.from.max(first);
                    whole.end = whole.end.min(last + 1);
                }
                if whole.from < whole.end {
                    stretches.push(whole);
                }
            }
        }
        Ok(stretches)
    }

    /// Calls `each` for every letter that the filter means, by topic, partition and offset; `each` may end it.
    ///
    /// # Errors
    /// When a topic cannot be read, or what `each` says.
    pub(crate) fn each(
        &mut self,
        filter: &Filter,
        mut each: impl FnMut(Found, &Progress) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let stretches = self.stretches(filter)?;
        let mut progress = Progress::new("reading", stretches.iter().map(Stretch::offsets).sum());
        let mut ended = false;
        for stretch in &stretches {
            let mut next = stretch.from;
            self.scan.read(stretch, |message| {
                progress.advance(u64::try_from(message.offset() + 1 - next).unwrap_or(0));
                next = message.offset() + 1;
                let found = Found::new(&stretch.topic, message);
                if !filter.takes(&found.position, &found.letter, found.written_ms) {
                    return Ok(ControlFlow::Continue(()));
                }
                let flow = each(found, &progress)?;
                ended = flow.is_break();
                Ok(flow)
            })?;
            if ended {
                break;
            }
        }
        Ok(())
    }
}

fn scan(pipeline: &Pipeline) -> Result<Scan> {
    let stage = pipeline.stages.first().context("the pipeline has no stage")?;
    Scan::connect(&pipeline.kafka, &stage.group)
}

/// The stages that the filter means.
///
/// # Errors
/// When the pipeline has none of that name.
pub(crate) fn stages<'p>(pipeline: &'p Pipeline, filter: &Filter) -> Result<Vec<&'p Stage>, Usage> {
    let Some(name) = &filter.stage else {
        return Ok(pipeline.stages.iter().collect());
    };
    let names = || pipeline.stages.iter().map(|stage| stage.name.value.as_str());
    match pipeline.stage(name) {
        Some(stage) => Ok(vec![stage]),
        None => Err(Usage(unknown("--stage", "stage", name, names()))),
    }
}

fn named_topics(pipeline: &Pipeline, filter: &Filter) -> Result<BTreeSet<String>, Usage> {
    let stages = stages(pipeline, filter)?;
    let dead_letters = stages.iter().map(|stage| stage.on_fault.dead_letter.value.as_str());
    let names: BTreeSet<&str> = dead_letters.collect();
    if let Some(topic) = &filter.topic {
        return match names.get(topic.as_str()) {
            Some(name) => Ok(BTreeSet::from([(*name).to_owned()])),
            None => Err(Usage(unknown("--topic", "dead-letter topic", topic, names))),
        };
    }
    if !filter.positions.is_empty() && names.len() > 1 {
        let listed: Vec<&str> = names.into_iter().collect();
        return Err(Usage(format!(
            "a position is one of several dead-letter topics; say which by --topic: {}",
            listed.join(", ")
        )));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn unknown<'a>(option: &str, what: &str, name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let nearest = suggestion(name, names.iter().copied());
    let separator = if nearest.is_empty() { ";" } else { "" };
    let listed = names.join(", ");
    format!("{option}: the pipeline has no {what} `{name}`{nearest}{separator} it has: {listed}")
}

/// A number and its noun.
fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}
