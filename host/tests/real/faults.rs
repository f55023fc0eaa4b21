//! A poison record costs exactly one record: itself.
//!
//! Three poison records stand at the first, a middle and the last place of three batches of ten; a healthy batch follows.

use serde_json::json;

use crate::support::guests::guest;
use crate::support::host::{Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, unique};

const BATCH: usize = 10;
const POISON_AT: [usize; 3] = [0, BATCH + 4, 3 * BATCH - 1];
const COUNT: usize = 4 * BATCH;

fn record(index: usize, poison: &str) -> Record {
    let value = if POISON_AT.contains(&index) {
        poison.to_owned()
    } else {
        format!("healthy {index}")
    };
    Record {
        headers: vec![(b"trace".to_vec(), Some(vec![index as u8])), (b"trace".to_vec(), None)],
        timestamp_ms: Some(1_500_000_000_000 + index as i64),
        ..Record::new(format!("key {index}"), value)
    }
}

/// Sends the records with this poison. The dead letters have to be of one of `kinds` and their message has to contain `words`.
fn check(poison: &str, kinds: &[&str], words: &str) {
    let app = unique("faults");
    let [input, output, letters] = ["in", "out", "dead-letters"].map(|name| format!("{app}.{name}"));
    for topic in [&input, &output, &letters] {
        kafka::create_topic(topic, 1, &[]);
    }
    let sent: Vec<Record> = (0..COUNT).map(|index| record(index, poison)).collect();
    kafka::produce(&input, None, &sent);

    let pipeline = Pipeline::new(&app)
        .stage("guarded", &guest("misbehave"), json!({}), &input, &output)
        .set(
            &["stages", "guarded", "batch"],
            json!({"records": BATCH, "wait": "100ms"}),
        )
        .set(
            &["stages", "guarded", "limits"],
            json!({"deadline": "300ms", "deadline-record": "200ms"}),
        );
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);

    let healthy: Vec<Record> = (0..COUNT)
        .filter(|index| !POISON_AT.contains(index))
        .map(|index| sent[index].clone())
        .collect();
    let arrived: Vec<Record> = kafka::read_committed(&output)
        .into_iter()
        .map(|placed| placed.record)
        .collect();
    assert_eq!(arrived, healthy, "the healthy records arrive, in order");

    let letters: Vec<Record> = kafka::read_committed(&letters)
        .into_iter()
        .map(|placed| placed.record)
        .collect();
    let offsets: Vec<String> = letters
        .iter()
        .map(|letter| letter.header("wasmill.offset").unwrap().to_owned())
        .collect();
    assert_eq!(
        offsets,
        POISON_AT.map(|index| index.to_string()),
        "one dead letter for each poison record, in order"
    );
    for (letter, index) in letters.iter().zip(POISON_AT) {
        assert_is_letter_of(letter, &sent[index], &input);
        let kind = letter.header("wasmill.kind").unwrap();
        assert!(kinds.contains(&kind), "kind `{kind}` is none of {kinds:?}");
        let message = letter.header("wasmill.message").unwrap();
        assert!(message.contains(words), "`{words}` is not in the message `{message}`");
        let backtrace = letter.header("wasmill.backtrace").unwrap_or_default();
        match kind {
            "trap" => assert!(
                backtrace.contains("misbehave"),
                "a trap tells where in the guest: `{backtrace}`"
            ),
            "malformed" | "reject" | "retry" => assert_eq!(backtrace, "", "the call itself went well"),
            _ => {}
        }
    }
}

/// The record as it was, and behind its own headers those that tell what happened to it.
fn assert_is_letter_of(letter: &Record, sent: &Record, input: &str) {
    assert_eq!((&letter.key, &letter.value), (&sent.key, &sent.value));
    let (own, added) = letter.headers.split_at(sent.headers.len());
    assert_eq!(own, sent.headers);
    assert!(added.iter().all(|(name, _)| name.starts_with(b"wasmill.")), "{added:?}");

    let header = |name: &str| {
        letter
            .header(&format!("wasmill.{name}"))
            .unwrap_or_else(|| panic!("no wasmill.{name} in {letter:?}"))
    };
    assert_eq!(header("topic"), input);
    assert_eq!(header("partition"), "0");
    assert_eq!(header("timestamp"), sent.timestamp_ms.unwrap().to_string());
    assert_eq!(header("stage"), "guarded");
    assert_eq!(header("plugin"), "misbehave");
    assert_eq!(header("plugin-version"), "0.1.0");
    assert!(
        header("plugin-digest").contains(&sha256_of(&guest("misbehave"))),
        "{}",
        header("plugin-digest")
    );
    assert!(header("attempts").parse::<u32>().unwrap() >= 1);
    assert!(!header("time").is_empty());
}

fn sha256_of(path: &std::path::Path) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(std::fs::read(path).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_panic_costs_one_record() {
    check("panic", &["trap"], "poisoned on purpose");
}

#[test]
fn an_exit_costs_one_record() {
    check("exit", &["trap"], "exit");
}

#[test]
fn endless_recursion_costs_one_record() {
    check("recurse", &["trap"], "stack");
}

#[test]
fn an_endless_loop_costs_one_record() {
    check("loop", &["deadline"], "deadline");
}

#[test]
fn an_endless_sleep_costs_one_record() {
    check("sleep", &["deadline"], "deadline");
}

#[test]
fn endless_memory_costs_one_record() {
    check("memory", &["memory"], "memory");
}

#[test]
fn a_reject_costs_one_record() {
    check("reject", &["reject"], "rejected on purpose");
}

#[test]
fn a_retry_that_never_helps_costs_one_record() {
    check("retry", &["retry"], "not now, and never");
}

#[test]
fn too_few_replies_cost_one_record() {
    check("short", &["malformed"], "repl");
}

#[test]
fn too_many_replies_cost_one_record() {
    check("long", &["malformed"], "repl");
}

#[test]
fn a_reason_outside_the_data_costs_one_record() {
    check("span", &["malformed"], "");
}

#[test]
fn a_value_outside_the_data_costs_one_record() {
    check("value-span", &["malformed"], "");
}

#[test]
fn a_reason_that_is_not_utf8_costs_one_record() {
    check("reason-utf8", &["malformed"], "UTF-8");
}

#[test]
fn more_emissions_promised_than_made_cost_one_record() {
    check("emit-count", &["malformed"], "emission");
}

#[test]
fn emissions_left_over_cost_one_record() {
    check("leftover", &["malformed"], "emission");
}

#[test]
fn a_port_that_is_not_there_costs_one_record() {
    check("port", &["malformed"], "port");
}

#[test]
fn a_document_for_a_port_of_messages_costs_one_record() {
    check("kind", &["malformed"], "");
}

#[test]
fn a_header_name_that_is_not_utf8_costs_one_record() {
    check("header-utf8", &["malformed"], "UTF-8");
}

#[test]
fn a_header_name_with_a_nul_costs_one_record() {
    check("header-nul", &["malformed"], "NUL");
}

#[test]
fn headers_outside_the_table_cost_one_record() {
    check("headers-range", &["malformed"], "header");
}

#[test]
fn an_answer_of_100_mb_costs_one_record() {
    check("huge", &["malformed", "memory"], "");
}
