//! How sessions come into the pool, and what becomes of one whose task panics.

use super::{Bed, Given, Scope, id, key, tenant};
use crate::{
    domain::{failure::Cause, ids::TenantId},
    test_support::{
        SECOND, answered, cause, gated_store::Gate, read, request, settle, text, until,
    },
};

#[tokio::test(start_paused = true)]
async fn two_first_calls_of_one_id_make_one_session() {
    let bed = Bed::start(Given::default());
    // Both come while its process is being started.
    *bed.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    let (a, b) = tokio::join!(bed.run("s", "a ok"), bed.run("s", "b ok"));
    assert!(a.end.is_ok() && b.end.is_ok());
    assert_eq!(bed.pool.len(), 1);
    assert_eq!(bed.supply.most_alive(), 1);
    assert_eq!(bed.supply.heard(), [["a ok", "b ok"]], "one conversation");
    assert_eq!(bed.counters().sessions_created.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_a_session_of_its_tenant_s() {
    let bed = Bed::start(Given::default());
    let query = async |name: &str, prompt: &str| {
        let turn = bed.pool.query(&tenant(name), Some(id("s")), request(prompt)).await;
        read(turn.expect("taken")).await
    };
    let (a, b) = (query("a", "a ok").await, query("b", "b ok").await);
    assert!(text(&a).contains("a ok #2") && text(&b).contains("b ok #2"));
    assert_eq!(bed.supply.heard(), [["a ok"], ["b ok"]], "two conversations");
    for name in ["a", "b"] {
        assert_eq!(bed.pool.stats(&Scope::Tenant(tenant(name))).total_sessions, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn turns_without_an_id_have_sessions_of_their_own_that_end_with_them() {
    let bed = Bed::start(Given::default());
    let begin = async |prompt: &str| {
        let turn = bed.pool.query(&TenantId::default(), None, request(prompt)).await;
        answered(turn.expect("taken")).await
    };
    let (a, b) = tokio::join!(begin("a slow 1000"), begin("b slow 1000"));
    assert_eq!((bed.pool.len(), bed.supply.alive()), (2, 2));
    assert!(read(a).await.end.is_ok() && read(b).await.end.is_ok());
    until("both have left", || bed.pool.is_empty()).await;
    assert_eq!(bed.supply.alive(), 0);
    assert_eq!(bed.supply.heard(), [[""; 0]; 0], "nothing of them is left");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_connected_keeps_no_place() {
    let bed = Bed::start(Given::default());
    *bed.supply.broken.lock().expect("no panic") = true;
    let seen = bed.run("s", "a ok").await;
    assert!(matches!(seen.end.expect_err("failed").cause, Cause::ConnectFailed { .. }));
    until("it has left", || bed.pool.is_empty()).await;
    *bed.supply.broken.lock().expect("no panic") = false;
    assert!(bed.run("s", "b ok").await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_task_panics_gives_its_place_back() {
    let mut given = Given::default();
    given.pool.max_sessions = 1;
    let bed = Bed::start(given);
    bed.supply.panic_from_now_on(true);
    let turn = bed.begin("s", "a ok").await;
    let seen = read(turn).await;
    assert!(matches!(cause(&seen), Cause::Internal { .. }), "its caller is told: {seen:?}");
    until("it is forgotten", || bed.pool.is_empty()).await;
    bed.supply.panic_from_now_on(false);
    assert!(bed.run("another", "b ok").await.end.is_ok(), "there is room");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_task_panics_gives_the_place_of_its_process_back() {
    let bed = Bed::start(Given { slots: 1, ..Given::default() });
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.supply.panic_from_now_on(true);
    let seen = bed.run("s", "b ok").await;
    assert!(matches!(cause(&seen), Cause::Internal { .. }), "its caller is told: {seen:?}");
    until("it is forgotten", || bed.pool.is_empty()).await;
    bed.supply.panic_from_now_on(false);
    let seen = bed.run("s", "c ok").await;
    assert!(seen.end.is_ok());
    assert_eq!(bed.supply.heard(), [["a ok", "c ok"]], "its conversation goes on");
    assert!(bed.pool.get(&key("s")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_claim_holds_no_longer_than_the_tenure_in_which_it_was_asked_for() {
    for gate in [Gate::Locked, Gate::Hanging] {
        let bed = Bed::start(Given::default());
        bed.store.share();
        bed.store.set(gate);
        let turn = bed.spawn("s", request("a ok"));
        settle().await;
        // The service could not renew its lease and has come back: what was claimed before is
        // anybody's, though the answer comes only now.
        bed.store.begin_anew();
        bed.store.set(Gate::Open);
        // Its caller is told so, unless it was not taken yet and is asked for once more.
        let seen = turn.await.expect("no panic");
        let is_moved = || matches!(cause(&seen), Cause::SessionMoved { .. });
        assert!(seen.end.is_ok() || is_moved(), "{gate:?}: {seen:?}");
        assert!(bed.run("s", "b ok").await.end.is_ok(), "{gate:?}");
        assert_eq!(bed.store.claims(), 2, "{gate:?}: it runs under a claim of its own");
        assert_eq!(bed.supply.most_alive(), 1);
    }
}
