//! What becomes of what a plugin wants written.

use proptest::prelude::*;

use super::*;
use crate::config::{self, Broker};
use crate::route::Wanted;

const ORIGIN: Origin<'static> = Origin {
    topic: "products",
    partition: 3,
    offset: 42,
    timestamp_ms: Some(1_518_567_187_000),
    replays: 0,
};

/// An output with these keys, of a stage with these inputs.
fn index(keys: &str, input: &str) -> Index {
    let text =
        format!("app: a\nstages: {{s: {{plugin: p.wasm, input: {input}, output: {{elasticsearch: {{{keys}}}}}}}}}\n");
    let pipeline = config::parse(&text, "p.yaml".as_ref(), &|_| None, Broker::Embedded);
    let pipeline = pipeline.unwrap_or_else(|errors| panic!("{errors}"));
    let stage = &pipeline.stages[0];
    Index::new(stage.outputs.indices().next().unwrap(), stage)
}

fn record<'a>(key: Option<&'a str>, value: Option<&'a str>) -> Export<'a> {
    Export {
        exit: 0,
        number: 0,
        key: key.map(str::as_bytes),
        value: value.map(str::as_bytes),
        source_key: key.map(str::as_bytes),
        source_headers: true,
        headers: &[],
        timestamp_ms: None,
        document: None,
    }
}

fn document<'a>(id: Option<&'a str>, action: Action) -> Export<'a> {
    Export {
        document: Some(Wanted {
            id,
            routing: None,
            action,
        }),
        ..record(Some("k"), Some("{}"))
    }
}

fn made(keys: &str, export: &Export<'_>) -> Document {
    index(keys, "a").document(export, ORIGIN).unwrap()
}

/// The words of the refusal.
fn refused(keys: &str, export: &Export<'_>) -> String {
    let fault = index(keys, "a").document(export, ORIGIN).unwrap_err();
    assert_eq!(fault.kind, Kind::Refused);
    fault.message
}

#[test]
fn a_forwarded_record_is_a_versioned_document_under_its_key() {
    let made = made("index: catalogue", &record(Some("p-1"), Some("{\n \"a\": 1\r\n}\n")));
    let expected = Document {
        index: "catalogue".into(),
        id: "p-1".to_owned(),
        routing: None,
        pipeline: None,
        action: DocumentAction::Index,
        version: Some(42 << 8),
        body: b"{  \"a\": 1  } ".to_vec(),
    };
    assert_eq!(made, expected);
}

#[test]
fn a_tombstone_deletes() {
    let made = made("index: x, epoch: 1", &record(Some("p-1"), None));
    assert_eq!(made.action, DocumentAction::Delete);
    assert_eq!(made.version, Some((1 << 52) + (42 << 8)));
    for action in ["create", "update", "upsert"] {
        let text = refused(&format!("index: x, action: {action}"), &record(Some("k"), None));
        assert!(text.contains("the body is null"), "{text}");
    }
}

#[test]
fn ids_are_keys_or_positions() {
    let id = |keys: &str, export: &Export<'_>| made(keys, export).id;
    assert_eq!(id("index: x", &record(None, Some("{}"))), "products-3-42-0");
    assert_eq!(
        id("index: x, id: position", &record(Some("k"), Some("{}"))),
        "products-3-42-0"
    );
    assert_eq!(id("index: x", &document(Some("own"), Action::Index)), "own");
    assert_eq!(id("index: x", &document(None, Action::Index)), "k");
    let second = Export {
        number: 1,
        ..record(None, Some("{}"))
    };
    assert_eq!(id("index: x", &second), "products-3-42-1");
    assert!(refused("index: x, id: key", &record(None, Some("{}"))).contains("no key"));
    assert!(refused("index: x", &record(Some(""), Some("{}"))).contains("the id is empty"));
    assert!(refused("index: x", &record(Some(&"k".repeat(513)), Some("{}"))).contains("the limit is 512"));
    id("index: x", &record(Some(&"k".repeat(512)), Some("{}")));
    let bytes = Export {
        key: Some(b"\xff"),
        ..record(None, Some("{}"))
    };
    assert!(refused("index: x", &bytes).contains("not UTF-8"));
}

#[test]
fn only_what_one_partition_writes_is_versioned() {
    let version =
        |keys: &str, input: &str, export: &Export<'_>| index(keys, input).document(export, ORIGIN).unwrap().version;
    let forwarded = record(Some("k"), Some("{}"));
    assert!(version("index: x", "a", &forwarded).is_some());
    assert!(version("index: x, id: position", "a", &forwarded).is_some());
    assert_eq!(version("index: x", "[a, b]", &forwarded), None);
    assert_eq!(version("index: x, versions: none", "a", &forwarded), None);
    assert_eq!(version("index: x, action: upsert", "a", &forwarded), None);
    assert_eq!(version("index: x, action: create", "a", &forwarded), None);
    assert_eq!(version("index: x, data-stream: true", "a", &forwarded), None);
    assert_eq!(version("index: x", "a", &document(Some("own"), Action::Index)), None);
    assert!(version("index: x, versions: external", "a", &document(Some("k"), Action::Index)).is_some());
    assert!(version("index: x, versions: external", "a", &document(None, Action::Delete)).is_some());
}

