//! Many stored sessions.

use std::sync::atomic::Ordering;

use sqlx::ConnectOptions as _;

use super::{key, pool_on, settings, store_with, turn, *};
use crate::{
    pool::Scope,
    store::{Opening, SqlStore},
};

const MANY: usize = 100_000;

/// A database with many sessions.
async fn large(file: &std::path::Path) -> SqlStore {
    let tasks = Tasks::default();
    let store = SqlStore::open(file, Opening::default(), &tasks).await.expect("opened");
    store.commit(commit(&key("one"), SECOND)).await.expect("kept");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.expect("opened");
    // Copies of the one.
    sqlx::query(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1) \
         INSERT INTO sessions (tenant, session_id, cli_session_id, options, created_ms, last_used_ms, \
         message_count, error_count, spent, reported_cost_usd, in_pool, created_observed_ms, \
         used_observed_ms, acquired) SELECT tenant, PRINTF('s%06d', n), cli_session_id, options, \
         created_ms, last_used_ms, message_count, error_count, spent, reported_cost_usd, in_pool, \
         created_observed_ms, used_observed_ms, acquired FROM sessions, numbers \
         WHERE session_id = 'one'",
    )
    .bind(MANY as i64)
    .execute(&mut connection)
    .await
    .expect("copied");
    sqlx::raw_sql("DELETE FROM sessions WHERE session_id = 'one'")
        .execute(&mut connection)
        .await
        .expect("removed");
    store
}

#[tokio::test]
async fn stored_sessions_cost_nothing_before_they_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = large(&folder.path().join("db")).await;
    let settings = PoolSettings { max_sessions: 2 * MANY, ..settings() };
    let (pool, store) = pool_on(store, settings, Quotas::default()).await;
    assert_eq!((store.rows(), pool.lock().at_hand()), (0, 0), "nothing is read at the start");

    assert_eq!(pool.len(), MANY);
    let stats = pool.stats(&Scope::Tenant(TenantId::default()));
    assert_eq!((stats.total_sessions, stats.hibernated_sessions), (MANY, MANY));
    assert_eq!(store.rows(), 0, "nor for their number");

    let status = pool.get(&key("s050000")).await.expect("it is there");
    assert_eq!((status.session_id, status.message_count), (key("s050000").session, 1));
    assert_eq!((store.rows(), pool.lock().at_hand()), (1, 0), "a look at one is a look at one");

    let after = Some(key("s099989").session);
    let (page, more) = pool.list(&TenantId::default(), after.clone(), 10).await.expect("listed");
    assert_eq!(
        (page.len(), more, store.rows()),
        (10, true, 12),
        "a page, and whether there is more"
    );
    let (page, more) = pool.list(&TenantId::default(), after, 11).await.expect("listed");
    assert_eq!((page.len(), more, pool.lock().at_hand()), (11, false, 0));

    let before = store.rows();
    turn(&pool, "s000007").await.expect("it goes on");
    assert_eq!((store.rows(), pool.lock().at_hand()), (before + 1, 1));
    assert_eq!(pool.len(), MANY, "it is one of them all the same");
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stored_sessions_have_their_places_in_the_pool() {
    let names = ["a", "b"].map(str::to_owned);
    let store = store_with(names, SECOND).await;
    let settings = PoolSettings { max_sessions: 3, ..settings() };
    let (pool, _) = pool_on(store, settings, Quotas::default()).await;
    turn(&pool, "c").await.expect("there is room for one more");
    assert_eq!(cause(turn(&pool, "d").await), Cause::PoolAtCapacity { limit: 3 });
    turn(&pool, "a").await.expect("it has its place");
    assert_eq!(pool.len(), 3);
    pool.close(&key("b"), false).await.expect("it is there");
    turn(&pool, "d").await.expect("there is room again");
    assert_eq!(cause(turn(&pool, "b").await), Cause::PoolAtCapacity { limit: 3 });
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stored_sessions_count_for_their_tenants_quota() {
    let store = store_with(["a".to_owned()], SECOND).await;
    let quotas = Quotas { sessions: Some(2), ..Quotas::default() };
    let (pool, _) = pool_on(store, settings(), quotas).await;
    turn(&pool, "b").await.expect("there is room for one more");
    assert!(matches!(cause(turn(&pool, "c").await), Cause::TenantQuota { .. }));
    turn(&pool, "a").await.expect("it has its place");
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stored_sessions_that_nobody_uses_leave_the_pool_some_at_a_time() {
    let names = (0..600).map(|number| format!("s{number:03}"));
    let (pool, store) =
        pool_on(store_with(names, 599 * SECOND).await, settings(), Quotas::default()).await;
    turn(&pool, "s100").await.expect("it goes on");
    tokio::time::advance(2 * SECOND).await;
    pool.clean_up().await;
    assert_eq!(pool.len(), 1, "the one that was used");
    assert!(store.most_at_once.load(Ordering::SeqCst) <= 256, "a bound for each step");
    let counters = pool.stats(&Scope::All).counters;
    assert_eq!(counters.idle_removed.get(), 599);
    assert_eq!(cause(pool.get(&key("s000")).await), Cause::SessionNotFound);
    turn(&pool, "s000").await.expect("its conversation is kept");
    assert_eq!(pool.len(), 2);
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn live_and_stored_sessions_are_listed_together_and_each_once() {
    let names = ["a", "c", "e"].map(str::to_owned);
    let (pool, _) = pool_on(store_with(names, SECOND).await, settings(), Quotas::default()).await;
    for name in ["b", "c", "f"] {
        turn(&pool, name).await.expect("served");
    }
    let mut names = Vec::new();
    loop {
        let after = names.last().map(|name: &String| key(name).session);
        let (page, more) = pool.list(&TenantId::default(), after, 2).await.expect("listed");
        assert!(page.len() == 2 || !more, "a full page");
        names.extend(page.into_iter().map(|status| status.session_id.to_string()));
        if !more {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c", "e", "f"]);
    pool.stop().await;
}
