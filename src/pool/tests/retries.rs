//! A turn that its caller named runs once, however often it is asked for.

use super::{Bed, Given, Scope, key, named};
use crate::{
    domain::failure::Cause,
    session::{DisconnectPolicy, InterruptTarget, TurnRequest},
    test_support::{SECOND, answered, cause, read},
    turn::event::{Class, ProcessOrigin},
};

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_turn_that_runs_reaches_it() {
    let bed = Bed::start(Given::default());
    let first = bed.ask("s", named("t", "a slow 1000")).await.expect("taken");
    let first = answered(first).await;
    let again = bed.ask("s", named("t", "a slow 1000")).await.expect("joined");
    assert_eq!(again.turn_id(), first.turn_id());
    let (first, again) = (read(first).await, read(again).await);
    assert!(first.end.is_ok() && again.end.is_ok());
    assert_eq!(again.sequences.first(), Some(&1), "it is told from its start");
    assert!(again.frames.ends_with(&first.frames), "and as the first caller saw it");
    assert_eq!(bed.supply.heard(), [["a slow 1000"]]);
    assert_eq!(bed.counters().turns.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_first_calls_of_one_turn_are_one_turn() {
    let bed = Bed::start(Given::default());
    *bed.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    let (one, two) = (bed.spawn("s", named("t", "a ok")), bed.spawn("s", named("t", "a ok")));
    let (one, two) = (one.await.expect("no panic"), two.await.expect("no panic"));
    assert_eq!(one.frames, two.frames);
    assert_eq!(bed.supply.heard(), [["a ok"]]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_turn_that_waits_keeps_its_place() {
    let bed = Bed::start(Given::default());
    let running = answered(bed.begin("s", "a hang").await).await;
    let first = bed.ask("s", named("t", "b ok")).await.expect("it waits");
    let _other = bed.begin("s", "c ok").await;
    let again = bed.ask("s", named("t", "b ok")).await.expect("joined");
    drop(first);
    assert_eq!(bed.status("s").await.queued, 2);
    bed.pool
        .interrupt(&key("s"), InterruptTarget::Running, true)
        .await
        .expect("answered")
        .expect("it is there");
    assert!(read(running).await.end.is_ok() && read(again).await.end.is_ok());
    assert_eq!(bed.supply.heard(), [["a hang", "b ok", "c ok"]]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_has_ended_is_told_again_with_all_its_events() {
    let bed = Bed::start(Given::default());
    let first = read(bed.ask("s", named("t", "a ok")).await.expect("taken")).await;
    let again = read(bed.ask("s", named("t", "a ok")).await.expect("told again")).await;
    assert_eq!(again.frames, first.frames);
    assert_eq!(again.sequences, first.sequences);
    assert_eq!(bed.supply.heard(), [["a ok"]]);
}

#[tokio::test(start_paused = true)]
async fn after_its_session_has_left_a_turn_is_told_from_the_store() {
    let bed = Bed::start(Given::default());
    let first = read(bed.ask("s", named("t", "a ok")).await.expect("taken")).await;
    bed.pool.close(&key("s"), false).await.expect("closed");
    let again = read(bed.ask("s", named("t", "a ok")).await.expect("told again")).await;
    assert_eq!(again.frames, [first.frames.last().expect("a result").clone()]);
    assert_eq!(again.started[0].origin, ProcessOrigin::Reused);
    assert_eq!(again.started[0].client_id, first.started[0].client_id);
    assert!(bed.pool.is_empty(), "that takes no session and no process");
    assert_eq!((bed.supply.alive(), bed.pool.stats(&Scope::All).streaming_turns), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_turn_is_told_again_as_interrupted() {
    let bed = Bed::start(Given::default());
    let turn = bed.ask("s", named("t", "a hang")).await.expect("taken");
    let turn = answered(turn).await;
    bed.pool
        .interrupt(&key("s"), InterruptTarget::Running, false)
        .await
        .expect("answered")
        .expect("it is there");
    assert!(read(turn).await.end.is_ok());
    let again = read(bed.ask("s", named("t", "a hang")).await.expect("told again")).await;
    assert!(matches!(again.frames[..], [(Class::InterruptedResult, _)]), "{again:?}");
    assert_eq!(bed.supply.heard(), [["a hang"]]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_ended_without_a_result_may_run_again() {
    let bed = Bed::start(Given::default());
    let failed = read(bed.ask("s", named("t", "a die")).await.expect("taken")).await;
    assert!(matches!(cause(&failed), Cause::CliExited { .. }));
    bed.pool.close(&key("s"), false).await.expect("closed");
    let again = read(bed.ask("s", named("t", "a die")).await.expect("taken")).await;
    assert!(matches!(cause(&again), Cause::CliExited { .. }));
    assert_eq!(bed.supply.heard(), [["a die", "a die"]]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_goes_on_alone_is_found_by_its_caller_again() {
    let bed = Bed::start(Given::default());
    let asked =
        || TurnRequest { on_disconnect: DisconnectPolicy::Continue, ..named("t", "a slow 1000") };
    drop(bed.ask("s", asked()).await.expect("taken"));
    let seen = read(bed.ask("s", asked()).await.expect("joined")).await;
    assert!(seen.end.is_ok());
    assert_eq!(bed.supply.heard(), [["a slow 1000"]]);
}

#[tokio::test(start_paused = true)]
async fn the_same_name_is_another_turn_in_another_session() {
    let bed = Bed::start(Given::default());
    for name in ["a", "b"] {
        assert!(read(bed.ask(name, named("t", "x ok")).await.expect("taken")).await.end.is_ok());
    }
    assert_eq!(bed.supply.heard(), [["x ok"], ["x ok"]]);
}
