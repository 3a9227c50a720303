//! The HTTP port: metrics, health, a JSON API for reading, and the web page.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cappa_core::JobId;
use tokio::net::TcpListener;

use crate::leadership::Role;
use crate::metrics::Snapshot;
use crate::server::Shared;

mod json;

/// How long the state may keep the readiness check waiting.
const READY_LIMIT: Duration = Duration::from_secs(2);

/// Serves until the shared token is cancelled.
pub(crate) fn serve(shared: &Shared, listener: TcpListener) {
    let router = Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/jobs", get(jobs))
        .route("/api/jobs/{id}", get(job))
        .with_state(shared.clone());
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(error = &error as &dyn std::error::Error, "HTTP ended");
        }
    });
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'self' 'unsafe-inline'; img-src 'self' data:"),
    ];
    (headers, include_str!("dashboard.html")).into_response()
}

/// Ready is who can answer from the state.
async fn ready(State(shared): State<Shared>) -> Response {
    match tokio::time::timeout(READY_LIMIT, shared.handle.read(|_| ())).await {
        Ok(Ok(())) => match &*shared.role.borrow() {
            Role::Leads { .. } => "ok\n".into_response(),
            Role::Follows { leader: Some(leader) } => {
                format!("ok, follower; {} leads\n", leader.at.http).into_response()
            }
            Role::Follows { leader: None } => "ok, follower; nobody leads at the moment\n".into_response(),
        },
        Ok(Err(stopped)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the event log waits for its store\n").into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let role = shared.role.borrow().clone();
    let curves = shared.curves.clone();
    // The state is told once for all coordinators, so that sums over them are right.
    let state = match role.leads() {
        true => shared.handle.read(move |view| Snapshot::of(view, &curves)).await,
        false => Ok(Snapshot::default()),
    };
    let Ok(state) = state else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    match shared.metrics.encode(state.with_role(&role)) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn jobs(State(shared): State<Shared>) -> Response {
    let (curves, role) = (shared.curves.clone(), shared.role.borrow().clone());
    let overview = shared.handle.read(move |view| json::Overview::of(view, &curves)).await;
    match (overview, shared.workers().await) {
        (Ok(overview), Ok(workers)) => axum::Json(overview.json(workers.as_deref(), &role)).into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn job(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let id = JobId::from(id);
    let (curves, wanted) = (shared.curves.clone(), id.clone());
    shared.load_curve(&id).await;
    let detail = shared.handle.read(move |view| json::Detail::of(view, &curves, &wanted)).await;
    match (detail, shared.workers().await) {
        (Ok(Some(detail)), Ok(workers)) => {
            axum::Json(detail.json(&shared.curves.points(&id, 0), workers.as_deref())).into_response()
        }
        (Ok(None), _) => StatusCode::NOT_FOUND.into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
