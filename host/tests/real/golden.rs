//! A plugin that was built when the contract was 0.1.0 runs on a real Kafka and does what it did then. `host/tests/data/golden/README.md` tells of it.

use serde_json::json;

use crate::support::host::{Invocation, Pipeline};
use crate::support::kafka::{self, Record};
use crate::support::{PATIENCE, checkout, unique};

fn arrived(topic: &str) -> Vec<Record> {
    kafka::read_committed(topic)
        .into_iter()
        .map(|placed| placed.record)
        .collect()
}

#[test]
fn a_plugin_of_the_first_contract_still_runs() {
    let app = unique("golden");
    let [input, out, side, letters] = ["in", "out", "side", "dead-letters"].map(|name| format!("{app}.{name}"));
    for topic in [&input, &out, &side, &letters] {
        kafka::create_topic(topic, 1, &[]);
    }
    let record = |value: &str| Record {
        headers: vec![(b"h".to_vec(), Some(vec![0xff])), (b"h".to_vec(), None)],
        timestamp_ms: Some(1_500_000_000_000),
        ..Record::new("k", value)
    };
    let values = ["skip", "forward", "both", "nulls", "append", "reject", "panic", "17"];
    let sent = values.map(record);
    kafka::produce(&input, None, &sent);
    let plugin = checkout("host/tests/data/golden/golden-0.1.0.wasm");
    let pipeline = Pipeline::new(&app).set(
        &["stages", "golden"],
        json!({
            "plugin": plugin,
            "config": {"prefix": "g"},
            "input": input,
            "outputs": {"out": out, "side-door": side},
        }),
    );
    Invocation::catch_up(&pipeline.write()).exits(0, PATIENCE);

    let nulls = Record {
        headers: vec![(b"only".to_vec(), None)],
        // Kafka has no timestamp below zero: -1 is none.
        timestamp_ms: None,
        ..Record::default()
    };
    let mut append = sent[4].clone();
    append
        .headers
        .extend([(b"added".to_vec(), Some(vec![0xff, 0])), (b"nil".to_vec(), None)]);
    let number = Record {
        key: Some(b"g".to_vec()),
        value: Some(b"\"g17\"".to_vec()),
        ..sent[7].clone()
    };
    assert_eq!(arrived(&out), [sent[2].clone(), nulls, append, number]);
    assert_eq!(arrived(&side), [sent[1].clone(), sent[2].clone()]);
    let told: Vec<String> = arrived(&letters)
        .iter()
        .map(|letter| {
            let header = |name: &str| letter.header(&format!("wasmill.{name}")).unwrap().to_owned();
            let message = header("message");
            let message = message.split(" (at ").next().unwrap();
            format!("{} {}: {message}", header("offset"), header("kind"))
        })
        .collect();
    assert_eq!(told, ["5 reject: 5 is rejected", "6 trap: golden panic"]);
}
