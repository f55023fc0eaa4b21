//! The HTTP listener: `/metrics`, `/healthz`, `/readyz`, `/status`.
//!
//! Health says that the process serves; readiness that every stage runs. With a token configured, `/metrics` and `/status` want it as
//! `Authorization: Bearer`; the two probes never do, because orchestrators call them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use crate::config::{Admin, Secret};
use crate::metrics::Metrics;
use crate::status::PipelineStatus;

/// The media type that Prometheus asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Starts serving in the background.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(admin: &Admin, metrics: Arc<Metrics>, status: Arc<PipelineStatus>) -> Result<()> {
    let address = admin.listen.value;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} (`admin: listen`)"))?;
    tracing::info!(address = %listener.local_addr().unwrap_or(address), "serving /metrics, /healthz, /readyz, /status");
    let token = admin.token.as_ref().map(|token| token.value.clone());
    let router = router(metrics, status, token);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP listener has ended");
        }
    });
    Ok(())
}

fn router(metrics: Arc<Metrics>, status: Arc<PipelineStatus>, token: Option<Secret>) -> Router {
    let guarded = Router::new()
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.text())),
        )
        .route(
            "/status",
            get({
                let status = Arc::clone(&status);
                async move || Json(status.json())
            }),
        )
        .layer(middleware::from_fn_with_state(token, authorize));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || readiness(&status)))
        .merge(guarded)
}

fn readiness(status: &PipelineStatus) -> Response {
    let reasons = status.unready();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
}

async fn authorize(State(token): State<Option<Secret>>, request: Request, next: Next) -> Response {
    let Some(token) = token else {
        return next.run(request).await;
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if same(given.as_bytes(), token.expose().as_bytes()) {
        return next.run(request).await;
    }
    let answer = [(header::WWW_AUTHENTICATE, "Bearer")];
    (
        StatusCode::UNAUTHORIZED,
        answer,
        "send the token of `admin: token` as `Authorization: Bearer`\n",
    )
        .into_response()
}

/// Compares without telling by its time where the difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |difference, (l, r)| difference | (l ^ r))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b""[..], b"secre", b"secreT", b"secrets"] {
            assert!(!same(wrong, b"secret"));
        }
    }
}
