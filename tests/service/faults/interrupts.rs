//! Interrupts that hold: repeated where they get lost, escalated where nothing answers,
//! one outcome for all who ask, in parallel for all sessions.

use std::time::Duration;

use session_pool::proto::{InterruptAllRequest, InterruptOutcome};
use tokio::time::Instant;
use tonic::Code;

use crate::support::{
    failure,
    service::{Service, query, query_with, script},
    turn::Turn,
};

/// The steps of a stop after an interrupt that had no effect: SIGTERM, SIGKILL.
const STOP: Duration = Duration::from_millis(2500);

async fn hang(service: &Service, session: &str, lines: &[&str]) -> Turn {
    let mut lines = lines.to_vec();
    lines.extend(["say hanging", "hang"]);
    let mut turn = service.open(query(session, &script(&lines))).await.expect("taken");
    turn.until_text("hanging").await;
    turn
}

#[tokio::test]
async fn after_20_interrupts_that_keep_the_session_there_is_one_process() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "hello").await;
    for round in 0..20 {
        let mut turn = hang(&service, "a", &[]).await;
        let report = service.interrupt("a", true).await;
        assert_eq!(report.outcome(), InterruptOutcome::Interrupted, "{round}");
        assert!(report.interrupted && report.had_active_turn);
        turn.finish().await;
        assert!(turn.result().interrupted);
        let next = service.query("a", "next").await;
        assert_eq!(next.text(), "echo: next");
        assert_eq!(next.started().client_id, first.started().client_id);
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn after_20_interrupts_that_end_the_session_there_is_one_process() {
    let service = Service::start(|_| {}).await;
    service.query("a", "my name is Ada").await.result();
    for round in 0..20 {
        let mut turn = hang(&service, "a", &[]).await;
        let report = service.interrupt("a", false).await;
        assert_eq!(report.outcome(), InterruptOutcome::Interrupted, "{round}");
        assert_eq!(service.processes(), [0; 0], "{round}");
        turn.finish().await;
        assert!(turn.result().interrupted);
        let next = service.query("a", &script(&["recite"])).await;
        assert!(next.text().starts_with("my name is Ada\n"), "{}", next.text());
        assert_eq!(service.processes().len(), 1);
    }
    service.stop().await;
}

#[tokio::test]
async fn s16_an_interrupt_that_is_never_answered_is_bounded_and_ends_the_process() {
    let timeout = Duration::from_millis(300);
    let service = Service::start(|config| config.pool.stream_interrupt_timeout = timeout).await;
    for lines in [&["deaf"][..], &["deaf", "ignore-term", "ignore-eof"]] {
        let mut turn = hang(&service, "a", lines).await;
        let began = Instant::now();
        let report = service.interrupt("a", false).await;
        let took = began.elapsed();
        assert_eq!(report.outcome(), InterruptOutcome::Terminated);
        assert!(!report.interrupted && report.had_active_turn, "{report:?}");
        assert!(took >= timeout && took < timeout + STOP, "{took:?}");
        assert_eq!(service.processes(), [0; 0]);
        turn.finish().await;
        let metadata = failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
        assert_eq!(metadata["client_id"], turn.started().client_id);
    }
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.interrupt_escalations, 2);
    service.stop().await;
}

#[tokio::test]
async fn s16_a_kept_session_whose_process_had_to_be_ended_goes_on_with_another() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(200);
    })
    .await;
    service.query("a", "one").await.result();
    let mut turn = hang(&service, "a", &["deaf"]).await;
    let mut waiting = service.open(query("a", &script(&["recite"]))).await.expect("queued");
    let report = service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Terminated);
    turn.finish().await;
    failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    waiting.finish().await;
    assert_eq!(waiting.result().result.lines().next(), Some("one"));
    assert_ne!(waiting.started().client_id, turn.started().client_id);
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn s16_lost_interrupts_are_repeated() {
    let service = Service::start(|_| {}).await;
    let mut turn = hang(&service, "a", &["lose-interrupts 3"]).await;
    let report = service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    let next = service.query("a", "next").await;
    assert_eq!(next.started().client_id, turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn s16_all_who_interrupt_get_the_same_answer() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(300);
    })
    .await;
    for (lines, outcome) in [
        (&["lose-interrupts 2"][..], InterruptOutcome::Interrupted),
        (&["deaf"][..], InterruptOutcome::Terminated),
    ] {
        let mut turn = hang(&service, "a", lines).await;
        let (a, b, c) = tokio::join!(
            service.interrupt("a", true),
            service.interrupt("a", true),
            service.interrupt("a", true),
        );
        for report in [a, b, c] {
            assert_eq!((report.outcome(), report.had_active_turn), (outcome, true));
        }
        turn.finish().await;
    }
    service.stop().await;
}

