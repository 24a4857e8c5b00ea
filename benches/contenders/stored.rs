//! A database with very many sessions in it, made before the service starts.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use session_pool::internals::{
    counters::{Spent, Totals},
    domain::{
        acquired::Acquired,
        ids::{CliSessionId, SessionId, SessionKey, TenantId},
        options::Options,
    },
    store::{Commit, Epoch, Opening, Record, SqlStore, Store as _},
    tasks::Tasks,
};
use tokio::task::JoinSet;

use super::{parked::SYSTEM_PROMPT, protocol::Outcome};

/// Commits under way at once: the store gives each of them a bounded time.
const AT_ONCE: usize = 1000;

/// Fills the database of a state folder.
pub async fn fill(state: &Path, sessions: usize) -> Outcome<()> {
    let tasks = Tasks::default();
    let place = state.join("session-pool.db");
    let store = Arc::new(SqlStore::open(&place, Opening::default(), &tasks).await?);
    let mut commits = JoinSet::new();
    for number in 0..sessions {
        if commits.len() >= AT_ONCE
            && let Some(committed) = commits.join_next().await
        {
            committed??;
        }
        let store = Arc::clone(&store);
        let session = SessionId::parse(&format!("session-{number:05}"))?;
        let record = Record {
            cli_session_id: CliSessionId::fresh(),
            options: Options { system_prompt: Some(SYSTEM_PROMPT.into()), ..Options::default() },
            acquired: Acquired::default(),
            create_time: SystemTime::now(),
            last_used_time: SystemTime::now(),
            age: Duration::ZERO,
            unused_for: Duration::ZERO,
            message_count: 1,
            error_count: 0,
            spent: Spent::default(),
            reported_cost_usd: 0.0,
            in_pool: true,
            epoch: Epoch::NONE,
        };
        let key = SessionKey::new(TenantId::default(), session);
        let lines = Arc::default();
        let (epoch, releases, totals) = (Epoch::NONE, false, Totals::default());
        let commit = Commit { key, epoch, releases, record, turn: None, lines, totals };
        commits.spawn(async move { store.commit(commit).await });
    }
    for committed in commits.join_all().await {
        committed?;
    }
    drop(store);
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
