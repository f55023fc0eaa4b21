//! The section `ingest`: what is accepted and what it becomes, and the mistakes.

use std::time::Duration;

use wasmill::config::Ingest;

use super::mistakes::Mistake;
use super::{check, with_stage_lines};

#[track_caller]
fn accepted(section: &str) -> Ingest {
    let pipeline = check(&format!("{}{section}", with_stage_lines("")));
    pipeline.unwrap_or_else(|errors| panic!("{errors}")).ingest.unwrap()
}

#[test]
fn an_ingest_section_is_read_in_full() {
    let ingest = accepted(
        "ingest:
  listen: '[::1]:8081'
  topics: {retail-product: {key: /a~1b/0}, orders: {}, returns: }
  body: 2MiB
  idempotency: {keep: 1h}
",
    );
    assert_eq!(ingest.listen.to_string(), "[::1]:8081");
    let topics: Vec<_> = ingest
        .topics
        .iter()
        .map(|topic| (topic.name.as_str(), topic.key.as_deref()))
        .collect();
    let key = vec!["a/b".to_owned(), "0".to_owned()];
    assert_eq!(
        topics,
        [("retail-product", Some(&key)), ("orders", None), ("returns", None)]
    );
    assert_eq!(ingest.body_bytes.value, 2 << 20);
    assert_eq!(ingest.idempotency_keep.value, Duration::from_secs(3600));
}

#[test]
fn an_ingest_section_needs_nothing_but_topics() {
    let ingest = accepted("ingest: {topics: [retail-product]}\n");
    assert_eq!(ingest.listen.to_string(), "127.0.0.1:8080");
    assert!(ingest.token.is_none() && ingest.topics[0].key.is_none());
    let sizes = (
        ingest.body_bytes.value,
        ingest.memory_bytes.value,
        ingest.idempotency_bytes.value,
    );
    assert_eq!(sizes, (1 << 20, 64 << 20, 64 << 20));
    assert_eq!((ingest.records.value, ingest.connections.value), (1_000, 1_000));
    let times = (
        ingest.timeout.value,
        ingest.client_timeout.value,
        ingest.idempotency_keep.value,
    );
    let seconds = Duration::from_secs;
    assert_eq!(times, (seconds(10), seconds(10), seconds(600)));
}

#[test]
fn other_machines_may_write_with_a_token() {
    let listen = "ingest: {topics: [a], listen: '0.0.0.0:8080', token: {env: PASSWORD}}\n";
    let ingest = accepted(listen);
    assert_eq!(ingest.token.unwrap().expose(), "hunter2");
}

#[test]
fn one_key_with_all_records_fits_the_memory_for_keys() {
    let section = |records: u32| {
        format!("ingest: {{topics: [a], memory: 256MiB, records: {records}, idempotency: {{memory: 1MiB}}}}\n")
    };
    accepted(&section(16_000));
    let mistakes = check(&format!("{}{}", with_stage_lines(""), section(20_000))).expect_err("it is accepted");
    assert!(
        mistakes.contains("`idempotency.memory` (1MiB)") && mistakes.contains("at least 2MiB"),
        "{mistakes}"
    );
}

pub(super) fn mistakes() -> Vec<Mistake> {
    let stages = "stages: {s: {plugin: p.wasm, input: a, output: b}}\n";
    let kafka = "kafka: {bootstrap.servers: 'localhost:9092'}\n";
    vec![
        (
            "an ingest section without topics",
            format!("app: noaa\n{kafka}ingest: {{listen: localhost, topic: [a]}}\n{stages}"),
        ),
        (
            "an ingest section that nothing could be written by",
            format!("app: noaa\n{kafka}ingest: {{topics: []}}\n{stages}"),
        ),
        (
            "an ingest listener for other machines without a token",
            format!("app: noaa\n{kafka}ingest:\n  topics: [a]\n  listen: 0.0.0.0:8080\n{stages}"),
        ),
        (
            "ingest topics that cannot be",
            format!("app: noaa\n{kafka}{INGEST_TOPICS}{stages}"),
        ),
        (
            "an ingest topic listed twice",
            format!("app: noaa\n{kafka}ingest: {{topics: [a, b, a]}}\n{stages}"),
        ),
        (
            "ingest topics of the host's own",
            format!("app: noaa\n{kafka}ingest: {{topics: [noaa.s.replay, noaa.dead-letters, b]}}\n{stages}"),
        ),
        (
            "ingest limits out of range",
            format!("app: noaa\n{kafka}{INGEST_LIMITS}{stages}"),
        ),
        (
            "ingest memory for less than a request",
            format!("app: noaa\n{kafka}ingest:\n  topics: [a]\n  memory: 4MiB\n  body: 2MiB\n{stages}"),
        ),
        (
            "an ingest timeout before anything is sent",
            format!(
                "app: noaa\nkafka: {{bootstrap.servers: 'k:9092', linger.ms: 2000}}\ningest:\n  topics: [a]\n  timeout: 2s\n{stages}"
            ),
        ),
    ]
}

const INGEST_TOPICS: &str = "\
ingest:
  topics:
    retail product: {key: /product_id}
    orders: {key: product_id}
    returns: {keys: /id}
    stock: {key: [id]}
    prices:
";

const INGEST_LIMITS: &str = "\
ingest:
  topics: [a]
  body: 100
  records: 0
  memory: 5GiB
  connections: many
  timeout: 10
  client-timeout: 10min
  idempotency: {keep: 0s, memory: 1KiB, for: 10m}
";
