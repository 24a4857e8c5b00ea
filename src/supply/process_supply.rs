//! The supply that starts real processes: places among them, turns at starting, spares
//! that are started ahead. Knows nothing of what a session does with a process.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};
use tracing::{debug, error_span, warn};

use super::{
    Lease, Leasing, Order, SpareSettings, SpareUse, Supply, folders, handshake,
    places::{Contest, Place, Places, Shortage},
    prepare::{Prepared, blocking, is_of_the_disk, prepare},
    recheck,
    spares::stock::Stock,
    turns::in_turn,
};
use crate::{
    cli::{
        acquired::Acquired,
        connection::Connection,
        cost::Meter,
        launch::{Folders, LaunchSettings, Origin},
        options::Options,
        process::{Process, StopGrace},
        request::Initialize,
        sandbox, transcript,
        usage::{Allowed, Watch},
    },
    failure::{Cause, Failure},
    ids::{CliSessionId, ClientId, SessionKey, TenantId},
    os::confined::Folder,
    policy::Policy,
    tasks::Tasks,
};

/// How long the transcripts of a session may take to be removed.
const LONGEST_REMOVAL: Duration = Duration::from_secs(60);

/// What an error needs to reach its caller.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Bounds of the supply.
#[derive(Debug, Clone)]
pub struct SupplyLimits {
    /// Live processes.
    pub max_processes: usize,
    /// Live processes of one tenant; `None` is all of them.
    pub max_processes_of_a_tenant: Option<usize>,
    /// Processes that start at the same time.
    pub start_concurrency: usize,
    /// From the start of a process to its answer; also the longest wait for a place of a
    /// caller without a deadline.
    pub connect_timeout: Duration,
    /// Bytes of a frame.
    pub max_frame_bytes: usize,
    /// What one process and its descendants may hold.
    pub usage: Allowed,
}

/// Starts a real process for every order.
#[derive(Debug, Clone)]
pub struct ProcessSupply(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: LaunchSettings,
    pub(super) limits: SupplyLimits,
    pub(super) policy: Arc<Policy>,
    pub(super) places: Places,
    pub(super) starts: Places,
    pub(super) stock: Stock,
    starting: AtomicU32,
    watch: Option<Arc<Watch>>,
    pub(super) tasks: Tasks,
}

impl ProcessSupply {
    /// Starts what `settings` say within `limits`, with options that `policy` allows, and
    /// keeps `spares`; its tasks are among `tasks`.
    pub fn new(
        settings: LaunchSettings,
        limits: SupplyLimits,
        policy: Arc<Policy>,
        spares: SpareSettings,
        tasks: Tasks,
    ) -> Self {
        let watch = Watch::new(limits.usage).map(Arc::new);
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
            places: Places::new(limits.max_processes, limits.max_processes_of_a_tenant),
            starts: Places::new(limits.start_concurrency, None),
            starting: AtomicU32::new(0),
            stock: Stock::new(spares),
            settings,
            limits,
            policy,
            tasks,
        });
        let keeper = Arc::clone(&shared);
        shared.tasks.spawn(error_span!("spares"), keeper.keep_spares());
        Self(shared)
    }

    /// Spares that are ready, and those that are being started: all, or a tenant's.
    pub fn spares(&self, tenant: Option<&TenantId>) -> (usize, usize) {
        (self.0.stock.ready(tenant), self.0.stock.starting(tenant))
    }

    /// Live processes, starting ones included.
    pub fn processes(&self) -> usize {
        self.0.places.held()
    }

    /// Live processes of a tenant, starting ones included.
    pub fn processes_of(&self, tenant: &TenantId) -> usize {
        self.0.places.held_by(tenant)
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
        self.0.places.contests()
    }

    fn joined(&self) -> Arc<Notify> {
        self.0.places.joined()
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

/// When to give up waiting for a caller with a deadline: early enough for the reason to
/// reach it before its own clock cuts the call off.
fn last_moment(deadline: Instant) -> Instant {
    let margin = deadline.saturating_duration_since(Instant::now()) / 10;
    deadline - margin.min(LAST_WORD)
}

/// Counts a start for as long as it lives.
struct Starting<'a>(&'a AtomicU32);

