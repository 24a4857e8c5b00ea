//! The pool's promises, one a test: real sessions over CLIs that are tasks, a store in memory,
//! and a paused clock. Asked through the pool's public methods only.

mod calls;
mod closing;
mod janitor;
mod limits;
mod making;
mod relief;
mod retries;
mod stopping;
mod stored;
mod watching;

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Parts, PoolSettings, Scope, SessionPool};
use crate::{
    counters::Counters,
    domain::{
        failure::{Cause, Failure},
        ids::{SessionId, SessionKey, TenantId, TurnId},
    },
    measures::Measures,
    session::{
        Settings, TurnRequest,
        status::{SessionState, Status},
    },
    store::{Record, Store as _},
    tasks::{Tasks, spawn_owned},
    tenant::{Quotas, Tenants},
    test_support::{
        SECOND, Seen, gated_store::GatedStore, memory_supply::MemorySupply, read, request, settings,
    },
    tools::ToolServers,
    turn::{listener::Listener, storage::Storage},
};

/// What a pool is made of.
struct Given {
    pool: PoolSettings,
    session: Settings,
    quotas: Quotas,
    /// CLIs at the same time.
    slots: usize,
    store: Arc<GatedStore>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            pool: pool_settings(),
            session: settings(),
            quotas: Quotas::default(),
            slots: usize::MAX,
            store: Arc::default(),
        }
    }
}

fn pool_settings() -> PoolSettings {
    PoolSettings {
        enabled: true,
        max_sessions: 10,
        session_ttl: settings().session_ttl,
        idle_threshold: 1800 * SECOND,
        cleanup_interval: 60 * SECOND,
        retention: 30 * 86_400 * SECOND,
        background_grace: 60 * SECOND,
    }
}

/// A pool that looks after its sessions, and what it stands on.
struct Bed {
    pool: SessionPool,
    supply: Arc<MemorySupply>,
    store: Arc<GatedStore>,
    tasks: Tasks,
}

impl Bed {
    fn start(given: Given) -> Self {
        let Given { pool, session, quotas, slots, store } = given;
        let supply = Arc::new(MemorySupply::with_slots(slots));
        let tasks = Tasks::default();
        let parts = Parts {
            session: Arc::new(session),
            supply: supply.clone(),
            store: store.clone(),
            tenants: Tenants::new(quotas, Measures::default()),
            logs: Storage::in_memory(64 * 1024),
            tools: ToolServers::new(SECOND),
            traces: crate::traces::Traces::default(),
        };
        let pool = SessionPool::new(pool, parts, tasks.clone());
        pool.start();
        Self { pool, supply, store, tasks }
    }

    async fn ask(&self, name: &str, request: TurnRequest) -> Result<Listener, Failure> {
        self.pool.query(&TenantId::default(), Some(id(name)), request).await
    }

    /// A turn that is taken.
    async fn begin(&self, name: &str, prompt: &str) -> Listener {
        self.ask(name, request(prompt)).await.expect("taken")
    }

    /// A turn to its end.
    async fn run(&self, name: &str, prompt: &str) -> Seen {
        read(self.begin(name, prompt).await).await
    }

    /// A turn that may have to wait before it is taken, or to its end.
    fn spawn(&self, name: &str, request: TurnRequest) -> JoinHandle<Seen> {
        let (pool, id) = (self.pool.clone(), id(name));
        spawn_owned(async move {
            let turn = pool.query(&TenantId::default(), Some(id), request).await;
            read(turn.expect("taken")).await
        })
    }

    /// Why a turn is not taken.
    async fn refusal(&self, name: &str) -> Cause {
        self.ask(name, request("x ok")).await.expect_err("refused").cause
    }

    async fn status(&self, name: &str) -> Status {
        self.pool.get(&key(name)).await.expect("in the pool")
    }

    async fn condition(&self, name: &str) -> SessionState {
        self.status(name).await.condition
    }

    /// Why a session cannot be shown.
    async fn absence(&self, name: &str) -> Cause {
        self.pool.get(&key(name)).await.expect_err("not in the pool").cause
    }

    /// What the store has of a session.
    async fn record(&self, name: &str) -> Option<Record> {
        self.store.load(&key(name)).await.expect("read")
    }

    fn counters(&self) -> Counters {
        self.pool.stats(&Scope::All).counters
    }
}

fn id(name: &str) -> SessionId {
    SessionId::parse(name).expect("a name")
}

fn key(name: &str) -> SessionKey {
    SessionKey::new(TenantId::default(), id(name))
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a name")
}

/// A request whose turn has a name.
fn named(turn: &str, prompt: &str) -> TurnRequest {
    TurnRequest { turn_id: Some(TurnId::parse(turn).expect("a name")), ..request(prompt) }
}