#[test]
fn what_versions_cannot_guard_is_refused() {
    let keys = "index: x, versions: external";
    for action in [Action::Update, Action::Upsert, Action::Create] {
        let text = refused(keys, &document(None, action));
        assert!(text.contains("do not go together"), "{text}");
    }
    assert!(refused(keys, &document(Some("own"), Action::Index)).contains("other than the record's key"));
    let changed = Export {
        source_key: Some(b"before"),
        ..record(Some("k"), Some("{}"))
    };
    assert!(refused("index: x", &changed).contains("other than the record's key"));
    let nth = |number| Export {
        number,
        ..record(Some("k"), Some("{}"))
    };
    assert!(refused("index: x", &nth(256)).contains("256 documents"));
    made("index: x", &nth(255));
    made("index: x, versions: none", &nth(256));
}

#[test]
fn routing_pipeline_and_time_are_taken_over() {
    let routed = made("index: x, routing: key, pipeline: p", &record(Some("k"), Some("{}")));
    assert_eq!(
        (routed.routing.as_deref(), routed.pipeline.as_deref()),
        (Some("k"), Some("p"))
    );
    assert_eq!(
        made("index: x, pipeline: p", &record(Some("k"), None)).pipeline,
        None,
        "of a delete"
    );
    assert_eq!(
        &*made("index: 'noaa-{yyyy.MM}'", &record(None, Some("{}"))).index,
        "noaa-2018.02"
    );
    let later = Export {
        timestamp_ms: Some(0),
        ..record(None, Some("{}"))
    };
    assert_eq!(&*made("index: 'noaa-{yyyy.MM}'", &later).index, "noaa-1970.01");
    let tombstone = record(Some("k"), None);
    assert!(refused("index: 'noaa-{yyyy}'", &tombstone).contains("do not go together"));
    assert!(refused("index: 'noaa-{yyyy}'", &document(None, Action::Delete)).contains("do not go together"));
    let far = Export {
        timestamp_ms: Some(i64::MAX),
        ..later
    };
    assert!(refused("index: 'noaa-{yyyy}'", &far).contains("names no index"));
}

#[test]
fn a_data_stream_is_only_added_to() {
    let keys = "index: x, data-stream: true";
    assert_eq!(
        made(keys, &record(Some("k"), Some("{}"))).action,
        DocumentAction::Create
    );
    made(keys, &document(None, Action::Create));
    let id = |keys: &str, export: &Export<'_>| made(keys, export).id;
    assert_eq!(
        id(keys, &record(Some("k"), Some("{}"))),
        "products-3-42-0",
        "not its key"
    );
    assert_eq!(id(keys, &document(None, Action::Create)), "products-3-42-0");
    assert_eq!(id(keys, &document(Some("own"), Action::Create)), "own");
    assert_eq!(id(&format!("{keys}, id: key"), &record(Some("k"), Some("{}"))), "k");
    assert!(refused(keys, &document(None, Action::Index)).contains("only takes `create`"));
}

#[test]
fn a_body_is_one_json_object() {
    for body in [
        "",
        " ",
        "[]",
        "1",
        "null",
        "\"{}\"",
        "{",
        "{}{}",
        "{} x",
        "{\"a\":\u{1}1}",
        "{\"a\":\"\n\"}",
        "{a:1}",
        "{}\n{\"delete\":{}}",
    ] {
        let text = refused("index: x", &record(Some("k"), Some(body)));
        assert!(text.contains("JSON object"), "{body:?}: {text}");
    }
    let bytes = Export {
        value: Some(b"{\"a\":\"\xff\"}"),
        ..record(Some("k"), None)
    };
    assert!(refused("index: x", &bytes).contains("not UTF-8"));
}

proptest! {
    /// Whatever a record holds, its document is one line, or it is refused with words.
    #[test]
    fn no_record_breaks_a_request(
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        value in prop::option::of(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[\\{\\}\":,\n\r a1]{0,20}".prop_map(String::into_bytes),
            "\\{\n?\"[a-z\n]{1,3}\"[\n ]*:[\n ]*[0-9]\n?\\}\n*".prop_map(String::into_bytes),
        ]),
    ) {
        let export = Export { key: key.as_deref(), source_key: key.as_deref(), value: value.as_deref(), ..record(None, None) };
        match index("index: x", "a").document(&export, ORIGIN) {
            Ok(document) => {
                prop_assert!(!document.body.contains(&b'\n') && !document.body.contains(&b'\r'));
                let is_object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&document.body).is_ok();
                prop_assert!(is_object == (document.action != DocumentAction::Delete));
            }
            Err(fault) => prop_assert!(!fault.message.is_empty()),
        }
    }
}
