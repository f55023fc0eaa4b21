//! Each folder of `examples/` on real servers: its input gives exactly its expected output, and the commands of its README do what it says.
//!
//! The commands run as they stand, on servers of their own, because their names are those of the files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::host::{Host, Invocation};
use crate::support::kafka::{self, Kafka, Record};
use crate::support::servers::Started;
use crate::support::{PATIENCE, checkout, unique, wait_for};

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
    match text.as_bytes()[0] {
        b'n' => None,
        b'"' => Some(serde_json::from_str::<String>(text).unwrap().into_bytes()),
        _ => Some(text.as_bytes().to_vec()),
    }
}

/// The records of an example's file by topic, in its order.
fn read(name: &str, file: &str) -> BTreeMap<String, Vec<Record>> {
    let path = format!("examples/{name}/{file}");
    let text = fs::read_to_string(checkout(&path)).unwrap();
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
    for topic in topics {
        text = text.replace(&format!(": {topic}\n"), &format!(": {}\n", own(topic)));
    }
    text.replace("../../plugins", checkout("plugins").to_str().unwrap())
}

/// The topics of `kafka` hold what `expected.jsonl` says, whatever their names are there; `is_as_sent` where timestamps are those of `input.jsonl`.
fn assert_expected(kafka: &Kafka, name: &str, own: impl Fn(&str) -> String, is_as_sent: bool) {
    let letters = format!("{name}.dead-letters");
    let mut all = read(name, "expected.jsonl");
    all.entry(letters.clone()).or_default();
    for (topic, expected) in &all {
        let mut found: Vec<Record> = kafka
            .read_committed(&own(topic))
            .into_iter()
            .map(|placed| placed.record)
            .collect();
        found.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(found.len(), expected.len(), "{topic}: {found:#?}");
        for (mut found, expected) in found.into_iter().zip(expected) {
            if expected.timestamp_ms.is_none() || !is_as_sent {
                found.timestamp_ms = expected.timestamp_ms;
            }
            if *topic == letters {
                found.headers.retain(|header| expected.headers.contains(header));
            }
            assert_eq!(found, *expected, "{topic}");
        }
    }
}

/// Runs the pipeline file on the Kafka of most tests, fed with the records of `input.jsonl` as they are, timestamps and headers too.
fn check(name: &str) {
    let suffix = unique("x");
    let own = |topic: &str| match topic.strip_prefix(name) {
        Some(".dead-letters") => format!("{name}-{suffix}.dead-letters"),
        _ => format!("{topic}-{suffix}"),
    };
    let (input, expected) = (read(name, "input.jsonl"), read(name, "expected.jsonl"));
    let topics: Vec<&String> = input.keys().chain(expected.keys()).collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipeline.yaml");
    let pipeline = fs::read_to_string(checkout(&format!("examples/{name}/pipeline.yaml"))).unwrap();
    fs::write(&path, with_own_names(&pipeline, name, &topics, &own)).unwrap();
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
    assert_expected(&Kafka::shared(), name, own, true);
}

/// A Kafka on which the examples' own names are free.
fn kafka_of_the_examples() -> Kafka {
    static STARTED: OnceLock<Result<Started, String>> = OnceLock::new();
    match STARTED.get_or_init(|| Started::new(&[])) {
        Ok(started) => Kafka {
            bootstrap: started.bootstrap.clone(),
            replication: 1,
        },
        Err(error) => panic!("this test needs a Kafka of its own: {error}"),
    }
}

/// The commands of a README, and what they have to print where it says so: the `text` block right after an `sh` block.
fn commands(readme: &str) -> Vec<(&str, Option<&str>)> {
    // Every other part stands inside of a fence, and begins with its language.
    let parts: Vec<&str> = readme.split("```").collect();
    let block = |index: usize, language: &str| parts.get(index)?.strip_prefix(language)?.strip_prefix('\n');
    (1..parts.len())
        .step_by(2)
        .filter_map(|index| {
            let follows = parts.get(index + 1).is_some_and(|between| between.trim().is_empty());
            Some((block(index, "sh")?, block(index + 2, "text").filter(|_| follows)))
        })
        .collect()
}

