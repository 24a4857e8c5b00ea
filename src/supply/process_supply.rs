//! The supply that starts real processes: places among them, turns at starting, the
//! folders of a session. Knows nothing of what a session does with a process.

use std::{
    io,
    path::Path,
    pin::Pin,
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
use tracing::{debug, info_span, warn};

use super::{
    Conversation, Lease, Leasing, Order, Permit, Supply, handshake,
    places::{Place, Places, Shortage},
};
use crate::{
    cli::{
        launch::{Folders, LaunchSettings, Origin},
        memory::MemoryWatch,
        options::Options,
        process::{Process, StopGrace},
        request::Initialize,
        transcript::{self, Entry, Search},
    },
    failure::{Cause, Failure},
    ids::{CliSessionId, ClientId, SessionId, SessionKey, TenantId},
    tasks::Tasks,
};

/// Session ids up to this length name their folder as they are; longer ones would
/// make the CLI shorten the name of the transcript's folder.
const LONGEST_PLAIN_NAME: usize = 64;

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
    /// Resident bytes of one process and its descendants; `None` is no bound.
    pub memory_limit: Option<u64>,
}

/// Starts a real process for every order.
#[derive(Debug, Clone)]
pub struct ProcessSupply(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: LaunchSettings,
    limits: SupplyLimits,
    permit: Permit,
    places: Places,
    starts: Places,
    starting: AtomicU32,
    memory: Option<Arc<MemoryWatch>>,
    tasks: Tasks,
}

impl ProcessSupply {
    /// Starts what `settings` say within `limits`, with options that `permit` lets pass;
    /// its tasks are among `tasks`.
    pub fn new(
        settings: LaunchSettings,
        limits: SupplyLimits,
        permit: Permit,
        tasks: Tasks,
    ) -> Self {
        let memory = limits.memory_limit.map(|limit| Arc::new(MemoryWatch::new(limit)));
        if let Some(watch) = memory.clone() {
            let stopping = tasks.stopping().child_token();
            tasks.spawn(info_span!("memory"), async move {
                tokio::select! {
                    () = watch.run() => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        Self(Arc::new(Shared {
            memory,
            places: Places::new(limits.max_processes, limits.max_processes_of_a_tenant),
            starts: Places::new(limits.start_concurrency, None),
            starting: AtomicU32::new(0),
            settings,
            limits,
            permit,
            tasks,
        }))
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
            let span = info_span!(
                "cli.start",
                tenant = %order.session.tenant,
                session_id = %order.session.session
            );
            let tasks = shared.tasks.clone();
            tasks.spawn(span, async move {
                let result = shared.start(&order).await;
                if let Err(Ok(unwanted)) = reply.send(result) {
                    drop(unwanted.end(StopGrace::GENTLE).await);
                }
            });
            // Dropping this future cancels the start.
            let _cancel = order_cancelled.drop_guard_ref();
            leased.await.unwrap_or_else(|_| Err(Cause::ShuttingDown.into()))
        })
    }

    fn shortage(&self) -> Shortage {
        self.0.places.shortage()
    }

    fn joined(&self) -> Arc<Notify> {
        self.0.places.joined()
    }

    fn forget(
        &self,
        session: &SessionKey,
        conversations: &[CliSessionId],
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let folders = self.0.folders(session);
        let session_id = session.session.clone();
        let conversations = conversations.to_vec();
        Box::pin(async move {
            let removed = blocking(move || {
                for conversation in conversations {
                    transcript::remove(&folders.config, conversation)?;
                }
                remove_folder(&folders.work)
            });
            if let Err(error) = removed.await {
                warn!(%session_id, %error, "session_forget_failed");
            }
        })
    }
}

/// When to give up waiting for a caller with a deadline: early enough for the reason to
/// reach it before its own clock cuts the call off.
fn last_moment(deadline: Instant) -> Instant {
    let margin = deadline.saturating_duration_since(Instant::now()) / 10;
    deadline - margin.min(LAST_WORD)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
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
    async fn start(&self, order: &Order) -> Result<Lease, Failure> {
        let began = Instant::now();
        let _starting = Starting::new(&self.starting);
        let client_id = ClientId::fresh();
        let result = match self.wait_in_line(order, began).await {
            Ok((slot, _turn)) => self.connect(order, client_id, began, slot).await,
            Err(cause) => Err(cause),
        };
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
        let wait = timeout_at(limit, self.places.take(tenant));
        wait.await.map_err(|_| match self.limits.max_processes_of_a_tenant {
            Some(limit) if self.places.held_by(tenant) >= limit => Cause::TenantQuota {
                key: "policy.tenant_max_processes",
                limit: limit.to_string(),
                retry: Duration::from_secs(1),
            },
            _ => Cause::NoProcess { limit: self.limits.max_processes, waited: began.elapsed() },
        })
    }

    async fn connect(
        &self,
        order: &Order,
        client_id: ClientId,
        began: Instant,
        slot: Place,
    ) -> Result<Lease, Cause> {
        let mut folders = self.folders(&order.session);
        if let Some(cwd) = &order.options.cwd {
            folders.work = cwd.into();
        }
        folders.extra = order.options.add_dirs.iter().map(Into::into).collect();
        let (origin, taken_up) = prepare(self.permit.clone(), order, folders.clone()).await?;
        let command = self
            .settings
            .command(origin, &order.options, &folders, client_id, |name| std::env::var(name).ok());
        debug!(%client_id, args = ?command.shown_args(), "cli_starting");
        let (process, connection) =
            Process::start(command, &self.settings.sandbox, self.limits.max_frame_bytes)
                .await
                .map_err(|error| self.not_started(&error))?;
        let process = match &self.memory {
            Some(watch) => process.bounded_by(watch),
            None => process,
        };
        let mut lease = Lease {
            client_id,
            cli_session_id: origin.cli_session_id(),
            resumed: !matches!(origin, Origin::New(_)),
            taken_up,
            connect_time: Duration::ZERO,
            connection,
            child: Box::new(process),
            slot: Some(slot),
        };
        let first = initialize_of(&order.options);
        let handshake = handshake::initialize(
            &mut lease.connection,
            lease.child.as_mut(),
            &first,
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
            return Err(cause);
        }
        lease.connect_time = began.elapsed();
        debug!(%client_id, pid = lease.child.id(), elapsed = ?lease.connect_time, "cli_started");
        Ok(lease)
    }

    fn not_started(&self, error: &io::Error) -> Cause {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Cause::CliNotFound { path: self.settings.program.clone() }
            }
            _ => Cause::ConnectFailed {
                detail: format!("the CLI could not be started: {error}"),
                exit: None,
                stderr_tail: String::new(),
            },
        }
    }

