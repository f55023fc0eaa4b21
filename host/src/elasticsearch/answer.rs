//! Says what an answer of the bulk API means: of the whole request, and of each item.
//!
//! Every item's status is looked at, and its error's type where the status says too little. Whatever a document can be to blame for is refused;
//! whatever may pass, or a person can mend, is tried again. Pure: no clock, no I/O.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::bulk::trouble;
use super::document::Document;
use crate::config::DocumentAction;
use crate::external::{Answer, FAILED, Item, Trouble};

/// How often and how long an item is tried again on which the server itself fails; behind both it is taken for the document's fault.
const FAILURES_MAX: u32 = 10;
const FAILING_MAX: Duration = Duration::from_secs(60);
/// The part of an answer that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// Each item has an answer.
    Items(Vec<Status>),
    /// It may be taken later.
    Trouble(Trouble),
    /// It is larger than the server takes.
    TooLarge(String),
    /// Something in it is refused, and it is not said what.
    Refused(String),
}

/// The answer to one item.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Status {
    pub(super) status: u16,
    pub(super) error: Option<Cause>,
    /// What a data stream's failure store had to do with it.
    pub(super) failure_store: Option<String>,
}

/// An error as Elasticsearch tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Cause {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) caused_by: Option<Box<Cause>>,
}

impl Cause {
    /// The error and its causes. Nobody nests them deep, and what is foreign is bounded.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |cause| cause.caused_by.as_deref()).take(6)
    }

    /// The error with its causes.
    fn text(&self) -> String {
        let texts = self.chain().map(|cause| {
            let reason = cause.reason.as_deref().unwrap_or_default();
            format!("{}: {reason}", cause.kind)
        });
        texts.collect::<Vec<_>>().join("; caused by ")
    }
}

#[derive(Deserialize)]
struct Body {
    items: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Index(Status),
    Create(Status),
    Update(Status),
    Delete(Status),
}

