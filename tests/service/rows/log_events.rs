//! s25: the events of the pool and its sessions, by name, level, ids and figures.

use std::time::Duration;

use tracing::Level;

use crate::support::{
    eventually, log,
    service::{Service, query, query_with, script},
};

/// The one event of this name for this session, at its level, with these fields.
#[track_caller]
fn one(name: &str, session: &str, level: Level, fields: &[&str]) -> log::Logged {
    let events = log::events(name, session);
    assert_eq!(events.len(), 1, "{name}: {events:?}");
    let event = events.into_iter().next().expect("one");
    assert_eq!(event.level, level, "{name}");
    for field in fields {
        assert!(event.fields.contains_key(*field), "{name} without {field}: {event:?}");
    }
    event
}

#[tokio::test]
async fn s25_the_events_of_a_session_made_and_used_again() {
    let service = Service::start(|_| {}).await;
    let id = "s25-made";
    let turn = service.query(id, "one").await;
    let start = ["pool_enabled", "current_sessions", "max_sessions", "session_exists"];
    let event = one("session_pool_get_client_start", id, Level::DEBUG, &start);
    assert_eq!(event.fields["session_exists"], "false");
    let complete = ["session_status", "session_age_seconds", "session_message_count"];
    one("session_pool_get_client_complete", id, Level::DEBUG, &complete);
    one("session_pool_creating_new_session", id, Level::DEBUG, &[]);
    let created = one("session_created", id, Level::DEBUG, &["client_id"]);
    assert_eq!(created.fields["client_id"], turn.started().client_id);
    assert!(log::events("session_pool_existing_session_found", id).is_empty());

    service.query(id, "two").await.result();
    one("session_pool_existing_session_found", id, Level::DEBUG, &["session_status"]);
    let reused = one("session_pool_reusing_healthy_session", id, Level::DEBUG, &["client_id"]);
    assert_eq!(reused.fields["client_id"], turn.started().client_id);
    assert_eq!(log::events("session_pool_get_client_start", id).len(), 2);
    let complete = log::events("session_pool_get_client_complete", id);
    assert_eq!(complete.len(), 2);
    // Now there is a client.
    assert_eq!(complete[1].fields["client_id"], turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn s25_the_events_of_refusals() {
    let service = Service::start(|config| config.pool.enabled = false).await;
    service.open(query("s25-disabled", "hello")).await.expect_err("refused");
    one("session_pool_disabled", "s25-disabled", Level::ERROR, &[]);
    service.stop().await;

    let service = Service::start(|config| config.pool.max_sessions = 1).await;
    service.query("s25-first", "hello").await.result();
    service.open(query("s25-second", "hello")).await.expect_err("refused");
    let figures = ["current_sessions", "max_sessions"];
    let event = one("session_pool_at_capacity", "s25-second", Level::WARN, &figures);
    assert_eq!((&*event.fields["current_sessions"], &*event.fields["max_sessions"]), ("1", "1"));
    service.stop().await;
}

#[tokio::test]
async fn s25_the_events_of_an_interrupt() {
    let service = Service::start(|_| {}).await;
    let id = "s25-interrupt";
    let mut turn = service.open(query(id, &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let client_id = turn.started().client_id.clone();
    let _waiting = service.open(query(id, "next")).await.expect("queued");
    let stream = ["has_stream", "has_handle", "idle_seconds"];
    one("session_pool_active_stream_detected", id, Level::DEBUG, &stream);
    service.interrupt(id, false).await;
    let begun = one("session_pool_interrupting_session", id, Level::DEBUG, &[]);
    assert_eq!(begun.fields["client_id"], client_id);
    one("session_pool_interrupt_completed", id, Level::DEBUG, &["client_id"]);
    let done = one("session_interrupted", id, Level::DEBUG, &[]);
    assert_eq!(done.fields["client_id"], client_id);
    let cleared =
        ["client_id", "was_interrupted", "was_first_chunk_timeout", "was_ongoing_timeout"];
    one("session_pool_stream_cleared", id, Level::DEBUG, &cleared);
    assert!(log::events("session_pool_interrupt_timeout", id).is_empty());
    assert!(log::events("session_interrupt_failed", id).is_empty());
    service.stop().await;
}

#[tokio::test]
async fn s25_the_events_of_an_interrupt_that_fails() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(200);
    })
    .await;
    let id = "s25-deaf";
    let mut turn =
        service.open(query(id, &script(&["deaf", "say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let request = session_pool::proto::InterruptAllRequest::default();
    service.client.clone().interrupt_all(request).await.expect("answered");
    one("session_pool_interrupt_timeout", id, Level::WARN, &["client_id", "elapsed"]);
    let failed = one("session_interrupt_failed", id, Level::ERROR, &["error"]);
    assert_eq!(failed.fields["client_id"], turn.started().client_id);
    one("session_interrupt_failed_during_all", id, Level::ERROR, &["error"]);
    for (name, field) in [
        ("session_interrupt_all_requested", "total_sessions"),
        ("session_interrupt_all_completed", "interrupted_count"),
    ] {
        let events = log::named(name);
        let event = events.last().expect("logged");
        assert_eq!(event.level, Level::DEBUG);
        assert!(event.fields.contains_key(field), "{event:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn s25_prompts_and_answers_are_never_logged() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(200);
    })
    .await;
    let id = "s25-secret";
    let secret = "Rumpelstilzchen";
    let options = session_pool::proto::SessionOptions {
        append_system_prompt: Some(format!("you are {secret}")),
        ..Default::default()
    };
    service.run(query_with(id, &format!("my name is {secret}"), options)).await.result();
    let say = format!("say {secret}");
    let raw = format!(r#"raw {{"type":"unheard-of","text":"{secret}"}}"#);
    let tool = format!(r#"tool t1 Bash {{"command":"{secret}"}}"#);
    // Turns that end in every way.
    for last in ["say end", "deaf", "exit 3", "garbage", "close-stdout", "error no"] {
        let prompt = script(&[&say, &raw, &tool, last, "sleep 100"]);
        let mut turn = service.open(query(id, &prompt)).await.expect("taken");
        turn.until_text(secret).await;
        service.interrupt(id, true).await;
        turn.finish().await;
        assert!(turn.text().contains(secret));
    }
    let broken = format!("raw {secret} is no JSON");
    // Skipped, and not told to the log either.
    service.query(id, &script(&[&broken])).await.result();
    service.close(id, true).await.expect("closed");
    eventually("the session's events are there", async || {
        (log::events("session_closing", id).len() == 1).then_some(())
    })
    .await;
    assert_eq!(log::mentioning(secret), [], "a prompt or an answer is in the log");
    service.stop().await;
}
