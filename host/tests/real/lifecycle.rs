//! Start, end, and what can be seen in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::chaos::Topics;
use crate::support::chaos::load::Load;
use crate::support::guests::guest;
use crate::support::host::{Host, Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, admin, unique, wait_for};

/// How long an operator waits after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

/// The number of output records that came from each input partition; the load writes the partition into the value.
fn outputs_by_input_partition(topics: &Topics) -> BTreeMap<i32, i64> {
    let mut counts = BTreeMap::new();
    for placed in kafka::read_committed(&topics.output) {
        let partition = placed.record.value_text().split(' ').nth(5).unwrap().parse().unwrap();
        *counts.entry(partition).or_default() += 1;
    }
    counts
}

#[test]
fn sigterm_under_load_ends_in_time_with_everything_committed() {
    let topics = Topics::create("sigterm");
    let pipeline = topics.pipeline(2);
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    let load = Load::start(&topics, 5_000, 1);
    kafka::read_at_least(&topics.output, 2_000, PATIENCE);

    let asked = Instant::now();
    host.terminate();
    host.exits(0, DRAIN);
    println!("ended {:?} after SIGTERM", asked.elapsed());
    let (sent, _) = load.finish();

    assert!(
        !kafka::has_open_transaction(&topics.output),
        "a transaction is left open"
    );
    let delivered = outputs_by_input_partition(&topics);
    assert!(
        delivered.values().sum::<i64>() < sent.len() as i64,
        "the load went on after the end, else this tests nothing"
    );
    // Committed is exactly what was delivered: from each committed offset on, everything is still to do.
    topics.catch_up();
    assert_eq!(topics.verdict(&sent), []);
}

/// A process that is told to end before it has begun is no failure either: plugins are compiled for some 100 ms first.
#[test]
fn sigterm_while_starting_ends_cleanly_too() {
    let topics = Topics::create("starting");
    let pipeline = topics.pipeline(1);
    let mut host = Invocation::run(&pipeline.write()).start();
    // The signal counts from the moment that the process listens for it; until then it would be the shell's own.
    wait_for("the process to handle SIGTERM", PATIENCE, || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & (1 << (15 - 1)) != 0).then_some(())
    });
    host.terminate();
    host.exits(0, DRAIN);
}

#[test]
fn until_caught_up_ends_when_all_is_done_and_has_nothing_to_do_again() {
    let topics = Topics::create("caught-up");
    let records: Vec<Record> = (0..5_000)
        .map(|index| Record::new(format!("{index}"), format!("value {index}")))
        .collect();
    kafka::produce(&topics.input, None, &records);

    let pipeline = topics.pipeline(2);
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);
    let first = kafka::read_committed(&topics.output);
    assert_eq!(first.len(), records.len());
    assert_eq!(
        kafka::committed(&topics.group(), &topics.input),
        kafka::end_offsets(&topics.input)
    );

    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);
    assert_eq!(kafka::read_committed(&topics.output), first);
}

/// A transaction that another sender has aborted leaves nothing but control records at the end of the input.
#[test]
fn until_caught_up_ends_behind_records_that_nobody_can_see() {
    let topics = Topics::create("invisible");
    kafka::produce(&topics.input, Some(0), &[Record::new("key", "value")]);
    let other = kafka::Kafka::shared().transactional_sender(&unique("third-party"));
    other.begin();
    for partition in 0..6 {
        other.send(&topics.input, Some(partition), &Record::new("key", "aborted"));
    }
    other.abort();

    let pipeline = topics.pipeline(1);
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);
    let values: Vec<_> = kafka::read_committed(&topics.output)
        .iter()
        .map(|placed| placed.record.value_text().to_owned())
        .collect();
    assert_eq!(values, ["value"]);
}

