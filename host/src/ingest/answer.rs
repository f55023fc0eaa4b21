//! What a client is told: where its records are, or why a request was refused and what that means for them.
//!
//! A status of the 200s says that every record of the request is in the topic. Every other answer says in `written` what is: `none`,
//! `some` (then `records` tells of each), or `unknown`.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use super::memory::Held;
use crate::kafka::Code;
use crate::kafka::producer::{Blame, blame};
use crate::kafka::publisher::{Unacknowledged, Written};

/// What a client waits when this process has no room: requests take some milliseconds each.
const CROWDED_SECONDS: u16 = 1;
/// What a client waits when the brokers do not take records: an election takes some seconds.
const BROKERS_SECONDS: u16 = 5;

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    written: &'static str,
    retry_after: Option<u16>,
    /// What was full, for the metrics.
    pub(super) full: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            written: "none",
            retry_after: None,
            full: None,
        }
    }

    /// There is no room; the same request may come again.
    pub(super) fn crowded(full: &'static str, error: impl Into<String>) -> Self {
        Self {
            retry_after: Some(CROWDED_SECONDS),
            full: Some(full),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, error)
        }
    }

    /// The host has lost sight of records that were handed over.
    pub(super) fn undecided() -> Self {
        Self {
            written: "unknown",
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the host failed; its log says why")
        }
    }

    /// The first request with the same key is on its way; what it writes, its own answer tells.
    pub(super) fn in_flight() -> Self {
        let error = "a request with this Idempotency-Key is not answered yet; come again for its answer";
        Self {
            written: "unknown",
            retry_after: Some(CROWDED_SECONDS),
            ..Self::new(StatusCode::CONFLICT, error)
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let failure = Failure {
            error: &self.error,
            written: self.written,
            records: None,
        };
        let mut response = json(self.status, &failure, None);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        with_retry_after(response, self.retry_after)
    }
}

