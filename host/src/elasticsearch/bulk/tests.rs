//! The bodies of requests.

use super::*;

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
fn a_request_ends_with_a_line_break_and_has_no_other_lines() {
    let documents = vec![document(DocumentAction::Index, None); 3];
    let text = text(&documents);
    assert!(text.ends_with('\n'));
    assert_eq!(text.lines().count(), 6);
}
