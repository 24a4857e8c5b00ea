//! What becomes of those who meet a session that ends, and of all sessions at once.

use tokio::time::Instant;

use super::{Bed, Given, Scope, id, key, tenant};
use crate::{
    domain::failure::Cause,
    session::{InterruptOutcome, InterruptTarget},
    tasks::spawn_owned,
    test_support::{
        SECOND, answered, cause, gated_store::Gate, read, request, settings, settle, text, until,
    },
    turn::event::Class,
};

#[tokio::test(start_paused = true)]
async fn a_query_that_meets_a_closing_session_waits_for_its_end_and_gets_a_new_one() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let before = bed.status("s").await;
    // Its end has to be kept, and somebody else has the database.
    bed.store.set(Gate::Locked);
    let pool = bed.pool.clone();
    let closing = spawn_owned(async move { pool.close(&key("s"), false).await });
    until("its process is gone", || bed.supply.alive() == 0).await;
    let next = bed.spawn("s", request("b ok"));
    assert!(closing.await.expect("no panic").expect("answered").closed);
    settle().await;
    assert_eq!(bed.pool.len(), 1, "its place is kept until it has ended");
    assert!(!next.is_finished() && bed.supply.alive() == 0, "nothing begins before that");

    bed.store.set(Gate::Open);
    let seen = next.await.expect("no panic");
    assert!(seen.end.is_ok() && text(&seen).contains("b ok #2"), "{seen:?}");
    let after = bed.status("s").await;
    assert_eq!(after.message_count, 1, "another session");
    assert_eq!(after.cli_session_id, before.cli_session_id, "that goes on with the conversation");
    assert_eq!(bed.supply.most_alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_when_the_session_is_gone() {
    let bed = Bed::start(Given::default());
    let turn = answered(bed.begin("s", "a hang").await).await;
    let report = bed.pool.close(&key("s"), false).await.expect("closed");
    assert!(report.closed && report.had_active_turn);
    assert_eq!((bed.pool.len(), bed.supply.alive()), (0, 0));
    assert!(matches!(read(turn).await.frames.last(), Some((Class::InterruptedResult, _))));
    assert_eq!(bed.absence("s").await, Cause::SessionNotFound);
    let again = bed.pool.close(&key("s"), false).await.expect_err("gone");
    assert_eq!(again.cause, Cause::SessionNotFound);
}

#[tokio::test(start_paused = true)]
async fn all_who_close_a_session_at_once_are_answered() {
    let bed = Bed::start(Given::default());
    let turn = answered(bed.begin("s", "a deaf").await).await;
    let key = key("s");
    let (one, two) = tokio::join!(bed.pool.close(&key, false), bed.pool.close(&key, false));
    assert!(one.expect("answered").closed && two.expect("answered").closed);
    assert_eq!(bed.supply.alive(), 0);
    assert_eq!(cause(&read(turn).await), Cause::TurnInterrupted);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_forgets_leaves_nothing_of_the_conversation() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let before = bed.status("s").await.cli_session_id;
    bed.pool.close(&key("s"), true).await.expect("forgotten");
    assert!(bed.record("s").await.is_none());
    assert!(bed.supply.heard().is_empty());
    assert!(bed.run("s", "b ok").await.end.is_ok());
    assert_ne!(bed.status("s").await.cli_session_id, before);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_whose_session_has_left_can_be_forgotten() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.pool.close(&key("s"), false).await.expect("closed");
    assert!(bed.record("s").await.is_some(), "a close keeps it");
    bed.pool.close(&key("s"), true).await.expect("forgotten");
    assert!(bed.record("s").await.is_none() && bed.pool.is_empty());
    let again = bed.pool.close(&key("s"), true).await.expect_err("nothing is left");
    assert_eq!(again.cause, Cause::SessionNotFound);
}

#[tokio::test(start_paused = true)]
async fn who_wants_a_session_forgotten_that_is_closing_waits_as_long_as_for_one() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.store.set(Gate::Locked);
    let pool = bed.pool.clone();
    let closing = spawn_owned(async move { pool.close(&key("s"), false).await });
    until("its process is gone", || bed.supply.alive() == 0).await;
    let began = Instant::now();
    let refused = bed.pool.close(&key("s"), true).await.expect_err("the store has no time");
    assert!(matches!(refused.cause, Cause::StoreUnavailable { .. }), "{refused:?}");
    assert!(began.elapsed() <= settings().commit_timeout + 2 * SECOND, "{:?}", began.elapsed());
    assert!(closing.await.expect("no panic").expect("answered").closed);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_does_not_keep_the_session_is_answered_when_it_is_gone() {
    let bed = Bed::start(Given::default());
    let _turn = answered(bed.begin("s", "a hang").await).await;
    let report =
        bed.pool.interrupt(&key("s"), InterruptTarget::Running, false).await.expect("answered");
    let report = report.expect("it is there");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert_eq!((bed.pool.len(), bed.supply.alive()), (0, 0));
    let again = bed.pool.interrupt(&key("s"), InterruptTarget::Running, false).await;
    assert_eq!(again, Ok(None), "there is none any more");
}

#[tokio::test(start_paused = true)]
async fn all_turns_of_a_scope_are_interrupted_and_told_one_by_one() {
    let bed = Bed::start(Given::default());
    let _running = answered(bed.begin("b", "1 hang").await).await;
    let _deaf = answered(bed.begin("c", "2 deaf").await).await;
    assert!(bed.run("a", "3 ok").await.end.is_ok());
    let others = bed.pool.query(&tenant("t"), Some(id("a")), request("4 hang")).await;
    let _others = answered(others.expect("taken")).await;

    let reports = bed.pool.interrupt_all(&Scope::Tenant(Default::default())).await;
    let reports: Vec<_> =
        reports.iter().map(|(key, report)| (key.session.as_str(), report.outcome)).collect();
    assert_eq!(
        reports,
        [
            ("a", InterruptOutcome::NoActiveTurn),
            ("b", InterruptOutcome::Interrupted),
            ("c", InterruptOutcome::Terminated),
        ]
    );
    assert_eq!(bed.pool.len(), 4, "the sessions stay");
    assert_eq!(bed.pool.stats(&Scope::All).streaming_turns, 1, "another tenant's turn goes on");
    assert_eq!(bed.pool.interrupt_all(&Scope::All).await.len(), 4);
    assert_eq!(bed.pool.stats(&Scope::All).streaming_turns, 0);
}
