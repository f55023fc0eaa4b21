//! The bodies of requests.

use super::*;
use crate::config::{self, Broker};
use crate::external::{Claim, Ticket};

fn document(action: DocumentAction, version: Option<i64>) -> Document {
    Document {
        index: "catalogue".into(),
        id: "p \"1\"\n".to_owned(),
        routing: None,
        pipeline: None,
        action,
        version,
        body: match action {
            DocumentAction::Delete => Vec::new(),
            _ => b"{\"a\":1}".to_vec(),
        },
    }
}

fn text(documents: &[Document]) -> String {
    String::from_utf8(encode(documents.iter()).to_vec()).unwrap()
}

#[test]
fn every_action_has_its_lines() {
    let full = Document {
        routing: Some("r".to_owned()),
        pipeline: Some("geo".into()),
        ..document(DocumentAction::Index, Some(7))
    };
    let documents = [
        full,
        document(DocumentAction::Create, None),
        document(DocumentAction::Update, None),
        document(DocumentAction::Upsert, None),
        document(DocumentAction::Delete, Some(8)),
        document(DocumentAction::Delete, None),
    ];
    insta::assert_snapshot!(text(&documents), @r#"
    {"index":{"_index":"catalogue","_id":"p \"1\"\n","routing":"r","pipeline":"geo","version":7,"version_type":"external"}}
    {"a":1}
    {"create":{"_index":"catalogue","_id":"p \"1\"\n"}}
    {"a":1}
    {"update":{"_index":"catalogue","_id":"p \"1\"\n","retry_on_conflict":3}}
    {"doc":{"a":1}}
    {"update":{"_index":"catalogue","_id":"p \"1\"\n","retry_on_conflict":3}}
    {"doc_as_upsert":true,"doc":{"a":1}}
    {"delete":{"_index":"catalogue","_id":"p \"1\"\n","version":8,"version_type":"external"}}
    {"delete":{"_index":"catalogue","_id":"p \"1\"\n"}}
    "#);
}

#[test]
fn nothing_is_sent_that_nobody_waits_for() {
    let text = "app: a\nstages: {s: {plugin: p.wasm, input: i, output: {elasticsearch: {index: catalogue}}}}\n";
    let pipeline = config::parse(text, "p.yaml".as_ref(), &|_| None, Broker::Embedded).unwrap();
    let stage = &pipeline.stages[0];
    let index = Index::new(stage.outputs.indices().next().unwrap(), stage);
    let bulk = Bulk::new(Arc::new(Client::default()), &index);
    let item = || Item {
        content: document(DocumentAction::Index, None),
        order: 0,
        bytes: 1,
        ticket: Ticket { slot: 0, record: 0 },
        claim: Claim::default(),
        tries: 0,
        failing: None,
        is_repeated: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let items = [item(), item()];
    items[0].claim.give_up();
    assert_eq!(runtime.block_on(bulk.send(&items)), vec![Answer::Done("done"); 2]);
    let items = [item(), item()];
    items.iter().for_each(|item| item.claim.give_up());
    let answers = runtime.block_on(bulk.send(&items));
    assert!(
        matches!(&answers[..], [Answer::Again(first), Answer::Again(_)] if first.kind == "given-up"),
        "{answers:?}"
    );
}

#[test]
fn a_request_ends_with_a_line_break_and_has_no_other_lines() {
    let documents = vec![document(DocumentAction::Index, None); 3];
    let text = text(&documents);
    assert!(text.ends_with('\n'));
    assert_eq!(text.lines().count(), 6);
}
