//! What a transaction is said to hold, on the embedded broker.

use super::*;
use crate::config::{self, Broker};
use crate::fixture::Fixture;
use crate::kafka::embedded::{Embedded, feed};
use crate::kafka::scan::Scan;
use crate::kafka::settings;
use crate::plugin::contract::{Header, PortKind, Replies, Reply, Span};
use crate::plugin::limits::Limits;

const HEADERS: usize = 16;
const HEADER_BYTES: usize = 60_000;

/// A record with a header of 1,000 bytes, and a sink that is connected.
fn record_and_sink(broker: &Embedded) -> (Message, Sink) {
    for topic in ["in", "out"] {
        broker.create_topic(topic, 1).unwrap();
    }
    let text = "app: a\nstages: {s: {plugin: p.wasm, input: in, output: out}}\n";
    let mut pipeline = config::parse(text, "p.yaml".as_ref(), &|_| None, Broker::Embedded).unwrap();
    crate::dev::adapt(&mut pipeline, broker);
    let record = Fixture {
        topic: "in".to_owned(),
        key: None,
        value: Some(b"value".to_vec()),
        headers: vec![("h".to_owned(), Some(vec![b'x'; 1_000]))],
        timestamp_ms: Some(1),
    };
    feed(&broker.bootstrap_servers(), &[record], || ()).unwrap();
    let message = Scan::connect(&pipeline.kafka, "g")
        .unwrap()
        .one("in", 0, 0)
        .unwrap()
        .unwrap();
    let destination = Destination {
        topic: "out".to_owned(),
        partitions: 1,
        written: (Counter::default(), Counter::default()),
    };
    let config = settings::producer(&pipeline.kafka, None, None);
    let mut sink = Sink::new("test".to_owned(), config, Guarantee::AtLeastOnce, vec![destination]);
    sink.ready().unwrap();
    sink.begin(Instant::now()).unwrap();
    (message, sink)
}

/// An answer with large headers that are all the same bytes.
fn answer() -> Checked {
    let span = |start, len: usize| Span {
        start,
        len: u32::try_from(len).unwrap(),
    };
    let header = Header {
        name: span(0, 1),
        value: Some(span(0, HEADER_BYTES)),
    };
    let replies = Replies {
        data: vec![b'x'; HEADER_BYTES],
        replies: vec![Reply::Skip],
        emissions: Vec::new(),
        headers: vec![header; HEADERS],
    };
    Checked::new(replies, 1, &[PortKind::Message], &Limits::patient().answer).unwrap()
}

#[test]
fn headers_count_for_what_a_transaction_holds() {
    let broker = Embedded::start().unwrap();
    let (message, mut sink) = record_and_sink(&broker);
    let answer = answer();
    let delivery = Delivery {
        destination: 0,
        key: Bytes::Source,
        value: Bytes::Source,
        source_headers: true,
        headers: answer.headers(Span {
            start: 0,
            len: u32::try_from(HEADERS).unwrap(),
        }),
        timestamp_ms: None,
        partition: None,
        stamp: &[],
    };
    let size = sink.check(&message, &answer, &delivery).unwrap();
    assert!(size > HEADERS * HEADER_BYTES);
    sink.write(&message, &answer, &delivery).unwrap();
    sink.write(&message, &answer, &delivery).unwrap();
    assert_eq!((sink.records(), sink.bytes()), (2, 2 * size));
    assert!(sink.producer().unwrap().flush(FLUSH_TIMEOUT));

    let own = "value".len() + "h".len() + 1_000;
    let before = sink.bytes();
    let headers = [("wasmill.message", "m".repeat(5_000))];
    assert!(!sink.write_dead_letter(0, &message, &headers, true).unwrap());
    let letter = sink.bytes() - before;
    assert!(letter >= own + 5_000, "{letter}");
    let before = sink.bytes();
    assert!(sink.write_dead_letter(0, &message, &headers, false).unwrap());
    let cut = sink.bytes() - before;
    assert!((5_000..own + 5_000).contains(&cut), "{cut}");
}
