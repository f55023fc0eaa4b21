//! Packs records into the one buffer and the tables that cross the border to a plugin.
//!
//! The buffers are kept from batch to batch, so a batch costs no allocation here once they have grown. What the plugin does not
//! read is left out: its key or value arrives as none, its headers as an empty range.

use crate::kafka::ffi::Message;
use crate::plugin::contract::{Batch, Entry, Header, Parts, Span};

/// The bytes of a record that count against a batch's bound.
pub(crate) fn bytes_of(message: &Message) -> usize {
    let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers: usize = message.headers().map(|(name, value)| name.len() + len(value)).sum();
    len(message.key()) + len(message.value()) + headers
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

    /// Packs messages of one partition, in their order. Their bytes together must be below 4 GiB, which `batch.bytes` sees to.
    pub(crate) fn pack(&mut self, topic: &str, partition: i32, messages: &[Message]) -> &Batch {
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
                offset: message.offset().unsigned_abs(),
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
