//! A pipeline of one stage, `act`, that writes documents: its topics, its index, what is sent into it, and what has to come of it.
//!
//! The guest `act` does what each record says; [`Act`] is such a record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::elastic::{Document, Elastic};
use super::guests::guest;
use super::host::{Host, Invocation, Pipeline};
use super::kafka::{self, Record};
use super::{PATIENCE, unique, wait_for};

pub(crate) const PARTITIONS: i32 = 4;
const OUTPUT: [&str; 5] = ["stages", "act", "outputs", "documents", "elasticsearch"];

/// A record that says what to do with a document.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// None: what the host does without one.
    pub(crate) action: Option<&'static str>,
    /// The record's key.
    pub(crate) id: String,
    /// None: null.
    pub(crate) body: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) timestamp_ms: Option<i64>,
}

impl Act {
    pub(crate) fn new(action: &'static str, id: impl Into<String>, body: &Value) -> Self {
        Self::raw(action, id, &body.to_string())
    }

    /// With a body that need not be JSON.
    pub(crate) fn raw(action: &'static str, id: impl Into<String>, body: &str) -> Self {
        Self {
            action: Some(action),
            id: id.into(),
            body: Some(body.to_owned()),
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }

    pub(crate) fn index(id: impl Into<String>, body: &Value) -> Self {
        Self::new("index", id, body)
    }

    /// A record without a value.
    pub(crate) fn tombstone(id: impl Into<String>) -> Self {
        Self {
            action: None,
            body: None,
            ..Self::raw("delete", id, "")
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn at(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    pub(crate) fn record(&self) -> Record {
        let action = self.action.map(|action| ("action", action.to_owned()));
        let headers = action.into_iter().chain(self.headers.iter().cloned());
        Record {
            key: Some(self.id.clone().into_bytes()),
            value: self.body.clone().map(String::into_bytes),
            headers: headers
                .map(|(name, value)| (name.as_bytes().to_vec(), Some(value.into_bytes())))
                .collect(),
            timestamp_ms: self.timestamp_ms,
        }
    }

    /// Where it goes: one partition for all records of an id.
    pub(crate) fn partition(&self) -> i32 {
        self.id
            .bytes()
            .fold(0_i32, |sum, byte| (sum * 31 + i32::from(byte)) % PARTITIONS)
    }
}

/// The pipeline's surroundings.
pub(crate) struct Documents {
    pub(crate) elastic: Elastic,
    pub(crate) app: String,
    pub(crate) input: String,
    pub(crate) letters: String,
    pub(crate) index: String,
}

impl Documents {
    /// With an index that takes any document.
    pub(crate) fn new(name: &str, elastic: Elastic) -> Self {
        Self::with(name, elastic, Value::Null, Value::Null)
    }

    /// With an index of these mappings and settings.
    pub(crate) fn with(name: &str, elastic: Elastic, mappings: Value, settings: Value) -> Self {
        let documents = Self::without_index(name, elastic);
        documents.elastic.create_index(&documents.index, mappings, settings);
        documents
    }

    pub(crate) fn without_index(name: &str, elastic: Elastic) -> Self {
        let app = unique(name);
        let [input, letters] = ["in", "dead-letters"].map(|name| format!("{app}.{name}"));
        kafka::create_topic(&input, PARTITIONS, &[]);
        kafka::create_topic(&letters, 1, &[]);
        Self {
            elastic,
            index: app.clone(),
            app,
            input,
            letters,
        }
    }

    /// The pipeline, writing to the server at this address.
    pub(crate) fn pipeline(&self, url: &str) -> Pipeline {
        let output = json!({"index": self.index, "timeout": "5s"});
        Pipeline::new(&self.app)
            .set(&["elasticsearch"], json!({"url": url}))
            .set(&["stages", "act", "plugin"], guest("act").to_str().unwrap())
            .set(&["stages", "act", "input"], self.input.as_str())
            .set(&OUTPUT, output)
    }

    /// The place of a key of the output.
    pub(crate) fn key(name: &'static str) -> [&'static str; 6] {
        let [a, b, c, d, e] = OUTPUT;
        [a, b, c, d, e, name]
    }

    pub(crate) fn group(&self) -> String {
        format!("{}.act", self.app)
    }

    pub(crate) fn send(&self, acts: &[Act]) {
        let sender = kafka::Kafka::shared().sender();
        for act in acts {
            sender.send(&self.input, Some(act.partition()), &act.record());
        }
        sender.flush();
    }

    /// Runs the pipeline until nothing is left, and fails if that takes too long.
    #[track_caller]
    pub(crate) fn catches_up(&self, pipeline: &Pipeline) {
        Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE * 2);
        self.assert_nothing_is_left();
    }

    /// Every record is committed.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(self.left(), 0, "records that are not committed");
    }

    /// Records that are not committed.
    pub(crate) fn left(&self) -> i64 {
        let committed = kafka::committed(&self.group(), &self.input);
        let ends = kafka::end_offsets(&self.input);
        let left = ends
            .iter()
            .map(|(partition, end)| end - committed.get(partition).copied().unwrap_or_default());
        left.sum()
    }

    /// Waits until everything that was sent is committed, then ends the host.
    #[track_caller]
    pub(crate) fn is_done(&self, host: Host, deadline: Duration) {
        wait_for("all records to be committed", deadline, || {
            (self.left() == 0).then_some(())
        });
        host.terminated_with(0);
        self.assert_nothing_is_left();
    }

    /// The documents of the index.
    pub(crate) fn found(&self) -> BTreeMap<String, Document> {
        self.elastic.documents(&self.index)
    }

    /// What is wrong with the index that should hold exactly these documents.
    pub(crate) fn wrong(&self, expected: &BTreeMap<String, Value>) -> Vec<String> {
        let found = self.found();
        let ids: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        let source = |id: &String| found.get(id).map(|document| &document.source);
        ids.into_iter()
            .filter(|id| source(id) != expected.get(*id))
            .map(|id| format!("{id}: {:?} instead of {:?}", source(id), expected.get(id)))
            .collect()
    }

    /// Fails unless the index holds exactly these documents.
    #[track_caller]
    pub(crate) fn assert_holds(&self, expected: &BTreeMap<String, Value>) {
        let wrong = self.wrong(expected);
        let first = wrong.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(
            wrong.is_empty(),
            "{} of {} documents are wrong:\n{first}",
            wrong.len(),
            expected.len()
        );
    }

    /// The keys of the dead letters, sorted, each with its reason.
    pub(crate) fn letters(&self) -> Vec<(String, String)> {
        let records = kafka::read_committed(&self.letters)
            .into_iter()
            .map(|placed| placed.record);
        let mut letters: Vec<_> = records
            .map(|record| {
                let reason = record.header("wasmill.message").unwrap_or_default().to_owned();
                (record.key_text().to_owned(), reason)
            })
            .collect();
        letters.sort();
        letters
    }

    /// Fails unless exactly the records of these ids are dead letters.
    #[track_caller]
    pub(crate) fn assert_letters(&self, ids: &[&str]) {
        let letters = self.letters();
        let found: Vec<&str> = letters.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(found, ids, "{letters:?}");
    }
}

/// What an index holds after the actions that really happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) documents: BTreeMap<String, Value>,
}

impl Model {
    /// Does it; false where Elasticsearch refuses it.
    pub(crate) fn apply(&mut self, act: &Act) -> bool {
        let body = || -> Value { serde_json::from_str(act.body.as_deref().unwrap_or("null")).unwrap() };
        let is_there = self.documents.contains_key(&act.id);
        match (act.action, &act.body) {
            (Some("delete"), _) | (None, None) => {
                self.documents.remove(&act.id);
                true
            }
            (Some("create"), _) if is_there => false,
            (Some("update"), _) if !is_there => false,
            (Some("update" | "upsert"), _) if is_there => {
                let document = self.documents.get_mut(&act.id).unwrap();
                merge(document, body());
                true
            }
            _ => {
                self.documents.insert(act.id.clone(), body());
                true
            }
        }
    }

    /// What is left when all of these are done, in this order.
    pub(crate) fn of(acts: &[Act]) -> Self {
        let mut model = Self::default();
        for act in acts {
            model.apply(act);
        }
        model
    }
}

/// As a partial update does: objects are merged, all else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
