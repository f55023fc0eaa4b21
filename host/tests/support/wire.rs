//! Writes records by Kafka's own protocol, byte for byte, for what no client library lets a test send: header names that are not
//! UTF-8, a timestamp of 0, a negative one, or none.
//!
//! One record is one request and one record batch (format 2, uncompressed), so the size of its batch is known exactly.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::kafka::{Record, leader};

/// Appends records to a partition, one after the other; each is acknowledged before the next is sent.
pub(crate) fn produce(topic: &str, partition: i32, records: &[Record]) {
    let (host, port) = leader(topic, partition);
    let mut broker = TcpStream::connect((host, port)).unwrap();
    broker.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for record in records {
        broker.write_all(&request(topic, partition, &batch(record))).unwrap();
        let error = answer(&mut broker, topic);
        assert_eq!(error, 0, "the broker refuses {record:?} with error code {error}");
    }
}

/// The size of the record batch that holds this record alone: what a topic's `max.message.bytes` limits.
pub(crate) fn batch_bytes(record: &Record) -> usize {
    batch(record).len()
}

/// A Produce request of version 3, the oldest that today's brokers take.
fn request(topic: &str, partition: i32, batch: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(0_i16.to_be_bytes()); // Produce
    body.extend(3_i16.to_be_bytes()); // its version
    body.extend(1_i32.to_be_bytes()); // correlation id
    body.extend((-1_i16).to_be_bytes()); // no client id
    body.extend((-1_i16).to_be_bytes()); // no transactional id
    body.extend((-1_i16).to_be_bytes()); // acknowledged by all
    body.extend(30_000_i32.to_be_bytes()); // timeout
    body.extend(1_i32.to_be_bytes()); // one topic
    body.extend((topic.len() as i16).to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1_i32.to_be_bytes()); // one partition
    body.extend(partition.to_be_bytes());
    body.extend((batch.len() as i32).to_be_bytes());
    body.extend(batch);

    let mut request = (body.len() as i32).to_be_bytes().to_vec();
    request.extend(body);
    request
}

/// Reads an answer and returns its error code: after size, correlation id, one topic with its name, one partition.
fn answer(broker: &mut TcpStream, topic: &str) -> i16 {
    let mut size = [0; 4];
    broker.read_exact(&mut size).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    broker.read_exact(&mut answer).unwrap();
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    i16::from_be_bytes([answer[at], answer[at + 1]])
}

fn batch(record: &Record) -> Vec<u8> {
    let record_bytes = encode(record);
    let timestamp_ms = record.timestamp_ms.unwrap_or(-1);

    let mut checked = Vec::new();
    checked.extend(0_i16.to_be_bytes()); // attributes: uncompressed, create time
    checked.extend(0_i32.to_be_bytes()); // offset delta of the last record
    checked.extend(timestamp_ms.to_be_bytes()); // of the first record
    checked.extend(timestamp_ms.to_be_bytes()); // the highest
    checked.extend((-1_i64).to_be_bytes()); // no producer id
    checked.extend((-1_i16).to_be_bytes()); // no producer epoch
    checked.extend((-1_i32).to_be_bytes()); // no sequence
    checked.extend(1_i32.to_be_bytes()); // one record
    varint(&mut checked, record_bytes.len() as i64);
    checked.extend(record_bytes);

    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes()); // base offset: the broker's to choose
    batch.extend((4 + 1 + 4 + checked.len() as i32).to_be_bytes());
    batch.extend((-1_i32).to_be_bytes()); // leader epoch
    batch.push(2); // format
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![0]; // attributes
    varint(&mut bytes, 0); // timestamp delta
    varint(&mut bytes, 0); // offset delta
    optional(&mut bytes, record.key.as_deref());
    optional(&mut bytes, record.value.as_deref());
    varint(&mut bytes, record.headers.len() as i64);
    for (name, value) in &record.headers {
        optional(&mut bytes, Some(name));
        optional(&mut bytes, value.as_deref());
    }
    bytes
}

fn optional(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint(bytes, -1),
        Some(value) => {
            varint(bytes, value.len() as i64);
            bytes.extend(value);
        }
    }
}

/// Zigzag, then seven bits a byte, lowest first.
fn varint(bytes: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// CRC-32C (Castagnoli), bit by bit: the records of the tests are small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

#[test]
fn crc32c_gives_the_check_value_of_its_definition() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
}
