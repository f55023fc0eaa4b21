//! Which dead letters were replayed: their positions stand in the replay topics.
//!
//! A mark means a letter at a position that holds a certain record. The position alone does not do: a dead-letter topic that was deleted and made
//! again has other letters there, which nobody has replayed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use anyhow::{Result, bail};

use super::Found as Letter;
use super::progress::Progress;
use crate::config::{Pipeline, Stage};
use crate::dead_letter::{self, Mark, Original, Position};
use crate::kafka::scan::{Scan, Stretch};
use crate::kafka::topics::{Found, Topics};
use crate::rights::{Operation, Right};
use crate::topics::replay_topic;

/// The letters that were replayed.
#[derive(Default)]
pub(super) struct Marks {
    /// Numbers of topics, so that a name is not kept for every mark.
    topics: HashMap<String, usize>,
    marks: HashSet<Entry>,
}

/// A replayed letter: topic, partition and offset of its own, then of its record.
#[derive(PartialEq, Eq, Hash)]
struct Entry {
    letter: (usize, i32, i64),
    original: (usize, i32, i64),
    timestamp_ms: Option<i64>,
    /// How often the record was replayed before.
    replays: u32,
}

impl Marks {
    /// Reads the replay topics of these stages; one that does not exist holds none.
    ///
    /// # Errors
    /// When the brokers do not answer, or do not tell of a topic.
    pub(super) fn read(pipeline: &Pipeline, stages: &[&Stage], scan: &mut Scan) -> Result<Self> {
        let names = stages.iter().map(|stage| replay_topic(pipeline, stage)).collect();
        Self::of_topics(&told(look(pipeline, &names)?)?, scan)
    }

    /// The same for the replay topic of a stage that is known to exist.
    ///
    /// # Errors
    /// When the brokers do not answer, or do not tell of the topic: what they do not show may hold every mark.
    pub(super) fn read_existing(pipeline: &Pipeline, stage: &Stage, scan: &mut Scan) -> Result<Self> {
        let names = BTreeSet::from([replay_topic(pipeline, stage)]);
        let told = told(look(pipeline, &names)?)?;
        all_there(&names, &told)?;
        Self::of_topics(&told, scan)
    }

