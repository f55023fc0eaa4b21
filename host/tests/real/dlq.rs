//! Dead letters are listed, shown, tried and replayed, by the command line and on a real Kafka.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::retention::delete_before;
use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline, Printed};
use crate::support::kafka::{self, Placed, Record};
use crate::support::{PATIENCE, unique};

/// A stage `guarded` between topics of its own, first with a plugin that fails on purpose.
struct Place {
    app: String,
    input: String,
    output: String,
    letters: String,
    replay: String,
    pipeline: Pipeline,
    path: PathBuf,
}

impl Place {
    fn new(name: &str, partitions: i32) -> Self {
        let app = unique(name);
        let [input, output, letters, replay] =
            ["in", "out", "dead-letters", "guarded.replay"].map(|name| format!("{app}.{name}"));
        for topic in [&input, &output, &letters] {
            kafka::create_topic(topic, partitions, &[]);
        }
        let pipeline = Pipeline::new(&app)
            .stage("guarded", &guest("misbehave"), json!({}), &input, &output)
            .set(
                &["stages", "guarded", "limits"],
                json!({"deadline": "300ms", "deadline-record": "200ms"}),
            );
        let path = pipeline.write();
        Self {
            app,
            input,
            output,
            letters,
            replay,
            pipeline,
            path,
        }
    }

    /// Sends records with these values, one key each, and lets the stage come to its end.
    fn fail_on(&self, values: &[&str]) {
        let records: Vec<Record> = values
            .iter()
            .enumerate()
            .map(|(index, value)| record(index, value))
            .collect();
        kafka::produce(&self.input, None, &records);
        Invocation::catch_up(&self.path).exits(0, PATIENCE);
    }

    /// The stage has a plugin now that passes everything.
    fn mend(mut self, config: Value) -> Self {
        self.pipeline = self
            .pipeline
            .set(&["stages", "guarded", "plugin"], guest("identity").to_str().unwrap())
            .set(&["stages", "guarded", "config"], config);
        self.path = self.pipeline.write();
        self
    }

    fn invoke(&self, command: &str, more: &[&str]) -> Invocation {
        let mut arguments = vec!["dlq", command, self.path.to_str().unwrap()];
        arguments.extend(more);
        Invocation::new(&arguments)
    }

    #[track_caller]
    fn dlq(&self, command: &str, more: &[&str]) -> Printed {
        self.invoke(command, more).exits(0, PATIENCE)
    }

