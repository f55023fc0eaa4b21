//! Which documents become dead letters, and what is waited for instead: only what can never be written is given up.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::documents::{Act, Documents, Model};
use crate::support::elastic::Elastic;
use crate::support::host::{Host, Invocation, Pipeline};
use crate::support::{PATIENCE, admin, wait_for};

const ID_BYTES_MAX: usize = 512;

fn object(number: usize) -> Value {
    json!({"count": number})
}

/// Good documents around bad ones; which they are is told by their ids.
fn among_good_ones(bad: &[Act]) -> Vec<Act> {
    let mut acts: Vec<Act> = (0..300)
        .map(|number| Act::index(format!("good {number}"), &object(number)))
        .collect();
    for (place, act) in bad.iter().enumerate() {
        acts.insert(50 + place * 40, act.clone());
    }
    acts
}

/// Fails unless all but `bad` are there and `bad` are dead letters whose reasons name what is wrong.
#[track_caller]
fn only_these_are_rejected(documents: &Documents, bad: &[(Act, &str)]) {
    let all: Vec<Act> = bad.iter().map(|(act, _)| act.clone()).collect();
    let acts = among_good_ones(&all);
    documents.send(&acts);
    documents.catches_up(&documents.pipeline(&documents.elastic.url));
    let good: Vec<Act> = acts.into_iter().filter(|act| act.id.starts_with("good")).collect();
    documents.assert_holds(&Model::of(&good).documents);
    let letters: BTreeMap<String, String> = documents.letters().into_iter().collect();
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    for (act, reason) in bad {
        assert!(letters[&act.id].contains(reason), "{}: {}", act.id, letters[&act.id]);
    }
}

fn a_mapping_conflict_costs_one_document(elastic: Elastic) {
    let mappings = json!({"properties": {"count": {"type": "long"}}});
    let documents = Documents::with("conflict", elastic, mappings, Value::Null);
    let bad = [
        (Act::index("text for a number", &json!({"count": "many"})), "count"),
        (Act::index("object for a number", &json!({"count": {"of": 1}})), "count"),
    ];
    only_these_are_rejected(&documents, &bad);
}

#[test]
fn a_mapping_conflict_costs_one_document_in_elasticsearch() {
    a_mapping_conflict_costs_one_document(Elastic::shared());
}

#[test]
fn a_mapping_conflict_costs_one_document_in_elasticsearch_9() {
    if let Some(elastic) = Elastic::nine() {
        a_mapping_conflict_costs_one_document(elastic);
    }
}

#[test]
fn a_mapping_conflict_costs_one_document_in_opensearch() {
    a_mapping_conflict_costs_one_document(Elastic::opensearch());
}

#[test]
fn a_strict_mapping_costs_the_documents_that_break_it() {
    let mappings = json!({"dynamic": "strict", "properties": {"count": {"type": "long"}}});
    let documents = Documents::with("strict", Elastic::shared(), mappings, Value::Null);
    let bad = [(
        Act::index("unknown field", &json!({"count": 1, "colour": "red"})),
        "colour",
    )];
    only_these_are_rejected(&documents, &bad);
}

/// They would break the bulk, and with it all others.
#[test]
fn bodies_that_are_no_object_and_ids_that_cannot_be_cost_their_records() {
    let documents = Documents::new("bodies", Elastic::shared());
    let reject = |id: &str, body: &str| Act::raw("index", id, body);
    let long = "x".repeat(ID_BYTES_MAX + 1);
    let fits = Act::index(format!("good {}", "x".repeat(ID_BYTES_MAX - 5)), &object(1));
    assert_eq!(fits.id.len(), ID_BYTES_MAX);
    let bad = [
        (reject("cut", "{\"count\": 1"), ""),
        (reject("two", "{\"count\": 1}\n{\"index\":{}}"), ""),
        (reject("array", "[1]"), ""),
        (reject("number", "1"), ""),
        (reject("nothing", ""), ""),
        (reject("words", "all is well"), ""),
        (Act::index(long, &object(1)), "512"),
    ];
    documents.send(std::slice::from_ref(&fits));
    let all: Vec<Act> = bad.iter().map(|(act, _)| act.clone()).collect();
    let acts = among_good_ones(&all);
    documents.send(&acts);
    documents.catches_up(&documents.pipeline(&documents.elastic.url));
    let good = acts.into_iter().chain([fits]).filter(|act| act.id.starts_with("good"));
    documents.assert_holds(&Model::of(&good.collect::<Vec<_>>()).documents);
    let mut ids: Vec<&str> = bad.iter().map(|(act, _)| act.id.as_str()).collect();
    ids.sort_unstable();
    documents.assert_letters(&ids);
}