    fn of_topics(topics: &BTreeMap<String, i32>, scan: &mut Scan) -> Result<Self> {
        let mut stretches = Vec::new();
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                stretches.push(scan.stretch(topic, partition, None)?);
            }
        }
        let mut marks = Self::default();
        let total = stretches.iter().map(Stretch::offsets).sum();
        let mut progress = Progress::new("reading what was replayed", total);
        for stretch in &stretches {
            let mut next = stretch.from;
            scan.read(stretch, |message| {
                progress.advance(u64::try_from(message.offset() + 1 - next).unwrap_or(0));
                next = message.offset() + 1;
                if let Some(mark) = dead_letter::parse_mark(message.headers()) {
                    marks.add(&mark);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(marks)
    }

    /// A damaged mark tells of no letter.
    fn add(&mut self, mark: &Mark) {
        let (Some(letter), Some(original)) = (&mark.letter, &mark.original) else {
            return;
        };
        let mut number = |topic: &String| match self.topics.get(topic) {
            Some(number) => *number,
            None => {
                let number = self.topics.len();
                self.topics.insert(topic.clone(), number);
                number
            }
        };
        self.marks.insert(Entry {
            letter: (number(&letter.topic), letter.partition, letter.offset),
            original: (number(&original.topic), original.partition, original.offset),
            timestamp_ms: original.timestamp_ms,
            // A mark counts its own replay.
            replays: original.replays.saturating_sub(1),
        });
    }

    /// Whether this letter was replayed.
    pub(super) fn contain(&self, found: &Letter) -> bool {
        let letter = found.letter.as_ref();
        letter.is_ok_and(|letter| self.know(&found.position, &letter.original))
    }

    fn know(&self, letter: &Position, original: &Original) -> bool {
        let number = |topic: &String| self.topics.get(topic).copied();
        let (Some(letters), Some(originals)) = (number(&letter.topic), number(&original.topic)) else {
            return false;
        };
        self.marks.contains(&Entry {
            letter: (letters, letter.partition, letter.offset),
            original: (originals, original.partition, original.offset),
            timestamp_ms: original.timestamp_ms,
            replays: original.replays,
        })
    }
}

fn look(pipeline: &Pipeline, names: &BTreeSet<String>) -> Result<BTreeMap<String, Found>> {
    Topics::connect(&pipeline.kafka)?.look(names)
}

/// The topics that exist, with their partitions.
fn told(found: BTreeMap<String, Found>) -> Result<BTreeMap<String, i32>> {
    let mut told = BTreeMap::new();
    for (name, found) in found {
        match found {
            Found::Partitions(count) => {
                told.insert(name, count);
            }
            Found::Missing => {}
            Found::Hidden => bail!(
                "what was replayed cannot be known: this user may not see replay topic `{name}`, if there is one; give it {}",
                Right::on_topic(Operation::Read, &name)
            ),
            Found::Refused(words) => {
                bail!(
                    "what was replayed cannot be known: replay topic `{name}`: {words}; run the command again when the brokers tell of it"
                )
            }
        }
    }
    Ok(told)
}

fn all_there(names: &BTreeSet<String>, told: &BTreeMap<String, i32>) -> Result<()> {
    match names.iter().find(|name| !told.contains_key(*name)) {
        Some(name) => bail!(
            "what was replayed cannot be known: the brokers do not tell of replay topic `{name}` any more; run the command again, and see that this user may DESCRIBE and READ it"
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(offset: i64) -> Position {
        Position {
            topic: "dead".to_owned(),
            partition: 1,
            offset,
        }
    }

    fn original() -> Original {
        Original {
            topic: "in".to_owned(),
            partition: 3,
            offset: 42,
            timestamp_ms: Some(5),
            replays: 2,
        }
    }

    #[test]
    fn a_mark_means_one_letter_of_one_record() {
        let mut marks = Marks::default();
        let counted = Original {
            replays: 3,
            ..original()
        };
        let all: Vec<(Vec<u8>, Vec<u8>)> = dead_letter::mark(&letter(7), &counted)
            .into_iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()))
            .collect();
        let pairs = all
            .iter()
            .map(|(name, value)| (name.as_slice(), Some(value.as_slice())));
        marks.add(&dead_letter::parse_mark(pairs).unwrap());

        assert!(marks.know(&letter(7), &original()));
        assert!(!marks.know(&letter(8), &original()));
        let others: [fn(&mut Original); 5] = [
            |original| original.topic = "dead".to_owned(),
            |original| original.partition = 1,
            |original| original.offset = 7,
            |original| original.timestamp_ms = None,
            |original| original.replays = 3,
        ];
        for change in others {
            let mut other = original();
            change(&mut other);
            assert!(!marks.know(&letter(7), &other), "{other:?}");
        }
    }

    #[test]
    fn topics_that_the_brokers_do_not_tell_of_hold_no_marks_only_where_they_need_not_exist() {
        let names = BTreeSet::from(["a".to_owned()]);
        let found = |found| BTreeMap::from([("a".to_owned(), found)]);
        let there = told(found(Found::Partitions(3))).unwrap();
        assert_eq!(there, BTreeMap::from([("a".to_owned(), 3)]));
        assert!(all_there(&names, &there).is_ok());
        let missing = told(found(Found::Missing)).unwrap();
        assert!(missing.is_empty());
        let error = all_there(&names, &missing).unwrap_err().to_string();
        assert!(error.contains("`a`"), "{error}");
        let error = told(found(Found::Refused("no leader".to_owned()))).unwrap_err();
        assert!(error.to_string().contains("no leader"), "{error}");
    }
}