    /// The lines of `dlq ls --json`.
    #[track_caller]
    fn list(&self, more: &[&str]) -> Vec<Value> {
        let arguments = [&["--json"], more].concat();
        let lines = self.dlq("ls", &arguments).stdout;
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn values(&self, topic: &str) -> Vec<String> {
        let mut values: Vec<String> = kafka::read_committed(topic)
            .iter()
            .map(|placed| placed.record.value_text().to_owned())
            .collect();
        values.sort();
        values
    }
}

fn record(index: usize, value: &str) -> Record {
    Record {
        headers: vec![(b"trace".to_vec(), Some(vec![index as u8])), (b"trace".to_vec(), None)],
        timestamp_ms: Some(1_500_000_000_000 + index as i64),
        ..Record::new(format!("key {index}"), value)
    }
}

fn kinds(letters: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = letters.iter().map(|letter| letter["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

fn position(letter: &Value) -> String {
    format!("{}:{}", letter["partition"], letter["offset"])
}

#[test]
fn letters_are_listed_and_narrowed_down() {
    let place = Place::new("listed", 3);
    place.fail_on(&["panic", "fine", "reject", "short", "reject"]);
    // Others write to the topic too.
    kafka::produce(&place.letters, Some(0), &[Record::new("no", "letter \x1b[31m")]);

    let all = place.list(&[]);
    assert_eq!(all.len(), 5);
    let unreadable: Vec<&Value> = all.iter().filter(|letter| !letter["unreadable"].is_null()).collect();
    assert_eq!(unreadable.len(), 1, "{all:?}");
    let known = place.list(&["--stage", "guarded"]);
    assert_eq!(kinds(&known), ["malformed", "reject", "reject", "trap"]);
    let digest = known[0]["plugin_digest"].as_str().unwrap().to_owned();
    let time = known
        .iter()
        .map(|letter| letter["time"].as_str().unwrap())
        .min()
        .unwrap();

    let check = |more: &[&str], expected: &[&str]| {
        assert_eq!(kinds(&place.list(more)), expected, "{more:?}");
    };
    check(&["--kind", "reject"], &["reject", "reject"]);
    check(&["--kind", "trap", "--kind", "malformed"], &["malformed", "trap"]);
    check(&["--stage", "guarded", "--limit", "0"], &[]);
    check(&["--kind", "reject", "--limit", "1"], &["reject"]);
    check(&["--digest", &digest[..9], "--kind", "trap"], &["trap"]);
    check(&["--digest", "nothing"], &[]);
    check(&["--since", "1h", "--kind", "trap"], &["trap"]);
    check(
        &["--since", time, "--stage", "guarded"],
        &["malformed", "reject", "reject", "trap"],
    );
    check(&["--until", "2017-01-01T00:00:00Z"], &[]);
    check(&["--until", "1h"], &[]);
    check(&[&position(&known[0])], &[known[0]["kind"].as_str().unwrap()]);

    let of_trap = &place.list(&["--kind", "trap"])[0];
    assert_eq!(of_trap["source"]["topic"], json!(place.input));
    assert_eq!(of_trap["source"]["timestamp_ms"], json!(1_500_000_000_000_i64));
    assert_eq!((&of_trap["key"], &of_trap["value"]), (&json!("key 0"), &json!("panic")));
    assert_eq!(of_trap["headers"], json!([["trace", "\0"], ["trace", null]]));
    assert_eq!(of_trap["replayed"], json!(false));

    let table = place.dlq("ls", &[]);
    table.says("POSITION");
    table.says("guarded: malformed 1, reject 2, trap 1; unreadable 1");
    table.says("unreadable: it has no header `wasmill.topic`");
    assert_eq!(table.stderr, "");
}

#[test]
fn what_the_pipeline_does_not_have_is_bad_usage() {
    let place = Place::new("usage", 1);
    let bad = |command: &str, more: &[&str], words: &str| {
        place.invoke(command, more).exits(2, PATIENCE).says(words);
    };
    bad("ls", &["--stage", "guardad"], "did you mean `guarded`?");
    bad("ls", &["--kind", "tarp"], "'trap'");
    bad("ls", &["--topic", "other"], &place.letters);
    bad("ls", &["--since", "yesterday"], "as in 2h");
    bad("show", &["17"], "PARTITION:OFFSET");
    let fails = |command: &str, more: &[&str], words: &str| {
        place.invoke(command, more).exits(1, PATIENCE).says(words);
    };
    fails("show", &["0:17"], "has no record at this position");
    fails("replay", &["--yes"], "no dead letter in");
    place.fail_on(&["panic"]);
    bad("replay", &[], "give --yes to replay");
    assert_eq!(kafka::partitions(&place.replay), None, "nobody made it");
    let nobody = Pipeline::new(&place.app)
        .stage("guarded", &guest("misbehave"), json!({}), &place.input, &place.output)
        .set(&["kafka", "bootstrap.servers"], "127.0.0.1:1");
    Invocation::new(&["dlq", "ls", nobody.write().to_str().unwrap()])
        .exits(1, PATIENCE)
        .says("no broker answers at 127.0.0.1:1");
    let missing =
        Pipeline::new(&unique("usage")).stage("guarded", &guest("misbehave"), json!({}), &place.input, &place.output);
    Invocation::new(&["dlq", "ls", missing.write().to_str().unwrap()])
        .exits(1, PATIENCE)
        .says("does not exist");
}

#[test]
fn a_letter_is_shown_with_why_it_is_one() {
    let place = Place::new("shown", 1);
    let cases = [
        ("panic", "trap", "poisoned on purpose"),
        ("exit", "trap", "exit"),
        ("loop", "deadline", "200 ms"),
        ("memory", "memory", "limit"),
        ("short", "malformed", "replies"),
        ("reject", "reject", "rejected on purpose"),
        ("retry", "retry", "not now, and never"),
    ];
    place.fail_on(&cases.map(|(value, _, _)| value));
    let letters = place.list(&[]);
    assert_eq!(letters.len(), cases.len());
    for (letter, (value, kind, words)) in letters.iter().zip(cases) {
        let shown = place.dlq("show", &[&position(letter)]);
        for text in [
            kind,
            words,
            "guarded",
            "misbehave 0.1.0",
            &format!("value:     {value}"),
        ] {
            assert!(shown.stdout.contains(text), "`{text}` is not in\n{}", shown.stdout);
        }
        assert_eq!(shown.stdout.contains("backtrace:"), !letter["backtrace"].is_null());
        let json: Value = serde_json::from_str(&place.dlq("show", &[&position(letter), "--json"]).stdout).unwrap();
        assert_eq!(&json, letter);
    }
    let attempts = place.list(&["--kind", "retry"])[0]["attempts"].clone();
    assert_eq!(attempts, json!(6));

    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("value");
    place.dlq("show", &["0:0", "--raw", file.to_str().unwrap()]);
    assert_eq!(std::fs::read(file).unwrap(), b"panic");
}

#[test]
fn a_replay_gives_each_record_to_its_stage_exactly_once() {
    let place = Place::new("replayed", 3);
    place.fail_on(&["panic", "fine", "reject", "short", "fine", "exit"]);
    let sent = place.values(&place.input);
    let place = place.mend(json!({}));

    place.dlq("replay", &["--dry-run"]).says("would replay 4 records");
    assert_eq!(kafka::partitions(&place.replay), None, "a dry run makes nothing");
    place
        .dlq("replay", &["--kind", "reject", "--yes"])
        .says("replayed 1 record");
    assert_eq!(kafka::partitions(&place.replay), Some(3));
    place.dlq("ls", &[]).says("yes");
    let rest = place.dlq("replay", &["--yes"]);
    rest.says("replayed before (--again replays them too): 1 letter");
    rest.says("replayed 3 records");
    place.dlq("replay", &["--yes"]).says("nothing to replay");
    let source = |letter: &Value| letter["source"]["partition"].clone();
    let expected: Vec<Value> = place.list(&[]).iter().map(source).collect();
    assert_eq!(kafka::read_committed(&place.replay).len(), expected.len());

    Invocation::catch_up(&place.path).exits(0, PATIENCE);
    assert_eq!(place.values(&place.output), sent, "one output for each record");
    Invocation::catch_up(&place.path).exits(0, PATIENCE);
    assert_eq!(place.values(&place.output), sent, "and no other later");
    assert!(place.list(&[]).iter().all(|letter| letter["replayed"] == json!(true)));
    assert_eq!(
        kafka::committed(&format!("{}.guarded", place.app), &place.replay),
        kafka::end_offsets(&place.replay)
            .into_iter()
            .filter(|(_, end)| *end > 0)
            .collect(),
        "all of it is read and committed"
    );

    place
        .dlq("replay", &["--again", "--kind", "reject", "--yes"])
        .says("replayed 1 record");
    Invocation::catch_up(&place.path).exits(0, PATIENCE);
    let rejects = |values: Vec<String>| values.iter().filter(|value| *value == "reject").count();
    assert_eq!(rejects(place.values(&place.output)), 2);
}

#[test]
fn a_replay_that_is_killed_inside_its_transaction_replays_nothing() {
    let place = Place::new("half", 1);
    place.fail_on(&["panic", "reject"]);
    let place = place.mend(json!({}));
    let mut killed = place
        .invoke("replay", &["--yes"])
        .env("WASMILL_CHAOS", "after-produce=1")
        .start();
    let status = crate::support::wait_for("the command to be killed", PATIENCE, || killed.exited());
    assert!(crate::support::host::was_killed(status), "{status}");
    assert!(kafka::has_open_transaction(&place.replay), "else this tests nothing");

    let letters = place.list(&[]);
    assert!(letters.iter().all(|letter| letter["replayed"] == json!(false)));
    place.dlq("replay", &["--yes"]).says("replayed 2 records");
    Invocation::catch_up(&place.path).exits(0, PATIENCE);
    assert_eq!(place.values(&place.output), ["panic", "reject"]);
}

/// An older command that is still at work can write nothing any more once a younger one has looked at what was replayed.
#[test]
fn a_replay_fences_another_one_of_the_same_stage() {
    let place = Place::new("fenced", 1);
    place.fail_on(&["panic"]);
    kafka::create_topic(&place.replay, 1, &[]);
    let older = kafka::Kafka::shared().transactional_sender(&format!("{}.guarded.dlq-replay", place.app));
    older.begin();
    older.send(&place.replay, None, &Record::new("key", "of the older one"));
    place.dlq("replay", &["--yes"]).says("replayed 1 record");
    assert!(older.try_commit().is_err(), "the older one can commit nothing any more");
    assert_eq!(place.values(&place.replay), ["panic"]);
}

#[test]
fn a_running_stage_finds_a_replay_topic_that_is_new() {
    let place = Place::new("running", 2);
    place.fail_on(&["panic", "reject"]);
    // Nothing more of the input is asked for, but all of what is replayed.
    let mut place = place.mend(json!({}));
    place.pipeline = place.pipeline.set(
        &["stages", "guarded", "input"],
        json!({"topics": [place.input], "start": "latest"}),
    );
    place.path = place.pipeline.write();
    let mut host = Invocation::run(&place.path).start();
    host.ready();
    kafka::produce(&place.input, None, &[record(7, "before")]);
    kafka::read_at_least(&place.output, 1, PATIENCE);
    assert_eq!(kafka::partitions(&place.replay), None);

    place.dlq("replay", &["--yes"]).says("replayed 2 records");
    kafka::read_at_least(&place.output, 3, PATIENCE);
    kafka::produce(&place.input, None, &[record(8, "later")]);
    kafka::read_at_least(&place.output, 4, PATIENCE);
    host.terminate();
    host.exits(0, PATIENCE);
    assert_eq!(place.values(&place.output), ["before", "later", "panic", "reject"]);
}

fn of_value(records: &[Placed], value: &str) -> Record {
    let of_value = |placed: &&Placed| placed.record.value.as_deref() == Some(value.as_bytes());
    records.iter().find(of_value).unwrap().record.clone()
}

#[test]
fn the_host_s_headers_leave_with_no_output() {
    for config in [json!({}), json!({"copy": true})] {
        let place = Place::new("leak", 1);
        let forged = Record {
            headers: vec![
                (b"trace".to_vec(), Some(b"own".to_vec())),
                (b"wasmill.replay".to_vec(), Some(b"forged/0/0".to_vec())),
                (b"wasmill.topic".to_vec(), Some(b"forged".to_vec())),
            ],
            timestamp_ms: Some(1_400_000_000_000),
            ..Record::new("key", "reject")
        };
        let healthy = Record {
            value: Some(b"healthy".to_vec()),
            ..forged.clone()
        };
        kafka::produce(&place.input, None, [&forged, &healthy]);
        place.fail_on(&["panic"]);
        let place = place.mend(config);
        place.dlq("replay", &["--yes"]).says("replayed 2 records");
        let waiting = kafka::read_committed(&place.replay);
        assert!(
            waiting
                .iter()
                .all(|placed| placed.record.header("wasmill.replays") == Some("1")),
            "{waiting:?}"
        );
        Invocation::catch_up(&place.path).exits(0, PATIENCE);
        let out = kafka::read_committed(&place.output);
        assert_eq!(
            of_value(&out, "healthy"),
            healthy,
            "an ordinary topic's record is untouched"
        );
        assert_eq!(of_value(&out, "reject"), forged, "a replayed record is as it was");
        assert_eq!(of_value(&out, "panic"), record(0, "panic"));
    }
}

#[test]
fn a_replayed_record_that_fails_again_names_its_first_position() {
    let place = Place::new("again", 2);
    place.fail_on(&["fine", "panic", "fine"]);
    let first = kafka::read_committed(&place.letters)[0].record.clone();
    for times in 1..=2_usize {
        // The letter of the last time is one that was not replayed.
        place.dlq("replay", &["--yes"]).says("replayed 1 record");
        Invocation::catch_up(&place.path).exits(0, PATIENCE);
        let letters = kafka::read_committed(&place.letters);
        assert_eq!(letters.len(), times + 1);
        let replays = times.to_string();
        let again = letters
            .iter()
            .map(|placed| &placed.record)
            .find(|letter| letter.header("wasmill.replays") == Some(&replays))
            .unwrap();
        assert_eq!((&again.key, &again.value), (&first.key, &first.value));
        let own: Vec<_> = again
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with(b"wasmill."))
            .collect();
        assert_eq!(own.len(), 2, "its own headers, once: {again:?}");
        for name in ["topic", "partition", "offset", "timestamp", "stage", "kind", "message"] {
            let name = format!("wasmill.{name}");
            assert_eq!(again.header(&name), first.header(&name), "{name}");
            let count = again
                .headers
                .iter()
                .filter(|(other, _)| other == name.as_bytes())
                .count();
            assert_eq!(count, 1, "{name}");
        }
        assert_eq!(again.header("wasmill.replay"), None);
    }
}

#[test]
fn a_record_that_was_left_out_is_taken_from_its_topic_or_said_to_be_gone() {
    let place = Place::new("cut", 1);
    // With the headers of a dead letter it is larger than the client may send, with those of a replay it is not.
    let large = |number: u8| Record {
        key: Some(vec![number; 999_300]),
        ..record(0, "panic")
    };
    kafka::produce(&place.input, None, &[large(b'0'), large(b'1')]);
    Invocation::catch_up(&place.path).exits(0, PATIENCE);
    let letters = place.list(&[]);
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| !letter["cut"].is_null()), "{letters:?}");
    delete_before(&place.input, 0, 1);

    place.dlq("show", &["0:0"]).says("left out of the letter, and gone");
    let shown = place.dlq("show", &["0:1"]);
    shown.says("value:     panic");
    shown.says("4096 of 999300 bytes are shown");
    let identity = guest("identity");
    let tried = place
        .invoke("test", &["--plugin", identity.to_str().unwrap()])
        .exits(1, PATIENCE);
    tried.says("1 would pass, 0 would fail again, 1 cannot be tried");

    let place = place.mend(json!({}));
    let replayed = place.invoke("replay", &["--yes"]).exits(1, PATIENCE);
    replayed.says("replayed 1 record");
    replayed.says("not replayed, gone: 1 record");
    replayed.says("1 record could not be replayed");
    Invocation::catch_up(&place.path).exits(0, PATIENCE);
    let out = kafka::read_committed(&place.output);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].record, large(b'1'));
}

