//! The sockets of the service, bound at the start and served together: callers, health checks
//! in plain text, other nodes.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health as HealthRpcs, HealthServer};
use tower_layer::Layer as _;

use super::{capacity, http, settings, stack::Services};
use crate::{
    access::credentials::Credentials,
    config::Config,
    gateway,
    rpc::{calls::CountLayer, edge::EdgeLayer},
    tasks::Tasks,
    transport::Listener,
};

/// The sockets.
#[derive(Debug)]
pub struct Listeners {
    callers: TcpListener,
    health: Option<TcpListener>,
    nodes: Option<TcpListener>,
    metrics: Option<TcpListener>,
    gateway: Option<TcpListener>,
}

impl Listeners {
    /// Binds all addresses of the configuration.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let server = &config.server;
        Ok(Self {
            callers: bind("server.listen", server.listen).await?,
            health: bind_if("server.health_listen", server.health_listen).await?,
            nodes: bind_if("cluster.listen", config.cluster.listen).await?,
            metrics: bind_if("server.metrics_listen", server.metrics_listen).await?,
            gateway: bind_if(
                "gateway.listen",
                config.needs_gateway().then_some(config.gateway.listen),
            )
            .await?,
        })
    }

    /// The address of callers, with the port that was picked.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.callers.local_addr()?)
    }

    /// The address of health checks in plain text, if there is one.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health.as_ref()?.local_addr().ok()
    }

    /// The address of other nodes, if they have one of their own.
    pub fn node_address(&self) -> Option<SocketAddr> {
        self.nodes.as_ref()?.local_addr().ok()
    }

    /// The address of figures, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// The socket of CLIs that come for the API, which others serve.
    pub fn take_gateway(&mut self) -> Option<TcpListener> {
        self.gateway.take()
    }

    /// The socket of figures, which are served by others.
    pub fn take_metrics(&mut self) -> Option<TcpListener> {
        self.metrics.take()
    }

    /// Serves on all others of them until `closing`; health checks until the tasks end.
    pub fn serve<H: HealthRpcs>(
        self,
        services: Services,
        (health_service, counted): (HealthServer<H>, CountLayer),
        (config, credentials): (&Config, &Credentials),
        tasks: &Tasks,
        closing: &CancellationToken,
    ) {
        let health = self.health.as_ref().map_or(0, |_| settings::HEALTH_CONNECTIONS);
        let nodes = self.nodes.as_ref().map_or(0, |_| settings::NODE_CONNECTIONS);
        let metrics =
            config.server.metrics_listen.map_or(0, |_| http::Limits::MONITORING.connections);
        let gateway = if config.needs_gateway() { 2 * gateway::connections() } else { 0 };
        let max_connections = capacity::connections(config, health + nodes + metrics + gateway);
        let callers = Listener {
            name: "server.listen",
            socket: self.callers,
            tls: credentials.certificates(),
            service: services.callers,
            limits: settings::transport(config, max_connections),
        };
        callers.serve(tasks, closing.clone());
        if let Some(socket) = self.nodes {
            let nodes = Listener {
                name: "cluster.listen",
                socket,
                tls: credentials.node_certificates(),
                service: services.nodes,
                limits: settings::node_transport(config),
            };
            nodes.serve(tasks, closing.clone());
        }
        if let Some(socket) = self.health {
            let edge = EdgeLayer::new(settings::edge(config));
            let health = Listener {
                name: "server.health_listen",
                socket,
                tls: None,
                service: counted.layer(edge.layer(Routes::new(health_service).prepare())),
                limits: settings::health_transport(config),
            };
            // Not closed before the rest: probes ask until the end.
            health.serve(tasks, tasks.stopping().clone());
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("{key}: cannot bind {address}"))
}

async fn bind_if(key: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => bind(key, address).await.map(Some),
        None => Ok(None),
    }
}
