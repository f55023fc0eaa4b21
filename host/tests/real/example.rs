//! Each folder of `examples/` on real servers: its input gives exactly its expected output, and the commands of its README do what it says.
//!
//! The commands run as they stand, on servers of their own, because their names are those of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::elastic::Elastic;
use crate::support::host::{Host, Invocation};
use crate::support::kafka::{self, Kafka, Record};
use crate::support::servers::Started;
use crate::support::smtp::{Mail, Smtp};
use crate::support::{PATIENCE, checkout, free_port, unique, wait_for};

/// The Elasticsearch that READMEs name.
const ELASTICSEARCH: &str = "http://localhost:9200";

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

/// A line that is a document: one to begin with, in `input.jsonl`, or one to end with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    index: String,
    id: String,
    /// Of an expected document only.
    #[serde(default)]
    version: u64,
    document: Value,
}

/// A file of an example, in its order.
struct Lines {
    records: BTreeMap<String, Vec<Record>>,
    documents: Vec<Stored>,
}

impl Lines {
    fn read(name: &str, file: &str) -> Lines {
        let path = format!("examples/{name}/{file}");
        let text = fs::read_to_string(checkout(&path)).unwrap();
        let mut lines = Lines {
            records: BTreeMap::new(),
            documents: Vec::new(),
        };
        for line in text.lines() {
            if let Ok(document) = serde_json::from_str(line) {
                lines.documents.push(document);
                continue;
            }
            let line: Line<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error} in {line}"));
            lines.records.entry(line.topic.clone()).or_default().push(line.record());
        }
        lines
    }

    /// The names of all topics and indices.
    fn names(&self) -> impl Iterator<Item = &String> {
        let indices = self.documents.iter().map(|stored| &stored.index);
        self.records.keys().chain(indices)
    }
}

/// The example's pipeline file as it is, but for names that no other run has used.
fn with_own_names(pipeline: &str, names: &BTreeSet<&str>, own: impl Fn(&str) -> String) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let (mut text, mut rest) = (String::new(), pipeline);
    while let Some(start) = rest.find(is_of_name) {
        let (before, tail) = rest.split_at(start);
        let (name, after) = tail.split_at(tail.find(|c| !is_of_name(c)).unwrap_or(tail.len()));
        text.push_str(before);
        match names.contains(name) {
            true => text.push_str(&own(name)),
            false => text.push_str(name),
        }
        rest = after;
    }
    text.push_str(rest);
    text.replace("../../plugins", checkout("plugins").to_str().unwrap())
}

