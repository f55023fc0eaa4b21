//! What becomes of records in Elasticsearch: actions, ids, versions, routing, names of indices; on Elasticsearch 8 and 9 and on OpenSearch.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::documents::{Act, Documents, Model};
use crate::support::elastic::Elastic;
use crate::support::guests::guest;
use crate::support::kafka::{self, Record};
use crate::support::unique;

const EPOCH: u64 = 3;

/// The version of the n-th document of a record.
fn version(offset: i64, n: u64) -> u64 {
    (EPOCH << 52) | ((offset as u64) << 8) | n
}

/// All actions on few documents, some of them refused, without versions.
fn actions_do_what_they_say(elastic: Elastic) {
    let documents = Documents::new("actions", elastic);
    let acts = [
        Act::index("a", &json!({"name": "kettle", "price": 20, "stock": {"warsaw": 1}})),
        Act::new("update", "a", &json!({"price": 18, "stock": {"gdansk": 2}})),
        Act::new("upsert", "b", &json!({"name": "pan"})),
        Act::new("upsert", "b", &json!({"price": 5})),
        Act::new("create", "c", &json!({"name": "pot"})),
        Act::new("update", "missing", &json!({"price": 1})),
        Act::index("gone", &json!({"name": "spoon"})),
        Act::new("delete", "gone", &json!({})),
        Act::new("delete", "never there", &json!({})),
        Act::index("buried", &json!({"name": "fork"})),
        Act::tombstone("buried"),
        // The body's own line breaks are not those of a bulk.
        Act::raw("index", "spread", "{\n  \"name\":\r\n  \"a\\nb\"\n}\n"),
        Act::raw("upsert", "spread out", "{\n  \"name\": \"c\"\n}"),
        Act::index("ünï/ codé \"quoted\" ?#", &json!({"name": "ż"})),
    ];
    documents.send(&acts);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("versions"), "none");
    documents.catches_up(&pipeline);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&["missing"]);
    // A document's own counter: one index, one update.
    assert_eq!(documents.found()["a"].version, 2);
}

#[test]
fn actions_do_what_they_say_in_elasticsearch() {
    actions_do_what_they_say(Elastic::shared());
}

#[test]
fn actions_do_what_they_say_in_elasticsearch_9() {
    if let Some(elastic) = Elastic::nine() {
        actions_do_what_they_say(elastic);
    }
}

#[test]
fn actions_do_what_they_say_in_opensearch() {
    actions_do_what_they_say(Elastic::opensearch());
}

/// Indexed and deleted documents carry the position of their record, so that nothing older can come back over them.
fn versions_are_positions(elastic: Elastic) {
    let documents = Documents::new("versions", elastic);
    let acts: Vec<Act> = (0..400)
        .map(|number| {
            let id = format!("{}", number % 23);
            match number % 7 {
                3 => Act::tombstone(id),
                5 => Act::new("delete", id, &json!({})),
                _ => Act::index(id, &json!({"number": number})),
            }
        })
        .collect();
    documents.send(&acts);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("versions"), "external")
        .set(&Documents::key("epoch"), EPOCH);
    documents.catches_up(&pipeline);
    let expected = Model::of(&acts).documents;
    documents.assert_holds(&expected);
    documents.assert_letters(&[]);
    let found = documents.found();
    for placed in kafka::read_committed(&documents.input) {
        let id = placed.record.key_text();
        let number = |value: &str| serde_json::from_str::<Value>(value).unwrap()["number"].clone();
        let is_last = placed.record.value.is_some()
            && expected
                .get(id)
                .is_some_and(|last| last["number"] == number(placed.record.value_text()));
        if is_last {
            assert_eq!(found[id].version, version(placed.offset, 0), "{id}");
        }
    }

    // Everything once more, by another group: older documents do not overwrite newer ones, and deleted ones do not come back.
    let again = pipeline.set(&["stages", "act", "group"], unique("again"));
    crate::support::host::Invocation::catch_up(&again.write()).exits(0, crate::support::PATIENCE);
    assert_eq!(documents.found(), found);
    documents.assert_letters(&[]);
}

#[test]
fn versions_are_positions_in_elasticsearch() {
    versions_are_positions(Elastic::shared());
}

#[test]
fn versions_are_positions_in_elasticsearch_9() {
    if let Some(elastic) = Elastic::nine() {
        versions_are_positions(elastic);
    }
}

#[test]
fn versions_are_positions_in_opensearch() {
    versions_are_positions(Elastic::opensearch());
}

/// A version is right only where one partition writes an id, so the id has to be the key.
#[test]
fn documents_of_one_record_have_versions_of_their_own() {
    let documents = Documents::new("twice", Elastic::shared());
    let twice = Act::index("same", &json!({"x": 1})).header("again", "same");
    let others = Act::index("own", &json!({"x": 2})).header("again", "another's");
    documents.send(&[twice, others]);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("versions"), "external")
        .set(&Documents::key("epoch"), EPOCH);
    documents.catches_up(&pipeline);
    let found = documents.found();
    assert_eq!(found["same"].version, version(0, 1));
    assert!(!found.contains_key("another's"), "{found:?}");
    documents.assert_letters(&["own"]);
}