#[tokio::test]
async fn s17_interrupt_all_takes_the_time_of_the_slowest() {
    let timeout = Duration::from_millis(600);
    let service = Service::start(|config| config.pool.stream_interrupt_timeout = timeout).await;
    let mut turns = Vec::new();
    for id in ["deaf-1", "deaf-2", "deaf-3", "deaf-4"] {
        turns.push(hang(&service, id, &["deaf", "ignore-term"]).await);
    }
    turns.push(hang(&service, "hears-1", &[]).await);
    turns.push(hang(&service, "hears-2", &["lose-interrupts 1"]).await);
    service.query("idle", "hello").await.result();

    let began = Instant::now();
    let response = service.client.clone().interrupt_all(InterruptAllRequest::default()).await;
    let took = began.elapsed();
    let response = response.expect("answered").into_inner();
    // One after the other would be 4 x (600 + 500) ms at least.
    assert!(took >= timeout && took < timeout + STOP, "{took:?}");
    assert_eq!((response.interrupted_count, response.session_count), (3, 7));
    let outcomes: Vec<_> =
        response.results.iter().map(|one| (one.session_id.as_str(), one.outcome())).collect();
    assert_eq!(
        outcomes,
        [
            ("deaf-1", InterruptOutcome::Terminated),
            ("deaf-2", InterruptOutcome::Terminated),
            ("deaf-3", InterruptOutcome::Terminated),
            ("deaf-4", InterruptOutcome::Terminated),
            ("hears-1", InterruptOutcome::Interrupted),
            ("hears-2", InterruptOutcome::Interrupted),
            ("idle", InterruptOutcome::NoActiveTurn),
        ]
    );
    for (n, turn) in turns.iter_mut().enumerate() {
        turn.finish().await;
        assert_eq!(turn.end.as_ref().is_some_and(Result::is_err), n < 4, "{:?}", turn.end);
    }
    // All sessions stay in the pool.
    assert_eq!(service.stats().await.total_sessions, 7);
    assert_eq!(service.query("deaf-1", "next").await.result().result, "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn a_tool_call_can_be_interrupted() {
    let service = Service::start(|_| {}).await;
    let lines = [r#"tool t1 Bash {"command":"sleep 100"}"#];
    let mut turn = hang(&service, "a", &lines).await;
    assert!(service.interrupt("a", true).await.interrupted);
    turn.finish().await;
    assert_eq!(turn.result().terminal_reason, "aborted_tools");
    assert!(turn.result().interrupted && turn.result().is_error);
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_and_a_result_that_cross_leave_the_session_usable() {
    let service = Service::start(|_| {}).await;
    for round in 0..20_u64 {
        let prompt = script(&["sleep 5", "say done"]);
        let mut turn =
            service.open(query_with("a", &prompt, Default::default())).await.expect("taken");
        turn.until_init().await;
        tokio::time::sleep(Duration::from_micros(round * 500)).await;
        let report = service.interrupt("a", true).await;
        turn.finish().await;
        let interrupted = turn.result().interrupted;
        match report.outcome() {
            InterruptOutcome::Interrupted => assert!(interrupted, "{round}"),
            InterruptOutcome::TurnEnded | InterruptOutcome::NoActiveTurn => {
                assert!(!interrupted, "{round}");
                assert_eq!(turn.result().result, "done");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(service.query("a", "next").await.text(), "echo: next");
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}