impl<'a> Starting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Who waits for a place that is not on its way already.
    pub(super) fn shortage(&self) -> Shortage {
        let Shortage { of_any, of_tenant } = self.places.shortage();
        // Places of spares that were sent away are on their way to those who wait.
        let stock = &self.stock;
        let of_own = of_tenant.into_iter().filter_map(|(tenant, count)| {
            let left = count.saturating_sub(stock.leaving(Some(&tenant)));
            (left > 0).then_some((tenant, left))
        });
        Shortage { of_any: of_any.saturating_sub(stock.leaving(None)), of_tenant: of_own.collect() }
    }

    /// Sends a spare away if somebody, or this tenant, waits for a place: a spare is
    /// nobody's. Asked by whoever comes to wait, and by a spare that has just got ready,
    /// which those who wait already could not send away.
    pub(super) fn make_room(&self, tenant: &TenantId) {
        let Shortage { of_any, of_tenant } = self.shortage();
        if of_any > 0 {
            self.stock.give_way(None);
        }
        if of_tenant.iter().any(|(waits, _)| waits == tenant) {
            self.stock.give_way(Some(tenant));
        }
    }

    async fn start(&self, order: &Order) -> Result<Lease, Failure> {
        let began = Instant::now();
        let _starting = Starting::new(&self.starting);
        let missed = match self.lease_spare(order, began).await {
            Ok(lease) => return Ok(lease),
            Err(missed) => missed,
        };
        let client_id = ClientId::fresh();
        let result = match self.wait_in_line(order, began).await {
            Ok((slot, turn)) => {
                let connecting = self.connect(order, client_id, began, slot);
                in_turn(&self.starts, &order.session.tenant, turn, connecting).await
            }
            Err(cause) => Err(cause),
        };
        let result = result.map(|lease| Lease { spare: missed, ..lease });
        result.map_err(|cause| {
            Failure::from(cause).concerning(Some(&order.session.session), None).on_client(client_id)
        })
    }

    /// A place among the processes, and a turn at starting.
    async fn wait_in_line(&self, order: &Order, began: Instant) -> Result<(Place, Place), Cause> {
        let tenant = &order.session.tenant;
        let waiting = async {
            let slot = self.place(order, began).await?;
            Ok((slot, self.starts.take(tenant).await))
        };
        tokio::select! {
            waited = waiting => waited,
            () = order.cancelled.cancelled() => Err(Cause::TurnInterrupted),
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        }
    }

    async fn place(&self, order: &Order, began: Instant) -> Result<Place, Cause> {
        let tenant = &order.session.tenant;
        let limit = order.deadline.map_or(began + self.limits.connect_timeout, last_moment);
        let mut place = pin!(self.places.take(tenant));
        let free = tokio::select! {
            biased;
            place = &mut place => Some(place),
            () = std::future::ready(()) => None,
        };
        if let Some(place) = free {
            return Ok(place);
        }
        self.make_room(tenant);
        timeout_at(limit, place).await.map_err(|_| match self.limits.max_processes_of_a_tenant {
            Some(limit) if self.places.held_by(tenant) >= limit => Cause::TenantQuota {
                key: "policy.tenant_max_processes",
                limit: limit.to_string(),
                retry: Duration::from_secs(1),
            },
            _ => {
                // How long it was to be waited, and not by how much the timer was late.
                let patience = limit.saturating_duration_since(began).as_millis();
                let waited = Duration::from_millis(patience.try_into().unwrap_or(u64::MAX));
                Cause::NoProcess { limit: self.limits.max_processes, waited }
            }
        })
    }

    async fn connect(
        &self,
        order: &Order,
        client_id: ClientId,
        began: Instant,
        slot: Place,
    ) -> Result<Lease, Cause> {
        let mut folders = folders::of_session(&self.settings.state_dir, &order.session);
        if let Some(cwd) = &order.options.cwd {
            folders.work = cwd.into();
        }
        folders.extra = order.options.add_dirs.iter().map(Into::into).collect();
        let Prepared { origin, folders, saved_cost_usd } = self.prepared(order, folders).await?;
        let (process, connection) = self.spawn(origin, &order.options, &folders, client_id).await?;
        let mut lease = Lease {
            client_id,
            cli_session_id: origin.cli_session_id(),
            resumed: !matches!(origin, Origin::New(_)),
            spare: SpareUse::NotKept,
            connect_time: Duration::ZERO,
            connection,
            meter: Meter::default(),
            outdated: false,
            child: Box::new(process),
            slot: Some(slot),
        };
        let handshake = handshake::bind(
            &mut lease.connection,
            lease.child.as_mut(),
            order.told(vec![Initialize::of(&order.options).request()]),
            self.limits.connect_timeout,
        );
        let connected = tokio::select! {
            connected = handshake => connected,
            () = order.cancelled.cancelled() => Err(Cause::TurnInterrupted),
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        };
        if let Err(cause) = connected {
            debug!(%client_id, %cause, "cli_start_failed");
            drop(lease.end(StopGrace::FIRM).await);
            return Err(self.explained(cause));
        }
        if lease.resumed {
            lease.meter = Meter::of_resumed(&mut lease.connection, saved_cost_usd);
        }
        lease.connect_time = began.elapsed();
        debug!(%client_id, pid = lease.child.id(), elapsed_seconds = lease.connect_time.as_secs_f64(), "cli_started");
        Ok(lease)
    }

    /// Waits for each step of the disk as long as for a process. Cut short by the caller only
    /// between steps: what is written for this start must not come after what is written for
    /// the next. Given up, it writes nothing more.
    async fn prepared(&self, order: &Order, folders: Folders) -> Result<Prepared, Cause> {
        let limit = self.limits.connect_timeout;
        tokio::select! {
            prepared = prepare(Arc::clone(&self.policy), order, folders, limit) => prepared,
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        }
    }

    /// Spawns a process, which is not up yet.
    pub(super) async fn spawn(
        &self,
        origin: Origin,
        options: &Options,
        folders: &Folders,
        client_id: ClientId,
    ) -> Result<(Process, Connection), Cause> {
        let inherited = |name: &str| std::env::var(name).ok();
        let settings = self.settings.with_variables(self.variables().await?);
        let command = settings.command(origin, options, folders, client_id, inherited);
        debug!(%client_id, args = ?command.shown_args(), "cli_starting");
        let started = Process::start(command, &self.settings.sandbox, self.limits.max_frame_bytes);
        let (process, connection) = started.await.map_err(|error| self.not_started(&error))?;
        let process = match &self.watch {
            Some(watch) => process.bounded_by(watch),
            None => process,
        };
        Ok((process, connection))
    }

    /// The variables whose values are in files, as they are now.
    pub(super) async fn variables(&self) -> Result<BTreeMap<String, String>, Cause> {
        self.settings.env_files.read().await.map_err(|error| Cause::ConnectFailed {
            detail: error.to_string(),
            exit: None,
            stderr_tail: String::new(),
        })
    }

    fn not_started(&self, error: &io::Error) -> Cause {
        if cannot_be_run(error) {
            let path = self.settings.program.clone();
            return Cause::CliNotFound { path, detail: error.to_string() };
        }
        let detail = format!("the CLI could not be started: {error}");
        match is_of_the_disk(error) {
            true => Cause::StoreUnavailable { detail },
            false => Cause::ConnectFailed { detail, exit: None, stderr_tail: String::new() },
        }
    }

    /// What a failed start is told as. Inside a sandbox the CLI is started by the sandbox,
    /// which says on stderr what a start without one gives as an error.
    fn explained(&self, cause: Cause) -> Cause {
        let said = match &cause {
            Cause::ConnectFailed { stderr_tail, .. } => sandbox::cannot_run(stderr_tail),
            _ => None,
        };
        match said {
            Some(detail) => Cause::CliNotFound {
                path: self.settings.program.clone(),
                detail: detail.to_owned(),
            },
            None => cause,
        }
    }
}

/// Whether a program is not there, or is nothing that can be run here.
fn cannot_be_run(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    [
        Errno::NOENT,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOEXEC,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NAMETOOLONG,
    ]
    .iter()
    .any(|known| Some(*known) == errno)
}