/// Runs all commands of the example's README, with the binary under test in the place of `cargo run`.
fn run_readme(name: &str, kafka: &Kafka) {
    let readme = fs::read_to_string(checkout(&format!("examples/{name}/README.md"))).unwrap();
    let programs = TempDir::new().unwrap();
    let cargo = programs.path().join("cargo");
    let (host, real) = (env!("CARGO_BIN_EXE_wasmill"), env!("CARGO"));
    let script = format!(
        "#!/bin/sh\nif [ \"$1 $2 $3\" = \"run --release --\" ]; then shift 3; exec {host} \"$@\"; fi\nexec {real} \"$@\"\n"
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());

    let mut compared = 0;
    for (command, expected) in commands(&readme) {
        let output = Command::new("bash")
            .current_dir(checkout("."))
            .args(["-euo", "pipefail", "-c"])
            .arg(command.replace("localhost:9092", &kafka.bootstrap))
            .env("PATH", &path)
            .output()
            .unwrap();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{command}\nended with {}\n{stdout}\n{stderr}",
            output.status
        );
        if let Some(expected) = expected {
            assert_eq!(stdout, expected, "{command}\n{stderr}");
            compared += 1;
        }
    }
    assert!(compared > 0, "the README of {name} says of no command what it prints");
}

#[test]
fn noaa_gives_what_it_says() {
    check("noaa");
}

#[test]
fn the_commands_for_noaa_do_what_they_say() {
    let kafka = kafka_of_the_examples();
    run_readme("noaa", &kafka);
    assert_expected(&kafka, "noaa", str::to_owned, false);
}

#[test]
fn stateless_gives_what_it_says() {
    check("stateless");
}

#[test]
fn the_commands_for_stateless_do_what_they_say() {
    let kafka = kafka_of_the_examples();
    run_readme("stateless", &kafka);
    assert_expected(&kafka, "stateless", str::to_owned, false);
}

#[test]
fn calculator_gives_what_it_says() {
    check("calculator");
}

/// Two processes share the partitions of every stage, and each of 5,000 calculations has its right result once.
#[test]
fn the_commands_for_calculator_do_what_they_say_and_two_processes_share_the_work() {
    let kafka = kafka_of_the_examples();
    run_readme("calculator", &kafka);
    assert_expected(&kafka, "calculator", str::to_owned, false);

    let path = checkout("examples/calculator/pipeline.yaml");
    let hosts: Vec<Host> = ["a", "b"]
        .iter()
        .map(|instance| {
            Invocation::run(&path)
                .env("KAFKA_BOOTSTRAP", &kafka.bootstrap)
                .env("WASMILL_INSTANCE", instance)
                .start()
        })
        .collect();
    for stage in ["route", "sum", "subtract"] {
        wait_for(
            &format!("four workers of {stage} to have a partition each"),
            PATIENCE,
            || (kafka.members(&format!("calculator.{stage}"))? == [1, 1, 1, 1]).then_some(()),
        );
    }
    let before = kafka.read_committed("calculator-results").len();
    let numbers = 0..5_000_i64;
    let calculations: Vec<Record> = numbers.clone().map(|number| calculation(number).0).collect();
    let sender = kafka.sender();
    calculations
        .iter()
        .for_each(|record| sender.send("calculations", None, record));
    sender.flush();
    let results = kafka.read_at_least("calculator-results", before + calculations.len(), PATIENCE);
    hosts.into_iter().for_each(|host| host.terminated_with(0));

    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for placed in results
        .into_iter()
        .filter(|placed| placed.record.key_text().starts_with("number-"))
    {
        let value: serde_json::Value = serde_json::from_str(placed.record.value_text()).unwrap();
        let result = value["result"].as_i64().unwrap();
        found
            .entry(placed.record.key_text().to_owned())
            .or_default()
            .push(result);
    }
    let expected: BTreeMap<String, Vec<i64>> = numbers
        .map(|number| (format!("number-{number}"), vec![calculation(number).1]))
        .collect();
    assert_eq!(found, expected);
}

/// A record that asks for a calculation, and its result.
fn calculation(number: i64) -> (Record, i64) {
    let operands = [number, number * 7, 3];
    let (operation, result) = match number % 2 {
        0 => ("sum", operands[0] + operands[1] + operands[2]),
        _ => ("subtract", operands[0] - operands[1] - operands[2]),
    };
    let value = json!({"operation": operation, "operands": operands});
    (Record::new(format!("number-{number}"), value.to_string()), result)
}
