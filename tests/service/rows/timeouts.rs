//! s11, s12, s13, s21: the watchdogs run by themselves and know what silence means.

use std::time::Duration;

use session_pool::proto::{InterruptOutcome, SessionStatus};
use tonic::Code;

use crate::support::{
    eventually, failure, log,
    service::{Service, query, script},
};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A service whose silent turns may be taken over after 300 ms.
async fn impatient() -> Service {
    Service::start(|config| {
        config.pool.stream_first_chunk_timeout = ms(250);
        config.pool.stream_ongoing_timeout = ms(300);
    })
    .await
}

#[tokio::test]
async fn s11_a_session_without_a_first_message_is_replaced_for_the_next_caller() {
    let service = impatient().await;
    let id = "s11-replaced";
    service.query(id, "remember").await.result();
    let silent = script(&["no-init", "hang"]);
    let mut stalled = service.open(query(id, &silent)).await.expect("taken");
    stalled.next().await.expect("started");
    let next = service.query(id, &script(&["recite"])).await;
    assert_eq!(next.text().lines().next(), Some("remember"));
    assert_ne!(next.started().client_id, stalled.started().client_id);
    stalled.finish().await;
    failure(stalled.error(), Code::DeadlineExceeded, "FIRST_CHUNK_TIMEOUT");
    let events = log::events("session_pool_first_chunk_timeout", id);
    assert_eq!((events.len(), events[0].level), (1, tracing::Level::WARN));
    assert_eq!(events[0].fields["client_id"], stalled.started().client_id);
    assert_eq!(events[0].fields["limit"], "250ms");
    let idle: f64 = events[0].fields["idle_seconds"].parse().expect("a number");
    assert!(idle >= 0.25, "{idle}");
    service.stop().await;
}

#[tokio::test]
async fn s12_a_silent_turn_gives_the_session_to_another_caller() {
    let service = impatient().await;
    let id = "s12-taken-over";
    let mut silent =
        service.open(query(id, &script(&["say a word", "hang"]))).await.expect("taken");
    silent.until_text("a word").await;
    let next = service.query(id, "next").await;
    assert_eq!(next.result().result, "echo: next");
    silent.finish().await;
    assert!(silent.result().interrupted);
    // The stream was stopped, the session kept.
    assert_eq!(next.started().client_id, silent.started().client_id);
    let events = log::events("session_pool_interrupting_ongoing_timeout", id);
    assert_eq!((events.len(), events[0].level), (1, tracing::Level::INFO));
    assert_eq!(events[0].fields["client_id"], silent.started().client_id);
    assert_eq!(events[0].fields["has_first_chunk"], "true");
    assert_eq!(events[0].fields["is_completed"], "false");
    service.stop().await;
}