#[test]
fn a_document_without_an_id_is_named_by_its_position() {
    let documents = Documents::new("positions", Elastic::shared());
    let mut record = Act::index("", &json!({"x": 1})).record();
    record.key = None;
    kafka::produce(&documents.input, Some(2), [&record, &record]);
    documents.catches_up(&documents.pipeline(&documents.elastic.url));
    let ids: Vec<String> = documents.found().into_keys().collect();
    let input = &documents.input;
    assert_eq!(ids, [format!("{input}-2-0-0"), format!("{input}-2-1-0")]);
}

/// Any plugin's messages can be documents: the pipeline file says what is done with them.
#[test]
fn a_plugin_that_knows_nothing_of_elasticsearch_writes_documents() {
    let documents = Documents::new("forwarded", Elastic::shared());
    let output = json!({"elasticsearch": {"index": documents.index, "id": "key", "action": "index"}});
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .without_key(&["stages", "act"], "outputs")
        .set(&["stages", "act", "plugin"], guest("identity").to_str().unwrap())
        .set(&["stages", "act", "output"], output);
    let record = |key: &str, value: &str| Record::new(key, value);
    let tombstone = Record {
        value: None,
        ..record("b", "")
    };
    let records = [
        record("a", r#"{"x":1}"#),
        record("b", r#"{"x":2}"#),
        tombstone,
        record("a", r#"{"x":3}"#),
        record("c", "no object"),
    ];
    kafka::produce(&documents.input, Some(1), &records);
    documents.catches_up(&pipeline);
    documents.assert_holds(&BTreeMap::from([("a".to_owned(), json!({"x": 3}))]));
    documents.assert_letters(&["c"]);
}

#[test]
fn an_index_is_named_by_the_time_of_the_record() {
    let elastic = Elastic::shared();
    let documents = Documents::without_index("monthly", elastic);
    // 2017-01-31T23:59:59.999Z and one millisecond later; 2020-02-29.
    let times = [
        ("a", 1_485_907_199_999),
        ("b", 1_485_907_200_000),
        ("c", 1_582_934_400_000),
    ];
    let acts = times.map(|(id, time)| Act::index(id, &json!({"x": id})).at(time));
    documents.send(&acts);
    let index = format!("{}-{{yyyy.MM}}", documents.index);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("index"), index);
    documents.catches_up(&pipeline);
    let found = documents.elastic.documents(&format!("{}-*", documents.index));
    let places: Vec<(&str, &str)> = found
        .iter()
        .map(|(id, document)| (id.as_str(), document.index.strip_prefix(&documents.index).unwrap()))
        .collect();
    assert_eq!(places, [("a", "-2017.01"), ("b", "-2017.02"), ("c", "-2020.02")]);
}

#[test]
fn a_document_is_routed_as_the_plugin_or_the_file_says() {
    let documents = Documents::with("routed", Elastic::shared(), Value::Null, json!({"number_of_shards": 4}));
    let acts = [
        Act::index("own", &json!({"x": 1})).header("routing", "north"),
        Act::index("by key", &json!({"x": 2})),
        Act::index("moved", &json!({"x": 3})).header("routing", "south"),
        Act::new("delete", "moved", &json!({})).header("routing", "south"),
    ];
    documents.send(&acts);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("routing"), "key");
    documents.catches_up(&pipeline);
    let routes: Vec<(String, Option<String>)> = documents
        .found()
        .into_iter()
        .map(|(id, document)| (id, document.routing))
        .collect();
    let expected = [("by key", "by key"), ("own", "north")];
    assert_eq!(
        routes,
        expected.map(|(id, route)| (id.to_owned(), Some(route.to_owned())))
    );
}

/// What a data stream holds cannot be changed; what comes twice is there once.
fn a_data_stream_takes_each_document_once(elastic: Elastic) {
    let documents = Documents::without_index("stream", elastic);
    let template = json!({"index_patterns": [documents.index], "data_stream": {}, "priority": 500,
        "template": {"settings": {"number_of_replicas": 0}}});
    documents
        .elastic
        .does("PUT", &format!("_index_template/{}", documents.index), &template);
    let acts: Vec<Act> = (0..50)
        .map(|number| {
            Act::new(
                "create",
                format!("{number}"),
                &json!({"@timestamp": 1_600_000_000_000_i64, "n": number}),
            )
        })
        .collect();
    documents.send(&acts);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("data-stream"), true)
        .set(&Documents::key("id"), "key");
    documents.catches_up(&pipeline);
    let found = documents.found();
    documents.assert_holds(&Model::of(&acts).documents);
    assert!(found["7"].index.starts_with(".ds-"), "{:?}", found["7"]);
    let again = pipeline.set(&["stages", "act", "group"], unique("again"));
    crate::support::host::Invocation::catch_up(&again.write()).exits(0, crate::support::PATIENCE);
    assert_eq!(documents.found(), found);
    documents.assert_letters(&[]);
}

#[test]
fn a_data_stream_takes_each_document_once_in_elasticsearch() {
    a_data_stream_takes_each_document_once(Elastic::shared());
}

#[test]
fn a_data_stream_takes_each_document_once_in_opensearch() {
    a_data_stream_takes_each_document_once(Elastic::opensearch());
}
