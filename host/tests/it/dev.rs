//! `wasmill dev`: a pipeline from its records to what comes out, without a server.

use std::collections::BTreeMap;
use std::fs;

use serde_json::value::RawValue;

use crate::program::{Place, Ran, checkout};

const BANNER: &str =
    "dev: embedded broker (librdkafka's mock, not a Kafka), at-least-once, one worker a stage, nothing is kept";

/// What the heading of an index ends with.
const IN_MEMORY: &str = " (in memory, not Elasticsearch)";

/// The lines of a topic or index in what `dev` showed: its heading, and what is below.
fn shown<'a>(ran: &'a Ran, topic: &str) -> Vec<&'a str> {
    let start = ran
        .stdout
        .find(&format!("\n{topic}: "))
        .unwrap_or_else(|| panic!("no {topic} in {ran:#?}"));
    ran.stdout[start + 1..]
        .lines()
        .take_while(|line| !line.is_empty())
        .collect()
}

fn assert_ends_with_a_summary(ran: &Ran, records: &str) {
    let last = ran.stdout.lines().last().unwrap();
    let rest = last
        .strip_prefix(&format!("{records} records fed and processed in "))
        .unwrap_or_else(|| panic!("{last}"));
    let (seconds, rate) = rest.split_once(" s (").unwrap();
    let rate = rate.strip_suffix("/s)").unwrap().replace(',', "");
    assert!(
        seconds.parse::<f64>().unwrap() > 0.0 && rate.parse::<u64>().unwrap() > 0,
        "{last}"
    );
}

/// What `expected.jsonl` says of each topic and index, as `dev` shows it, sorted: `KEY  VALUE`, `ID  DOCUMENT`, or of a dead letter
/// `STAGE: KIND: MESSAGE`.
fn expected(name: &str) -> BTreeMap<String, Vec<String>> {
    let letters = format!("{name}.dead-letters");
    let file = checkout(&format!("examples/{name}/expected.jsonl"));
    let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::from([(letters.clone(), Vec::new())]);
    for line in fs::read_to_string(file).unwrap().lines() {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(line).unwrap();
        let text = |field: &str| {
            let raw = fields[field].get();
            serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned())
        };
        let (heading, line) = if fields.contains_key("index") {
            let document: serde_json::Value = serde_json::from_str(fields["document"].get()).unwrap();
            (
                format!("index {}{IN_MEMORY}", text("index")),
                format!("{}  {document}", text("id")),
            )
        } else if text("topic") == letters {
            let headers: Vec<(String, String)> = serde_json::from_str(fields["headers"].get()).unwrap();
            let values: Vec<String> = headers.into_iter().map(|(_, value)| value).collect();
            (letters.clone(), values.join(": "))
        } else {
            (text("topic"), format!("{}  {}", text("key"), text("value")))
        };
        shown.entry(heading).or_default().push(line);
    }
    shown.values_mut().for_each(|lines| lines.sort());
    shown
}

/// `STAGE: KIND: MESSAGE`, without the record's place.
fn letter(line: &str) -> String {
    let (stage, rest) = line.split_once(" at ").unwrap();
    let (_place, told) = rest.split_once(": ").unwrap();
    format!("{stage}: {told}")
}

#[test]
fn every_example_gives_what_it_says() {
    let folders = fs::read_dir(checkout("examples")).unwrap().map(|entry| entry.unwrap());
    let examples = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut count = 0;
    for name in examples.map(|entry| entry.file_name().into_string().unwrap()) {
        let pipeline = checkout(&format!("examples/{name}/pipeline.yaml"));
        let ran = Place::new()
            .run(&["dev", pipeline.to_str().unwrap(), "--show", "10000"])
            .exits(0);
        for (heading, expected) in expected(&name) {
            let lines = shown(&ran, &heading);
            let found = lines[1..].iter().map(|line| line.trim_start());
            if !heading.ends_with(".dead-letters") {
                let mut found: Vec<&str> = found.collect();
                found.sort_unstable();
                assert_eq!(found, expected, "{name}: {heading}");
                continue;
            }
            let mut found: Vec<String> = found.map(letter).collect();
            found.sort();
            assert_eq!(found.len(), expected.len(), "{name}: {found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(&expected), "{name}: {found} is not {expected}");
            }
        }
        assert!(
            !ran.stderr.contains("WARN") && !ran.stderr.contains("ERROR"),
            "{}",
            ran.stderr
        );
        count += 1;
    }
    assert!(count >= 3, "{count} examples");
}