#[tokio::test]
async fn s12_a_silent_turn_that_cannot_be_stopped_is_cleared_anyway() {
    let service = Service::start(|config| {
        config.pool.stream_ongoing_timeout = ms(300);
        config.pool.stream_interrupt_timeout = ms(200);
    })
    .await;
    let id = "s12-deaf";
    let mut silent =
        service.open(query(id, &script(&["deaf", "say a word", "hang"]))).await.expect("taken");
    silent.until_text("a word").await;
    let next = service.query(id, "next").await;
    assert_eq!(next.result().result, "echo: next");
    silent.finish().await;
    failure(silent.error(), Code::Cancelled, "TURN_INTERRUPTED");
    let failed = log::events("session_pool_interrupt_ongoing_failed", id);
    assert_eq!((failed.len(), failed[0].level), (1, tracing::Level::WARN));
    assert!(failed[0].fields.contains_key("error"), "{failed:?}");
    assert_eq!(failed[0].fields["client_id"], silent.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn s12_a_silent_turn_goes_on_while_nobody_else_asks() {
    let service = impatient().await;
    let turn = service.query("a", &script(&["say a", "sleep 700", "say b"])).await;
    assert_eq!(turn.text(), "a\nb");
    assert!(!turn.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn s12_a_turn_that_talks_or_waits_for_a_tool_is_not_taken_over() {
    let service = impatient().await;
    let talks: Vec<String> =
        (0..8).flat_map(|n| [format!("say {n}"), "sleep 100".to_owned()]).collect();
    let talks: Vec<&str> = talks.iter().map(String::as_str).collect();
    let works = [r#"tool t1 Bash {"command":"make"}"#, "sleep 700", "tool-result t1 made"];
    let retries = ["say first", "sleep 200", "retry 1", "sleep 200", "retry 1", "sleep 200"];
    for lines in [&talks[..], &works, &retries] {
        let mut first = service.open(query("a", &script(lines))).await.expect("taken");
        first.until_init().await;
        let next = service.query("a", "next").await;
        first.finish().await;
        assert!(!first.result().interrupted, "{lines:?}");
        assert_eq!(next.result().result, "echo: next");
    }
    service.stop().await;
}

#[tokio::test]
async fn s12_a_permission_prompt_waits_for_its_answer_without_being_taken_over() {
    let service = Service::start(|config| {
        config.pool.stream_ongoing_timeout = ms(200);
        config.pool.stream_stall_timeout = ms(300);
    })
    .await;
    let ask = script(&[r#"ask Bash {"command":"make"}"#]);
    let mut asking = service.open(query("a", &ask)).await.expect("taken");
    asking.until(|kind| matches!(kind, session_pool::proto::turn_event::Kind::Prompt(_))).await;
    let mut waiting = service.open(query("a", "next")).await.expect("queued");
    let early = tokio::time::timeout(ms(700), waiting.next()).await;
    assert!(early.is_err(), "{early:?}");
    let session = service.session("a").await.expect("there");
    assert_eq!(session.running_turn_id, asking.started().turn_id);
    service.interrupt("a", true).await;
    waiting.finish().await;
    assert_eq!(waiting.result().result, "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn s13_a_turn_with_its_result_is_never_timed_out() {
    let service = Service::start(|config| {
        config.pool.stream_first_chunk_timeout = ms(150);
        config.pool.stream_ongoing_timeout = ms(200);
        config.pool.stream_stall_timeout = ms(200);
    })
    .await;
    let first = service.query("a", &script(&["say done", "idle-late 600"])).await;
    assert_eq!(first.result().result, "done");
    let next = service.query("a", "next").await;
    assert_eq!(next.result().result, "echo: next");
    assert_eq!(next.started().client_id, first.started().client_id);
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.first_chunk_timeouts, counters.stalled, counters.interrupted), (0, 0, 0));
    service.stop().await;
}

#[tokio::test]
async fn the_stall_watchdog_knows_tools_and_retries() {
    let service = Service::start(|config| config.pool.stream_stall_timeout = ms(300)).await;
    for lines in [
        [r#"tool t1 Bash {"command":"make"}"#, "sleep 700", "tool-result t1 made"],
        ["sleep 200", "retry 1", "sleep 200"],
    ] {
        let turn = service.query("a", &script(&lines)).await;
        assert!(!turn.result().interrupted, "{lines:?}");
    }
    // After the tool's result silence counts again.
    let lines = [r#"tool t1 Bash {"command":"make"}"#, "tool-result t1 made", "hang"];
    let turn = service.query("a", &script(&lines)).await;
    failure(turn.error(), Code::DeadlineExceeded, "STREAM_STALLED");
    service.stop().await;
}

#[tokio::test]
async fn s21_a_turn_that_goes_on_for_too_long_is_interrupted_and_the_session_stays() {
    let service = Service::start(|config| config.pool.stuck_threshold = ms(400)).await;
    let lines: Vec<String> =
        (0..60).flat_map(|n| [format!("say {n}"), "sleep 50".to_owned()]).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let turn = service.query("a", &script(&lines)).await;
    assert!(turn.result().interrupted);
    assert!(turn.text().starts_with("0\n1\n"), "{}", turn.text());
    let next = service.query("a", "next").await;
    assert_eq!(next.started().client_id, turn.started().client_id);
    assert_eq!(service.stats().await.counters.expect("counters").stuck, 1);
    service.stop().await;
}

#[tokio::test]
async fn s21_a_stuck_turn_that_cannot_be_stopped_takes_its_session_along() {
    let service = Service::start(|config| {
        config.pool.stuck_threshold = ms(300);
        config.pool.stream_interrupt_timeout = ms(200);
    })
    .await;
    let turn = service.query("a", &script(&["deaf", "hang"])).await;
    failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    eventually("the session is gone", async || service.session("a").await.err()).await;
    assert_eq!(service.processes(), [0; 0]);
    assert_eq!(service.interrupt("a", false).await.outcome(), InterruptOutcome::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn s12_a_session_taken_over_is_shown_as_interrupting_meanwhile() {
    let service = impatient().await;
    let mut silent =
        service.open(query("a", &script(&["deaf", "say a word", "hang"]))).await.expect("taken");
    silent.until_text("a word").await;
    let next = service.open(query("a", "next")).await.expect("queued");
    eventually("it is interrupting", async || {
        let session = service.session("a").await.expect("there");
        (session.status() == SessionStatus::Interrupting).then_some(())
    })
    .await;
    next.leave();
    service.close("a", false).await.expect("closed");
    service.stop().await;
}
