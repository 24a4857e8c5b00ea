//! Figures for Prometheus and health checks over HTTP, on a listener of their own: `/metrics`,
//! `/livez`, `/readyz`. What is counted over time is of this life of the service; the rest is what
//! is true when somebody asks.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;
use tracing::{error_span, warn};

use super::{figures::Figures, observer::Observer};
use crate::{
    counters::Totals,
    health::Health,
    measures::Labels,
    pool::{Scope, SessionPool},
    rpc::service::Observe as _,
    tasks::Tasks,
};

/// The text format of OpenMetrics 1.0.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is asked for figures.
#[derive(Debug)]
pub struct Exporter {
    pub pool: SessionPool,
    pub observer: Observer,
    pub health: Health,
}

impl Exporter {
    /// Answers on this socket until the tasks end: probes ask until then.
    pub fn serve(self, socket: TcpListener, tasks: &Tasks) {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(Arc::new(self));
        let stopping = tasks.stopping().clone();
        tasks.spawn(error_span!("metrics"), async move {
            let served =
                axum::serve(socket, routes).with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(error) = served.await {
                warn!(%error, "metrics_not_served");
            }
        });
    }

    async fn text(&self) -> Result<String, std::fmt::Error> {
        let tenants = self.pool.tenants();
        let measures = tenants.measures();
        let mut registry = Registry::with_prefix("session_pool");
        let mut figures = Figures::default();
        let all = self.pool.stats(&Scope::All);
        let facts = self.observer.facts(&Scope::All, &all).await;
        figures.of_service(&all, &facts, self.health.reasons().is_empty());
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
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

async fn metrics(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    match exporter.text().await {
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
