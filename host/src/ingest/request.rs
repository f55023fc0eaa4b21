//! The way of a request: who asks, for which topic, in which form; its body, within the limits; its records, written; its answer.
//!
//! Nothing is read of a body before there is room for it. From the moment that a record is handed over, a task of its own sees the
//! request to its end, so that a client which goes away leaves nothing half done.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::answer::Refusal;
use super::memory::Held;
use super::{Shared, Topic, body, write};
use crate::config::suggestion;
use crate::http::token;

/// The draft of the IETF, and what others have in use.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Says that an answer was given before.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What a record holds besides its value while it is written: its places in queues, its headers, its part of the answer.
const RECORD_BYTES: usize = 1024;

/// How much of the rest of a refused body is read, so that a client which is still sending comes to read its answer.
const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// The routes for everybody who finds room.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/ping", get(async || Json(json!({"ping": "pong"}))))
        .route("/producer/{topic}", post(produce))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(shared)
}

/// Answers connections too many.
pub(super) fn refusing(shared: Arc<Shared>) -> Router {
    Router::new().fallback(too_many).with_state(shared)
}

async fn too_many(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let limit = shared.config.connections.value;
    let refusal = Refusal::crowded(
        "connections",
        format!("more than {limit} connections (`ingest.connections`)"),
    );
    shared.metrics.refused("connections");
    let mut response = leave(
        &shared,
        request.headers().clone(),
        request.into_body(),
        refusal.into_response(),
    );
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

async fn wrong_method(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "records come by POST /producer/TOPIC");
    leave(
        &shared,
        request.headers().clone(),
        request.into_body(),
        refusal.into_response(),
    )
}

async fn unknown_path(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let refusal = Refusal::new(StatusCode::NOT_FOUND, "there is POST /producer/TOPIC and GET /ping");
    leave(
        &shared,
        request.headers().clone(),
        request.into_body(),
        refusal.into_response(),
    )
}

async fn produce(State(shared): State<Arc<Shared>>, Path(name): Path<String>, request: Request) -> Response {
    let topic = shared.topics.iter().find(|topic| topic.name == name);
    let counted = shared.metrics.begin(topic.map(|topic| topic.name.as_str()));
    let (head, mut body) = request.into_parts();
    let response = match take(&shared, topic, &name, &head, &mut body).await {
        Ok(response) => response,
        Err(refusal) => {
            if let Some(full) = refusal.full {
                shared.metrics.refused(full);
            }
            refusal.into_response()
        }
    };
    counted.answered(response.status().as_u16());
    leave(&shared, head.headers, body, response)
}

/// Gives the answer. What has not come of the body is read and thrown away meanwhile: a client that sends first and reads then would
/// find its connection reset otherwise, and no answer.
fn leave(shared: &Shared, headers: HeaderMap, mut body: Body, response: Response) -> Response {
    // Who waits for `100 Continue` sends nothing, and who is too slow has had its time.
    let is_coming = !headers.contains_key(header::EXPECT) && response.status() != StatusCode::REQUEST_TIMEOUT;
    if is_coming && !body.is_end_stream() {
        let time = shared.config.client_timeout.value;
        tokio::spawn(timeout(time, async move {
            let mut left = DISCARDED_BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let len = frame.data_ref().map_or(0, |data| data.len());
                let Some(rest) = left.checked_sub(len) else { break };
                left = rest;
            }
        }));
    }
    response
}

async fn take(
    shared: &Arc<Shared>,
    topic: Option<&Topic>,
    name: &str,
    head: &Parts,
    body: &mut Body,
) -> Result<Response, Refusal> {
    authorize(shared, &head.headers)?;
    let topic = topic.ok_or_else(|| unknown_topic(shared, name))?;
    check_form(&head.headers)?;
    let key = idempotency_key(&head.headers)?;
    let mut held = shared.memory.share();
    let bytes = read(shared, body, &mut held).await?;
    let parsed = body::parse(&bytes, topic.key.as_deref(), shared.records_max()).map_err(refuse_body)?;
    if !held.grow(2 * bytes.len() + parsed.records.len() * RECORD_BYTES) {
        return Err(no_memory());
    }
    shared.show_memory();
    let ending = write::write(shared, topic, key, &bytes, parsed, held)?;
    // The producer has a copy of its own.
    drop(bytes);
    ending.await.map_err(|error| {
        tracing::error!(%error, "a request was not seen to its end");
        Refusal::undecided()
    })
}