#[test]
fn a_plugin_is_tried_on_the_letters_before_it_is_used() {
    let mut place = Place::new("tried", 2);
    place.fail_on(&["panic", "reject", "retry", "retry-twice", "sleep"]);
    let (bad, mended) = (guest("misbehave"), guest("identity"));
    // The stage's own plugin need not be there.
    place.pipeline = place
        .pipeline
        .set(&["stages", "guarded", "plugin"], "no-such-file.wasm");
    place.path = place.pipeline.write();
    let before = kafka::end_offsets(&place.output);

    let failing = place
        .invoke("test", &["--plugin", bad.to_str().unwrap()])
        .exits(1, PATIENCE);
    failing.says("FAIL  trap: poisoned on purpose");
    failing.says("FAIL  reject: rejected on purpose");
    failing.says("FAIL  retry: not now, and never");
    failing.says("FAIL  deadline: ");
    failing.says("0 would pass, 4 would fail again");
    let passing = place.dlq("test", &["--plugin", mended.to_str().unwrap()]);
    passing.says("pass  forward to `out` (was trap)");
    passing.says("4 would pass, 0 would fail again");
    let lines = place.dlq(
        "test",
        &["--plugin", mended.to_str().unwrap(), "--json", "--kind", "trap"],
    );
    let line: Value = serde_json::from_str(lines.stdout.trim()).unwrap();
    assert_eq!((&line["passes"], &line["was"]), (&json!(true), &json!("trap")));
    place
        .invoke("test", &["--plugin", "no-such-file.wasm"])
        .exits(2, PATIENCE)
        .says("there is no file");
    assert_eq!(kafka::end_offsets(&place.output), before, "nothing is written");
}
