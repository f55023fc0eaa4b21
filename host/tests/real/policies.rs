//! What a stage does when records fail: it drops them, stops before them, stops when too many fail, or goes back to the version before.
//!
//! All records go into one partition, so that their order is that of the test.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::host::Host;
use crate::support::kafka::{self, Record};
use crate::support::swap::{Staged, digest, end, version};
use crate::support::{PATIENCE, admin, wait_for};

fn send(staged: &Staged, values: &[&str]) {
    let records: Vec<Record> = values.iter().map(|value| Record::new("key", *value)).collect();
    kafka::produce(&staged.topics.input, Some(0), &records);
}

fn values(topic: &str) -> Vec<String> {
    let records = kafka::read_committed(topic).into_iter();
    records.map(|placed| placed.record.value_text().to_owned()).collect()
}

#[track_caller]
fn outputs_are(staged: &Staged, expected: &[&str]) {
    kafka::read_at_least(&staged.topics.output, expected.len(), PATIENCE);
    assert_eq!(values(&staged.topics.output), expected);
}

/// Waits until the stage has stopped, and tells why.
#[track_caller]
fn stopped(staged: &Staged, host: &Host) -> String {
    let stage = wait_for("the stage to stop", PATIENCE, || {
        let stage = staged.stage(host);
        (stage["state"] == "stopped").then_some(stage)
    });
    let (status, body) = admin::get(host.admin_port, "/readyz").unwrap();
    assert_eq!(status, 503, "{body}");
    let error = stage["error"].as_str().unwrap();
    assert!(
        body.contains("stage `copy` has stopped") && body.contains(error),
        "{body}"
    );
    error.to_owned()
}

fn resume(staged: &Staged, host: &Host) {
    staged.command(host, "stage", &["resume", "copy"]).exits(0, PATIENCE);
}

fn committed(staged: &Staged) -> i64 {
    let offsets = kafka::committed(&staged.topics.group(), &staged.topics.input);
    offsets.get(&0).copied().unwrap_or_default()
}

#[test]
fn skipped_records_are_dropped_counted_and_told() {
    let staged = Staged::new("skip").set(&["on-fault"], json!({"policy": "skip"}));
    let host = staged.start();
    send(&staged, &["1", "reject 2", "3", "panic 4", "5"]);
    outputs_are(&staged, &["first: 1", "first: 3", "first: 5"]);
    for kind in ["reject", "trap"] {
        let label = format!("kind=\"{kind}\"");
        assert_eq!(staged.metric(&host, "wasmill_skipped_total", &[&label]), 1.0, "{kind}");
    }
    host.printed().says("failed records are skipped");
    assert_eq!(values(&staged.topics.letters), Vec::<String>::new());
    wait_for("everything to be committed", PATIENCE, || {
        (committed(&staged) == 5).then_some(())
    });
    end(host);
}

/// A neighbour reads the same input.
fn with_neighbour(staged: Staged) -> (Staged, String) {
    let output = format!("{}.neighbour", staged.topics.app);
    kafka::create_topic(&output, 1, &[]);
    let stage =
        json!({"plugin": crate::support::guests::guest("identity"), "input": staged.topics.input, "output": output});
    let pipeline = staged.pipeline.set(&["stages", "neighbour"], stage);
    (Staged { pipeline, ..staged }, output)
}

#[test]
fn a_stage_that_stops_has_committed_everything_before_and_goes_on_exactly_there() {
    for poison in ["reject 3", "panic 3"] {
        let staged = Staged::new("stop").set(&["on-fault"], json!({"policy": "stop"}));
        let (staged, neighbour) = with_neighbour(staged);
        let host = staged.start();
        send(&staged, &["1", "2", poison, "4"]);
        let error = stopped(&staged, &host);
        assert!(error.contains("partition 0 offset 2"), "{error}");
        outputs_are(&staged, &["first: 1", "first: 2"]);
        assert_eq!(committed(&staged), 2);
        // The neighbour does not care.
        assert_eq!(kafka::read_at_least(&neighbour, 4, PATIENCE).len(), 4);
        send(&staged, &["5"]);
        kafka::read_at_least(&neighbour, 5, PATIENCE);

        let (status, _) = staged.swap(&host, &version("mended"));
        assert_eq!(status, 200);
        resume(&staged, &host);
        let mended = format!("mended: {poison}");
        outputs_are(&staged, &["first: 1", "first: 2", &mended, "mended: 4", "mended: 5"]);
        assert_eq!(values(&staged.topics.letters), Vec::<String>::new());
        end(host);
    }
}