    fn folders(&self, session: &SessionKey) -> Folders {
        let SessionKey { tenant, session } = session;
        let tenant = self.settings.state_dir.join("tenants").join(tenant_folder(tenant));
        Folders {
            work: tenant.join("work").join(folder_name(session)),
            config: tenant.join("claude"),
            home: tenant.join("home"),
            extra: Vec::new(),
        }
    }
}

/// The name of a tenant's folder: its own, unless that means something to a file system.
fn tenant_folder(tenant: &TenantId) -> String {
    let name = tenant.as_str();
    // The second half keeps two tenants from sharing a folder.
    if name.starts_with('.') || name.starts_with("dot:") {
        return format!("dot:{name}");
    }
    name.to_owned()
}

/// The name of a session's folder: a prefix keeps `..` and hidden names harmless.
fn folder_name(session_id: &SessionId) -> String {
    let id = session_id.as_str();
    if id.len() <= LONGEST_PLAIN_NAME {
        return format!("s-{id}");
    }
    let digest = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, id.as_bytes());
    format!("h-{digest}")
}

fn initialize_of(options: &Options) -> Initialize {
    Initialize {
        system_prompt: options.system_prompt.clone(),
        append_system_prompt: options.append_system_prompt.clone(),
        json_schema: options.json_schema.clone(),
        agents: options.agents.clone(),
    }
}

/// Makes the folders, writes the transcript if there is one, and finds out whether there
/// is one to take up; what is in it if it was not known.
async fn prepare(
    permit: Permit,
    order: &Order,
    folders: Folders,
) -> Result<(Origin, Vec<Entry>), Cause> {
    let internal = |error: io::Error| Cause::Internal {
        detail: format!("the session's folders cannot be made: {error}"),
    };
    let conversation = order.conversation;
    let source = match conversation {
        Conversation::Own(id) | Conversation::Existing(id) => id,
        Conversation::CopyOf { from, .. } => from,
    };
    let (options, known) = (order.options.clone(), order.transcript.clone());
    let prepared = blocking(move || {
        if let Err(refused) = permit.check(&options) {
            return Ok(Err(refused));
        }
        let own_work = options.cwd.is_none().then_some(&folders.work);
        for folder in own_work.into_iter().chain([&folders.config, &folders.home]) {
            private_folder(folder)?;
        }
        // A session's own transcript is where its processes work, and where the last of
        // them worked before the caller chose another folder.
        let search = match conversation {
            Conversation::Own(_) if options.cwd.is_some() => Search::Move,
            Conversation::Own(_) => Search::OwnFolder,
            Conversation::Existing(_) | Conversation::CopyOf { .. } => Search::AllFolders,
        };
        if !known.is_empty() {
            transcript::restore(&folders.config, &folders.work, source, &known)?;
        }
        let found = transcript::provide(&folders.config, &folders.work, source, search)?;
        // A fork tells its whole copy itself.
        let is_copy = matches!(conversation, Conversation::CopyOf { .. });
        let taken_up = if found && known.is_empty() && !is_copy {
            transcript::entries(&folders.config, &folders.work, source)?
        } else {
            Vec::new()
        };
        Ok(Ok((found, taken_up)))
    });
    let (found, taken_up) = prepared.await.map_err(internal)??;
    let origin = match conversation {
        Conversation::Own(id) if found => Origin::Resume(id),
        Conversation::Own(id) => Origin::New(id),
        Conversation::Existing(id) if found => Origin::Resume(id),
        Conversation::CopyOf { from, to } if found => Origin::Fork { from, to },
        Conversation::Existing(_) | Conversation::CopyOf { .. } => {
            return Err(Cause::ConversationNotFound { resume: source.to_string() });
        }
    };
    Ok((origin, taken_up))
}

/// A folder that only the service's user can enter.
fn private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_one_harmless_folder_name() {
        for (id, name) in [("..", "s-.."), (".", "s-."), ("a:b", "s-a:b"), ("--x", "s---x")] {
            let id = SessionId::parse(id).expect("a name");
            assert_eq!(folder_name(&id), name);
        }
        let (a, b) = ("a".repeat(128), "a".repeat(127));
        let name = |id: &str| folder_name(&SessionId::parse(id).expect("a name"));
        assert_ne!(name(&a), name(&b));
        assert!(name(&a).len() < 50);
    }
}