fn with_retry_after(mut response: Response, seconds: Option<u16>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// One record and what became of it.
pub(super) struct Told {
    pub(super) name: Option<String>,
    pub(super) message_id: String,
    pub(super) outcome: Result<Written, Unacknowledged>,
}

#[derive(Serialize)]
struct Receipt<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    message_id: &'a str,
    topic: &'a str,
    partition: i32,
    offset: Option<i64>,
    timestamp: i64,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    written: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<Vec<RecordAnswer<'a>>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RecordAnswer<'a> {
    Written(Receipt<'a>),
    Failed {
        message_id: &'a str,
        error: String,
        written: &'static str,
    },
}

/// The answer to a request whose records have all been acknowledged or have failed.
pub(super) fn of(topic: &str, is_array: bool, told: &[Told], held: Held) -> Response {
    let receipts = told.iter().map(|told| Some(receipt(topic, told, told.outcome.ok()?)));
    if let Some(receipts) = receipts.collect::<Option<Vec<Receipt<'_>>>>() {
        return match receipts.as_slice() {
            [receipt] if !is_array => json(StatusCode::OK, receipt, Some(held)),
            all => json(StatusCode::OK, &all, Some(held)),
        };
    }
    let failures: Vec<&Unacknowledged> = told.iter().filter_map(|told| told.outcome.as_ref().err()).collect();
    let status = failures
        .iter()
        .map(|failure| status(failure))
        .max()
        .unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let error = match failures.as_slice() {
        [failure] if !is_array => words(failure),
        all => format!(
            "{} of {} records were not acknowledged; `records` tells of each",
            all.len(),
            told.len()
        ),
    };
    let unknown = failures.iter().any(|failure| !failure.is_unwritten);
    let written = match (unknown, failures.len() < told.len()) {
        (true, _) => "unknown",
        (false, true) => "some",
        (false, false) => "none",
    };
    let failure = Failure {
        error: &error,
        written,
        records: is_array.then(|| told.iter().map(|told| record_answer(topic, told)).collect()),
    };
    let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(BROKERS_SECONDS);
    with_retry_after(json(status, &failure, Some(held)), retry_after)
}

fn receipt<'a>(topic: &'a str, told: &'a Told, written: Written) -> Receipt<'a> {
    Receipt {
        name: told.name.as_deref(),
        message_id: &told.message_id,
        topic,
        partition: written.partition,
        offset: written.offset,
        timestamp: written.timestamp_ms,
    }
}

fn record_answer<'a>(topic: &'a str, told: &'a Told) -> RecordAnswer<'a> {
    match &told.outcome {
        Ok(written) => RecordAnswer::Written(receipt(topic, told, *written)),
        Err(failure) => RecordAnswer::Failed {
            message_id: &told.message_id,
            error: words(failure),
            written: if failure.is_unwritten { "none" } else { "unknown" },
        },
    }
}

/// What could pass with time is worst: the client is to come again.
fn status(failure: &Unacknowledged) -> StatusCode {
    match blame(failure.code) {
        _ if !failure.is_unwritten => StatusCode::SERVICE_UNAVAILABLE,
        Blame::Record if is_too_large(failure.code) => StatusCode::PAYLOAD_TOO_LARGE,
        Blame::Record => StatusCode::INTERNAL_SERVER_ERROR,
        Blame::Operator | Blame::Passing => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn is_too_large(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge
    )
}

fn words(failure: &Unacknowledged) -> String {
    let code = failure.code;
    match blame(code) {
        _ if !failure.is_unwritten => format!(
            "whether the record is written is not known ({code}); sent again it may be there twice, with one `message_id` where both \
             requests have the same Idempotency-Key"
        ),
        Blame::Record if is_too_large(code) => {
            format!("the record is larger than its topic takes ({code}); nothing was written")
        }
        Blame::Record => {
            format!("the brokers refuse the record ({code}), which the topic's settings explain; nothing was written")
        }
        Blame::Operator => format!("the topic cannot be written until somebody mends it ({code}); nothing was written"),
        Blame::Passing => format!("the brokers do not take the record ({code}); nothing was written, send it again"),
    }
}

/// Its memory is given back when the last byte of the answer has left.
struct Sent {
    json: Vec<u8>,
    _held: Option<Held>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

fn json(status: StatusCode, answer: &impl Serialize, held: Option<Held>) -> Response {
    // What is answered has string keys only, so this does not fail.
    let json = serde_json::to_vec(answer).unwrap_or_default();
    let body = Body::from(Bytes::from_owner(Sent { json, _held: held }));
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;
    use crate::ingest::memory::Memory;

    const WRITTEN: Result<Written, Unacknowledged> = Ok(Written {
        partition: 1,
        offset: Some(5),
        timestamp_ms: 7,
    });

    fn failed(code: Code, is_unwritten: bool) -> Result<Written, Unacknowledged> {
        Err(Unacknowledged { code, is_unwritten })
    }

    /// Status, `Retry-After` and body of an answer.
    async fn answer(is_array: bool, outcomes: &[Result<Written, Unacknowledged>]) -> String {
        let told: Vec<Told> = outcomes
            .iter()
            .map(|outcome| Told {
                name: None,
                message_id: "id".to_owned(),
                outcome: *outcome,
            })
            .collect();
        let response = of("t", is_array, &told, Memory::new(1024).share());
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.map_or("-", |value| value.to_str().unwrap()).to_owned();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        format!("{status} {retry_after} {}", String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn an_offset_that_nobody_knows_is_null() {
        let written = Written {
            partition: 1,
            offset: None,
            timestamp_ms: 7,
        };
        let told = answer(false, &[Ok(written)]).await;
        assert!(
            told.starts_with("200 - ") && told.contains(r#""offset":null"#),
            "{told}"
        );
    }

    #[tokio::test]
    async fn only_what_is_all_written_is_a_success() {
        let timeout = failed(Code::MessageTimedOut, true);
        let lost = failed(Code::MessageTimedOut, false);
        let large = failed(Code::MessageSizeTooLarge, true);
        let keyless = failed(Code::InvalidRecord, true);
        let forbidden = failed(Code::TopicAuthorizationFailed, true);
        let mut answers = Vec::new();
        for outcome in [WRITTEN, timeout, lost, large, keyless, forbidden] {
            answers.push(answer(false, &[outcome]).await);
        }
        for outcomes in [
            vec![WRITTEN],
            vec![WRITTEN, large],
            vec![large, keyless],
            vec![large, timeout],
            vec![WRITTEN, lost, large],
        ] {
            answers.push(answer(true, &outcomes).await);
        }
        insta::assert_snapshot!(answers.join("\n"));
    }
}
