//! SIGTERM to the program: it drains, in bounded time, and leaves nothing.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use tonic::Code;

use crate::support::daemon::Daemon;
use crate::support::{
    eventually, failure,
    service::{model, query, query_with, script},
};

#[tokio::test]
async fn an_idle_service_ends_at_sigterm_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start(&[]).await;
        for id in ["a", "b"] {
            let mut turn = daemon.open(query(id, &script(&["child setsid", "child nohup"]))).await;
            turn.finish().await;
            turn.result();
        }
        assert_eq!(daemon.processes().len(), 6);
        daemon.signal(signal);
        assert_eq!(daemon.ended().await.code(), Some(0));
        assert_eq!(daemon.processes(), [0; 0]);
    }
}

#[tokio::test]
async fn a_second_signal_takes_nothing_from_a_service_in_which_no_turn_runs() {
    for _ in 0..10 {
        let mut daemon = Daemon::start(&[]).await;
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::INT);
        assert_eq!(daemon.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_turn_that_ends_while_the_service_drains_is_not_cut() {
    let mut daemon = Daemon::start(&[]).await;
    let mut turn = daemon.open(query("a", &script(&["say word", "sleep 500", "say end"]))).await;
    turn.until_text("word").await;
    daemon.signal(Signal::TERM);
    turn.finish().await;
    assert_eq!(turn.result().result, "end");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.processes(), [0; 0]);
}

#[tokio::test]
async fn a_turn_that_does_not_end_is_ended_when_the_drain_is_over() {
    let mut daemon = Daemon::start(&[("SERVER__DRAIN_TIMEOUT", "300ms")]).await;
    let mut turn = daemon.open(query("a", &script(&["say word", "child setsid", "hang"]))).await;
    turn.until_text("setsid").await;
    let mut starting = daemon.open(query_with("b", "hello", model("fake:boot=60000"))).await;
    daemon.signal(Signal::TERM);
    let refused = eventually("a refusal", async || {
        daemon.client.clone().query(query("c", "late")).await.err()
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable);
    turn.finish().await;
    assert!(turn.result().interrupted);
    starting.finish().await;
    failure(starting.error(), Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert_eq!(daemon.processes(), [0; 0]);
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_turns() {
    let mut daemon = Daemon::start(&[("SERVER__DRAIN_TIMEOUT", "60s")]).await;
    let mut turn = daemon.open(query("a", &script(&["say word", "hang"]))).await;
    turn.until_text("word").await;
    daemon.signal(Signal::TERM);
    eventually("it drains", async || {
        let request = session_pool::proto::GetStatsRequest::default();
        let stats = daemon.client.clone().get_stats(request).await.expect("answered");
        stats.into_inner().draining.then_some(())
    })
    .await;
    daemon.signal(Signal::TERM);
    turn.finish().await;
    assert!(turn.result().interrupted);
    daemon.ended().await;
    assert_eq!(daemon.processes(), [0; 0]);
}

#[tokio::test]
async fn a_stop_is_bounded_although_the_clis_resist() {
    let mut daemon = Daemon::start(&[
        ("SERVER__DRAIN_TIMEOUT", "200ms"),
        ("POOL__STREAM_INTERRUPT_TIMEOUT", "300ms"),
    ])
    .await;
    let knobs = || model("fake:ignore-eof,ignore-term,deaf");
    let mut turns = Vec::new();
    for id in ["a", "b", "c"] {
        let prompt = script(&["say word", "child nohup", "hang"]);
        let mut turn = daemon.open(query_with(id, &prompt, knobs())).await;
        turn.until_text("nohup").await;
        turns.push(turn);
    }
    daemon.open(query_with("idle", "hello", knobs())).await.finish().await;
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.ended().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(daemon.processes(), [0; 0]);
    for mut turn in turns {
        turn.finish().await;
        failure(turn.error(), Code::Unavailable, "SHUTTING_DOWN");
    }
}
