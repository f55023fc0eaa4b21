//! Sends documents in requests of the bulk API.
//!
//! A request that is too large, or that is refused as a whole, is taken apart until the document that is to blame is alone. Nothing is tried
//! again here, and nothing is sent behind a request that failed: the lane does that, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Serialize;

use super::answer::{self, Whole};
use super::client::{Answered, Client};
use super::document::{Document, Index};
use crate::config::DocumentAction;
use crate::external::{Answer, Bounds, Item, Sender, Trouble};

/// Only what is looked at, so that answers are short.
const PATH: &str = "_bulk?filter_path=errors,error,items.*.status,items.*.failure_store,\
    items.*.error.type,items.*.error.reason,items.*.error.caused_by";
/// How often Elasticsearch itself tries an update again that met another change of the document.
const RETRY_ON_CONFLICT: u32 = 3;
/// The first wait before a new try: long enough for a queue of the server to get shorter.
const WAIT: Duration = Duration::from_millis(50);
/// Requests do not get smaller than this by a server's refusal of larger ones.
const LEARNED_BYTES_MIN: usize = 64 * 1024;

/// Sends the documents of one output.
pub(crate) struct Bulk {
    client: Arc<Client>,
    bounds: Bounds,
    timeout: Duration,
    /// What the server was seen to refuse a larger request than.
    learned_bytes_max: AtomicUsize,
}

impl Bulk {
    pub(crate) fn new(client: Arc<Client>, index: &Index) -> Self {
        let delivery = index.delivery();
        Self {
            client,
            bounds: Bounds {
                items_max: usize::try_from(delivery.documents).unwrap_or(usize::MAX),
                bytes_max: usize::try_from(delivery.bytes).unwrap_or(usize::MAX),
                age: delivery.age,
                wait: WAIT,
            },
            timeout: delivery.timeout,
            learned_bytes_max: AtomicUsize::new(usize::MAX),
        }
    }

    /// Sends these documents in one request.
    async fn request(&self, items: &[Item<Document>]) -> Whole {
        if let Client::Memory(memory) = &*self.client {
            let apply = |item: &Item<Document>| memory.apply(&item.content);
            return Whole::Items(items.iter().map(apply).collect());
        }
        let body = encode(items.iter().map(|item| &item.content));
        let sent = self
            .client
            .request(Method::Post, PATH, "application/x-ndjson", Some(body), self.timeout)
            .await;
        match sent {
            Ok(Some(Answered { status, body })) => answer::whole(status, &body, items.len()),
            Ok(None) => Whole::Items(Vec::new()),
            Err(error) => Whole::Trouble(answer::unreachable(&error, self.timeout)),
        }
    }
}

impl Sender for Bulk {
    type Content = Document;

    fn bounds(&self) -> Bounds {
        let learned = self.learned_bytes_max.load(Ordering::Relaxed);
        Bounds {
            bytes_max: self.bounds.bytes_max.min(learned),
            ..self.bounds
        }
    }

    async fn send(&self, items: &[Item<Document>]) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::with_capacity(items.len());
        let mut parts: Vec<(usize, usize)> = vec![(0, items.len())];
        while let Some((start, end)) = parts.pop() {
            if items[start..].iter().all(|item| item.claim.is_given_up()) {
                let text = "nobody waits for these documents any more";
                answers.resize(items.len(), Answer::Again(trouble("given-up", text)));
                break;
            }
            let documents = &items[start..end];
            let (trouble, blamed) = match self.request(documents).await {
                Whole::Items(statuses) => {
                    let now = Instant::now();
                    let judged = documents.iter().zip(&statuses);
                    answers.extend(judged.map(|(item, status)| answer::of_item(item, status, now)));
                    continue;
                }
                Whole::Trouble(trouble) => (Some(trouble), String::new()),
                Whole::TooLarge(text) => {
                    let bytes: usize = documents.iter().map(|item| item.bytes).sum();
                    if documents.len() > 1 {
                        let learned = (bytes / 2).max(LEARNED_BYTES_MIN);
                        self.learned_bytes_max.fetch_min(learned, Ordering::Relaxed);
                    }
                    (None, text)
                }
                Whole::Refused(text) => (None, text),
            };
            match trouble {
                Some(trouble) => {
                    // Nothing may overtake what was not taken.
                    answers.resize(items.len(), Answer::Again(trouble));
                    break;
                }
                None if end - start > 1 => {
                    let middle = start + (end - start) / 2;
                    parts.push((middle, end));
                    parts.push((start, middle));
                }
                None => answers.push(Answer::Refused(blamed)),
            }
        }
        answers
    }
}

#[derive(Serialize)]
struct Meta<'a> {
    #[serde(rename = "_index")]
    index: &'a str,
    #[serde(rename = "_id")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_on_conflict: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Index(Meta<'a>),
    Create(Meta<'a>),
    Update(Meta<'a>),
    Delete(Meta<'a>),
}

/// The body of a request: for each document a line that says what to do, and but for deletes a line with its body.
fn encode<'a>(documents: impl Iterator<Item = &'a Document> + Clone) -> Bytes {
    let bytes = documents.clone().map(Document::bytes).sum();
    let mut body: Vec<u8> = Vec::with_capacity(bytes);
    for document in documents {
        let is_update = matches!(document.action, DocumentAction::Update | DocumentAction::Upsert);
        let meta = Meta {
            index: &document.index,
            id: &document.id,
            routing: document.routing.as_deref(),
            pipeline: document.pipeline.as_deref(),
            version: document.version,
            version_type: document.version.map(|_| "external"),
            retry_on_conflict: is_update.then_some(RETRY_ON_CONFLICT),
        };
        let line = match document.action {
            DocumentAction::Index => Line::Index(meta),
            DocumentAction::Create => Line::Create(meta),
            DocumentAction::Update | DocumentAction::Upsert => Line::Update(meta),
            DocumentAction::Delete => Line::Delete(meta),
        };
        // Writing to memory cannot fail, and these types always have a JSON form.
        let _ = serde_json::to_writer(&mut body, &line);
        body.push(b'\n');
        let (before, after): (&[u8], &[u8]) = match document.action {
            DocumentAction::Delete => continue,
            DocumentAction::Index | DocumentAction::Create => (b"", b"\n"),
            DocumentAction::Update => (b"{\"doc\":", b"}\n"),
            DocumentAction::Upsert => (b"{\"doc_as_upsert\":true,\"doc\":", b"}\n"),
        };
        body.extend_from_slice(before);
        body.extend_from_slice(&document.body);
        body.extend_from_slice(after);
    }
    Bytes::from(body)
}

/// What an unreachable server is told as.
pub(super) fn trouble(kind: &'static str, text: impl Into<String>) -> Trouble {
    Trouble {
        kind,
        text: text.into(),
    }
}

#[cfg(test)]
mod tests;
