//! Several calls at once for a session that only the store has, and a store that fails.

use super::{key, pool_on, settings, store_with, turn, watched_store::Answers, *};
use crate::{
    domain::decision::Decision, session::InterruptTarget, tasks::spawn_owned, turn::event::Partials,
};

#[tokio::test(start_paused = true)]
async fn two_calls_at_once_make_one_session() {
    let store = store_with(["s".to_owned()], SECOND).await;
    let (pool, store) = pool_on(store, settings(), Quotas::default()).await;
    store.reads.send_replace(Answers::Held);
    let ask = || {
        let pool = pool.clone();
        spawn_owned(async move { pool.update(&key("s"), Options::default()).await })
    };
    let (one, two) = (ask(), ask());
    store.loads.subscribe().wait_for(|loads| *loads == 1).await.expect("asked");
    store.reads.send_replace(Answers::Given);
    for asked in [one, two] {
        asked.await.expect("no panic").expect("answered");
    }
    assert_eq!(*store.loads.borrow(), 1, "the store was asked once");
    assert_eq!((pool.len(), pool.lock().at_hand()), (1, 1));
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_forgotten_while_it_is_looked_up_is_gone() {
    let store = store_with(["s".to_owned()], SECOND).await;
    let (pool, store) = pool_on(store, settings(), Quotas::default()).await;
    store.reads.send_replace(Answers::Held);
    let (asking, forgetting) = (pool.clone(), pool.clone());
    let asked = spawn_owned(async move { turn(&asking, "s").await });
    store.loads.subscribe().wait_for(|loads| *loads == 1).await.expect("asked");
    let forgotten = spawn_owned(async move { forgetting.close(&key("s"), true).await });
    tokio::task::yield_now().await;
    store.reads.send_replace(Answers::Given);
    assert!(forgotten.await.expect("no panic").expect("it was there").closed);
    // The turn came first: it was served, or stopped by who closed the session.
    let outcome = asked.await.expect("no panic");
    assert!(outcome.is_ok() || cause(outcome) == Cause::TurnInterrupted);
    assert_eq!(cause(pool.get(&key("s")).await), Cause::SessionNotFound);
    assert_eq!((pool.len(), pool.lock().at_hand()), (0, 0));
    assert_eq!(store.load(&key("s")).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn who_stops_asking_holds_nobody_up() {
    let store = store_with(["s".to_owned()], SECOND).await;
    let (pool, store) = pool_on(store, settings(), Quotas::default()).await;
    store.reads.send_replace(Answers::Held);
    let asking = pool.clone();
    let asked = spawn_owned(async move { turn(&asking, "s").await });
    store.loads.subscribe().wait_for(|loads| *loads == 1).await.expect("asked");
    let waiting = pool.clone();
    let next = spawn_owned(async move { turn(&waiting, "s").await });
    asked.abort();
    store.loads.subscribe().wait_for(|loads| *loads == 2).await.expect("the next one asks");
    store.reads.send_replace(Answers::Given);
    next.await.expect("no panic").expect("served");
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_does_not_say_that_there_is_no_session() {
    let store = store_with(["s".to_owned()], SECOND).await;
    let (pool, store) = pool_on(store, settings(), Quotas::default()).await;
    store.reads.send_replace(Answers::Failing);
    let respond = Decision::Deny { message: String::new(), interrupt: false };
    for cause in [
        cause(turn(&pool, "s").await),
        cause(pool.get(&key("s")).await),
        cause(pool.interrupt(&key("s"), InterruptTarget::Running, true).await),
        cause(pool.attach(&key("s"), None, 0, Partials::Hidden).await),
        cause(pool.respond(&key("s"), "p".into(), respond).await),
        cause(pool.update(&key("s"), Options::default()).await),
        cause(pool.close(&key("s"), false).await),
        cause(pool.close(&key("s"), true).await),
        cause(pool.list(&TenantId::default(), None, 10).await),
    ] {
        assert!(matches!(cause, Cause::StoreUnavailable { .. }), "{cause:?}");
    }
    assert_eq!((pool.len(), pool.lock().at_hand()), (1, 0), "nothing has come of it");
    store.reads.send_replace(Answers::Given);
    turn(&pool, "s").await.expect("it is there");
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_closed_while_the_store_fails_is_not_there() {
    let store = store_with(["other".to_owned()], SECOND).await;
    let (pool, store) = pool_on(store, settings(), Quotas::default()).await;
    turn(&pool, "s").await.expect("served");
    store.writes.send_replace(Answers::Failing);
    assert!(pool.close(&key("s"), false).await.expect("it is there").closed);
    let is_gone = async || {
        assert_eq!(cause(pool.get(&key("s")).await), Cause::SessionNotFound);
        assert_eq!(pool.interrupt(&key("s"), InterruptTarget::Running, true).await, Ok(None));
        let (page, more) = pool.list(&TenantId::default(), None, 1).await.expect("listed");
        assert_eq!((page[0].session_id.as_str(), page.len(), more), ("other", 1, false));
        assert_eq!(pool.len(), 1);
    };
    is_gone().await;
    pool.clean_up().await;
    is_gone().await;
    store.writes.send_replace(Answers::Given);
    pool.clean_up().await;
    is_gone().await;
    let record = store.load(&key("s")).await.expect("read").expect("its conversation is kept");
    assert!(!record.in_pool, "the store has taken note");
    turn(&pool, "s").await.expect("it goes on");
    assert_eq!(pool.len(), 2);
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_another_service_took_over_is_looked_up_anew() {
    let store = store_with(["s".to_owned()], SECOND).await;
    let other = store.beside();
    let (pool, _) = pool_on(store, settings(), Quotas::default()).await;
    turn(&pool, "s").await.expect("served");
    other.claim(&key("s")).await.expect("claimed");
    assert!(matches!(cause(turn(&pool, "s").await), Cause::SessionMoved { .. }));
    assert_eq!(pool.len(), 1, "it is in the pool, wherever it is");
    turn(&pool, "s").await.expect("it is taken over in turn");
    let status = pool.get(&key("s")).await.expect("there");
    assert_eq!(status.message_count, 3, "what was kept, and the turn since");
    pool.stop().await;
}
