//! Finds the record of a dead letter: in the letter itself, or at its first position where the letter had no room for it.

use std::collections::HashMap;

use anyhow::Result;

use super::Found;
use crate::config::Pipeline;
use crate::dead_letter::Letter;
use crate::kafka::ffi::Message;
use crate::kafka::scan::Scan;
use crate::kafka::topics::{Found as Topic, Topics};

/// A letter's record.
pub(super) enum Record {
    /// The letter's own message holds it.
    InLetter,
    /// It was left out and is still in its topic.
    AtOrigin(Message),
    /// It was left out, and its topic does not have it any more.
    Gone(String),
}

impl Record {
    /// The message that stands for the record; none where it is gone.
    pub(super) fn message<'m>(&'m self, found: &'m Found) -> Option<&'m Message> {
        match self {
            Self::InLetter => Some(&found.message),
            Self::AtOrigin(message) => Some(message),
            Self::Gone(_) => None,
        }
    }
}

/// Reads records at their first positions.
pub(super) struct Records {
    scan: Scan,
    topics: Topics,
    partitions: HashMap<String, i32>,
}

impl Records {
    /// # Errors
    /// When a client cannot be made.
    pub(super) fn connect(pipeline: &Pipeline) -> Result<Self> {
        Ok(Self {
            scan: super::scan(pipeline)?,
            topics: Topics::connect(&pipeline.kafka)?,
            partitions: HashMap::new(),
        })
    }

    /// # Errors
    /// When the brokers do not answer.
    pub(super) fn of(&mut self, letter: &Letter) -> Result<Record> {
        if letter.cut.is_none() {
            return Ok(Record::InLetter);
        }
        let original = &letter.original;
        let (topic, partition, offset) = (&original.topic, original.partition, original.offset);
        if !self.partitions.contains_key(topic) {
            let found = self.topics.look(&[topic.clone()].into())?;
            let count = match found.get(topic) {
                Some(Topic::Partitions(count)) => *count,
                _ => 0,
            };
            self.partitions.insert(topic.clone(), count);
        }
        if partition >= self.partitions.get(topic).copied().unwrap_or(0) {
            let text = format!("topic {topic} has no partition {partition} any more, or this user may not see it");
            return Ok(Record::Gone(text));
        }
        let Some(mut message) = self.scan.one(topic, partition, offset)? else {
            let text = format!("topic {topic} does not have it any more at partition {partition}, offset {offset}");
            return Ok(Record::Gone(text));
        };
        // A topic that was deleted and made again has another record there.
        if original.timestamp_ms.is_some() && message.timestamp_ms() != original.timestamp_ms {
            let text = format!("another record stands in topic {topic} at partition {partition}, offset {offset}");
            return Ok(Record::Gone(text));
        }
        message.stand_for(usize::MAX, original.clone());
        Ok(Record::AtOrigin(message))
    }
}