#[test]
fn a_host_that_was_killed_goes_on_where_it_was_committed() {
    let topics = Topics::create("killed");
    let pipeline = topics.pipeline(2);
    let path = pipeline.write();
    let start = || Invocation::run(&path).env("WASMILL_INSTANCE", "one").start();
    let mut host = start();
    host.ready();
    let load = Load::start(&topics, 2_000, 1);
    kafka::read_at_least(&topics.output, 500, PATIENCE);
    host.kill();
    let mut host = start();
    host.ready();
    let (sent, _) = load.finish();
    kafka::read_at_least(&topics.output, sent.len(), PATIENCE);
    host.terminate();
    host.exits(0, DRAIN);
    assert_eq!(topics.verdict(&sent), []);
}

fn pipeline_with_topics(input: &str, output: &str) -> Pipeline {
    Pipeline::new(&unique("topics")).stage("copy", &guest("identity"), json!({}), input, output)
}

#[test]
fn a_missing_topic_is_an_error_that_names_it() {
    let (there, missing) = (unique("there"), unique("missing"));
    kafka::create_topic(&there, 1, &[]);
    for (input, output) in [(&missing, &there), (&there, &missing)] {
        let pipeline = pipeline_with_topics(input, output);
        let error = format!("topic `{missing}` does not exist");
        Invocation::run(&pipeline.write()).exits(2, PATIENCE).says(&error);
        Invocation::new(&["check", pipeline.write().to_str().unwrap(), "--connect"])
            .exits(2, PATIENCE)
            .says(&error);
    }
    assert_eq!(kafka::partitions(&missing), None, "nobody made it");
}

#[test]
fn missing_topics_are_made_where_the_file_says_so() {
    let (input, output) = (unique("made-in"), unique("made-out"));
    let pipeline = pipeline_with_topics(&input, &output).set(
        &["topics"],
        json!({"create": {"partitions": 3, "replication": 1, "config": {"retention.ms": -1}}}),
    );
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);
    assert_eq!(
        (kafka::partitions(&input), kafka::partitions(&output)),
        (Some(3), Some(3))
    );
}

#[test]
fn check_connect_passes_where_everything_is_there() {
    let topics = Topics::create("check");
    let pipeline = topics.pipeline(1);
    Invocation::new(&["check", pipeline.write().to_str().unwrap(), "--connect"]).exits(0, PATIENCE);
}

#[test]
fn a_broker_that_does_not_answer_is_an_error_that_names_it() {
    let topics = Topics::create("nobody");
    let pipeline = topics.pipeline(1).set(&["kafka", "bootstrap.servers"], "127.0.0.1:1");
    Invocation::new(&["check", pipeline.write().to_str().unwrap(), "--connect"])
        .exits(1, PATIENCE)
        .says("127.0.0.1:1");
}

/// The names that the admin listener promises, in one place.
mod names {
    pub(super) const RECORDS: &str = "wasmill_records_in_total";
    pub(super) const STAGE: &str = "stage=\"copy\"";
}

fn get(host: &Host, path: &str) -> String {
    let (status, body) = admin::get(host.admin_port, path).unwrap_or_else(|| panic!("nothing answers to {path}"));
    assert_eq!(status, 200, "{path}: {body}");
    body
}

#[test]
fn the_admin_listener_tells_what_goes_on() {
    let topics = Topics::create("admin");
    let pipeline = topics.pipeline(2);
    let mut host = Invocation::run(&pipeline.write()).start();
    wait_for("/healthz to answer", PATIENCE, || {
        matches!(admin::get(host.admin_port, "/healthz"), Some((200, _))).then_some(())
    });
    host.ready();

    let records: Vec<Record> = (0..1_000)
        .map(|index| Record::new(format!("{index}"), "value"))
        .collect();
    kafka::produce(&topics.input, None, &records);
    kafka::read_at_least(&topics.output, records.len(), PATIENCE);

    wait_for("the metrics to show every record", PATIENCE, || {
        // Work that is rolled back and done again counts twice.
        admin::metric(&get(&host, "/metrics"), names::RECORDS, &[names::STAGE]).filter(|records| *records >= 1_000.0)
    });
    let status: Value = serde_json::from_str(&get(&host, "/status")).expect("/status is JSON");
    assert!(status.to_string().contains("copy"), "{status}");
    assert_eq!(admin::get(host.admin_port, "/nothing").unwrap().0, 404);
    host.terminate();
    host.exits(0, DRAIN);
}
