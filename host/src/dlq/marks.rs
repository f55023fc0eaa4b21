//! Which dead letters were replayed: their positions stand in the replay topics.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use anyhow::Result;

use super::progress::Progress;
use crate::config::{Pipeline, Stage};
use crate::dead_letter::{self, Position};
use crate::kafka::scan::{Scan, Stretch};
use crate::kafka::topics::{Found, Topics};
use crate::topics::replay_topic;

/// The letters that were replayed.
#[derive(Default)]
pub(super) struct Marks {
    by_topic: HashMap<String, HashSet<(i32, i64)>>,
}

impl Marks {
    /// Reads the replay topics of these stages; one that does not exist holds none.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub(super) fn read(pipeline: &Pipeline, stages: &[&Stage], scan: &mut Scan) -> Result<Self> {
        let names = stages.iter().map(|stage| replay_topic(pipeline, stage)).collect();
        let found = Topics::connect(&pipeline.kafka)?.look(&names)?;
        let there = found.into_iter().filter_map(|(name, found)| match found {
            Found::Partitions(count) => Some((name, count)),
            Found::Missing | Found::Refused(_) => None,
        });
        let mut marks = Self::default();
        marks.add(&there.collect(), scan)?;
        Ok(marks)
    }

    fn add(&mut self, topics: &BTreeMap<String, i32>, scan: &mut Scan) -> Result<()> {
        let mut stretches = Vec::new();
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                stretches.push(scan.stretch(topic, partition, None)?);
            }
        }
        let total = stretches.iter().map(Stretch::offsets).sum();
        let mut progress = Progress::new("reading what was replayed", total);
        for stretch in &stretches {
            scan.read(stretch, |message| {
                progress.advance(1);
                let mark = dead_letter::parse_mark(message.headers());
                if let Some(letter) = mark.and_then(|mark| mark.letter) {
                    let of_topic = self.by_topic.entry(letter.topic).or_default();
                    of_topic.insert((letter.partition, letter.offset));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    }

    pub(super) fn contain(&self, letter: &Position) -> bool {
        let of_topic = self.by_topic.get(&letter.topic);
        of_topic.is_some_and(|of_topic| of_topic.contains(&(letter.partition, letter.offset)))
    }
}