#[test]
fn a_stage_that_is_resumed_as_it_was_stops_at_the_same_record_again() {
    let staged = Staged::new("again").set(&["on-fault"], json!({"policy": "stop"}));
    let host = staged.start();
    send(&staged, &["1", "reject 2", "3"]);
    let first = stopped(&staged, &host);
    staged.post(&host, "/stages/copy/resume");
    let second = wait_for("the stage to stop again", PATIENCE, || {
        let stage = staged.stage(&host);
        (stage["state"] == "stopped").then(|| stage["error"].as_str().unwrap().to_owned())
    });
    assert_eq!(first, second);
    outputs_are(&staged, &["first: 1"]);
    host.terminated_with(1);
}

#[test]
fn an_open_breaker_lets_through_exactly_as_many_failures_as_it_says() {
    let breaker = json!({"breaker": {"failures": 3, "of": 10}});
    let staged = Staged::new("breaker").set(&["on-fault"], breaker);
    let host = staged.start();
    let sent: Vec<String> = (0..20)
        .map(|index| match index % 2 {
            0 => format!("{index}"),
            _ => format!("reject {index}"),
        })
        .collect();
    send(&staged, &sent.iter().map(String::as_str).collect::<Vec<_>>());
    // 1, 3 and 5 are dead letters; it opens before 7.
    let error = stopped(&staged, &host);
    assert!(error.contains("partition 0 offset 7"), "{error}");
    assert_eq!(values(&staged.topics.letters), ["reject 1", "reject 3", "reject 5"]);
    outputs_are(&staged, &["first: 0", "first: 2", "first: 4", "first: 6"]);
    assert_eq!(committed(&staged), 7);

    // Resumed, it begins to count anew.
    staged.post(&host, "/stages/copy/resume");
    wait_for("the breaker to open again", PATIENCE, || {
        let error = staged.stage(&host)["error"].as_str()?.to_owned();
        error.contains("partition 0 offset 13").then_some(())
    });
    assert_eq!(values(&staged.topics.letters).len(), 6);
    assert_eq!(committed(&staged), 13);
    host.terminated_with(1);
}

#[test]
fn a_record_is_tried_again_as_often_and_as_late_as_the_stage_says() {
    let retry = json!({"retry": {"limit": 2, "backoff": "400ms"}});
    let staged = Staged::new("retry").set(&["on-fault"], retry);
    let host = staged.start();
    let began = Instant::now();
    send(&staged, &["retry 1", "2"]);
    let letters = kafka::read_at_least(&staged.topics.letters, 1, PATIENCE);
    // 400 ms and 800 ms.
    assert!(began.elapsed() >= Duration::from_millis(1200), "{:?}", began.elapsed());
    assert_eq!(letters[0].record.header("wasmill.attempts"), Some("3"));
    assert_eq!(letters[0].record.header("wasmill.kind"), Some("retry"));
    outputs_are(&staged, &["first: 2"]);
    end(host);
}

