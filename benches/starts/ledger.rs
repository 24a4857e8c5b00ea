//! How soon the service is there again with ten thousand sessions in its ledger.

use std::{
    path::Path,
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
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};

use super::{Outcome, ROUNDS, SYSTEM_PROMPT, Times, median, processes::Service};

const LEDGER: usize = 10_000;

/// How soon the service listens with and without a full ledger, and what that holds in memory.
pub async fn ledger() -> Outcome<()> {
    let (empty, full) = (TempDir::new()?, TempDir::new()?);
    fill(full.path()).await?;
    let (mut without, mut with, mut each) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let small = Service::start(empty.path(), None)?;
        without.push((began.elapsed(), Duration::ZERO));
        let began = Instant::now();
        let large = Service::start(full.path(), None)?;
        with.push((began.elapsed(), Duration::ZERO));
        each.push((large.resident_kb() - small.resident_kb()) * 1024.0 / LEDGER as f64);
    }
    each.sort_by(f64::total_cmp);
    let milliseconds = |times: &[Times]| median(times).0.as_secs_f64() * 1e3;
    println!(
        "service listens: {:.0} ms with an empty ledger, {:.0} ms with {LEDGER} sessions, {:.0} bytes each",
        milliseconds(&without),
        milliseconds(&with),
        each[each.len() / 2]
    );
    Ok(())
}

async fn fill(state: &Path) -> Outcome<()> {
    let tasks = Tasks::default();
    let store = std::sync::Arc::new(
        SqlStore::open(&state.join("session-pool.db"), Opening::default(), &tasks).await?,
    );
    let mut commits = JoinSet::new();
    for number in 0..LEDGER {
        let store = std::sync::Arc::clone(&store);
        let session = SessionId::parse(&format!("session-{number:05}"))?;
        let record = Record {
            cli_session_id: CliSessionId::fresh(),
            options: Options { system_prompt: Some(SYSTEM_PROMPT.into()), ..Options::default() },
            acquired: Acquired::default(),
            create_time: SystemTime::now(),
            last_used_time: SystemTime::now(),
            age: std::time::Duration::ZERO,
            unused_for: std::time::Duration::ZERO,
            message_count: 1,
            error_count: 0,
            spent: Spent::default(),
            reported_cost_usd: 0.0,
            in_pool: true,
            epoch: Epoch::NONE,
        };
        let key = SessionKey::new(TenantId::default(), session);
        let lines = std::sync::Arc::default();
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