/// The host runs, has `good` to write, and is at it: nothing is committed beyond what is written, and nothing is given up.
#[track_caller]
fn waits(documents: &Documents, pipeline: &Pipeline, says: &str) -> Host {
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    let retried = || {
        let (_, metrics) = admin::get(host.admin_port, "/metrics")?;
        admin::metric(&metrics, "wasmill_output_retries_total", &[]).filter(|retried| *retried > 2.0)
    };
    wait_for("documents to be tried again", PATIENCE, retried);
    wait_for("the host to say what is wrong", PATIENCE, || {
        host.printed().stderr.contains(says).then_some(())
    });
    assert!(documents.left() > 0, "committed what is not written");
    documents.assert_letters(&[]);
    host
}

#[test]
fn a_read_only_block_is_waited_for() {
    let documents = Documents::new("read-only", Elastic::shared());
    documents
        .elastic
        .settings(&documents.index, &json!({"index.blocks.write": true}));
    let acts = among_good_ones(&[]);
    documents.send(&acts);
    let pipeline = documents.pipeline(&documents.elastic.url);
    let host = waits(&documents, &pipeline, "cluster_block_exception");
    documents
        .elastic
        .settings(&documents.index, &json!({"index.blocks.write": false}));
    documents.is_done(host, PATIENCE);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&[]);
}

/// Set while it runs, as a full disk does.
#[test]
fn a_block_that_comes_and_goes_loses_nothing() {
    let documents = Documents::new("full-disk", Elastic::shared());
    let pipeline = documents.pipeline(&documents.elastic.url);
    let mut host = Invocation::run(&pipeline.write()).start();
    host.ready();
    let acts: Vec<Act> = (0..3_000)
        .map(|number| Act::index(format!("good {}", number % 700), &object(number)))
        .collect();
    for (round, part) in acts.chunks(1_000).enumerate() {
        let block = round % 2 == 1;
        let setting = json!({"index.blocks.read_only_allow_delete": block.then_some(true)});
        documents.elastic.settings(&documents.index, &setting);
        documents.send(part);
        if !block {
            wait_for("the part to be committed", PATIENCE, || {
                (documents.left() == 0).then_some(())
            });
        }
    }
    documents.is_done(host, PATIENCE);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&[]);
}

/// An index that nobody made, where Elasticsearch makes none by itself, is a person's to make.
#[test]
fn a_missing_index_is_waited_for() {
    let documents = Documents::without_index("absent", Elastic::shared());
    // A setting of the whole server, so it spares what other tests have.
    let automatic = |value: Value| {
        let settings = json!({"persistent": {"action.auto_create_index": value}});
        documents.elastic.does("PUT", "_cluster/settings", &settings);
    };
    automatic(json!("-absent-*,+*"));
    let acts = among_good_ones(&[]);
    documents.send(&acts);
    let pipeline = documents.pipeline(&documents.elastic.url);
    let host = waits(&documents, &pipeline, "index_not_found_exception");
    documents
        .elastic
        .create_index(&documents.index, Value::Null, Value::Null);
    documents.is_done(host, PATIENCE);
    automatic(Value::Null);
    documents.assert_holds(&Model::of(&acts).documents);
    documents.assert_letters(&[]);
}

/// A letter that is replayed comes as what it was: an old document under its old position.
#[test]
fn a_replayed_dead_letter_does_not_overwrite_newer_documents() {
    let mappings = json!({"dynamic": "strict", "properties": {"count": {"type": "long"}}});
    let documents = Documents::with("replayed", Elastic::shared(), mappings, Value::Null);
    let old = |id: &str| Act::index(id, &json!({"count": 1, "colour": "red"}));
    let newer = Act::index("overtaken", &json!({"count": 2}));
    let acts = [
        old("overtaken"),
        old("alone"),
        old("deleted later"),
        newer,
        Act::tombstone("deleted later"),
    ];
    documents.send(&acts);
    let pipeline = documents
        .pipeline(&documents.elastic.url)
        .set(&Documents::key("versions"), "external");
    documents.catches_up(&pipeline);
    documents.assert_letters(&["alone", "deleted later", "overtaken"]);

    let mapping = json!({"properties": {"colour": {"type": "keyword"}}});
    documents
        .elastic
        .does("PUT", &format!("{}/_mapping", documents.index), &mapping);
    let path = pipeline.write();
    Invocation::new(&["dlq", "replay", path.to_str().unwrap(), "--yes"]).exits(0, PATIENCE);
    Invocation::catch_up(&path).exits(0, PATIENCE);
    let expected = BTreeMap::from([
        ("alone".to_owned(), json!({"count": 1, "colour": "red"})),
        ("overtaken".to_owned(), json!({"count": 2})),
    ]);
    documents.assert_holds(&expected);
    documents.assert_letters(&["alone", "deleted later", "overtaken"]);
}
