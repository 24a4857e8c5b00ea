//! The pool: what it is made of, and what all of it share. How a turn gets to its session is in
//! `lookup`, how a session is made in `making`.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::sessions::{Entry, Scope, Sessions};
use crate::{
    budget::{Exceeded, Reservation},
    domain::{
        failure::{Cause, Failure},
        ids::{SessionKey, TenantId},
    },
    session::{
        SessionHandle, Settings,
        status::{SessionState, Status},
    },
    store::{Store, StoreStatus},
    supply::Supply,
    tasks::Tasks,
    tenant::{Share, Tenant, Tenants},
    tools::ToolServers,
    traces::Traces,
    turn::storage::{Storage, Usage},
};

/// What the configuration says about the pool.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Whether there is a pool at all.
    pub enabled: bool,
    /// Sessions at most.
    pub max_sessions: usize,
    /// Age at which a session is replaced.
    pub session_ttl: Duration,
    /// Idle time after which the cleanup removes a session.
    pub idle_threshold: Duration,
    /// Time between cleanups.
    pub cleanup_interval: Duration,
    /// How long a conversation is kept after its last turn.
    pub retention: Duration,
    /// How long a tenant waits for processes that work in others' background; zero is for
    /// ever.
    pub background_grace: Duration,
}

/// What the pool gives its sessions.
#[derive(Debug)]
pub struct Parts {
    /// What the configuration says about sessions.
    pub session: Arc<Settings>,
    /// Where processes come from.
    pub supply: Arc<dyn Supply>,
    /// What outlives sessions.
    pub store: Arc<dyn Store>,
    /// Whose sessions they are.
    pub tenants: Tenants,
    /// What the logs of all turns share.
    pub logs: Storage,
    /// The tools that callers serve.
    pub tools: ToolServers,
    /// Where traces begin that no call has begun.
    pub traces: Traces,
}

/// The sessions of the service. Cloning gives another handle to the same pool.
#[derive(Debug, Clone)]
pub struct SessionPool(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: PoolSettings,
    pub(super) parts: Parts,
    /// Turns that run or wait.
    pub(super) turns: TaskTracker,
    /// Told when a session's process has nothing to do.
    hibernatable: Arc<Notify>,
    pub(super) tasks: Tasks,
    sessions: Mutex<Sessions>,
    pub(super) generations: AtomicU64,
    pub(super) draining: AtomicBool,
    pub(super) stopped: AtomicBool,
    pub(super) started_at: Instant,
}

impl SessionPool {
    /// A pool without sessions; its tasks are among `tasks`.
    pub fn new(settings: PoolSettings, parts: Parts, tasks: Tasks) -> Self {
        Self(Arc::new(Shared {
            settings,
            parts,
            turns: TaskTracker::new(),
            hibernatable: Arc::default(),
            tasks,
            sessions: Mutex::default(),
            generations: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            started_at: Instant::now(),
        }))
    }

    /// Sessions in the pool.
    pub fn len(&self) -> usize {
        self.lock().count(&Scope::All)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the store is, from now on.
    pub fn store_status(&self) -> watch::Receiver<StoreStatus> {
        self.0.parts.store.status()
    }

    /// Whether new turns are refused because the service stops.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// A place for one more stream of a tenant.
    pub fn open_stream(&self, tenant: &TenantId) -> Result<Share, Failure> {
        Ok(self.tenant(tenant).open_stream()?)
    }

    /// The tenants that have been seen.
    pub fn tenants(&self) -> &Tenants {
        &self.0.parts.tenants
    }

    /// The tools that callers serve.
    pub fn tools(&self) -> &ToolServers {
        &self.0.parts.tools
    }

    /// Claims so many bytes of memory for a tenant's request, in all with what it claims
    /// already.
    pub fn claim_memory(
        &self,
        tenant: &TenantId,
        held: &mut Option<Reservation>,
        bytes: u64,
    ) -> Result<(), Failure> {
        let account = self.0.parts.logs.accounts(tenant).memory;
        let held = held.get_or_insert_with(|| account.open());
        let claimed = self.0.parts.logs.grow(held, &account, bytes);
        claimed.map_err(|Exceeded { key, limit, .. }| Cause::MemoryBudget { key, limit }.into())
    }

    /// What is used of the budgets of memory and disk.
    pub fn usage(&self, scope: &Scope) -> Usage {
        match scope {
            Scope::All => self.0.parts.logs.usage(None),
            Scope::Tenant(tenant) => self.0.parts.logs.usage(Some(tenant)),
        }
    }

    pub fn tenant(&self, id: &TenantId) -> Arc<Tenant> {
        self.0.parts.tenants.get(id)
    }

    pub(super) fn hibernatable(&self) -> Arc<Notify> {
        Arc::clone(&self.0.hibernatable)
    }

    pub(super) fn handles(&self, scope: &Scope) -> Vec<(SessionKey, SessionHandle)> {
        self.lock().handles(scope)
    }

    /// A session's snapshot, with its time to live in mind.
    pub(super) fn seen(&self, handle: &SessionHandle) -> Status {
        let mut status = handle.status().clone();
        status.condition = status.condition_at(self.0.settings.session_ttl);
        status
    }

    /// A session that has a task.
    pub(super) fn find(&self, key: &SessionKey) -> Option<SessionHandle> {
        self.lock().get(key).and_then(Entry::handle).cloned()
    }

    /// Whether a session is at hand and has a process, or is about to have one.
    pub fn has_process(&self, key: &SessionKey) -> bool {
        let Some(handle) = self.find(key) else { return false };
        let status = handle.status();
        status.client_id.is_some() || status.condition == SessionState::Connecting
    }

    /// The working folder that a session has by itself. Reads the file system: not for a
    /// runtime's own threads.
    pub fn work_folder(&self, key: &SessionKey) -> Option<PathBuf> {
        self.0.parts.supply.work_folder(key)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Nothing panics half-way through a change of the map.
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
