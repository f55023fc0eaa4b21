//! Packs records into the one buffer and the tables that cross the border to a plugin.
//!
//! The buffers are kept from batch to batch, so a batch costs no allocation here once they have grown. What the plugin does not
//! read is left out: its key or value arrives as none, its headers as an empty range.
//!
//! A replayed record is seen where it was read first. A plugin may answer by topic or position, and has to give the answer that it would have given
//! then; so records of a replay topic are packed in runs that could have been read together.

use crate::kafka::ffi::Message;
use crate::plugin::contract::{Batch, Entry, Header, Parts, Span};

/// The bytes of a record that count against a batch's bound.
pub(crate) fn bytes_of(message: &Message) -> usize {
    let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers: usize = message.headers().map(|(name, value)| name.len() + len(value)).sum();
    len(message.key()) + len(message.value()) + headers
}

/// Where the plugin sees a record that was read at `partition` of `topic`: topic, partition, offset.
fn seen<'m>(message: &'m Message, topic: &'m str, partition: i32) -> (&'m str, i32, i64) {
    let here = (topic, partition, message.offset());
    message.original().map_or(here, |original| {
        (original.topic.as_str(), original.partition, original.offset)
    })
}

/// How many messages at the beginning can be one batch for the plugin. `topic` and `partition`: where they were read.
pub(crate) fn run(topic: &str, partition: i32, messages: &[Message]) -> usize {
    run_of(messages.iter().map(|message| seen(message, topic, partition)))
}

/// A batch is of one topic and partition, and its offsets rise.
fn run_of<'a>(places: impl Iterator<Item = (&'a str, i32, i64)>) -> usize {
    let mut before: Option<(&str, i32, i64)> = None;
    let goes_on = |(topic, partition, offset): &(&'a str, i32, i64)| {
        let goes_on = before.is_none_or(|before| (*topic, *partition) == (before.0, before.1) && *offset > before.2);
        before = Some((*topic, *partition, *offset));
        goes_on
    };
    places.take_while(goes_on).count()
}

/// A batch that is filled again and again.
pub(crate) struct Packer {
    batch: Batch,
    reads: Parts,
}

impl Packer {
    /// `reads`: the parts that the plugin says it reads.
    pub(crate) fn new(reads: Parts) -> Self {
        let batch = Batch {
            topic: String::new(),
            partition: 0,
            data: Vec::new(),
            entries: Vec::new(),
            headers: Vec::new(),
        };
        Self { batch, reads }
    }

    /// Packs messages of one partition, in their order; they are one run (see [`run`]). Their bytes together must be below 4 GiB, which `batch.bytes` sees to.
    pub(crate) fn pack(&mut self, topic: &str, partition: i32, messages: &[Message]) -> &Batch {
        let here = (topic, partition);
        let (topic, partition) = messages.first().map_or(here, |message| {
            let (topic, partition, _) = seen(message, topic, partition);
            (topic, partition)
        });
        if self.batch.topic != topic {
            topic.clone_into(&mut self.batch.topic);
        }
        self.batch.partition = partition.unsigned_abs();
        self.batch.data.clear();
        self.batch.entries.clear();
        self.batch.headers.clear();
        for message in messages {
            let key = self.part(Parts::KEY, message.key());
            let value = self.part(Parts::VALUE, message.value());
            let headers = self.headers(message);
            self.batch.entries.push(Entry {
                offset: seen(message, topic, partition).2.unsigned_abs(),
                timestamp_ms: message.timestamp_ms(),
                key,
                value,
                headers,
            });
        }
        &self.batch
    }

    fn part(&mut self, part: Parts, bytes: Option<&[u8]>) -> Option<Span> {
        let bytes = bytes.filter(|_| self.reads.contains(part))?;
        Some(self.append(bytes))
    }

    fn headers(&mut self, message: &Message) -> Span {
        let start = index(self.batch.headers.len());
        if self.reads.contains(Parts::HEADERS) {
            for (name, value) in message.headers() {
                let name = self.append(name);
                let value = value.map(|value| self.append(value));
                self.batch.headers.push(Header { name, value });
            }
        }
        Span {
            start,
            len: index(self.batch.headers.len()) - start,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Span {
        let start = index(self.batch.data.len());
        self.batch.data.extend_from_slice(bytes);
        Span {
            start,
            len: index(bytes.len()),
        }
    }
}

/// Kafka bounds a record to 2 GiB and a batch is bounded far below, so this does not saturate.
fn index(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::work::Work;

    const TOPICS: [&str; 2] = ["a", "b"];

    proptest! {
        /// Cut run by run, a batch keeps its records and their order, every part is what one partition could have given, and no part
        /// could have been longer.
        #[test]
        fn replayed_records_are_cut_where_they_were_not_read_together(
            records in prop::collection::vec((0..2_usize, 0..2_i32, 0..4_i64), 0..40),
        ) {
            let places: Vec<(&str, i32, i64)> = records.iter().map(|(topic, partition, offset)| (TOPICS[*topic], *partition, *offset)).collect();
            let mut work = Work::new(places.clone());
            let mut parts: Vec<Vec<(&str, i32, i64)>> = Vec::new();
            while let Some(part) = work.part() {
                let count = run_of(part.iter().copied());
                prop_assert!(count > 0);
                work.split(count);
                parts.push(work.part().unwrap().to_vec());
                work.advance(count);
            }
            prop_assert_eq!(parts.concat(), places);
            let follows = |one: &(&str, i32, i64), next: &(&str, i32, i64)| (one.0, one.1) == (next.0, next.1) && one.2 < next.2;
            for part in &parts {
                prop_assert!(part.windows(2).all(|pair| follows(&pair[0], &pair[1])), "{:?}", part);
            }
            for pair in parts.windows(2) {
                prop_assert!(!follows(pair[0].last().unwrap(), &pair[1][0]), "{:?}", pair);
            }
        }
    }
}
