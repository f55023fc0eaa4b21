//! Each folder of `examples/` on a real broker: its input gives exactly its expected output.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::host::Invocation;
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, checkout, unique};

/// A line of `input.jsonl` or `expected.jsonl`; `examples/README.md` tells its shape.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    topic: String,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    headers: Vec<(String, Option<&'a RawValue>)>,
    timestamp: Option<i64>,
}

impl Line<'_> {
    fn record(&self) -> Record {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), bytes(*value)));
        Record {
            key: bytes(self.key),
            value: bytes(self.value),
            headers: headers.collect(),
            timestamp_ms: self.timestamp,
        }
    }
}

fn bytes(raw: Option<&RawValue>) -> Option<Vec<u8>> {
    let text = raw?.get();
    match serde_json::from_str(text).unwrap() {
        serde_json::Value::Null => None,
        serde_json::Value::String(string) => Some(string.into_bytes()),
        _ => Some(text.as_bytes().to_vec()),
    }
}

/// The records of a file by topic, in its order.
fn read(path: &str) -> BTreeMap<String, Vec<Record>> {
    let text = fs::read_to_string(checkout(path)).unwrap();
    let mut by_topic: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for line in text.lines() {
        let line: Line<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error} in {line}"));
        by_topic.entry(line.topic.clone()).or_default().push(line.record());
    }
    by_topic
}

/// The example's pipeline file as it is, but for names that no other run has used.
fn with_own_names(pipeline: &str, app: &str, topics: &[&String], own: impl Fn(&str) -> String) -> String {
    let mut text = pipeline.replace(&format!("app: {app} "), &format!("app: {} ", own(app)));
    // Longest first: one topic's name may begin with another's. The mark keeps a replaced name from being replaced again.
    let mut topics = topics.to_vec();
    topics.sort_by_key(|topic| std::cmp::Reverse(topic.len()));
    for topic in &topics {
        text = text.replace(&format!(": {topic}\n"), &format!(": {}\n", own(topic)));
    }
    text.replace("../../plugins", checkout("plugins").to_str().unwrap())
}

fn check(name: &str, app: &str) {
    let suffix = unique("x");
    let own = |name: &str| format!("{name}-{suffix}");
    let (input, expected) = (
        read(&format!("examples/{name}/input.jsonl")),
        read(&format!("examples/{name}/expected.jsonl")),
    );
    let topics: Vec<&String> = input.keys().chain(expected.keys()).collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipeline.yaml");
    let pipeline = fs::read_to_string(checkout(&format!("examples/{name}/pipeline.yaml"))).unwrap();
    fs::write(&path, with_own_names(&pipeline, app, &topics, own)).unwrap();
    let catch_up = || {
        Invocation::catch_up(&path)
            .env("KAFKA_BOOTSTRAP", kafka::bootstrap())
            .exits(0, PATIENCE * 3)
    };

    // The first run has nothing to read: it makes the topics.
    catch_up();
    for (topic, records) in &input {
        kafka::produce(&own(topic), None, records);
    }
    catch_up();

    for (topic, expected) in &expected {
        let mut found: Vec<Record> = kafka::read_committed(&own(topic))
            .into_iter()
            .map(|placed| placed.record)
            .collect();
        found.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(found.len(), expected.len(), "{topic}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, expected, "{topic}");
        }
    }
    assert_eq!(kafka::read_committed(&format!("{}.dead-letters", own(app))), []);
}

#[test]
fn noaa_gives_what_it_says() {
    check("noaa", "noaa");
}
