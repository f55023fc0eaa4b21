//! The calls that change a running process. They want the token of `admin: token`, and are refused where none is set: an open port of a machine can be
//! reached by whatever runs there, a web page in its browser included.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use crate::control::{Control, Refusal};
use crate::swap::Wish;

type Shared = State<Arc<Control>>;

/// The routes; `has_token` says whether a caller has shown one by the time it comes here.
pub(super) fn routes(control: Arc<Control>, has_token: bool) -> Router {
    // A file that is a little too large reaches the check that says by how much.
    let limit = usize::try_from(control.file_bytes_max)
        .unwrap_or(usize::MAX)
        .saturating_mul(2);
    Router::new()
        .route("/stages/{stage}/pause", post(pause))
        .route("/stages/{stage}/resume", post(resume))
        .route("/plugins/{stage}/swap", post(swap).layer(DefaultBodyLimit::max(limit)))
        .route("/plugins/{stage}/rollback", post(roll_back))
        .route_layer(middleware::from_fn_with_state(has_token, guard))
        .route("/plugins/{stage}/history", get(history))
        .with_state(control)
}

async fn guard(State(has_token): State<bool>, request: Request, next: Next) -> Response {
    if has_token {
        return next.run(request).await;
    }
    let error = "changes by HTTP want a token: set `admin: {token: {file: PATH}}` in the pipeline file and restart";
    (StatusCode::FORBIDDEN, Json(json!({"error": error}))).into_response()
}

async fn pause(State(control): Shared, Path(stage): Path<String>) -> Result<Response, Refusal> {
    blocking(move || Ok(Json(control.pause(&stage)?.json()).into_response())).await
}

async fn resume(State(control): Shared, Path(stage): Path<String>) -> Result<Response, Refusal> {
    blocking(move || Ok(Json(control.resume(&stage)?.json()).into_response())).await
}

/// The body is the component; without one the stage's own file is read again.
async fn swap(State(control): Shared, Path(stage): Path<String>, body: Bytes) -> Result<Response, Refusal> {
    let wish = match body.is_empty() {
        true => Wish::File,
        false => Wish::Bytes(body.to_vec()),
    };
    Ok(Json(control.swap(&stage, wish).await?).into_response())
}

#[derive(Deserialize)]
struct Back {
    /// The digest to go back to, or how it begins.
    to: Option<String>,
}

async fn roll_back(
    State(control): Shared,
    Path(stage): Path<String>,
    Query(back): Query<Back>,
) -> Result<Response, Refusal> {
    Ok(Json(control.swap(&stage, Wish::Back(back.to)).await?).into_response())
}

async fn history(State(control): Shared, Path(stage): Path<String>) -> Result<Response, Refusal> {
    blocking(move || Ok(Json(control.history(&stage)?).into_response())).await
}

/// The state folder may be slow, and the probes share the threads of this listener.
async fn blocking(work: impl FnOnce() -> Result<Response, Refusal> + Send + 'static) -> Result<Response, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Refusal::Refused(format!("the host panicked: {error}"))))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Refusal::Unknown(error) => (StatusCode::NOT_FOUND, error),
            Refusal::Refused(error) => (StatusCode::CONFLICT, error),
        };
        (status, Json(json!({"error": error}))).into_response()
    }
}