#[test]
fn an_example_is_shown_in_short() {
    let example = checkout("examples/noaa/pipeline.yaml");
    let ran = Place::new().run(&["dev", example.to_str().unwrap()]).exits(0);
    assert_eq!(ran.stdout.lines().next().unwrap(), BANNER);
    for (topic, lines) in expected("noaa") {
        if lines.is_empty() {
            assert_eq!(shown(&ran, &topic), [format!("{topic}: 0 dead letters")]);
            continue;
        }
        let found = shown(&ran, &topic);
        assert_eq!(found[0], format!("{topic}: {} records", lines.len()));
        assert_eq!(found.len(), 1 + 5 + 1, "{found:#?}");
        assert_eq!(found[6], format!("  ... and {} more (`--show N`)", lines.len() - 5));
    }
    assert_ends_with_a_summary(&ran, "2,846");
}

#[test]
fn documents_are_shown_where_there_is_no_elasticsearch() {
    let example = checkout("examples/noaa/pipeline-elasticsearch.yaml");
    let ran = Place::new().run(&["dev", example.to_str().unwrap()]).exits(0);
    let index = format!("index noaa-az{IN_MEMORY}");
    assert_eq!(shown(&ran, &index)[0], format!("{index}: 557 documents"));
}

#[test]
fn alerts_are_shown_and_not_sent() {
    let place = Place::new();
    place.plugin("identity.wasm", "plugins/identity");
    // Whoever was told would not answer there.
    let hook = "{webhook: {url: 'http://127.0.0.1:1/T0P-SECRET'}}";
    let mail = "{smtp: {from: a@example.com, to: {json: /email}, subject: 'Frost: {/TMIN}'}}";
    place.write(
        "pipeline.yaml",
        format!(
            "app: demo\nstages:\n  hook: {{plugin: identity.wasm, input: in, output: {hook}}}\n  mail: {{plugin: identity.wasm, input: \
             in, output: {mail}}}\n"
        ),
    );
    let record = r#"{"topic": "in", "key": "k", "value": {"email": "ops@example.com", "TMIN": -3}}"#;
    place.write("input.jsonl", format!("{record}\n"));
    let ran = place.run(&["dev", "pipeline.yaml"]).exits(0);
    let webhook = shown(&ran, "webhook 127.0.0.1:1 (in memory, nothing is sent)");
    assert_eq!(webhook[0], "webhook 127.0.0.1:1 (in memory, nothing is sent): 1 alerts");
    assert!(
        webhook[1].starts_with("  demo.hook-in-") && webhook[1].contains("ops@example.com"),
        "{webhook:#?}"
    );
    assert_eq!(
        shown(&ran, "smtp (in memory, nothing is sent)")[1],
        "  to ops@example.com: Frost: -3"
    );
    assert!(!ran.stdout.contains("T0P-SECRET") && !ran.stderr.contains("T0P-SECRET"));
}

/// A filter and a stage that misbehaves, both reading one topic.
fn place() -> Place {
    let place = Place::new();
    place.plugin("filter.wasm", "plugins/filter-station");
    place.plugin("misbehave.wasm", "host/tests/guests/misbehave");
    let filter = "{plugin: filter.wasm, input: in, output: filtered, config: {country: US, state: AZ}}";
    let limits = "{deadline-record: 100ms}";
    let guarded = format!("{{plugin: misbehave.wasm, input: in, output: guarded, limits: {limits}}}");
    place.write(
        "pipeline.yaml",
        format!("app: demo\nstages:\n  filter: {filter}\n  guarded: {guarded}\n"),
    );
    place
}

