//! Documents in memory, for `dev`: what Elasticsearch would hold, as far as the actions say it.
//!
//! It knows no mappings, so nothing is refused that a real index would refuse for its fields.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::answer::{Cause, Status};
use super::document::Document;
use crate::config::DocumentAction;

/// All indices.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<String, Indexed>>);

#[derive(Default)]
struct Indexed {
    documents: BTreeMap<String, Value>,
    /// Those of deleted documents too, as Elasticsearch keeps them for a while.
    versions: BTreeMap<String, i64>,
}

impl Memory {
    /// Puts a document where the stages find it when they begin.
    pub(crate) fn store(&self, index: &str, id: &str, document: Value) {
        let mut indices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = indices.entry(index.to_owned()).or_default();
        index.documents.insert(id.to_owned(), document);
    }

    /// Does what the document's action says.
    pub(super) fn apply(&self, document: &Document) -> Status {
        let mut indices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = indices.entry(document.index.to_string()).or_default();
        index.apply(document)
    }

    /// The documents of each index, in the order of their ids.
    pub(crate) fn contents(&self) -> Vec<(String, Vec<(String, Value)>)> {
        let indices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let documents = |index: &Indexed| {
            let pairs = index.documents.iter();
            pairs.map(|(id, value)| (id.clone(), value.clone())).collect()
        };
        indices
            .iter()
            .map(|(name, index)| (name.clone(), documents(index)))
            .collect()
    }
}

impl Indexed {
    fn apply(&mut self, document: &Document) -> Status {
        let id = &document.id;
        let is_there = self.documents.contains_key(id);
        if let Some(version) = document.version {
            if self.versions.get(id).is_some_and(|known| *known >= version) {
                return failed(409, "version_conflict_engine_exception", "a newer version is there");
            }
            self.versions.insert(id.clone(), version);
        }
        let body = match document.action {
            DocumentAction::Delete => Value::Null,
            _ => match serde_json::from_slice(&document.body) {
                Ok(body) => body,
                Err(error) => return failed(400, "document_parsing_exception", &error.to_string()),
            },
        };
        let done = |status| Status {
            status,
            error: None,
            failure_store: None,
        };
        match document.action {
            DocumentAction::Index => {
                self.documents.insert(id.clone(), body);
                done(if is_there { 200 } else { 201 })
            }
            DocumentAction::Create if is_there => failed(
                409,
                "version_conflict_engine_exception",
                "the document is there already",
            ),
            DocumentAction::Update if !is_there => {
                failed(404, "document_missing_exception", &format!("[{id}]: document missing"))
            }
            DocumentAction::Create => {
                self.documents.insert(id.clone(), body);
                done(201)
            }
            DocumentAction::Update | DocumentAction::Upsert => {
                merge(self.documents.entry(id.clone()).or_insert(Value::Null), body);
                done(200)
            }
            DocumentAction::Delete => {
                self.documents.remove(id);
                done(if is_there { 200 } else { 404 })
            }
        }
    }
}

fn failed(status: u16, kind: &str, reason: &str) -> Status {
    Status {
        status,
        error: Some(Cause {
            kind: kind.to_owned(),
            reason: Some(reason.to_owned()),
            caused_by: None,
        }),
        failure_store: None,
    }
}

/// Changes the fields that `change` names, objects within objects too, as an update does.
fn merge(document: &mut Value, change: Value) {
    match (document, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, value) in changes {
                match fields.get_mut(&name) {
                    Some(field) if field.is_object() && value.is_object() => merge(field, value),
                    _ => {
                        fields.insert(name, value);
                    }
                }
            }
        }
        (document, change) => *document = change,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(action: DocumentAction, version: Option<i64>, body: &str) -> Document {
        Document {
            index: "x".into(),
            id: "1".to_owned(),
            routing: None,
            pipeline: None,
            action,
            version,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn actions_do_what_those_of_elasticsearch_do() {
        use DocumentAction::{Create, Delete, Index, Update, Upsert};
        let memory = Memory::default();
        let apply = |action, body: &str| memory.apply(&document(action, None, body)).status;
        let content = || memory.contents()[0].1.first().map(|(_, document)| document.clone());
        assert_eq!(apply(Update, "{}"), 404);
        assert_eq!(apply(Upsert, r#"{"a":{"b":1,"c":2}}"#), 200);
        assert_eq!(apply(Update, r#"{"a":{"b":3},"d":null}"#), 200);
        assert_eq!(content(), Some(json!({"a": {"b": 3, "c": 2}, "d": null})));
        assert_eq!(apply(Create, "{}"), 409);
        assert_eq!(apply(Index, r#"{"e":1}"#), 200);
        assert_eq!(content(), Some(json!({"e": 1})));
        assert_eq!(apply(Delete, ""), 200);
        assert_eq!(apply(Delete, ""), 404);
        assert_eq!(content(), None);
        assert_eq!(apply(Create, "{}"), 201);
    }

    #[test]
    fn an_older_version_changes_nothing() {
        let memory = Memory::default();
        let apply = |action, version, body: &str| memory.apply(&document(action, Some(version), body)).status;
        assert_eq!(apply(DocumentAction::Index, 5, r#"{"a":1}"#), 201);
        assert_eq!(apply(DocumentAction::Index, 5, r#"{"a":2}"#), 409);
        assert_eq!(apply(DocumentAction::Delete, 4, ""), 409);
        assert_eq!(apply(DocumentAction::Delete, 6, ""), 200);
        assert_eq!(apply(DocumentAction::Index, 5, r#"{"a":3}"#), 409);
        assert_eq!(memory.contents()[0].1.len(), 0);
    }
}