fn authorize(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    match &shared.config.token {
        Some(token) if token::is_shown(headers, token) => Ok(()),
        Some(_) => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "send the token of `ingest.token` as `Authorization: Bearer`",
        )),
        // Any web page can make a browser on this machine send requests here; it cannot keep the browser from saying so.
        None if headers.contains_key(header::ORIGIN) => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "a web page writes with a token only; set `ingest: {token: {file: PATH}}`",
        )),
        None => Ok(()),
    }
}

fn unknown_topic(shared: &Shared, name: &str) -> Refusal {
    let names = || shared.topics.iter().map(|topic| topic.name.as_str());
    let nearest = suggestion(name, names());
    let separator = if nearest.is_empty() { ";" } else { "" };
    let allowed: Vec<&str> = names().collect();
    let shown: String = name.chars().take(100).collect();
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "`{shown}` is no topic that may be written here{nearest}{separator} allowed: {}",
            allowed.join(", ")
        ),
    )
}

/// JSON, in UTF-8, not compressed.
fn check_form(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let refuse = |error: &str| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    let is_plain = |encoding: &str| encoding.eq_ignore_ascii_case("identity");
    if headers.contains_key(header::CONTENT_ENCODING) && !text(header::CONTENT_ENCODING).is_some_and(is_plain) {
        return refuse("the body is encoded; send it as it is, without Content-Encoding");
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if !is_json {
        return refuse("send JSON, and say so by `Content-Type: application/json`");
    }
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    match charset.map(|charset| charset.trim_matches('"')) {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(()),
        Some(_) => refuse("JSON is sent in UTF-8; send it so, without another charset"),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), rest) = (values.next(), values.next()) else {
        return Ok(None);
    };
    let text = value.to_str().ok();
    match text.filter(|text| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && rest.is_none()) {
        Some(text) => Ok(Some(text)),
        None => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("an Idempotency-Key is one value of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"),
        )),
    }
}

/// Reads the body as far as there is room for it, in the time that a client has.
async fn read(shared: &Shared, body: &mut Body, held: &mut Held) -> Result<Vec<u8>, Refusal> {
    let limit = usize::try_from(shared.config.body_bytes.value).unwrap_or(usize::MAX);
    let too_large = || {
        let error = format!("the body has more than {limit} bytes (`ingest.body`)");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    // Of a body that comes in chunks the length is not known.
    let declared = body.size_hint().exact().unwrap_or(0);
    let declared = usize::try_from(declared).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(too_large());
    }
    if !shared.memory.has((2 * declared).max(1)) {
        return Err(no_memory());
    }
    let reading = async {
        let mut bytes = Vec::with_capacity(declared);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            let len = bytes.len() + data.len();
            if len > limit {
                return Err(too_large());
            }
            if !held.grow(2 * len) {
                return Err(no_memory());
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    };
    let time = shared.config.client_timeout.value;
    timeout(time, reading).await.unwrap_or_else(|_| {
        let seconds = time.as_secs();
        let error = format!("the body did not come within {seconds} s (`ingest.client-timeout`)");
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, error))
    })
}

fn no_memory() -> Refusal {
    let error = "requests hold as much as they may (`ingest.memory`); nothing was written, send it again";
    Refusal::crowded("memory", error)
}

fn refuse_body(mistake: body::Mistake) -> Refusal {
    let status = match mistake {
        body::Mistake::Malformed(_) => StatusCode::BAD_REQUEST,
        body::Mistake::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
    };
    Refusal::new(status, mistake.to_string())
}