const POISON: &str = r#"{"topic":"in","key":"a","value":{"station":{"country_code":"US","state_code":"AZ"}}}
{"topic":"in","key":"b","value":"{not json"}
{"topic":"in","key":"c","value":"panic"}

{"topic":"in","key":"d","value":null}
{"topic":"in","value":"loop"}
{"topic":"in","key":"f","value":"reject"}
{"topic":"in","key":"g","value":"port"}
{"topic":"in","key":"h","value":{"station":{"country_code":"US","state_code":"AZ"}}}
"#;

#[test]
fn records_that_fail_are_shown_with_the_reason_and_the_others_arrive() {
    let place = place();
    place.write("poison.jsonl", POISON);
    let ran = place
        .run(&["dev", "pipeline.yaml", "--input", "poison.jsonl", "--show", "20"])
        .exits(0);
    let observation = r#"{"station":{"country_code":"US","state_code":"AZ"}}"#;
    assert_eq!(
        shown(&ran, "filtered"),
        [
            "filtered: 2 records".to_owned(),
            format!("  a  {observation}"),
            format!("  h  {observation}")
        ]
    );
    assert_eq!(
        shown(&ran, "guarded"),
        [
            "guarded: 4 records".to_owned(),
            format!("  a  {observation}"),
            "  b  {not json".to_owned(),
            "  d  (null)".to_owned(),
            format!("  h  {observation}")
        ]
    );
    let mut letters = shown(&ran, "demo.dead-letters");
    letters[1..].sort();
    // The place of the panic in its source moves with every edit, and on a busy machine it is the clock that ends a loop.
    let moving = [" (at ", ": not done after "];
    let letters: Vec<&str> = letters
        .iter()
        .map(|line| {
            moving
                .iter()
                .fold(&**line, |line, mark| line.split(mark).next().unwrap())
        })
        .collect();
    insta::assert_snapshot!(letters.join("\n"), @r"
    demo.dead-letters: 10 dead letters
      filter at in 0:1: reject: the value is not the JSON that is read here: key must be a string at line 1 column 2
      filter at in 0:2: reject: the value is not the JSON that is read here: expected value at line 1 column 1
      filter at in 0:3: reject: the value is null
      filter at in 0:4: reject: the value is not the JSON that is read here: expected value at line 1 column 1
      filter at in 0:5: reject: the value is not the JSON that is read here: expected value at line 1 column 1
      filter at in 0:6: reject: the value is not the JSON that is read here: expected value at line 1 column 1
      guarded at in 0:2: trap: poisoned on purpose
      guarded at in 0:4: deadline: ran past its deadline of 100 ms (`limits.deadline-record`)
      guarded at in 0:5: reject: rejected on purpose
      guarded at in 0:6: malformed: reply 0: port 99 does not exist, the plugin has 1
    ");
    assert_ends_with_a_summary(&ran, "8");
}

#[test]
fn no_more_is_shown_than_was_asked_for() {
    let place = place();
    place.write(
        "input.jsonl",
        "{\"topic\":\"in\",\"key\":\"k\",\"value\":\"v\"}\n".repeat(3),
    );
    let ran = place.run(&["dev", "pipeline.yaml", "--show", "0"]).exits(0);
    assert_eq!(
        shown(&ran, "guarded"),
        ["guarded: 3 records", "  ... and 3 more (`--show N`)"]
    );
}

#[test]
fn an_input_without_records_is_no_mistake() {
    let place = place();
    place.write("input.jsonl", "\n");
    let ran = place.run(&["dev", "pipeline.yaml"]).exits(0);
    assert_eq!(shown(&ran, "guarded"), ["guarded: 0 records"]);
    assert!(ran.stdout.ends_with("s (0/s)\n"), "{}", ran.stdout);
}

/// What `dev` says of this input.
fn refused(input: &str) -> String {
    let place = place();
    place.write("input.jsonl", input);
    let ran = place.run(&["dev", "pipeline.yaml"]).exits(1);
    assert_eq!(ran.stdout.trim_end(), BANNER);
    ran.stderr
}

#[test]
fn an_input_line_that_is_no_record_is_told_by_its_number() {
    insta::assert_snapshot!(refused("{\"topic\":\"in\"}\n{\"topic\":\"in\",\"valeu\":1}\n"), @r#"error: input.jsonl: line 2: column 21: unknown field `valeu`, expected one of `topic`, `key`, `value`, `headers`, `timestamp`; wanted {"topic": .., "key": .., "value": .., "headers": [[NAME, VALUE]], "timestamp": MILLISECONDS}"#);
    insta::assert_snapshot!(refused("\n\n{\"topic\":\"in\"\n"), @r#"error: input.jsonl: line 3: column 13: EOF while parsing an object; wanted {"topic": .., "key": .., "value": .., "headers": [[NAME, VALUE]], "timestamp": MILLISECONDS}"#);
}

#[test]
fn an_input_for_a_topic_that_no_stage_reads_is_refused() {
    insta::assert_snapshot!(refused("{\"topic\":\"out\",\"value\":1}\n"), @"error: input.jsonl: no stage reads topic `out`; inputs: in");
}

#[test]
fn an_input_that_is_not_there_is_told_with_the_way_out() {
    let ran = place().run(&["dev", "pipeline.yaml"]).exits(1);
    insta::assert_snapshot!(ran.stderr, @"error: read input.jsonl; `--input FILE` names another file with the records to feed: No such file or directory (os error 2)");
}

#[test]
fn a_plugin_that_does_not_fit_is_told_at_its_place() {
    let place = place();
    place.write("input.jsonl", "");
    place.write(
        "pipeline.yaml",
        "app: demo\nstages:\n  s: {plugin: filter.wasm, input: in, output: out}\n",
    );
    let ran = place.run(&["dev", "pipeline.yaml"]).exits(2);
    assert!(
        ran.stderr
            .starts_with("error: pipeline.yaml:3:3: stage `s`: `config`: "),
        "{}",
        ran.stderr
    );
}

#[test]
fn documents_are_shown_as_what_they_are() {
    let place = Place::new();
    place.plugin("documents.wasm", "host/tests/guests/document-port");
    place.plugin("identity.wasm", "plugins/identity");
    let by =
        |plugin: &str, keys: &str| format!("{{plugin: {plugin}, input: in, output: {{elasticsearch: {{{keys}}}}}}}");
    let stages = [
        ("all", by("documents.wasm", "index: all")),
        ("changes", by("identity.wasm", "index: 'in-{yyyy.MM}', action: upsert")),
        ("copies", by("identity.wasm", "index: copies")),
    ];
    let stages: String = stages.map(|(name, stage)| format!("  {name}: {stage}\n")).concat();
    place.write("pipeline.yaml", format!("app: demo\nstages:\n{stages}"));
    let records = [
        r#"{"topic":"in","key":"a","timestamp":1518567187000,"value":{"a":1,"b":{"c":1}}}"#,
        r#"{"topic":"in","key":"a","timestamp":1518567187000,"value":{"b":{"d":2}}}"#,
        r#"{"topic":"in","key":"b","timestamp":1518567187000,"value":{"a":3}}"#,
        r#"{"topic":"in","key":"b","timestamp":1518567187000,"value":null}"#,
        r#"{"topic":"in","key":"c","timestamp":1518567187000,"value":"[]"}"#,
    ];
    place.write("input.jsonl", records.join("\n"));
    let ran = place.run(&["dev", "pipeline.yaml"]).exits(0);
    let index = |name: &str| shown(&ran, &format!("index {name} (in memory, not Elasticsearch)"))[1..].to_vec();
    assert_eq!(index("all"), [r#"  a  {"b":{"d":2}}"#, r#"  b  {"a":3}"#]);
    assert_eq!(
        index("in-2018.02"),
        [r#"  a  {"a":1,"b":{"c":1,"d":2}}"#, r#"  b  {"a":3}"#]
    );
    assert_eq!(index("copies"), [r#"  a  {"b":{"d":2}}"#]);
    let letters = shown(&ran, "demo.dead-letters");
    assert_eq!(letters[0], "demo.dead-letters: 5 dead letters", "{letters:#?}");
}
