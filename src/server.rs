//! The service put together: the only place where all parts meet. Builds them from the
//! configuration, listens, serves, and stops them in order.
//!
//! The order of a stop: health says "not serving" and new turns are refused; turns under
//! way may end until `server.drain_timeout`, and where there are other nodes each session is left to
//! them when it has none; every session is ended, which ends every
//! stream of events, and then those that serve tools; the listeners and the connections are closed, and spans
//! that wait are exported, each within a bound.

mod capacity;
mod cautions;
mod early;
mod enclosure;
mod figures;
mod gateway;
mod http;
mod lease;
mod listeners;
mod metrics;
mod observer;
mod placement;
mod probe;
mod processes;
mod program;
mod readiness;
mod settings;
mod shared;
mod stack;
mod state;
mod status_page;

use std::{
    fs::File, future::Future, net::SocketAddr, pin::pin, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;
use tracing::{error, error_span, info, warn};

pub use enclosure::Enclosure;
pub use program::{check_files, run, run_helper};

/// A new token for callers, and the entry for it that the tokens file needs.
pub use crate::access::tokens::fresh as new_token;

use crate::{
    access::credentials::Credentials,
    audit::Audit,
    cli::versions::Installed,
    cluster::{Placement, layer::Forwarder},
    config::Config,
    health::{Health, part},
    measures::Measures,
    policy::Policy,
    pool::{Parts, SessionPool},
    rpc::calls::CallMeasures,
    store::PostgresStore,
    supply::ProcessSupply,
    tasks::{Tasks, apart},
    telemetry::log_limit,
    tenant::Tenants,
    tools::ToolServers,
    traces::{Exporting, Traces},
    turn::storage::Storage,
};
use early::EarlyStop;
use listeners::Listeners;
use probe::Probe;
use readiness::watch_store;

/// Bytes of a health check: it holds the name of a service.
const HEALTH_MESSAGE: usize = 1024;
/// How long a stop waits until other nodes are told of it, where it waits for nothing else.
const TELLING_LIMIT: Duration = Duration::from_secs(3);
/// How long the service's tasks may take to end.
const TASKS_LIMIT: Duration = Duration::from_secs(6);
/// How long entries of the audit log that wait to be written may take.
const AUDIT_LIMIT: Duration = Duration::from_secs(3);
/// How long spans that are not exported may take to be, when all else has ended.
const SPANS_LIMIT: Duration = Duration::from_secs(3);

/// Runs the service until a signal stops it.
async fn serve(config: Config, enclosure: Enclosure, early: EarlyStop) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    early.hand_over();
    let server = Server::bind(config, enclosure.clone()).await?;
    let Enclosure { sandbox, passed_over, attempts, .. } = enclosure;
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

/// Has written and exported what waits for that.
async fn see_off(audit: Audit, exporting: Option<Exporting>) {
    let flushed = timeout(AUDIT_LIMIT, apart(move || audit.flush())).await;
    if !matches!(flushed, Ok(Ok(true))) {
        error!("audit_not_flushed");
    }
    if let Some(exporting) = exporting {
        exporting.close(SPANS_LIMIT).await;
    }
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
    listeners: Listeners,
    credentials: Credentials,
    tasks: Tasks,
    enclosure: Enclosure,
    supply: ProcessSupply,
    installed: Installed,
    pool: SessionPool,
    /// Who it is to other services on its store, if that can be shared.
    node: Option<Arc<PostgresStore>>,
    policy: Arc<Policy>,
    calls: CallMeasures,
    audit: Audit,
    traces: Traces,
    /// What exports them, if they are exported.
    exporting: Option<Exporting>,
    /// Where sessions live, if there are other nodes.
    placement: Option<Arc<dyn Placement>>,
    /// Held for as long as the service lives: two services on one state folder would
    /// give one conversation two processes.
    _lock: File,
}

impl Server {
    /// Makes the state folder, builds the parts and binds the address. CLIs are enclosed
    /// as `enclosure` says.
    pub async fn bind(config: Config, enclosure: impl Into<Enclosure>) -> anyhow::Result<Self> {
        let credentials = Credentials::watched(&config)?;
        let policy = Arc::new(settings::policy(&config)?);
        let lock = state::claim_state_folder(&config).await?;
        state::sweep_earlier_life(&config).await?;
        let enclosure = Enclosure::divided(enclosure.into(), &config)?;
        cautions::give(&config, &enclosure, &credentials.authenticator());
        let mut listeners = Listeners::bind(&config).await?;
        let (traces, exporting) = exported(&config)?;
        let tasks = Tasks::default();
        let installed = Installed::default();
        let audit = settings::audit(&config)?;
        let gateway = gateway::start(&config, listeners.take_gateway(), &audit, &tasks).await?;
        let supply =
            gateway::supply(&config, (&enclosure, &installed), &policy, gateway.clone(), &tasks)?;
        let opened = state::open_store(&config, &tasks).await?;
        if let Some(lease) = opened.node.as_deref().and_then(PostgresStore::lease) {
            lease::watch(lease, enclosure.sandbox.program(), &tasks)?;
        }
        let parts = Parts {
            session: Arc::new(settings::session_settings(&config)),
            supply: Arc::new(supply.clone()),
            store: opened.store,
            tenants: Tenants::new(
                settings::quotas(&config),
                Measures::new(config.metrics.tenant_label),
            ),
            logs: Storage::new(settings::storage_settings(&config)),
            tools: ToolServers::new(config.policy.tool_call_timeout),
            traces: traces.clone(),
        };
        state::sweep_anonymous(&config, Arc::clone(&parts.store)).await?;
        let pool = SessionPool::new(settings::pool_settings(&config), parts, tasks.clone());
        pool.resume().await.context("store: what is kept cannot be read")?;
        gateway.inspect(|it| it.hold_to(Arc::new(gateway::OfPool(pool.clone()))));
        let placement = opened.node.clone().map(|store| {
            let (pool, name) = (pool.clone(), config.cluster.node.clone());
            Arc::new(placement::ByStore { store, pool, name }) as Arc<dyn Placement>
        });
        Ok(Self {
            config,
            listeners,
            credentials,
            policy,
            calls: CallMeasures::default(),
            audit,
            traces,
            exporting,
            tasks,
            enclosure,
            supply,
            installed,
            pool,
            node: opened.node,
            placement,
            _lock: lock,
        })
    }

    /// Calls for sessions that live elsewhere are forwarded, as this says.
    #[cfg(feature = "test-tools")]
    #[must_use]
    pub fn placed_by(mut self, placement: Arc<dyn Placement>) -> Self {
        self.placement = Some(placement);
        self
    }

    /// The address, with the port that was picked.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listeners.address()
    }

    /// The address of health checks in plain text, if there is one.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.listeners.health_address()
    }

    /// The address of other nodes, if they have one of their own.
    pub fn node_address(&self) -> Option<SocketAddr> {
        self.listeners.node_address()
    }

    /// The pool.
    pub fn pool(&self) -> &SessionPool {
        &self.pool
    }

    /// Serves until `stop`, then stops in order; without waiting for turns once `hurry`
    /// is cancelled. Returns whether all turns ended by themselves and nothing is left.
    pub async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        hurry: CancellationToken,
    ) -> anyhow::Result<bool> {
        let address = self.address()?;
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health_service = health_service.max_decoding_message_size(HEALTH_MESSAGE);
        let health = Health::new();
        self.look_after_health(&health, reporter).await;
        let forwarder = self.forwarder();
        let services = self.services(&health, health_service.clone(), forwarder.clone())?;
        let closed = CancellationToken::new();
        let (health_address, node_address) = (self.health_address(), self.node_address());
        let metrics_address = self.listeners.metrics_address();
        if let Some(socket) = self.listeners.take_metrics() {
            let page = self.config.metrics.status_page;
            let page = page.then(|| self.status_page(&health, forwarder.as_ref()));
            self.figures(&health).serve(page, socket, &self.tasks);
        }
        let (files, counted) = ((&self.config, &self.credentials), self.counted());
        self.listeners.serve(services, (health_service, counted), files, &self.tasks, &closed);
        let (encrypted, asks) =
            (self.config.tls.cert.is_some(), self.credentials.authenticator().asks());
        self.credentials.keep_up_to_date(&self.tasks);
        self.pool.start();
        report_what_is_not_logged(&self.tasks);
        info!(
            %address,
            health_address = health_address.map(tracing::field::display),
            node_address = node_address.map(tracing::field::display),
            metrics_address = metrics_address.map(tracing::field::display),
            tls = encrypted,
            authentication = asks,
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        cautions::warn_of_exposure(&self.config, address, asks);
        stop.await;

        health.hold(part::SERVICE, "the service is stopping");
        let node = self.node.as_deref();
        let drained = tokio::select! {
            // Looked at first: a second signal takes nothing away where no turn runs.
            biased;
            drained = drain(&self.pool, forwarder.as_ref(), &self.config, node) => drained,
            () = hurry.cancelled() => false,
        };
        if !drained {
            warn!("drain_timeout");
        }
        self.pool.stop().await;
        self.pool.tools().close();
        forwarder.inspect(Forwarder::close);
        closed.cancel();
        let ended = self.tasks.stop(TASKS_LIMIT).await;
        if !ended {
            error!(left = self.tasks.len(), "tasks_left");
        }
        see_off(self.audit, self.exporting).await;
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
        self.tasks.spawn(error_span!("health"), async move {
            let looking = async {
                tokio::join!(
                    publisher.keep_reporting(reporter),
                    probe.run(&prober),
                    watch_store(store, &watcher),
                );
            };
            tokio::select! {
                () = looking => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

/// Waits for turns, those at other nodes that callers follow by this one included. Other nodes are
/// told meanwhile, also where there is nothing to wait for; a database that is gone does not delay
/// the stop by more than a moment.
async fn drain(
    pool: &SessionPool,
    forwarder: Option<&Forwarder>,
    config: &Config,
    node: Option<&PostgresStore>,
) -> bool {
    let limit = config.server.drain_timeout;
    let forwarded = async {
        match forwarder {
            Some(forwarder) => forwarder.drain(limit).await,
            None => true,
        }
    };
    let told_by = Instant::now() + TELLING_LIMIT.min(limit);
    let mut telling = pin!(placement::tell_draining(node));
    let mut turns = pin!(async { tokio::join!(pool.drain(limit), forwarded) });
    let (own, forwarded) = tokio::select! {
        drained = &mut turns => {
            timeout_at(told_by, telling).await.ok();
            drained
        }
        () = &mut telling => turns.await,
    };
    own && forwarded
}

/// Where traces go, and what sends them there if anything does. The runtime is there by now, which the
/// connection to the collector needs.
fn exported(config: &Config) -> anyhow::Result<(Traces, Option<Exporting>)> {
    let Some(settings) = settings::traces(config) else { return Ok((Traces::default(), None)) };
    let (traces, exporting) = Traces::exported(&settings)?;
    Ok((traces, Some(exporting)))
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