/// Topics and indices hold what `expected.jsonl` says, whatever their names are; `is_as_sent` where timestamps are those of `input.jsonl`.
fn assert_expected(kafka: &Kafka, name: &str, own: impl Fn(&str) -> String, is_as_sent: bool) {
    let letters = format!("{name}.dead-letters");
    let mut all = Lines::read(name, "expected.jsonl");
    let indices: BTreeSet<&String> = all.documents.iter().map(|stored| &stored.index).collect();
    for index in indices {
        let expected = all.documents.iter().filter(|stored| stored.index == *index);
        let expected: BTreeMap<&str, (u64, &Value)> = expected
            .map(|stored| (stored.id.as_str(), (stored.version, &stored.document)))
            .collect();
        let found = Elastic::shared().documents(&own(index));
        let found: BTreeMap<&str, (u64, &Value)> = found
            .iter()
            .map(|(id, found)| (id.as_str(), (found.version, &found.source)))
            .collect();
        assert_eq!(found, expected, "{index}");
    }
    all.records.entry(letters.clone()).or_default();
    for (topic, expected) in &all.records {
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

/// Runs the pipeline file on the servers of most tests, fed with what `input.jsonl` holds as it is, timestamps and headers too.
fn check(name: &str) {
    let suffix = unique("x");
    let own = |own: &str| match own.strip_prefix(name) {
        Some(".dead-letters") => format!("{name}-{suffix}.dead-letters"),
        _ => format!("{own}-{suffix}"),
    };
    let (input, expected) = (Lines::read(name, "input.jsonl"), Lines::read(name, "expected.jsonl"));
    let names = input.names().chain(expected.names()).map(String::as_str);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipeline.yaml");
    let pipeline = fs::read_to_string(checkout(&format!("examples/{name}/pipeline.yaml"))).unwrap();
    fs::write(&path, with_own_names(&pipeline, &names.chain([name]).collect(), own)).unwrap();
    let elastic = (!expected.documents.is_empty()).then(Elastic::shared);
    let catch_up = || {
        let url = elastic.as_ref().map_or("", |elastic| elastic.url.as_str());
        Invocation::catch_up(&path)
            .env("KAFKA_BOOTSTRAP", kafka::bootstrap())
            .env("ELASTICSEARCH_URL", url)
            .env("RETAIL_LISTEN", &format!("127.0.0.1:{}", free_port()))
            .exits(0, PATIENCE * 3)
    };

    // The first run has nothing to read: it makes the topics.
    catch_up();
    for stored in &input.documents {
        let path = format!("{}/_doc/{}", own(&stored.index), stored.id);
        Elastic::shared().does("PUT", &path, &stored.document);
    }
    for (topic, records) in &input.records {
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

/// Runs all commands of the example's README, with the binary under test in the place of `cargo run` (which `cargo build` needs not make), and where they name servers, those of the
/// tests.
fn run_readme(name: &str, kafka: &Kafka, others: &[(&str, String)]) {
    let readme = fs::read_to_string(checkout(&format!("examples/{name}/README.md"))).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let mut servers = vec![
        ("localhost:9092", kafka.bootstrap.clone()),
        ("localhost:8001", listen.clone()),
    ];
    servers.extend_from_slice(others);
    if readme.contains(ELASTICSEARCH) {
        servers.push((ELASTICSEARCH, Elastic::shared().url));
    }
    let programs = TempDir::new().unwrap();
    let cargo = programs.path().join("cargo");
    let (host, real) = (env!("CARGO_BIN_EXE_wasmill"), env!("CARGO"));
    let script = format!(
        "#!/bin/sh\nif [ \"$*\" = \"build --release\" ]; then exit; fi\nif [ \"$1 $2 $3\" = \"run --release --\" ]; then shift 3; exec {host} \"$@\"; fi\nexec {real} \"$@\"\n"
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());

    let mut compared = 0;
    for (command, expected) in commands(&readme) {
        let command = servers
            .iter()
            .fold(command.to_owned(), |command, (named, own)| command.replace(named, own));
        // What a command that fails leaves behind would hold its output open for ever.
        let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{command}");
        let output = Command::new("bash")
            .current_dir(checkout("."))
            .args(["-euo", "pipefail", "-c", &script])
            .env("PATH", &path)
            .env("RETAIL_LISTEN", &listen)
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
            assert_eq!(stdout.trim_end(), expected.trim_end(), "{command}\n{stderr}");
            compared += 1;
        }
    }
    assert!(compared > 0, "the README of {name} says of no command what it prints");
}

#[test]
fn noaa_gives_what_it_says() {
    check("noaa");
}

/// The second pipeline file takes over from the first, and indexes what the filter has let through; the third sends the alerts as mail.
#[test]
fn the_commands_for_noaa_do_what_they_say() {
    let kafka = kafka_of_the_examples();
    forget_index("noaa-az");
    let smtp = Smtp::start("none");
    let mail_server = ("localhost:1025", format!("127.0.0.1:{}", smtp.port));
    run_readme("noaa", &kafka, &[mail_server]);
    assert_expected(&kafka, "noaa", str::to_owned, false);
    let mut expected = Lines::read("noaa", "expected.jsonl").records;
    let expected = expected.remove("noaa-json-us-az").unwrap().into_iter();
    let expected: BTreeMap<String, Value> = expected
        .map(|record| {
            let document = serde_json::from_str(record.value_text()).unwrap();
            (record.key_text().to_owned(), document)
        })
        .collect();
    let found = Elastic::shared().documents("noaa-az").into_iter();
    let found: BTreeMap<String, Value> = found.map(|(id, document)| (id, document.source)).collect();
    assert_eq!(found, expected);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 31, "{mails:#?}");
    assert!(mails.iter().all(|mail| mail.to == ["alerts@example.com"]), "{mails:#?}");
    let is_flagstaff = |mail: &Mail| mail.header("Subject") == "Frost at FLAGSTAFF PULLIAM AP: 1.7 degrees Celsius";
    assert!(mails.iter().any(is_flagstaff), "{mails:#?}");
}

/// The commands of a README name the index themselves, and a named server may have it from a run before.
fn forget_index(index: &str) {
    Elastic::shared().does("DELETE", &format!("{index}?ignore_unavailable=true"), &Value::Null);
}

#[test]
fn retail_gives_what_it_says() {
    check("retail");
}

#[test]
fn the_commands_for_retail_do_what_they_say() {
    let kafka = kafka_of_the_examples();
    forget_index("retail-catalogue");
    run_readme("retail", &kafka, &[]);
    assert_eq!(kafka.read_committed("retail.dead-letters"), []);
}

#[test]
fn stateless_gives_what_it_says() {
    check("stateless");
}

#[test]
fn the_commands_for_stateless_do_what_they_say() {
    let kafka = kafka_of_the_examples();
    run_readme("stateless", &kafka, &[]);
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
    run_readme("calculator", &kafka, &[]);
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
    // A process that ended in the middle of a rebalance is missed for a session's timeout of 45 s, in each stage.
    for stage in ["route", "sum", "subtract"] {
        wait_for(
            &format!("four workers of {stage} to have a partition each"),
            PATIENCE * 3,
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
