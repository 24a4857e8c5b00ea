//! The layers that a call passes, put together: the edge's rules, who calls, where the session
//! lives, memory for the request, and the services themselves.

use std::sync::Arc;

use tokio::sync::Mutex;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health as HealthRpcs, HealthServer};
use tower_layer::Layer as _;

use super::{
    Server, metrics::Exporter, observer::Observer, processes::Processes, settings, shared::Shared,
    status_page::StatusPage,
};
use crate::{
    cluster::layer::{Forward, ForwardLayer, Forwarder},
    config::Config,
    health::Health,
    proto::{DESCRIPTORS, session_pool_service_server::SessionPoolServiceServer},
    rpc::{
        auth_layer::{Admitted, AuthLayer, AuthService},
        calls::{CountLayer, Counted},
        edge::{Edge, EdgeLayer},
        meter::{Meter, MeterLayer},
        others::{Cluster, Member, Others},
        service::Service,
    },
};

/// Room in a request beside its prompt: system prompts, schemas, base64.
const REQUEST_OVERHEAD: usize = 8 * 1024 * 1024;
/// Bytes of a question about the contract: it holds a name.
const REFLECTION_MESSAGE: usize = 16 * 1024;

/// Every request is counted and held to the edge's rules; every call but a health check passes the
/// authentication layer; it is forwarded if its session is elsewhere, or has its body metered.
pub type Guarded = Counted<Edge<AuthService<Forward<Meter<Routes>>>>>;

/// What is served on each listener.
#[derive(Debug)]
pub struct Services {
    /// To callers.
    pub callers: Guarded,
    /// To other nodes, where they have a listener of their own.
    pub nodes: Guarded,
}

/// Bytes of the largest request that is decoded.
fn largest(config: &Config) -> usize {
    config.policy.max_prompt_bytes.saturating_mul(2) + REQUEST_OVERHEAD
}

impl Server {
    /// What forwards calls, where there are other nodes.
    pub(super) fn forwarder(&self) -> Option<Forwarder> {
        let placement = Arc::clone(self.placement.as_ref()?);
        let largest = largest(&self.config) as u64;
        let (nodes, tasks) = (self.credentials.nodes(), self.tasks.clone());
        Some(Forwarder::new(placement, nodes, self.pool.clone(), largest, tasks))
    }

    /// The services behind their layers.
    pub(super) fn services<H: HealthRpcs>(
        &self,
        health: &Health,
        health_service: HealthServer<H>,
        forwarder: Option<Forwarder>,
    ) -> anyhow::Result<Services> {
        let cluster = self.cluster(forwarder.as_ref());
        let routes = self.routes(health, health_service, cluster)?;
        let largest = largest(&self.config) as u64;
        let metered = MeterLayer { pool: self.pool.clone(), largest }.layer(routes.prepare());
        let forwarding = ForwardLayer(forwarder).layer(metered);
        let edge = EdgeLayer::new(settings::edge(&self.config));
        let guarded = |admitted| {
            let (authenticator, nodes) =
                (self.credentials.authenticator(), self.credentials.nodes());
            let known = AuthLayer { authenticator, nodes, admitted }.layer(forwarding.clone());
            self.counted().layer(edge.layer(known))
        };
        let of_callers = match settings::nodes_come_with_callers(&self.config) {
            true => Admitted::CallersAndNodes,
            false => Admitted::Callers,
        };
        Ok(Services { callers: guarded(of_callers), nodes: guarded(Admitted::Nodes) })
    }

    /// What counts and records calls, and gives them their places in traces.
    pub(super) fn counted(&self) -> CountLayer {
        let (measures, traces) = (self.calls.clone(), self.traces.clone());
        CountLayer { measures, traces, audit: self.audit.clone() }
    }

    /// What looks at the supply, the machine and the CLI.
    pub(super) fn observer(&self, health: &Health) -> Observer {
        Observer {
            enclosure: self.enclosure.clone(),
            supply: self.supply.clone(),
            limits: settings::limits(&self.config),
            health: health.clone(),
        }
    }

    /// What is asked for figures.
    pub(super) fn figures(&self, health: &Health) -> Exporter {
        Exporter::new(self.pool.clone(), self.observer(health), health.clone(), self.counted())
    }

    /// What people are shown of the service.
    pub(super) fn status_page(&self, health: &Health, forwarder: Option<&Forwarder>) -> StatusPage {
        StatusPage {
            pool: self.pool.clone(),
            observer: self.observer(health),
            cluster: self.cluster(forwarder),
            processes: Processes::default(),
            overview: Shared::default(),
            listing: Mutex::default(),
        }
    }

    /// This node among others, if there may be some.
    fn cluster(&self, forwarder: Option<&Forwarder>) -> Cluster {
        let config = &self.config.cluster;
        let address = Some(config.advertise.as_str()).filter(|address| !address.is_empty());
        let alone = Member {
            name: config.node.as_str().into(),
            address: address.map(Into::into),
            incarnation: String::new(),
            draining: false,
        };
        let others = forwarder.map(|it| Arc::new(it.asker()) as Arc<dyn Others>);
        Cluster { alone, others }
    }

    fn routes<H: HealthRpcs>(
        &self,
        health: &Health,
        health_service: HealthServer<H>,
        cluster: Cluster,
    ) -> anyhow::Result<Routes> {
        let policy = Arc::clone(&self.policy);
        let observer = self.observer(health);
        let service = SessionPoolServiceServer::new(Service::new(
            self.pool.clone(),
            policy,
            observer,
            cluster,
        ))
        .max_decoding_message_size(largest(&self.config));
        let routes = Routes::new(service).add_service(health_service);
        if !self.config.server.reflection {
            return Ok(routes);
        }
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // Callers without stubs can then read the details of errors.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        Ok(routes
            .add_service(v1.max_decoding_message_size(REFLECTION_MESSAGE))
            .add_service(v1alpha.max_decoding_message_size(REFLECTION_MESSAGE)))
    }
}