/// Each record takes 200 ms, most of what a record may take, and all together take much longer than a transaction may.
#[test]
fn slow_records_in_a_row_never_outlast_the_transaction() {
    let staged = Staged::new("slow")
        .set(&["limits"], json!({"deadline": "1s", "deadline-record": "500ms"}))
        .set(&["batch"], json!({"records": 1000, "wait": "100ms"}));
    let pipeline = staged.pipeline.set(&["kafka", "transaction.timeout.ms"], 3000);
    let staged = Staged { pipeline, ..staged };
    let host = staged.start();
    let sent: Vec<String> = (0..40).map(|index| format!("slow {index}")).collect();
    send(&staged, &sent.iter().map(String::as_str).collect::<Vec<_>>());
    let expected: Vec<String> = sent.iter().map(|value| format!("first: {value}")).collect();
    outputs_are(&staged, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    let aborted = staged.metric(&host, "wasmill_transactions_total", &["outcome=\"aborted\""]);
    assert_eq!(aborted, 0.0, "a transaction outlasted its timeout");
    assert_eq!(values(&staged.topics.letters), Vec::<String>::new());
    end(host);
}

#[test]
fn a_stage_that_is_held_ends_a_process_that_nobody_can_talk_to() {
    let staged = Staged::new("alone").set(&["on-fault"], json!({"policy": "stop"}));
    let pipeline = staged.pipeline.without("admin");
    let staged = Staged { pipeline, ..staged };
    send(&staged, &["1", "reject 2"]);
    let printed = staged.invocation().exits(1, PATIENCE);
    printed.says("stage `copy` has stopped");
    outputs_are(&staged, &["first: 1"]);
}

fn history_of(staged: &Staged, host: &Host) -> Value {
    staged.asks(host, "plugin", &["history", "copy"])
}

/// The records that the bad version spoiled in the transaction in which that was found are done by the version before.
#[test]
fn a_version_that_fails_too_often_gives_way_to_the_one_before() {
    for bad in ["reject all", "panic all"] {
        let staged = Staged::new("rollback")
            .set(&["swap", "rollback"], json!({"failures": 5, "of": 100}))
            .set(&["commit-interval"], "2s");
        let host = staged.start();
        send(&staged, &["1", "2"]);
        outputs_are(&staged, &["first: 1", "first: 2"]);
        let worse = version(bad);
        staged.place(&worse);
        staged.runs(&host, &digest(&worse));
        let more: Vec<String> = (3..23).map(|index| index.to_string()).collect();
        send(&staged, &more.iter().map(String::as_str).collect::<Vec<_>>());

        let expected: Vec<String> = (1..23).map(|index| format!("first: {index}")).collect();
        outputs_are(&staged, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(values(&staged.topics.letters), Vec::<String>::new());
        let first = digest(&version("first"));
        staged.runs(&host, &first);
        staged.refuses(&host, "too many of its first records failed");
        assert_eq!(
            staged.metric(&host, "wasmill_swaps_total", &["kind=\"rolled-back\""]),
            1.0
        );
        let history = history_of(&staged, &host);
        let last = history.as_array().unwrap().last().unwrap();
        assert_eq!(
            (&last["change"], &last["by"]),
            (&json!("rolled-back"), &json!("failures"))
        );
        assert_eq!(
            (&last["from"], &last["digest"]),
            (&json!(digest(&worse)), &json!(first))
        );
        end(host);

        // A restart runs the old one, and does not try the same file again.
        let host = staged.start();
        staged.runs(&host, &first);
        staged.refuses(&host, "too many of its first records failed");
        let swapped = |history: &Value| {
            let events = history.as_array().unwrap().iter();
            events.filter(|event| event["change"] == "swapped").count()
        };
        assert_eq!(swapped(&history_of(&staged, &host)), 1);
        let good = version("good");
        staged.place(&good);
        staged.runs(&host, &digest(&good));
        end(host);
    }
}

#[test]
fn a_version_that_fails_no_more_often_than_it_may_stays() {
    let staged = Staged::new("stays").set(&["swap", "rollback"], json!({"failures": 5, "of": 100}));
    let host = staged.start();
    let next = version("next");
    staged.place(&next);
    staged.runs(&host, &digest(&next));
    let sent: Vec<String> = (0..20)
        .map(|index| {
            if index < 5 {
                format!("reject {index}")
            } else {
                index.to_string()
            }
        })
        .collect();
    send(&staged, &sent.iter().map(String::as_str).collect::<Vec<_>>());
    kafka::read_at_least(&staged.topics.output, 15, PATIENCE);
    kafka::read_at_least(&staged.topics.letters, 5, PATIENCE);
    staged.runs(&host, &digest(&next));
    assert_eq!(
        staged.metric(&host, "wasmill_swaps_total", &["kind=\"rolled-back\""]),
        0.0
    );
    end(host);
}
