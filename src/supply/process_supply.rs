//! The supply that starts real processes, as its callers see it. Each start is in `starting`, and
//! spares are kept in `spare_life`, with what all of them share (`shared`). Knows nothing of what
//! a session does with a process.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use tracing::{error_span, warn};

use super::{
    Leasing, Order, SpareSettings, Supply, folders,
    prepare::blocking,
    recheck,
    shared::{Shared, SupplyLimits},
    slots::{Contest, ProcessSlots, Shortage},
    spares::spare_pool::SparePool,
};
use crate::{
    cli::{launch::LaunchSettings, process::StopGrace, transcript, usage::Watch},
    domain::{
        acquired::Acquired,
        failure::Cause,
        ids::{CliSessionId, SessionKey, TenantId},
        options::Options,
    },
    gateway::Gateway,
    os::{confined::Folder, looks::Looks},
    policy::Policy,
    tasks::Tasks,
};

/// How long the transcripts of a session may take to be removed.
const LONGEST_REMOVAL: Duration = Duration::from_secs(60);

/// Starts a real process for every order.
#[derive(Debug, Clone)]
pub struct ProcessSupply(Arc<Shared>);

impl ProcessSupply {
    /// Starts what `settings` say, with a pass for `gateway` each, within `limits`, with options that `policy` allows, and
    /// keeps `spares`; its tasks are among `tasks`.
    pub fn new(
        (settings, gateway): (LaunchSettings, Option<Gateway>),
        limits: SupplyLimits,
        policy: Arc<Policy>,
        spares: SpareSettings,
        tasks: Tasks,
    ) -> Self {
        let looks = Arc::new(Looks::default());
        let watch = Watch::new(limits.usage, Arc::clone(&looks)).map(Arc::new);
        if let Some(watch) = watch.clone() {
            let stopping = tasks.stopping().child_token();
            tasks.spawn(error_span!("usage"), async move {
                tokio::select! {
                    () = watch.run() => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        let shared = Arc::new(Shared {
            watch,
            looks,
            slots: ProcessSlots::new(limits.max_processes, limits.max_processes_of_a_tenant),
            starts: ProcessSlots::new(limits.start_concurrency, None),
            starting: AtomicU32::new(0),
            spares: SparePool::new(spares),
            settings,
            gateway,
            limits,
            policy,
            tasks,
        });
        let supervisor = Arc::clone(&shared);
        shared.tasks.spawn(error_span!("spares"), supervisor.keep_spares());
        Self(shared)
    }

    /// The way of processes to the API, where the service has the credential.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.0.gateway.as_ref()
    }

    /// Spares that are ready, and those that are being started: all, or a tenant's.
    pub fn spares(&self, tenant: Option<&TenantId>) -> (usize, usize) {
        (self.0.spares.ready(tenant), self.0.spares.starting(tenant))
    }

    /// Live processes, starting ones included.
    pub fn processes(&self) -> usize {
        self.0.slots.held()
    }

    /// Live processes of a tenant, starting ones included.
    pub fn processes_of(&self, tenant: &TenantId) -> usize {
        self.0.slots.held_by(tenant)
    }

    /// Looks at all processes of the machine, its own among them.
    pub fn looks(&self) -> &Arc<Looks> {
        &self.0.looks
    }

    /// Processes that are being started or wait for their turn to be.
    pub fn starting(&self) -> u32 {
        self.0.starting.load(Ordering::Relaxed)
    }
}

impl Supply for ProcessSupply {
    fn lease(&self, order: Order) -> Leasing {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (reply, leased) = oneshot::channel();
            let order_cancelled = order.cancelled.clone();
            // A task of its own: a process under way is ended in order even when nobody
            // waits for it any more.
            let span = error_span!(
                "cli.start",
                tenant = %order.session.tenant,
                session_id = %order.session.session
            );
            let tasks = shared.tasks.clone();
            tasks.spawn(span, async move {
                let result = shared.start(&order).await;
                if result.is_err() {
                    // Before anybody hears of it: the next start asks what is kept.
                    order.give_up().await;
                }
                if let Err(Ok(unwanted)) = reply.send(result) {
                    drop(unwanted.end(StopGrace::GENTLE).await);
                    order.give_up().await;
                }
            });
            // Dropping this future cancels the start.
            let _cancel = order_cancelled.drop_guard_ref();
            leased.await.unwrap_or_else(|_| Err(Cause::ShuttingDown.into()))
        })
    }

    fn recheck(
        &self,
        options: &Options,
    ) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> {
        if options.cwd.is_none() && options.add_dirs.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let (policy, options) = (Arc::clone(&self.0.policy), options.clone());
        Box::pin(async move {
            let checked = blocking(move || Ok(recheck::check(&policy, &options))).await;
            checked.unwrap_or_else(|error| Err(Cause::Internal { detail: error.to_string() }))
        })
    }

    fn allowed(
        &self,
        acquired: &Acquired,
    ) -> Pin<Box<dyn Future<Output = Result<Acquired, Cause>> + Send>> {
        let (policy, acquired) = (Arc::clone(&self.0.policy), acquired.clone());
        Box::pin(async move {
            let held = blocking(move || Ok(recheck::hold(&policy, acquired))).await;
            held.map_err(|error| Cause::Internal { detail: error.to_string() })
        })
    }

    fn shortage(&self) -> Shortage {
        self.0.shortage()
    }

    fn contests(&self) -> Vec<Contest> {
        self.0.slots.contests()
    }

    fn joined(&self) -> Arc<Notify> {
        self.0.slots.joined()
    }

    fn work_folder(&self, session: &SessionKey) -> Option<PathBuf> {
        let folders = folders::of_session(&self.0.settings.state_dir, session);
        folders::resolve(&folders.work).and_then(|work| work.canonicalize()).ok()
    }

    fn forget(
        &self,
        session: &SessionKey,
        conversations: &[CliSessionId],
    ) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> {
        let folders = folders::of_session(&self.0.settings.state_dir, session);
        let session_id = session.session.clone();
        let conversations = conversations.to_vec();
        Box::pin(async move {
            let removed = blocking(move || {
                let work = folders::resolve(&folders.work).and_then(|work| work.canonicalize());
                // What cannot be removed keeps nothing else.
                let mut outcome = folders::remove(&folders.work);
                match Folder::open(&folders.config) {
                    Ok(config) => {
                        let config = config.within(LONGEST_REMOVAL);
                        for conversation in conversations {
                            outcome = transcript::remove(&config, conversation).and(outcome);
                        }
                        if let Ok(work) = work {
                            outcome = transcript::remove_of_folder(&config, &work).and(outcome);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => outcome = Err(error),
                }
                outcome
            });
            removed.await.map_err(|error| {
                warn!(%session_id, %error, "session_forget_failed");
                Cause::Internal { detail: format!("files of the session are left: {error}") }
            })
        })
    }
}
