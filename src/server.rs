//! The service put together: the only place where all parts meet. Builds them from the
//! configuration, listens, serves, and stops them in order.
//!
//! The order of a stop: health says "not serving" and new turns are refused; turns under
//! way may end until `server.drain_timeout`; every session is ended, which ends every
//! stream of events, and then those that serve tools; the listeners and the connections are closed, within a bound.

mod capacity;
mod cautions;
mod early;
mod enclosure;
mod lease;
mod observer;
mod probe;
mod program;
mod readiness;
mod settings;
mod state;

use std::{
    fs::File, future::Future, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{
    pb::health_server::{Health as HealthRpcs, HealthServer},
    server::HealthReporter,
};
use tower_layer::Layer as _;
use tracing::{error, error_span, info, warn};

pub use enclosure::Enclosure;
pub use program::{check_files, run, run_supervisor};

/// A new token for callers, and the entry for it that the tokens file needs.
pub use crate::access::tokens::fresh as new_token;

use crate::{
    access::credentials::Credentials,
    cli::versions::Installed,
    config::Config,
    health::{Health, part},
    policy::Policy,
    pool::{Parts, SessionPool},
    proto::{DESCRIPTORS, session_pool_service_server::SessionPoolServiceServer},
    rpc::{
        auth_layer::{AuthLayer, AuthService},
        edge::{Edge, EdgeLayer},
        meter::{Meter, MeterLayer},
        service::Service,
    },
    store::PostgresStore,
    supply::ProcessSupply,
    tasks::Tasks,
    telemetry::log_limit,
    tenant::Tenants,
    tools::ToolServers,
    transport::Listener,
    turn::storage::Storage,
};
use early::EarlyStop;
use observer::Observer;
use probe::Probe;
use readiness::watch_store;

/// Room in a request beside its prompt: system prompts, schemas, base64.
const REQUEST_OVERHEAD: usize = 8 * 1024 * 1024;
/// Bytes of a health check: it holds the name of a service.
const HEALTH_MESSAGE: usize = 1024;
/// Bytes of a question about the contract: it holds a name.
const REFLECTION_MESSAGE: usize = 16 * 1024;
/// How long the service's tasks may take to end.
const TASKS_LIMIT: Duration = Duration::from_secs(6);

/// Runs the service until a signal stops it.
async fn serve(config: Config, enclosure: Enclosure, early: EarlyStop) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    early.hand_over();
    let server = Server::bind(config, enclosure.clone()).await?;
    let Enclosure { sandbox, passed_over, attempts } = enclosure;
    info!(mode = sandbox.name(), %passed_over, ?attempts, "sandbox");
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let hurry = CancellationToken::new();
    let in_order = server
        .run(
            async {
                let name = signals.await;
                info!(signal = name, "stopping");
                watch_for_second(hurry.clone());
            },
            hurry.clone(),
        )
        .await?;
    Ok(if in_order { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A second signal means: do not wait for turns.
fn watch_for_second(hurry: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    // Ends with the process at the latest, a moment from now.
    drop(crate::tasks::spawn_owned(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        hurry.cancel();
    }));
}

/// The service, bound to its address.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: TcpListener,
    health_listener: Option<TcpListener>,
    credentials: Credentials,
    tasks: Tasks,
    enclosure: Enclosure,
    supply: ProcessSupply,
    installed: Installed,
    pool: SessionPool,
    /// Who it is to other services on its store, if that can be shared.
    node: Option<Arc<PostgresStore>>,
    policy: Arc<Policy>,
    /// Held for as long as the service lives: two services on one state folder would
    /// give one conversation two processes.
    _lock: File,
}

impl Server {
    /// Makes the state folder, builds the parts and binds the address. CLIs are enclosed
    /// as `enclosure` says.
    pub async fn bind(config: Config, enclosure: impl Into<Enclosure>) -> anyhow::Result<Self> {
        let enclosure = enclosure.into();
        let credentials = Credentials::watched(&config)?;
        let policy = Arc::new(settings::policy(&config)?);
        let lock = state::claim_state_folder(&config).await?;
        state::sweep_earlier_life(&config).await?;
        cautions::give(&config, &enclosure, &credentials.authenticator());
        let listener = TcpListener::bind(config.server.listen)
            .await
            .with_context(|| format!("server.listen: cannot bind {}", config.server.listen))?;
        let health_listener = match config.server.health_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("server.health_listen: cannot bind {address}"))?,
            ),
            None => None,
        };
        let tasks = Tasks::default();
        let installed = Installed::default();
        let supply = ProcessSupply::new(
            settings::launch(&config, enclosure.sandbox.clone(), installed.clone()),
            settings::limits(&config),
            Arc::clone(&policy),
            settings::spares(&config)?,
            tasks.clone(),
        );
        let opened = state::open_store(&config, &tasks).await?;
        let parts = Parts {
            session: Arc::new(settings::session_settings(&config)),
            supply: Arc::new(supply.clone()),
            store: opened.store,
            tenants: Tenants::new(settings::quotas(&config)),
            logs: Storage::new(settings::storage_settings(&config)),
            tools: ToolServers::new(config.policy.tool_call_timeout),
        };
        state::sweep_anonymous(&config, Arc::clone(&parts.store)).await?;
        let pool = SessionPool::new(settings::pool_settings(&config), parts, tasks.clone());
        pool.resume().await.context("store: what is kept cannot be read")?;
        Ok(Self {
            config,
            listener,
            health_listener,
            credentials,
            policy,
            tasks,
            enclosure,
            supply,
            installed,
            pool,
            node: opened.node,
            _lock: lock,
        })
    }

    /// The address, with the port that was picked.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The address of health checks in plain text, if there is one.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_listener.as_ref()?.local_addr().ok()
    }

    /// The pool.
    pub fn pool(&self) -> &SessionPool {
        &self.pool
    }

    /// Serves until `stop`, then stops in order; without waiting for turns once `hurry`
    /// is cancelled. Returns whether all turns ended by themselves and nothing is left.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        hurry: CancellationToken,
    ) -> anyhow::Result<bool> {
        let address = self.address()?;
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health_service = health_service.max_decoding_message_size(HEALTH_MESSAGE);
        let health = Health::new();
        self.look_after_health(&health, reporter).await;
        let service = self.service(&health, health_service.clone())?;
        let closed = CancellationToken::new();
        let health_address = self.health_address();
        let max_connections = capacity::connections(&self.config, health_address.is_some());
        let listener = Listener {
            name: "server.listen",
            socket: self.listener,
            tls: self.credentials.certificates(),
            service,
            limits: settings::transport(&self.config, max_connections),
        };
        listener.serve(&self.tasks, closed.clone());
        if let Some(socket) = self.health_listener {
            serve_health(socket, health_service, &self.config, &self.tasks);
        }
        let (encrypted, asks) =
            (self.config.tls.cert.is_some(), self.credentials.authenticator().asks());
        self.credentials.keep_up_to_date(&self.tasks);
        self.pool.start();
        report_what_is_not_logged(&self.tasks);
        info!(
            %address,
            health_address = health_address.map(tracing::field::display),
            tls = encrypted,
            authentication = asks,
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        cautions::warn_of_exposure(&self.config, address, asks);
        stop.await;

        health.hold(part::SERVICE, "the service is stopping");
        let drained = tokio::select! {
            drained = self.pool.drain(self.config.server.drain_timeout) => drained,
            // Nobody waits for that: a database that is gone must not delay the stop.
            () = lease::drain(self.node.as_deref()) => false,
            () = hurry.cancelled() => false,
        };
        if !drained {
            warn!("drain_timeout");
        }
        self.pool.stop().await;
        self.pool.tools().close();
        closed.cancel();
        let ended = self.tasks.stop(TASKS_LIMIT).await;
        if !ended {
            error!(left = self.tasks.len(), "tasks_left");
        }
        info!(drained, "stopped");
        Ok(drained && ended)
    }

    /// Publishes what health checks see, and asks the parts that it depends on.
    async fn look_after_health(&self, health: &Health, reporter: HealthReporter) {
        if !self.config.pool.enabled {
            health.hold(part::POOL, "pool.enabled is false");
        }
        health.report(&reporter).await;
        let stopping = self.tasks.stopping().clone();
        let (publisher, prober, watcher) = (health.clone(), health.clone(), health.clone());
        let store = self.pool.store_status();
        let supply = self.config.cli.start_check.then(|| self.supply.clone());
        let (program, installed) = (self.config.cli.path.clone(), self.installed.clone());
        let probe = Probe { program, installed, supply };
        let leasing = lease::watch(self.node.clone(), self.config.cluster.lease);
        self.tasks.spawn(error_span!("health"), async move {
            let looking = async {
                tokio::join!(
                    publisher.keep_reporting(reporter),
                    probe.run(&prober),
                    watch_store(store, &watcher),
                    leasing,
                );
            };
            tokio::select! {
                () = looking => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    fn service<H: HealthRpcs>(
        &self,
        health: &Health,
        health_service: HealthServer<H>,
    ) -> anyhow::Result<Guarded> {
        let policy = Arc::clone(&self.policy);
        let observer = Observer {
            enclosure: self.enclosure.clone(),
            supply: self.supply.clone(),
            limits: settings::limits(&self.config),
            health: health.clone(),
        };
        let limit = self.config.policy.max_prompt_bytes.saturating_mul(2) + REQUEST_OVERHEAD;
        let service =
            SessionPoolServiceServer::new(Service::new(self.pool.clone(), policy, observer))
                .max_decoding_message_size(limit);
        let mut routes = Routes::new(service).add_service(health_service);
        if self.config.server.reflection {
            let reflection = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    // Callers without stubs can then read the details of errors.
                    .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            };
            let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
            routes = routes
                .add_service(v1.max_decoding_message_size(REFLECTION_MESSAGE))
                .add_service(v1alpha.max_decoding_message_size(REFLECTION_MESSAGE));
        }
        let meter = MeterLayer { pool: self.pool.clone(), largest: limit as u64 };
        let metered = meter.layer(routes.prepare());
        let guarded = AuthLayer(self.credentials.authenticator()).layer(metered);
        Ok(EdgeLayer::new(settings::edge(&self.config)).layer(guarded))
    }
}

/// Answers health checks, and nothing else, in plain text.
fn serve_health<H: HealthRpcs>(
    socket: TcpListener,
    service: HealthServer<H>,
    config: &Config,
    tasks: &Tasks,
) {
    let listener = Listener {
        name: "server.health_listen",
        socket,
        tls: None,
        service: EdgeLayer::new(settings::edge(config)).layer(Routes::new(service).prepare()),
        limits: settings::health_transport(config),
    };
    // Not closed before the rest: probes ask until the end.
    listener.serve(tasks, tasks.stopping().clone());
}

/// Tells from time to time how many lines were held back.
fn report_what_is_not_logged(tasks: &Tasks) {
    let stopping = tasks.stopping().clone();
    tasks.spawn(error_span!("log_limit"), async move {
        tokio::select! {
            () = log_limit::report() => {}
            () = stopping.cancelled() => {}
        }
    });
}

/// Every request is held to the edge's rules; every call but a health check passes the
/// authentication layer, and has its body metered.
type Guarded = Edge<AuthService<Meter<Routes>>>;
