//! What a replay does where topics were made again, have several inputs, or cannot be written in a transaction.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::{Value, json};

use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline, Printed};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, unique, wait_for};

/// A stage `guarded` between two inputs and an output, with a plugin that rejects on demand.
struct Place {
    inputs: [String; 2],
    output: String,
    letters: String,
    replay: String,
    pipeline: Pipeline,
}

impl Place {
    fn new(name: &str, partitions: i32) -> Self {
        let app = unique(name);
        let [first, second, output, letters, replay] =
            ["first", "second", "out", "dead-letters", "guarded.replay"].map(|name| format!("{app}.{name}"));
        for topic in [&first, &second, &output, &letters] {
            kafka::create_topic(topic, partitions, &[]);
        }
        let pipeline = Pipeline::new(&app)
            .stage("guarded", &guest("versioned"), json!({}), &first, &output)
            .set(&["stages", "guarded", "input"], json!([first, second]));
        Self {
            inputs: [first, second],
            output,
            letters,
            replay,
            pipeline,
        }
    }

    fn set(mut self, path: &[&str], value: Value) -> Self {
        self.pipeline = self.pipeline.set(path, value);
        self
    }

    fn write(&self) -> PathBuf {
        self.pipeline.write()
    }
}

#[track_caller]
fn replay(path: &Path, more: &[&str], code: i32) -> Printed {
    let arguments = [&["dlq", "replay", path.to_str().unwrap(), "--yes"], more].concat();
    Invocation::new(&arguments).exits(code, PATIENCE)
}

fn delete_topic(topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka::bootstrap());
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(admin.delete_topics(&[topic], &AdminOptions::new()))
        .unwrap()
        .remove(0)
        .unwrap();
    wait_for("the topic to go", PATIENCE, || {
        kafka::partitions(topic).is_none().then_some(())
    });
}

#[test]
fn letters_of_a_topic_that_was_made_again_were_not_replayed() {
    let place = Place::new("remade", 1);
    let records = ["reject 0", "reject 1"].map(|value| Record::new("key", value));
    kafka::produce(&place.inputs[0], None, &records);
    let path = place.write();
    Invocation::catch_up(&path).exits(0, PATIENCE);
    replay(&path, &[], 0).says("replayed 2 records");

    let letters: Vec<Record> = kafka::read_committed(&place.letters)
        .into_iter()
        .map(|placed| placed.record)
        .collect();
    delete_topic(&place.letters);
    kafka::create_topic(&place.letters, 1, &[]);
    kafka::produce(&place.letters, Some(0), letters.iter().rev());
    let listed = Invocation::new(&["dlq", "ls", path.to_str().unwrap(), "--json"]).exits(0, PATIENCE);
    assert_eq!(
        listed.stdout.matches("\"replayed\":false").count(),
        2,
        "{}",
        listed.stdout
    );
    replay(&path, &[], 0).says("replayed 2 records");
    replay(&path, &[], 0).says("nothing to replay");
}

#[test]
fn a_plugin_sees_a_replayed_record_where_it_was_read_first() {
    let place = Place::new("seen", 2);
    for input in &place.inputs {
        for partition in 0..2 {
            let records: Vec<Record> = (0..6)
                .map(|number| Record::new("key", if number % 2 == 0 { "fine" } else { "reject" }))
                .collect();
            kafka::produce(input, Some(partition), &records);
        }
    }
    Invocation::catch_up(&place.write()).exits(0, PATIENCE);
    let fine = kafka::read_committed(&place.output).len();
    assert_eq!(fine, 12);

    let place = place.set(&["stages", "guarded", "config"], json!({"position": true}));
    let path = place.write();
    // Replayed twice: the same position comes twice, and offsets fall.
    replay(&path, &[], 0).says("replayed 12 records");
    replay(&path, &["--again"], 0).says("replayed 12 records");
    // Somebody else writes to the topic, too.
    kafka::produce(&place.replay, Some(1), &[Record::new("key", "foreign")]);
    let foreign = kafka::read_committed(&place.replay)
        .iter()
        .filter(|placed| placed.record.value_text() == "foreign")
        .map(|placed| format!("{}/{}/{}", place.replay, placed.partition, placed.offset))
        .collect::<Vec<_>>();
    Invocation::catch_up(&path).exits(0, PATIENCE);
    let seen: Vec<String> = kafka::read_committed(&place.output)
        .iter()
        .map(|placed| placed.record.value_text().to_owned())
        .filter(|value| value != "first: fine")
        .collect();
    assert_eq!(seen.len(), 25, "{seen:?}");
    let mut expected: BTreeSet<String> = foreign.into_iter().collect();
    for input in &place.inputs {
        for placed in kafka::read_committed(input) {
            if placed.record.value_text() == "reject" {
                expected.insert(format!("{input}/{}/{}", placed.partition, placed.offset));
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// What a record may send is bounded, and a trial knows that bound.
#[test]
fn a_trial_fails_what_the_stage_would_fail() {
    let place = Place::new("bounded", 1).set(
        &["stages", "guarded", "plugin"],
        json!(guest("misbehave").to_str().unwrap()),
    );
    kafka::produce(&place.inputs[0], None, &[Record::new("key", "repeated")]);
    let path = place.write();
    Invocation::catch_up(&path).exits(0, PATIENCE);
    let text = "the outputs of one record exceed";
    let listed = Invocation::new(&["dlq", "show", path.to_str().unwrap(), "0:0"]).exits(0, PATIENCE);
    listed.says(text);
    let plugin = guest("misbehave");
    let tried = Invocation::new(&[
        "dlq",
        "test",
        path.to_str().unwrap(),
        "--plugin",
        plugin.to_str().unwrap(),
    ]);
    tried.exits(1, PATIENCE).says(text);
}

#[test]
fn a_replay_that_can_begin_no_transaction_makes_no_topic() {
    let place = Place::new("untransacted", 1);
    kafka::produce(&place.inputs[0], None, &[Record::new("key", "reject")]);
    let path = place.write();
    Invocation::catch_up(&path).exits(0, PATIENCE);
    // The brokers allow 15 minutes.
    let place = place.set(&["kafka", "transaction.timeout.ms"], json!(10_000_000));
    replay(&place.write(), &[], 1).says("the brokers allow no transaction of 10000 s");
    assert_eq!(kafka::partitions(&place.replay), None);
    let place = place.set(&["kafka", "transaction.timeout.ms"], json!(15_000));
    replay(&place.write(), &[], 0).says("replayed 1 record");
}
