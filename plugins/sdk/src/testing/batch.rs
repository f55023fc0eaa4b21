//! Packs records into a batch, as the host does: what the plugin does not read stays out.

use super::Input;
use crate::Reads;
use crate::answer::span;
use crate::bindings::wasmill::plugin::types::{Batch, Entry, Header, Span};

pub(super) fn pack(records: &[Input], reads: Reads) -> Batch {
    let (topic, partition) = records
        .first()
        .and_then(|record| record.position.clone())
        .map_or_else(|| ("input".to_owned(), 0), |(topic, partition, _)| (topic, partition));
    let mut batch = Batch {
        topic,
        partition,
        data: Vec::new(),
        entries: Vec::new(),
        headers: Vec::new(),
    };
    for (number, record) in records.iter().enumerate() {
        let entry = pack_record(&mut batch, record, number as u64, reads);
        batch.entries.push(entry);
    }
    batch
}

fn pack_record(batch: &mut Batch, record: &Input, number: u64, reads: Reads) -> Entry {
    let offset = match &record.position {
        Some((topic, partition, offset)) => {
            assert!(
                *topic == batch.topic && *partition == batch.partition,
                "the records of a batch are of one topic and partition"
            );
            *offset
        }
        None => number,
    };
    let key = record
        .key
        .as_ref()
        .filter(|_| reads.key)
        .map(|key| push(&mut batch.data, key));
    let value = record
        .value
        .as_ref()
        .filter(|_| reads.value)
        .map(|value| push(&mut batch.data, value));
    let first_header = batch.headers.len();
    if reads.headers {
        for (name, value) in &record.headers {
            let name = push(&mut batch.data, name);
            let value = value.as_ref().map(|value| push(&mut batch.data, value));
            batch.headers.push(Header { name, value });
        }
    }
    let headers = span(first_header, batch.headers.len());
    Entry {
        offset,
        timestamp_ms: record.timestamp_ms,
        key,
        value,
        headers,
    }
}

fn push(data: &mut Vec<u8>, bytes: &[u8]) -> Span {
    let start = data.len();
    data.extend_from_slice(bytes);
    span(start, data.len())
}