#[derive(Deserialize)]
struct ErrorBody {
    error: Error,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Error {
    Cause(Cause),
    Text(String),
}

impl Error {
    fn text(&self) -> String {
        match self {
            Self::Cause(cause) => cause.text(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Reads the answer to a request of `expected` items.
pub(super) fn whole(status: u16, body: &[u8], expected: usize) -> Whole {
    let told = || error_of(body).unwrap_or_else(|| shown(body));
    let again = |kind, text: String| Whole::Trouble(trouble(kind, text));
    match status {
        200 | 201 => match serde_json::from_slice::<Body>(body) {
            Ok(Body { items }) if items.len() == expected => {
                let status = |entry| match entry {
                    Entry::Index(status) | Entry::Create(status) | Entry::Update(status) | Entry::Delete(status) => {
                        status
                    }
                };
                Whole::Items(items.into_iter().map(status).collect())
            }
            Ok(Body { items }) => again(
                "no-bulk-answer",
                format!(
                    "{} items were answered, {expected} were sent; is something between the host and Elasticsearch?",
                    items.len()
                ),
            ),
            Err(_) => again(
                "no-bulk-answer",
                format!(
                    "the answer is none of the bulk API; does `elasticsearch: url` name an Elasticsearch? It begins: {}",
                    shown(body)
                ),
            ),
        },
        400 => match cause_of(body) {
            Some(Error::Cause(cause)) if is_operators(Some(&cause)) => again("400", operators(&cause.text())),
            Some(Error::Cause(cause)) if !cause.kind.is_empty() => {
                Whole::Refused(format!("the request is refused (400): {}", cause.text()))
            }
            // Not Elasticsearch's words: a proxy that refuses every request would make a dead letter of every record.
            _ => again(
                "no-bulk-answer",
                format!("a refusal (400) that is none of Elasticsearch: {}", told()),
            ),
        },
        401 => again("401", denied(status, &told())),
        403 => again("403", denied(status, &told())),
        413 => Whole::TooLarge(format!("the server takes no request of this size (413): {}", told())),
        429 => again("429", format!("Elasticsearch is busy (429): {}", told())),
        404 | 405 => again(
            "no-bulk-answer",
            format!(
                "there is no bulk API ({status}); does `elasticsearch: url` name an Elasticsearch? {}",
                told()
            ),
        ),
        502 => again("502", format!("Elasticsearch is not there (502): {}", told())),
        503 => again("503", format!("Elasticsearch is not ready (503): {}", told())),
        504 => again("504", format!("Elasticsearch did not answer in time (504): {}", told())),
        other => again("other-status", format!("an answer with status {other}: {}", told())),
    }
}

/// Why no answer came.
pub(super) fn unreachable(error: &elasticsearch::Error, timeout: Duration) -> Trouble {
    if error.is_timeout() {
        let text = format!(
            "no answer within {} s (`timeout`); whether it was applied is not known",
            timeout.as_secs()
        );
        return trouble("timeout", text);
    }
    // The outer errors only repeat the URL, and the one inside says why.
    let causes = std::iter::successors(std::error::Error::source(error), |inner| inner.source());
    let cause = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
    let advice = match cause.contains("certificate") {
        true => "give the server's certificate, or the one that signed it, by `elasticsearch: ca-file`",
        false => "is Elasticsearch there, and does `elasticsearch: url` name it?",
    };
    let text = format!("no answer: {cause}; {advice}");
    trouble("no-connection", text)
}

/// What the answer to an item means for it; `now`: when it came.
pub(super) fn of_item(item: &Item<Document>, status: &Status, now: Instant) -> Answer {
    let document = &item.content;
    let kind = status.error.as_ref().map_or("", |error| error.kind.as_str());
    let told = || {
        status
            .error
            .as_ref()
            .map_or_else(|| format!("status {}", status.status), Cause::text)
    };
    let place = || format!("index {}, id {}", document.index, document.id);
    let again = |kind, text: String| Answer::Again(trouble(kind, text));
    let refused = || Answer::Refused(format!("{} ({}, {})", told(), status.status, place()));
    let is_known = item.is_repeated || item.tries > 0;
    let is_given_up = item.failing.is_some_and(|failing| {
        failing.times >= FAILURES_MAX && now.saturating_duration_since(failing.since) >= FAILING_MAX
    });
    match status.status {
        200..=299 if status.failure_store.as_deref() == Some("used") => Answer::Refused(format!(
            "Elasticsearch put the document into the failure store of the data stream, not into the stream ({})",
            place()
        )),
        200..=299 => Answer::Done("done"),
        404 if document.action == DocumentAction::Delete && matches!(kind, "" | "index_not_found_exception") => {
            Answer::Done("missing")
        }
        404 if kind == "document_missing_exception" => refused(),
        404 if kind == "index_not_found_exception" => again(
            "index-missing",
            format!(
                "{}; create index {}, or let Elasticsearch do it (`action.auto_create_index`)",
                told(),
                document.index
            ),
        ),
        404 => again("404", operators(&told())),
        409 if kind != "version_conflict_engine_exception" => again("409", operators(&told())),
        // A document that is there already, or a newer version: what was sent is done, or there is nothing left to do.
        409 if document.action == DocumentAction::Create || document.version.is_some() => {
            Answer::Done(if is_known { "repeated" } else { "conflict" })
        }
        409 => again(
            "409",
            format!(
                "the document is changed by others all the time: {} ({})",
                told(),
                place()
            ),
        ),
        401 => again("401", denied(401, &told())),
        403 if kind == "cluster_block_exception" => again("blocked", blocked(document, &told())),
        403 => again("403", denied(403, &told())),
        429 if kind == "cluster_block_exception" => again("blocked", blocked(document, &told())),
        408 => again("408", told()),
        429 => again("429", format!("Elasticsearch is busy (429): {}", told())),
        502 => again("502", told()),
        503 => again("503", told()),
        504 => again("504", told()),
        400 if is_operators(status.error.as_ref()) => again("400", operators(&told())),
        500.. if !is_given_up => again(FAILED, told()),
        _ => refused(),
    }
}

/// Errors of status 400 that every document would meet.
fn is_operators(error: Option<&Cause>) -> bool {
    let of_cluster = |error: &Cause| {
        let reason = error.reason.as_deref().unwrap_or_default();
        match error.kind.as_str() {
            "index_closed_exception" => true,
            "validation_exception" => reason.contains("maximum") && reason.contains("open"),
            "illegal_argument_exception" => {
                let of_pipeline = reason.starts_with("pipeline with id [") && reason.ends_with("does not exist");
                // At the beginning: further on words of the document itself can stand.
                let of_alias = reason.starts_with("no write index is defined");
                let of_size = reason.to_ascii_lowercase().starts_with("number of documents in ");
                of_pipeline || of_alias || of_size
            }
            _ => false,
        }
    };
    error.is_some_and(|error| error.chain().any(of_cluster))
}

fn operators(told: &str) -> String {
    format!("{told}: no document is to blame for this; mend it in Elasticsearch")
}

fn denied(status: u16, told: &str) -> String {
    let what = match status {
        401 => "the credentials are not accepted (401); mend `elasticsearch: username` and `password`, or `api-key`",
        _ => "the right to write is missing (403); `wasmill check --connect` says which",
    };
    format!("{what}: {told}")
}

fn blocked(document: &Document, told: &str) -> String {
    format!(
        "index {} takes no writes: {told}; free disk space or lift its block (`index.blocks.*`)",
        document.index
    )
}

/// The error that a body tells of.
pub(super) fn error_of(body: &[u8]) -> Option<String> {
    cause_of(body).map(|error| error.text())
}

fn cause_of(body: &[u8]) -> Option<Error> {
    let ErrorBody { error } = serde_json::from_slice(body).ok()?;
    Some(error)
}

/// The beginning of an answer that nothing can be made of.
pub(super) fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    let text: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    match text.trim() {
        "" => "(nothing)".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
