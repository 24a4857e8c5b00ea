//! Figures for Prometheus and health checks over HTTP, on a listener of their own: `/metrics`,
//! `/livez`, `/readyz`, and beside them the [`StatusPage`]. What is counted over time is of this life of the service; the rest is what
//! is true when somebody asks. Those who ask at the same time are given the same figures, so that
//! many of them cost no more than two.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    registry::Registry,
};
use tokio::net::TcpListener;

use super::{
    figures::Figures,
    http::{self, Limits},
    observer::Observer,
    processes::Processes,
    shared::Shared,
    status_page::StatusPage,
};
use crate::{
    counters::Totals,
    health::Health,
    measures::Labels,
    pool::{Scope, SessionPool},
    rpc::{calls::CountLayer, service::Observe as _},
    tasks::Tasks,
};

/// The text format of OpenMetrics 1.0.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is asked for figures.
#[derive(Debug)]
pub struct Exporter {
    pool: SessionPool,
    observer: Observer,
    health: Health,
    counted: CountLayer,
    processes: Processes,
    last: Shared,
}

impl Exporter {
    /// Of these parts.
    pub fn new(pool: SessionPool, observer: Observer, health: Health, counted: CountLayer) -> Self {
        let (processes, last) = (Processes::default(), Shared::default());
        Self { pool, observer, health, counted, processes, last }
    }

    /// Answers on this socket until the tasks end, and shows people the page if there is one.
    pub fn serve(self, page: Option<StatusPage>, socket: TcpListener, tasks: &Tasks) {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(Arc::new(self))
            .merge(page.map_or_else(Router::new, StatusPage::routes));
        http::serve(socket, routes, Limits::MONITORING, tasks);
    }

    async fn text(&self) -> Result<Bytes, std::fmt::Error> {
        let tenants = self.pool.tenants();
        let measures = tenants.measures();
        let (mut registry, mut common) =
            (Registry::with_prefix("session_pool"), Registry::default());
        let mut figures = Figures::default();
        let all = self.pool.stats(&Scope::All);
        let facts = self.observer.facts(&Scope::All, &all).await;
        let used = self.processes.look(self.observer.supply.looks()).await;
        figures.of_service(&all, &facts, self.health.reasons().is_empty());
        figures.of_processes(&used);
        let mut totals = Totals::default();
        for tenant in tenants.all() {
            let counted = tenant.counted();
            if measures.by_tenant() {
                let stats = self.pool.stats(&Scope::Tenant(tenant.id().clone()));
                figures.of_sessions(&stats, &counted, &measures.label(tenant.id()));
            }
            totals.add(&counted);
        }
        if !measures.by_tenant() {
            figures.of_sessions(&all, &totals, &Labels::new());
        }
        figures.register(&mut registry);
        measures.register(&mut registry);
        let CountLayer { measures: calls, traces, audit } = &self.counted;
        traces.register(&mut registry);
        audit.register(&mut registry);
        let gateway = self.observer.supply.gateway().map(|gateway| gateway.counts().clone());
        // Without one they are there with 0: dashboards and alerts need not know of it.
        gateway.unwrap_or_default().register(&mut registry);
        let mut own = Figures::default();
        own.of_this_process(&used);
        own.register(&mut common);
        calls.register(&mut common);
        let mut text = String::new();
        encode_registry(&mut text, &registry)?;
        encode_registry(&mut text, &common)?;
        encode_eof(&mut text)?;
        Ok(text.into())
    }
}

async fn metrics(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    match exporter.last.get(async || exporter.text().await).await {
        Ok(text) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    let reasons = exporter.health.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let reasons = reasons.iter().map(|(part, reason)| format!("{part}: {reason}\n"));
    (StatusCode::SERVICE_UNAVAILABLE, reasons.collect())
}
