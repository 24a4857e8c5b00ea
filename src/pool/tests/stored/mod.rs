//! The pool over a store: most sessions are there alone, and are found, listed, counted and
//! cleaned up without any of them being read before somebody asks for it.

mod many;
mod races;
mod watched_store;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::key;
use crate::{
    counters::{Spent, Totals},
    domain::{
        acquired::Acquired,
        failure::{Cause, Failure},
        ids::{CliSessionId, SessionKey, TenantId},
        options::Options,
    },
    measures::Measures,
    pool::{Parts, PoolSettings, SessionPool},
    store::{Commit, Epoch, MemoryStore, Record, Store},
    tasks::Tasks,
    tenant::{Quotas, Tenants},
    test_support::{SECOND, memory_supply::MemorySupply, request, settings as session_settings},
    tools::ToolServers,
    turn::storage::Storage,
};
use watched_store::WatchedStore;

fn settings() -> PoolSettings {
    PoolSettings {
        enabled: true,
        max_sessions: 1000,
        session_ttl: 3600 * SECOND,
        idle_threshold: 600 * SECOND,
        cleanup_interval: 300 * SECOND,
        retention: 24 * 3600 * SECOND,
        background_grace: Duration::ZERO,
    }
}

/// What an earlier life of the service left of a session.
fn commit(key: &SessionKey, unused_for: Duration) -> Commit {
    let record = Record {
        cli_session_id: CliSessionId::fresh(),
        options: Options::default(),
        acquired: Acquired::default(),
        create_time: SystemTime::now(),
        last_used_time: SystemTime::now(),
        age: unused_for,
        unused_for,
        message_count: 1,
        error_count: 0,
        spent: Spent::default(),
        reported_cost_usd: 0.0,
        in_pool: true,
        epoch: Epoch::NONE,
    };
    let (key, totals) = (key.clone(), Totals::default());
    let (epoch, releases) = (Epoch::NONE, false);
    Commit { key, epoch, releases, record, turn: None, lines: Arc::default(), totals }
}

/// A store with sessions of these names.
async fn store_with(names: impl IntoIterator<Item = String>, unused_for: Duration) -> MemoryStore {
    let store = MemoryStore::default();
    for name in names {
        store.commit(commit(&key(&name), unused_for)).await.expect("kept");
    }
    store
}

/// A pool that has taken over what is in a store.
async fn pool_on(
    store: impl Store + 'static,
    settings: PoolSettings,
    quotas: Quotas,
) -> (SessionPool, Arc<WatchedStore>) {
    let store = Arc::new(WatchedStore::new(store));
    let parts = Parts {
        session: Arc::new(session_settings()),
        supply: Arc::new(MemorySupply::default()),
        store: store.clone(),
        tenants: Tenants::new(quotas, Measures::default()),
        logs: Storage::in_memory(64 * 1024),
        tools: ToolServers::new(Duration::from_secs(300)),
        traces: crate::traces::Traces::default(),
    };
    let pool = SessionPool::new(settings, parts, Tasks::default());
    pool.resume().await.expect("read");
    (pool, store)
}

/// Runs a turn to its end.
async fn turn(pool: &SessionPool, name: &str) -> Result<(), Failure> {
    let id = Some(key(name).session);
    let mut listener = pool.query(&TenantId::default(), id, request("x ok")).await?;
    while listener.batch().await?.is_some() {}
    Ok(())
}

fn cause<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> Cause {
    outcome.expect_err("refused").cause
}
