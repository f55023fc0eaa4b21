//! The HTTP listener: `/metrics`, `/healthz`, `/readyz`, `/status`, and in `change` what an operator can do.
//!
//! Health says that the process serves; readiness that every stage runs. With a token configured, `/metrics` and `/status` want it as
//! `Authorization: Bearer`; the two probes never do, because orchestrators call them.

mod change;
pub(crate) mod token;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use crate::config::{Admin, Secret};
use crate::control::Control;
use crate::metrics::Metrics;
use crate::status::PipelineStatus;

/// The media type that Prometheus asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Starts serving in the background.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(admin: &Admin, metrics: Arc<Metrics>, control: Arc<Control>) -> Result<()> {
    let address = admin.listen.value;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} (`admin: listen`)"))?;
    tracing::info!(address = %listener.local_addr().unwrap_or(address), "serving /metrics, /healthz, /readyz, /status");
    let token = admin.token.as_ref().map(|token| token.value.clone());
    let router = router(metrics, control, token);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP listener has ended");
        }
    });
    Ok(())
}

fn router(metrics: Arc<Metrics>, control: Arc<Control>, token: Option<Secret>) -> Router {
    let status = Arc::clone(&control.status);
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
        .merge(change::routes(control, token.is_some()))
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
    if token::is_shown(request.headers(), &token) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    use super::*;
    use crate::kafka::consumer::TopicPartition;
    use crate::kafka::lag::Lag;
    use crate::status::{PluginReport, StageStatus};

    fn report() -> PluginReport {
        PluginReport {
            name: "filter-station".to_owned(),
            version: "0.1.0".to_owned(),
            digest: "ab".repeat(32),
            file: "plugins/filter-station.wasm".to_owned(),
        }
    }

    fn stage(name: &str) -> Arc<StageStatus> {
        let stage = StageStatus::new(name, &format!("noaa.{name}"), 2);
        stage.set_plugin(report());
        stage
    }

    /// Four stages: one runs, one has not begun, one has stopped, one is paused.
    fn stages() -> Vec<Arc<StageStatus>> {
        let [running, starting, stopped, paused] = ["az-filter", "freeze-alert", "archive", "audit"].map(stage);
        paused.pause();
        running.worker(0).runs("cd");
        running.set_refused(Some("the component cannot be compiled".to_owned()));
        for (worker, partitions) in [(0, vec![2, 0]), (1, vec![1])] {
            let topic = "noaa-json".to_owned();
            let assigned = partitions.into_iter().map(|partition| TopicPartition {
                topic: topic.clone(),
                partition,
            });
            running.worker(worker).subscribed();
            running.worker(worker).assigned(&assigned.collect::<Vec<_>>());
        }
        let lag = |partition, committed| Lag {
            topic: "noaa-json".to_owned(),
            partition,
            committed,
            low: 5,
            end: 20,
        };
        running.set_lag(vec![lag(0, Some(18)), lag(1, None)]);
        stopped.worker(0).ended();
        stopped.failed("topic `archive`: the rights to write it are missing", false);
        stopped.failed("a later error, which does not hide the first", true);
        vec![running, starting, stopped, paused]
    }

    fn control(stages: Vec<Arc<StageStatus>>) -> Arc<Control> {
        let status = PipelineStatus {
            app: "noaa".to_owned(),
            instance: "i-1".to_owned(),
            stages,
            ingest: None,
            pending: vec!["stages.az-filter.batch".to_owned()].into(),
        };
        Arc::new(Control {
            status: Arc::new(status),
            store: None,
            swaps: BTreeMap::new(),
            file_bytes_max: 1024,
        })
    }

    fn listener(stages: Vec<Arc<StageStatus>>, token: Option<&str>) -> Router {
        router(Metrics::new(), control(stages), token.map(Secret::new))
    }

    /// The answer to a POST: status and body.
    async fn post(router: &Router, path: &str, authorization: Option<&str>) -> (u16, String) {
        let mut request = Request::builder().method("POST").uri(path);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    const CHANGES: [&str; 4] = [
        "/stages/audit/pause",
        "/stages/audit/resume",
        "/plugins/audit/swap",
        "/plugins/audit/rollback",
    ];

    /// The answer to a GET: status, media type, body.
    async fn get(router: &Router, path: &str, authorization: Option<&str>) -> (u16, String, String) {
        let mut request = Request::builder().uri(path);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_process_is_healthy_whatever_its_stages_do() {
        let (status, _, body) = get(&listener(stages(), None), "/healthz", None).await;
        assert_eq!((status, body.as_str()), (200, "ok\n"));
    }

    #[tokio::test]
    async fn a_process_is_ready_when_every_worker_is_in_its_group() {
        let one = stage("one");
        let router = listener(vec![Arc::clone(&one)], None);
        one.worker(0).subscribed();
        assert_eq!(get(&router, "/readyz", None).await.0, 503);
        one.worker(1).subscribed();
        let (status, _, body) = get(&router, "/readyz", None).await;
        assert_eq!((status, body.as_str()), (200, "ready\n"));
        one.worker(0).ended();
        assert_eq!(get(&router, "/readyz", None).await.0, 503);
    }

    #[tokio::test]
    async fn what_is_not_ready_is_told_line_by_line() {
        let (status, _, body) = get(&listener(stages(), None), "/readyz", None).await;
        assert_eq!(status, 503);
        insta::assert_snapshot!(body, @r"
        stage `freeze-alert` is starting or ending
        stage `archive` has stopped: topic `archive`: the rights to write it are missing
        stage `audit` is paused; `wasmill stage resume` lets it go on
        ");
    }

    #[tokio::test]
    async fn the_status_tells_of_every_stage() {
        let (status, kind, body) = get(&listener(stages(), None), "/status", None).await;
        assert_eq!((status, kind.as_str()), (200, "application/json"));
        let mut body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["version"].take(), env!("CARGO_PKG_VERSION"));
        let body = serde_json::to_string_pretty(&body).unwrap();
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(body) });
    }

    #[tokio::test]
    async fn every_metric_has_its_name_its_type_and_its_words() {
        let metrics = Metrics::new();
        let stage = metrics.stage("s");
        stage.transaction("committed");
        stage.rebalance("assigned");
        stage.output("t").0.inc();
        stage.set_lag("t", 0, 1);
        let plugin = stage.plugin("p", 100);
        plugin.add("counter", 1);
        plugin.set("gauge", 1.0);
        plugin.observe("histogram", 1.0);
        stage.swap("swapped");
        stage.runs("p", "1.0.0", "ab");
        metrics.ingest.begin(Some("t")).answered(200);
        metrics.ingest.acknowledged("t", 1, 1);
        metrics.ingest.refused("memory");
        let (status, kind, body) = get(&router(metrics, control(vec![]), None), "/metrics", None).await;
        assert_eq!((status, kind.as_str()), (200, OPENMETRICS));
        assert!(body.ends_with("# EOF\n"));
        let names: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("# ")).collect();
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(names.join("\n")) });
    }

    #[tokio::test]
    async fn a_token_guards_what_tells_something_and_not_the_probes() {
        let router = listener(vec![], Some("s3cret"));
        for path in ["/metrics", "/status"] {
            for wrong in [
                None,
                Some("Bearer s3cre"),
                Some("Bearer "),
                Some("s3cret"),
                Some("Basic s3cret"),
            ] {
                let (status, _, body) = get(&router, path, wrong).await;
                assert_eq!(status, 401, "{path} {wrong:?}");
                assert_eq!(body, "send the token of `admin: token` as `Authorization: Bearer`\n");
            }
            assert_eq!(get(&router, path, Some("Bearer s3cret")).await.0, 200, "{path}");
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get(&router, path, None).await.0, 200, "{path}");
        }
        assert_eq!(get(&router, "/nothing", Some("Bearer s3cret")).await.0, 404);
    }

    #[tokio::test]
    async fn nothing_is_changed_without_a_token() {
        let stages = stages();
        let open = listener(stages.clone(), None);
        assert_eq!(get(&open, "/nothing", None).await.0, 404);
        let guarded = listener(stages.clone(), Some("s3cret"));
        for path in CHANGES {
            let (status, body) = post(&open, path, None).await;
            assert_eq!(status, 403, "{path}");
            assert!(body.contains("set `admin: {token: {file: PATH}}`"), "{body}");
            assert_eq!(post(&guarded, path, None).await.0, 401, "{path}");
            assert_eq!(post(&guarded, path, Some("Bearer s3cre")).await.0, 401, "{path}");
        }
        assert!(stages[3].is_paused());
    }

    #[tokio::test]
    async fn a_stage_is_paused_and_resumed_and_an_unknown_one_is_named() {
        let stages = stages();
        let router = listener(stages.clone(), Some("s3cret"));
        let token = Some("Bearer s3cret");
        assert_eq!(post(&router, "/stages/audit/resume", token).await.0, 200);
        assert!(!stages[3].is_paused());
        assert_eq!(post(&router, "/stages/audit/pause", token).await.0, 200);
        assert!(stages[3].is_paused());
        // Resuming forgets why a stage has stopped, so that it is tried again.
        assert_eq!(post(&router, "/stages/archive/resume", token).await.0, 200);
        assert!(stages[2].is_to_run());
        let (status, body) = post(&router, "/stages/archiv/pause", token).await;
        assert_eq!(status, 404);
        assert!(body.contains("did you mean `archive`"), "{body}");
    }
}
